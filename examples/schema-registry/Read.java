import com.fasterxml.jackson.databind.JsonNode;
import io.apicurio.registry.serde.Legacy4ByteIdHandler;
import io.apicurio.registry.serde.jsonschema.JsonSchemaKafkaDeserializer;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Prints records, read by their schemas: java -cp 'jars/*' Read.java HOST:PORT REGISTRY TOPIC... */
public class Read {

    public static void main(String[] arguments) {
        List<String> topics = Arrays.asList(arguments).subList(2, arguments.length);
        Map<String, Object> settings = new HashMap<>(Map.of(
            "bootstrap.servers", arguments[0],
            "group.id", "read-by-schema-java",
            "isolation.level", "read_committed", // the Java client defaults to read_uncommitted
            "auto.offset.reset", "earliest",
            "key.deserializer", StringDeserializer.class,
            "value.deserializer", JsonSchemaKafkaDeserializer.class));
        // The id of the schema is in front of the record, in four bytes as Confluent's serializers write it.
        settings.putAll(Map.of(
            "apicurio.registry.url", arguments[1],
            "apicurio.registry.headers.enabled", false,
            "apicurio.registry.id-handler", Legacy4ByteIdHandler.class.getName(),
            "apicurio.registry.use-id", "contentId",
            "apicurio.registry.deserializer.value.return-class", JsonNode.class.getName()));
        try (KafkaConsumer<String, JsonNode> consumer = new KafkaConsumer<>(settings)) {
            consumer.subscribe(topics);
            while (true) {
                // Fetches each schema once, and validates the records by it.
                for (ConsumerRecord<String, JsonNode> record : consumer.poll(Duration.ofSeconds(1))) {
                    System.out.println(record.value());
                }
            }
        }
    }
}
