import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Optional;
import java.util.concurrent.ExecutionException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

/**
 * Runs a file of Flink SQL in this process, as `sql-client.sh -f FILE` does in a cluster; its last statement is the job.
 *
 * The job goes on from the newest checkpoint in the folder `checkpoints`, if there is one.
 */
public class RunSql {

    private static final Pattern SET = Pattern.compile("SET '(.+)' = '(.*)'");

    public static void main(String[] arguments) throws Exception {
        String sql = Files.readString(Path.of(arguments[0])).replace("localhost:9092", arguments[1]);
        Path checkpoints = Path.of("checkpoints").toAbsolutePath();

        Configuration settings = new Configuration();
        settings.setString("parallelism.default", "1");
        // A job that fails ends here, instead of being tried again for ever.
        settings.setString("restart-strategy.type", "none");
        settings.setString("execution.checkpointing.dir", checkpoints.toUri().toString());
        settings.setString("execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
        newest(checkpoints).ifPresent(checkpoint -> {
            System.out.println("continuing from " + checkpoint.getFileName());
            settings.setString("execution.state-recovery.path", checkpoint.toUri().toString());
        });
        TableEnvironment tables = TableEnvironment.create(
            EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(settings).build());

        TableResult job = null;
        for (String statement : sql.replaceAll("(?m)^ *--.*\n", "").split(";\\s*")) {
            Matcher set = SET.matcher(statement.strip());
            if (set.matches()) {
                tables.getConfig().set(set.group(1), set.group(2));
            } else {
                job = tables.executeSql(statement);
            }
        }
        System.out.println("running");
        try {
            job.await();
        } catch (ExecutionException error) {
            error.printStackTrace();
            System.exit(1); // threads of Flink would go on
        }
    }

    /** Returns the newest checkpoint that is complete: `_metadata` is written last. */
    private static Optional<Path> newest(Path checkpoints) throws IOException {
        if (!Files.isDirectory(checkpoints)) {
            return Optional.empty();
        }
        try (Stream<Path> files = Files.walk(checkpoints, 3)) {
            return files
                .filter(file -> file.endsWith("_metadata"))
                .max(Comparator.comparing(file -> file.toFile().lastModified()))
                .map(Path::getParent);
        }
    }
}
