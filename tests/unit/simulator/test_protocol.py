"""The exchange's side of the protocol, with messages and times alone."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from bridge.simulator.market import Exchange, Push
from bridge.simulator.protocol import PRIVATE, PUBLIC, Answer, HangUp, Protocol, Subscriber

NOW = 1_600_000_000.25
SYMBOLS = ["BTC_USDT", "ETH_USDT"]
OK = {"status": "success"}


def request(method: str, params: list[Any], request_id: object = 7) -> str:
    return json.dumps({"id": request_id, "method": method, "params": params})


def protocol(**options: Any) -> Protocol:
    exchange = Exchange(SYMBOLS, 1)
    for n in range(1000):
        exchange.step(NOW - 1000 + n)
    return Protocol(exchange, {"key": "secret"}, **options)


def signature(timestamp: str, secret: str = "secret") -> str:
    return base64.b64encode(hmac.digest(secret.encode(), timestamp.encode(), hashlib.sha256)).decode()


def error(replies: list[Answer | Push]) -> dict[str, Any]:
    """Return the error that is the only reply."""
    (reply,) = replies
    assert isinstance(reply, Answer)
    assert reply.error is not None
    assert reply.result is None
    return reply.error


def test_ping_and_time_are_answered() -> None:
    exchange, me = protocol(), Subscriber()
    assert exchange.request(me, request("server.ping", []), NOW) == [Answer(7, "pong")]
    assert exchange.request(me, request("server.time", []), NOW) == [Answer(7, 1_600_000_000)]


@pytest.mark.parametrize("age_ms", [-1000, 0, 5000])
def test_a_good_signature_in_the_window_is_accepted(age_ms: int) -> None:
    exchange, me, timestamp = protocol(), Subscriber(), str(int(NOW * 1000) - age_ms)
    params = ["key", timestamp, signature(timestamp)]
    assert exchange.request(me, request("server.auth", params), NOW) == [Answer(7, OK)]
    assert me.account == "key"


@pytest.mark.parametrize(
    ("key", "age_ms", "secret"),
    [
        ("key", 5001, "secret"),
        ("key", -1001, "secret"),
        ("key", 0, "other"),
        ("nobody", 0, ""),
        ("nobody", 0, "secret"),
    ],
)
def test_a_signature_that_is_wrong_old_or_from_the_future_is_refused(
    key: str, age_ms: int, secret: str
) -> None:
    exchange, me, timestamp = protocol(), Subscriber(), str(int(NOW * 1000) - age_ms)
    params = [key, timestamp, signature(timestamp, secret) if secret else ""]
    assert error(exchange.request(me, request("server.auth", params), NOW))["code"] == 3
    assert me.account is None


def test_a_signature_of_other_letters_is_refused() -> None:
    params = ["key", str(int(NOW * 1000)), "Ünterschrift"]
    assert error(protocol().request(Subscriber(), request("server.auth", params), NOW))["code"] == 3


@pytest.mark.parametrize("params", [[], ["key"], ["key", 1600000000250, "x"], ["key", "soon", "x"]])
def test_auth_without_its_three_texts_is_an_invalid_argument(params: list[Any]) -> None:
    assert error(protocol().request(Subscriber(), request("server.auth", params), NOW))["code"] == 2


def test_trades_begin_with_the_last_hundred_newest_first() -> None:
    answer, *pushes = protocol().request(Subscriber(), request("trades.subscribe", SYMBOLS), NOW)
    assert answer == Answer(7, OK)
    for push, symbol in zip(pushes, SYMBOLS, strict=True):
        assert isinstance(push, Push)
        clean, trades, name = push.params
        assert (clean, name, len(trades)) == (True, symbol, 100)
        ids = [trade["id"] for trade in trades]
        assert ids == sorted(ids, reverse=True)


def test_depth_begins_with_the_whole_book_highest_price_first() -> None:
    _, push = protocol().request(Subscriber(), request("depth.subscribe", ["ETH_USDT"]), NOW)
    assert isinstance(push, Push)
    clean, book, name = push.params
    assert (clean, name) == (True, "ETH_USDT")
    for side in ("asks", "bids"):
        prices = [float(price) for price, _ in book[side]]
        assert prices == sorted(prices, reverse=True)
    assert float(book["asks"][-1][0]) > float(book["bids"][0][0])


def test_tickers_begin_at_once() -> None:
    _, push = protocol().request(Subscriber(), request("ticker.subscribe", ["eth_usdt"]), NOW)
    assert isinstance(push, Push)
    assert [ticker["symbol"] for ticker in push.params] == ["ETH_USDT"]
    _, push = protocol().request(Subscriber(), request("all_ticker.subscribe", []), NOW)
    assert isinstance(push, Push)
    assert [ticker["symbol"] for ticker in push.params] == SYMBOLS


def test_the_answer_may_come_after_the_first_push() -> None:
    replies = protocol(confirm="after").request(Subscriber(), request("depth.subscribe", SYMBOLS), NOW)
    assert [type(reply) for reply in replies] == [Push, Push, Answer]


@pytest.mark.parametrize("channel", PRIVATE)
def test_private_channels_need_authentication_and_send_nothing_at_the_start(channel: str) -> None:
    exchange, me = protocol(), Subscriber()
    for verb in ("subscribe", "unsubscribe"):
        assert error(exchange.request(me, request(f"{channel}.{verb}", SYMBOLS), NOW))["code"] == 6
    assert not me.subscriptions
    me.account = "key"
    assert exchange.request(me, request(f"{channel}.subscribe", SYMBOLS), NOW) == [Answer(7, OK)]
    assert me.wants(channel, "BTC_USDT", "key")
    assert not me.wants(channel, "BTC_USDT", "other")


@pytest.mark.parametrize("channel", PUBLIC + PRIVATE)
def test_unsubscribing_from_nothing_in_particular_is_from_all(channel: str) -> None:
    exchange, me = protocol(), Subscriber(account="key")
    exchange.request(me, request(f"{channel}.subscribe", SYMBOLS), NOW)
    assert exchange.request(me, request(f"{channel}.unsubscribe", []), NOW) == [Answer(7, OK)]
    assert not me.subscriptions[channel]


def test_unsubscribing_from_one_leaves_the_others() -> None:
    exchange, me = protocol(), Subscriber()
    exchange.request(me, request("depth.subscribe", SYMBOLS), NOW)
    exchange.request(me, request("depth.unsubscribe", ["btc_usdt", "NOPE_USDT"]), NOW)
    assert me.subscriptions["depth"] == {"ETH_USDT"}


def test_one_unknown_market_refuses_the_whole_request_and_is_named() -> None:
    me = Subscriber()
    refusal = error(protocol().request(me, request("depth.subscribe", ["BTC_USDT", "NOPE_USDT"]), NOW))
    assert refusal["code"] == 2
    assert "NOPE_USDT" in refusal["message"]
    assert not me.subscriptions["depth"]


def test_an_unknown_market_may_be_acknowledged_with_an_empty_book() -> None:
    exchange = protocol(unknown_market="ack")
    for channel, expected in (
        ("depth", [Push("depth", "NOPE_USDT", [True, {}, "NOPE_USDT"])]),
        ("trades", []),
    ):
        message = request(f"{channel}.subscribe", ["NOPE_USDT"])
        assert exchange.request(Subscriber(), message, NOW) == [Answer(7, OK), *expected]


@pytest.mark.parametrize("method", ["moon.subscribe", "depth.query", "server", ""])
def test_an_unknown_method_is_not_found(method: str) -> None:
    assert error(protocol().request(Subscriber(), request(method, []), NOW))["code"] == 4


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        b"\xff\xfe",
        "[]",
        "7",
        "null",
        "{}",
        '{"id": 1, "method": "server.ping"}',
        '{"id": 1, "method": "server.ping", "params": {}}',
        '{"id": 1, "method": null, "params": []}',
        '{"id": "1", "method": "server.ping", "params": []}',
        '{"id": 1.5, "method": "server.ping", "params": []}',
        '{"id": true, "method": "server.ping", "params": []}',
        '{"id": null, "method": "server.ping", "params": []}',
    ],
)
def test_what_is_no_request_makes_it_hang_up(message: str | bytes) -> None:
    with pytest.raises(HangUp):
        protocol().request(Subscriber(), message, NOW)


def test_one_subscription_too_many_makes_it_hang_up() -> None:
    exchange, me = protocol(max_subscriptions=3), Subscriber()
    exchange.request(me, request("depth.subscribe", SYMBOLS), NOW)
    exchange.request(me, request("trades.subscribe", SYMBOLS[:1]), NOW)
    with pytest.raises(HangUp):
        exchange.request(me, request("ticker.subscribe", SYMBOLS[:1]), NOW)
