"""The frames that faults add to an update: damaged ones, and repeated full lists. Pure."""

import random
from dataclasses import dataclass

from bridge.simulator import encoding
from bridge.simulator.faults import Faults
from bridge.simulator.market import Exchange, Update

_UNKNOWN = b'{"method":"moon.update","params":[],"id":null}'


@dataclass(frozen=True, slots=True)
class Extras:
    """Chooses at random what follows an update; the same seed gives the same choices."""

    faults: Faults
    rng: random.Random
    market: Exchange

    def bad(self, update: Update) -> list[tuple[str, bytes]]:
        """Return damaged frames, each with the name of its fault."""
        faults, draw = self.faults, self.rng.random
        made: list[tuple[str, bytes]] = []
        if draw() < faults.corrupt:
            made.append(("corrupt", corrupted(update)))
        if draw() < faults.bad_json:
            made.append(("bad_json", encoding.compress(encoding.text(update)[:-3])))
        if draw() < faults.unknown_method:
            made.append(("unknown_method", encoding.compress(_UNKNOWN)))
        return made

    def again(self, update: Update) -> Update | None:
        """Return the full trade list or book of the update's symbol, or None if it is not to be repeated."""
        if update.channel not in ("trades", "depth") or self.rng.random() >= self.faults.clean_again:
            return None
        market = self.market.markets[update.symbol]
        return market.snapshot() if update.channel == "depth" else market.clean_trades()


def corrupted(update: Update) -> bytes:
    """Return the frame of an update with one byte of its zlib stream damaged."""
    damaged = bytearray(encoding.compress(encoding.text(update)))
    damaged[len(damaged) // 2] ^= 0xFF
    return bytes(damaged)
