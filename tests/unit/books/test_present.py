"""Records of book: a consumer that begins with any of them has the market's book at every later record."""

import json
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.books.present import MOST_LEVELS, PresentBooks
from bridge.consumer import Book, BookRecord, Depth, decode
from bridge.records import Record
from tests.support.schemas import validate
from tests.unit.consumer.test_book import SYMBOL, World, happenings, world

KEY = SYMBOL.encode()
START = 1_600_000_000_000_000  # µs
STEP = 100_000  # µs between two records
INTERVAL = 3 * STEP
PATIENCE = 5_000_000  # µs


def present(**changed: Any) -> PresentBooks:
    return PresentBooks(
        **({"wanted": None, "levels": 0, "interval_us": INTERVAL, "patience_us": PATIENCE} | changed)
    )


def depth_records(made: World) -> list[Record]:
    """Return the records of depth of a world as they were sent, one every STEP."""
    return [
        Record("depth", KEY, json.dumps(value | {"received_us": START + n * STEP}).encode(), START + n * STEP)
        for n, value in enumerate(made.values)
    ]


def change(seq: int, asks: list[list[str]], *, session: str = "s1", snapshot: bool = False) -> Record:
    value = {
        "schema": "digifinex.depth.v1",
        "session": session,
        "seq": seq,
        "received_us": START + seq * STEP,
    }
    value |= {"symbol": SYMBOL, "snapshot": snapshot, "asks": asks, "bids": [["0.5", "1"]]}
    return Record("depth", KEY, json.dumps(value).encode(), START + seq * STEP)


def sent(books: PresentBooks, records: list[Record], now_us: int) -> list[Record]:
    """Let a transaction with these records of depth be committed; return its records of book."""
    books.take(records)
    due = list(books.due(now_us))
    books.made(due, now_us)
    return due


@settings(max_examples=150)
@given(st.integers(0, 1000), happenings, st.data())
def test_a_consumer_joins_at_any_moment_and_has_the_markets_book_from_there_on(
    seed: int, happened: list[str], data: st.DataObject
) -> None:
    """Transactions are of any size, and some are repeated. Either topic may be read ahead of the other."""
    made = world(seed, happened)
    truth = {(one.session, one.seq): sides for one, sides in made.made}
    records, books = depth_records(made), present(interval_us=data.draw(st.sampled_from([0, INTERVAL])))
    on_topic: list[Record] = []
    done = 0
    while done < len(records):
        size = data.draw(st.integers(1, len(records) - done))
        transaction = records[done : done + size]
        if data.draw(st.booleans()):  # it was aborted
            books.take(transaction)
            list(books.due(transaction[-1].time_us))
            continue
        on_topic += sent(books, transaction, transaction[-1].time_us)
        done += size
    typed = [decode("x.book.v1", record.value) for record in on_topic]
    numbers = [(one.session, one.seq) for one in typed if isinstance(one, BookRecord)]
    assert len({*numbers}) == len(numbers) == len(typed)
    begin = data.draw(st.integers(0, len(records)))
    depth = [decode("x.depth.v1", record.value) for record in records[begin:]]
    order = data.draw(st.permutations(["book"] * len(typed) + ["depth"] * len(depth)))
    book, read = Book(), False
    for topic in order:
        record = (typed if topic == "book" else depth).pop(0)
        assert isinstance(record, Depth | BookRecord)
        before = book.session, book.seq
        if book.apply(record):
            assert (book.asks, book.bids) == truth[book.session, book.seq]
            if isinstance(record, Depth) and record.seq > before[1] and record.session == before[0]:
                assert (book.session, book.seq) == (record.session, record.seq)
        read = read or isinstance(record, BookRecord)
    if read and on_topic:
        last = json.loads(on_topic[-1].value)
        covered = [
            n
            for n, one in enumerate(made.made)
            if (one[0].session, one[0].seq) == (last["depth_session"], last["depth_seq"])
        ]
        if covered[0] + 1 >= begin:
            assert book.complete
            assert (book.asks, book.bids) == made.made[-1][1] if begin < len(records) else True


