"""The types of a channel: its description, the source of its pushes, and the outcome of a push.

Longer than 350 lines because each value that a channel or a series has says what it means.
"""

import enum
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import msgspec

from bridge.errors import BadItem, Unsubscribed
from bridge.ledger import Gap, Watermarks
from bridge.records import Cause, Record

MOST_NAMES = 20_000
"""Names that one session takes from a channel that is subscribed by nothing, in two spellings at most."""

is_market = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}").fullmatch
"""Whether a name that the exchange has chosen may be that of a market."""


class Series:
    """The records that one session makes of one symbol on one channel."""

    __slots__ = (
        "_begun",
        "brought",
        "key",
        "linked",
        "listed_to",
        "lists_due",
        "lost",
        "resumed_us",
        "seq",
        "session",
        "shown",
        "skipped",
        "symbol",
    )

    def __init__(self, session: str, symbol: str) -> None:
        self.session = session
        self.symbol = symbol
        self.key = symbol.encode()  # the key of the records on Kafka
        self.seq = 0  # number of the next record
        self.skipped = 0  # numbers that no record has, each because something may have been lost
        # Trades only: whether what may be missing in front of its next trade is reported or an open stretch.
        # False until the session's first trade or clean list, and again when something is lost.
        self.linked = False
        self.lost = False  # trades only: whether something was lost that no clean list has made good since
        self.lists_due = 0  # trades only: how many lists have to come until one was made behind the loss
        # Trades only: when the first trade behind the last loss came, µs since the epoch; 0 before that.
        self.resumed_us = 0
        self.listed_to = -1  # trades only: the highest id in its last clean list; -1 before that
        self.shown = b""  # tickers only: the value of the last record; b"" before the first
        self._begun = False
        self.brought = 0  # number of its clean lists or snapshots that have come

    @property
    def begun(self) -> bool:
        """Whether its clean list or snapshot has come since it was asked for last.

        Set by the normaliser, cleared when something of the series is lost.
        """
        return self._begun

    @begun.setter
    def begun(self, begun: bool) -> None:
        self._begun = begun
        self.brought += begun

    def next_seq(self) -> int:
        """Return the number of the next record: 0, 1, 2 and so on."""
        seq = self.seq
        self.seq = seq + 1
        return seq

    def skip_seq(self) -> None:
        """Leave a number out, so that consumers see the hole."""
        self.seq += 1
        self.skipped += 1


