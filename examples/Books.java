import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.math.BigDecimal;
import java.time.Duration;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Rebuilds the order book of every market: java -cp 'jars/*' Books.java HOST:PORT */
public class Books {

    /** Proves that no record of one key of one topic is missing. */
    static class Continuity {
        private static final int MOST_SESSIONS = 16;

        // The seq that has to follow, by session; the newest session is the last.
        private final Map<String, Long> due = new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, Long> eldest) {
                return size() > MOST_SESSIONS;
            }
        };

        /** Returns how many records of its session should have come before it; -1 if it was checked before. */
        long check(String session, long seq) {
            long expected = due.getOrDefault(session, due.isEmpty() ? seq : 0L);
            if (seq < expected) {
                return -1;
            }
            due.put(session, seq + 1);
            return seq - expected;
        }
    }

    /** The order book of one market. Use it only while it is complete. */
    static class Book {
        // A TreeMap compares prices by value, so 1.0 and 1.00 are one price; a HashMap would not.
        final TreeMap<BigDecimal, BigDecimal> asks = new TreeMap<>();
        final TreeMap<BigDecimal, BigDecimal> bids = new TreeMap<>();
        boolean complete = false; // false from a missing record to the next snapshot

        private final Continuity continuity = new Continuity();
        private String session = ""; // of the last record

        void apply(JsonNode record) {
            long missing = continuity.check(record.get("session").asText(), record.get("seq").asLong());
            if (missing < 0) {
                return;
            }
            boolean follows = missing == 0 && session.equals(record.get("session").asText());
            boolean snapshot = record.get("snapshot").asBoolean();
            session = record.get("session").asText();
            complete = snapshot || (complete && follows);
            if (snapshot) {
                asks.clear();
                bids.clear();
            }
            if (complete) {
                change(asks, record.get("asks"));
                change(bids, record.get("bids"));
            }
        }

        private static void change(TreeMap<BigDecimal, BigDecimal> side, JsonNode levels) {
            for (JsonNode level : levels) {
                BigDecimal price = new BigDecimal(level.get(0).asText());
                BigDecimal amount = new BigDecimal(level.get(1).asText());
                if (amount.signum() == 0) {
                    side.remove(price);
                } else {
                    side.put(price, amount);
                }
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", arguments[0],
            "group.id", "keep-books-java",
            "isolation.level", "read_committed",
            "enable.auto.commit", false,
            "auto.offset.reset", "earliest");
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        ObjectMapper json = new ObjectMapper();
        Map<String, Book> books = new HashMap<>();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, bytes, bytes)) {
            consumer.subscribe(List.of("digifinex.depth.v1"));
            while (true) {
                for (ConsumerRecord<byte[], byte[]> message : consumer.poll(Duration.ofSeconds(1))) {
                    JsonNode record = json.readTree(message.value());
                    String symbol = record.get("symbol").asText();
                    Book book = books.computeIfAbsent(symbol, name -> new Book());
                    book.apply(record);
                    if (book.complete && !book.asks.isEmpty() && !book.bids.isEmpty()) {
                        System.out.println(symbol
                            + " bid " + book.bids.lastKey().toPlainString()
                            + " ask " + book.asks.firstKey().toPlainString());
                    }
                }
            }
        }
    }
}
