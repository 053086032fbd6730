"""The exchange's side of the protocol, given messages and times."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from bridge.simulator.dialects import Dialect
from bridge.simulator.market import Exchange, Update
from bridge.simulator.protocol import PRIVATE, PUBLIC, HangUp, Protocol, Reply, Subscriber

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


def error(replies: list[Reply | Update]) -> dict[str, Any]:
    """Return the error that is the only reply."""
    (reply,) = replies
    assert isinstance(reply, Reply)
    assert reply.error is not None
    assert reply.result is None
    return reply.error


def test_ping_and_time_get_a_reply() -> None:
    exchange, me = protocol(), Subscriber()
    assert exchange.request(me, request("server.ping", []), NOW) == [Reply(7, "pong")]
    assert exchange.request(me, request("server.time", []), NOW) == [Reply(7, 1_600_000_000)]


@pytest.mark.parametrize("age_ms", [-1000, 0, 5000])
def test_a_valid_signature_within_the_time_window_is_accepted(age_ms: int) -> None:
    exchange, me, timestamp = protocol(), Subscriber(), str(int(NOW * 1000) - age_ms)
    params = ["key", timestamp, signature(timestamp)]
    assert exchange.request(me, request("server.auth", params), NOW) == [Reply(7, OK)]
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
def test_a_wrong_expired_or_future_signature_is_refused(key: str, age_ms: int, secret: str) -> None:
    exchange, me, timestamp = protocol(), Subscriber(), str(int(NOW * 1000) - age_ms)
    params = [key, timestamp, signature(timestamp, secret) if secret else ""]
    assert error(exchange.request(me, request("server.auth", params), NOW))["code"] == 3
    assert me.account is None


def test_a_signature_that_is_not_ascii_is_refused() -> None:
    params = ["key", str(int(NOW * 1000)), "Ünterschrift"]
    assert error(protocol().request(Subscriber(), request("server.auth", params), NOW))["code"] == 3


@pytest.mark.parametrize("params", [[], ["key"], ["key", 1600000000250, "x"], ["key", "soon", "x"]])
def test_auth_without_three_valid_strings_is_an_invalid_argument(params: list[Any]) -> None:
    assert error(protocol().request(Subscriber(), request("server.auth", params), NOW))["code"] == 2


def test_a_trades_subscription_starts_with_the_last_hundred_newest_first() -> None:
    reply, *updates = protocol().request(Subscriber(), request("trades.subscribe", SYMBOLS), NOW)
    assert reply == Reply(7, OK)
    for update, symbol in zip(updates, SYMBOLS, strict=True):
        assert isinstance(update, Update)
        clean, trades, name = update.params
        assert (clean, name, len(trades)) == (True, symbol, 100)
        ids = [trade["id"] for trade in trades]
        assert ids == sorted(ids, reverse=True)


def test_a_depth_subscription_starts_with_the_whole_book_highest_price_first() -> None:
    _, update = protocol().request(Subscriber(), request("depth.subscribe", ["ETH_USDT"]), NOW)
    assert isinstance(update, Update)
    clean, book, name = update.params
    assert (clean, name) == (True, "ETH_USDT")
    for side in ("asks", "bids"):
        prices = [float(price) for price, _ in book[side]]
        assert prices == sorted(prices, reverse=True)
    assert float(book["asks"][-1][0]) > float(book["bids"][0][0])


def test_a_ticker_subscription_starts_with_the_current_tickers() -> None:
    _, update = protocol().request(Subscriber(), request("ticker.subscribe", ["eth_usdt"]), NOW)
    assert isinstance(update, Update)
    assert [ticker["symbol"] for ticker in update.params] == ["ETH_USDT"]
    _, update = protocol().request(Subscriber(), request("all_ticker.subscribe", []), NOW)
    assert isinstance(update, Update)
    assert [ticker["symbol"] for ticker in update.params] == SYMBOLS


def test_the_reply_may_come_after_the_first_update() -> None:
    replies = protocol(dialect=Dialect(answer_order="push_first")).request(
        Subscriber(), request("depth.subscribe", SYMBOLS), NOW
    )
    assert [type(reply) for reply in replies] == [Update, Update, Reply]


@pytest.mark.parametrize("channel", PRIVATE)
def test_private_channels_require_authentication_and_send_no_initial_state(channel: str) -> None:
    exchange, me = protocol(), Subscriber()
    for verb in ("subscribe", "unsubscribe"):
        assert error(exchange.request(me, request(f"{channel}.{verb}", SYMBOLS), NOW))["code"] == 6
    assert not me.subscriptions
    me.account = "key"
    assert exchange.request(me, request(f"{channel}.subscribe", SYMBOLS), NOW) == [Reply(7, OK)]
    assert me.wants(channel, "BTC_USDT", "key")
    assert not me.wants(channel, "BTC_USDT", "other")


@pytest.mark.parametrize("channel", PUBLIC + PRIVATE)
def test_unsubscribing_without_symbols_ends_all_subscriptions_of_the_channel(channel: str) -> None:
    exchange, me = protocol(), Subscriber(account="key")
    exchange.request(me, request(f"{channel}.subscribe", SYMBOLS), NOW)
    assert exchange.request(me, request(f"{channel}.unsubscribe", []), NOW) == [Reply(7, OK)]
    assert not me.subscriptions[channel]


def test_unsubscribing_one_symbol_keeps_the_others() -> None:
    exchange, me = protocol(), Subscriber()
    exchange.request(me, request("depth.subscribe", SYMBOLS), NOW)
    exchange.request(me, request("depth.unsubscribe", ["btc_usdt", "NOPE_USDT"]), NOW)
    assert me.subscriptions["depth"] == {"ETH_USDT"}


def test_one_unknown_market_fails_the_whole_request_and_is_named() -> None:
    me = Subscriber()
    refusal = error(protocol().request(me, request("depth.subscribe", ["BTC_USDT", "NOPE_USDT"]), NOW))
    assert refusal["code"] == 2
    assert "NOPE_USDT" in refusal["message"]
    assert not me.subscriptions["depth"]


def test_an_unknown_market_may_be_acknowledged_with_an_empty_book() -> None:
    exchange = protocol(dialect=Dialect(unknown_refused="acknowledged"))
    for channel, expected in (
        ("depth", [Update("depth", "NOPE_USDT", [True, {}, "NOPE_USDT"])]),
        ("trades", []),
    ):
        message = request(f"{channel}.subscribe", ["NOPE_USDT"])
        assert exchange.request(Subscriber(), message, NOW) == [Reply(7, OK), *expected]


@pytest.mark.parametrize("method", ["moon.subscribe", "depth.query", "server", ""])
def test_an_unknown_method_is_reported_as_not_found(method: str) -> None:
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
def test_an_invalid_request_closes_the_connection(message: str | bytes) -> None:
    with pytest.raises(HangUp):
        protocol().request(Subscriber(), message, NOW)


def test_one_subscription_too_many_closes_the_connection() -> None:
    exchange, me = protocol(max_subscriptions=3), Subscriber()
    exchange.request(me, request("depth.subscribe", SYMBOLS), NOW)
    exchange.request(me, request("trades.subscribe", SYMBOLS[:1]), NOW)
    with pytest.raises(HangUp):
        exchange.request(me, request("ticker.subscribe", SYMBOLS[:1]), NOW)


def test_a_subscribe_may_replace_the_subscriptions_of_its_channel() -> None:
    exchange, me = protocol(dialect=Dialect(adds="replaces")), Subscriber()
    exchange.request(me, request("depth.subscribe", ["BTC_USDT"]), NOW)
    exchange.request(me, request("trades.subscribe", ["BTC_USDT"]), NOW)
    exchange.request(me, request("trades.subscribe", ["ETH_USDT"]), NOW)
    assert me.subscriptions == {"depth": {"BTC_USDT"}, "trades": {"ETH_USDT"}}


def test_a_replacing_subscribe_keeps_the_markets_in_front_of_the_one_that_it_refuses() -> None:
    exchange, me = protocol(dialect=Dialect(adds="replaces")), Subscriber()
    exchange.request(me, request("depth.subscribe", ["BTC_USDT"]), NOW)
    assert error(exchange.request(me, request("depth.subscribe", ["ETH_USDT", "NOPE", "BTC_USDT"]), NOW))
    assert me.subscriptions == {"depth": {"ETH_USDT"}}
