"""What the exchange means by the words and codes of an answer or a notice; pure.

Nobody publishes the codes (FACTS, section 3), and two servers that may be related use the same ones for other
things: 2 is an internal error in ViaBTC's server, and an invalid parameter in the exchange's one for swaps; 5
is a timeout in the one, and a repeated subscription in the other. So words come first.
"""

import enum
import re
from collections.abc import Iterable, Sequence


class Meaning(enum.Enum):
    """What a refusal means."""

    CONFIRMED = "the subscription exists already"
    BAD_SYMBOL = "a symbol cannot be subscribed to"
    LATER = "the exchange cannot serve the request now"
    UNKNOWN = "it does not say"


# Words that say by themselves that something has failed.
_BUSY = (
    r"unavailable|time[d ]?.?out|busy|too (many|fast|often|frequent)|overload|exceed|throttl|try again|"
    r"not ready"
)
_IMPOSSIBLE = r"invalid|unknown|unsupported|not support|no such|not exist|does ?n.?.?t exist|delist|illegal"
_OTHER_FAILURES = (
    r"fail|error|den[iy]|reject|refus|unauth|forbid|expired|wrong|incorrect|missing|unsuccess|"
    r"失败|错误|无效|拒绝|"
    r"(need|requires?).?auth|auth\w* required|\b(bad|not|cannot|can.?t|false|no permission)\b"
)

# With words that mean something only where it is known that something has failed.
_WORDS = (
    (
        Meaning.LATER,
        rf"{_BUSY}|internal|later|frequen|maint[ea]|limit|quota|temporar|shutting|restart|authenticat|method",
    ),
    (Meaning.CONFIRMED, r"already|repeat|duplicat|re-?subscri|subscribed (twice|before)"),
    (Meaning.BAD_SYMBOL, rf"{_IMPOSSIBLE}|market|symbol|pair|currency|coin|argument|param"),
)

_says_failure = re.compile(f"{_BUSY}|{_IMPOSSIBLE}|{_OTHER_FAILURES}", re.IGNORECASE).search
_says_success = re.compile(r"\bsucce(ss|ed)|成功|^(ok|true)\W*$", re.IGNORECASE).search
_says_nothing_wrong = re.compile(r"none|null|(no|without) errors?", re.IGNORECASE).fullmatch

_READ = 1000  # characters of a text that are looked at: the patterns are not linear in them
_CODE = re.compile(r"\bcode (-?\d+)\b")
_INVALID_ARGUMENT = "1"  # in ViaBTC's server; means success in the other one

_LOGIN = r"(session|log-?in|credentials?|api.?key|sign(ature)?)"
_IS = r" ((is|was|has|have|been) )*"
_says_login_ended = re.compile(
    # A right that is missing "to" do something, or "for" something, is not about the login.
    r"\b(need|requires?|not|un)[ -]?auth(?!\w*,? (to|for)\b)"
    rf"|\bauth\w*{_IS}(fail|required|needed|expired|revoked|invalid)|\bauth ?fail"
    r"|\blog(ged)?[ -]?(out|off)\b|\bre-?log-?in\b|\blog ?in again\b"
    r"|\bnot logged in\b|\blogged in (else|again|from|(on|at) another)|\b(please|must|need to) log ?in\b"
    rf"|\b({_LOGIN}|token){_IS}(expired|revoked|terminated|timed out)\b"
    rf"|\b{_LOGIN}{_IS}(invalid|disabled|deleted)"
    rf"|\b(expired|invalid|revoked|bad|wrong|illegal) {_LOGIN}\b"
    r"|\bkicked\b|\buser offline\b|\breplaced by (an? )?(new|other|another)\w* (connection|session|log-?in)\b"
    r"|^(access|permission) denied\W*(\(code -?\d+\))?$"
    # 4 is "NeedAuth" for swaps, and 6 "require authentication" in ViaBTC's server. What they mean in the
    # other one, an unknown method and a subscription that failed, answers a request.
    r"|^code [46]$",
    re.IGNORECASE,
).search


def success(text: str) -> bool | None:
    """Return whether a text of the exchange says success: False if it says failure, None if neither."""
    text = text[:_READ]
    if _says_nothing_wrong(text):
        return True
    if _says_failure(text):
        return False
    return True if _says_success(text) else None


def login_ended(error: str, symbols: Iterable[str]) -> bool:
    """Return whether an error that answers no request certainly says that a login has ended.

    `symbols` are those that the session subscribes to. A code says little: 3 is "AuthFail" for swaps, and an
    unavailable service in ViaBTC's server.
    """
    return bool(_says_login_ended(_without(error, symbols)))


def blamed(error: str, symbols: Sequence[str]) -> frozenset[str]:
    """Return which of these symbols an error text names; none if it names most of them.

    The error may repeat the whole request, or its beginning. So what names more than half says nothing.
    """
    words = error.upper()
    found = frozenset(one for one in symbols if re.search(rf"(?<!\w){re.escape(one.upper())}(?!\w)", words))
    return found if 2 * len(found) <= len(symbols) else frozenset()


def meaning(error: str, symbols: Sequence[str]) -> Meaning:
    """Return what an error text means that was the answer to a request for these symbols."""
    words = _without(error, symbols)
    for found, pattern in _WORDS:
        if re.search(pattern, words):
            return found
    code = _CODE.search(words)
    return Meaning.BAD_SYMBOL if code and code[1] == _INVALID_ARGUMENT else Meaning.UNKNOWN


def _without(error: str, symbols: Iterable[str]) -> str:
    """Return an error text in lower case without the names of symbols, which may be any words."""
    words = error.lower()
    for symbol in symbols:
        words = re.sub(rf"(?<!\w){re.escape(symbol.lower())}(?!\w)", " ", words)
    return words
