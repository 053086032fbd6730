"""What speaks against the books of a shard, and what each check of a book has found.

Each snapshot that the exchange sends in the middle of a session shows whether the book that was kept is
right. Between snapshots only signs show that it may not be: it stays crossed, or tickers keep disagreeing
with its best prices. Then it is suspected until its next snapshot, which somebody else has to request.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from bridge.books.book import Best, Book, is_crossed
from bridge.books.checks import Crossed, Tops
from bridge.books.comparing import Difference

Result = Literal["equal", "different", "crossed", "ticker"]
"""What a check has found: a snapshot that is equal to the book, or different; or the sign for a suspicion."""

RESULTS: tuple[Result, ...] = get_args(Result)

SIGNS: tuple[Result, ...] = ("crossed", "ticker")
"""Those that are no proof."""

MOST_FINDINGS = 10_000
"""Findings that nobody has taken yet; the oldest are left out. A shard takes them every second."""

# How much longer than crossed a book may disagree with tickers: these may be pushed less often than they
# change, and be made from a copy of the book that is behind.
_TICKERS_PATIENCE = 6


class Finding(NamedTuple):
    """What a check has found of the book of a symbol, which `session` has brought; `detail` is for people."""

    key: bytes
    session: str
    result: Result
    detail: str = ""
    differing: Sequence[Difference] = ()
    """Of `different`: the levels."""


class Doubt:
    """What speaks against one book; made at the first sign, and forgotten at the next snapshot."""

    __slots__ = ("crossed", "session", "suspected", "tops")

    def __init__(self, session: str, patience_us: int) -> None:
        self.session = session  # the one that has brought the book
        self.suspected = False  # whether a sign has lasted too long; until the next snapshot
        self.crossed = Crossed(patience_us)
        self.tops = Tops(_TICKERS_PATIENCE * patience_us)


class Doubts:
    """The doubts about the books of a shard, by key, and the findings of all checks.

    All times are in µs since the epoch. A book without a sign costs nothing but the look at one ticker a
    second.
    """

    def __init__(self, patience_us: int) -> None:
        self._patience_us = patience_us
        # From the first sign to the next snapshot, or until it is over. `note_change` needs each change of
        # these books.
        self.by_key: dict[bytes, Doubt] = {}
        self._findings: list[Finding] = []  # that nobody has taken

    def suspects(self) -> Iterator[tuple[bytes, str]]:
        """Return the books under suspicion, with the session that has brought each."""
        return ((key, doubt.session) for key, doubt in self.by_key.items() if doubt.suspected)

    def take_findings(self) -> list[Finding]:
        """Return what the checks have found since the last call."""
        findings, self._findings = self._findings, []
        return findings

    def compared(self, key: bytes, session: str, differing: Sequence[Difference], with_what: str) -> None:
        """Note how a book that was kept differs from a snapshot; `with_what` says which one that is."""
        if differing:
            detail = f"{len(differing)} levels differ from {with_what}"
            self._find(Finding(key, session, "different", detail, differing))
        else:
            self._find(Finding(key, session, "equal"))

    def forget(self, key: bytes) -> None:
        """Forget all signs: the book has been replaced, or is not kept any more."""
        self.by_key.pop(key, None)

    def note_crossed(self, key: bytes, session: str, now_us: int) -> None:
        """Note that a book is crossed."""
        doubt = self._doubt(key, session)
        if not doubt.crossed.seen:
            doubt.crossed.lasts(crossed=True, now_us=now_us)

    def note_change(self, key: bytes, book: Book, now_us: int) -> None:
        """Look at a book that has signs, after it has changed at this time."""
        doubt = self.by_key[key]
        best = book.best
        if doubt.tops.seen:
            doubt.tops.keep(best)
        if doubt.crossed.lasts(is_crossed(best), now_us):
            self._crossed_for_long(key, doubt)
        self._drop_if_over(key, doubt)

    def note_ticker(self, key: bytes, session: str, book: Book, ticker: Best, when: tuple[int, int]) -> None:
        """Compare a book with the best prices of a ticker; zero or None says nothing.

        `when`: the time now, and the one up to which everything that was pushed over the session is noted.
        """
        best, doubt = book.best, self.by_key.get(key)
        if doubt is None:
            if all(not said or kept in (said, None) for said, kept in zip(ticker, best, strict=True)):
                return
            doubt = self._doubt(key, session)
        doubt.tops.keep(best)
        if doubt.tops.disagree(ticker, *when) and not doubt.suspected:
            doubt.suspected = True
            (ask, bid), (said_ask, said_bid) = best, ticker
            detail = f"ask {ask} and bid {bid}, but tickers say {said_ask} and {said_bid}"
            self._find(Finding(key, doubt.session, "ticker", detail))
        self._drop_if_over(key, doubt)

    def look(self, noted_us: Mapping[str, int]) -> None:
        """Find what has lasted too long.

        `noted_us` has the sessions that are in use: everything that was pushed over one up to its time has
        been noted. A book of another one stands still, and is wrong as soon as the market goes on: what was
        doubted of it is forgotten.
        """
        for key, doubt in list(self.by_key.items()):
            now_us = noted_us.get(doubt.session)
            if now_us is None:
                self.forget(key)
            elif doubt.crossed.seen and doubt.crossed.lasts(crossed=True, now_us=now_us):
                self._crossed_for_long(key, doubt)

    def restart_tickers(self) -> None:
        """Forget all tickers: books are behind, or were, so that they could not be compared."""
        for key, doubt in list(self.by_key.items()):
            doubt.tops = Tops(_TICKERS_PATIENCE * self._patience_us)
            self._drop_if_over(key, doubt)

    def restart(self, now_us: int) -> None:
        """Let all signs begin at this time, because earlier times are of a clock that has been set since.

        What was found since the last call of `take_findings` is forgotten, unless a snapshot has shown it: it
        may have lasted by the clock only.
        """
        for finding in self._findings:
            if finding.result in SIGNS and finding.key in self.by_key:
                self.by_key[finding.key].suspected = False
        self._findings = [one for one in self._findings if one.result not in SIGNS]
        for doubt in self.by_key.values():
            doubt.crossed.restart(now_us)
        self.restart_tickers()

    def _crossed_for_long(self, key: bytes, doubt: Doubt) -> None:
        if not doubt.suspected:
            doubt.suspected = True
            detail = f"crossed for more than {self._patience_us / 1e6:g} s"
            self._find(Finding(key, doubt.session, "crossed", detail))

    def _drop_if_over(self, key: bytes, doubt: Doubt) -> None:
        if not (doubt.suspected or doubt.crossed.seen or doubt.tops.seen):
            self.by_key.pop(key, None)

    def _doubt(self, key: bytes, session: str) -> Doubt:
        doubt = self.by_key.get(key)
        if doubt is None:
            doubt = self.by_key[key] = Doubt(session, self._patience_us)
        return doubt

    def _find(self, finding: Finding) -> None:
        self._findings.append(finding)
        if len(self._findings) > MOST_FINDINGS:
            del self._findings[: MOST_FINDINGS // 2]
