"""A book is suspected once a sign has lasted, until its next snapshot; each suspicion is found once."""

from decimal import Decimal

from bridge.books.book import Book
from bridge.books.doubts import MOST_FINDINGS, Doubts
from tests.unit.books.levels import book_of

KEY = b"BTC_USDT"
SECOND = 1_000_000  # µs
PATIENCE = 5 * SECOND
START = 1_600_000_000 * SECOND

SOUND = book_of([("101", "1")], [("100", "1")])
CROSSED = book_of([("101", "1")], [("101", "1")])


def found(doubts: Doubts) -> list[str]:
    return [finding.result for finding in doubts.take_findings()]


def ticker(doubts: Doubts, ask: str, bid: str, second: float, book: Book = SOUND) -> None:
    now = START + round(second * SECOND)
    doubts.note_ticker(KEY, "s1", book, (Decimal(ask), Decimal(bid)), (now, now))


def test_a_quiet_book_that_stays_crossed_is_suspected_once() -> None:
    doubts = Doubts(PATIENCE)
    doubts.note_crossed(KEY, "s1", START)
    doubts.look({"s1": START + PATIENCE})
    assert not list(doubts.suspects())
    for second in (6, 7, 60):
        doubts.look({"s1": START + second * SECOND})
    assert found(doubts) == ["crossed"]
    assert list(doubts.suspects()) == [(KEY, "s1")]


def test_a_book_that_is_crossed_again_and_again_is_not_suspected() -> None:
    doubts = Doubts(PATIENCE)
    for second in range(20):
        doubts.note_crossed(KEY, "s1", START + second * SECOND)
        doubts.look({"s1": START + second * SECOND})
        doubts.note_change(KEY, CROSSED, START + second * SECOND)
        doubts.note_change(KEY, SOUND, START + second * SECOND)
        assert KEY not in doubts.by_key
    assert not found(doubts)


def test_a_suspicion_lasts_until_the_next_snapshot_even_if_its_sign_has_gone() -> None:
    doubts = Doubts(PATIENCE)
    doubts.note_crossed(KEY, "s1", START)
    doubts.note_change(KEY, CROSSED, START + 6 * SECOND)
    doubts.note_change(KEY, SOUND, START + 7 * SECOND)
    assert list(doubts.suspects())
    doubts.forget(KEY)
    assert not list(doubts.suspects())
    assert found(doubts) == ["crossed"]


def test_what_is_not_taken_yet_does_not_make_a_crossed_book_older() -> None:
    """During an outage of Kafka time goes on, and the book stands still."""
    doubts = Doubts(PATIENCE)
    doubts.note_crossed(KEY, "s1", START)
    for _ in range(3):
        doubts.look({"s1": START - SECOND})
    assert not found(doubts)


def test_what_was_doubted_of_a_session_is_forgotten_when_it_is_not_in_use() -> None:
    """Nothing ends the sign: what would have ended it was not received."""
    doubts = Doubts(PATIENCE)
    doubts.note_crossed(KEY, "s1", START)
    doubts.look({"s1": START + SECOND})
    assert KEY in doubts.by_key
    doubts.look({"s2": START + 60 * SECOND})
    assert KEY not in doubts.by_key
    doubts.look({"s1": START + 60 * SECOND})
    assert not found(doubts)


def test_a_clock_that_is_set_makes_no_sign_older() -> None:
    """It is set an hour ahead: what was found in the moment before that is known is forgotten."""
    doubts, later = Doubts(PATIENCE), START + 3600 * SECOND
    doubts.note_crossed(KEY, "s1", START)
    doubts.note_change(KEY, CROSSED, later)
    doubts.restart(later)
    doubts.look({"s1": later + PATIENCE})
    assert not found(doubts)
    assert not list(doubts.suspects())
    doubts.look({"s1": later + PATIENCE + 1})
    assert found(doubts) == ["crossed"], "it is still crossed, and that has lasted now"
    doubts.restart(later)
    assert list(doubts.suspects()), "what was reported stays"
    for second in range(31):
        ticker(doubts, "103", "100", second)
    doubts.restart(later)
    ticker(doubts, "103", "100", 3600)
    assert not found(doubts)


def test_a_clock_that_is_set_disproves_no_snapshot() -> None:
    doubts = Doubts(PATIENCE)
    doubts.compared(KEY, "s1", [], "a snapshot")
    doubts.restart(START)
    assert found(doubts) == ["equal"]


def test_tickers_that_disagree_for_six_times_the_patience_are_believed() -> None:
    doubts = Doubts(PATIENCE)
    for second in range(31):
        ticker(doubts, "103", "100", second)
    assert not found(doubts)
    ticker(doubts, "104", "100", 31)
    ticker(doubts, "104", "100", 32)
    (finding,) = doubts.take_findings()
    assert (finding.result, finding.session) == ("ticker", "s1")
    assert finding.detail == "ask 101 and bid 100, but tickers say 104 and 100"


def test_a_book_that_moves_to_what_a_ticker_has_said_is_not_suspected() -> None:
    doubts = Doubts(PATIENCE)
    ticker(doubts, "103", "100", 0)
    moved = book_of([("103", "1")], [("100", "1")])
    doubts.note_change(KEY, moved, START + SECOND)
    assert KEY in doubts.by_key
    ticker(doubts, "103", "100", 2, moved)
    assert KEY not in doubts.by_key


def test_tickers_are_not_believed_across_a_time_in_which_books_were_behind() -> None:
    doubts = Doubts(PATIENCE)
    for second in range(31):
        ticker(doubts, "103", "100", second)
    doubts.restart_tickers()
    assert KEY not in doubts.by_key
    ticker(doubts, "103", "100", 40)
    assert not found(doubts)


def test_tickers_of_a_sound_book_leave_nothing_behind() -> None:
    doubts = Doubts(PATIENCE)
    ticker(doubts, "101.00", "100", 0)
    ticker(doubts, "0", "100.0", 1)
    doubts.note_ticker(KEY, "s1", SOUND, (None, None), (START, START))
    assert not doubts.by_key


def test_findings_that_nobody_takes_have_an_end() -> None:
    doubts = Doubts(PATIENCE)
    for _ in range(3 * MOST_FINDINGS):
        doubts.compared(KEY, "s1", [], "a snapshot")
    assert len(doubts.take_findings()) <= MOST_FINDINGS
