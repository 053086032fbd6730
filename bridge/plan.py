"""Which subscriptions go to which shard, and there to which session. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from aiokafka.partitioner import murmur2

from bridge.config import EVERY_MARKET, AccountConfig, Config

_BY_MARKET = ("trades", "depth", "ticker")
_BY_ACCOUNT = ("order", "order_algo", "balance")

Wanted = dict[str, list[str]]
"""Channel to symbols, as one session subscribes to them; none for `all_ticker`."""

Subscription = tuple[str, str]
"""A channel and a symbol; "" for `all_ticker`."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What one shard subscribes to.

    `public` are its sessions without an account, `private` those of its accounts. `follows` names the
    channels that are wanted for every market of the shard, as all_ticker tells of it. `records` are the
    channels that become records: all_ticker may be watched for the markets alone.
    """

    public: list[Wanted]
    private: list[tuple[AccountConfig, Wanted]]
    follows: tuple[str, ...]
    records: frozenset[str]


def shard_of(name: str, shards: int) -> int:
    """Return the shard of a symbol or an account, the same in every replica."""
    return int((murmur2(name.encode()) & 0x7FFFFFFF) % shards)


def plan(config: Config, shard: int) -> ShardPlan:
    """Return the share of one shard, numbered from 0, in what is configured."""
    shards, size = config.kafka.shards, config.exchange.subscriptions_per_session
    follows = tuple(name for name in _BY_MARKET if EVERY_MARKET in getattr(config.channels, name))
    recorded = [name for name in _BY_MARKET if getattr(config.channels, name)]
    public: list[Subscription] = []
    if config.channels.all_ticker and shard == 0:
        recorded.append("all_ticker")
    if follows or "all_ticker" in recorded:
        public.append(("all_ticker", ""))
    public += _of_markets(config, shard)
    private = []
    for account in config.accounts:
        recorded += (name for name in _BY_ACCOUNT if getattr(account, name))
        if shard_of(account.name, shards) == shard:
            subscriptions = ((name, symbol) for name in _BY_ACCOUNT for symbol in getattr(account, name))
            private += [(account, wanted) for wanted in sessions(subscriptions, size)]
    return ShardPlan(list(sessions(public, size)), private, follows, frozenset(recorded))


def channels(config: Config) -> frozenset[str]:
    """Return the channels that become records, in whichever shard."""
    return frozenset(chain.from_iterable(plan(config, n).records for n in range(config.kafka.shards)))


def sessions(subscriptions: Iterable[Subscription], size: int) -> Iterator[Wanted]:
    """Divide subscriptions into sessions of at most `size` of them."""
    wanted: Wanted = {}
    for number, (channel, symbol) in enumerate(subscriptions):
        if number % size == 0 and wanted:
            yield wanted
            wanted = {}
        wanted.setdefault(channel, []).extend([symbol] if symbol else [])
    if wanted:
        yield wanted


def count(wanted: Wanted) -> int:
    """Return the number of subscriptions of a session."""
    return sum(max(len(symbols), 1) for symbols in wanted.values())


def _of_markets(config: Config, shard: int) -> Iterator[Subscription]:
    """Give the subscriptions of the shard's named markets, those of a market together."""
    by_channel = {name: getattr(config.channels, name) for name in _BY_MARKET}
    for symbol in dict.fromkeys(chain.from_iterable(by_channel.values())):
        if symbol != EVERY_MARKET and shard_of(symbol, config.kafka.shards) == shard:
            for name, symbols in by_channel.items():
                if symbol in symbols:
                    yield name, symbol
