"""The first snapshot of a new session is compared with all states that the old one's book had meanwhile."""

from bridge.books import rotations as module
from bridge.books.book import Book
from bridge.books.rotations import MOST_ROTATIONS, Rotations
from tests.unit.books.levels import book_of

KEY = b"BTC_USDT"
START = 1_600_000_000_000_000  # µs


def change(rotations: Rotations, book: Book, amount: str, at: int, session: str = "old") -> None:
    """Set the amount at the price 1."""
    levels = [("1", amount)]
    rotations.note(KEY, session, book, START + at, (levels, [], False))
    book.change(levels, [])


def compared(rotations: Rotations, book: Book, amount: str) -> int | None:
    """Return how many levels differ, of a snapshot with this amount at the price 1."""
    found = rotations.compared(KEY, "old", "new", (book, book_of([("1", amount)])))
    return None if found is None else len(found)


def rotated(at: int = 0) -> tuple[Rotations, Book]:
    """Return a rotation that began at this time, with a book that had the amounts 1, 2 and 3 after it."""
    rotations, book = Rotations(), book_of([("1", "0.5")])
    rotations.begin(["old"], START + at)
    for number in (1, 2, 3):
        change(rotations, book, str(number), number)
    rotations.replaced(["old"], "new", [KEY])
    return rotations, book


def test_every_state_since_the_beginning_counts_and_no_other() -> None:
    for amount, differing in (("0.5", 0), ("1", 0), ("2", 0), ("3", 0), ("4", 1)):
        assert compared(*rotated(), amount) == differing
    for amount, differing in (("0.5", 1), ("1", 0), ("2", 0), ("3", 0)):
        assert compared(*rotated(at=2), amount) == differing


def test_a_book_that_did_not_change_is_compared_as_it_is() -> None:
    for amount, differing in (("3", 0), ("2", 1)):
        assert compared(*rotated(at=9), amount) == differing


def test_only_what_a_rotation_names_is_compared_and_once() -> None:
    rotations, book = rotated()
    assert rotations.compared(b"OTHER", "old", "new", (book, book)) is None
    assert rotations.compared(KEY, "older", "new", (book, book)) is None
    rotations, book = rotated()
    assert compared(rotations, book, "3") == 0
    assert compared(rotations, book, "3") is None
    assert not rotations.since


def test_a_rotation_that_was_given_up_leaves_no_states_to_the_next_one() -> None:
    """What comes between the two is not noted, so the states of the first would be those of another book."""
    rotations, book = Rotations(), book_of([("1", "0.5"), ("7", "7")])
    rotations.begin(["old"], START)
    change(rotations, book, "1", 1)
    rotations.end(["old"])
    rotations.note(KEY, "old", book, START + 2, ([("7", "0")], [], False))
    book.change([("7", "0")], [])
    rotations.begin(["old"], START + 3)
    change(rotations, book, "2", 4)
    rotations.replaced(["old"], "new", [KEY])
    assert compared(rotations, book, "2") == 0


def test_a_book_whose_states_are_too_many_is_not_compared() -> None:
    rotations, book = Rotations(), Book()
    rotations.begin(["old"], START)
    many = [(str(price), "1") for price in range(1, 10_001)]
    for at in range(1 + module.MOST_CHANGED // len(many)):
        for key in (b"A", b"B"):
            rotations.note(key, "old", book, START + at, (many, [], False))
    rotations.replaced(["old"], "new", [b"A", b"B"])
    assert [rotations.compared(key, "old", "new", (book, book)) for key in (b"A", b"B")] == [None, None]
    assert rotations._changed == 0


def test_rotations_whose_records_never_come_have_an_end() -> None:
    rotations = Rotations()
    for number in range(2 * MOST_ROTATIONS):
        rotations.begin([str(number)], START)
        rotations.replaced([str(number)], f"new {number}", [KEY])
    assert len(rotations.since) == len(rotations._replaced) == MOST_ROTATIONS


def test_a_book_of_another_session_than_those_that_were_replaced_is_not_compared() -> None:
    rotations, book = Rotations(), book_of([("1", "1")])
    rotations.begin(["old", "other"], START)
    rotations.replaced(["other"], "new", [KEY])
    assert compared(rotations, book, "2") is None
