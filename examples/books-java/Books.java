import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.math.BigDecimal;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Continues the present order books of all markets: java -cp 'jars/*' Books.java HOST:PORT
 *
 * Continuity and Book do the same as the Python classes of these names in bridge.consumer.
 */
public class Books {

    private static final String BOOK = "digifinex.book.v1";
    private static final String DEPTH = "digifinex.depth.v1";

    private static final ObjectMapper JSON = new ObjectMapper();

    /**
     * Proves that no record is missing, and recognises those that were read already.
     *
     * Compares each record with those of the same channel, account and key that came before it. The first record of a
     * key may have any seq.
     */
    static class Continuity {
        private static final int MOST_SESSIONS = 16;

        // The seq that has to follow, by series and session; of each series, the newest session is the last.
        private final Map<List<String>, Map<String, Long>> due = new HashMap<>();
        // The series of which records may have been left out since the last one; see resumed().
        private final Set<List<String>> left = new HashSet<>();

        /** What was found: the record was checked before, or so many before it, from firstMissing on, are missing. */
        record Check(boolean repeated, long firstMissing, long missing) {}

        Check check(JsonNode record) {
            List<String> series = List.of(
                record.get("schema").asText(),
                record.path("account").asText(),
                record.path(record.has("symbol") ? "symbol" : "currency").asText());
            String session = record.get("session").asText();
            long seq = record.get("seq").asLong();
            Map<String, Long> sessions = due.computeIfAbsent(series, key -> new LinkedHashMap<>());
            long expected = sessions.getOrDefault(session, 0L);
            if (seq < expected) {
                return new Check(true, seq, 0);
            }
            if (sessions.isEmpty() || left.remove(series)) {
                expected = seq;
            }
            if (!sessions.containsKey(session) && sessions.size() >= MOST_SESSIONS) {
                sessions.remove(sessions.keySet().iterator().next());
            }
            sessions.put(session, seq + 1);
            return new Check(false, expected, seq - expected);
        }

        /** Lets the next record of each key have any seq again, since records were left out on purpose. */
        void resumed() {
            left.addAll(due.keySet());
        }
    }

    /** The order book of one market, of its records of depth and book in any order. Use it only while it is complete. */
    static class Book {
        private static final int MOST_WAITING = 1_000;

        // A TreeMap compares prices by value, so 1.0 and 1.00 are one price; a HashMap would not.
        final TreeMap<BigDecimal, BigDecimal> asks = new TreeMap<>();
        final TreeMap<BigDecimal, BigDecimal> bids = new TreeMap<>();
        // The last record of depth that the levels contain.
        String session = "";
        long seq = -1;
        // False before the first snapshot or record of book, and from a missing record to the next of these.
        boolean complete = false;

        private final Continuity continuity = new Continuity(); // of depth
        private boolean begun = false; // whether a record of depth was read
        private JsonNode newest = null; // record of book
        // received_us of the record of book that the levels are from; 0 when depth has reached its session.
        private long sinceUs = 0;
        // Changes that were read and that the levels do not contain, in order; empty while complete.
        private final List<JsonNode> waiting = new ArrayList<>();

        void applyDepth(JsonNode record) {
            if (continuity.check(record).repeated() || precedes(record)) {
                return;
            }
            begun = true;
            sinceUs = 0;
            boolean same = session(record).equals(session);
            if (same && seq(record) <= seq) {
                waiting.clear(); // they came before this one, which the levels contain
                complete = true;
            } else if (record.get("snapshot").asBoolean()) {
                asks.clear();
                bids.clear();
                waiting.clear();
                change(record);
                complete = true;
            } else if (complete && same && seq(record) == seq + 1) {
                change(record);
            } else {
                complete = false;
                waiting.add(record);
                if (waiting.size() > MOST_WAITING) {
                    waiting.remove(0);
                }
                if (newest != null
                        && session(record).equals(newest.get("depth_session").asText())
                        && seq(record) <= newest.get("depth_seq").asLong() + 1) {
                    join();
                }
            }
        }

        void applyBook(JsonNode record) {
            if (record.get("truncated").asBoolean()) {
                return; // it cannot be continued
            }
            newest = record;
            // Once depth is followed, it alone decides what the book is: that of book may be ahead of it.
            if (!(complete && begun)) {
                join();
            }
        }

        /** Forgets the levels: a tombstone says that the bridge does not follow the market any more. */
        void clear() {
            asks.clear();
            bids.clear();
            waiting.clear();
            newest = null;
            session = "";
            seq = -1;
            sinceUs = 0;
            complete = false;
            begun = false;
        }

