"""What `run` would do, and whether Kafka, the exchange and the disk would let it. Writes nothing to Kafka."""

from collections.abc import Callable, Iterator

from bridge import plan
from bridge.check.disk import check_disk
from bridge.check.exchange import check_exchange
from bridge.check.kafka import check_kafka
from bridge.config import Config

Say = Callable[[str], None]


async def check(config: Config, say: Say = print) -> int:
    """Say what `run` would do and what stands in its way; return the exit status, 1 if anything does."""
    for line in _sessions(config):
        say(line)
    right = {
        "Kafka": await check_kafka(config, say),
        "the exchange": await check_exchange(config, say),
        "the disk": check_disk(config.spool, say),
    }
    wrong = [name for name, well in right.items() if not well]
    say(f"not ready: {' and '.join(wrong)}, see above" if wrong else "ready to run")
    return 1 if wrong else 0


def _sessions(config: Config) -> Iterator[str]:
    for number in range(config.kafka.shards):
        shard = plan.plan(config, number)
        yield f"shard {number} of {config.kafka.shards}"
        for wanted in shard.public:
            yield f"  session with {_subscriptions(wanted)}"
        for account, wanted in shard.private:
            yield f"  session of account {account.name} with {_subscriptions(wanted)}"
        if shard.follows:
            yield f"  sessions for {', '.join(shard.follows)} of every market that all_ticker tells of"


def _subscriptions(wanted: plan.Wanted) -> str:
    number = plan.count(wanted)
    what = ", ".join(f"{channel} {' '.join(symbols)}".rstrip() for channel, symbols in wanted.items())
    return f"{number} subscription{'s' if number > 1 else ''}: {what}"
