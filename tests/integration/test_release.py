"""`make release` without an image: what is in it, and that the same commit gives the same bytes."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def git(*command: str | Path, folder: Path = ROOT) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def committed(file: str) -> str:
    """Return a file as the last commit has it, which is what is released."""
    return git("show", f"HEAD:{file}")


VERSION = tomllib.loads(committed("pyproject.toml"))["project"]["version"]
WHEEL = f"digifinex_bridge-{VERSION}-py3-none-any.whl"
SOURCES = f"digifinex_bridge-{VERSION}.tar.gz"
CHART = f"digifinex-bridge-{VERSION}.tgz"
BILL = f"digifinex-bridge-{VERSION}.cdx.json"


def run(root: Path, dist: Path, umask: int = 0o022, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, root / "scripts" / "release.py", "--no-image", "--dist", dist],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        umask=umask,
        env={**os.environ, **environ},
    )


def build(dist: Path, umask: int, **environ: str) -> Path:
    done = run(ROOT, dist, umask, **environ)
    assert done.returncode == 0, done.stderr
    return dist


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of its own, with the script as it is here: a release from it may go wrong."""
    folder = tmp_path_factory.mktemp("around") / "clone"
    git("clone", "--quiet", ROOT, folder)
    (folder / "scripts" / "release.py").write_text((ROOT / "scripts" / "release.py").read_text())
    return folder


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


def test_the_same_commit_gives_the_same_bytes_in_place_of_an_earlier_release(dist: Path) -> None:
    files = {file.name: file.read_bytes() for file in dist.iterdir()}
    for file in dist.iterdir():
        if file.name != "SHA256SUMS":
            file.write_text("of an earlier release")
    again = build(dist, 0o077, TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")
    assert {file.name for file in again.iterdir()} == files.keys()
    assert [name for name, content in files.items() if (again / name).read_bytes() != content] == []
    assert [path.name for path in dist.parent.iterdir()] == [dist.name]


def contents(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if ".git" not in path.parts)


@pytest.mark.parametrize("target", [".", "..", "docs", "README.md", "downloads", "nested"])
def test_a_release_deletes_nothing_but_a_release(clone: Path, target: str) -> None:
    for name in ("downloads", "nested"):
        (clone / name).mkdir(exist_ok=True)
        (clone / name / "SHA256SUMS").write_text(f"{'0' * 64}  some.iso\n")
    (clone / "downloads" / "letter.txt").write_text("dear")
    (clone / "nested" / "some.iso").mkdir(exist_ok=True)
    before = contents(clone.parent)
    done = run(clone, clone / target)
    assert done.returncode == 1
    assert "release: failed: " in done.stderr
    assert str((clone / target).resolve()) in done.stderr.splitlines()[-1]
    assert contents(clone.parent) == before


@pytest.mark.parametrize("field", ["version", "appVersion"])
def test_a_chart_of_another_version_is_not_released(clone: Path, field: str, tmp_path: Path) -> None:
    file = "helm/digifinex-bridge/Chart.yaml"
    lines = [
        f"{field}: 9.9.9" if line.startswith(f"{field}:") else line for line in committed(file).splitlines()
    ]
    (clone / file).write_text("\n".join(lines))
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--all", "-m", "a", folder=clone)
    done = run(clone, tmp_path / "dist")
    assert done.returncode == 1
    assert f"Chart.yaml has {field} 9.9.9" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_only_what_is_committed_is_released(dist: Path) -> None:
    committed = set(git("ls-tree", "-r", "--name-only", "HEAD").splitlines())
    with tarfile.open(dist / SOURCES) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()} - {"PKG-INFO"}
    assert inside - committed == set()
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        modules = {name for name in wheel.namelist() if name.startswith("bridge/")}
    schemas = {f"bridge/{name}" for name in committed if name.startswith("schemas/")}
    assert modules == {name for name in committed if name.startswith("bridge/")} | schemas


def test_the_bill_of_materials_has_the_pinned_packages_with_their_licences(dist: Path) -> None:
    bill = json.loads((dist / BILL).read_text())
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/digifinex-bridge@{VERSION}"
    pins = {line.split(" ")[0] for line in committed("requirements.txt").splitlines()}
    assert {f"{one['name']}=={one['version']}" for one in bill["components"]} <= pins
    licences = committed("docs/licences.md")
    for one in bill["components"]:
        assert one["licenses"], one["name"]
        assert f"| {one['name']} | {one['version']} |" in licences
    needed = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    [aiokafka] = [one["bom-ref"] for one in bill["components"] if one["name"] == "aiokafka"]
    assert aiokafka in needed[bill["metadata"]["component"]["bom-ref"]]
    assert needed[aiokafka]