def test_a_book_has_the_schema_and_names_its_last_record_of_depth() -> None:
    (record,) = sent(present(), [change(0, [["2", "1"]], snapshot=True), change(1, [["1.0", "3"]])], START)
    value = validate(record)
    assert value["asks"] == [["1.0", "3"], ["2", "1"]]
    assert (value["depth_session"], value["depth_seq"], value["session"], value["seq"]) == ("s1", 1, "s1", 0)
    assert value["received_us"] == START + STEP
    assert (value["crossed"], value["truncated"]) == (False, False)


def test_books_follow_each_other_no_faster_than_the_interval_and_none_without_a_change() -> None:
    books, made = present(), []
    for seq in range(10):
        now = START + seq * STEP
        made += [now for _ in sent(books, [change(seq, [["1", str(seq + 1)]], snapshot=not seq)], now)]
    assert made == [START + seq * STEP for seq in (0, 3, 6, 9)]
    assert not sent(books, [], START + 100 * STEP)


def test_a_change_that_was_not_due_is_made_up_for_without_another_change() -> None:
    books = present()
    sent(books, [change(0, [["1", "1"]], snapshot=True)], START)
    assert not sent(books, [change(1, [["1", "2"]])], START + STEP)
    (record,) = sent(books, [], START + INTERVAL)
    assert (json.loads(record.value)["depth_seq"], json.loads(record.value)["seq"]) == (1, 1)


def test_a_clock_that_is_set_back_does_not_hold_books_up() -> None:
    books = present()
    sent(books, [change(0, [["1", "1"]], snapshot=True)], START)
    assert sent(books, [change(1, [["1", "2"]])], START - 10**9)


def test_a_repeated_record_of_book_has_the_same_seq() -> None:
    books = present()
    books.take([change(0, [["1", "1"]], snapshot=True)])
    first, second = list(books.due(START)), list(books.due(START))
    assert first == second
    books.made(second, START)
    (third,) = sent(books, [change(1, [["1", "2"]])], START + INTERVAL)
    assert json.loads(third.value)["seq"] == 1


def test_what_is_taken_before_a_record_of_book_is_acknowledged_is_not_forgotten() -> None:
    """Without transactions, records of depth are acknowledged meanwhile, also of another session."""
    books = present()
    books.take([change(0, [["1", "1"]], snapshot=True)])
    due = list(books.due(START))
    books.take([change(1, [["1", "2"]])])
    books.made(due, START)
    due = list(books.due(START + INTERVAL))
    assert [json.loads(record.value)["seq"] for record in due] == [1]
    books.take([change(0, [["1", "3"]], session="s2", snapshot=True)])
    books.made(due, START + INTERVAL)
    (record,) = books.due(START + 2 * INTERVAL)
    value = json.loads(record.value)
    assert (value["session"], value["seq"], value["asks"]) == ("s2", 0, [["1", "3"]])


def test_the_books_of_a_session_count_from_0() -> None:
    books, seqs = present(), []
    for number, session in enumerate(("s1", "s2", "s2", "s3")):
        snapshot = change(number, [["1", "1"]], session=session, snapshot=True)
        seqs += [json.loads(one.value)["seq"] for one in sent(books, [snapshot], START + number * INTERVAL)]
    assert seqs == [0, 0, 1, 0]


def test_a_session_that_comes_again_goes_on_counting() -> None:
    """A transaction with a snapshot of one and the first of the next was aborted and is repeated in parts."""
    books = present()
    sent(books, [change(0, [["1", "1"]], snapshot=True)], START)
    first, second = (
        change(1, [["2", "1"]], snapshot=True),
        change(0, [["3", "1"]], session="s2", snapshot=True),
    )
    books.take([first, second])
    made = [sent(books, [one], START + n * INTERVAL)[0] for n, one in enumerate((first, second), start=1)]
    values = [json.loads(one.value) for one in made]
    assert [(one["session"], one["seq"]) for one in values] == [("s1", 1), ("s2", 0)]


def test_a_tombstone_is_not_counted() -> None:
    books = present()
    books.take([change(0, [["1", "1"]], snapshot=True)])
    books.made([Record("book", KEY, b"", START), *books.due(START)], START)
    (record,) = sent(books, [change(1, [["1", "2"]])], START + INTERVAL)
    assert json.loads(record.value)["seq"] == 1


