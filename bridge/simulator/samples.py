"""Frames of pushes by the thousand, for benchmarks. Pure; a seed gives always the same."""

from collections import Counter
from collections.abc import Mapping, Sequence

from bridge.simulator.encoding import compress, text
from bridge.simulator.market import Exchange, Push, symbol_names

MIX = {"depth": 0.60, "trades": 0.25, "ticker": 0.15}
"""The shares that the pushes of the channels have."""

_START = 1_600_000_000.0  # seconds; when benchmarks begin
_RATE = 5_000  # pushes a second, by the times in frames for benchmarks


def frames(
    seed: int, symbols: int | Sequence[str] = 50, mix: Mapping[str, float] = MIX, count: int = 10_000
) -> list[bytes]:
    """Return so many frames of pushes out of one market, always the same for a seed.

    `mix` has the shares of trades, depth and ticker. Trades change the book, so depth's share can't be
    below theirs unless it is left out.

    Raises:
        KeyError: a channel in `mix` that is none of these.
    """
    exchange = Exchange(symbol_names(symbols) if isinstance(symbols, int) else symbols, seed)
    made: list[Push] = []
    so_far = Counter[str]()
    while len(made) < count:
        behind = max(mix, key=lambda channel: mix[channel] * len(made) - so_far[channel])
        pushes = [push for push in exchange.event(behind, _START + len(made) / _RATE) if push.channel in mix]
        so_far.update(push.channel for push in pushes)
        made += pushes
    return [compress(text(push)) for push in made[:count]]


def all_ticker_frames(seed: int, symbols: int | Sequence[str] = 700, count: int = 100) -> list[bytes]:
    """Return so many frames of all_ticker, one a second; the first has all markets, the rest what changed."""
    names = symbol_names(symbols) if isinstance(symbols, int) else symbols
    exchange = Exchange(names, seed)
    made: list[bytes] = []
    while len(made) < count:
        now = _START + len(made)
        push = exchange.all_ticker(now)
        if push is not None:
            made.append(compress(text(push)))
        for _ in names:
            exchange.step(now)
    return made
