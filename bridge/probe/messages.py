"""Looks at the messages of the exchange for what speaks for or against the assumptions about them; pure."""

import re
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from bridge.channels import CHANNELS
from bridge.channels.channel import is_market
from bridge.channels.ticker import FIGURES
from bridge.channels.trades import Trade
from bridge.errors import BadFrame
from bridge.exchange.frames import inflate, within
from bridge.probe.findings import Findings

_PUSH = ("method", "params", "id")
_ANSWER = ("error", "result", "id")
_TRADE = Trade.__struct_fields__
_SIDES = ("asks", "bids")
_TICKER = ("symbol", *FIGURES, "timestamp")

_LONG = 20  # trades that a list reaches back, at least
_MOST_MARKETS = 10_000  # that are remembered by name
_REMEMBERED = 1000  # ids of live trades, for each market of a connection
_SHOWN = 80  # characters of a message that are shown as evidence
_MOST_NAMES = 20  # fields that are remembered by name

_JITTER = 1.0  # seconds by which the times of trades may contradict their ids
_SECONDS = (1e9, 1e11)  # a time of day in seconds since the epoch
_MILLISECONDS = (1e12, 1e14)  # the same in milliseconds

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BLANK = re.compile(rb"\s")


@dataclass(slots=True)
class Answered:
    """The answers to one request: their number, the error of the first, when it came, monotonic seconds."""

    number: int = 0
    error: str | None = None
    result: Any = None
    at: float = 0.0


@dataclass(slots=True)
class Pushed:
    """The pushes of one subscription on one connection."""

    number: int = 0
    clean: int = 0  # how many of them were lists or snapshots
    first: float = 0.0  # when the first one came, monotonic seconds


@dataclass(slots=True)
class Line:
    """What one connection was asked for, and what came over it."""

    asked: set[tuple[str, str]] = field(default_factory=set)  # channel and symbol; "" where there is none
    answers: dict[int, Answered] = field(default_factory=lambda: defaultdict(Answered))  # by request id
    pushed: dict[tuple[str, str], Pushed] = field(default_factory=lambda: defaultdict(Pushed))
    live: dict[str, deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_REMEMBERED))
    )


@dataclass(slots=True)
class Measured:
    """Figures that no assumption is about."""

    forms: Counter[str] = field(default_factory=Counter)  # of frames and of what is in them
    pushes: Counter[str] = field(default_factory=Counter)  # by channel
    other_fields: set[str] = field(default_factory=set)  # not documented, about `_MOST_NAMES` at most
    largest: int = 0  # bytes of the largest message
    shortest_list: int | None = None  # trades in the shortest list
    longest_list: int | None = None  # and in the longest


