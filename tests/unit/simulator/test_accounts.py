"""Simulated accounts: orders run from placement to their end, and balances follow them."""

import random
from collections import defaultdict
from decimal import Decimal
from itertools import chain
from typing import Any

from bridge.simulator.accounts import Account
from bridge.simulator.market import Exchange, Update

NOW = 1_600_000_000.0
SYMBOLS = ["BTC_USDT", "ETH_USDT"]


def updates(seed: int, steps: int = 3000) -> list[list[Update]]:
    exchange, account = Exchange(SYMBOLS, seed), Account("key", random.Random(seed))
    return [account.step(exchange.markets[SYMBOLS[n % 2]], NOW + n) for n in range(steps)]


def histories(made: list[list[Update]], channel: str) -> list[list[dict[str, Any]]]:
    """Return the successive states of each order."""
    states: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for update in chain.from_iterable(made):
        if update.channel == channel:
            states[update.params[0]["id"]].append(update.params[0])
    return list(states.values())


def test_the_same_seed_makes_the_same_account() -> None:
    assert updates(1) == updates(1)
    assert updates(1) != updates(2)


def test_every_update_belongs_to_the_account() -> None:
    assert {update.account for update in chain.from_iterable(updates(3))} == {"key"}


def test_every_order_starts_unfilled_and_ends_filled_or_cancelled() -> None:
    orders = histories(updates(4), "order")
    found = {tuple(order["status"] for order in states) for states in orders}
    ended = {(0, 2), (0, 1, 2), (0, 3), (0, 1, 4)}
    assert ended <= found <= ended | {(0,), (0, 1)}
    assert {(o["type"], o["mode"]) for states in orders for o in states} == {
        (kind, mode) for kind in ("limit", "market") for mode in (1, 2)
    }


def test_a_limit_order_is_never_filled_beyond_its_amount() -> None:
    for states in histories(updates(5), "order"):
        filled = [Decimal(one["filled"]) for one in states]
        assert filled == sorted(filled)
        last = states[-1]
        if last["status"] == 2 and last["type"] == "limit":
            assert filled[-1] == Decimal(last["amount"])
        if last["status"] in (0, 3):
            assert filled[-1] == 0
            assert last["price_avg"] == ""
        else:
            assert Decimal(last["notional"]) == filled[-1] * Decimal(last["price_avg"]) > 0


def test_every_algo_order_waits_first_and_ends_triggered_cancelled_or_failed() -> None:
    found = {tuple(one["status"] for one in states) for states in histories(updates(6), "order_algo")}
    ended = {(0, 1, 2), (0, 1, -1), (0, 1, -2), (0, 2), (0, -1), (0, -2)}
    assert ended <= found <= ended | {(0,), (0, 1)}


def test_free_and_used_add_up_and_only_fills_change_the_total() -> None:
    known: dict[str, dict[str, str]] = {}
    for made in updates(7):
        balances = {update.symbol: update.params[0] for update in made if update.channel == "balance"}
        for currency, one in balances.items():
            free, used, total = (Decimal(one[key]) for key in ("free", "used", "total"))
            assert free + used == total
            assert used >= 0
            if made[0].params[0]["status"] in (0, 3, 4) and currency in known:
                assert total == Decimal(known[currency]["total"])
        known |= balances


def test_the_number_of_open_orders_is_bounded() -> None:
    exchange, account = Exchange(SYMBOLS, 8), Account("key", random.Random(8))
    alive: set[str] = set()
    for n in range(20_000):
        for update in account.step(exchange.markets[SYMBOLS[0]], NOW + n):
            if update.channel in ("order", "order_algo"):
                order = update.params[0]
                ended = order["status"] in ((2, 3, 4) if update.channel == "order" else (-2, -1, 2))
                (alive.discard if ended else alive.add)(order["id"])
        assert len(alive) <= 40
