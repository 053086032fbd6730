"""The requirements files pin exactly what `pyproject.toml` requires; checked without network."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

RUNTIME = "requirements.txt"
MSK = "requirements-msk.txt"
REGISTRY = "requirements-registry.txt"
BUILD = "requirements-build.txt"
DEMO = "requirements-demo.txt"
DEV = "requirements-dev.txt"

_PIN = re.compile(r"(?P<requirement>[^\\]+?)(?: +--hash=sha256:[0-9a-f]{64})+")


class Pin(NamedTuple):
    """One package as a requirements file pins it, with its environment marker."""

    name: str
    version: str
    marker: str


def pins(file: str) -> set[Pin]:
    """Return the pins of a file; every line must be a package with a version and hashes."""
    found = set()
    for line in (ROOT / file).read_text().replace("\\\n   ", "").splitlines():
        match = _PIN.fullmatch(line)
        assert match, f"{file}: not a package with hashes: {line[:80]}"
        requirement = Requirement(match["requirement"])
        [specifier] = requirement.specifier
        assert specifier.operator == "==", f"{file}: {requirement}"
        found.add(Pin(_normal(requirement.name), specifier.version, str(requirement.marker or "")))
    return found


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group, included groups too."""
    requirements: list[str] = []
    for entry in PROJECT["dependency-groups"][name]:
        requirements += [entry] if isinstance(entry, str) else group(entry["include-group"])
    return requirements


def required() -> list[tuple[str, str]]:
    """Return each file paired with each requirement that it must satisfy."""
    runtime = PROJECT["project"]["dependencies"]
    extras = PROJECT["project"]["optional-dependencies"]
    demo = runtime + extras["demo"]
    files = {
        RUNTIME: runtime,
        MSK: runtime + extras["msk"],
        REGISTRY: runtime + extras["registry"],
        BUILD: PROJECT["build-system"]["requires"] + group("image"),
        DEMO: demo + PROJECT["build-system"]["requires"] + group("build"),
        DEV: demo + PROJECT["build-system"]["requires"] + group("dev"),
    }
    for path in sorted((ROOT / "examples").glob("*/requirements.in")):
        files[str(path.with_suffix(".txt").relative_to(ROOT))] = path.read_text().split()
    return [(file, requirement) for file, requirements in files.items() for requirement in requirements]


@pytest.mark.parametrize(("file", "text"), sorted(set(required())))
def test_every_requirement_is_pinned_within_its_range(file: str, text: str) -> None:
    requirement = Requirement(text)
    versions = [pin.version for pin in pins(file) if pin.name == _normal(requirement.name)]
    assert versions, "run 'make lock'"
    for version in versions:
        assert requirement.specifier.contains(version, prereleases=True), version


def closure(requirements: list[str]) -> set[str]:
    """Return these packages and all their dependencies on this machine, as the installed ones declare."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    left = [(Requirement(text), "") for text in requirements]
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = _normal(requirement.name)
        found.add(name)
        for wish in {"", *requirement.extras}:
            if (name, wish) not in seen:
                seen.add((name, wish))
                left += [(Requirement(text), wish) for text in metadata.requires(name) or []]
    return found


@pytest.mark.parametrize("file", [RUNTIME, MSK, REGISTRY, BUILD, DEMO, DEV])
def test_a_file_pins_all_dependencies_and_nothing_else(file: str) -> None:
    here = {pin.name for pin in pins(file) if not pin.marker or Marker(pin.marker).evaluate()}
    assert here == closure([text for name, text in required() if name == file]), "run 'make lock'"


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        (RUNTIME, DEMO),
        (RUNTIME, MSK),
        (MSK, DEV),
        (RUNTIME, REGISTRY),
        (REGISTRY, DEV),
        (BUILD, DEV),
        (DEMO, DEV),
    ],
)
def test_files_pin_the_same_versions(smaller: str, larger: str) -> None:
    # Markers may differ: what is for some machines in one file may be for all of them in another.
    assert {pin[:2] for pin in pins(smaller)} <= {pin[:2] for pin in pins(larger)}


@pytest.mark.parametrize("file", [RUNTIME, MSK, REGISTRY, BUILD, DEMO, DEV])
def test_a_file_contains_no_urls(file: str) -> None:
    text = (ROOT / file).read_text()
    assert "://" not in text
    assert " @ " not in text


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
