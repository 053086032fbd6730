"""What all documents have in common: links, anchors, and names of tests, files and keys lead somewhere."""

import re
from pathlib import Path

import pytest

from bridge.config import SECTIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
EXAMPLES = ROOT / "examples"
DOCUMENTS = [
    README,
    *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted(DOCS.glob("*.md")),
    *sorted(EXAMPLES.rglob("*.md")),
]


def name_of(document: Path) -> str:
    """Return the id of a document in the names of tests."""
    return str(document.relative_to(ROOT))


def test_the_readme_is_short_and_says_that_it_is_unofficial() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 200
    first_screen = " ".join(lines[:20])
    assert "unofficial" in first_screen
    assert "simulated" in first_screen


def test_the_index_lists_every_document() -> None:
    listed = re.findall(r"^- \[([\w.]+)\]\(\1\): ", (DOCS / "index.md").read_text(), re.MULTILINE)
    others = [path.name for path in sorted(DOCS.iterdir()) if path.suffix != ".png"]
    assert sorted([*listed, "index.md"]) == others


def test_every_example_is_listed_and_tested() -> None:
    listed = set(re.findall(r"\]\(([\w.-]+)(?:/README\.md)?\)", (EXAMPLES / "README.md").read_text()))
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name[0].isalnum()}
    files = {path.name for kind in ("py", "java") for path in EXAMPLES.glob(f"*.{kind}")} - {"conftest.py"}
    assert listed == folders | files
    for name in folders:
        assert list((EXAMPLES / name).glob("test_*.py")), name


def test_every_picture_is_shown_in_a_document() -> None:
    shown = {name for path in DOCUMENTS for name in re.findall(r"!\[[^\]]*\]\((\S+)\)", path.read_text())}
    assert {path.name for path in DOCS.glob("*.png")} == shown


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_test_that_is_named_exists(document: Path) -> None:
    named = re.findall(r"`(?:(test_\w+\.py)::)?((?:test_|[A-Z])\w+)`", document.read_text())
    for file, test in named:
        if file or test.startswith("test_"):
            texts = [path.read_text() for path in (ROOT / "tests").rglob(file or "test_*.py")]
            defined = re.compile(rf"^\s*(def|class) {test}\(", re.MULTILINE)
            assert any(map(defined.search, texts)), f"{file}::{test}"
    assert len(named) > 20 or document.name != "guarantees.md"


# Files that a reader writes, or has from elsewhere.
NOT_HERE = ("bridge.toml", "consumer.py", "document_example.json", "values.schema.json")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_file_that_is_named_exists(document: Path) -> None:
    for name in re.findall(r"`([\w./-]+\.(?:py|toml|sh|json))`", document.read_text()):
        found = any((folder / name).exists() for folder in (ROOT, ROOT / "bridge"))
        found = found or ("/" not in name and any((ROOT / "bridge").rglob(name)))
        made = name.endswith(".cdx.json")  # by a build
        assert found or made or name in NOT_HERE, name


# In kubernetes.md, such names are values of the chart.
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name != "kubernetes.md"], ids=name_of
)
def test_every_configuration_key_that_is_named_exists(document: Path) -> None:
    for section, key in re.findall(rf"`({'|'.join(SECTIONS)})\.(\w+)[` ]", document.read_text()):
        assert key in SECTIONS[section].model_fields or key == "py", f"{section}.{key}"
