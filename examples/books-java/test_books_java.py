"""The classes in Java do the same as those of `bridge.consumer`, whatever they read."""

import json
import random
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

from bridge.consumer import Balance, Book, BookRecord, Continuity, Depth, Trade, decode
from tests.support.market import Market
from tests.support.schemas import schema
from tests.support.waiting import eventually
from tests.support.walkthrough import MAVEN, Walkthrough, commands

HERE = Path(__file__).parent
RUN = "java -cp 'jars/*' Books.java localhost:9092"
LINE = r"^[A-Z]+_USDT bid \d+\.\d+ ask \d+\.\d+$"

COMPILER = ["java", "-m", "jdk.compiler/com.sun.tools.javac.Main"]  # also of a JRE
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-cp", "classes:jars/*", "Replay"]

PRICES = ["1", "1.0", "10e-1", "2", "2.50", "3", "0.0000000000000000000000001"]
AMOUNTS = ["0", "0.000", "1", "1.10", "7e-24"]


def test_it_prints_the_best_prices_of_the_books_in_python(
    market: Market, walkthrough: Callable[[str], Walkthrough]
) -> None:
    readme = HERE / "README.md"
    assert commands(readme) == [MAVEN, RUN]
    assert re.search(LINE, readme.read_text(), re.MULTILINE)
    example = walkthrough(HERE.name)
    with example.running(RUN, LINE) as books:
        eventually(lambda: books.printed.count("\n") > 300, 60, "best prices")
        printed = re.findall(LINE, books.printed, re.MULTILINE)
    best = best_prices(market)
    for symbol in {line.split()[0] for line in printed}:
        right = (line for line in best if line.startswith(f"{symbol} "))
        # Each is found behind the one before it.
        assert all(line in right for line in without_repeats(printed, symbol))


def best_prices(market: Market) -> list[str]:
    """Return what the books in Python say after every record of depth."""
    books: defaultdict[str, Book] = defaultdict(Book)
    lines = []
    for value in market.read("digifinex.depth.v1"):
        record = decode("digifinex.depth.v1", json.dumps(value).encode())
        assert isinstance(record, Depth)
        book = books[record.symbol]
        if book.apply(record) and book.best_bid and book.best_ask:
            bid, ask = book.best_bid.price, book.best_ask.price
            lines.append(f"{record.symbol} bid {bid} ask {ask}")
    return lines


def without_repeats(lines: list[str], symbol: str) -> list[str]:
    return [one for one, _ in groupby(x for x in lines if x.startswith(f"{symbol} "))]


def test_its_book_is_that_in_python_after_every_record(
    walkthrough: Callable[[str], Walkthrough],
) -> None:
    """Of random sessions, of which records are late, lost, repeated and cleared."""
    chance = random.Random(17)
    lines, expected = [], []
    complete = 0
    for reads in (at_a_rotation(), *(disturbed(chance) for _ in range(300))):
        book = Book()
        lines.append("new")
        expected.append(shown(book))
        for what, record in reads:
            if what == "clear":
                book.clear()
                lines.append(what)
            else:
                text = json.dumps(record)
                one = decode(f"digifinex.{what}.v1", text.encode())
                assert isinstance(one, Depth | BookRecord)
                book.apply(one)
                lines.append(f"{what} {text}")
            complete += book.complete
            expected.append(shown(book))
    assert len(lines) / 5 < complete < len(lines) * 4 / 5
    assert replayed(walkthrough, lines) == expected


def test_its_continuity_is_that_in_python_after_every_record(
    walkthrough: Callable[[str], Walkthrough],
) -> None:
    chance = random.Random(18)
    lines, expected = [], []
    for _ in range(10):
        lines.append("new")
        expected.append(shown(Book()))
        continuity = Continuity()
        for _ in range(1000):  # for each series more sessions than are remembered
            if chance.random() < 0.01:
                continuity.resumed()
                lines.append("resumed")
                continue
            text = json.dumps(of_any_series(chance))
            record = decode(json.loads(text)["schema"], text.encode())
            assert isinstance(record, Depth | Trade | Balance)
            check = continuity.check(record)
            lines.append(f"check {text}")
            first = record.seq if check.repeated else check.missing.start
            expected.append(
                f"{str(check.repeated).lower()} {first} {len(check.missing)}"
            )
    assert any(line.startswith("true") for line in expected)
    assert any(re.fullmatch(r"false \d+ [1-9]\d*", line) for line in expected)
    assert replayed(walkthrough, lines) == expected


def replayed(walkthrough: Callable[[str], Walkthrough], lines: list[str]) -> list[str]:
    """Return what Replay.java prints for these lines."""
    folder = walkthrough(HERE.name).folder
    jars = ":".join(map(str, (folder / "jars").glob("*.jar")))
    sources = ["Books.java", "Replay.java"]
    subprocess.run(
        [*COMPILER, "-cp", jars, "-d", "classes", *sources], cwd=folder, check=True
    )
    done = subprocess.run(
        JAVA,
        cwd=folder,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def shown(book: Book) -> str:
    """Return a book as Replay.java prints it."""

    def side(levels: Mapping[Decimal, Decimal]) -> str:
        return ",".join(
            f"{plain(price)}:{plain(levels[price])}" for price in sorted(levels)
        )

    whole = str(book.complete).lower()
    return (
        f"{whole} {book.session} {book.seq}"
        f" asks {side(book.asks)} bids {side(book.bids)}"
    )


def plain(figure: Decimal) -> str:
    text = f"{figure:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def at_a_rotation() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a book, and records of depth of other sessions that came at its time."""
    (book,) = schema("book")["examples"]
    (depth,) = schema("depth")["examples"]
    old = {**depth, "received_us": book["received_us"], "session": "old", "seq": 7}
    yield "book", book
    yield "depth", {**old, "snapshot": False}
    yield "depth", {**old, "snapshot": True, "session": "new", "seq": 0}


def disturbed(chance: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield records of depth and book of one market as a consumer may read them."""
    depth: list[dict[str, Any]] = []
    books: list[dict[str, Any]] = []
    truth = Book()
    received_us = 1_000
    for session in range(chance.randint(1, 4)):
        for seq in range(chance.randint(1, 12)):
            received_us += chance.randint(0, 2)
            record = {
                "schema": "digifinex.depth.v1",
                "session": f"s{session}",
                "seq": seq,
                "received_us": received_us,
                "symbol": "BTC_USDT",
                "snapshot": seq == 0 or chance.random() < 0.1,
                "asks": levels(chance),
                "bids": levels(chance),
            }
            depth.append(record)
            one = decode("digifinex.depth.v1", json.dumps(record).encode())
            assert isinstance(one, Depth)
            truth.apply(one)
            if chance.random() < 0.4:
                books.append(
                    {
                        "schema": "digifinex.book.v1",
                        "session": f"s{session}",
                        "seq": len(books),
                        "received_us": received_us,
                        "symbol": "BTC_USDT",
                        "depth_session": f"s{session}",
                        "depth_seq": seq,
                        "asks": written(truth.asks),
                        "bids": written(truth.bids),
                        "crossed": False,
                        "truncated": chance.random() < 0.1,
                    }
                )
    depth = depth[chance.randint(0, len(depth) // 2) :]
    books = books[chance.randint(0, len(books)) :]
    lost = chance.choice([0, 0.05, 0.2])
    while depth or books:
        if chance.random() < 0.02:
            yield "clear", {}
        what, left = chance.choice(
            [("depth", depth), ("depth", depth), ("book", books)]
        )
        if left:
            record = left.pop(0)
            if chance.random() >= lost:
                yield what, record
            if chance.random() < 0.05:
                left[:0] = [record]


def levels(chance: random.Random) -> list[list[str]]:
    return [
        [chance.choice(PRICES), chance.choice(AMOUNTS)]
        for _ in range(chance.randint(0, 3))
    ]


def written(side: Mapping[Decimal, Decimal]) -> list[list[str]]:
    return [[str(price), str(side[price])] for price in sorted(side)]


def of_any_series(chance: random.Random) -> dict[str, Any]:
    """Return a record of one of a few series, with any session and seq."""
    (record,) = schema(chance.choice(["trades", "depth", "balance"]))["examples"]
    odd: dict[str, Any] = {
        "session": f"s{chance.randint(0, 20)}",
        "seq": chance.randint(0, 6),
    }
    for field in ("symbol", "currency", "account"):
        if field in record:
            odd[field] = chance.choice(["BTC_USDT", "ETH_USDT"])
    return {**record, **odd}
