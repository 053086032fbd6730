"""Signs of a damaged book count once they have lasted, and sound books never show them so long."""

from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from bridge.books.checks import FEWEST_TICKERS, Crossed, Tops

PATIENCE = 5_000_000  # µs
START = 1_600_000_000_000_000  # µs
SECOND = 1_000_000  # µs

Tick = tuple[int, int]
"""The best ask and bid, in some unit."""


def best(tick: Tick | None) -> tuple[Decimal | None, Decimal | None]:
    return (None, None) if tick is None else (Decimal(tick[0]), Decimal(tick[1]))


def suspected(seen: Sequence[tuple[Tick | None, Tick | None]], seconds: float = 1.0) -> list[bool]:
    """Return what each ticker made of a book: pairs of the book's best prices and the ticker's."""
    tops, found = Tops(PATIENCE), []
    for number, (book, said) in enumerate(seen):
        tops.keep(best(book))
        found.append(disagree(tops, said, START + int(number * seconds * SECOND)))
    return found


def disagree(tops: Tops, said: Tick | None, now_us: int) -> bool:
    """Compare a ticker with a book that is up to date."""
    return tops.disagree(best(said), now_us, now_us)


@given(st.lists(st.tuples(st.integers(0, 3 * PATIENCE), st.booleans()), max_size=20))
def test_a_book_is_suspected_once_it_was_crossed_for_longer_than_patience(
    looks: list[tuple[int, bool]],
) -> None:
    check, now, since = Crossed(PATIENCE), START, None
    for waited, crossed in looks:
        now += waited
        since = (now if since is None else since) if crossed else None
        assert check.lasts(crossed, now) is (since is not None and now - since > PATIENCE)
        assert check.seen is crossed


def test_tickers_that_agree_suspect_nothing() -> None:
    assert not any(suspected([((100 + n, 99), (100 + n, 99)) for n in range(100)]))


def test_a_level_that_stayed_in_the_book_is_noticed() -> None:
    """The ask of 100 should be gone: the market moves away from it, up and down."""
    prices = [101, 105, 103, 102, 104, 103, 101]
    found = suspected([((100, 99), (price, 99)) for price in prices])
    assert found == [False] * 6 + [True]


def test_a_level_that_is_missing_in_the_book_is_noticed() -> None:
    found = suspected([((100, 98), (100, 99))] * 7)
    assert found == [False] * 6 + [True]


def test_both_sides_are_watched_while_one_of_them_is_suspected() -> None:
    asks_wrong, both_wrong, bids_wrong = (
        [((100, 99), (101, 99))],
        [((100, 98), (101, 99))],
        [((101, 98), (101, 99))],
    )
    found = suspected(asks_wrong * 10 + both_wrong * 8 + bids_wrong)
    assert found == [False] * 6 + [True] * 13


def test_few_tickers_prove_nothing_however_long_they_are_apart() -> None:
    found = suspected([((100, 99), (101, 99))] * FEWEST_TICKERS, seconds=3600)
    assert found == [False] * (FEWEST_TICKERS - 1) + [True]


def test_prices_that_a_ticker_does_not_have_say_nothing() -> None:
    tops = Tops(PATIENCE)
    tops.keep(best((100, 99)))
    for now in range(START, START + 20 * SECOND, SECOND):
        assert not tops.disagree((None, Decimal("0.00")), now, now)


def test_an_empty_side_is_not_suspected_because_tickers_go_on_naming_its_last_price() -> None:
    tops = Tops(PATIENCE)
    tops.keep((Decimal(101), Decimal(99)))
    for now in range(START, START + 20 * SECOND, SECOND):
        assert not disagree(tops, (102, 99), now) or now > START + PATIENCE
    tops.keep((None, Decimal(99)))
    assert not tops.seen, "what was said before the last ask was gone is out of date"
    for now in range(START + 20 * SECOND, START + 60 * SECOND, SECOND):
        assert not disagree(tops, (102, 99), now)
    tops.keep((Decimal(105), Decimal(99)))
    found = [disagree(tops, (102, 99), START + (60 + second) * SECOND) for second in range(7)]
    assert found == [False] * 6 + [True]


def test_tickers_are_not_believed_before_all_pushes_of_that_time_are_in_the_book() -> None:
    """The connection of the books may be stuck, and nobody knows yet."""
    tops = Tops(PATIENCE)
    tops.keep(best((100, 99)))
    for now in range(START, START + 60 * SECOND, SECOND):
        assert not tops.disagree(best((101, 99)), now, START + PATIENCE)
    assert tops.disagree(best((101, 99)), START + 60 * SECOND, START + PATIENCE + 1)


def test_a_quiet_book_agrees_with_tickers_that_repeat_its_price() -> None:
    """It is not given to the check again, because it does not change."""
    tops = Tops(PATIENCE)
    tops.keep(best((100, 99)))
    assert not any(disagree(tops, (100, 99), START + n * SECOND) for n in range(20))


@given(
    st.lists(st.integers(-5, 5), min_size=300, max_size=300),
    st.integers(1, 40),
    st.floats(-0.99, 0.99),
    st.sampled_from([0.01, 0.2, 1.0, 20.0]),
)
def test_no_sound_book_is_suspected_because_tickers_come_early_or_late(
    moves: list[int], between: int, lag: float, seconds: float
) -> None:
    """A ticker after every few moves says what the market was or will be within the patience."""
    market = [1000, *(1000 + total for total in accumulate(moves))]
    moved = int(lag * PATIENCE / (seconds * SECOND))  # how many moves a ticker is late
    tops = Tops(PATIENCE)
    for number, price in enumerate(market):
        tops.keep(best((price, price - 1)))
        said = market[min(max(0, number - moved), len(market) - 1)]
        if number % between == 0:
            assert not disagree(tops, (said, said - 1), START + int(number * seconds * SECOND))
