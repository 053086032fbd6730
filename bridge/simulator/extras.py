"""What faults send in addition to a push: damaged frames, and the whole list once more. Pure."""

import random
from dataclasses import dataclass

from bridge.simulator import encoding
from bridge.simulator.faults import Faults
from bridge.simulator.market import Exchange, Push

_UNKNOWN = b'{"method":"moon.update","params":[],"id":null}'


@dataclass(frozen=True, slots=True)
class Extras:
    """Draws by lot what follows a push; the same seed draws the same."""

    faults: Faults
    rng: random.Random
    market: Exchange

    def bad(self, push: Push) -> list[tuple[str, bytes]]:
        """Return damaged frames, each with the name of its fault."""
        faults, draw = self.faults, self.rng.random
        made: list[tuple[str, bytes]] = []
        if draw() < faults.corrupt:
            made.append(("corrupt", corrupted(push)))
        if draw() < faults.bad_json:
            made.append(("bad_json", encoding.compress(encoding.text(push)[:-3])))
        if draw() < faults.unknown_method:
            made.append(("unknown_method", encoding.compress(_UNKNOWN)))
        return made

    def again(self, push: Push) -> Push | None:
        """Return the whole list that a push was a part of, or None."""
        if push.channel not in ("trades", "depth") or self.rng.random() >= self.faults.clean_again:
            return None
        market = self.market.markets[push.symbol]
        return market.snapshot() if push.channel == "depth" else market.clean_trades()


def corrupted(push: Push) -> bytes:
    """Return the frame of a push with one byte of its zlib stream damaged."""
    damaged = bytearray(encoding.compress(encoding.text(push)))
    damaged[len(damaged) // 2] ^= 0xFF
    return bytes(damaged)
