"""What the exchange means when it refuses a subscribe request, as far as code and words say so; pure.

Nobody publishes the codes (FACTS, section 3), and two servers that may be related use the same ones for other
things: 2 is an internal error in ViaBTC's server, and an invalid parameter in the exchange's one for swaps; 5
is a timeout in the one, and a repeated subscription in the other. So words come first.
"""

import enum
import re
from collections.abc import Sequence


class Meaning(enum.Enum):
    """What a refusal means."""

    CONFIRMED = "the subscription exists already"
    BAD_SYMBOL = "a symbol cannot be subscribed to"
    LATER = "the exchange cannot serve the request now"
    UNKNOWN = "it does not say"


_WORDS = (
    (
        Meaning.LATER,
        r"unavailable|internal|time[d ]?.?out|busy|later|too (many|fast)|frequen|overload|maint[ea]|limit|"
        r"exceed|quota|throttl|temporar|shutting|restart|try again|not ready|authenticat|method",
    ),
    (Meaning.CONFIRMED, r"already|repeat|duplicat|re-?subscri|subscribed (twice|before)"),
    (
        Meaning.BAD_SYMBOL,
        r"market|symbol|pair|currency|coin|invalid|unknown|unsupported|not support|no such|not exist|"
        r"does ?n.?.?t exist|delist|illegal|argument|param",
    ),
)

_CODE = re.compile(r"\bcode (-?\d+)\b")
_INVALID_ARGUMENT = "1"  # in ViaBTC's server; means success in the other one


def blamed(error: str, symbols: Sequence[str]) -> frozenset[str]:
    """Return which of these symbols an error text names; none if it names most of them.

    The error may repeat the whole request, or its beginning. So what names more than half says nothing.
    """
    words = error.upper()
    found = frozenset(one for one in symbols if re.search(rf"(?<!\w){re.escape(one.upper())}(?!\w)", words))
    return found if 2 * len(found) <= len(symbols) else frozenset()


def meaning(error: str, symbols: Sequence[str]) -> Meaning:
    """Return what an error text means that was the answer to a request for these symbols."""
    words = error.lower()
    for symbol in symbols:  # whose names may be any words
        words = re.sub(rf"(?<!\w){re.escape(symbol.lower())}(?!\w)", " ", words)
    for found, pattern in _WORDS:
        if re.search(pattern, words):
            return found
    code = _CODE.search(words)
    return Meaning.BAD_SYMBOL if code and code[1] == _INVALID_ARGUMENT else Meaning.UNKNOWN