class Messages:
    """Takes every message of every connection, and notes what it shows."""

    def __init__(self, findings: Findings, limit: int) -> None:
        self.findings = findings
        self.measured = Measured()
        self.markets: dict[str, int] = {}  # that a channel which lists markets has named, and how often
        self._limit = limit  # bytes that a message may have
        self._newest: dict[str, tuple[float, int]] = {}  # by market: time and id of the highest id so far
        self._oldest: dict[str, int] = {}  # by market: the lowest id so far

    def take(self, line: Line, frame: bytes, binary: bool, now: float) -> bytes | None:
        """Take a frame as it came; return its JSON text, None if it has none."""
        note, text = self.findings.note, self._text(frame, binary)
        if text is None:
            return None
        self.measured.largest = max(self.measured.largest, len(text))
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            note("one_message", False, f"not JSON: {error}: {_begin(text)}")
            return None
        note("one_message", True, f"{len(text)} bytes")
        blanks = _BLANK.search(_STRING.sub(b'""', text))
        note("spelling", not blanks, "blanks" if blanks else "no blanks, documented order")
        match message:
            case {"method": str(method), "params": list(params)} if method.endswith(".update"):
                self._fields(_PUSH, message, "a push")
                self._push(line, method.removesuffix(".update"), params, now)
            case {"id": int(number)} if "method" not in message and number in line.answers:
                self._fields(_ANSWER, message, "an answer")
                self._answer(line.answers[number], message, now)
            case _:
                note("known_methods", False, _begin(text))
        return text

    def _text(self, frame: bytes, binary: bool) -> bytes | None:
        form = _form(frame, binary)
        self.measured.forms[form] += 1
        self.findings.note("compressed", form == "zlib", form)
        try:
            return inflate(frame, self._limit) if binary else within(frame, self._limit)
        except BadFrame as bad:
            self.findings.note("one_message", False, str(bad))
            return None

    def _answer(self, answered: Answered, message: Mapping[str, Any], now: float) -> None:
        answered.number += 1
        if answered.number == 1:
            error = message.get("error")
            known = error in (None, False, 0, "")
            answered.error = None if known else self.findings.confidential.words(_begin(orjson.dumps(error)))
            answered.result, answered.at = message.get("result"), now

    def _push(self, line: Line, channel: str, params: list[Any], now: float) -> None:
        if channel not in CHANNELS:
            self.findings.note("known_methods", False, f"{channel}.update")
            return
        self.measured.pushes[channel] += 1
        begins_clean = CHANNELS[channel].begins_clean
        symbols = [str(params[2]).upper()] if begins_clean and len(params) > 2 else [""]  # noqa: PLR2004
        items = list(_flat(params)) if not begins_clean else []
        if items and not CHANNELS[channel].lists_markets:
            symbols = [str(item.get("symbol") or item.get("currency") or "").upper() for item in items]
        for symbol in symbols:
            asked = (channel, symbol) in line.asked
            self.findings.note("known_methods", asked, f"{channel}.update of {symbol or 'all'}")
            if not asked:
                return  # what was not asked for is neither judged nor remembered
            pushed = line.pushed[channel, symbol]
            if not pushed.number:
                pushed.first = now
            pushed.number += 1
            pushed.clean += begins_clean and params[:1] == [True]
        match channel:
            case "trades" if len(params) > 2:  # noqa: PLR2004
                self._extra(params, "trades")
                self._trades(line, params[0] is True, params[1], symbols[0])
            case "depth" if len(params) > 2:  # noqa: PLR2004
                self._extra(params, "depth")
                self._depth(params[0] is True, params[1])
            case "ticker" | "all_ticker":
                nested = bool(params) and isinstance(params[0], list)
                self.findings.note("flat_tickers", not nested, _begin(orjson.dumps(params)))
                for item in items:
                    self._ticker(item, lists=CHANNELS[channel].lists_markets)

    def _extra(self, params: list[Any], channel: str) -> None:
        known = 3
        if len(params) > known:
            self.findings.note("no_other_fields", False, f"{channel}: {_begin(orjson.dumps(params[known:]))}")

    def _fields(self, known: tuple[str, ...], item: Mapping[str, Any], where: str) -> None:
        """Note fields that are not documented, and the order of those that are."""
        others = [name for name in item if name not in known]
        self.findings.note("no_other_fields", not others, f"{', '.join(others) or 'none'} in {where}")
        if len(self.measured.other_fields) < _MOST_NAMES:
            self.measured.other_fields.update(others)
        order = [name for name in item if name in known]
        documented = [name for name in known if name in item]
        self.findings.note("spelling", order == documented, f"{where} begins with {', '.join(order[:3])}")

    def _trades(self, line: Line, clean: bool, trades: object, symbol: str) -> None:
        note = self.findings.note
        items = [one for one in trades if isinstance(one, dict)] if isinstance(trades, list) else []
        ids = [one["id"] for one in items if isinstance(one.get("id"), int)]
        if clean:
            self._list(ids, symbol)
        if len(ids) > 1:
            note("newest_first", ids == sorted(ids, reverse=True), f"{symbol}: {ids[0]}, {ids[1]}, …")
        for item in items:
            self._fields(_TRADE, item, "a trade")
            seconds = _within(item.get("time"), _SECONDS)
            note("trade_times", seconds, f"{symbol}: {item.get('time')!r}")
        for item in sorted((one for one in items if one.get("id") in ids), key=lambda one: one["id"]):
            self._id(symbol, item)
            if not clean:
                live = line.live[symbol]
                once = item["id"] not in live and (not live or item["id"] > live[-1])
                note("pushed_once", once, f"{symbol}: {item['id']} after {live[-1] if live else None}")
                live.append(item["id"])

    def _list(self, ids: list[int], symbol: str) -> None:
        """Note the length of a list; a short one is no fault as long as no older trade is known."""
        known, length = self.measured, len(ids)
        known.shortest_list = length if known.shortest_list is None else min(length, known.shortest_list)
        known.longest_list = max(length, known.longest_list or 0)
        oldest = self._oldest.get(symbol)
        if length >= _LONG or (oldest is not None and oldest < min(ids, default=oldest + 1)):
            self.findings.note("long_lists", length >= _LONG, f"{symbol}: {length} trades")

    def _id(self, symbol: str, trade: Mapping[str, Any]) -> None:
        time, number = trade.get("time"), trade["id"]
        if not isinstance(time, int | float):
            return
        self._oldest[symbol] = min(number, self._oldest.get(symbol, number))
        newest = self._newest.get(symbol)
        if newest is not None:
            later, higher = time - newest[0], number > newest[1]
            rising = not (later > _JITTER and not higher) and not (later < -_JITTER and higher)
            evidence = f"{symbol}: {number} at {time} after {newest[1]} at {newest[0]}"
            self.findings.note("ids_rise", rising, evidence)
        if newest is None or number > newest[1]:
            self._newest[symbol] = (time, number)

    def _depth(self, clean: bool, book: object) -> None:
        note = self.findings.note
        if not isinstance(book, dict):
            note("both_sides", False, _begin(orjson.dumps(book)))
            return
        self._fields(_SIDES, book, "a book")
        sides = [book.get(name) for name in _SIDES]
        lists = all(isinstance(side, list) and all(map(_is_level, side)) for side in sides)
        note("both_sides", lists, _begin(orjson.dumps(book)))
        if clean and lists and len(book["asks"]) > 1:
            asks = [float(level[0]) for level in book["asks"]]
            highest_first = asks == sorted(asks, reverse=True)
            note("best_ask_last", highest_first, f"asks {asks[0]:g}, {asks[1]:g}, …")

    def _ticker(self, item: object, *, lists: bool) -> None:
        if not isinstance(item, dict):
            return
        note = self.findings.note
        symbol = str(item.get("symbol", "")).upper()
        if lists and is_market(symbol) and (symbol in self.markets or len(self.markets) < _MOST_MARKETS):
            self.markets[symbol] = self.markets.get(symbol, 0) + 1
        self._fields(_TICKER, item, "a ticker")
        note("high_24h", "high_24h" not in item, symbol)
        wrong = {name: item.get(name) for name in FIGURES if not _is_figure(item.get(name))}
        wrong.pop("high_24h", None)
        shown = ", ".join(f"{name} {value!r}" for name, value in list(wrong.items())[:3])
        note("ticker_figures", not wrong, f"{symbol}: {shown or 'all are text'}")
        time = item.get("timestamp")
        note("ticker_times", _within(time, _MILLISECONDS), f"{symbol}: {time!r}")


def _form(frame: bytes, binary: bool) -> str:
    if not binary:
        return "text"
    if frame[:1] == b"{":
        return "plain JSON, binary"
    if frame.startswith(b"\x1f\x8b"):
        return "gzip"
    try:
        zlib.decompressobj().decompress(frame, 1)
    except zlib.error:
        return "not zlib, binary"
    return "zlib"


def _flat(items: list[Any]) -> Iterator[dict[str, Any]]:
    for item in items:
        if isinstance(item, list):
            yield from _flat(item)
        elif isinstance(item, dict):
            yield item


def _is_level(level: object) -> bool:
    match level:
        case [str(price), str(amount), *_]:
            return _is_figure(price) and _is_figure(amount)
        case _:
            return False


def _is_figure(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _within(value: object, bounds: tuple[float, float]) -> bool:
    return isinstance(value, int | float) and bounds[0] < value < bounds[1]


def _begin(text: bytes) -> str:
    """Return how a message begins, as evidence."""
    return text[:_SHOWN].decode(errors="replace") + ("…" if len(text) > _SHOWN else "")
