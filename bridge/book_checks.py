"""Checks the present books of one shard: reports what is found, and has suspected books sent again.

`bridge.books` compares and suspects; this knows where the tickers are, which session has brought a book, and
when one session replaces another.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice

import msgspec
from msgspec import Struct

from bridge.allowance import Allowance
from bridge.books.comparing import Difference
from bridge.books.doubts import RESULTS, Finding
from bridge.books.present import PresentBooks
from bridge.books.requests import Requests
from bridge.kafka.queues import Queues
from bridge.records import BOOK
from bridge.watch.events import DifferingLevel
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector
from bridge.websocket.feed import Feed

_DEPTH = "depth"
_TICKERS = ("ticker", "all_ticker")

# Books are behind what the exchange pushes by what is pending. Beyond this, in µs, they are not compared with
# tickers.
_BEHIND = 1_000_000

# Events of a book at once, a sign and its proof twice, and µs until one more: an exchange could send a
# different snapshot in every frame. Each book has its own, since all may be damaged at once.
_AT_ONCE = 4
_UNTIL_EVENT = 60_000_000

MOST_LEVELS = 20
"""Differing levels in an event."""

# A clock that differs from the monotonic one by so many µs more or less than at the last look was set.
_SET = 100_000

_LONGEST = 64  # characters of a figure in an event


class _Shown(Struct):
    """The best prices in a record of a ticker; None: not known."""

    best_ask: Decimal | None = None
    best_bid: Decimal | None = None


_decode = msgspec.json.Decoder(_Shown).decode


class BookChecks:
    """The checks of the books of a shard, whose `connectors` bring depth and tickers.

    A session whose snapshots were requested is given `each` seconds before they are requested again.
    """

    def __init__(
        self,
        present: PresentBooks,
        queues: Queues,
        connectors: Sequence[Connector],
        watch: Watch,
        *,
        each: float,
    ) -> None:
        self._present = present
        self._queues = queues
        self._connectors = connectors
        self._journal = watch.journal
        counter = watch.metrics.counter
        self._results = {result: counter("book_checks_total", result=result) for result in RESULTS}
        # How many events each book may still have, by key; grows by each market that is reported.
        self._allowances: dict[bytes, Allowance] = {}
        # The value of each ticker that was looked at last, by channel and key.
        self._shown: dict[tuple[str, bytes], bytes] = {}
        self._requests = Requests(each)
        self._ahead_us = _ahead_us()  # by how much the clock was ahead of the monotonic one at the last look

    @property
    def suspects(self) -> Counter[str]:
        """How many books are under suspicion, by the session that has brought them."""
        return Counter(session for _, session in self._present.doubts.suspects())

    def look(self) -> None:
        """Look at what has lasted too long, and at the tickers. To be called every second or so."""
        self._look_at_clock()
        now_us = time.time_ns() // 1000
        oldest_us = self._queues.oldest_us
        taken_us = now_us if oldest_us is None else min(now_us, oldest_us)
        noted_us = {
            feed.source.session: min(taken_us, feed.read_up_to.pushed_us) for feed in self._feeds_in_use()
        }
        missing: Mapping[bytes, str] | None = None
        if now_us - taken_us > _BEHIND:
            self._present.doubts.restart_tickers()
        else:
            self._look_at_tickers(now_us, noted_us)
            missing = self._present.missing
        self._present.doubts.look(noted_us)
        for finding in self._present.doubts.take_findings():
            self._report(finding, now_us)
            self._requests.note(finding, time.monotonic())
        self._request(missing)

    # What sessions report of their rotations

    def begin(self, sessions: Collection[str]) -> None:
        """Note that sessions are about to be replaced by one that is not open yet."""
        self._look_at_clock()
        self._present.begin_rotation(sessions, time.time_ns() // 1000)

    def end(self, sessions: Collection[str]) -> None:
        """Note that sessions are not replaced after all, or not by a rotation: one has ended by itself."""
        self._present.end_rotation(sessions)

    def replaced(self, olds: Collection[str], new: str, symbols: Iterable[str]) -> None:
        """Note that a session has replaced others, before anything of it is delivered to Kafka.

        The snapshots of these symbols, which are the first things of them to come, show what the old sessions
        have shown too.
        """
        self._look_at_clock()
        self._present.replaced(olds, new, (symbol.encode() for symbol in symbols))

    def _look_at_clock(self) -> None:
        """Notice that the clock was set, by an operator or because the machine was suspended."""
        before, self._ahead_us = self._ahead_us, _ahead_us()
        if abs(self._ahead_us - before) > _SET:
            # Records that were received before are still to come, with times of the clock as it was.
            self._present.clock_was_set(time.monotonic_ns() // 1000 + max(before, self._ahead_us))

    def _feeds_in_use(self) -> Iterator[Feed]:
        """Return the public sessions that are in use and have not ended."""
        for connector in self._connectors:
            feed = connector.sessions.in_use
            if feed is not None and connector.account is None and not feed.ended.done():
                yield feed

    def _look_at_tickers(self, now_us: int, noted_us: Mapping[str, int]) -> None:
        for feed in self._feeds_in_use():
            for channel in _TICKERS:
                for series in feed.source.of(channel):
                    one, value = (channel, series.key), series.shown
                    if value and self._present.keeps(series.key) and self._shown.get(one) is not value:
                        self._shown[one] = value
                        shown = _decode(value)
                        best = shown.best_ask, shown.best_bid
                        self._present.note_ticker(series.key, best, now_us, noted_us)

    def _report(self, finding: Finding, now_us: int) -> None:
        self._results[finding.result].value += 1
        if finding.result == "equal":
            return
        allowance = self._allowances.setdefault(finding.key, Allowance(_AT_ONCE, _UNTIL_EVENT))
        if not allowance.take(now_us):
            return
        self._journal.record(
            "book_suspect",
            session=finding.session,
            channel=BOOK,
            symbol=finding.key.decode(),
            detail=finding.detail,
            check=finding.result,
            levels=list(_shown(finding.differing)),
        )

    def _request(self, missing: Mapping[bytes, str] | None) -> None:
        """Request the snapshots of sessions in use again whose books are suspected or missing.

        None: which are missing is not known, as what is pending may have them.
        """
        feeds = {feed.source.session: feed for feed in self._feeds_in_use()}
        suspects = [one for one in self._present.doubts.suspects() if one[1] in feeds]
        missed = None if missing is None else [one for one in missing.items() if one[1] in feeds]
        for session in self._requests.due(suspects, missed, time.monotonic()):
            feeds[session].request_clean(_DEPTH)


def _ahead_us() -> int:
    return (time.time_ns() - time.monotonic_ns()) // 1000


def _shown(differing: Sequence[Difference]) -> Iterator[DifferingLevel]:
    """Return the first levels that fit into an event."""
    fitting = (one for one in differing if all(len(figure or "") <= _LONGEST for figure in one[1:]))
    return (DifferingLevel(*one) for one in islice(fitting, MOST_LEVELS))
