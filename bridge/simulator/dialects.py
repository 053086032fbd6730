"""How the exchange behaves where the API document leaves it open or clients have seen both ways. Pure.

Each way is called like the assumption of the bridge that it turns round, see `bridge.exchange.assumptions`.
"""

import dataclasses
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

import orjson

from bridge.simulator import encoding
from bridge.simulator.faults import Faults
from bridge.simulator.market import Update
from bridge.simulator.naming import pairs

CAP = 10
"""The subscriptions of one connection beyond which `thirty_subscriptions` begins."""

_SECOND, _MILLISECOND = 1_000_000, 1_000  # µs
_TICKERS = ("ticker", "all_ticker")
_REDIRECT = 307  # the HTTP status
_AHEAD = 20.0  # seconds; a clock that is wrong, and not so far off that nothing is signed
_SHARE = 0.1  # of the updates; those with which something is wrong, where it does not concern all
_JOINED = 20  # one frame in so many has two messages
_NOTICE = b'\n{"method":"server.notice","params":["hello"],"id":null}'
_RAW_DEFLATE, _GZIP = -15, 31  # what zlib calls them
_FIGURES = ("high_24h", "low_24h", "last_qty", "best_ask_size")  # of a ticker; those that can be unknown


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of behaving for each assumption.

    The first way is the usual one, the second what the name alone means. Of a number the default is the usual
    one, and `_NUMBERS` has the other.
    """

    # Frames and messages. `answers`: these alone are plain text. `joined`: some frames have two messages.
    compressed: Literal["zlib", "answers", "deflate", "gzip", "text", "plain"] = "zlib"
    one_message: Literal["whole", "joined"] = "whole"
    no_other_fields: Literal["none", "added"] = "none"
    spelling: Literal["usual", "blanks", "reversed"] = "usual"
    known_methods: Literal["known", "others"] = "known"
    answer_order: Literal["answer_first", "push_first"] = "answer_first"
    # Connections. The oldest connections of a key are cut when a `newer` one logs in.
    no_redirect: Literal["direct", "redirected"] = "direct"
    pings_answered: Literal["answered", "never"] = "answered"
    clock: Literal["right", "ahead"] = "right"
    thirty_subscriptions: Literal["allowed", "silent", "closed"] = "allowed"  # more than `CAP` on one
    connections: int = 0  # of all clients; more are refused with 403; 0: any number
    two_logins: Literal["both", "newer"] = "both"
    # Requests. `each`: one answer for each market of a request; `none`: none to any subscribe request. In
    # ViaBTC's server a subscribe request replaces the subscriptions of its channel, up to the first market
    # that it refuses.
    answers_in_time: int = 0  # seconds by which answers are late, but those to pings
    one_answer: Literal["one", "each", "none"] = "one"
    adds: Literal["adds", "replaces"] = "adds"
    unknown_refused: Literal["refused", "acknowledged"] = "refused"
    # `partly`: a request that is refused because of one market has subscribed to the others nevertheless. The
    # last market cannot be subscribed to, and the error says so ("delisted"), or is a number ("hidden").
    all_or_nothing: Literal["whole", "partly"] = "whole"
    listed_open: Literal["open", "delisted", "hidden"] = "open"
    always_served: int = (
        0  # seconds from the first subscribe request on for which all are refused by a number
    )
    clean_first: Literal["sent", "missing"] = "sent"
    clean_again: Literal["sent", "silent", "refused"] = "sent"
    # Trades. Times have a fraction, or are whole; or they have it in pushes, and are milliseconds ("mixed")
    # or whole seconds ("rounded") in lists.
    newest_first: Literal["newest_first", "oldest_first", "unsorted"] = "newest_first"
    long_lists: int = 100  # trades
    ids_rise: Literal["rise", "restart"] = "rise"
    trade_times: Literal["fraction", "milliseconds", "whole", "microseconds", "mixed", "rounded"] = "fraction"
    pushed_once: Literal["once", "repeated", "reordered"] = "once"
    # Depth. An empty side is missing or null; levels are objects.
    both_sides: Literal["both", "missing", "null", "objects"] = "both"
    best_ask_last: Literal["last", "first"] = "last"
    # Tickers. `changed`: all_ticker never names all markets at once.
    high_24h: Literal["missing", "there"] = "missing"
    ticker_figures: Literal["text", "numbers", "null", "dash", "missing"] = "text"
    ticker_times: Literal["milliseconds", "seconds", "microseconds", "missing"] = "milliseconds"
    flat_tickers: Literal["flat", "nested"] = "flat"
    lists_markets: Literal["all", "changed"] = "all"
    # Accounts. `snapshot`: a balance is pushed when it is subscribed to.
    signed_with_server_time: Literal["accepted", "refused"] = "accepted"
    no_private_snapshot: Literal["changes", "snapshot"] = "changes"


DOCUMENTED = Dialect()

_NUMBERS = {"connections": 2, "answers_in_time": 15, "long_lists": 5, "always_served": 10}


def parse_dialect(text: str) -> Dialect:
    """Parse a dialect written like `adds,long_lists=20`; a name alone means the other way than usual.

    Raises:
        ValueError: an unknown name or an invalid value; the message names it.
    """
    hints = get_type_hints(Dialect)
    values: dict[str, Any] = {}
    for name, value in pairs(text, hints, "dialect"):
        values[name] = _value(name, value, hints[name])
    return dataclasses.replace(DOCUMENTED, **values)


def _value(name: str, value: str, hint: object) -> str | int:
    if hint is int:
        if value and not value.isdecimal():
            raise ValueError(f"{name}={value}: not a number of 0 or more")
        return int(value) if value else _NUMBERS[name]
    ways: tuple[str, ...] = get_args(hint)
    if value and value not in ways:
        raise ValueError(f"{name}={value}: must be one of {', '.join(ways)}")
    return value or ways[1]


def with_faults(dialect: Dialect, faults: Faults) -> Faults:
    """Return the faults with those that a dialect consists of."""
    more: dict[str, Any] = {}
    if dialect.newest_first == "oldest_first":
        more["newest_first"] = False
    if dialect.flat_tickers == "nested":
        more["nested_all_ticker"] = True
    if dialect.clock == "ahead":
        more["clock_offset"] = faults.clock_offset + _AHEAD
    if dialect.known_methods == "others":
        more["unknown_method"] = max(faults.unknown_method, _SHARE)
    if dialect.clean_first == "missing":
        more["clean_missing"] = 1.0
    if dialect.pushed_once == "repeated":
        more["duplicated"] = max(faults.duplicated, _SHARE)
    if dialect.pushed_once == "reordered":
        more["reordered"] = max(faults.reordered, _SHARE)
    if dialect.thirty_subscriptions == "closed":
        more["max_subscriptions"] = CAP
    if dialect.no_redirect == "redirected":
        more["refuse_all"] = _REDIRECT
    if dialect.connections:
        more["max_connections"] = dialect.connections
    if dialect.two_logins == "newer":
        more["one_login"] = True
    return replace(faults, **more)


# What is known


def known(update: Update, dialect: Dialect) -> Update:
    """Return an update with the figures that this exchange knows."""
    if update.channel not in _TICKERS:
        return update
    return replace(update, params=[_known_ticker(item, dialect) for item in update.params])


def _known_ticker(item: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    ticker = dict(item)
    if dialect.high_24h == "missing":
        ticker.pop("high_24h", None)
    if dialect.ticker_times == "missing":
        del ticker["timestamp"]
    for name in _FIGURES:
        if name not in ticker:
            continue
        match dialect.ticker_figures:
            case "null":
                ticker[name] = None
            case "dash":
                ticker[name] = "-"
            case "missing":
                del ticker[name]
    return ticker


# How it is said

_Time: TypeAlias = Callable[[float], float]


def _milliseconds(time: float) -> int:
    return round(time * _SECOND) // _MILLISECOND


def _microseconds(time: float) -> int:
    return round(time * _SECOND)


# The time of a trade as lists have it, and as live pushes do, by `trade_times`; None: as it is.
_TIMES: dict[str, tuple[_Time | None, _Time | None]] = {
    "fraction": (None, None),
    "milliseconds": (_milliseconds, _milliseconds),
    "whole": (int, int),
    "microseconds": (_microseconds, _microseconds),
    "mixed": (_milliseconds, None),
    "rounded": (int, None),
}


def spoken(update: Update, dialect: Dialect) -> Update:
    """Return an update as a dialect says it."""
    if dialect is DOCUMENTED:
        return update
    match update.channel:
        case "trades":
            return _spoken_trades(update, dialect)
        case "depth":
            return _spoken_depth(update, dialect)
        case "ticker" | "all_ticker":
            items = [_spoken_ticker(item, dialect) for item in update.params]
            nested = update.channel == "ticker" and dialect.flat_tickers == "nested"
            return replace(update, params=[items] if nested else items)
        case _:
            return update


def _spoken_trades(update: Update, dialect: Dialect) -> Update:
    clean, trades, symbol = update.params
    time = _TIMES[dialect.trade_times][0 if clean else 1]
    if time is not None:
        trades = [{**trade, "time": time(trade["time"])} for trade in trades]
    if dialect.newest_first == "unsorted":
        trades = sorted(trades, key=lambda trade: trade["price"])
    return replace(update, params=[clean, trades, symbol])


def _spoken_depth(update: Update, dialect: Dialect) -> Update:
    clean, book, symbol = update.params
    if clean and dialect.best_ask_last == "first" and book:
        book = {**book, "asks": book["asks"][::-1]}
    match dialect.both_sides:
        case "missing":
            book = {side: levels for side, levels in book.items() if levels}
        case "null":
            book = {side: levels or None for side, levels in book.items()}
        case "objects":
            book = {
                side: [{"price": price, "amount": amount} for price, amount in levels]
                for side, levels in book.items()
            }
    return replace(update, params=[clean, book, symbol])


def _spoken_ticker(item: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    ticker = dict(item)
    match dialect.ticker_times:
        case "seconds":
            ticker["timestamp"] = item["timestamp"] / _MILLISECOND
        case "microseconds":
            ticker["timestamp"] = item["timestamp"] * _MILLISECOND
    return ticker


def written(text: bytes, dialect: Dialect) -> bytes:
    """Return the JSON text of a message as a dialect writes it."""
    if (
        dialect.no_other_fields == "none"
        and dialect.spelling == "usual"
        and dialect.ticker_figures != "numbers"
    ):
        return text
    message = orjson.loads(text)
    if dialect.ticker_figures == "numbers" and message.get("method", "").startswith(_TICKERS):
        return _with_numbers(text)
    if dialect.no_other_fields == "added":
        message = _with_others(message)
    match dialect.spelling:
        case "blanks":
            return json.dumps(message, indent=2).encode()
        case "reversed":
            return orjson.dumps(_reversed(message))
        case _:
            return orjson.dumps(message)


def _with_numbers(text: bytes) -> bytes:
    """Return the text of a push of tickers in which figures are numbers with all their digits."""
    return re.sub(rb'"(\d+\.\d+)"', rb"\1", text)


def _with_others(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with a field more, in itself and in each item, and an element behind the symbol."""
    params = message.get("params")
    if isinstance(params, list):
        params = [_with_other_field(one) for one in params]
        if params and isinstance(params[0], bool):
            params.append({"depth": 1})
    message_id = message.pop("id")
    changed = {"params": params} if params is not None else {}
    return {**message, **changed, "sendTime": 1_600_000_000_000, "id": message_id}


