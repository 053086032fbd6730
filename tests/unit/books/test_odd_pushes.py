"""Pushes of depth that an exchange can send and seldom does: the book and the kit's book take each alike."""

import json
from typing import Any

import pytest

from bridge.books.doubts import Finding
from bridge.books.present import PresentBooks
from bridge.channels import CHANNELS
from bridge.config import Config
from bridge.consumer import Book, BookRecord, Depth, decode
from bridge.records import Record
from bridge.shard import present_books
from tests.support.pushes import push, source

START = 1_600_000_000_000_000  # µs
SECOND = 1_000_000  # µs
WHOLE = [True, {"asks": [["2", "1"], ["3", "1"]], "bids": [["1", "1"]]}]


class Scene:
    """One session's pushes, as records of depth and of book."""

    def __init__(self, books: PresentBooks | None = None) -> None:
        self.books = books or PresentBooks(wanted=None, levels=0, interval_us=0, patience_us=SECOND)
        self.kit = Book()  # made of depth alone
        self.now = START
        self._source = source("s")
        self._normalise = CHANNELS["depth"].normaliser({}).push

    def take(self, *pushes: list[Any]) -> BookRecord | None:
        """Return the record of book after these pushes; None: there is none."""
        for params in pushes:
            self.now += SECOND
            (record,) = self._normalise(
                push("depth", [*params, "ETH_USDT"]).params, self._source, self.now
            ).records
            self.books.take([record])
            depth = decode("x.depth.v1", record.value)
            assert isinstance(depth, Depth)
            self.kit.apply(depth)
        due = list(self.books.due(self.now))
        self.books.made(due, self.now)
        found = [decode("x.book.v1", record.value) for record in due]
        assert len(found) <= 1
        return found[0] if found and isinstance(found[0], BookRecord) else None

    def findings(self) -> list[Finding]:
        return self.books.doubts.take_findings()


@pytest.mark.parametrize(
    ("pushes", "asks", "bids"),
    [
        pytest.param(
            [[True, {"asks": [["2", "0"], ["3", "1"]]}]], ["3"], [], id="a level of zero in a snapshot"
        ),
        pytest.param(
            [[True, {"asks": [["2", "0"], ["2.0", "1"]], "bids": [["1", "1"], ["1.00", "0"]]}]],
            ["2.0"],
            [],
            id="a price twice in a snapshot",
        ),
        pytest.param([[True, {"asks": [], "bids": []}]], [], [], id="no levels"),
        pytest.param([[True, {}]], [], [], id="no sides"),
        pytest.param([[True, {"asks": None, "bids": None}]], [], [], id="sides that are null"),
        pytest.param([[True, {}], [False, {"asks": [["2", "1"]]}]], ["2"], [], id="a first level"),
        pytest.param([WHOLE, [True, {"bids": [["1", "1"]]}]], [], ["1"], id="a snapshot without a side"),
        pytest.param([WHOLE, [False, {}]], ["2", "3"], ["1"], id="a change of nothing"),
        pytest.param(
            [WHOLE, [False, {"asks": [["2", "0"], ["2", "5"], ["2.0", "0"]]}]],
            ["3"],
            ["1"],
            id="a price thrice",
        ),
        pytest.param(
            [WHOLE, [False, {"asks": [["9", "0"]]}]], ["2", "3"], ["1"], id="an absent level removed"
        ),
        pytest.param(
            [WHOLE, [False, {"asks": [["3", "2"], ["2.5", "1"], ["4", "1"]]}]],
            ["2", "2.5", "3", "4"],
            ["1"],
            id="no order",
        ),
        pytest.param([WHOLE, [False, {"bids": [["1E0", "0"]]}]], ["2", "3"], [], id="an exponent"),
        pytest.param([WHOLE, [False, {"bids": [[1.00, 0]]}]], ["2", "3"], [], id="numbers"),
        pytest.param(
            [[True, {"asks": [["0", "1"], ["-2", "1"]], "bids": [["-3", "1"]]}]],
            ["-2", "0"],
            ["-3"],
            id="prices of zero and less",
        ),
        pytest.param(
            [[False, {"asks": [["7", "1"]]}], WHOLE], ["2", "3"], ["1"], id="a change before any snapshot"
        ),
        pytest.param([WHOLE, WHOLE], ["2", "3"], ["1"], id="a snapshot twice"),
    ],
)
def test_a_book_is_what_the_last_snapshot_and_the_changes_since_say(
    pushes: list[list[Any]], asks: list[str], bids: list[str]
) -> None:
    scene, joined = Scene(), Book()
    record = scene.take(*pushes)
    assert record is not None
    joined.apply(record)
    assert ([f"{one.price}" for one in record.asks], [f"{one.price}" for one in record.bids]) == (asks, bids)
    assert scene.kit.complete
    assert (joined.asks, joined.bids) == (scene.kit.asks, scene.kit.bids)


def test_changes_before_any_snapshot_are_no_book() -> None:
    scene = Scene()
    assert scene.take([False, {"asks": [["7", "1"]]}], [False, {"bids": [["6", "1"]]}]) is None
    assert not scene.kit.complete
    assert scene.books.missing == {b"ETH_USDT": "s"}


def test_other_spellings_of_the_same_levels_are_no_difference() -> None:
    scene = Scene()
    scene.take(WHOLE, [True, {"asks": [["3E0", "1.0"], ["2.00", "01"]], "bids": [[1, "1.00"]]}])
    assert [one.result for one in scene.findings()] == ["equal"]


def test_books_are_kept_as_they_are_configured() -> None:
    config = Config.model_validate(
        {
            "channels": {"depth": ["ETH_USDT", "BTC_USDT"], "book": ["ETH_USDT"]},
            "book": {"levels": 1, "interval": 10.0, "patience": 3.0},
        }
    )
    scene = Scene(present_books(config))
    record = scene.take(WHOLE)
    assert record is not None
    assert (len(record.asks), len(record.bids), record.truncated) == (1, 1, True)
    assert scene.take([False, {"bids": [["2", "1"]]}]) is None, "not due yet"
    scene.now += 9 * SECOND
    record = scene.take([False, {}])
    assert record is not None
    assert record.crossed
    for seconds, suspected in ((3, False), (4, True)):
        scene.books.doubts.look({"s": scene.now + seconds * SECOND})
        assert bool(list(scene.books.doubts.suspects())) is suspected
    value = json.dumps({"session": "s", "seq": 0, "received_us": 1, "snapshot": True, "asks": [], "bids": []})
    scene.books.take([Record("depth", b"BTC_USDT", value.encode(), 1)])
    assert not scene.books.keeps(b"BTC_USDT")
