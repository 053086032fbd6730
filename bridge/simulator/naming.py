"""Options of the simulator as they are written: `name=value,name`. Pure."""

import difflib
from collections.abc import Collection, Iterator


def pairs(text: str, known: Collection[str], kind: str) -> Iterator[tuple[str, str]]:
    """Yield the names in a text, each with its value, "" if it has none; `kind` is what they are names of.

    Raises:
        ValueError: a name is not known; the message names it, and the one that was meant if it is near.
    """
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"unknown {kind} {name!r}: {hint}")
        yield name, value
