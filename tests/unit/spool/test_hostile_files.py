"""Whatever lies in the folder of a spool: nothing hangs or stops it, and it uses and changes only its own."""

import errno
import fcntl
import os
import socket
import stat
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from structlog.typing import EventDict

from bridge.ledger import advanced
from bridge.records import Open, Record
from bridge.spool.segment import Entry, Header, blocks_of, header_block
from bridge.spool.spool import Spool

PLACE = "md.trades.v1/0"
HEADER = Header("spool", "replica", None, {}, {}, None, {})
FIRST = "000000000001.spool"
LEFT_ALONE = "files in the spool directory left alone"
MIB = 1024 * 1024
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def entry(number: int, place: str = PLACE) -> Entry:
    return place, Record("trades", b"BTC_USDT", b'{"n":%d}' % number, number, (number, number, 0, Open()))


def is_ours(entry: Entry) -> bool:
    return entry[0] == PLACE


def opened(folder: Path, known: str | None = None) -> Spool:
    spool = Spool(folder, 10_000_000, 600, accepts=is_ours)
    spool.find(known)
    spool.skip({})
    return spool


def rest(spool: Spool) -> list[int]:
    read: list[int] = []
    while (entries := spool.read()) is not None:
        read += [record.time_us for _, record, _ in entries]
    return read


def spooled(folder: Path, *numbers: int, header: Header = HEADER) -> None:
    """Leave these entries in a folder, as an earlier process would."""
    spool = Spool(folder, 10_000_000)
    spool.find()
    spool.begin(header)
    for number in numbers:
        spool.append([entry(number)])
    spool.close()


@contextmanager
def works(folder: Path, *found: int) -> Iterator[Spool]:
    """The spool of a folder, in which these entries are found, and which takes more."""
    spool = opened(folder)
    spool.begin(spool.header or HEADER)
    spool.append([entry(100)])
    assert rest(spool) == [*found, 100]
    assert spool.unread == 0
    yield spool
    spool.close()


def names_left_alone(logs: list[EventDict]) -> list[object]:
    return [name for line in logs if line["event"] == LEFT_ALONE for name in line["files"]]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "content").touch()


def a_socket(path: Path) -> None:
    where = os.open(path.parent, os.O_RDONLY)
    try:  # by way of /proc, because the path of a test's folder can be too long for a socket
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{where}/{path.name}")
    finally:
        os.close(where)


def a_device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero, which never ends
    except PermissionError:
        pytest.skip("not allowed to make devices")


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "nowhere")


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def a_link_to_a_spool(path: Path) -> None:
    other = path.parent.parent / "other"
    spooled(other, 66)
    path.symlink_to(other / FIRST)


KINDS = [a_fifo, a_folder, a_socket, a_device, a_dangling_link, a_loop, a_link_to_a_spool]


def test_a_spool_that_begins_without_a_look_at_an_earlier_one_has_its_folder_locked_too(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "spool", 10_000_000)
    spool.begin(HEADER)
    with pytest.raises(BlockingIOError, match="another bridge uses this folder"):
        opened(tmp_path / "spool")
    spool.close()
    with works(tmp_path / "spool"):
        pass


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_folder_and_files_are_for_this_user_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        spooled(tmp_path / "spool", 1)
    finally:
        os.umask(before)
    assert mode(tmp_path / "spool") == 0o700
    assert mode(tmp_path / "spool" / FIRST) == 0o600


def test_a_folder_that_everybody_can_read_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    folder.chmod(0o755)
    with works(folder):
        assert mode(folder) == 0o700


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "spool").symlink_to("target")
    with pytest.raises(OSError, match="links are not followed"):
        opened(tmp_path / "spool")
    assert not list((tmp_path / "target").iterdir())


