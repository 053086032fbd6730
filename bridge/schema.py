"""The published JSON Schemas, as text: those of the wheel, or in a clone those of `schemas/`."""

import difflib
from pathlib import Path

from bridge.channels import CHANNELS
from bridge.records import BOOK, DEADLETTER, EVENTS

RECORDS = (*CHANNELS, BOOK, DEADLETTER, EVENTS)
"""Everything that has a schema: the channels, and what else has topics of records."""

_PACKED = Path(__file__).parent / "schemas"
_IN_A_CLONE = Path(__file__).parents[1] / "schemas"


def published(name: str) -> str:
    """Return the schema of a channel, of `book`, `deadletter` or `events`.

    Raises:
        ValueError: there is no such one; the message says which there are.
    """
    if name not in RECORDS:
        raise ValueError(unknown(name))
    folder = _PACKED if _PACKED.is_dir() else _IN_A_CLONE
    return (folder / name / "v1.json").read_text(encoding="utf-8")


def unknown(name: str) -> str:
    """Return the words for a name that is no channel, nor what else has topics of records."""
    near = difflib.get_close_matches(name.lower(), RECORDS, n=1)
    return f"unknown channel {name!r}, " + (
        f"did you mean {near[0]}?" if near else f"there are {', '.join(RECORDS)}"
    )
