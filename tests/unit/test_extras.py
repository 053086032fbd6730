"""The bridge in a real virtual environment without its extras, as the image has it."""

import json
import re
import subprocess
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Imports every module of the bridge, and prints those that cannot be imported, with the package they miss.
IMPORT_ALL = """
import importlib, json, pkgutil, bridge
missing = {}
for module in pkgutil.walk_packages(bridge.__path__, "bridge.", onerror=lambda name: None):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name
print(json.dumps(missing))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the packages of requirements.txt, by links, and nothing else."""
    folder = tmp_path_factory.mktemp("without-extras")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or [] if ".." not in file.parts}:
            if top != "__pycache__":
                (packages / top).symlink_to(Path(str(installed.locate_file(top))))
    (packages / "bridge").symlink_to(ROOT / "bridge")
    own = Path(str(distribution("digifinex-bridge").locate_file("")))
    for about in own.glob("digifinex_bridge-*.dist-info"):
        (packages / about.name).symlink_to(about)
    return folder / "bin" / "python"


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-I", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=python.parent,
    )


def test_only_the_demo_needs_more_than_the_requirements(python: Path) -> None:
    done = run(python, "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    missing = json.loads(done.stdout)
    assert {name for name in missing if not name.startswith("bridge.demo")} == set()
    assert set(missing.values()) <= {"confluent_kafka", "rich"}
    assert "rich" in missing.values(), "this environment has the extra"


def test_help_is_plain_text_without_the_extras(python: Path) -> None:
    done = run(python, "-m", "bridge", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: digifinex-bridge" in done.stdout
    assert done.stdout.isascii()


def test_the_demo_names_the_extra_that_it_needs(python: Path) -> None:
    done = run(python, "-m", "bridge", "demo", "--seconds", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("pip install 'digifinex-bridge[demo]'\n")
    assert done.stderr.count("\n") == 1