def _with_other_field(part: Any) -> Any:  # noqa: ANN401 - JSON
    match part:
        case [*items]:
            return [_with_other_field(item) for item in items]
        case {"asks": _, "bids": _}:
            return {**part, "version": 7}
        case {"symbol": _} | {"id": _} | {"currency": _}:
            return {**part, "note": {"by": "the exchange"}}
        case _:
            return part


def _reversed(value: object) -> object:
    """Return JSON with the fields of all its objects in the opposite order."""
    match value:
        case dict():
            return {name: _reversed(value[name]) for name in reversed(value)}
        case list():
            return [_reversed(item) for item in value]
        case _:
            return value


def payload(text: bytes, dialect: Dialect, *, answer: bool = False) -> str | bytes:
    """Return the message of a WebSocket with this JSON text: text or binary."""
    if dialect.one_message == "joined" and not answer and zlib.crc32(text) % _JOINED == 0:
        text += _NOTICE
    match dialect.compressed:
        case "text":
            return text.decode()
        case "answers" if answer:
            return text.decode()
        case "plain":
            return text
        case "deflate" | "gzip":
            stream = zlib.compressobj(wbits=_GZIP if dialect.compressed == "gzip" else _RAW_DEFLATE)
            return stream.compress(text) + stream.flush()
        case _:
            return encoding.compress(text)
