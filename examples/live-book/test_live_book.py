"""Each book that is shown is that of the records of depth, to the last digit."""

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.market import Market
from tests.support.waiting import eventually
from tests.support.walkthrough import PIP, Walkthrough, commands

HERE = Path(__file__).parent
SHOW = "python live_book.py localhost:9092 BTC_USDT"
HEAD = r"^BTC_USDT after record (\d+) of session (\w+)$"
LEVELS = 10

Place = tuple[str, int]
"""A record of depth, by session and seq."""


def books(records: Iterable[dict[str, Any]]) -> dict[Place, list[str]]:
    """Return the lines of the book after each record, made without the kit."""
    sides: dict[str, dict[str, str]] = {"asks": {}, "bids": {}}
    found = {}
    for record in records:
        for name, levels in sides.items():
            if record["snapshot"]:
                levels.clear()
            for price, amount in record[name]:
                levels[price] = amount
                if not Decimal(amount):
                    del levels[price]
        found[record["session"], record["seq"]] = [
            *(f"{line} ask" for line in best(sides["asks"], 1)[::-1]),
            *(f"{line} bid" for line in best(sides["bids"], -1)),
        ]
    return found


def best(side: dict[str, str], sign: int) -> list[str]:
    prices = sorted(side, key=lambda price: sign * Decimal(price))[:LEVELS]
    return [f"{price} {side[price]}" for price in prices]


def test_every_book_is_that_of_the_records_of_depth(
    market: Market, walkthrough: Callable[..., Walkthrough]
) -> None:
    readme = HERE / "README.md"
    assert commands(readme) == [PIP, SHOW]
    assert re.search(HEAD, readme.read_text(), re.MULTILINE)
    assert len((HERE / "live_book.py").read_text().splitlines()) <= 40
    with walkthrough(HERE.name).running(SHOW, HEAD) as example:
        sessions = set[str]()

        def enough() -> bool:
            """Whether a connection was lost meanwhile, and the book goes on."""
            shown = re.findall(HEAD, example.printed, re.MULTILINE)
            sessions.update(session for _, session in shown)
            return len(shown) > 100 and len(sessions) > 1

        eventually(enough, 60, "books of two sessions", every=0.5)
        example.kill()
        printed = example.printed
    _, *shown = re.split(HEAD, printed, flags=re.MULTILINE)
    del shown[-3:]  # it may have been cut
    records = market.read("digifinex.depth.v1")
    expected = books(one for one in records if one["symbol"] == "BTC_USDT")
    for seq, session, lines in zip(*(iter(shown),) * 3, strict=True):
        found = [" ".join(line.split()) for line in lines.strip().splitlines()]
        assert found == expected[session, int(seq)]
