"""Makes the records of `book` out of those of `depth`: the present book of each symbol.

A consumer that joins late reads the book, then goes on with the record of `depth` after the last one that
the book contains. So books are made of the records of `depth` that were sent in a transaction, and sent in
the same one. If that has to be repeated, the records come again; a book is due again once it has seen the
last one again.

Books also show here whether they are right: `doubts` has what the checks find.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw, Struct

from bridge.books.book import Best, Book, Level
from bridge.books.comparing import differences
from bridge.books.doubts import Doubts
from bridge.books.rotations import Rotations
from bridge.channels.channel import schema_name
from bridge.records import BOOK, Record

MOST_LEVELS = 50_000
"""Levels on a side of a book; one with more is given up until its next snapshot. Real ones have hundreds."""

# Sessions of a symbol whose records of book are counted: the last ones.
_SESSIONS = 2

_SCHEMA = schema_name(BOOK)


class _Depth(Struct, gc=False):
    """What is needed of a record of `depth`."""

    session: str
    seq: int
    received_us: int
    snapshot: bool
    asks: list[Level]
    bids: list[Level]


class BookRecord(Struct, gc=False):
    """digifinex.book.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    depth_session: str
    depth_seq: int
    asks: Raw
    bids: Raw
    crossed: bool
    truncated: bool


_decode = msgspec.json.Decoder(_Depth).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Kept:
    """The book of a symbol, and what was made of it."""

    book: Book = field(default_factory=Book)
    # False before the first snapshot, and from a missing record, or one level too many, to the next snapshot.
    whole: bool = False
    too_large: bool = False  # whether it is not whole because of a level too many
    session: str = ""  # of the last record of depth
    depth_seq: int = -1  # of the last record of depth that the book contains
    seen: int = -1  # of the record of depth that came last; lower than `depth_seq` while records are repeated
    received_us: int = 0  # of the last record of depth that the book contains
    # The seq of the next record of book, by session: while records of depth are repeated, the session before
    # the last one may come again.
    seqs: dict[str, int] = field(default_factory=dict)
    # The record of depth that the last `due` record of book contains, by session and seq. Later ones may have
    # been taken by the time when that record is on Kafka.
    making: tuple[str, int] = "", -1
    made_us: int = 0  # when the last record of book was made; 0: none yet


