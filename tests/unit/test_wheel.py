"""The wheel that users install, built from this tree without network."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
NAME = "digifinex-bridge"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Return the wheel, built as pip would build it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return ZipFile(path)


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder of the tree, but for compiled ones."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_installs_one_package_besides_its_metadata(wheel: ZipFile) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    names = {name.partition("/")[0] for name in wheel.namelist()}
    assert names == {"bridge", f"digifinex_bridge-{version}.dist-info"}


def test_the_package_shadows_neither_a_standard_module_nor_another_distribution() -> None:
    assert "bridge" not in sys.stdlib_module_names
    assert set(importlib.metadata.packages_distributions().get("bridge", [])) <= {NAME}


def test_no_module_of_the_package_has_the_name_of_a_standard_module() -> None:
    names = {path.stem for path in (ROOT / "bridge").rglob("*.py")} - {"__init__", "__main__"}
    assert not names & sys.stdlib_module_names


def test_the_wheel_contains_the_whole_package_with_its_type_marker(wheel: ZipFile) -> None:
    packed = {name for name in wheel.namelist() if name.startswith("bridge/")}
    package = {f"bridge/{name}" for name in files(ROOT / "bridge")}
    assert "bridge/py.typed" in package
    assert {name for name in packed if not name.startswith("bridge/schemas/")} == package


def test_the_schemas_in_the_wheel_equal_those_of_the_tree(wheel: ZipFile) -> None:
    schemas = files(ROOT / "schemas")
    assert "trades/v1.json" in schemas
    packed = {
        name.removeprefix("bridge/schemas/"): wheel.read(name)
        for name in wheel.namelist()
        if name.startswith("bridge/schemas/")
    }
    assert packed == schemas


def test_the_wheel_installs_the_command(wheel: ZipFile) -> None:
    (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/entry_points.txt"))
    assert "digifinex-bridge = bridge.__main__:main" in wheel.read(name).decode()
