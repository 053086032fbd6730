"""The committed offsets of a spool: the bookkeeping between memory, disk and Kafka.

Each quantity has one word, and is kept by partition:

    offset      The number of a record within its partition of the spool, from 0 since the spool began. As in
                Kafka it never changes: a record that was lost or rejected leaves a hole.
    end         The offset that the next appended record gets.
    position    The offset of the next record to be read from disk into memory; from there on it is unread.
    pending     Records in memory that are not settled: queued, or sent and not settled yet.
    settled     Delivery is final: the record's batch was acknowledged (at-least-once), or its transaction
                was committed (exactly-once). It leaves memory.
    spooled     The offsets of the pending records that are in the spool; they always precede all others.
    committed   The offset below which nothing is left to deliver: the first of `spooled`, or the
                position if there is none. Saved in bridge-state by the transaction that makes it true.

Nothing else is counted. A record lost to damage is below the position once the damage was found, and a record
that Kafka rejected leaves memory; so both are below `committed` when all in front of them is settled.

An example: one partition, and memory that holds four records.

                                                   memory       end   position   committed
     1  a b c d arrive, Kafka is unavailable       a b c d       -       -          -
     2  one more would be too many: spooling
        starts, and all of memory is appended      a0 b1 c2 d3   4       4          0
     3  e f g arrive and are appended              a0 b1 c2 d3   7       4          0
     4  Kafka recovers; a b are sent and settled   c2 d3         7       4          2
     5  e f are read from disk                     c2 d3 e4 f5   7       6          2
     6  Kafka rejects c, which is given up         d3 e4 f5      7       6          3
     7  the block with g is damaged: g is lost     d3 e4 f5      7       7          3
     8  nothing is unread: h stays in memory       d3 e4 f5 h    7       7          3
     9  d e are sent; transaction 9 saves 5        d3 e4 f5 h    7       7          3, then 5
    10  the process is killed                      -             7       -          3 or 5

The next process reads bridge-state. If transaction 9 was committed, committed is 5, and it continues with f;
otherwise it is 3, and it continues with d. h was never on disk, so it is lost with the process: if it is a
trade, the exchange sends it again, in the list that begins the next session.

If memory overflowed again at step 9, before Kafka has answered the commit, h would get offset 7, and the
header of the new segment would say "settled up to 3; up to 5 if transaction 9 is committed". With f and h
sent as well it would say 8, where bridge-state says 7: h had no offset when the commit was requested. So if
memory overflows again after Kafka's answer, the next header says "settled up to 8".
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bridge.records import Record
from bridge.spool.segment import Commit, Header, Offsets, Place


class Backlog(NamedTuple):
    """The pending records of a partition, in order.

    `sent` of them were sent and are not settled. `spooled` are the offsets of those that are in the spool.
    """

    place: Place
    records: Sequence[Record]
    sent: int
    spooled: Sequence[int]


def settled_offset(backlog: Backlog, end: int) -> int:
    """Return the offset of the first pending record, once all are in a spool that ended at `end`."""
    return backlog.spooled[0] if backlog.spooled else end


def first_unsent(backlog: Backlog, end: int) -> int:
    """Return the offset of the first unsent record, once all are in a spool that ended at `end`."""
    spooled = len(backlog.spooled)
    return backlog.spooled[backlog.sent] if backlog.sent < spooled else end + backlog.sent - spooled


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """The replica that serves a shard, how many shards there are, and the number of its last commit."""

    replica: str
    shards: int
    transaction: int

    saved_us: int = 0
    """All that was received up to then is on Kafka, in µs since the epoch; 0 if that is unknown."""

    ended: bool = False
    """Whether it has stopped, with all that it received on Kafka."""

    group: str = ""
    """The consumer group that it is a member of; "" if that is unknown."""

    lease: float = 0.0
    """Seconds without a new transaction after which it counts as gone; 0 if that is unknown."""


class Progress(msgspec.Struct, frozen=True):
    """The committed offsets of a spool as bridge-state has them, saved by `transaction`."""

    spool: str
    committed: Offsets
    transaction: Commit


decode_progress = msgspec.json.Decoder(Progress).decode


def outdated(header: Header, previous: Owner | None, known: Progress | None, shards: int) -> str | None:
    """Return why a spool has to be discarded; None if the replicas that wrote it served the shard last."""
    if previous is None:
        return None
    if previous.shards != shards:
        return f"there were {previous.shards} shards, now there are {shards}"
    last = Commit(previous.replica, previous.transaction)
    if previous.replica == header.replica or last == header.predecessor:
        return None
    # The last replica could not write to the disk, but it saved its offsets in the spool.
    if known is not None and (known.spool, known.transaction) == (header.spool, last):
        return None
    return f"{previous.replica} has served the shard since"


def committed_offsets(header: Header, previous: Owner | None, known: Progress | None) -> Offsets:
    """Return the committed offsets of a spool, according to its newest header and bridge-state.

    Offsets only grow, so the highest that is known is right: bridge-state may lack records that were settled
    after its last commit was requested, and the header those that were committed after it was written.
    """
    committed = dict(header.settled)
    if known is not None and known.spool == header.spool:
        _advance(committed, known.committed)
    if previous is not None and Commit(previous.replica, previous.transaction) == header.transaction:
        _advance(committed, header.committed)
    return committed


def _advance(offsets: Offsets, others: Offsets) -> None:
    for place, offset in others.items():
        offsets[place] = max(offset, offsets.get(place, 0))