        /**
         * Whether a record of depth is of a session before that of the record of book.
         *
         * At a rotation, the first records of the new session may have the time of the last ones of the old session.
         * Of these, a snapshot begins the new session, whose changes come after it.
         */
        private boolean precedes(JsonNode record) {
            long receivedUs = record.get("received_us").asLong();
            if (session(record).equals(session) || receivedUs > sinceUs) {
                return false;
            }
            return receivedUs < sinceUs || !record.get("snapshot").asBoolean();
        }

        /** Begins with the record of book, unless changes are missing between it and the last that was read. */
        private void join() {
            String joined = newest.get("depth_session").asText();
            long upTo = newest.get("depth_seq").asLong();
            JsonNode last = waiting.isEmpty() ? null : waiting.get(waiting.size() - 1);
            if (last != null && !session(last).equals(joined)) {
                return;
            }
            List<JsonNode> after = new ArrayList<>();
            long due = upTo + 1;
            for (JsonNode one : waiting) {
                if (session(one).equals(joined) && seq(one) > upTo) {
                    if (seq(one) != due) {
                        return;
                    }
                    after.add(one);
                    due++;
                }
            }
            asks.clear();
            bids.clear();
            session = joined;
            seq = upTo;
            change(asks, newest.get("asks"));
            change(bids, newest.get("bids"));
            sinceUs = last == null ? newest.get("received_us").asLong() : 0;
            after.forEach(this::change);
            waiting.clear();
            complete = true;
        }

        private void change(JsonNode record) {
            change(asks, record.get("asks"));
            change(bids, record.get("bids"));
            session = session(record);
            seq = seq(record);
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

        private static String session(JsonNode record) {
            return record.get("session").asText();
        }

        private static long seq(JsonNode record) {
            return record.get("seq").asLong();
        }
    }

    /** Returns the record in a message, with or without the prefix of a schema registry; null for a tombstone. */
    static JsonNode decode(byte[] value) throws IOException {
        if (value == null) {
            return null;
        }
        int start = value.length > 5 && value[0] == 0 ? 5 : 0;
        return JSON.readTree(value, start, value.length - start);
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", arguments[0],
            "isolation.level", "read_committed",
            "enable.auto.commit", false);
        Map<String, Book> books = new HashMap<>();
        try (Consumer<String, byte[]> consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> bookPartitions = partitions(consumer, BOOK);
            List<TopicPartition> depthPartitions = partitions(consumer, DEPTH);

            // First the topic of books to its end, then both: depth from the time of the oldest book on.
            consumer.assign(bookPartitions);
            consumer.seekToBeginning(bookPartitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(bookPartitions);
            long oldestUs = Long.MAX_VALUE;
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
                for (ConsumerRecord<String, byte[]> message : consumer.poll(Duration.ofSeconds(1))) {
                    apply(books, message);
                }
            }
            for (Book book : books.values()) {
                if (book.complete) {
                    oldestUs = Math.min(oldestUs, book.sinceUs);
                }
            }
            List<TopicPartition> both = new ArrayList<>(bookPartitions);
            both.addAll(depthPartitions);
            Map<TopicPartition, Long> times = new HashMap<>();
            for (TopicPartition partition : depthPartitions) {
                times.put(partition, oldestUs / 1000);
            }
            Map<TopicPartition, OffsetAndTimestamp> offsets = consumer.offsetsForTimes(times);
            consumer.assign(both);
            for (TopicPartition partition : depthPartitions) {
                OffsetAndTimestamp offset = offsets.get(partition);
                if (offset == null) {
                    consumer.seekToEnd(List.of(partition)); // nothing since then
                } else {
                    consumer.seek(partition, offset.offset());
                }
            }
            while (true) {
                for (ConsumerRecord<String, byte[]> message : consumer.poll(Duration.ofSeconds(1))) {
                    print(message.key(), apply(books, message));
                }
            }
        }
    }

    private static List<TopicPartition> partitions(Consumer<?, ?> consumer, String topic) {
        return consumer.partitionsFor(topic).stream()
            .map(partition -> new TopicPartition(topic, partition.partition()))
            .toList();
    }

    private static Book apply(Map<String, Book> books, ConsumerRecord<String, byte[]> message) throws IOException {
        Book book = books.computeIfAbsent(message.key(), symbol -> new Book());
        JsonNode record = decode(message.value());
        if (record == null) {
            book.clear();
        } else if (message.topic().equals(BOOK)) {
            book.applyBook(record);
        } else {
            book.applyDepth(record);
        }
        return book;
    }

    private static void print(String symbol, Book book) {
        if (book.complete && !book.asks.isEmpty() && !book.bids.isEmpty()) {
            System.out.println(symbol
                + " bid " + book.bids.lastKey().toPlainString()
                + " ask " + book.asks.firstKey().toPlainString());
        }
    }
}
