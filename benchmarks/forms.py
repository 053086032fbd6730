"""The cost of decoding and normalising each form in which a push may come, relative to the usual form.

`python -m benchmarks.forms` prints it. The usual form of a channel is the API document's, without blanks.
"""

import gc
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.exchange.frames import Messages, Push

DOCUMENTED = 1.15
"""The most that a form may cost which the API document or other clients show."""

OTHER = 1.6
"""The most that any other order or blanks may cost."""

_COUNT = 400  # different frames of a form
_TURNS = 15
_MARKETS = 700  # in a frame of all_ticker
_RECEIVED_US = 1_586_762_545_336_000

Message = dict[str, Any]
Make = Callable[[random.Random, int], Message]
"""Make a message, given its number."""


def _compact(message: Message) -> str:
    return json.dumps(message, separators=(",", ":"))


def _blanks(message: Message) -> str:
    return json.dumps(message, separators=(", ", ": "))


def _indented(message: Message) -> str:
    return json.dumps(message, indent=4)


def _reordered(make: Make) -> Make:
    """Return messages with the fields of every object in another order."""
    return lambda rng, place: json.loads(json.dumps(make(rng, place)), object_pairs_hook=_shuffled)


def _shuffled(pairs: list[tuple[str, Any]]) -> Message:
    return dict(sorted(pairs, key=lambda pair: pair[0][::-1]))


class Form(NamedTuple):
    """One form: its channel, its name, the most that it may cost, and its texts.

    `limit` is relative to the usual form of the channel; None for that one itself.
    """

    channel: str
    name: str
    limit: float | None
    texts: Sequence[bytes]


class Result(NamedTuple):
    """What a form costs: µs a frame, and relative to the usual form of its channel."""

    form: Form
    micros: float
    ratio: float


class _Number(float):
    """A number that JSON writes with this text."""

    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


def _figure(rng: random.Random, whole: int = 5, places: int = 4) -> str:
    return f"{rng.randrange(10 ** (whole - 1), 10**whole)}.{rng.randrange(10**places):0{places}d}"


def _symbol(place: int) -> str:
    return f"SIM{place % 50}_USDT"


def _message(channel: str, params: list[Any]) -> Message:
    return {"method": f"{channel}.update", "params": params, "id": None}


def _depth(rng: random.Random, place: int) -> Message:
    sides = [[[_figure(rng), _figure(rng, 1)] for _ in range(rng.randint(0, 3))] for _ in range(2)]
    return _message("depth", [False, {"asks": sides[0], "bids": sides[1]}, _symbol(place)])


def _with_send_time(make: Make) -> Make:
    def made(rng: random.Random, place: int) -> Message:
        method, params, end = make(rng, place).items()
        return dict((method, params, ("sendTime", 1_586_762_545_336), end))

    return made


_AS_DOCUMENTED = ("id", "time", "price", "amount", "type")
_AS_RECORDED = ("id", "time", "amount", "price", "type")


def _exponent(seconds: float) -> _Number:
    digits = f"{seconds:.6f}".replace(".", "")
    return _Number(f"{digits[0]}.{digits[1:]}E9")


def _trades(
    number: int, time_of: Callable[[float], float] = float, names: Sequence[str] = _AS_DOCUMENTED
) -> Make:
    """Return pushes of `number` trades, newest first."""

    def made(rng: random.Random, place: int) -> Message:
        trades = []
        for n in range(number):
            tenths = rng.randrange(10**5) + (number - n) * 10**5
            trade = {
                "id": 12_900_000_000 + 10 * place + number - n,
                "time": time_of(round(1_586_762_545 + place + tenths / 10**6, 6)),
                "price": _figure(rng),
                "amount": _figure(rng, 1),
                "type": rng.choice(("buy", "sell")),
            }
            trades.append({name: trade[name] for name in names})
        return _message("trades", [False, trades, _symbol(place)])

    return made