def test_a_lock_that_is_a_link_leaves_its_target_as_it_is(tmp_path: Path) -> None:
    folder, target = tmp_path / "spool", tmp_path / "target"
    spooled(folder, 1)
    target.write_text("precious")
    target.chmod(0o644)
    (folder / "lock").unlink()
    (folder / "lock").symlink_to(target)
    with capture_logs() as logs, works(folder, 1):
        assert names_left_alone(logs) == ["lock"]
    assert (target.read_text(), mode(target)) == ("precious", 0o644)


def test_a_lock_that_is_a_second_name_of_a_file_leaves_that_as_it_is(tmp_path: Path) -> None:
    folder, target = tmp_path / "spool", tmp_path / "target"
    target.write_text("precious")
    folder.mkdir()
    os.link(target, folder / "lock")
    with works(folder):
        assert target.read_text() == "precious"


@pytest.mark.parametrize("plant", KINDS)
def test_two_bridges_can_not_share_a_folder_whatever_its_lock_is(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    plant(folder / "lock")
    with works(folder), pytest.raises(BlockingIOError, match="another bridge uses this folder"):
        opened(folder)
    with works(folder, 100):
        pass


def test_a_lock_that_cannot_be_created_is_not_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another bridge, which finds room for it, would not see that the folder is in use."""
    original = os.open

    def full(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "lock":
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return original(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left"):
        opened(tmp_path / "spool")


@pytest.mark.parametrize("plant", KINDS)
def test_what_only_has_the_name_of_a_segment_is_left_alone(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1, 2)
    plant(folder / "000000000002.spool")
    before = (folder / "000000000002.spool").lstat()
    with capture_logs() as logs, works(folder, 1, 2) as spool:
        assert names_left_alone(logs) == ["'000000000002.spool'"]
        spool.clear()
    assert (folder / "000000000002.spool").lstat() == before


@pytest.mark.parametrize(
    "name",
    [
        b"backup.spool",
        b"1.spool",
        b"000000000002.spool~",
        b"000000000002.spool\n",
        b"0000000000002.spool",
        "٠٠٠٠٠٠٠٠٠٠٠٢.spool".encode(),  # digits, but not those of the bridge
        b"\xff\x1b[31m.spool",
        b"x" * 249 + b".spool",
    ],
)
def test_files_with_other_names_are_left_alone(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    stray = os.path.join(os.fsencode(folder), name)  # noqa: PTH118 - bytes
    os.link(folder / FIRST, stray)
    with capture_logs() as logs, works(folder, 1) as spool:
        (logged,) = names_left_alone(logs)
        assert isinstance(logged, str)
        assert logged.isprintable()
        assert logged.isascii()
        spool.clear()
    assert os.path.exists(stray)  # noqa: PTH110 - bytes


def test_many_strange_files_are_named_in_one_short_line(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number}.stray").touch()
    with capture_logs() as logs, works(folder):
        (line,) = [line for line in logs if line["event"] == LEFT_ALONE]
    assert (line["number"], len(line["files"])) == (1000, 5)


def test_segments_outside_of_the_folder_of_a_shard_are_named_and_left_alone(tmp_path: Path) -> None:
    spooled(tmp_path / "other", 66)
    (tmp_path / "other" / FIRST).rename(tmp_path / FIRST)
    with capture_logs() as logs, works(tmp_path / "spool"):
        assert names_left_alone(logs) == [f"'{FIRST}'"]
    assert (tmp_path / FIRST).exists()


@as_root
@pytest.mark.parametrize("by", ["user", "group"])
def test_files_of_another_user_are_read_in_a_folder_of_ours(tmp_path: Path, by: str) -> None:
    """As on a volume that was used by another user before."""
    folder = tmp_path / "spool"
    spooled(folder, 1)
    os.chown(folder / FIRST, NOBODY, NOBODY)
    if by == "group":
        os.chown(folder, NOBODY, os.getegid())
        folder.chmod(0o2770)
    with works(folder, 1):
        pass


@as_root
@pytest.mark.parametrize("whose", ["anybody's", "another user's"])
def test_files_of_another_user_are_left_alone_in_a_folder_that_others_can_write_to(
    tmp_path: Path, whose: str
) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    spooled(tmp_path / "other", 66)
    forged = folder / "000000000002.spool"
    (tmp_path / "other" / FIRST).rename(forged)
    os.chown(forged, NOBODY, NOBODY)
    if whose == "anybody's":
        folder.chmod(0o777)
    else:
        os.chown(folder, NOBODY, NOBODY)
    before = forged.stat()
    for earlier in ([], [100]):  # nor is it trusted at the next start
        with capture_logs() as logs, works(folder, 1, *earlier):
            assert names_left_alone(logs) == ["'000000000002.spool'"]
    assert forged.stat() == before


@as_root
def test_a_second_name_of_a_file_of_ours_is_left_alone_in_a_folder_of_another_user(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    spooled(tmp_path / "other", 66)
    os.link(tmp_path / "other" / FIRST, folder / "000000000002.spool")
    os.chown(folder, NOBODY, NOBODY)
    with capture_logs() as logs, works(folder, 1):
        assert names_left_alone(logs) == ["'000000000002.spool'"]


def test_a_torn_end_is_not_cut_off_a_file_that_has_a_second_name(tmp_path: Path) -> None:
    """It may be a backup."""
    folder, backup = tmp_path / "spool", tmp_path / "backup"
    spooled(folder, 1, 2)
    os.truncate(folder / FIRST, (folder / FIRST).stat().st_size - 1)
    os.link(folder / FIRST, backup)
    size = backup.stat().st_size
    with works(folder, 1) as spool:
        assert "torn end" in spool.damage()[0]
    assert backup.stat().st_size == size


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 100 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("front", [b"", b"\xff\xff\xff\xff\0\0\0\0", header_block(HEADER)])
def test_a_sparse_file_takes_neither_memory_nor_the_room_of_others(tmp_path: Path, front: bytes) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    sparse = folder / "000000000002.spool"
    sparse.write_bytes(front)
    os.truncate(sparse, 10_000 * MIB)
    with little_memory(), works(folder, 1) as spool:
        assert "too large" in spool.damage()[0]
        assert spool.bytes < MIB


def block(content: bytes, size: int | None = None) -> bytes:
    return (len(content) if size is None else size).to_bytes(4, "big") + (
        zlib.crc32(content).to_bytes(4, "big") + content
    )


ONE = msgspec.msgpack.encode(("a", ("b", None, b"", 0)))
BLOCKS = {
    "a block that claims 4 GiB": block(b"", 2**32 - 1) + bytes(1000),
    "a million entries": block(b"\xdd" + (2**20).to_bytes(4, "big") + ONE * 2**20),
    "a list that claims to be long": block(b"\xdd\xff\xff\xff\xff"),
    "no entries, many times": block(b"\x90") * 100_000,
    "an empty block": block(b""),
    "zeros": bytes(MIB),
    "another type": block(msgspec.msgpack.encode({"a": 1})),
    "deep nesting": block(b"\x91" * 100_000),
    "not UTF-8": block(msgspec.msgpack.encode([("a", ("b", None, b"", 0))]).replace(b"\xa1b", b"\xa1\xff")),
}


@pytest.mark.parametrize("content", BLOCKS.values(), ids=BLOCKS)
def test_blocks_that_the_bridge_never_writes_are_damage(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    with (folder / FIRST).open("ab") as file:
        file.write(content + blocks_of([entry(2)]))
    with little_memory(), works(folder, 1) as spool:
        assert "torn end" in spool.damage()[0]


@pytest.mark.parametrize(
    "header",
    [
        replace(HEADER, spool="x" * 1000),
        replace(HEADER, base={PLACE: -1}),
        replace(HEADER, base={PLACE: 2**63}),
        replace(HEADER, base={"x" * 1000: 1}),
        replace(HEADER, watermarks={b"BTC_USDT": msgspec.convert({"ids": [], "times": []}, type=object)}),
    ],
)
def test_headers_that_the_bridge_never_writes_are_damage(tmp_path: Path, header: Header) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    (folder / "000000000002.spool").write_bytes(header_block(header))
    with works(folder, 1) as spool:
        assert spool.damage() == ["000000000002.spool has no header"]


UNKNOWN = msgspec.msgpack.encode({**msgspec.to_builtins(HEADER), "later": "?"})
HEADERS = {
    "not UTF-8": msgspec.msgpack.encode(replace(HEADER, replica="?")).replace(b"\xa1?", b"\xa1\xff"),
    "deep nesting": UNKNOWN.replace(b"\xa1?", b"\x91" * 100_000 + b"\x90"),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_cannot_be_decoded_are_damage(tmp_path: Path, header: bytes) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    (folder / "000000000002.spool").write_bytes(block(header))
    with works(folder, 1) as spool:
        assert spool.damage() == ["000000000002.spool has no header"]


def test_a_file_that_shrinks_while_it_is_read_is_damage(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spooled(folder, *range(1, 2000))
    spool = opened(folder)
    os.truncate(folder / FIRST, 400)
    spool.begin(HEADER)
    spool.append([entry(2000)])
    read = rest(spool)
    assert read == [*range(1, read[-2] + 1), 2000]
    assert f"{2000 - len(read)} records are lost" in spool.damage()[0]
    assert spool.unread == 0
    spool.close()


def test_a_file_that_becomes_a_fifo_while_it_waits_is_damage(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    spool = opened(folder)
    (folder / FIRST).unlink()
    os.mkfifo(folder / FIRST)
    assert rest(spool) == []
    assert "not a regular file" in spool.damage()[0]
    spool.close()


def test_segments_of_another_spool_are_damage(tmp_path: Path) -> None:
    """Files that were restored from a backup; bridge-state knows which of them are the spool."""
    folder = tmp_path / "spool"
    spooled(folder, 1)
    spooled(tmp_path / "other", 66, header=replace(HEADER, spool="restored"))
    (tmp_path / "other" / FIRST).rename(folder / "000000000007.spool")
    spool = opened(folder, known="spool")
    assert rest(spool) == [1]
    assert spool.damage() == ["000000000007.spool is of another spool"]
    spool.close()


def test_a_copy_of_a_segment_is_not_delivered_again(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1, 2)
    spool = opened(folder)
    spool.begin(HEADER)
    spool.append([entry(3)])
    spool.close()
    (folder / "000000000003.spool").write_bytes((folder / FIRST).read_bytes())
    with works(folder, 1, 2, 3) as spool:
        assert spool.damage() == ["000000000003.spool does not continue 000000000002.spool"]


def test_records_for_other_topics_or_partitions_are_damage_and_leave_a_gap_in_trades(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = Spool(folder, 10_000_000)
    spool.find()
    spool.begin(HEADER)
    spool.append([entry(1), entry(2)])
    spool.append([entry(3), entry(4, "payments/0"), entry(5), entry(6, "md.trades.v1/1")])
    spool.append([entry(7, "payments/0")])
    spool.append([entry(8)])
    spool.close()
    spool = opened(folder)
    spool.on_kafka = advanced({}, [entry(1)[1]])
    assert rest(spool) == [1, 2, 3, 5, 8]
    (damage,) = spool.damage()
    assert "3 records for topics or partitions that are not the bridge's are lost" in damage
    gaps = [(lost.after.last, lost.before) for lost in spool.lost_trades()]
    assert gaps == [((3, 3), entry(5)[1]), ((3, 3), entry(8)[1])]
    assert spool.unread == 0
    assert spool.forget({place: spool.position(place) for place in spool.end})
    spool.close()


def test_the_folder_is_the_same_after_its_path_has_become_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spooled(folder, 1)
    spool = opened(folder)
    folder.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to("elsewhere")
    spool.begin(HEADER)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert rest(spool) == [1]
    spool.close()


def test_a_child_process_inherits_no_descriptor(tmp_path: Path) -> None:
    with works(tmp_path / "spool"):
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - not a path that is used
            try:
                target = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
            except OSError:
                continue
            if str(tmp_path) in target:
                assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
