"""`make release` with the image: the same commit on the same base gives the same bytes."""

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import __version__
from tests.image.stand_in import BASE, ROOT, Images

IMAGE = f"digifinex-bridge-{__version__}.oci.tar"


@pytest.fixture
def storage() -> Iterator[Path]:
    """A storage configuration for buildah, with the stand-in for the Python base image in it."""
    with tempfile.TemporaryDirectory(prefix="images-") as folder:
        images = Images(Path(folder))
        try:
            images.make_base()
            file = Path(folder, "storage.conf")
            file.write_text(
                f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
            )
            yield file
        finally:
            images.remove()


def test_the_same_commit_gives_the_same_image(storage: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot"}
    for name, umask in (("once", 0o022), ("again", 0o077)):
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "release.py", "--base", BASE, "--dist", tmp_path / name],
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
            umask=umask,
            env=environ,
        )
        assert done.returncode == 0, done.stderr
        assert "the base image is named by a tag" in done.stderr
    once, again = (tmp_path / name / IMAGE for name in ("once", "again"))
    with tarfile.open(once) as one, tarfile.open(again) as other:
        assert one.getnames() == other.getnames(), "other layers"
    assert once.read_bytes() == again.read_bytes()
    sums = [(tmp_path / name / "SHA256SUMS").read_text() for name in ("once", "again")]
    assert sums[0] == sums[1]
    assert f"  {IMAGE}\n" in sums[0]
