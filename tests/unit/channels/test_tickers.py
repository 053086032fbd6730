"""ticker and all_ticker: the figures of a symbol with the digits that the exchange sent, or null."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.decimals import decimals
from tests.support.pushes import Feed, bad, records, source
from tests.support.schemas import Json

FIGURES = (
    "open_24h",
    "high_24h",
    "low_24h",
    "base_volume_24h",
    "quote_volume_24h",
    "last",
    "last_qty",
    "best_bid",
    "best_bid_size",
    "best_ask",
    "best_ask_size",
)
TIME_MS = 1586762545336

figures = decimals | st.sampled_from(["", "-", None])

pytestmark = pytest.mark.parametrize("channel", ["ticker", "all_ticker"])


def ticker(symbol: object = "BTC_USDT", **fields: object) -> Json:
    return {"symbol": symbol, "timestamp": TIME_MS} | fields


@settings(deadline=None, max_examples=30)
@given(sent=st.dictionaries(st.sampled_from(FIGURES), figures))
def test_every_figure_keeps_its_digits_and_its_place(channel: str, sent: dict[str, str | None]) -> None:
    (record,) = records(channel, [ticker(**sent)])
    assert {name: record[name] for name in FIGURES} == {
        name: None if sent.get(name) in {"", "-"} else sent.get(name) for name in FIGURES
    }


@settings(deadline=None, max_examples=30)
@given(symbols=st.lists(st.sampled_from(["BTC_USDT", "btc_usdt", "ETH_USDT"]), max_size=10), data=st.data())
def test_each_ticker_becomes_a_record_in_any_nesting_and_split(
    channel: str, symbols: list[str], data: st.DataObject
) -> None:
    feed, session = Feed(channel), source()
    rest = [ticker(symbol, last=str(place)) for place, symbol in enumerate(symbols)]
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        push, rest = rest[:size], rest[size:]
        feed.push([push] if data.draw(st.booleans()) else push, session)
    assert [(record["symbol"], record["last"]) for record in feed.records] == [
        (symbol.upper(), str(place)) for place, symbol in enumerate(symbols)
    ]
    for symbol in ("BTC_USDT", "ETH_USDT"):
        seqs = [record["seq"] for record in feed.records if record["symbol"] == symbol]
        assert seqs == list(range(len(seqs)))


def test_milliseconds_become_microseconds(channel: str) -> None:
    (record,) = records(channel, [ticker()])
    assert record["time_us"] == TIME_MS * 1000


@pytest.mark.parametrize(
    "time", [None, "", "-", "now", 0, -1, TIME_MS * 10**6, 10**400, 1e300, True, [TIME_MS], {"ms": TIME_MS}]
)
def test_a_ticker_without_a_usable_time_has_none_and_keeps_its_figures(channel: str, time: object) -> None:
    outcome = Feed(channel).push([ticker(), ticker("ETH_USDT", timestamp=time, last="1")], source())
    assert outcome.bad == []
    first, second = records(channel, [ticker(), ticker("ETH_USDT", timestamp=time, last="1")])
    assert (first["time_us"], second["time_us"], second["last"]) == (TIME_MS * 1000, None, "1")
    without = {"symbol": "ETH_USDT", "last": "1"}
    assert [record["time_us"] for record in records(channel, [without, ticker()])] == [None, TIME_MS * 1000]


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_the_unit_of_a_time_is_known_by_its_size(channel: str, unit: int) -> None:
    (record,) = records(channel, [ticker(timestamp=1586762545 * unit)])
    assert record["time_us"] == 1586762545 * 1_000_000


def test_the_time_of_a_push_is_that_of_its_newest_ticker(channel: str) -> None:
    outcome = Feed(channel).push(
        [ticker(), ticker(timestamp=TIME_MS + 5), ticker(timestamp=TIME_MS + 1)], source()
    )
    assert outcome.time_us == (TIME_MS + 5) * 1000


def test_a_push_without_a_valid_ticker_has_no_time(channel: str) -> None:
    assert Feed(channel).push([], source()).time_us is None
    assert Feed(channel).push([ticker(last="x")], source()).time_us is None


def test_a_bad_ticker_uses_no_seq_and_does_not_spoil_the_others(channel: str) -> None:
    feed, session = Feed(channel), source()
    outcome = feed.push([ticker(last="1"), ticker(last="x"), {"symbol": 5}, None, ticker(last="2")], session)
    assert [(record["last"], record["seq"]) for record in feed.records] == [("1", 0), ("2", 1)]
    assert len(outcome.bad) == 3


def test_a_reason_names_the_symbol_or_shows_the_item(channel: str) -> None:
    assert bad(channel, [ticker(last="x")]) == ["BTC_USDT: 'x' is not a decimal"]
    (reason,) = bad(channel, [{"symbol": ""}])
    assert reason.startswith('item b\'{"symbol": ""}\': ')


def test_a_record_names_the_schema_of_its_channel(channel: str) -> None:
    (record,) = records(channel, [ticker()])
    assert record["schema"] == f"digifinex.{channel}.v1"
