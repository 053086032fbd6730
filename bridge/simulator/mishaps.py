"""What goes wrong with updates on their way to the clients: sent twice, out of order, damaged. Pure."""

import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bridge.simulator import encoding
from bridge.simulator.extras import corrupted
from bridge.simulator.faults import Faults
from bridge.simulator.market import Update
from bridge.simulator.protocol import PRIVATE

_NO_FIGURE = "x"
_FEW = 4  # trades in a short list, at most
# A figure of each private channel that is not needed to know which change an item is.
_LAST_FIGURE = {"order": "price", "order_algo": "algo_price", "balance": "total"}
_NO_PARAMS: tuple[Any, ...] = (None, {}, "x", [0])

Harm = Literal["lost", "stays", "crossed"]
"""What happens to a change of a book: not sent, without its removals, or with a level that crosses it."""

Spoiling = Literal["damaged", "missing", "late", "empty", "short"]
"""What happens to a first list or snapshot: the answer to a subscribe request."""


@dataclass(slots=True)
class Mishaps:
    """Chooses at random what happens to an update; the same seed gives the same choices."""

    faults: Faults
    rng: random.Random
    # Trades updates that are sent after the next one of their symbol, by symbol.
    _late: dict[str, list[Update]] = field(default_factory=dict)
    # What happens to the next first lists or snapshots, by channel and symbol, in this order.
    _planned: defaultdict[tuple[str, str], deque[Spoiling | None]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    # What happens to the next changes of books where it can, by symbol, in this order.
    _harms: defaultdict[str, deque[Harm]] = field(default_factory=lambda: defaultdict(deque))
    harmed: Counter[str] = field(default_factory=Counter)  # changes of books so far, by what happened
    spoiled: Counter[str] = field(default_factory=Counter)  # lists and snapshots so far, by what happened

    def sent(self, update: Update) -> list[Update]:
        """Return the updates that are sent when this one happens, in order.

        Trades that come twice or out of order come after the next update of their symbol, since ids tell them
        apart. A change of a book comes twice in a row, because anywhere else it would spoil the book.
        """
        if update.channel == "trades":
            late = self._late.pop(update.symbol, [])
            if self._happens(self.faults.reordered):
                self._late[update.symbol] = [update]
                return late
            if self._happens(self.faults.duplicated):
                self._late[update.symbol] = [update]
            return [update, *late]
        if update.channel == "depth":
            changed = self._harmed(update)
            if changed is None:
                return []
            update = changed
        twice = update.channel == "depth" or update.channel in PRIVATE
        return [update, update] if twice and self._happens(self.faults.duplicated) else [update]

    def harm(self, symbol: str, *harms: Harm) -> None:
        """Decide what happens to the next changes of a book, each as soon as it can happen."""
        self._harms[symbol] += harms

    def unharm(self, symbol: str) -> None:
        """Let nothing more happen to a book of what was decided."""
        self._harms.pop(symbol, None)

    def _harmed(self, update: Update) -> Update | None:
        """Return a change of a book as it is sent; None: it is not."""
        planned = self._harms[update.symbol]
        harms: list[tuple[Harm, float]] = [
            ("lost", self.faults.change_lost),
            ("stays", self.faults.level_stays),
            ("crossed", self.faults.book_crossed),
        ]
        for harm, share in harms:
            is_planned = bool(planned) and planned[0] == harm
            if not (is_planned or self._happens(share)):
                continue
            changed = None if harm == "lost" else _staying(update) if harm == "stays" else _crossed(update)
            if changed != update:
                self.harmed[harm] += 1
                if is_planned:
                    planned.popleft()
                return changed
        return update

    def late(self) -> list[Update]:
        """Return the updates that wait for the next one of their symbol, and forget them."""
        late = [update for updates in self._late.values() for update in updates]
        self._late.clear()
        return late

    def damaged(self, update: Update) -> bytes | None:
        """Return what one connection gets in place of an update's frame; None if it gets the frame."""
        if self._happens(self.faults.damaged):
            return corrupted(update)
        return None if update.channel in PRIVATE else self.bad(update)

    def bad(self, update: Update) -> bytes | None:
        """Return an update's frame with a bad figure or bad params; None if nothing of it is bad.

        Of a private change all connections get the same: it tells no two of them apart but by its content.
        """
        if _has_items(update):
            if self._happens(self.faults.bad_item):
                return encoding.compress(encoding.text(_with_bad_figure(update)))
            if self._happens(self.faults.bad_params):
                wrong = replace(update, params=self.rng.choice(_NO_PARAMS))
                return encoding.compress(encoding.text(wrong))
        return None

    def shortened(self, update: Update) -> Update:
        """Return a list of trades with its newest few only."""
        clean, trades, symbol = update.params
        return replace(update, params=[clean, trades[: self.rng.randint(1, _FEW)], symbol])

    def plan(self, channel: str, symbol: str, *spoilings: Spoiling | None) -> None:
        """Decide what happens to the next first lists or snapshots of a symbol; None: nothing."""
        self._planned[channel, symbol] += spoilings

    def spoils(self, update: Update) -> Spoiling | None:
        """Return what happens to a first list or snapshot; None: nothing."""
        spoiling: Spoiling | None = None
        if planned := self._planned[update.channel, update.symbol]:
            spoiling = planned.popleft()
        elif self._happens(self.faults.clean_damaged):
            spoiling = "damaged"
        elif self._happens(self.faults.clean_missing):
            spoiling = "missing"
        elif self._happens(self.faults.clean_late):
            spoiling = "late"
        elif update.channel == "trades" and self._happens(self.faults.clean_empty):
            spoiling = "empty"
        elif update.channel == "trades" and self._happens(self.faults.clean_short):
            spoiling = "short"
        if spoiling is not None:
            self.spoiled[spoiling] += 1
        return spoiling

    def _happens(self, share: float) -> bool:
        return bool(share) and self.rng.random() < share


def _has_items(update: Update) -> bool:
    """Return whether an update is one of trades, depth or an account, and not empty."""
    return update.channel in PRIVATE or (update.channel in ("trades", "depth") and bool(update.params[1]))


def _with_bad_figure(update: Update) -> Update:
    """Return an update in which one figure, of its first item, is none."""
    if update.channel in PRIVATE:
        first, *others = update.params
        return replace(update, params=[{**first, _LAST_FIGURE[update.channel]: _NO_FIGURE}, *others])
    clean, content, symbol = update.params
    if update.channel == "trades":
        content = [{**content[0], "price": _NO_FIGURE}, *content[1:]]
    else:
        side = "asks" if content["asks"] else "bids"
        (price, _), *others = content[side]
        content = {**content, side: [[price, _NO_FIGURE], *others]}
    return replace(update, params=[clean, content, symbol])


def _staying(update: Update) -> Update:
    """Return a change of a book without its removals of levels."""
    clean, book, symbol = update.params
    kept = {side: [level for level in levels if float(level[1])] for side, levels in book.items()}
    return replace(update, params=[clean, kept, symbol])


def _crossed(update: Update) -> Update:
    """Return a change of a book with the price of one of its levels on the other side too."""
    clean, book, symbol = update.params
    for side, other in (("asks", "bids"), ("bids", "asks")):
        for level in book[side]:
            if float(level[1]):
                return replace(update, params=[clean, {**book, other: [*book[other], level]}, symbol])
    return update
