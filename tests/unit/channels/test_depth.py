"""depth: a snapshot has the best price first, a delta is as the exchange sent it."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import BadItem
from tests.support.pushes import Feed, records, source

Level = tuple[str, str]
Book = dict[str, dict[Decimal, Decimal]]

laws = settings(deadline=None, max_examples=40)
# Few different prices, written in many ways: levels replace and remove each other.
prices = st.builds(
    lambda price, zeros: f"{price}.{'0' * zeros}" if zeros else str(price),
    st.integers(1, 12),
    st.integers(0, 3),
) | st.sampled_from(["1.1e1", "0.5", "0.50", "9.5", "1E-8"])
amounts = st.sampled_from(["0", "0.0000", "0e0", "1", "2.50", "12345678901234567890.123456789", "1E-8"])
levels = st.lists(st.tuples(prices, amounts), max_size=8)
distinct_levels = st.lists(st.tuples(prices, amounts), max_size=8, unique_by=lambda level: Decimal(level[0]))
pushes = st.tuples(st.booleans(), levels, levels)


def params(clean: bool, asks: Iterable[Level], bids: Iterable[Level], numbers: bool = False) -> str:
    """Return the params of a push; `numbers` writes figures as JSON numbers instead of strings."""
    quote = "" if numbers else '"'

    def side(of: Iterable[Level]) -> str:
        return ",".join(f"[{quote}{price}{quote},{quote}{amount}{quote}]" for price, amount in of)

    book = f'{{"asks":[{side(asks)}],"bids":[{side(bids)}]}}'
    return f'[{"true" if clean else "false"},{book},"ETH_USDT"]'


def apply(book: Book, snapshot: bool, asks: Iterable[Any], bids: Iterable[Any]) -> None:
    """Maintain a book as consumers do."""
    for name, side in (("asks", asks), ("bids", bids)):
        if snapshot:
            book[name] = {}
        for price, amount in side:
            book[name][Decimal(price)] = Decimal(amount)
        book[name] = {price: amount for price, amount in book[name].items() if amount}


@laws
@given(st.lists(pushes, max_size=8), st.booleans())
def test_a_book_built_from_records_equals_one_built_from_pushes(
    sent: list[tuple[bool, list[Level], list[Level]]], numbers: bool
) -> None:
    """Of a price that a snapshot contains twice, the last one counts, sorted or not."""
    feed, session = Feed("depth"), source()
    expected: Book = {"asks": {}, "bids": {}}
    found: Book = {"asks": {}, "bids": {}}
    for clean, asks, bids in sent:
        feed.push(params(clean, asks, bids, numbers), session)
        apply(expected, clean, asks, bids)
        record = feed.records[-1]
        apply(found, record["snapshot"], record["asks"], record["bids"])
        assert found == expected
    assert [record["seq"] for record in feed.records] == list(range(len(sent)))


@laws
@given(distinct_levels, distinct_levels, st.booleans())
def test_a_snapshot_has_the_best_price_first_and_keeps_every_digit(
    asks: list[Level], bids: list[Level], numbers: bool
) -> None:
    (record,) = records("depth", params(True, asks, bids, numbers))
    assert record["asks"] == sorted(map(list, asks), key=lambda level: Decimal(level[0]))
    assert record["bids"] == sorted(map(list, bids), key=lambda level: Decimal(level[0]), reverse=True)


@laws
@given(levels, levels, st.booleans())
def test_a_delta_is_as_it_was_sent(asks: list[Level], bids: list[Level], numbers: bool) -> None:
    (record,) = records("depth", params(False, asks, bids, numbers))
    assert (record["asks"], record["bids"]) == (list(map(list, asks)), list(map(list, bids)))


@pytest.mark.parametrize("space", [" ", "\n", "\t", " \r\n "])
def test_whitespace_between_figures_does_not_change_the_record(space: str) -> None:
    compact = '[false,{"asks":[["2","1"],["1","0"]],"bids":[]},"ETH_USDT"]'
    spaced = "".join(space + char + space if char in "[]{},:" else char for char in compact)
    assert records("depth", spaced) == records("depth", compact)


def test_every_clean_push_is_a_snapshot_even_in_the_middle_of_a_session() -> None:
    feed, session = Feed("depth"), source()
    for clean in (True, False, True, True):
        feed.push(params(clean, [("1", "1")], []), session)
    assert [record["snapshot"] for record in feed.records] == [True, False, True, True]


def test_a_depth_push_has_no_time() -> None:
    assert Feed("depth").push(params(True, [], []), source()).time_us is None


@pytest.mark.parametrize(
    "level", ['["1"]', "[]", '["x","1"]', '["1",null]', '["","1"]', '["1e1000","1"]', "[1,true]"]
)
@pytest.mark.parametrize("clean", ["true", "false"])
def test_a_bad_level_makes_the_whole_push_bad_and_uses_no_seq(clean: str, level: str) -> None:
    """A book without one of its levels would be wrong."""
    feed, session = Feed("depth"), source()
    with pytest.raises(BadItem):
        feed.push(f'[{clean},{{"asks":[["1","1"],{level}]}},"ETH_USDT"]', session)
    feed.push(params(True, [], []), session)
    assert [record["seq"] for record in feed.records] == [0]
