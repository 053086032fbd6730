import com.fasterxml.jackson.databind.JsonNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.stream.Collectors;

/** For the test: does to a Book and a Continuity what each line says, and prints what they have become. */
public class Replay {

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Books.Book book = new Books.Book();
        Books.Continuity continuity = new Books.Continuity();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] parts = line.split(" ", 2);
            JsonNode record = parts.length == 1 ? null : Books.decode(parts[1].getBytes(StandardCharsets.UTF_8));
            switch (parts[0]) {
                case "new" -> {
                    book = new Books.Book();
                    continuity = new Books.Continuity();
                }
                case "check" -> System.out.println(shown(continuity.check(record)));
                case "resumed" -> continuity.resumed();
                case "clear" -> book.clear();
                case "book" -> book.applyBook(record);
                case "depth" -> book.applyDepth(record);
                default -> throw new IllegalArgumentException(line);
            }
            if (parts[0].matches("new|clear|book|depth")) {
                System.out.println(book.complete + " " + book.session + " " + book.seq
                    + " asks " + shown(book.asks) + " bids " + shown(book.bids));
            }
        }
    }

    private static String shown(Books.Continuity.Check check) {
        return check.repeated() + " " + check.firstMissing() + " " + check.missing();
    }

    private static String shown(Map<BigDecimal, BigDecimal> side) {
        return side.entrySet().stream()
            .map(level -> plain(level.getKey()) + ":" + plain(level.getValue()))
            .collect(Collectors.joining(","));
    }

    private static String plain(BigDecimal figure) {
        return figure.stripTrailingZeros().toPlainString();
    }
}
