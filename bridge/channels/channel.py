"""What a channel is made of: where its pushes come from, what they turn into, and how."""

from collections.abc import Callable

import msgspec

from bridge.ledger import Gap, Watermarks
from bridge.records import Cause, Record


class Series:
    """The records of one symbol that one session makes for a channel: their key, and the next `seq`.

    `head` is how each of their values begins, up to the `seq`; `name` is the symbol as JSON; `linked` once
    it is known what of the symbol the session did not bring.
    """

    __slots__ = ("head", "key", "linked", "name", "seq", "symbol")

    def __init__(self, channel: str, session: str, symbol: str) -> None:
        self.symbol = symbol
        self.key = symbol.encode()
        self.name = msgspec.json.encode(symbol)
        self.head = b'{"schema":"digifinex.%b.v1","session":%b,"seq":' % (
            channel.encode(),
            msgspec.json.encode(session),
        )
        self.seq = 0
        self.linked = False

    def next_seq(self) -> int:
        """Return the number of the next record: 0, 1, 2 and so on."""
        seq = self.seq
        self.seq = seq + 1
        return seq


class Source:
    """One session as its records name it, with a series for each channel and symbol.

    `cause` says why it had to be opened: what ended the one before it, or that the shard was taken over.
    """

    __slots__ = ("_series", "account", "cause", "session")

    def __init__(self, session: str, account: str | None = None, cause: Cause = "takeover") -> None:
        self.session = session
        self.account = account
        self.cause = cause
        self._series: dict[tuple[str, bytes], Series] = {}

    def series(self, channel: str, symbol: bytes) -> Series:
        """Return the series of a symbol as the exchange writes it, in whatever case."""
        series = self._series.get((channel, symbol))
        if series is None:
            upper = symbol.decode().upper()
            series = self._series.get((channel, upper.encode())) or Series(channel, self.session, upper)
            self._series[channel, symbol] = self._series[channel, series.key] = series
        return series


class Outcome(msgspec.Struct, gc=False):
    """What one push came to.

    `bad` says for each item that could not become a record why; `time_us` is the exchange's time of
    the newest live item (None: the push has none), in microseconds since the epoch; `duplicates` and the
    `gap`, of the symbol whose `key` the records have, are told by the channels that can tell.
    """

    records: list[Record]
    bad: list[str] = []
    time_us: int | None = None
    duplicates: int = 0
    gap: Gap | None = None


Normalise = Callable[[bytes, Source, int], Outcome]
"""Turn the params of a push from a source, received at a time in µs, into records; raises BadItem."""


class Channel(msgspec.Struct, frozen=True):
    """One channel of the API.

    `normaliser` makes a normaliser with a memory of its own, which begins with the watermarks of what is
    on Kafka already; `private` channels need an account;
    the schema of the records is `digifinex.<name>.v1`.
    """

    name: str
    normaliser: Callable[[Watermarks], Normalise]
    private: bool = False