class Source:
    """One session as the source of records.

    `cause` is why it was opened: what ended the session before it, or that the shard was taken over.
    """

    __slots__ = (
        "_series",
        "_withheld",
        "account",
        "asked",
        "cause",
        "channels",
        "conceals",
        "heard_us",
        "incomplete",
        "overlapping",
        "session",
    )

    def __init__(self, session: str, account: str | None = None, cause: Cause = "takeover") -> None:
        self.session = session
        self.account = account
        self.cause = cause
        self.channels: Collection[str] = ()  # those that the session subscribes to; set by the feed
        # By channel, all names that the session has ever subscribed to; none: to a channel that is subscribed
        # by nothing, so that any name may come. None: not known, so anything is taken. Filled by the feed.
        self.asked: dict[str, set[str]] | None = None
        # Whether a name that the exchange has chosen repeats a credential. Set by the feed.
        self.conceals: Callable[[str], bool] = lambda _: False
        # What was pushed up to then is delivered, µs since the epoch; 0 before the session begins. Set by the
        # feed, see `Feed.read_up_to`.
        self.heard_us = 0
        # Channels of which a new list or snapshot has to be asked for, because something of them was lost.
        # Filled by the pipeline, emptied by the feed once the session knows.
        self.incomplete: set[str] = set()
        # Whether its pushes repeat those of the session that it replaces; during a rotation's release only.
        self.overlapping = False
        # By channel and symbol; a symbol in lower case has the same value under both spellings. Only grows,
        # with what is asked for, or up to MOST_NAMES.
        self._series: defaultdict[str, dict[str, Series]] = defaultdict(dict)
        # By channel and symbol ("": of a channel without one), the pushes that a rotation has withheld; less
        # what its series have grown by when these were delivered, so that nothing counts twice.
        self._withheld: defaultdict[tuple[str, str], int] = defaultdict(int)

    def ask(self, channel: str, names: Iterable[str] = ()) -> None:
        """Note that the session subscribes to symbols or currencies of a channel, or to all of it."""
        if self.asked is None:
            self.asked = {}
        self.asked.setdefault(channel, set()).update(names)

    def asks(self, channel: str, symbol: str | None) -> bool:
        """Return whether the session has subscribed to a symbol, which may be in lower case; None: to any."""
        names = None if self.asked is None else self.asked.get(channel)
        if names is None:
            return self.asked is None
        return not names or symbol is None or symbol.upper() in names

    def series(self, channel: str, symbol: str) -> Series:
        """Return the series of a symbol, which may be in upper or lower case.

        Raises:
            Unsubscribed: the session has not subscribed to it.
            BadItem: it is not the name of a market.
        """
        series = self._series[channel].get(symbol)
        return self._new_series(channel, symbol) if series is None else series

    def _new_series(self, channel: str, symbol: str) -> Series:
        of_channel = self._series[channel]
        upper = symbol.upper()
        series = of_channel.get(upper)
        if series is None:
            if not self.asks(channel, symbol):
                raise Unsubscribed(f"{channel} {upper!r} was not subscribed to")
            if self.asked is not None and not self.asked[channel]:
                if not is_market(symbol):
                    raise BadItem(f"{upper!r} is not the name of a market")
                if self.conceals(symbol):
                    raise BadItem("a name repeats credentials")
                if len(of_channel) >= MOST_NAMES:
                    raise Unsubscribed(f"more than {MOST_NAMES} names")
            series = of_channel[upper] = Series(self.session, upper)
        # Other spellings are looked up anew each time: they have no end.
        if symbol.islower() and symbol.isascii():
            of_channel[symbol] = series
        return series

    def pushed(self, channel: str, symbol: str | None) -> int:
        """Return a number that grows with what is pushed of a subscription; None: of one without a symbol.

        Also while that is withheld, but not with what is lost: that may have been of any.
        """
        return self._delivered(channel, symbol) + self._withheld.get((channel, symbol or ""), 0)

    def withhold(self, channel: str, symbols: Iterable[str]) -> None:
        """Note that a push of these symbols, in any spelling, is withheld."""
        names = (self.asked or {}).get(channel)
        if names is None:
            return
        for name in names.intersection(symbol.upper() for symbol in symbols) if names else ("",):
            self._withheld[channel, name] += 1

    def release(self) -> None:
        """Note that all that was withheld is delivered, and nothing else was so far."""
        for channel, symbol in self._withheld:
            self._withheld[channel, symbol] -= self._delivered(channel, symbol or None)

    def _delivered(self, channel: str, symbol: str | None) -> int:
        of_channel = self._series[channel]
        found = [of_channel.get(symbol)] if symbol is not None else of_channel.values()
        return sum(one.seq - one.skipped + one.brought for one in found if one is not None)

    def of(self, channel: str) -> list[Series]:
        """Return the series of a channel that have begun, each once."""
        return list({id(one): one for one in self._series[channel].values()}.values())


class Outcome(msgspec.Struct, gc=False):
    """The result of normalising one push."""

    records: list[Record]

    bad: list[str] = []
    """For each item that could not become a record, the reason."""

    unsubscribed: list[str] = []
    """The same for each item that the session has not subscribed to."""

    time_us: int | None = None
    """When the newest live item happened, by the exchange's clock, in µs since the epoch; None if unknown."""

    duplicates: int = 0
    """Number of items dropped because they were known already."""

    live_duplicates: int = 0
    """How many of these were pushed live, where no list explains it."""

    gaps: list[Gap] = []
    """The gaps in front of the records, where the channel can detect them."""

    added: list[str] = []
    """The paths of fields of the push that the exchange has added, if they are new; one may be repeated."""


