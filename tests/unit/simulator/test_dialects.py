"""Ways in which the simulated exchange differs from the usual one."""

import dataclasses
import zlib
from typing import Any

import orjson
import pytest

from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.simulator import Faults, encoding
from bridge.simulator.dialects import (
    DOCUMENTED,
    Dialect,
    known,
    parse_dialect,
    payload,
    spoken,
    with_faults,
    written,
)
from bridge.simulator.market import Exchange, Update

SYMBOL = "BTC_USDT"
TIME = 1_600_000_000.123_456


def test_a_dialect_is_parsed_from_names_and_values() -> None:
    assert parse_dialect("") == DOCUMENTED
    parsed = parse_dialect("adds, long_lists=20,trade_times=mixed")
    assert parsed == Dialect(adds="replaces", long_lists=20, trade_times="mixed")


def test_a_name_alone_turns_an_assumption_round() -> None:
    parsed = parse_dialect("compressed,long_lists")
    assert (parsed.compressed, parsed.long_lists) == ("answers", 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ads", "unknown dialect 'ads': did you mean adds?"),
        ("moon", "unknown dialect 'moon': there are compressed, "),
        ("adds=never", "adds=never: must be one of adds, replaces"),
        ("long_lists=-1", "long_lists=-1: not a number"),
    ],
)
def test_a_wrong_dialect_names_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_dialect(text)


def test_every_assumption_can_be_turned_round() -> None:
    assert {field.name for field in dataclasses.fields(Dialect)} == set(ASSUMPTIONS)
    for name in ASSUMPTIONS:
        assert getattr(parse_dialect(name), name) != getattr(DOCUMENTED, name)


def said(update: Update, dialect: str) -> Any:
    """Return the message with an update in a dialect, read from its frame."""
    spoken_in = parse_dialect(dialect)
    text = written(encoding.text(spoken(known(update, spoken_in), spoken_in)), spoken_in)
    return orjson.loads(text)


def times(way: str, *, clean: bool) -> list[float]:
    update = Update("trades", SYMBOL, [clean, [{"id": 1, "time": TIME}], SYMBOL])
    said = spoken(update, parse_dialect(f"trade_times={way}"))
    return [trade["time"] for trade in said.params[1]]


@pytest.mark.parametrize(
    ("way", "in_lists", "in_pushes"),
    [
        ("fraction", TIME, TIME),
        ("whole", 1_600_000_000, 1_600_000_000),
        ("milliseconds", 1_600_000_000_123, 1_600_000_000_123),
        ("microseconds", 1_600_000_000_123_456, 1_600_000_000_123_456),
        ("mixed", 1_600_000_000_123, TIME),
        ("rounded", 1_600_000_000, TIME),
    ],
)
def test_times_of_trades_have_other_units(way: str, in_lists: float, in_pushes: float) -> None:
    assert times(way, clean=True) == [in_lists]
    assert times(way, clean=False) == [in_pushes]


@pytest.mark.parametrize("length", [0, 5, 200])
def test_lists_have_another_length(length: int) -> None:
    exchange = Exchange([SYMBOL], 7, listed=length)
    for _ in range(300):
        exchange.event("trades", TIME)
    _, trades, _ = exchange.markets[SYMBOL].clean_trades().params
    assert len(trades) == length


EXCHANGE = Exchange([SYMBOL], 7)
MARKET = EXCHANGE.markets[SYMBOL]
TRADES = Update("trades", SYMBOL, [False, [{"id": 2, "price": "3.0"}, {"id": 1, "price": "4.0"}], SYMBOL])
TICKER = Update("ticker", SYMBOL, [MARKET.ticker(TIME)])
DELTA = Update("depth", SYMBOL, [False, {"asks": [["1.0", "2.0"]], "bids": []}, SYMBOL])


def test_fields_are_added_everywhere() -> None:
    message = said(TRADES, "no_other_fields")
    assert list(message) == ["method", "params", "sendTime", "id"]
    _, trades, _, more = message["params"]
    assert more
    assert all("note" in trade for trade in trades)
    assert "version" in said(DELTA, "no_other_fields")["params"][1]
    assert "note" in said(TICKER, "no_other_fields")["params"][0]
    answer = orjson.loads(written(encoding.reply(1, "pong", None), Dialect(no_other_fields="added")))
    assert list(answer) == ["error", "result", "sendTime", "id"]


