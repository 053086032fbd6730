"""Makes thousands of frames for benchmarks. Pure; the same seed always gives the same frames.

They are spelt as the API document prints them, without blanks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from bridge.simulator.dialects import DOCUMENTED, known
from bridge.simulator.encoding import compress, text
from bridge.simulator.market import Exchange, Update, symbol_names

MIX = {"depth": 0.60, "trades": 0.25, "ticker": 0.15}
"""The share of each channel among the updates."""

_START = 1_600_000_000.0  # seconds since the epoch; the time of the first update
_RATE = 5_000  # updates a second, by the times in the frames


def documented(update: Update) -> bytes:
    """Return the frame of an update in the spelling of the API document."""
    return compress(text(known(update, DOCUMENTED)))


def frames(
    seed: int,
    symbols: int | Sequence[str] = 50,
    mix: Mapping[str, float] = MIX,
    count: int = 10_000,
    trades: int | None = None,
) -> list[bytes]:
    """Return `count` frames of updates from one simulated exchange.

    `trades` is the number of trades in a push; None: one or two.

    `mix` has the shares of trades, depth and ticker. Each trade also changes the book, so depth's share can't
    be below that of trades unless depth is left out.

    Raises:
        KeyError: `mix` names another channel.
    """
    exchange = Exchange(symbol_names(symbols) if isinstance(symbols, int) else symbols, seed)
    made: list[Update] = []
    so_far = Counter[str]()
    while len(made) < count:
        behind = max(mix, key=lambda channel: mix[channel] * len(made) - so_far[channel])
        updates = [
            one for one in exchange.event(behind, _START + len(made) / _RATE, trades) if one.channel in mix
        ]
        so_far.update(update.channel for update in updates)
        made += updates
    return [documented(update) for update in made[:count]]


def all_ticker_frames(seed: int, symbols: int | Sequence[str] = 700, count: int = 100) -> list[bytes]:
    """Return `count` frames of all_ticker, one a second: all markets first, then those that changed."""
    names = symbol_names(symbols) if isinstance(symbols, int) else symbols
    exchange = Exchange(names, seed)
    made: list[bytes] = []
    while len(made) < count:
        now = _START + len(made)
        update = exchange.all_ticker(now)
        if update is not None:
            made.append(documented(update))
        for _ in names:
            exchange.step(now)
    return made
