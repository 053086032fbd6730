"""Each kind of message speaks for or against the assumptions about it."""

import zlib
from typing import Any

import orjson
import pytest

from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.exchange.requests import Credentials
from bridge.probe.findings import Findings, Verdict
from bridge.probe.messages import Line, Messages

TRADE = {"id": 7172173, "time": 1523339279.761838, "price": "398.59", "amount": "0.027", "type": "buy"}
BOOK = {"asks": [["8001.00", "1"], ["8000.00", "9.6250"]], "bids": [["7999.00", "9.6250"]]}
TICKER = {
    "symbol": "BTC_USDT",
    "open_24h": "1760",
    "low_24h": "1.00",
    "base_volume_24h": "9.40088557",
    "quote_volume_24h": "21786.30588557",
    "last": "4000",
    "last_qty": "1",
    "best_bid": "3397",
    "best_bid_size": "0.85",
    "best_ask": "4000",
    "best_ask_size": "109.2542",
    "timestamp": 1586762372864,
}
ASKED = {("trades", "BTC_USDT"), ("depth", "BTC_USDT"), ("ticker", "BTC_USDT"), ("all_ticker", "")}


class Seen:
    """What a probe makes of the messages of one connection."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.messages = Messages(self.findings, 65_536)
        self.line = Line(asked=set(ASKED))
        self.line.answers[4]  # a request that waits for its answer

    def text(self, text: bytes) -> None:
        self.messages.take(self.line, zlib.compress(text), binary=True, now=1.0)

    def push(self, channel: str, params: list[Any], **others: object) -> None:
        message = {"method": f"{channel}.update", "params": params, "id": None} | others
        self.text(orjson.dumps(message))

    def verdict(self, name: str) -> Verdict:
        return self.findings.of[name].verdict

    def failed(self) -> list[str]:
        return [name for name in ASSUMPTIONS if self.verdict(name) is Verdict.DOES_NOT_HOLD]


def trades(*ids: int) -> list[dict[str, Any]]:
    return [TRADE | {"id": number, "time": 1_523_339_279 + number} for number in ids]


@pytest.mark.parametrize(
    ("channel", "params"),
    [
        ("trades", [True, trades(*range(30, 0, -1)), "BTC_USDT"]),
        ("trades", [False, trades(8, 7), "BTC_USDT"]),
        ("depth", [True, BOOK, "BTC_USDT"]),
        ("ticker", [TICKER]),
        ("all_ticker", [TICKER, TICKER | {"symbol": "ETH_USDT"}]),
    ],
)
def test_what_the_documents_show_contradicts_nothing(channel: str, params: list[Any]) -> None:
    seen = Seen()
    seen.push(channel, params)
    assert seen.failed() == []


@pytest.mark.parametrize(
    ("name", "channel", "params"),
    [
        ("newest_first", "trades", [True, trades(*range(1, 31)), "BTC_USDT"]),
        ("trade_times", "trades", [False, [TRADE | {"time": 1523339279761}], "BTC_USDT"]),
        ("trade_times", "trades", [False, [TRADE | {"time": "1523339279"}], "BTC_USDT"]),
        ("pushed_once", "trades", [False, trades(7, 7), "BTC_USDT"]),
        ("ids_rise", "trades", [False, [*trades(900), TRADE | {"id": 1, "time": 1523350000}], "BTC_USDT"]),
        ("both_sides", "depth", [False, {"asks": BOOK["asks"]}, "BTC_USDT"]),
        ("both_sides", "depth", [False, BOOK | {"bids": None}, "BTC_USDT"]),
        ("both_sides", "depth", [False, BOOK | {"bids": [{"price": "1", "amount": "2"}]}, "BTC_USDT"]),
        ("both_sides", "depth", [True, {}, "BTC_USDT"]),
        ("best_ask_last", "depth", [True, BOOK | {"asks": BOOK["asks"][::-1]}, "BTC_USDT"]),
        ("high_24h", "ticker", [{"symbol": "", "open_24h": "", "high_24h": "4100", **TICKER}]),
        ("ticker_figures", "ticker", [TICKER | {"last": None}]),
        ("ticker_figures", "ticker", [TICKER | {"last": "-"}]),
        ("ticker_figures", "ticker", [TICKER | {"last": 4000}]),
        ("ticker_times", "ticker", [TICKER | {"timestamp": 1586762372}]),
        ("ticker_times", "ticker", [{k: v for k, v in TICKER.items() if k != "timestamp"}]),
        ("flat_tickers", "all_ticker", [[TICKER]]),
        ("no_other_fields", "ticker", [TICKER | {"index_price": "1"}]),
        ("no_other_fields", "trades", [False, trades(1), "BTC_USDT", 1586762372864]),
        ("spelling", "trades", [False, [dict(reversed(TRADE.items()))], "BTC_USDT"]),
        ("known_methods", "depth", [False, BOOK, "DOGE_USDT"]),
        ("known_methods", "kline", [1, 2, 3]),
    ],
)
def test_what_is_otherwise_speaks_against_its_assumption_alone(
    name: str, channel: str, params: list[Any]
) -> None:
    seen = Seen()
    seen.push(channel, params)
    assert seen.failed() == [name]
    assert seen.findings.of[name].evidence


@pytest.mark.parametrize("shown", [[], [9, 8, 7]])
def test_a_short_list_is_one_that_lacks_what_is_known(shown: list[int]) -> None:
    seen = Seen()
    seen.push("trades", [True, trades(8, 7, 6), "BTC_USDT"])
    assert seen.verdict("long_lists") is Verdict.NOT_SEEN
    seen.push("trades", [True, trades(*shown), "BTC_USDT"])
    assert seen.failed() == ["long_lists"]


def test_a_field_beside_the_params_is_no_documented_one() -> None:
    seen = Seen()
    seen.push("ticker", [TICKER], sendTime=1586762372864)
    assert seen.failed() == ["no_other_fields"]
    assert "sendTime" in seen.findings.of["no_other_fields"].evidence


def test_blanks_are_not_the_usual_spelling_but_blanks_in_texts_are() -> None:
    compact, spaced = Seen(), Seen()
    compact.text(b'{"error":{"code":1,"message":"no such \\" thing"},"result":null,"id":4}')
    spaced.text(b'{"error": null, "result":"pong","id":4}')
    assert (compact.failed(), spaced.failed()) == ([], ["spelling"])


@pytest.mark.parametrize("binary", [True, False])
def test_frames_that_are_not_compressed_are_noticed(binary: bool) -> None:
    seen = Seen()
    seen.messages.take(seen.line, b'{"error":null,"result":"pong","id":4}', binary, 1.0)
    assert seen.failed() == ["compressed"]
    assert seen.line.answers[4].number == 1


@pytest.mark.parametrize(
    "frame", [zlib.compress(b"{}")[:-3], zlib.compress(b"{"), zlib.compress(b" " * 70_000), b""]
)
def test_frames_that_are_no_message_are_noticed_and_nothing_breaks(frame: bytes) -> None:
    seen = Seen()
    seen.messages.take(seen.line, frame, binary=True, now=1.0)
    assert seen.verdict("one_message") is Verdict.DOES_NOT_HOLD


@pytest.mark.parametrize("channel", ["trades", "depth", "ticker", "all_ticker", "order", "balance"])
@pytest.mark.parametrize(
    "params",
    [[], [None], [1, 2, 3], [True], [True, None, None], [True, [1, None], 5], [[[]]], [{"symbol": 5}]],
)
def test_any_params_can_be_looked_at(channel: str, params: list[Any]) -> None:
    Seen().push(channel, params)


def test_credentials_that_the_exchange_repeats_are_not_shown() -> None:
    seen = Seen()
    seen.findings.confidential.add(Credentials("secret-key", "secret"))
    seen.text(b'{"error":{"code":3,"message":"bad key secret-key"},"result":null,"id":4}')
    seen.text(b'{"method":"hello secret-key","id":null}')
    assert seen.line.answers[4].error == '{"code":3,"message":"bad key ***"}'
    assert "secret-key" not in seen.findings.of["known_methods"].evidence


def test_what_was_not_asked_for_takes_no_memory() -> None:
    seen = Seen()
    for number in range(100):
        seen.push("trades", [True, trades(*range(30, 0, -1)), f"M{number}_USDT"])
        seen.push(f"kline{number}", [])
        seen.text(b'{"error":null,"result":"pong","id":%d}' % (1000 + number))
    assert (len(seen.line.pushed), len(seen.line.answers)) == (0, 1)
    assert seen.messages.measured.pushes.keys() == {"trades"}


def test_control_characters_of_the_exchange_are_not_printed() -> None:
    seen = Seen()
    seen.push("trades", [False, trades(1), "\x1b[2JX\r\nholds:"])
    assert seen.findings.of["known_methods"].evidence == "trades.update of \\x1b[2JX\\r\\nHOLDS:"
