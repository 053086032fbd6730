"""The consumer: measures how long records take from reception to a client of another project.

`python -m benchmarks.consumer BOOTSTRAP PREFIX PARTITIONS` reads from the end of the topics on. It prints a
line when it is reading, and the latencies as JSON once no more records arrive.
"""

import sys
import time

import orjson
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

_FIRST = 30.0  # seconds to wait for the first record
_NO_MORE = 2.0  # seconds without a record after which it stops
_WARM_UP_US = 3_000_000  # after the first record, before latencies count


def main(bootstrap: str, prefix: str, partitions: int) -> None:
    """Read until no more records arrive, and print the latencies."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "benchmarks",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    topics = [f"{prefix}.{channel}.v1" for channel in ("trades", "depth", "ticker")]
    consumer.assign([TopicPartition(topic, n, OFFSET_END) for topic in topics for n in range(partitions)])
    consumer.poll(1.0)
    print("reading", flush=True)
    arrivals: list[tuple[float, bytes]] = []
    while (message := consumer.poll(_NO_MORE if arrivals else _FIRST)) is not None:
        value = message.value()
        assert message.error() is None, message.error()
        assert value is not None
        arrivals.append((time.time() * 1e6, value))
    consumer.close()
    times = [(arrived, orjson.loads(value)["received_us"]) for arrived, value in arrivals]
    begin = min(received for _, received in times) + _WARM_UP_US
    delays = sorted(arrived - received for arrived, received in times if received >= begin)
    figures = {"p50_ms": delays[len(delays) // 2] / 1e3, "p99_ms": delays[len(delays) * 99 // 100] / 1e3}
    print(orjson.dumps(figures).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
