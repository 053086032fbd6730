"""How the exchange behaves where the API document leaves it open or clients have seen both ways. Pure."""

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from bridge.simulator.market import Update

_SECOND, _MILLISECOND = 1_000_000, 1_000  # µs


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of behaving for each question that is open; the defaults are the usual ones.

    Each is called like the assumption of the bridge that it is about. The first value is the usual one, the
    second is what the name alone means.

    - compressed: answers alone may be plain text.
    - answer_order: the answer to a subscribe request comes before or after what the subscription begins with.
    - unknown_refused: other clients have seen that a market that does not exist is acknowledged.
    - adds: in ViaBTC's server a subscribe request replaces the subscriptions of its channel, up to the first
      market that it refuses.
    - long_lists: how many trades a list has.
    - trade_times: seconds with a fraction; whole seconds, milliseconds or microseconds; or the fraction in
      pushes, and in lists milliseconds ("mixed") or whole seconds ("rounded").
    """

    compressed: Literal["zlib", "answers"] = "zlib"
    answer_order: Literal["answer_first", "push_first"] = "answer_first"
    unknown_refused: Literal["refused", "acknowledged"] = "refused"
    adds: Literal["adds", "replaces"] = "adds"
    long_lists: int = 100
    trade_times: Literal["fraction", "milliseconds", "whole", "microseconds", "mixed", "rounded"] = "fraction"


DOCUMENTED = Dialect()

_SHORT_LIST = 5  # trades; what `long_lists` alone means


def _milliseconds(time: float) -> int:
    return round(time * _SECOND) // _MILLISECOND


def _microseconds(time: float) -> int:
    return round(time * _SECOND)


_Time: TypeAlias = Callable[[float], float]

# The time of a trade as lists have it, and as live pushes do, by `trade_times`; None: as it is.
_TIMES: dict[str, tuple[_Time | None, _Time | None]] = {
    "fraction": (None, None),
    "milliseconds": (_milliseconds, _milliseconds),
    "whole": (int, int),
    "microseconds": (_microseconds, _microseconds),
    "mixed": (_milliseconds, None),
    "rounded": (int, None),
}


def parse_dialect(text: str) -> Dialect:
    """Parse a dialect written like `adds,long_lists=20`; a name alone means the other way than usual.

    Raises:
        ValueError: an unknown name or an invalid value; the message names it.
    """
    hints = get_type_hints(Dialect)
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}"
            raise ValueError(f"unknown dialect {name!r}: {hint}")
        values[name] = _value(name, value, hints[name])
    return dataclasses.replace(DOCUMENTED, **values)


def _value(name: str, value: str, hint: object) -> str | int:
    if hint is int:
        if value and not value.isdecimal():
            raise ValueError(f"{name}={value}: not a number of 0 or more")
        return int(value) if value else _SHORT_LIST
    ways: tuple[str, ...] = get_args(hint)
    if value and value not in ways:
        raise ValueError(f"{name}={value}: must be one of {', '.join(ways)}")
    return value or ways[1]


def spoken(update: Update, dialect: Dialect) -> Update:
    """Return an update as the dialect has it."""
    if update.channel == "trades":
        return _spoken_trades(update, dialect)
    return update


def _spoken_trades(update: Update, dialect: Dialect) -> Update:
    clean, trades, symbol = update.params
    time = _TIMES[dialect.trade_times][0 if clean else 1]
    if time is None:
        return update
    trades = [{**trade, "time": time(trade["time"])} for trade in trades]
    return replace(update, params=[clean, trades, symbol])
