"""The spool on disk returns its entries in order, whatever ends the process or damages the files."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bridge.errors import SpoolFull
from bridge.ledger import advanced
from bridge.records import Open, Record
from bridge.spool.segment import Entry, Header, Offsets, shares
from bridge.spool.spool import Spool, Spooled
from tests.support.disk import damage, largest_file

PLACES = ["trades/0", "trades/1", "depth/0"]


def entry(number: int) -> Entry:
    value = b'{"n":%d}' % number
    mark = (number, number, 0, Open())
    return PLACES[number % 3], Record("trades", b"BTC_USDT", value, 1_000_000 + number, mark)


def numbers(entries: list[Spooled]) -> list[int]:
    return [record.mark[0] for _, record, _ in entries if record.mark and record.mark[0] is not None]


def header() -> Header:
    return Header("spool", "replica", None, {}, {}, None, {})


class Disk:
    """A folder, and the spools that were opened in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: list[Spool] = []

    def open(self, max_bytes: int = 1_000_000, segment_bytes: int = 600) -> Spool:
        """Open a spool, as another process would."""
        self._open.append(Spool(self.folder, max_bytes, segment_bytes))
        return self._open[-1]

    def begun(self, max_bytes: int = 1_000_000, segment_bytes: int = 600) -> Spool:
        """Open a spool that was not there, and begin it."""
        spool = self.open(max_bytes, segment_bytes)
        assert spool.find() is None
        spool.begin(header())
        return spool

    def found(self, committed: Offsets | None = None) -> Spool:
        """Open what is there, as the next process does."""
        self.close()
        spool = self.open()
        assert spool.find() is not None
        spool.skip(committed or {})
        return spool

    def close(self) -> None:
        """Close all that are open, as the end of their processes does."""
        for spool in self._open:
            spool.close()

    def segments(self) -> list[Path]:
        """Return the files of the segments, the oldest first."""
        return sorted(self.folder.glob("*.spool"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.close()


def append_all(spool: Spool, size: int, refusal: type[Exception]) -> int:
    """Append entries, `size` at a time, until they are refused; return how many there are."""
    for n in itertools.count(step=size):
        try:
            spool.append([entry(n + i) for i in range(size)])
        except refusal:
            return n
    raise AssertionError


def rest(spool: Spool) -> list[int]:
    read: list[int] = []
    while (entries := spool.read()) is not None:
        read += numbers(entries)
    return read


def behind(numbers: list[int]) -> Offsets:
    """Return the offsets behind these entries, which are all from the first one on."""
    return {place: sum(PLACES[n % 3] == place for n in numbers) for place in PLACES}


def positions(spool: Spool) -> Offsets:
    return {place: spool.position(place) for place in PLACES}


def test_entries_are_read_in_order_while_more_are_appended(disk: Disk) -> None:
    spool = disk.begun()
    read = []
    for n in range(0, 200, 2):
        spool.append([entry(n), entry(n + 1)])
        if n % 3 == 0:
            read += numbers(spool.read() or [])
    assert len(disk.segments()) > 3
    assert read + rest(spool) == list(range(200))
    assert spool.unread == 0


def test_segments_that_kafka_has_are_deleted_from_the_front(disk: Disk) -> None:
    spool = disk.begun()
    for n in range(100):
        spool.append([entry(n)])
    before = len(disk.segments())
    assert rest(spool) == list(range(100))
    assert not spool.forget(behind(list(range(50))))
    assert 1 < len(disk.segments()) < before
    assert spool.bytes == sum(path.stat().st_size for path in disk.segments())
    assert spool.forget(behind(list(range(100))))
    assert len(disk.segments()) == 1
    spool.clear()
    assert not disk.segments()
    assert (spool.header, spool.bytes) == (None, 0)


def test_the_next_process_continues_behind_the_committed_offsets(disk: Disk) -> None:
    spool = disk.begun()
    for n in range(100):
        spool.append([entry(n)])
    rest(spool)
    spool.forget(behind(list(range(30))))
    after = disk.found(behind([*range(40), 42]))
    after.begin(header())
    after.append([entry(100)])
    assert rest(after) == [40, 41, *range(43, 101)]
    assert after.unread == 0
    assert after.watermarks[b"BTC_USDT"].ids[-1] == 100


@pytest.mark.parametrize("torn", range(1, 30, 4))
def test_a_torn_end_is_cut_off_and_reported(disk: Disk, torn: int) -> None:
    spool = disk.begun()
    for n in range(20):
        spool.append([entry(n)])
    (*_, last) = disk.segments()
    left = last.stat().st_size - torn
    os.truncate(last, left)
    after = disk.found()
    (damage,) = after.damage()
    assert "torn end" in damage
    assert last.stat().st_size < left
    after.begin(header())
    after.append([entry(20)])
    assert rest(after) == [*range(19), 20]


def test_a_first_segment_with_a_torn_header_is_reported_and_a_new_one_begins(disk: Disk) -> None:
    disk.begun()
    disk.close()
    os.truncate(disk.segments()[0], 5)
    after = disk.open()
    assert after.find() is None
    assert "no header" in after.damage()[0]
    after.begin(header())
    after.append([entry(1)])
    assert rest(after) == [1]


@pytest.mark.parametrize("at", ["header", "middle"])
def test_damage_costs_the_rest_of_its_segment_and_is_reported_with_a_number(disk: Disk, at: str) -> None:
    spool = disk.begun()
    for n in range(100):
        spool.append([entry(n)])
    disk.close()
    path = disk.segments()[2]
    damage(path, 10 if at == "header" else path.stat().st_size // 2)
    for _ in range(2):  # the next process sees the same
        after = disk.found()
        after.begin(header())
        left = rest(after)
        lost = sorted(set(range(100)) - set(left))
        assert left == sorted(left)
        assert lost == list(range(lost[0], lost[-1] + 1))
        assert f"{len(lost)} records are lost" in after.damage()[-1]
        (missing,) = after.lost_trades()
        assert (missing.symbol, missing.after.last) == (b"BTC_USDT", (lost[0] - 1, lost[0] - 1))
        assert missing.before is not None
        assert missing.before.mark == (lost[-1] + 1, lost[-1] + 1, 0, Open())
        assert after.unread == 0
    assert positions(after) == behind(list(range(100)))
    assert after.forget(positions(after))
    assert len(disk.segments()) == (2 if at == "header" else 1)


def test_lost_trades_are_reported_without_an_end_if_no_trade_of_their_symbol_follows(disk: Disk) -> None:
    spool = disk.begun()
    numbers = itertools.count()
    while len(disk.segments()) < 2:  # the last of them is the first of the second segment
        spool.append([entry(next(numbers))])
    while len(disk.segments()) < 4:
        place, record = entry(next(numbers))
        spool.append([(place, replace(record, key=b"ETH_USDT"))])
    disk.close()
    damage(disk.segments()[1], 10)
    after = disk.found()
    rest(after)
    (missing,) = [one for one in after.lost_trades() if one.symbol == b"BTC_USDT"]
    assert missing.before is None


@pytest.mark.parametrize("known", [-1, 3])
def test_a_lost_first_segment_is_reported_with_the_records_that_kafka_does_not_have(
    disk: Disk, known: int
) -> None:
    spool = disk.begun()
    for n in range(100):
        spool.append([entry(n)])
    damage(disk.segments()[0], 10)
    disk.close()
    after = disk.open()
    assert after.find() is not None
    on_kafka = list(range(known + 1))
    after.on_kafka = advanced({}, [entry(n)[1] for n in on_kafka])
    after.skip(behind(on_kafka))
    left = rest(after)
    assert left == list(range(left[0], 100))
    assert f"{left[0] - known - 1} records in front of" in after.damage()[-1]
    assert after.unread == 0
    assert [(one.after.ids[-1], one.before) for one in after.lost_trades()] == [(3, entry(left[0])[1])] * (
        known > 0
    )
    assert positions(after) == behind(list(range(100)))
    assert after.forget(positions(after))


def test_damage_to_records_that_kafka_has_costs_nothing_else(disk: Disk) -> None:
    spool = disk.begun()
    for n in range(100):
        spool.append([entry(n)])
    second = disk.segments()[1]
    damage(second, second.stat().st_size // 2)
    left = rest(disk.found())
    lost = sorted(set(range(100)) - set(left))
    inside = lost[len(lost) // 2]
    for on_kafka in (lost[0] - 1, inside, lost[-1], lost[-1] + 1):
        after = disk.found(behind(list(range(on_kafka + 1))))
        assert rest(after) == [n for n in left if n > on_kafka]
        assert after.unread == 0
        reported = f"{lost[-1] - max(on_kafka, lost[0] - 1)} records are lost"
        assert [reported in one for one in after.damage()] == [True] * (on_kafka < lost[-1])


def test_the_maximum_size_refuses_an_append_as_a_whole(disk: Disk) -> None:
    spool = disk.begun(max_bytes=4000)
    added = append_all(spool, 2, SpoolFull)
    assert spool.full(0.9)
    assert spool.bytes <= 4000
    assert rest(spool) == list(range(added))


def test_a_full_disk_leaves_earlier_entries_intact(disk: Disk) -> None:
    spool = disk.begun(segment_bytes=1_000_000)
    with largest_file(2000):
        added = append_all(spool, 1, OSError)
    spool.append([entry(added)])
    assert rest(spool) == list(range(added + 1))
    assert rest(disk.found()) == list(range(added + 1))


def test_a_segment_that_can_not_be_created_changes_nothing(disk: Disk) -> None:
    spool = disk.begun()
    spool.append([entry(0)])
    with largest_file(10), pytest.raises(OSError, match="too large"):
        spool.begin(header())
    assert len(disk.segments()) == 1
    spool.append([entry(1)])
    assert rest(spool) == [0, 1]


def test_two_bridges_can_not_share_a_folder(disk: Disk) -> None:
    disk.begun()
    with pytest.raises(BlockingIOError, match="another bridge uses this folder"):
        disk.open().find()
    disk.close()
    found = disk.open().find()
    assert found == header()


def test_entries_in_front_of_seek_end_are_not_read(disk: Disk) -> None:
    spool = disk.begun()
    for n in range(30):
        spool.append([entry(n)])
    spool.seek_end()
    assert spool.unread == 0
    spool.append([entry(30)])
    assert rest(spool) == [30]


def test_an_unreadable_segment_costs_its_records_and_is_reported_once(disk: Disk) -> None:
    """Also if it is the newest one, to which entries are appended: later ones go to another."""
    spool = disk.begun()
    spool.on_kafka = advanced({}, [entry(0)[1]])
    for n in range(100):
        spool.append([entry(n)])
    disk.segments()[-1].unlink()
    left = rest(spool)
    assert left == list(range(len(left)))
    assert f"{100 - len(left)} records are lost" in spool.damage()[-1]
    assert spool.read() is None
    assert spool.damage() == []
    (missing,) = spool.lost_trades()
    assert missing.after.ids[-1] <= left[-1]
    spool.append([entry(100)])
    assert rest(spool) == [100]
    assert spool.damage() == []
    spool.clear()
    spool.begin(header())
    for n in range(100):  # in segments with the names of the earlier ones
        spool.append([entry(n)])
    assert rest(spool) == list(range(100))


def test_large_records_are_written_one_by_one_and_small_ones_together() -> None:
    """All that waits is spooled at once: its copies would take as much memory as what waits."""
    sizes = [1_500_000, 1_500_000, *[1000] * 2500, 1_500_000]
    records = [Record("trades", b"A", bytes(size), number) for number, size in enumerate(sizes)]
    written = list(shares(records))
    assert [one for share in written for one in share] == records
    assert [len(share) for share in written] == [1, 1, 1000, 1000, 500, 1]
    assert list(shares([])) == []
