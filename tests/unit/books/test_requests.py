"""Snapshots are requested for books that may be wrong, and no market makes the others wait for theirs."""

from bridge.books.doubts import Finding, Result
from bridge.books.requests import Requests
from bridge.exchange.awaited import Repeats

KEY = b"A_USDT"
EACH = 10.0  # s
BOOK = [(KEY, "s1")]
HOUR = 3600


def found(result: Result) -> Finding:
    return Finding(KEY, "s1", result)


def requested(seconds: int, *, suspect: bool = False, missing: bool = False) -> list[int]:
    """Return when snapshots are requested for a book that stays so."""
    requests = Requests(EACH)
    if suspect:
        requests.note(found("crossed"), 0)
    books = BOOK if suspect else [], BOOK if missing else []
    return [second for second in range(seconds) if requests.due(*books, second)]


def after_others(wishes: list[int]) -> float:
    """Return the longest wait for a snapshot of another market of the session, in s."""
    repeats, longest = Repeats(EACH), 0.0
    for wish in wishes:
        repeats.wish("depth", wish)
        ((_, at),) = repeats.wished()
        repeats.drop("depth")
        repeats.sent("depth", max(at, wish))
        repeats.wish("depth", wish)
        longest = max(longest, repeats.wished()[0][1] - wish)
        repeats.drop("depth")
    return longest


def test_a_suspected_book_is_asked_for_at_once_and_until_its_snapshot_comes() -> None:
    assert requested(35, suspect=True) == [0, 10, 20, 30]


def test_a_market_that_is_crossed_at_the_exchange_makes_no_other_market_wait() -> None:
    """The snapshot comes a second after it was requested, and 6 s later the book is suspected again."""
    requests, asked = Requests(EACH), list[int]()
    snapshot_at, suspect_from = -1, 0
    for now in range(4 * HOUR):
        if now == suspect_from:
            requests.note(found("crossed"), now)
        if now == snapshot_at:
            requests.note(found("equal"), now)
            suspect_from = now + 6
        if requests.due(BOOK if now >= suspect_from else [], [], now):
            asked.append(now)
            snapshot_at = now + 1
    assert asked[:3] == [0, 41, 122]
    assert asked[-1] - asked[-2] == 901
    assert after_others(asked) <= EACH


def test_a_book_that_was_really_wrong_is_asked_for_at_once_the_next_time() -> None:
    requests = Requests(EACH)
    for result in ("crossed", "equal", "crossed", "different", "crossed"):
        requests.note(found(result), 0)
    assert requests.due(BOOK, [], 1) == {"s1"}


def test_a_snapshot_that_nobody_needed_delays_nothing() -> None:
    requests = Requests(EACH)
    requests.note(found("equal"), 0)
    requests.note(found("ticker"), 1)
    assert requests.due(BOOK, [], 1) == {"s1"}


def test_a_market_that_was_right_for_long_begins_anew() -> None:
    requests = Requests(EACH)
    requests.note(found("crossed"), 0)
    requests.note(found("equal"), 0)
    assert not requests.due(BOOK, [], 39)
    requests.note(found("crossed"), HOUR)
    assert requests.due(BOOK, [], HOUR) == {"s1"}
    requests.note(found("equal"), HOUR)
    assert requests.due(BOOK, [], HOUR + 40) == {"s1"}


def test_another_suspected_book_of_the_session_is_asked_for_meanwhile() -> None:
    requests = Requests(EACH)
    requests.note(found("crossed"), 0)
    requests.note(found("equal"), 0)
    assert requests.due([*BOOK, (b"B_USDT", "s1")], [], 1) == {"s1"}


def test_a_missing_book_is_asked_for_if_it_does_not_come_by_itself() -> None:
    asked = requested(HOUR, missing=True)
    assert asked[:3] == [10, 50, 130]
    assert after_others(asked) <= EACH


def test_a_book_that_came_and_is_missing_again_is_given_time_again() -> None:
    requests = Requests(EACH)
    assert not requests.due([], BOOK, 0)
    assert not requests.due([], [], 5)
    assert not requests.due([], BOOK, 10)
    assert requests.due([], BOOK, 20) == {"s1"}


def test_while_nobody_knows_what_is_missing_a_missing_book_is_not_asked_for_and_its_wait_goes_on() -> None:
    requests = Requests(EACH)
    asked = [
        second for second in range(HOUR) if requests.due([], None if second % 60 in (5, 6) else BOOK, second)
    ]
    assert asked == requested(HOUR, missing=True)


def test_a_session_that_was_asked_for_a_missing_book_is_given_time_also_by_the_next_one() -> None:
    requests = Requests(EACH)
    requests.due([], BOOK, 0)
    requests.due([], [*BOOK, (b"B_USDT", "s1")], 9)
    assert requests.due([], [*BOOK, (b"B_USDT", "s1")], 18) == {"s1"}
    assert not requests.due([], None, 19)
    assert not requests.due([], [*BOOK, (b"B_USDT", "s1")], 20)
    assert requests.due([], [*BOOK, (b"B_USDT", "s1")], 28) == {"s1"}


def test_a_suspected_book_is_asked_for_whether_or_not_it_is_known_what_is_missing() -> None:
    requests = Requests(EACH)
    requests.due([], BOOK, 0)
    assert requests.due(BOOK, None, 1) == {"s1"}


def test_a_suspicion_that_is_over_without_a_snapshot_was_not_wrong() -> None:
    """Its session has ended, say; the equal snapshot that comes later is of a book that was not suspected."""
    requests = Requests(EACH)
    requests.note(found("crossed"), 0)
    requests.due([], [], 1)
    requests.note(found("equal"), 2)
    assert requests.due(BOOK, [], 3) == {"s1"}
