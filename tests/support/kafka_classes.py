"""Archive the classes that a broker loads, so that the brokers of tests start in half the time.

Run by scripts/setup-test-tools.sh. Java ignores an archive of other jars or
of another Java: then brokers start slower.
"""

from tests.support.kafka_broker import CLASSES, Broker


def main() -> None:
    """Start a broker, and let it write the archive when it stops."""
    CLASSES.unlink(missing_ok=True)
    unfinished = CLASSES.with_suffix(".new")
    with Broker(options=[f"-XX:ArchiveClassesAtExit={unfinished}"]) as broker:
        broker.stop()
    unfinished.rename(CLASSES)


if __name__ == "__main__":
    main()
