"""The table of assumptions and its document."""

import runpy
from pathlib import Path

from bridge.exchange.assumptions import ASSUMPTIONS

ROOT = Path(__file__).parents[3]


def test_the_document_is_made_from_the_table() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "assumptions_doc.py"))["document"]()
    assert (ROOT / "docs" / "assumptions.md").read_text() == made, "run `make generated`"


def test_every_row_says_what_is_assumed_and_what_is_done_otherwise_in_sentences() -> None:
    for row in ASSUMPTIONS.values():
        assert row.assumed.endswith(".")
        assert row.otherwise.endswith(".")
