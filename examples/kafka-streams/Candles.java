import com.fasterxml.jackson.annotation.JsonFormat;
import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;

/** Makes one-minute candles of the trades of every market: java -cp 'jars/*' Candles.java HOST:PORT */
public class Candles {

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Trade(String symbol, long id, long timeUs, BigDecimal price, BigDecimal amount) {

        boolean precedes(long otherUs, long otherId) {
            return timeUs < otherUs || (timeUs == otherUs && id < otherId);
        }
    }

    /** The first and the last trade are by time and id: trades that were filled in are on the topic late. */
    record Candle(
            String symbol,
            long startUs,
            @JsonFormat(shape = JsonFormat.Shape.STRING) BigDecimal open,
            @JsonFormat(shape = JsonFormat.Shape.STRING) BigDecimal high,
            @JsonFormat(shape = JsonFormat.Shape.STRING) BigDecimal low,
            @JsonFormat(shape = JsonFormat.Shape.STRING) BigDecimal close,
            @JsonFormat(shape = JsonFormat.Shape.STRING) BigDecimal volume,
            long trades,
            long firstUs,
            long firstId,
            long lastUs,
            long lastId) {

        static Candle of(Trade trade) {
            BigDecimal price = trade.price();
            long startUs = trade.timeUs() - Math.floorMod(trade.timeUs(), 60_000_000L);
            return new Candle(trade.symbol(), startUs, price, price, price, price, trade.amount(), 1,
                trade.timeUs(), trade.id(), trade.timeUs(), trade.id());
        }

        Candle with(Trade trade) {
            boolean first = trade.precedes(firstUs, firstId);
            boolean last = !trade.precedes(lastUs, lastId);
            return new Candle(
                symbol,
                startUs,
                first ? trade.price() : open,
                high.max(trade.price()),
                low.min(trade.price()),
                last ? trade.price() : close,
                volume.add(trade.amount()),
                trades + 1,
                first ? trade.timeUs() : firstUs,
                first ? trade.id() : firstId,
                last ? trade.timeUs() : lastUs,
                last ? trade.id() : lastId);
        }

        /** Names the candle: of each key, the last record on the topic is the candle as it is now. */
        String key() {
            return symbol + " " + start();
        }

        Instant start() {
            return Instant.ofEpochSecond(startUs / 1_000_000);
        }

        String line() {
            return String.format("%s open %s high %s low %s close %s volume %s trades %d", key(),
                open.toPlainString(), high.toPlainString(), low.toPlainString(), close.toPlainString(),
                volume.toPlainString(), trades);
        }
    }

    // Fields are named as in the records of the bridge, and may be added there.
    private static final ObjectMapper JSON = new ObjectMapper()
        .setPropertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE)
        .enable(JsonGenerator.Feature.WRITE_BIGDECIMAL_AS_PLAIN)
        .enable(DeserializationFeature.FAIL_ON_NULL_FOR_PRIMITIVES);

    private static <T> Serde<T> json(Class<T> type) {
        return Serdes.serdeFrom(
            (topic, value) -> {
                try {
                    return value == null ? null : JSON.writeValueAsBytes(value);
                } catch (IOException error) {
                    throw new UncheckedIOException(error);
                }
            },
            (topic, bytes) -> {
                if (bytes == null) {
                    return null;
                }
                // With the prefix of a schema registry, the JSON begins after five bytes.
                int start = bytes.length > 5 && bytes[0] == 0 ? 5 : 0;
                try {
                    return JSON.readValue(bytes, start, bytes.length - start, type);
                } catch (IOException error) {
                    throw new UncheckedIOException(error);
                }
            });
    }

    public static void main(String[] arguments) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        builder
            .stream(
                "digifinex.trades.v1",
                Consumed.with(Serdes.String(), json(Trade.class))
                    .withTimestampExtractor((message, before) -> ((Trade) message.value()).timeUs() / 1000))
            .groupByKey()
            // Late trades change their candle, up to a day after it; only then it is forgotten here.
            .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMinutes(1), Duration.ofDays(1)))
            .aggregate(
                () -> null,
                (symbol, trade, candle) -> candle == null ? Candle.of(trade) : candle.with(trade),
                Materialized.with(Serdes.String(), json(Candle.class)))
            .toStream((window, candle) -> candle.key())
            .peek((key, candle) -> System.out.println(candle.line()))
            .to("candles-streams", Produced.with(Serdes.String(), json(Candle.class)));

        Properties settings = new Properties();
        settings.putAll(Map.of(
            "application.id", "candles-streams",
            "bootstrap.servers", arguments[0],
            "auto.offset.reset", "earliest",
            "state.dir", "state",
            // Reads committed records only, and commits its candles with the offsets that they are made of.
            "processing.guarantee", "exactly_once_v2"));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        CountDownLatch failed = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            failed.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        failed.await();
        System.exit(1);
    }
}
