"""Whether the spool can be written to is found out by writing, which leaves nothing behind."""

import asyncio
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.spool import health
from bridge.spool.folder import Folder, folder_of
from bridge.spool.health import SpoolHealth, Trouble, trouble_of, try_to_write
from tests.support.disk import another_user, largest_file

PREFIX = "md"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def words(directory: Path, shards: int = 2) -> str | None:
    trouble = trouble_of(directory, PREFIX, range(shards))
    return None if trouble is None else trouble.words


def test_a_writable_directory_has_no_trouble_and_stays_empty(directory: Path) -> None:
    assert words(directory) is None
    assert not [*directory.iterdir()]


def test_a_missing_directory_is_created_for_this_user_alone(directory: Path) -> None:
    assert words(directory / "a" / "b") is None
    assert (directory / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_link_to_a_directory_is_one_but_not_for_a_shard(directory: Path) -> None:
    (directory / "elsewhere").mkdir()
    (directory / "link").symlink_to("elsewhere")
    assert words(directory / "link") is None
    folder_of(directory, PREFIX, 1).symlink_to("elsewhere")
    assert words(directory) == f"{folder_of(directory, PREFIX, 1)}: Not a directory"


def test_a_file_in_its_place_is_named(directory: Path) -> None:
    (directory / "file").touch()
    assert words(directory / "file") == f"{directory / 'file'}: File exists"


@pytest.mark.parametrize("of", ["the directory", "a shard"])
def test_a_folder_of_another_user_is_named(directory: Path, of: str) -> None:
    folder = directory
    if of == "a shard":
        directory.chmod(0o777)
        folder = folder_of(directory, PREFIX, 1)
        folder.mkdir()
    folder.chmod(0o555)
    with another_user():
        assert words(directory) == f"{folder}: Permission denied"


def test_a_folder_of_a_shard_is_enough_if_its_parent_is_not_writable(directory: Path) -> None:
    for shard in range(2):
        folder_of(directory, PREFIX, shard).mkdir()
        folder_of(directory, PREFIX, shard).chmod(0o777)
    directory.chmod(0o555)
    with another_user():
        assert words(directory) is None


@pytest.mark.parametrize("has_names", [False, True])
def test_a_full_disk_is_one_that_is_not_written_to_whatever_its_file_system(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, has_names: bool
) -> None:
    if has_names:
        without_nameless_files(monkeypatch)
    with largest_file(0):
        assert words(directory) == f"{directory}: File too large"
    assert words(directory) is None
    assert not [*directory.iterdir()]


def without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file system refuse files without a name, as that of NFS does."""
    really = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return really(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)


def test_a_disk_that_is_full_of_what_is_spooled_passes_and_another_does_not(directory: Path) -> None:
    with largest_file(0):
        trouble = trouble_of(directory, PREFIX, range(2))
        assert trouble is not None
        assert not trouble.passes
        folder_of(directory, PREFIX, 1).mkdir()
        (folder_of(directory, PREFIX, 1) / "000000000001.spool").touch()
        trouble = trouble_of(directory, PREFIX, range(2))
        assert trouble is not None
        assert trouble.passes


def test_a_try_of_a_killed_process_is_not_taken_for_a_file_of_others(directory: Path) -> None:
    (directory / "shard").mkdir()
    (directory / "shard" / "probe-0a1b").touch()
    folder = Folder(directory / "shard")
    folder.open()
    with capture_logs() as lines:
        assert folder.segments() == []
    folder.close()
    assert not lines


def test_a_link_is_not_followed(directory: Path) -> None:
    (directory / "link").symlink_to("/tmp")
    with pytest.raises(OSError, match="link"):
        try_to_write(directory / "link")


def test_what_changes_is_logged_once() -> None:
    found: list[Trouble | None] = [None, Trouble("a"), Trouble("a"), Trouble("b"), None, None]
    left = iter(found)

    async def scenario() -> None:
        looking = SpoolHealth(lambda: next(left))
        for expected in found:
            await looking.look()
            assert looking.trouble == expected

    with capture_logs() as lines:
        asyncio.run(scenario())
    assert [(line["event"], line.get("error")) for line in lines] == [
        ("spool not writable", "a"),
        ("spool not writable", "b"),
        ("spool writable again", None),
    ]


def test_a_disk_that_hangs_is_not_waited_for_and_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.01)
    answers = threading.Event()
    tries = 0

    def find() -> None:
        nonlocal tries
        tries += 1
        answers.wait()

    async def scenario() -> None:
        looking = SpoolHealth(find)
        for _ in range(3):
            await looking.look()
            assert looking.trouble is not None
            assert "does not answer" in looking.trouble.words
        assert tries == 1
        answers.set()
        monkeypatch.setattr(health, "_PATIENCE", 60)
        await looking.look()
        assert looking.trouble is None
        await looking.look()
        assert tries == 2

    asyncio.run(scenario())


def test_a_look_that_fails_is_a_trouble_with_its_words_and_the_next_one_looks_again() -> None:
    results = [ValueError("what nobody has foreseen"), None]

    def find() -> None:
        if (error := results.pop(0)) is not None:
            raise error

    async def scenario() -> None:
        looking = SpoolHealth(find)
        await looking.look()
        assert looking.trouble is not None
        assert "what nobody has foreseen" in looking.trouble.words
        assert not looking.trouble.passes
        await looking.look()
        assert looking.trouble is None

    asyncio.run(scenario())


def test_the_process_can_end_while_the_disk_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.01)
    answers = threading.Event()

    def find() -> None:
        answers.wait()

    asyncio.run(SpoolHealth(find).look())
    answers.set()
