"""The exchange's side of the protocol: a request in, its answer and the first pushes out. Pure."""

import base64
import hashlib
import hmac
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from bridge.simulator.market import Exchange, Push

PUBLIC = ("trades", "depth", "ticker", "all_ticker")
PRIVATE = ("order", "order_algo", "balance")

_WINDOW_MS = (-1_000, 5_000)  # how old the timestamp of a signature may be
_INVALID, _AUTH_FAILED, _UNAVAILABLE, _NOT_FOUND, _NEED_AUTH = 2, 3, 3, 4, 6
_SUCCESS = {"status": "success"}


class HangUp(Exception):
    """The request is one that the exchange answers by closing the connection."""


class _Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Subscriber:
    """What one connection is subscribed to, channel to symbols, and its account once it has authenticated."""

    account: str | None = None
    subscriptions: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def wants(self, channel: str, symbol: str, account: str | None) -> bool:
        """Tell if a push is for this connection; one of no account is for all."""
        return symbol in self.subscriptions.get(channel, ()) and account in (None, self.account)


@dataclass(frozen=True, slots=True)
class Answer:
    """The one answer to a request; one of `result` and `error` is None."""

    request_id: int
    result: object = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Protocol:
    """Answers requests out of the market.

    `confirm`: is the answer before or after the first push. An unknown market is refused or, as others
    have seen, acknowledged. `max_subscriptions` on one connection, 0: any number. Of channels that are `shut`
    every subscription is refused.
    """

    market: Exchange
    secrets: Mapping[str, str]
    confirm: Literal["before", "after"] = "before"
    unknown_market: Literal["refuse", "ack"] = "refuse"
    max_subscriptions: int = 0
    shut: set[str] = field(default_factory=set)

    def request(self, subscriber: Subscriber, message: str | bytes, now: float) -> list[Answer | Push]:
        """Return what a client gets for a message, in order; `now` is the exchange's clock in seconds.

        Raises:
            HangUp: not JSON, no method, no integer id, no params list, or one subscription too many.
        """
        try:
            request = orjson.loads(message)
            request_id, method, params = request["id"], request["method"], request["params"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise HangUp from None
        if type(request_id) is not int or not isinstance(method, str) or not isinstance(params, list):
            raise HangUp
        try:
            result, pushes = self._result(subscriber, method, params, now)
        except _Refused as error:
            return [Answer(request_id, error={"code": error.code, "message": str(error)})]
        number = sum(map(len, subscriber.subscriptions.values()))
        if self.max_subscriptions and number > self.max_subscriptions:
            raise HangUp
        answer = Answer(request_id, result)
        return [answer, *pushes] if self.confirm == "before" else [*pushes, answer]

    def _result(
        self, subscriber: Subscriber, method: str, params: list[Any], now: float
    ) -> tuple[object, list[Push]]:
        channel, _, verb = method.partition(".")
        if channel in PRIVATE and subscriber.account is None:
            raise _Refused(_NEED_AUTH, "require authentication")
        match channel, verb:
            case "server", "ping":
                return "pong", []
            case "server", "time":
                return int(now), []
            case "server", "auth":
                subscriber.account = self._authenticated(params, now)
                return _SUCCESS, []
            case _, "subscribe" if channel in PUBLIC or channel in PRIVATE:
                return _SUCCESS, self._subscribe(subscriber, channel, params, now)
            case _, "unsubscribe" if channel in PUBLIC or channel in PRIVATE:
                names = {str(name).upper() for name in params}
                subscriber.subscriptions[channel] -= names or subscriber.subscriptions[channel]
                return _SUCCESS, []
            case _:
                raise _Refused(_NOT_FOUND, f"method not found: {method}")

    def _authenticated(self, params: list[Any], now: float) -> str:
        match params:
            case [str(key), str(timestamp), str(sign)] if timestamp.isdecimal():
                secret = self.secrets.get(key, "")
                digest = hmac.digest(secret.encode(), timestamp.encode(), hashlib.sha256)
                good = hmac.compare_digest(base64.b64encode(digest), sign.encode())
                oldest, newest = now * 1000 - _WINDOW_MS[1], now * 1000 - _WINDOW_MS[0]
                if not (secret and good and oldest <= int(timestamp) <= newest):
                    raise _Refused(_AUTH_FAILED, "auth failed")
                return key
            case _:
                raise _Refused(_INVALID, "invalid argument")

    def _subscribe(self, subscriber: Subscriber, channel: str, params: list[Any], now: float) -> list[Push]:
        if channel in self.shut:
            raise _Refused(_UNAVAILABLE, "service unavailable")
        if channel == "all_ticker":
            subscriber.subscriptions[channel] = {""}
            push = self.market.all_ticker(now, whole=True)
            return [push] if push else []
        names = [str(name).upper() for name in params]
        markets = self.market.markets
        unknown = [name for name in names if name not in markets] if channel != "balance" else []
        if unknown and self.unknown_market == "refuse":
            raise _Refused(_INVALID, f"invalid market: {', '.join(unknown)}")
        subscriber.subscriptions[channel].update(names)
        if channel not in PUBLIC:
            return []
        pushes = [self._first(channel, name, now) for name in names if name in markets]
        if channel == "depth":
            pushes += [Push("depth", name, [True, {}, name]) for name in unknown]
        return pushes

    def _first(self, channel: str, symbol: str, now: float) -> Push:
        market = self.market.markets[symbol]
        match channel:
            case "trades":
                return market.clean_trades()
            case "depth":
                return market.snapshot()
            case _:
                return Push("ticker", symbol, [market.ticker(now)])
