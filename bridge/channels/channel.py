"""What a channel is made of: where its pushes come from, what they turn into, and how."""

from collections import defaultdict
from collections.abc import Callable

import msgspec
from msgspec import Raw

from bridge.records import Record


class Source:
    """One session as its records name it, with the next `seq` of each channel and symbol."""

    __slots__ = ("_seqs", "account", "session")

    def __init__(self, session: str, account: str | None = None) -> None:
        self.session = session
        self.account = account
        self._seqs: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))

    def seq(self, channel: str, symbol: str) -> int:
        """Return the number of the symbol's next record: 0, 1, 2 and so on."""
        seqs = self._seqs[channel]
        number = seqs[symbol]
        seqs[symbol] = number + 1
        return number


class Outcome(msgspec.Struct, gc=False):
    """What one push came to.

    `bad` says for each item that could not become a record why; `time_us` is the exchange's time of
    the newest live item (None: the push has none), in microseconds since the epoch; `duplicates`,
    `recovered` and `gaps` are told by the channels that can tell.
    """

    records: list[Record]
    bad: list[str] = []
    time_us: int | None = None
    duplicates: int = 0
    recovered: int = 0
    gaps: int = 0


class BadItem(Exception):
    """An item of a push, or a whole push, that can't become a record; its text says why."""


Normalise = Callable[[Raw, Source, int], Outcome]
"""Turn the params of a push from a source, received at a time in µs, into records; raises BadItem."""


class Channel(msgspec.Struct, frozen=True):
    """One channel of the API.

    `normaliser` makes a normaliser with a memory of its own; `private` channels need an account;
    the schema of the records is `digifinex.<name>.v1`.
    """

    name: str
    normaliser: Callable[[], Normalise]
    private: bool = False