def test_a_book_that_kafka_does_not_take_has_no_number_and_is_not_due_again() -> None:
    books = present()
    sent(books, [change(0, [["1", "1"]], snapshot=True)], START)
    books.take([change(1, [["1", "2"]])])
    books.refused(list(books.due(START + INTERVAL)), START + INTERVAL)
    assert not list(books.due(START + 2 * INTERVAL))
    books.take([change(2, [["1", "3"]])])
    (record,) = sent(books, [], START + 2 * INTERVAL)
    assert (json.loads(record.value)["depth_seq"], json.loads(record.value)["seq"]) == (2, 1)


def test_no_book_is_ahead_of_records_that_are_sent_again() -> None:
    books, records = present(), [change(0, [["1", "1"]], snapshot=True), change(1, [["1", "2"]])]
    books.take(records)
    books.take(records[:1])
    assert not list(books.due(START))
    books.take(records[1:])
    assert [json.loads(record.value)["depth_seq"] for record in books.due(START)] == [1]


def test_after_a_missing_record_the_next_book_follows_a_snapshot() -> None:
    books = present()
    sent(books, [change(0, [["1", "1"]], snapshot=True)], START)
    assert not books.missing
    assert not sent(books, [change(2, [["1", "2"]])], START + INTERVAL)
    assert books.missing == {KEY: "s1"}, "its snapshot has to be asked for"
    (record,) = sent(books, [change(3, [["7", "1"]], snapshot=True)], START + 2 * INTERVAL)
    assert json.loads(record.value)["asks"] == [["7", "1"]]
    assert not books.missing


def test_a_session_whose_first_snapshot_is_missing_is_named_until_it_comes() -> None:
    """Kafka has rejected it, say, or the spool was damaged there."""
    books = present()
    books.take([change(0, [["1", "1"]], snapshot=True), change(1, [["1", "2"]], session="s2")])
    assert books.missing == {KEY: "s2"}
    books.forget(KEY)
    assert not books.missing


def test_a_book_with_too_many_levels_is_given_up_until_the_next_snapshot() -> None:
    """Whatever the exchange adds, and never removes, takes no more memory than that."""
    books = present()
    half = MOST_LEVELS // 2
    prices = [[str(price), "1"] for price in range(1, 2 * half + 2)]
    assert not books.take([change(0, prices[:half], snapshot=True), change(1, prices[half:-1])])
    assert books.take([change(2, prices[-1:])]) == [KEY]
    assert not books._kept[KEY].book.asks
    assert not sent(books, [change(3, prices[:1])], START)
    assert not books.missing, "a snapshot of so many levels would not help"
    (record,) = sent(books, [change(4, prices[:1], snapshot=True)], START)
    assert json.loads(record.value)["asks"] == prices[:1]
    assert books.take([change(5, prices, snapshot=True)]) == [KEY]
    assert not sent(books, [], START + INTERVAL)


def test_symbols_that_are_not_wanted_have_no_book() -> None:
    books = present(wanted=frozenset({b"OTHER_USDT"}))
    assert not sent(books, [change(0, [["1", "1"]], snapshot=True)], START)
    assert not books._kept


def test_a_cut_book_says_so_and_is_ignored_by_the_kits_book() -> None:
    (record,) = sent(present(levels=1), [change(0, [["2", "1"], ["1", "1"]], snapshot=True)], START)
    typed = decode("x.book.v1", record.value)
    assert isinstance(typed, BookRecord)
    assert typed.truncated
    assert [level.price for level in typed.asks] == [Decimal(1)]
    book = Book()
    assert not book.apply(typed)
    assert not book.asks


def test_books_that_their_topic_has_lost_are_made_again() -> None:
    books = present()
    sent(books, [change(0, [["1", "1"]], snapshot=True)], START)
    assert not list(books.due(START + INTERVAL))
    books.repeat()
    (record,) = sent(books, [], START + INTERVAL)
    assert (json.loads(record.value)["depth_seq"], json.loads(record.value)["seq"]) == (0, 1)


def test_a_forgotten_symbol_makes_no_more_books() -> None:
    books = present()
    books.take([change(0, [["1", "1"]], snapshot=True)])
    books.forget(KEY)
    assert not list(books.due(START))