def _tickers(channel: str, number: int, *, high: bool = False, nested: bool = False) -> Make:
    def ticker(rng: random.Random, place: int) -> Message:
        names = ["open_24h", "low_24h", "base_volume_24h", "quote_volume_24h", "last", "last_qty"]
        names += ["best_bid", "best_bid_size", "best_ask", "best_ask_size"]
        if high:
            names.insert(1, "high_24h")
        figures = {name: _figure(rng) for name in names}
        return {"symbol": _symbol(place), **figures, "timestamp": 1_586_762_545_336 + place}

    def made(rng: random.Random, place: int) -> Message:
        items = [ticker(rng, place * number + n) for n in range(number)]
        return _message(channel, [items] if nested else items)

    return made


def forms() -> Iterator[Form]:
    """Yield every form; the usual one of a channel comes first."""

    def form(name: str, limit: float | None, make: Make, dumps: Callable[[Message], str] = _compact) -> Form:
        rng = random.Random(7)
        return Form(channel, name, limit, [dumps(make(rng, place)).encode() for place in range(count)])

    channel, count = "depth", _COUNT
    yield form("usual", None, _depth)
    yield form("with sendTime", DOCUMENTED, _with_send_time(_depth))
    yield form("blanks", OTHER, _depth, _blanks)
    yield form("indented", OTHER, _depth, _indented)
    yield form("other order", OTHER, _reordered(_depth))
    for number in (2, 1, 3):
        channel = f"trades, {number} a push"
        yield form("usual", None, _trades(number))
        yield form("whole seconds", DOCUMENTED, _trades(number, int))
        yield form("amount before price", DOCUMENTED, _trades(number, int, _AS_RECORDED))
        yield form("time in exponent form", DOCUMENTED, _trades(number, _exponent))
        yield form("with sendTime", DOCUMENTED, _with_send_time(_trades(number)))
        yield form("blanks", OTHER, _trades(number), _blanks)
        yield form("indented", OTHER, _trades(number), _indented)
        yield form("other order", OTHER, _reordered(_trades(number)))
    for channel, number in (("ticker", 1), ("all_ticker", _MARKETS)):
        count = max(_COUNT // number, 3)
        usual = _tickers(channel, number)
        yield form("usual", None, usual)
        yield form("with high_24h", DOCUMENTED, _tickers(channel, number, high=True))
        yield form("nested", DOCUMENTED, _tickers(channel, number, nested=True))
        yield form("nested, with high_24h", DOCUMENTED, _tickers(channel, number, high=True, nested=True))
        yield form("with sendTime", DOCUMENTED, _with_send_time(usual))
        yield form("blanks", OTHER, usual, _blanks)
        yield form("indented", OTHER, usual, _indented)
        yield form("other order", OTHER, _reordered(usual))


def measure(turns: int = _TURNS) -> list[Result]:
    """Return what each form costs: the least of the turns, which the forms take alternately."""
    chosen = list(forms())
    spent = [float("inf")] * len(chosen)
    gc.collect()
    gc.disable()
    for _ in range(turns):
        spent = [min(least, _turn(form)) for least, form in zip(spent, chosen, strict=True)]
    gc.enable()
    usual = {form.channel: cost for form, cost in zip(chosen, spent, strict=True) if form.limit is None}
    return [Result(form, cost, cost / usual[form.channel]) for form, cost in zip(chosen, spent, strict=True)]


def _turn(form: Form) -> float:
    normaliser = CHANNELS[form.channel.partition(",")[0]].normaliser({})
    source, push, decode = Source("s1"), normaliser.push, Messages().decode
    began = time.process_time_ns()
    for text in form.texts:
        message = decode(text)
        assert isinstance(message, Push)
        push(message.params, source, _RECEIVED_US)
    return (time.process_time_ns() - began) / len(form.texts) / 1000


def main() -> None:
    """Print the figures of all forms."""
    for form, micros, ratio in measure():
        over = "" if form.limit is None or ratio <= form.limit else f"  over {form.limit}"
        print(f"{form.channel:18} {form.name:24} {micros:9.2f} {ratio:5.2f}{over}")


if __name__ == "__main__":
    main()