class PresentBooks:
    """The books of the symbols of a shard, for those that are `wanted`; None: for all.

    A record of book has at most `levels` on a side, 0: all; `interval_us` is the least time between two of a
    symbol, in µs. `patience_us` is how long a book may be crossed, likewise.
    """

    def __init__(
        self, *, wanted: frozenset[bytes] | None, levels: int, interval_us: int, patience_us: int
    ) -> None:
        self.doubts = Doubts(patience_us)
        self._rotations = Rotations()
        self._wanted = wanted
        self._levels = levels
        self._interval_us = interval_us
        self._kept: dict[bytes, _Kept] = {}  # by key; one for each symbol that has had a record of depth
        self._changed: dict[bytes, _Kept] = {}  # those whose book has changed since its last record of book
        # Keys whose book is not known, as a record of `depth` is missing, with the session that has to bring
        # a snapshot; not those that have too many levels.
        self.missing: dict[bytes, str] = {}

    def take(self, records: Iterable[Record]) -> list[bytes]:
        """Take the next records of `depth`, which were sent; they may be repeated, from some record on.

        A missing one makes its book wait for the next snapshot, and so do more than `MOST_LEVELS`: the keys
        of these books are returned.
        """
        given_up = []
        for record in records:
            key = record.key or b""
            kept = self._kept.get(key)
            if kept is None:
                if self._wanted is not None and key not in self._wanted:
                    continue
                kept = self._kept[key] = _Kept()
            depth = _decode(record.value)
            if depth.session == kept.session:
                kept.seen = depth.seq
                if depth.seq <= kept.depth_seq:
                    continue
            is_next = kept.whole and depth.session == kept.session and depth.seq == kept.depth_seq + 1
            if is_next and depth.session in self._rotations.since:
                change = depth.asks, depth.bids, depth.snapshot
                self._rotations.note(key, depth.session, kept.book, depth.received_us, change)
            if depth.snapshot:
                self._take_snapshot(key, kept, depth, is_next=is_next)
            elif is_next:
                kept.book.change(depth.asks, depth.bids)
                if key in self.doubts.by_key:
                    self.doubts.note_change(key, kept.book, depth.received_us)
            else:
                self._miss(key, kept, depth.session)
            if max(len(kept.book.asks), len(kept.book.bids)) > MOST_LEVELS:
                self._give_up(key, kept)
                kept.too_large = True
                given_up.append(key)
            kept.session = depth.session
            kept.seen = kept.depth_seq = depth.seq
            kept.received_us = depth.received_us
            self._changed[key] = kept
        return given_up

    def _take_snapshot(self, key: bytes, kept: _Kept, depth: _Depth, *, is_next: bool) -> None:
        """Replace a book; compare the snapshot with what was kept, if both show the same moment."""
        found = Book()
        found.replace(depth.asks, depth.bids)
        if is_next:
            self.doubts.compared(
                key, depth.session, differences(kept.book, found), "a snapshot within the session"
            )
        elif kept.whole and depth.session != kept.session:
            books = kept.book, found
            differing = self._rotations.compared(key, kept.session, depth.session, books)
            if differing is not None:
                with_what = f"the snapshot of the session that has replaced {kept.session}"
                self.doubts.compared(key, depth.session, differing, with_what)
        found.absent = kept.book.absent
        kept.book, kept.whole, kept.too_large = found, True, False
        self.missing.pop(key, None)
        self.doubts.forget(key)

    def _miss(self, key: bytes, kept: _Kept, session: str) -> None:
        """Take no change of this session behind a record that is missing."""
        if kept.whole:
            self._give_up(key, kept)
        if not kept.too_large:
            self.missing[key] = session

    def _give_up(self, key: bytes, kept: _Kept) -> None:
        """Keep no book of a symbol until its next snapshot."""
        kept.book.replace((), ())
        kept.whole = False
        self.doubts.forget(key)
        self._rotations.forget(key)

    def due(self, now_us: int) -> Iterator[Record]:
        """Return a record of each book that has changed and whose last record is older than the interval."""
        for key, kept in self._changed.items():
            # A clock that was set back must not keep a book waiting.
            if kept.whole and kept.seen == kept.depth_seq and abs(now_us - kept.made_us) >= self._interval_us:
                kept.making = kept.session, kept.depth_seq
                crossed = kept.book.crossed
                if crossed:
                    self.doubts.note_crossed(key, kept.session, kept.received_us)
                view = kept.book.view(self._levels)
                value = BookRecord(
                    schema=_SCHEMA,
                    session=kept.session,
                    seq=kept.seqs.get(kept.session, 0),
                    received_us=kept.received_us,
                    symbol=key.decode(),
                    depth_session=kept.session,
                    depth_seq=kept.depth_seq,
                    asks=Raw(view.asks.encode()),
                    bids=Raw(view.bids.encode()),
                    crossed=crossed,
                    truncated=view.truncated,
                )
                yield Record(BOOK, key, _encode(value), kept.received_us)

    def made(self, records: Sequence[Record], now_us: int) -> None:
        """Note that records which were `due` at this time are on Kafka."""
        for record in records:
            kept = self._kept.get(record.key or b"")
            if kept is not None and record.value:  # not a tombstone
                session, _ = kept.making
                kept.seqs[session] = kept.seqs.pop(session, 0) + 1
                if len(kept.seqs) > _SESSIONS:
                    del kept.seqs[next(iter(kept.seqs))]
        self.refused(records, now_us)

    def refused(self, records: Iterable[Record], now_us: int) -> None:
        """Note that records which were `due` at this time will not be on Kafka: they have no number."""
        for record in records:
            key = record.key or b""
            kept = self._kept.get(key)
            if kept is not None and record.value:  # not a tombstone
                kept.made_us = now_us
                if (kept.session, kept.depth_seq) == kept.making:
                    self._changed.pop(key, None)

    def repeat(self) -> None:
        """Make all books again, because those that were made are lost."""
        self._changed.update(self._kept)

    def keeps(self, key: bytes) -> bool:
        """Return whether it follows a symbol."""
        return key in self._kept

    def note_ticker(self, key: bytes, best: Best, now_us: int, noted_us: Mapping[str, int]) -> None:
        """Compare the book of a symbol, if one is kept, with the best prices of its ticker.

        `noted_us` is the same as of `Doubts.look`: the book of a session that is not in use is not compared.
        """
        kept = self._kept.get(key)
        if kept is None or not kept.whole or kept.seen != kept.depth_seq:
            return
        up_to_us = noted_us.get(kept.session)
        if up_to_us is not None:
            self.doubts.note_ticker(key, kept.session, kept.book, best, (now_us, up_to_us))

    def begin_rotation(self, sessions: Collection[str], now_us: int) -> None:
        """Note that sessions are being replaced from now on."""
        self._rotations.begin(sessions, now_us)

    def end_rotation(self, sessions: Collection[str]) -> None:
        """Note that sessions are not being replaced any more."""
        self._rotations.end(sessions)

    def clock_was_set(self, now_us: int) -> None:
        """Forget what was found by the clock's earlier times; `now_us` is later than all of them.

        Sessions that are being replaced are not compared: which of their records came after the beginning
        cannot be told any more.
        """
        self.doubts.restart(now_us)
        self._rotations.end(list(self._rotations.since))

    def replaced(self, olds: Collection[str], new: str, keys: Iterable[bytes]) -> None:
        """Note that a session has replaced others; the first snapshots of `keys` can be compared."""
        wanted = self._wanted
        self._rotations.replaced(olds, new, (key for key in keys if wanted is None or key in wanted))

    def forget(self, key: bytes) -> None:
        """Forget a symbol that is not followed any more."""
        self.doubts.forget(key)
        self._rotations.forget(key)
        self._kept.pop(key, None)
        self._changed.pop(key, None)
        self.missing.pop(key, None)
