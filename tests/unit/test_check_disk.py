"""`check` says whether `run` could use the spool's folders."""

import os
import tempfile
from pathlib import Path

import pytest

from bridge.check.disk import check_disk
from bridge.config import Config
from tests.support.disk import another_user


@pytest.mark.parametrize("found", ["a link", "a file", "a folder", "nothing"])
def test_a_folder_of_a_shard_that_is_none_is_named(tmp_path: Path, found: str) -> None:
    folder = tmp_path / "md-1"
    match found:
        case "a link":
            (tmp_path / "elsewhere").mkdir()
            folder.symlink_to("elsewhere")
        case "a file":
            folder.touch()
        case "a folder":
            folder.mkdir()
    config = Config.model_validate(
        {
            "channels": {"trades": ["BTC_USDT"]},
            "kafka": {"topic_prefix": "md", "shards": 2},
            "spool": {"dir": str(tmp_path), "max_bytes": 1},
        }
    )
    said: list[str] = []
    is_usable = check_disk(config, said.append)
    assert is_usable is (found in ("a folder", "nothing"))
    named = [line for line in said if "is not a directory (links are not followed)" in line]
    assert named == (
        [] if is_usable else [f"  {folder} is not a directory (links are not followed): remove it"]
    )


def test_a_directory_of_another_user_is_named_with_what_to_do() -> None:
    """Also one that cannot be looked into: which of its folders exist is not to be seen."""
    for mode in (0o700, 0o555):
        directory = Path(tempfile.mkdtemp())
        config = Config.model_validate(
            {"channels": {"trades": ["BTC_USDT"]}, "spool": {"dir": str(directory / "spool"), "max_bytes": 1}}
        )
        directory.chmod(mode if os.geteuid() == 0 else mode & 0o055)
        said: list[str] = []
        with another_user():
            assert not check_disk(config, said.append)
        directory.chmod(0o700)
        directory.rmdir()
        assert said[1].startswith(f"  {directory} is not writable (Permission denied): give it to the user")
        assert "spool.max_bytes = 0" in said[1]
