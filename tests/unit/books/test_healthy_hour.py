"""Hours of a simulated market, with rotations between nodes that lag: no sound book is ever reported."""

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

from bridge.books.book import Book, price_and_amount
from bridge.books.comparing import Difference, differences
from bridge.books.doubts import Finding
from bridge.books.present import PresentBooks
from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.exchange.frames import Push
from bridge.exchange.handover import Handover
from bridge.simulator.market import Exchange, Update
from bridge.websocket.rotation import NODE_LAG

SECOND = 1_000_000  # µs
START = 1_600_000_000 * SECOND
STEP = SECOND // 10  # between two events of the market
PATIENCE = 5 * SECOND
ROTATION = 60 * SECOND
LAG = round(NODE_LAG * SECOND)
SYMBOLS = ["A_USDT", "B_USDT", "C_USDT"]


@dataclass
class Node:
    """A server of the exchange, which knows what has happened a while ago."""

    lag: int = 0  # µs
    books: dict[str, Book] = field(default_factory=dict)
    coming: deque[tuple[int, Update]] = field(default_factory=deque)

    def reach(self, now: int) -> Iterator[Update]:
        """Apply what has happened, as far as it knows by now, and return what it pushes."""
        while self.coming and self.coming[0][0] + self.lag <= now:
            _, update = self.coming.popleft()
            _, change, symbol = update.params
            self.books[symbol].change(change["asks"], change["bids"])
            yield update

    def snapshot(self, symbol: str) -> Update:
        book = self.books[symbol]
        sides = [
            [list(price_and_amount(level)) for level in side.values()] for side in (book.asks, book.bids)
        ]
        return Update("depth", symbol, [True, dict(zip(("asks", "bids"), sides, strict=True)), symbol])


