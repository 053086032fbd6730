"""Copy all trades so far to Parquet files: `python to_parquet.py HOST:PORT FOLDER`.

Run it again for those that have come since: the names of the files say what they have.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from bridge.consumer import Trade, decode

TOPIC = "digifinex.trades.v1"
SCALE = 18  # digits behind the point in the files
# The columns of the files. In JSON, decimals are strings.
WRITE = """
COPY (
    SELECT symbol, id, make_timestamp(time_us) AS "time", side,
        price::DECIMAL(38, 18) AS price, amount::DECIMAL(38, 18) AS amount,
        session, seq
    FROM read_json($lines, format = 'newline_delimited', columns = {
        symbol: 'VARCHAR', id: 'BIGINT', time_us: 'BIGINT', side: 'VARCHAR',
        price: 'VARCHAR', amount: 'VARCHAR', session: 'VARCHAR', seq: 'BIGINT'
    })
) TO $file (FORMAT parquet)
"""


def main(bootstrap: str, folder: Path) -> None:
    """Copy each partition, from where its files end to its end."""
    folder.mkdir(exist_ok=True)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "to-parquet",  # only a name: no offsets are committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    for partition in consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions:
        copy(consumer, partition, folder)
    consumer.close()


def copy(consumer: Consumer, partition: int, folder: Path) -> None:
    """Write what is new of a partition to the file PARTITION-FIRST-NEXT, by offsets."""
    files = folder.glob(f"{partition}-*.parquet")
    done = max((int(file.stem.split("-")[2]) for file in files), default=0)
    place = TopicPartition(TOPIC, partition)
    oldest, _ = consumer.get_watermark_offsets(place, timeout=10)
    if done < oldest:
        print(f"partition {partition}: offsets {done} to {oldest - 1} are deleted")
    first = following = max(done, oldest)
    consumer.assign([TopicPartition(TOPIC, partition, first)])
    with tempfile.NamedTemporaryFile(suffix=".json") as lines:
        for offset, trade in trades(consumer):
            lines.write(msgspec.json.encode(trade) + b"\n")
            following = offset + 1
        lines.flush()
        if following > first:
            file = folder / f"{partition}-{first}-{following}.parquet"
            unfinished = file.with_suffix(".unfinished")
            duckdb.execute(WRITE, {"lines": lines.name, "file": str(unfinished)})
            unfinished.rename(file)
            print(file, flush=True)


def trades(consumer: Consumer) -> Iterator[tuple[int, Trade]]:
    """Yield the trades up to the end of the partition, each with its offset."""
    while (message := consumer.poll(60)) is not None:
        if (error := message.error()) is not None:
            if error.name() == "_PARTITION_EOF":
                return
            raise KafkaException(error)
        offset, trade = message.offset(), decode(TOPIC, message.value() or b"")
        assert offset is not None
        assert isinstance(trade, Trade)
        for figure in (trade.price, trade.amount):
            # DuckDB would round it.
            assert -int(figure.as_tuple().exponent) <= SCALE, f"too exact: {trade}"
        yield offset, trade
    sys.exit("Kafka does not answer")


main(sys.argv[1], Path(sys.argv[2]))
