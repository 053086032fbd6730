"""The exchange's side of the protocol: takes a request, returns its reply and the first updates. Pure."""

import base64
import hashlib
import hmac
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from bridge.simulator.accounts import Account
from bridge.simulator.dialects import CAP, DOCUMENTED, Dialect
from bridge.simulator.market import Exchange, Update

PUBLIC = ("trades", "depth", "ticker", "all_ticker")
PRIVATE = ("order", "order_algo", "balance")

_WINDOW_MS = (-1_000, 5_000)  # the age that the timestamp of a signature may have
_INVALID, _AUTH_FAILED, _UNAVAILABLE, _NOT_FOUND, _REPEATED, _NEED_AUTH = 2, 3, 3, 4, 5, 6
_BUSY, _HIDDEN = 31, 41  # without words
_SUCCESS = {"status": "success"}


class HangUp(Exception):
    """The exchange closes the connection instead of replying to the request."""


class _Refused(Exception):
    """A refusal, and the first updates of what it has subscribed to nevertheless."""

    def __init__(self, code: int, message: str, updates: Sequence[Update] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.updates = updates


@dataclass(slots=True)
class Subscriber:
    """The subscriptions of one connection, and its account."""

    account: str | None = None  # its API key; None until it has authenticated
    subscriptions: defaultdict[str, set[str]] = field(
        default_factory=lambda: defaultdict(set)
    )  # channel: symbols

    def wants(self, channel: str, symbol: str, account: str | None) -> bool:
        """Return True if an update is for this connection; one without an account is public."""
        return symbol in self.subscriptions.get(channel, ()) and account in (None, self.account)


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a request; one of `result` and `error` is None."""

    request_id: int
    result: object = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Protocol:
    """Replies to requests from the state of the markets; `secrets` maps API keys to secrets."""

    market: Exchange
    secrets: Mapping[str, str]
    dialect: Dialect = DOCUMENTED
    max_subscriptions: int = 0  # per connection; 0: no limit
    shut: set[str] = field(default_factory=set)  # channels of which every subscription is refused
    accounts: Mapping[str, Account] = field(default_factory=dict)  # by API key
    asked: Counter[str] = field(default_factory=Counter)  # requests so far, by method
    # When the first subscribe request came, by the exchange's clock; nothing before that.
    began: list[float] = field(default_factory=list)

    def request(self, subscriber: Subscriber, message: str | bytes, now: float) -> list[Reply | Update]:
        """Return the messages that answer a client's, in order; `now` is the exchange's clock in seconds.

        Raises:
            HangUp: not JSON, no method, no integer id, no list of params, or too many subscriptions.
        """
        try:
            request = orjson.loads(message)
            request_id, method, params = request["id"], request["method"], request["params"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise HangUp from None
        if type(request_id) is not int or not isinstance(method, str) or not isinstance(params, list):
            raise HangUp
        self.asked[method] += 1
        try:
            result, updates = self._result(subscriber, method, params, now)
        except _Refused as error:
            return [Reply(request_id, error={"code": error.code, "message": str(error)}), *error.updates]
        number = sum(map(len, subscriber.subscriptions.values()))
        if self.max_subscriptions and number > self.max_subscriptions:
            raise HangUp
        replies = [Reply(request_id, result)]
        if method.endswith(".subscribe"):
            replies *= {"one": 1, "each": max(1, len(params)), "none": 0}[self.dialect.one_answer]
        return [*replies, *updates] if self.dialect.answer_order == "answer_first" else [*updates, *replies]

    def _result(
        self, subscriber: Subscriber, method: str, params: list[Any], now: float
    ) -> tuple[object, list[Update]]:
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
                good = good and self.dialect.signed_with_server_time == "accepted"
                if not (secret and good and oldest <= int(timestamp) <= newest):
                    raise _Refused(_AUTH_FAILED, "auth failed")
                return key
            case _:
                raise _Refused(_INVALID, "invalid argument")

    def _subscribe(self, subscriber: Subscriber, channel: str, params: list[Any], now: float) -> list[Update]:
        self._check_served(channel, now)
        if channel == "all_ticker":
            subscriber.subscriptions[channel] = {""}
            if self.dialect.lists_markets == "changed":
                return []
            update = self.market.all_ticker(now, whole=True)
            return [update] if update else []
        names = [str(name).upper() for name in params]
        markets = self.market.markets
        closed = self.market.hidden | (self._closed() if channel in PUBLIC else set())
        unknown = [name for name in names if name not in markets or name in closed]
        unknown = [] if channel == "balance" else unknown
        had = set(subscriber.subscriptions[channel])
        if self.dialect.adds == "replaces":
            subscriber.subscriptions[channel].clear()
        if self.dialect.clean_again == "refused" and had & set(names):
            raise _Refused(_REPEATED, "repeat subscribe")
        if self.dialect.thirty_subscriptions == "silent":
            number = sum(map(len, subscriber.subscriptions.values()))
            new = [name for name in names if name not in had]
            names = [name for name in names if name in had or name in new[: max(0, CAP - number)]]
        if unknown and self.dialect.unknown_refused == "refused":
            if self.dialect.adds == "replaces":
                subscriber.subscriptions[channel].update(names[: names.index(unknown[0])])
            raise self._refusal(subscriber, channel, names, unknown, now)
        subscriber.subscriptions[channel].update(names)
        if channel not in PUBLIC:
            return self._private_snapshot(subscriber, channel, names)
        if self.dialect.clean_again == "silent":
            names = [name for name in names if name not in had]
        updates = [self.first(channel, name, now) for name in names if name in markets]
        if channel == "depth":
            updates += [Update("depth", name, [True, {}, name]) for name in unknown]
        return updates

    def _check_served(self, channel: str, now: float) -> None:
        if not self.began:
            self.began.append(now)
        if now < self.began[0] + self.dialect.always_served:
            raise _Refused(_BUSY, "")
        if channel in self.shut:
            raise _Refused(_UNAVAILABLE, "service unavailable")

    def _closed(self) -> set[str]:
        """Return the markets whose public channels cannot be subscribed to."""
        return set() if self.dialect.listed_open == "open" else {[*self.market.markets][-1]}

    def _refusal(
        self, subscriber: Subscriber, channel: str, names: Sequence[str], bad: Sequence[str], now: float
    ) -> _Refused:
        """Return the refusal of a request because of some of its markets."""
        updates = []
        if self.dialect.all_or_nothing == "partly":
            rest = [name for name in names if name not in bad]
            subscriber.subscriptions[channel].update(rest)
            updates = [self.first(channel, name, now) for name in rest] if channel in PUBLIC else []
        if not self._closed().issuperset(bad):
            return _Refused(_INVALID, f"invalid market: {', '.join(bad)}", updates)
        if self.dialect.listed_open == "hidden":
            return _Refused(_HIDDEN, "", updates)
        return _Refused(_INVALID, "market is delisted", updates)

    def _private_snapshot(self, subscriber: Subscriber, channel: str, names: list[str]) -> list[Update]:
        account = self.accounts.get(subscriber.account or "")
        if self.dialect.no_private_snapshot == "changes" or channel != "balance" or account is None:
            return []
        return [account.balance(name) for name in names]

    def first(self, channel: str, symbol: str, now: float) -> Update:
        """Return the first update of a subscription: a clean list, a snapshot, or the ticker."""
        market = self.market.markets[symbol]
        match channel:
            case "trades":
                return market.clean_trades()
            case "depth":
                return market.snapshot()
            case _:
                return Update("ticker", symbol, [market.ticker(now)])