class World:
    """A market, two nodes, the bridge's session on one of them, and its books."""

    def __init__(self, seed: int, damaged: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.market = Exchange(SYMBOLS, seed)
        self.damaged = damaged  # share of the changes that the nodes do not push
        self.harmed: set[str] = set()  # symbols of these
        self.to_find: set[str] = set()  # those whose damage lasted from before a rotation until after it
        self.nodes = [Node(), Node()]
        for node in self.nodes:
            for symbol in SYMBOLS:
                _, whole, _ = self.market.markets[symbol].snapshot().params
                node.books[symbol] = Book()
                node.books[symbol].replace(whole["asks"], whole["bids"])
        self.present = PresentBooks(wanted=None, levels=0, interval_us=SECOND, patience_us=PATIENCE)
        self.findings: list[Finding] = []
        self.normalise = CHANNELS["depth"].normaliser({}).push
        self.sessions = 1
        self.source = Source("s1")
        self.used = 0  # the number of the node
        self.noted: dict[str, int] = {}  # of the session in use: up to when its pushes are in the books
        self.now = START
        for symbol in SYMBOLS:
            self.take(self.nodes[0].snapshot(symbol), self.source, self.now)

    def take(self, update: Update, source: Source, received_us: int) -> None:
        params = msgspec.json.encode(update.params)
        self.present.take(self.normalise(params, source, received_us).records)

    def step(self) -> tuple[list[Update], list[Update]]:
        """Let a moment pass; return what the session's node pushes, and the other one."""
        self.now += STEP
        for update in self.market.step(self.now / SECOND):
            if update.channel == "depth":
                for node in self.nodes:
                    node.coming.append((self.now, update))
        pushed = [list(node.reach(self.now)) for node in self.nodes]
        for node, of_node in zip(self.nodes, pushed, strict=True):
            if self.rng.random() < 0.01:
                of_node.append(node.snapshot(self.rng.choice(SYMBOLS)))
        if self.now % SECOND == 0:
            self.look()
        sent = []
        for update in pushed[self.used]:
            if not update.params[0] and self.rng.random() < self.damaged:
                self.harmed.add(update.symbol)
            else:
                sent.append(update)
        return sent, pushed[1 - self.used]

    def look(self) -> None:
        due = list(self.present.due(self.now))
        self.present.made(due, self.now)
        for symbol in SYMBOLS:
            ticker = self.market.markets[symbol].ticker(self.now / SECOND)
            best = Decimal(ticker["best_ask"]), Decimal(ticker["best_bid"])
            self.present.note_ticker(symbol.encode(), best, self.now, self.noted)
        self.present.doubts.look(self.noted)
        self.findings += self.present.doubts.take_findings()

    def run(self, until: int) -> None:
        while self.now < until:
            self.noted = {self.source.session: self.now}
            for update in self.step()[0]:
                self.take(update, self.source, self.now)

    def lose(self) -> None:
        """Let the session end, and a new one begin long after it; other sessions bring tickers meanwhile."""
        self.noted = {}
        until = self.now + ROTATION
        while self.now < until:
            self.step()
        self.sessions += 1
        self.source = Source(f"s{self.sessions}")
        for symbol in SYMBOLS:
            self.take(self.nodes[self.used].snapshot(symbol), self.source, self.now)

    def damaged_levels(self) -> dict[str, set[Difference]]:
        """Return how the books that are kept differ from those of the session's node, by symbol."""
        books = self.nodes[self.used].books
        return {
            symbol: set(differences(self.present._kept[symbol.encode()].book, books[symbol]))
            for symbol in SYMBOLS
        }

    def rotate(self) -> None:
        """Do what `Sessions.rotate` and `Rotation` do, with a session on the other node.

        Levels that are wrong all the time have to be found.
        """
        before = self.damaged_levels()
        node = self.nodes[1 - self.used]
        node.lag = self.rng.randint(0, LAG)
        list(node.reach(self.now))
        old, self.sessions = self.source, self.sessions + 1
        new = Source(f"s{self.sessions}")
        self.present.begin_rotation([old.session], self.now)
        self.run(self.now + LAG)
        live = self.now + self.rng.randint(0, 3) * SECOND // 10
        handover: Handover[int] = Handover(CHANNELS)
        for symbol in SYMBOLS:
            handover.hold(push(node.snapshot(symbol)), self.now)
        self.until(live + LAG, handover, old)  # up to the old session's pong
        after = self.damaged_levels()
        self.until(live + 2 * LAG, handover, None)
        taken_us = self.now
        held = handover.release()
        first = {symbol for (_, symbol), us in handover.snapshots.items() if symbol and us <= live + LAG // 2}
        self.present.replaced([old.session], new.session, (symbol.encode() for symbol in first))
        self.source, self.used = new, 1 - self.used
        for message, _ in held:
            assert isinstance(message, Push)
            self.present.take(self.normalise(message.params, new, taken_us).records)
        self.findings += self.present.doubts.take_findings()
        different = {
            one.key.decode()
            for one in self.findings
            if (one.result, one.session) == ("different", new.session)
        }
        self.to_find |= (due := {symbol for symbol in first if before[symbol] & after[symbol]})
        assert due <= different

    def until(self, moment: int, handover: Handover[int], old: Source | None) -> None:
        while self.now < moment:
            if old:
                self.noted = {old.session: self.now}
            of_old, of_new = self.step()
            for update in of_new:
                handover.hold(push(update), self.now)
            for update in of_old if old else ():
                assert old
                self.take(update, old, self.now)


def push(update: Update) -> Push:
    return Push("depth", msgspec.json.encode(update.params))


def hour(world: World, minutes: int) -> Counter[str]:
    for minute in range(minutes):
        world.run(world.now + ROTATION)
        world.rotate()
        if minute % 10 == 5:
            world.run(world.now + ROTATION)
            world.lose()
    world.run(world.now + ROTATION)
    return Counter(finding.result for finding in world.findings)


def test_no_sound_book_is_reported_in_an_hour_of_rotations_between_nodes_that_lag() -> None:
    """Some sessions are lost instead, and their books stand still while the tickers go on."""
    found = hour(World(1), 60)
    assert found.keys() == {"equal"}
    assert found["equal"] > 60 * len(SYMBOLS)


def test_damaged_books_are_reported_and_no_others() -> None:
    world = World(2, damaged=0.02)
    found = hour(world, 10)
    assert found["different"] > 5
    wrong = {finding.key.decode() for finding in world.findings if finding.result != "equal"}
    assert wrong
    assert wrong <= world.harmed
    assert world.to_find == {*SYMBOLS}, "each was damaged all through a rotation, and reported"
