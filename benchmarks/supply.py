"""The frames for all measurements, made by the simulated market in advance. Pure."""

import zlib
from collections.abc import Iterator, Sequence

import orjson

from bridge.simulator import frames
from bridge.simulator.client import binary
from bridge.simulator.encoding import compress
from bridge.simulator.market import Exchange, symbol_names
from bridge.simulator.samples import documented

SYMBOLS = symbol_names(50)
MARKETS = 700
MIX, ALL_TICKER = "mix", "all_ticker"

_SEED = 7
_TRADES = 2  # in a push
_UPDATES = 20  # different frames of all_ticker
_START = 1_600_000_000  # seconds
_IDS = 10_000_000  # added to trade ids in each pass; more than a pass uses


class Supply:
    """An endless stream that repeats the given frames."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._frames = [binary(payload) for payload in payloads]
        self._trades = {
            place: json
            for place, json in enumerate(map(zlib.decompress, payloads))
            if json.startswith(b'{"method":"trades.')
        }

    def stream(self) -> Iterator[bytes]:
        """Return whole WebSocket frames.

        From the second pass on trades get new ids, because the bridge drops known ones. Depth and tickers are
        repeated unchanged.
        """
        yield from self._frames
        shift = 0
        while True:
            shift += _IDS
            for place, frame in enumerate(self._frames):
                trades = self._trades.get(place)
                yield frame if trades is None else binary(compress(_renewed(trades, shift)))


def mix(count: int) -> Supply:
    """Return frames of depth, trades and ticker in the proportions of the mix, with two trades a push.

    The first ones are the snapshots that the changes of the books go on from.
    """
    markets = Exchange(SYMBOLS, _SEED).markets.values()
    snapshots = [documented(market.snapshot()) for market in markets]
    changes = frames(_SEED, symbols=SYMBOLS, count=count - len(snapshots), trades=_TRADES)
    return Supply([*snapshots, *changes])


def all_ticker() -> Supply:
    """Return frames of all_ticker, each with all markets."""
    exchange = Exchange(symbol_names(MARKETS), _SEED)
    payloads = []
    for second in range(_START, _START + _UPDATES):
        update = exchange.all_ticker(second, whole=True)
        if update is not None:
            payloads.append(documented(update))
        for _ in range(MARKETS):
            exchange.step(second)
    return Supply(payloads)


def _renewed(json: bytes, shift: int) -> bytes:
    message = orjson.loads(json)
    for trade in message["params"][1]:
        trade["id"] += shift
    return orjson.dumps(message)
