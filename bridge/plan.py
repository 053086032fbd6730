"""Which shard serves each subscription, and on which of its sessions. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil

from bridge.channels import CHANNELS, SubscribedBy
from bridge.config import EVERY_MARKET, AccountConfig, Config
from bridge.partitioner import partition_of
from bridge.records import BOOK

Wanted = dict[str, list[str]]
"""Channel to symbols, as one session subscribes to them; none for a channel that is subscribed by nothing."""

Subscription = tuple[str, str]
"""A channel and a symbol or currency; "" for a channel that is subscribed by nothing."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The subscriptions of one shard.

    `public` are its sessions without an account, `private` those of its accounts. `follows` names the
    channels that are configured for every market: the shard subscribes to each of its markets as soon as a
    channel that lists markets (all_ticker) has named it. `records` are the channels that become records, and
    `book` if it is made; one that is subscribed to for its list of markets alone is not among them.
    """

    public: list[Wanted]
    private: list[tuple[AccountConfig, Wanted]]
    follows: tuple[str, ...]
    records: frozenset[str]


def shard_of(name: str, shards: int) -> int:
    """Return the shard of a symbol, currency or account, the same in every replica."""
    return partition_of(name.encode(), shards)


def plan(config: Config, shard: int) -> ShardPlan:
    """Return the part of the configured subscriptions that one shard, numbered from 0, serves."""
    shards, size = config.kafka.shards, config.exchange.subscriptions_per_session
    by_channel = {name: config.channels.of(name) for name in config.channels.channels()}
    follows = tuple(name for name, symbols in by_channel.items() if EVERY_MARKET in symbols)
    # A channel that is subscribed by nothing comes whole with one subscription: the first shard records it.
    recorded = {name for name, symbols in by_channel.items() if symbols and (shard == 0 or "" not in symbols)}
    if config.channels.book:
        recorded.add(BOOK)
    public: list[Subscription] = [
        (name, "")
        for name in by_channel
        if CHANNELS[name].subscribed_by is SubscribedBy.NOTHING
        if name in recorded or (follows and CHANNELS[name].lists_markets)
    ]
    public += _by_name(by_channel, shard, shards)
    private = []
    for account in config.accounts:
        of_account = [(name, symbol) for name in account.channels() for symbol in account.of(name)]
        recorded.update(name for name, _ in of_account)
        if shard_of(account.name, shards) == shard:
            private += [(account, wanted) for wanted in sessions(of_account, size)]
    return ShardPlan(list(sessions(public, size)), private, follows, frozenset(recorded))


def channels(config: Config) -> frozenset[str]:
    """Return the channels that become records in any of the shards."""
    return frozenset(chain.from_iterable(plan(config, n).records for n in range(config.kafka.shards)))


def has_no_book(config: Config, symbol: str) -> bool:
    """Return whether a market has no book as it is configured, whether it exists or not."""
    book, depth = config.channels.book, config.channels.of("depth")
    return any(EVERY_MARKET not in names and symbol not in names for names in (book, depth))


def sessions(subscriptions: Iterable[Subscription], size: int) -> Iterator[Wanted]:
    """Split subscriptions into sessions of at most `size` each."""
    wanted: Wanted = {}
    for number, (channel, symbol) in enumerate(subscriptions):
        if number % size == 0 and wanted:
            yield wanted
            wanted = {}
        wanted.setdefault(channel, []).extend([symbol] if symbol else [])
    if wanted:
        yield wanted


def subscriptions(wanted: Wanted) -> list[Subscription]:
    """Return the subscriptions of a session."""
    return [(channel, symbol) for channel, symbols in wanted.items() for symbol in symbols or [""]]


def parts(wanted: Wanted, size: int) -> list[Wanted]:
    """Split a session into the fewest that have at most `size` subscriptions each, about equally many.

    Those of one market stay together if the sizes allow it.
    """
    names: dict[str, list[Subscription]] = {}
    for one in subscriptions(wanted):
        names.setdefault(one[1], []).append(one)
    number = ceil(count(wanted) / size)
    return list(sessions(chain.from_iterable(names.values()), ceil(count(wanted) / number)))


def joined(some: Wanted, others: Wanted) -> Wanted:
    """Return the subscriptions of two sessions as those of one."""
    return {channel: [*some.get(channel, []), *others.get(channel, [])] for channel in {**some, **others}}


def count(wanted: Wanted) -> int:
    """Return the number of subscriptions of a session."""
    return len(subscriptions(wanted))


def _by_name(by_channel: Mapping[str, Sequence[str]], shard: int, shards: int) -> Iterator[Subscription]:
    """Return the shard's subscriptions to markets and currencies that the configuration names.

    Those of one market follow each other, so that one session has them all if there is room.
    """
    for symbol in dict.fromkeys(chain.from_iterable(by_channel.values())):
        if symbol not in ("", EVERY_MARKET) and shard_of(symbol, shards) == shard:
            for name, symbols in by_channel.items():
                if symbol in symbols:
                    yield name, symbol