@pytest.mark.parametrize("update", [TRADES, TICKER, DELTA])
@pytest.mark.parametrize("way", ["blanks", "reversed"])
def test_another_spelling_says_the_same(update: Update, way: str) -> None:
    text = encoding.text(update)
    other = written(text, parse_dialect(f"spelling={way}"))
    assert other != text
    assert orjson.loads(other) == orjson.loads(text)


def test_an_empty_side_is_missing_or_null_and_levels_are_objects() -> None:
    assert said(DELTA, "both_sides=missing")["params"][1] == {"asks": [["1.0", "2.0"]]}
    assert said(DELTA, "both_sides=null")["params"][1] == {"asks": [["1.0", "2.0"]], "bids": None}
    levels = said(DELTA, "both_sides=objects")["params"][1]["asks"]
    assert levels == [{"price": "1.0", "amount": "2.0"}]


def test_the_asks_of_a_snapshot_begin_with_the_best() -> None:
    usual, other = said(MARKET.snapshot(), ""), said(MARKET.snapshot(), "best_ask_last")
    assert other["params"][1]["asks"] == usual["params"][1]["asks"][::-1]
    assert other["params"][1]["bids"] == usual["params"][1]["bids"]


def test_a_ticker_has_the_documented_figures_and_in_one_dialect_the_high_as_well() -> None:
    documented = {*TICKER.params[0]} - {"high_24h"}
    assert {*said(TICKER, "")["params"][0]} == documented
    assert said(TICKER, "high_24h")["params"][0] == said(TICKER, "")["params"][0] | {
        "high_24h": TICKER.params[0]["high_24h"]
    }


def test_figures_of_a_ticker_are_missing_or_written_otherwise() -> None:
    usual = said(TICKER, "")["params"][0]
    assert said(TICKER, "ticker_figures=numbers")["params"][0]["last"] == float(usual["last"])
    assert said(TICKER, "ticker_figures=dash")["params"][0]["low_24h"] == "-"
    assert said(TICKER, "ticker_figures=null")["params"][0]["low_24h"] is None
    assert "low_24h" not in said(TICKER, "ticker_figures=missing")["params"][0]


def test_times_of_tickers_have_other_units() -> None:
    usual = said(TICKER, "")["params"][0]["timestamp"]
    assert said(TICKER, "ticker_times=seconds")["params"][0]["timestamp"] == usual / 1000
    assert said(TICKER, "ticker_times=microseconds")["params"][0]["timestamp"] == usual * 1000
    assert "timestamp" not in said(TICKER, "ticker_times=missing")["params"][0]


def test_tickers_are_a_list_in_a_list() -> None:
    assert said(TICKER, "flat_tickers")["params"] == [said(TICKER, "")["params"]]


def test_trades_of_a_push_are_in_any_order() -> None:
    assert [one["id"] for one in said(TRADES, "newest_first=unsorted")["params"][1]] == [2, 1]
    other = Update("trades", SYMBOL, [False, TRADES.params[1][::-1], SYMBOL])
    assert [one["id"] for one in said(other, "newest_first=unsorted")["params"][1]] == [2, 1]


@pytest.mark.parametrize(
    ("way", "read"),
    [
        ("zlib", zlib.decompress),
        ("deflate", lambda data: zlib.decompress(data, -15)),
        ("plain", lambda data: data),
        ("text", lambda data: data.encode()),
    ],
)
def test_a_message_is_sent_in_another_form(way: str, read: Any) -> None:
    assert read(payload(b'{"id":1}', parse_dialect(f"compressed={way}"))) == b'{"id":1}'


def test_answers_alone_are_text() -> None:
    answers = parse_dialect("compressed=answers")
    assert payload(b"{}", answers, answer=True) == "{}"
    assert isinstance(payload(b"{}", answers), bytes)


def test_some_frames_have_two_messages() -> None:
    joined = parse_dialect("one_message")
    texts = [b'{"id":%d}' % number for number in range(200)]
    lines = [zlib.decompress(payload(text, joined)).count(b"\n") for text in texts]  # type: ignore[arg-type]
    assert 0 < sum(lines) < len(lines) / 2
    assert not any(b"\n" in zlib.decompress(payload(text, joined, answer=True)) for text in texts)  # type: ignore[arg-type]


def test_a_dialect_consists_of_faults_in_part() -> None:
    faults = with_faults(parse_dialect("newest_first=oldest_first,clock,pushed_once"), Faults(drop=3))
    assert (faults.newest_first, faults.clock_offset, faults.drop) == (False, 20.0, 3)
    assert faults.duplicated > 0
    assert with_faults(DOCUMENTED, Faults(drop=3)) == Faults(drop=3)
