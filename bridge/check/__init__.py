"""Shows the plan of `run` and whether Kafka, the exchange and the disk are ready; writes nothing to Kafka."""

from collections.abc import Iterator

from bridge import plan
from bridge.check.disk import check_disk
from bridge.check.exchange import check_exchange
from bridge.check.kafka import check_kafka
from bridge.check.lines import Say, plural
from bridge.check.registry import check_registry
from bridge.check.replicas import check_replicas
from bridge.config import Config
from bridge.exchange.words import printable


async def check(config: Config, out: Say = print, *, disk: bool = True, replicas: str | None = None) -> int:
    """Print what `run` would do and what prevents it; return the exit status, 1 if anything does.

    Without `disk` the spool is left out. `replicas` is the host and port of running ones, which are asked.
    """

    def say(line: str) -> None:
        """Print a line, which may have words of brokers and of the exchange: no control characters."""
        out(printable(line))

    for line in _sessions(config):
        say(line)
    ready = {
        "Kafka": await check_kafka(config, say),
        "the exchange": await check_exchange(config, say),
    }
    if config.schema_registry.url:
        ready["the schema registry"] = await check_registry(config, say)
    if disk:
        ready["the disk"] = check_disk(config, say)
    if replicas is not None:
        ready["the replicas"] = await check_replicas(replicas, say)
    failed = [name for name, is_ready in ready.items() if not is_ready]
    say(f"not ready: {' and '.join(failed)}, see above" if failed else "ready to run")
    return 1 if failed else 0


def _sessions(config: Config) -> Iterator[str]:
    """Yield the sessions that `run` would open, shard by shard."""
    for number in range(config.kafka.shards):
        shard = plan.plan(config, number)
        yield f"shard {number} of {config.kafka.shards}"
        for wanted in shard.public:
            yield f"  session with {_subscriptions(wanted)}"
        for account, wanted in shard.private:
            yield f"  session of account {account.name} with {_subscriptions(wanted)}"
        if shard.follows:
            yield f"  additional sessions for {', '.join(shard.follows)} of every market listed in all_ticker"


def _subscriptions(wanted: plan.Wanted) -> str:
    listed = ", ".join(f"{channel} {' '.join(symbols)}".rstrip() for channel, symbols in wanted.items())
    return f"{plural(plan.count(wanted), 'subscription')}: {listed}"
