"""Only what a session has subscribed to becomes records and is remembered."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bridge.allowance import AT_ONCE
from bridge.channels import CHANNELS
from bridge.channels.channel import MOST_NAMES, Source
from bridge.exchange.requests import Credentials
from bridge.exchange.words import Confidential
from bridge.pipeline import Pipeline
from bridge.records import DEADLETTER, EVENTS, Record, schema_of
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from tests.support.pushes import push
from tests.support.schemas import validate

NOW_US = 1_600_000_000_000_000
TRADE = {"id": 7, "time": 1_600_000_000.5, "price": "9000.00", "amount": "0.1000", "type": "buy"}
BALANCE = {"currency": "USDT", "free": "1", "total": "1", "used": "0"}
ORDER = {
    "id": "1", "mode": 1, "side": "buy", "type": "limit", "status": 1, "symbol": "BTC_USDT",
    "timestamp": 1589272547000,
}  # fmt: skip


class Exchange:
    """A pipeline, and what becomes of what an exchange pushes to it."""

    def __init__(self, wanted: Any = CHANNELS) -> None:
        self.records: list[Record] = []
        self.metrics = Metrics()
        self.markets: set[bytes] = set()
        watch = Watch("0", self.metrics, Journal("replica", 0, self._emit, self.metrics))
        self.pipeline = Pipeline(
            wanted=wanted, emit=self._emit, watermarks={}, watch=watch, on_markets=self._take_markets
        )

    def pushes(self, source: Source, channel: str, params: Any, now_us: int = NOW_US) -> None:
        frame = json.dumps({"method": f"{channel}.update", "params": params}).encode()
        self.pipeline.push(push(channel, params), source, now_us, frame)

    def made(self, channel: str) -> list[dict[str, Any]]:
        return [validate(one) for one in self.records if schema_of(one.channel) == channel]

    def reasons(self) -> list[str]:
        return [one["reason"] for one in self.made(DEADLETTER)]

    def data(self) -> list[Record]:
        return [one for one in self.records if schema_of(one.channel) not in (DEADLETTER, EVENTS)]

    def _take_markets(self, records: Sequence[Record], _source: Source) -> None:
        self.markets.update(one.key for one in records if one.key is not None)

    def _emit(self, records: Any) -> list[Record]:
        self.records += records
        return []


def asking(account: str | None = None, **wanted: list[str]) -> Source:
    source = Source("s", account)
    for channel, names in wanted.items():
        source.ask(channel, names)
    source.channels = wanted.keys()
    return source


@pytest.mark.parametrize(
    ("channel", "params"),
    [
        ("trades", [True, [TRADE], "ETH_USDT"]),
        ("trades", [False, [TRADE], "BTC_USDT "]),
        ("trades", [False, [TRADE], "BTC\u200b_USDT"]),
        ("trades", [False, [{"id": "bad"}], "ETH_USDT"]),
        ("trades", [False, 5, "ETH_USDT"]),
        ("depth", [True, {"asks": [], "bids": []}, "BTC_USDT"]),
        ("depth", 5),
        ("ticker", [{"symbol": "BTC_USDT", "last": "1"}]),
        ("all_ticker", [{"symbol": "BTC_USDT", "last": "1"}]),
        ("order", [ORDER]),
        ("order_algo", [{"symbol": "BTC_USDT"}, 5]),
        ("balance", [BALANCE]),
    ],
)
def test_what_was_not_asked_for_is_a_dead_letter_and_nothing_else(channel: str, params: Any) -> None:
    exchange, source = Exchange(), asking(trades=["BTC_USDT"])
    exchange.pushes(source, channel, params)
    exchange.pipeline.overdue(NOW_US + 10**9, 1)
    assert exchange.reasons() == ["unsubscribed"]
    assert not exchange.data()
    assert not exchange.made(EVENTS)
    assert not exchange.markets
    assert not [one for name in CHANNELS for one in source.of(name)]
    assert not source.incomplete


@pytest.mark.parametrize("symbol", ["BTC_USDT", "btc_usdt", "Btc_Usdt"])
def test_what_was_asked_for_is_taken_in_any_case_before_and_after_it_is_confirmed(symbol: str) -> None:
    exchange, source = Exchange(), asking(trades=["BTC_USDT"])
    exchange.pushes(source, "trades", [True, [TRADE], symbol])
    exchange.pushes(source, "trades", [False, [TRADE | {"id": 8}], symbol])
    assert [one["symbol"] for one in exchange.made("trades")] == ["BTC_USDT", "BTC_USDT"]
    assert not exchange.reasons()


def test_of_a_list_what_was_asked_for_becomes_records() -> None:
    exchange, source = Exchange(), asking("main", order=["BTC_USDT"], balance=["USDT"])
    exchange.pushes(source, "order", [ORDER, ORDER | {"symbol": "ETH_USDT"}])
    exchange.pushes(source, "balance", [BALANCE | {"currency": "DOGE"}, BALANCE])
    assert [one.key for one in exchange.data()] == [b"BTC_USDT", b"USDT"]
    assert exchange.reasons() == ["unsubscribed"] * 2
    assert not exchange.made(EVENTS)  # no gap: nothing that was asked for is missing


def test_a_bad_push_of_what_was_asked_for_is_still_a_gap() -> None:
    exchange, source = Exchange(), asking("main", order=["BTC_USDT"])
    exchange.pushes(source, "order", ["a", "b", "c"])
    assert exchange.reasons() == ["payload"]
    assert [one["event"] for one in exchange.made(EVENTS)] == ["gap"]


def test_a_session_without_an_account_makes_no_record_of_an_order() -> None:
    exchange, source = Exchange(wanted={"trades"}), asking(trades=["BTC_USDT"])
    exchange.pushes(source, "order", [ORDER])
    (letter,) = exchange.made(DEADLETTER)
    assert (letter["reason"], letter["frame_base64"]) == ("unsubscribed", "")
    assert "there is no account" in letter["detail"]
    assert [one.channel for one in exchange.records] == [DEADLETTER]


def test_a_flood_of_symbols_takes_no_memory_and_is_counted() -> None:
    exchange, source = Exchange(), asking(trades=["BTC_USDT"])
    number = 5_000
    for n in range(number):
        exchange.pushes(source, "trades", [True, [TRADE], f"X{n}_USDT"])
    exchange.pipeline.overdue(NOW_US, 10**9)
    assert exchange.reasons() == ["unsubscribed"] * AT_ONCE
    assert exchange.metrics.counter("deadletters_total", reason="unsubscribed").value == number
    (event,) = exchange.made(EVENTS)
    assert (event["event"], event["account"]) == ("pushes_left_out", None)
    assert event["detail"].startswith(f"{number - AT_ONCE} pushes")
    assert not source.of("trades")
    normaliser = exchange.pipeline._lanes["trades"].normaliser
    assert not normaliser._known  # type: ignore[attr-defined]


def test_what_is_left_out_is_reported_once_a_minute_and_at_the_end() -> None:
    exchange, source = Exchange(), asking("main", order=["BTC_USDT"])
    for second in range(150):
        now_us = NOW_US + second * 1_000_000
        exchange.pushes(source, "order", [ORDER | {"symbol": "ETH_USDT"}], now_us)
        exchange.pipeline.overdue(now_us, 10**12)
    exchange.pipeline.report_left_out()
    events = exchange.made(EVENTS)
    assert [one["account"] for one in events] == ["main"] * len(events)
    assert 3 <= len(events) <= 5
    left_out = sum(int(one["detail"].split()[0]) for one in events)
    assert left_out + len(exchange.reasons()) == 150


def test_spellings_of_a_symbol_take_no_memory() -> None:
    source = asking(trades=["BTC_USDT"])
    series = source.series("trades", "BTC_USDT")
    for n in range(256):
        spelled = "".join(one.lower() if n >> place & 1 else one for place, one in enumerate("BTC_USDT"))
        assert source.series("trades", spelled) is series
    assert len(source._series["trades"]) == 2


@pytest.mark.parametrize(
    "name", ["", "\x1b[2J", "BTC USDT", "BTC\nUSDT", "-BTC", "*", "../x", "ΒTC", "B" * 65]
)
def test_all_ticker_names_markets_by_names_only(name: str) -> None:
    exchange, source = Exchange(), asking(all_ticker=[])
    exchange.pushes(
        source, "all_ticker", [{"symbol": name}, {"symbol": "BTC_USDT"}, {"symbol": "1inch_usdt"}]
    )
    assert exchange.markets == {b"BTC_USDT", b"1INCH_USDT"}
    assert exchange.reasons() == ["payload"]


def test_all_ticker_names_a_bounded_number_of_markets() -> None:
    exchange, source = Exchange(), asking(all_ticker=[])
    items = [{"symbol": f"X{n}_USDT"} for n in range(MOST_NAMES + 3)]
    exchange.pipeline.push(
        msgspec.structs.replace(push("all_ticker", []), params=msgspec.json.encode(items)),
        source,
        NOW_US,
        b"a frame",
    )
    assert len(exchange.data()) == len(exchange.markets) == MOST_NAMES
    assert exchange.reasons() == ["unsubscribed"]


def test_a_credential_is_not_the_name_of_a_market() -> None:
    exchange, source = Exchange(), asking(all_ticker=[])
    confidential = Confidential([Credentials("5a8e6b662ddb0", "s3cr3t-s3cr3t")])
    source.conceals = confidential.is_in
    exchange.pushes(source, "all_ticker", [{"symbol": "5A8e6b662ddb0_USDT"}, {"symbol": "BTC_USDT"}])
    assert exchange.markets == {b"BTC_USDT"}
    assert "5a8e6b" not in str(exchange.made(DEADLETTER)[0]["detail"]).lower()
