"""Book: the order book of one symbol, rebuilt from its records of `depth`, and of `book` if you read that.

From `depth` alone a book is complete from the first snapshot on. With `book` it need not wait for one: a
record of `book` contains everything up to one record of `depth`, and the book goes on with the one after
that. There is no order between the two topics, so either may be ahead:

- The record of `book` comes first, with everything up to seq 7. Records of `depth` up to 7 are skipped, and 8
  is applied.
- Records 6 to 9 of `depth` come first. They wait. Then comes a record of `book` up to 7: 8 and 9 are applied.
  One up to 4 would be no use, since 5 was not read; the next one is waited for.
- A record of `book` comes first, and `depth` is read from long before it. The records of earlier sessions
  are skipped, because with their snapshots the book would go back in time.
"""

from collections.abc import Iterable
from decimal import Decimal

from bridge.consumer.continuity import Continuity
from bridge.consumer.records import BookRecord, Depth, Level

MOST_WAITING = 1_000
"""Records of `depth` that wait for one of `book`; of more, the oldest are forgotten."""


class Book:
    """The order book of one symbol: price to amount, of each side.

    Prices are compared by value, as decimals are: 1.0 and 1.00 are one price.
    """

    def __init__(self) -> None:
        self.asks: dict[Decimal, Decimal] = {}
        self.bids: dict[Decimal, Decimal] = {}
        # The last record of `depth` that the levels contain; "" and -1 before the first.
        self.session = ""
        self.seq = -1
        # Whether the levels contain all records of `depth` that were read. False before the first snapshot or
        # record of `book`, and from a missing record to the next of these that makes it good.
        self.complete = False
        self._continuity = Continuity()  # of `depth`
        self._begun = False  # whether a record of `depth` was read
        self._whole: BookRecord | None = None  # the newest record of `book`
        # The `received_us` of the record of `book` that the levels are from; 0: there is none, or `depth` has
        # reached its session.
        self._since_us = 0
        # Changes that were read and that the levels do not contain, in order; empty while complete.
        self._waiting: list[Depth] = []

    def apply(self, record: Depth | BookRecord) -> bool:
        """Apply the symbol's next record; return whether the book is complete now.

        A truncated record of `book` is ignored, because it cannot be continued.
        """
        if isinstance(record, Depth):
            if not self._continuity.check(record).repeated and not self._precedes(record):
                self._begun = True
                self._since_us = 0
                self._follow(record)
        elif not record.truncated:
            self._whole = record
            # Once `depth` is followed, it alone decides what the book is: that of `book` may be ahead of it.
            if not (self.complete and self._begun):
                self._join(record)
        return self.complete

    def clear(self) -> None:
        """Forget the levels, because the bridge does not follow the symbol any more: its book is a tombstone.

        The book is complete again with the next record of `book`, or the next snapshot.
        """
        self.asks.clear()
        self.bids.clear()
        self._waiting.clear()
        self._whole = None
        self.session, self.seq, self._since_us = "", -1, 0
        self.complete = self._begun = False

    @property
    def best_ask(self) -> Level | None:
        """The lowest ask; None without asks."""
        return Level(price := min(self.asks), self.asks[price]) if self.asks else None

    @property
    def best_bid(self) -> Level | None:
        """The highest bid; None without bids."""
        return Level(price := max(self.bids), self.bids[price]) if self.bids else None

    def _precedes(self, record: Depth) -> bool:
        """Return whether a record of `depth` is of a session before that of the record of `book`.

        At a rotation, the first records of the new session may have the time of the last ones of the old
        session. Of these, a snapshot begins the new session, whose changes come after it.
        """
        if record.session == self.session or record.received_us > self._since_us:
            return False
        return record.received_us < self._since_us or not record.snapshot

    def _follow(self, record: Depth) -> None:
        """Take the next record of `depth`."""
        same = record.session == self.session
        if same and record.seq <= self.seq:
            self._waiting.clear()  # they came before this one, which the levels contain
            self.complete = True
        elif record.snapshot:
            self.asks.clear()
            self.bids.clear()
            self._waiting.clear()
            self._change(record)
            self.complete = True
        elif self.complete and same and record.seq == self.seq + 1:
            self._change(record)
        else:
            self.complete = False
            self._waiting.append(record)
            del self._waiting[:-MOST_WAITING]
            whole = self._whole
            # Another record could not have become a successor of what `whole` contains.
            if whole and record.session == whole.depth_session and record.seq <= whole.depth_seq + 1:
                self._join(whole)

    def _join(self, whole: BookRecord) -> None:
        """Begin with a record of `book`, unless changes are missing between it and the last that was read."""
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.session != whole.depth_session:
            return  # it is of an earlier session than what was read last, or of one whose snapshot comes next
        after = [
            one for one in self._waiting if one.session == whole.depth_session and one.seq > whole.depth_seq
        ]
        if last is not None and [one.seq for one in after] != list(range(whole.depth_seq + 1, last.seq + 1)):
            return
        self.asks = {level.price: level.amount for level in whole.asks}
        self.bids = {level.price: level.amount for level in whole.bids}
        self.session, self.seq = whole.depth_session, whole.depth_seq
        self._since_us = whole.received_us if last is None else 0
        for record in after:
            self._change(record)
        self._waiting.clear()
        self.complete = True

    def _change(self, record: Depth) -> None:
        _change(self.asks, record.asks)
        _change(self.bids, record.bids)
        self.session, self.seq = record.session, record.seq


def _change(side: dict[Decimal, Decimal], levels: Iterable[Level]) -> None:
    for level in levels:
        if level.amount:
            side[level.price] = level.amount
        else:
            side.pop(level.price, None)
