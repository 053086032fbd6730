"""What a hostile exchange says: answers and pushes as JSON, right or odd, and credentials that it repeats."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw

from bridge.channels import CHANNELS, SubscribedBy

ROOT = Path(__file__).parents[2]
MARK = "31337.25"
"""A figure that only an honest exchange pushes."""

_RAW = (
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-0",
        b"0.1e-999",
        b"1" * 5000,
        b"18446744073709551616",
        b"01",
        b"+1",
        b"tru",
        b"",
    ),
    *(
        b'"\\ud800"',
        b'"\xff\xfe"',
        b'"\\u0000\\r\\n\\u001b[2J\\u2028"',
        b'{"a":1,"a":2}',
        b"[" * 5000,
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 3000,
    ),
)
_PLAIN: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 0.1, -1e300, "", " ", "-", "null", "0", "1e5"),
    *(
        [],
        {},
        [[]],
        [None],
        [[], {}],
        {"": ""},
        ["a"] * 1000,
        "x" * 100_000,
        "\x00\r\n\x1b[31m\u202e",
        "ключ",
        "🚀",
    ),
)
_FREE_TEXT = ("id",)  # of orders: a text of the exchange, which is part of a good record


class Secrets:
    """The credentials that nobody may see, each in many spellings."""

    def __init__(self, fixed: Sequence[str]) -> None:
        self.fixed = list(fixed)
        self.signatures: list[str] = []  # the newest ones that were received, the newest last

    def words(self, rng: Random) -> str:
        """Return words with a credential in some spelling, or others."""
        if rng.random() < 0.3:
            return rng.choice(["no", "invalid market", "already subscribed", "busy\r\nfake line", "x" * 3000])
        secret = rng.choice([*self.fixed, *self.signatures[-3:]])
        spelt = rng.choice(_SPELLINGS)(secret)
        if rng.random() < 0.2:
            spelt = rng.choice(_SPELLINGS)(spelt)
        return rng.choice(["{}", "refused: {} is wrong", "{}{}", "key={}&x=1", "x" * 250 + "{}"]).replace(
            "{}", spelt
        )


def _each(form: str) -> Callable[[str], str]:
    return lambda text: "".join(form.format(ord(one)) for one in text)


_SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.lower,
    str.swapcase,
    lambda text: json.dumps(text)[1:-1],
    lambda text: quote(text, safe=""),
    html.escape,
    lambda text: text[:-3],
    _each("\\u{:04x}"),
    _each("\\x{:02X}"),
    _each("%{:02x}"),
    _each("&#{};"),
    _each("&#x{:x};"),
)


# Answers


def answer(request: Mapping[str, Any], now: int) -> dict[str, Any]:
    """Return the answer of an honest exchange."""
    results: dict[str, object] = {"server.ping": "pong", "server.time": now}
    return {
        "error": None,
        "result": results.get(request["method"], {"status": "success"}),
        "id": request["id"],
    }


def odd_answers(rng: Random, request: Mapping[str, Any], now: int, secrets: Secrets) -> list[dict[str, Any]]:
    """Return what comes in place of the right answer."""
    good = answer(request, now)
    number = request["id"]
    names = [str(one) for one in request["params"]]
    words = secrets.words(rng)
    error = rng.choice(
        [
            {
                "code": rng.choice([1, 2, 5, -1, 2**63, words, None, 1.5]),
                "message": rng.choice([words, None, 5]),
            },
            {"message": words},
            {"code": words},
            {words: words},
            {"code": 5, "message": " ".join([*names[: rng.randrange(4)], words])},
            {"code": 1, "message": "\x01no " * 200_000},
            words,
            7,
            True,
            [words],
            odd(rng, secrets),
        ]
    )
    kinds: tuple[Callable[[], list[dict[str, Any]]], ...] = (
        list,
        lambda: [good, good],
        lambda: [{**good, "error": error}],
        lambda: [{**good, "error": error, "result": None}],
        lambda: [{**good, "error": error}, good],
        lambda: [{**good, "result": odd(rng, secrets)}],
        lambda: [
            {
                **good,
                "id": rng.choice([number + 1, number - 1, 0, -1, 2**63, str(number), 1.5, None, [number]]),
            }
        ],
        lambda: [{"id": number}],
        lambda: [{"result": words, "id": number, words: words}],
        lambda: [mutated(rng, good, secrets)],
        lambda: [{**good, "method": words}],
        lambda: [{**good, "method": rng.choice(["", ".update", "trades", "server.auth", "order.update"])}],
        lambda: [{**good, "result": now + rng.choice([-(10**9), -40, -3, 3, 40, 10**9, 10**12])}],
    )
    return rng.choice(kinds)()


# Pushes


def _samples(channel: str) -> list[dict[str, Any]]:
    """Return the frames of the golden samples of a channel, the good ones first."""
    found = []
    for path in sorted((ROOT / "tests" / "golden" / channel).glob("*.json")):
        sample = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
        try:
            found.append(json.loads(bytes(sample["frame"])))
        except (KeyError, ValueError):
            continue
    return [one for one in found if isinstance(one, dict) and isinstance(one.get("params"), list)]


SAMPLES = {channel: _samples(channel) for channel in CHANNELS}
_EXAMPLES = {
    channel: json.loads((ROOT / "tests" / "golden" / channel / "document_example.json").read_text())["frame"]
    for channel in CHANNELS
}


def push(rng: Random, channel: str, name: str, secrets: Secrets, odd_ones: float) -> dict[str, Any]:
    """Return a push about a market or currency; with the probability `odd_ones` it is changed."""
    message = _about(name, channel, deepcopy(rng.choice(SAMPLES[channel])))
    if rng.random() < odd_ones:
        for _ in range(rng.choice([1, 1, 3])):
            message = mutated(rng, message, secrets)
    return message


def honest_push(channel: str, name: str, number: int, now: float) -> dict[str, Any]:
    """Return a push that becomes a record with `MARK`; numbers count the pushes of a session from 0."""
    message = _about(name, channel, deepcopy(_EXAMPLES[channel]))
    params = message["params"]
    if channel == "trades":
        trades = [{"id": int(now * 1000), "time": now, "price": MARK, "amount": "1", "type": "buy"}]
        message["params"] = [number == 0, trades, name]
    elif channel == "depth":
        message["params"] = [number == 0, {"asks": [[MARK, "1"]], "bids": []}, name]
    else:
        figure = {"balance": "free", "order_algo": "amount", "order": "amount"}.get(channel, "last")
        params[0][figure] = MARK
    return message


def _about(name: str, channel: str, message: dict[str, Any]) -> dict[str, Any]:
    params = message["params"]
    if channel in ("trades", "depth"):
        if len(params) > 2:
            params[2] = name
        return message
    field = "currency" if CHANNELS[channel].subscribed_by is SubscribedBy.CURRENCY else "symbol"
    for item in params:
        if isinstance(item, dict) and field in item:
            item[field] = name
    return message


# Odd values


def odd(rng: Random, secrets: Secrets) -> Any:
    """Return any JSON value, or what is none."""
    match rng.randrange(4):
        case 0:
            return Raw(rng.choice(_RAW))
        case 1:
            return secrets.words(rng)
        case 2:
            return {secrets.words(rng): secrets.words(rng)}
        case _:
            return rng.choice(_PLAIN)


def mutated(rng: Random, message: dict[str, Any], secrets: Secrets) -> dict[str, Any]:
    """Return a message of which one part is replaced, left out, repeated, wrapped, renamed or added."""
    changed = deepcopy(message)
    container, key = rng.choice(_places(changed))
    value = container[key]
    match rng.randrange(7):
        case 0 | 1:
            container[key] = rng.choice(_PLAIN) if key in _FREE_TEXT else odd(rng, secrets)
        case 2:
            del container[key]
        case 3:
            container[key] = [value] * rng.choice([0, 1, 2, 300])
        case 4:
            container[key] = {secrets.words(rng): value}
        case 5 if isinstance(container, dict):
            container[secrets.words(rng)] = odd(rng, secrets)
        case 6 if isinstance(container, dict):
            container[secrets.words(rng)] = container.pop(key)
        case _ if isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), odd(rng, secrets))
        case _:
            container[key] = str(value)
    return changed


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place of a value: the list or dict that it is in, and its index or key."""
    inner = list(value) if isinstance(value, dict) else range(len(value))
    places: list[tuple[Any, Any]] = []
    for key in inner:
        places.append((value, key))
        if isinstance(value[key], dict | list):
            places += _places(value[key])
    return places


def text(message: Mapping[str, Any]) -> bytes:
    """Return a message as JSON, or nearly."""
    return msgspec.json.encode(message)