Normalise = Callable[[bytes, Source, int], Outcome]
"""Turn the params of a push, its source, and the time of reception in µs since the epoch into records.

Raises BadItem or an error of msgspec if nothing of the push can become a record.
"""


class Normaliser(Protocol):
    """Turns the pushes of a channel into records, with a memory of its own."""

    @property
    def push(self) -> Normalise:
        """Makes the records of a push."""

    def lost(self, source: Source, symbol: str | None) -> None:
        """Note that a push of a symbol was lost or cannot become a record; of any symbol if that is None."""

    def overdue(self, now_us: int, patience_us: int) -> Outcome:
        """Return what has waited for longer than `patience_us` at `now_us`, both in µs."""


@dataclass(frozen=True, slots=True)
class Independent:
    """The normaliser of a channel whose pushes do not depend on earlier ones."""

    channel: str
    push: Normalise

    def lost(self, source: Source, symbol: str | None) -> None:
        """Take a `seq` from each series concerned, so that consumers see the hole."""
        for series in source.of(self.channel) if symbol is None else [source.series(self.channel, symbol)]:
            series.skip_seq()
            series.begun = False

    def overdue(self, now_us: int, patience_us: int) -> Outcome:  # noqa: ARG002
        """Return nothing, because nothing waits."""
        return Outcome([])


class SubscribedBy(enum.Enum):
    """The kind of name that one subscription of a channel has."""

    MARKET = "market"
    """A symbol like `BTC_USDT`."""

    CURRENCY = "currency"
    """A currency like `USDT`."""

    NOTHING = "nothing"
    """Nothing: one subscription brings all of the channel."""


class Overlap(enum.Enum):
    """How the pushes of a new session overlap with those of the old one, when it takes over from it.

    `exchange.handover` uses it to pass on every item once.
    """

    IDS = "ids"
    """Items have ids, and the normaliser drops those it knows. Everything is passed on."""

    SNAPSHOT = "snapshot"
    """A new subscription starts with a snapshot, which replaces everything before it. The new session's last
    snapshot and what follows it are passed on. Params are `[clean, …, symbol]`, with `clean` true in a
    snapshot."""

    STATE = "state"
    """A new subscription may start with the present state, which the old session never brings. The new
    session's items are passed on from where it brings the last item of the old one."""

    SERIES = "series"
    """A new subscription starts with the next change, so the new session's first items are the last ones of
    the old session. They are passed on from where both agree in all of them."""


class Channel(msgspec.Struct, frozen=True):
    """One channel of the API, as it describes itself.

    All that the bridge knows of its channels is derived from these values: configuration keys, plan,
    subscriptions, handover, topics, metrics, documents, dashboard, alerts and the demo.
    """

    name: str
    """Its name in the API, in the configuration and in `digifinex.<name>.v1`."""

    meaning: str
    """One sentence that says what its records are, for documents, descriptions and the dashboard."""

    subscribed_by: SubscribedBy

    overlap: Overlap

    normaliser: Callable[[Watermarks], Normaliser]
    """Makes a normaliser with its own memory, which starts from the watermarks on Kafka."""

    private: bool = False
    """Whether it needs an account."""

    begins_clean: bool = False
    """Whether a new subscription begins with a clean list or a snapshot. Params are `[true, …, symbol]`."""

    lists_markets: bool = False
    """Whether the keys of its records name every market, so that `"*"` in another channel can be followed."""

    @property
    def schema(self) -> str:
        """The `schema` of its records."""
        return schema_name(self.name)


def schema_name(channel: str) -> str:
    """Return the value of the field `schema` in the records of a channel."""
    return f"digifinex.{channel}.v1"


def table(*channels: Channel) -> Mapping[str, Channel]:
    """Return channels by name, in this order.

    Raises:
        ValueError: two of them have the same name.
    """
    by_name = {channel.name: channel for channel in channels}
    if len(by_name) < len(channels):
        raise ValueError(f"two channels of one name: {', '.join(channel.name for channel in channels)}")
    return MappingProxyType(by_name)
