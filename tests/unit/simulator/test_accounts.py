"""Simulated accounts: orders live and end, and balances tell of it."""

import random
from collections import defaultdict
from decimal import Decimal
from itertools import chain
from typing import Any

from bridge.simulator.accounts import Account
from bridge.simulator.market import Exchange, Push

NOW = 1_600_000_000.0
SYMBOLS = ["BTC_USDT", "ETH_USDT"]


def pushes(seed: int, steps: int = 3000) -> list[list[Push]]:
    exchange, account = Exchange(SYMBOLS, seed), Account("key", random.Random(seed))
    return [account.step(exchange.markets[SYMBOLS[n % 2]], NOW + n) for n in range(steps)]


def lives(made: list[list[Push]], channel: str) -> list[list[dict[str, Any]]]:
    """Return the states of each order, in order."""
    states: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for push in chain.from_iterable(made):
        if push.channel == channel:
            states[push.params[0]["id"]].append(push.params[0])
    return list(states.values())


def test_the_same_seed_makes_the_same_account() -> None:
    assert pushes(1) == pushes(1)
    assert pushes(1) != pushes(2)


def test_everything_is_for_the_account_alone() -> None:
    assert {push.account for push in chain.from_iterable(pushes(3))} == {"key"}


def test_orders_go_from_unfilled_to_an_end() -> None:
    orders = lives(pushes(4), "order")
    found = {tuple(order["status"] for order in states) for states in orders}
    ended = {(0, 2), (0, 1, 2), (0, 3), (0, 1, 4)}
    assert ended <= found <= ended | {(0,), (0, 1)}
    assert {(o["type"], o["mode"]) for states in orders for o in states} == {
        (kind, mode) for kind in ("limit", "market") for mode in (1, 2)
    }


def test_a_limit_order_is_filled_up_to_its_amount() -> None:
    for states in lives(pushes(5), "order"):
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


def test_algo_orders_wait_then_trigger_or_do_not() -> None:
    found = {tuple(one["status"] for one in states) for states in lives(pushes(6), "order_algo")}
    ended = {(0, 1, 2), (0, 1, -1), (0, 1, -2), (0, 2), (0, -1), (0, -2)}
    assert ended <= found <= ended | {(0,), (0, 1)}


def test_balances_add_up_and_move_as_the_orders_do() -> None:
    known: dict[str, dict[str, str]] = {}
    for made in pushes(7):
        balances = {push.symbol: push.params[0] for push in made if push.channel == "balance"}
        for currency, one in balances.items():
            free, used, total = (Decimal(one[key]) for key in ("free", "used", "total"))
            assert free + used == total
            assert used >= 0
            if made[0].params[0]["status"] in (0, 3, 4) and currency in known:
                assert total == Decimal(known[currency]["total"])
        known |= balances


def test_open_orders_do_not_pile_up() -> None:
    exchange, account = Exchange(SYMBOLS, 8), Account("key", random.Random(8))
    alive: set[str] = set()
    for n in range(20_000):
        for push in account.step(exchange.markets[SYMBOLS[0]], NOW + n):
            if push.channel in ("order", "order_algo"):
                order = push.params[0]
                ended = order["status"] in ((2, 3, 4) if push.channel == "order" else (-2, -1, 2))
                (alive.discard if ended else alive.add)(order["id"])
        assert len(alive) <= 40
