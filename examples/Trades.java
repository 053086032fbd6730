import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Prints every trade: java -cp 'jars/*' Trades.java HOST:PORT */
public class Trades {
    public static void main(String[] arguments) {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", arguments[0],
            "group.id", "print-trades-java",
            "isolation.level", "read_committed", // the Java client defaults to read_uncommitted
            "auto.offset.reset", "earliest");
        StringDeserializer text = new StringDeserializer();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, text, text)) {
            consumer.subscribe(List.of("digifinex.trades.v1"));
            while (true) {
                consumer.poll(Duration.ofSeconds(1)).forEach(
                    record -> System.out.println(record.key() + " " + record.value()));
            }
        }
    }
}
