"""The state of a shard: what is forgotten of old markets, and when; and whether it was taken over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import msgspec
import pytest

from bridge.config import KafkaConfig
from bridge.errors import ShardLost
from bridge.kafka import reader
from bridge.kafka import state as states
from bridge.kafka.contents import OWNER, owner_of
from bridge.kafka.reader import Read
from bridge.kafka.state import ShardState, Unsaved
from bridge.kafka.topics import Topic
from bridge.ledger import Watermark
from bridge.records import BOOK, STATE, Open, Record
from bridge.spool.progress import Owner

DAY_US = 86_400_000_000
NOW_US = 1_600_000_000_000_000
NOTHING = Unsaved(None, None)
KEPT = {b"NEW_USDT", b"QUIET_USDT"}


def state_of(**ages: int) -> ShardState:
    """Return a state with the last trade of each symbol so many days old."""
    state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, "replica")
    for name, days in ages.items():
        state.watermarks[f"{name.upper()}_USDT".encode()] = Watermark([1], [NOW_US - days * DAY_US])
    return state


def saved(state: ShardState, *records: Record) -> dict[bytes, bytes | None]:
    """Save it with these records, and return the values by symbol."""
    save = state.save(records, NOTHING)
    state.saved(save)
    return {key[7:]: value for key, value in save.values.items() if key.startswith(b"trades/")}


def trade(symbol: bytes) -> Record:
    return Record("trades", symbol, b"{}", NOW_US, (2, NOW_US, 0, Open()))


def test_a_market_that_is_gone_and_silent_is_forgotten_by_a_tombstone_once() -> None:
    state = state_of(gone=31, new=29, quiet=400)
    assert state.forget_old({"QUIET_USDT"}, NOW_US - 30 * DAY_US) == 1
    assert state.unsaved
    assert saved(state) == {b"GONE_USDT": None}
    assert state.watermarks.keys() == KEPT
    assert saved(state) == {}
    assert not state.unsaved


def test_a_tombstone_that_is_not_saved_yet_is_kept_for_the_next_save() -> None:
    state = state_of(gone=31)
    state.forget_old((), NOW_US - 30 * DAY_US)
    state.save((), NOTHING)  # and its transaction is aborted
    assert saved(state) == {b"GONE_USDT": None}


def test_a_market_that_is_traded_again_before_its_tombstone_is_not_forgotten() -> None:
    state = state_of(gone=31)
    state.forget_old((), NOW_US - 30 * DAY_US)
    values = saved(state, trade(b"GONE_USDT"))
    assert values[b"GONE_USDT"]
    assert saved(state) == {}
    assert state.watermarks[b"GONE_USDT"].ids == [1, 2]


def test_a_trade_that_is_acknowledged_while_the_tombstone_is_saved_stays() -> None:
    state = state_of(gone=31)
    state.forget_old((), NOW_US - 30 * DAY_US)
    save = state.save((), NOTHING)
    state.acknowledged([trade(b"GONE_USDT")])
    state.saved(save)
    assert state.watermarks[b"GONE_USDT"].ids == [1, 2]
    assert saved(state)[b"GONE_USDT"]


@pytest.mark.parametrize("number", [1, 1000])
def test_a_market_that_comes_back_after_it_was_forgotten_begins_anew(number: int) -> None:
    state = state_of(**{f"gone{n}": 31 for n in range(number)})
    assert state.forget_old((), NOW_US - 30 * DAY_US) == number
    saved(state)
    assert not state.watermarks
    assert saved(state, trade(b"GONE0_USDT"))[b"GONE0_USDT"]
    assert state.watermarks[b"GONE0_USDT"].ids == [2]


def test_what_is_written_anew_goes_back_behind_no_trade_of_the_same_save() -> None:
    state = state_of(busy=1, quiet=1)
    state.write_anew()
    first = saved(state, trade(b"BUSY_USDT"))
    assert first.keys() == {b"BUSY_USDT", b"QUIET_USDT"}
    assert b'"ids":[1,2]' in (first[b"BUSY_USDT"] or b"")
    assert saved(state) == {}


def test_a_commit_that_had_succeeded_is_part_of_what_is_written_anew() -> None:
    """Its save went to the bridge-state that is lost."""
    state = state_of(busy=1, quiet=1)
    commit = state.save([trade(b"BUSY_USDT")], NOTHING)
    state.write_anew()
    state.saved(commit)
    state.write_anew()
    assert b'"ids":[1,2]' in (saved(state)[b"BUSY_USDT"] or b"")


def test_a_tombstone_outlives_that_all_is_written_anew() -> None:
    state = state_of(gone=31, new=1)
    state.forget_old((), NOW_US - 30 * DAY_US)
    state.write_anew()
    values = saved(state)
    assert values[b"GONE_USDT"] is None
    assert values[b"NEW_USDT"]


def book(symbol: bytes, value: bytes = b"{}") -> Record:
    return Record(BOOK, symbol, value, NOW_US)


def saved_books(state: ShardState, *records: Record) -> dict[bytes, bytes | None]:
    """Save that these records of book are sent, and return the values of books by symbol."""
    state.note_books(records)
    save = state.save((), NOTHING)
    state.saved(save)
    return {key[5:]: value for key, value in save.values.items() if key.startswith(b"book/")}


def test_which_symbols_have_a_book_is_saved_once_each_and_again_with_its_tombstone() -> None:
    state = state_of()
    assert saved_books(state, book(b"A_USDT"), book(b"B_USDT")) == {b"A_USDT": b"{}", b"B_USDT": b"{}"}
    assert state.books == {b"A_USDT", b"B_USDT"}
    assert saved_books(state, book(b"A_USDT")) == {}
    assert saved_books(state, book(b"A_USDT", b"")) == {b"A_USDT": None}
    assert state.books == {b"B_USDT"}
    assert saved_books(state, book(b"B_USDT", b""), book(b"B_USDT")) == {b"B_USDT": b"{}"}
    assert state.books == {b"B_USDT"}


def test_books_that_bridge_state_has_lost_are_written_anew() -> None:
    state = state_of()
    saved_books(state, book(b"A_USDT"))
    state.write_anew()
    assert saved_books(state, book(b"A_USDT")) == {b"A_USDT": b"{}"}


class Saves:
    """Stands in for the partition of a shard: the saves there, each one record and its marker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records: list[tuple[bytes, bytes | None] | None] = []  # None: a marker
        self.end: int | None = None  # the end of what is committed; None: of all that is there
        self.state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, "replica")
        monkeypatch.setattr(reader, "read", self._read)
        monkeypatch.setattr(reader, "_end", self._end)
        monkeypatch.setattr(states, "consumer", self._consumer)

    @asynccontextmanager
    async def _consumer(self, _config: KafkaConfig) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(partitions_for_topic=lambda _topic: {0})

    async def _read(
        self, _one: object, _topic: str, offsets: dict[int, int | None], _begun: object = None
    ) -> dict[int, Read]:
        part = Read({}, {}, len(self.records) if self.end is None else self.end)
        for record in self.records[offsets[0] or 0 : part.end]:
            if record is not None:
                part.values.pop(record[0], None)
                part.values[record[0]] = record[1]
                if (owner := owner_of(record[1])) is not None:
                    part.owners[owner.replica] = owner
        return {0: part}

    def of_other(self, replica: str, transaction: int) -> None:
        """Another replica saves."""
        owner = Owner(replica, 1, transaction, ended=True, group=KafkaConfig().group_id, lease=10.0)
        self.records += [(OWNER, msgspec.json.encode(owner)), None]

    def take_over(self) -> None:
        asyncio.run(self.state.catch_up())

    def of_own(self) -> int:
        """This replica saves; return the offset of the save."""
        save = self.state.save((), NOTHING)
        first = len(self.records)
        self.records += [*save.values.items(), None]
        save.places.append((first, len(save.values)))
        self.state.saved(save)
        return first

    def look(self) -> None:
        asyncio.run(self.state.look())

    async def _end(self, *_: object) -> int:
        return len(self.records)


@pytest.mark.parametrize("saves", [1, 3])
def test_a_shard_is_not_given_up_to_the_replica_before_while_a_commit_is_not_visible_yet(
    monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    """A broker that dies after its answer to a commit has not written the marker yet."""
    partition = Saves(monkeypatch)
    partition.of_other("before", 41)
    partition.take_over()
    for _ in range(saves):
        partition.end = partition.of_own()
    partition.look()
    partition.end = None
    partition.look()
    assert not partition.state.was_lost


@pytest.mark.parametrize("replica", ["before", "after"])
def test_a_shard_is_given_up_to_who_has_saved_last_in_what_is_left_of_its_partition(
    monkeypatch: pytest.MonkeyPatch, replica: str
) -> None:
    """The one before may be back as well."""
    partition = Saves(monkeypatch)
    partition.of_other("before", 41)
    partition.take_over()
    for _ in range(5):
        partition.of_own()
    del partition.records[4:]
    partition.of_other(replica, 42)
    with pytest.raises(ShardLost, match=f"replica {replica} has taken over"):
        partition.look()
