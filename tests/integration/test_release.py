"""`make release` without an image: what is in it, and that the same commit gives the same bytes."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from bridge import __version__

ROOT = Path(__file__).parents[2]
WHEEL = f"digifinex_bridge-{__version__}-py3-none-any.whl"
SOURCES = f"digifinex_bridge-{__version__}.tar.gz"
CHART = f"digifinex-bridge-{__version__}.tgz"
BILL = f"digifinex-bridge-{__version__}.cdx.json"


def build(dist: Path, umask: int, **environ: str) -> Path:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "release.py", "--no-image", "--dist", dist],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        umask=umask,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    return dist


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the last commit."""
    return build(tmp_path_factory.mktemp("release") / "dist", 0o022, TZ="UTC")


def test_a_release_has_everything_with_its_checksums(dist: Path) -> None:
    assert {file.name for file in dist.iterdir()} == {WHEEL, SOURCES, CHART, BILL, "SHA256SUMS"}
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=dist,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert {line.split(": ")[0] for line in checked.stdout.splitlines()} == {WHEEL, SOURCES, CHART, BILL}


def test_the_same_commit_gives_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "left-over").touch()
    again = build(tmp_path / "again", 0o077, TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")
    files = {file.name: file.read_bytes() for file in dist.iterdir()}
    assert {file.name for file in again.iterdir()} == files.keys()
    assert [name for name, content in files.items() if (again / name).read_bytes() != content] == []


def test_only_what_is_committed_is_released(dist: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    committed = set(listed.stdout.splitlines())
    with tarfile.open(dist / SOURCES) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()} - {"PKG-INFO"}
    assert inside - committed == set()
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        modules = {name for name in wheel.namelist() if name.startswith("bridge/")}
    schemas = {f"bridge/{name}" for name in committed if name.startswith("schemas/")}
    assert modules == {name for name in committed if name.startswith("bridge/")} | schemas


def test_the_bill_of_materials_has_the_pinned_packages_with_their_licences(dist: Path) -> None:
    bill = json.loads((dist / BILL).read_text())
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/digifinex-bridge@{__version__}"
    pins = {line.split(" ")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert {f"{one['name']}=={one['version']}" for one in bill["components"]} <= pins
    licences = (ROOT / "docs" / "licences.md").read_text()
    for one in bill["components"]:
        assert one["licenses"], one["name"]
        assert f"| {one['name']} | {one['version']} |" in licences
    needed = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    [aiokafka] = [one["bom-ref"] for one in bill["components"] if one["name"] == "aiokafka"]
    assert aiokafka in needed[bill["metadata"]["component"]["bom-ref"]]
    assert needed[aiokafka]
