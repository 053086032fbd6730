"""Runs the demo and shows it: a live table in a terminal, plain lines elsewhere, a comparison at the end."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from bridge.channels import CHANNELS, SubscribedBy
from bridge.config import Config, LogConfig
from bridge.demo.books import WIDTH as BOOK_WIDTH
from bridge.demo.books import ladder
from bridge.demo.broker import PARTITIONS, embedded_broker, make_topics
from bridge.demo.reader import Reader
from bridge.kafka.topics import topic_name, topic_names
from bridge.records import BOOK, PRIVATE_STATE
from bridge.service import Bridge, Undelivered
from bridge.simulator import Simulator
from bridge.simulator.protocol import PRIVATE, PUBLIC
from bridge.simulator.truth import Truth
from bridge.stopping import STOP
from bridge.watch import logs

_REFRESH = 0.25  # seconds between two updates of the table
_LINE = 2.0  # seconds between two lines when the output is not a terminal
_PATIENCE = 60.0  # seconds within which the bridge has to be ready
_SETTLE = 15.0  # seconds within which everything sent has to be on Kafka
_WITH_BOOK = 120  # columns from which on a book is shown beside the table
_DEPTH = "depth"
_API_KEY, _SECRET = "demo-key", "demo-secret"
_CURRENCIES = ("BTC", "ETH", "USDT")

# The channels that the simulated exchange pushes.
_SHOWN = [channel for channel in CHANNELS.values() if channel.name in (*PUBLIC, *PRIVATE)]


async def run(seconds: float | None = None, symbols: int = 6, rate: float = 200.0) -> int:
    """Show the bridge at work for a number of seconds, or until Ctrl-C; return the exit status.

    It is 1 if at the end Kafka holds a different number of records than the exchange sent, or if a book that
    was made of them is not the exchange's. Delivery is at-least-once here, since the embedded broker does not
    support transactions.
    """
    logs.configure(LogConfig.model_validate({"level": "error"}))
    stop = asyncio.Event()
    with STOP.calls(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set)):
        return await _run(stop, seconds, symbols, rate)


async def _run(stop: asyncio.Event, seconds: float | None, symbols: int, rate: float) -> int:
    console = Console()
    async with Simulator(symbols=symbols, rate=rate, accounts={_API_KEY: _SECRET}) as exchange:
        with embedded_broker() as bootstrap:
            config = _config(exchange.url, exchange.symbols, bootstrap)
            shown = [*(channel.name for channel in _SHOWN), BOOK]
            names = topic_names(config.kafka, shown)
            make_topics(bootstrap, [*names.values(), topic_name(config.kafka, PRIVATE_STATE)])
            topics = {channel: names[channel] for channel in shown}
            bridge = Bridge(config)
            with Reader(bootstrap, topics, PARTITIONS) as reader:
                serving = asyncio.create_task(bridge.run())
                print(_welcome(exchange.url, bootstrap, topics), flush=True)
                if not await _ready(bridge, serving, stop):
                    console.print(f"not ready after {_PATIENCE:g} s: {bridge.readiness().missing}")
                    bridge.stop.set()
                    await serving
                    return 1
                figures = _Figures(reader, exchange.truth.counts, topics, exchange.symbols[0])
                await _show(console, figures, stop, seconds, serving)
                await exchange.quiesce()
                ends = await _settled(exchange.truth, exchange.symbols, reader)
                bridge.stop.set()
                await serving
    console.print(_comparison(ends, topics))
    return 0 if ends.equal and not bridge.failed else 1


def _config(url: str, symbols: list[str], bootstrap: str) -> Config:
    names = {
        SubscribedBy.MARKET: symbols,
        SubscribedBy.CURRENCY: _CURRENCIES,
        SubscribedBy.NOTHING: True,
    }
    return Config.model_validate(
        {
            "exchange": {"url": url},
            "channels": {
                **{one.name: names[one.subscribed_by] for one in _SHOWN if not one.private},
                BOOK: symbols,
            },
            "accounts": [
                {
                    "name": "demo",
                    "api_key": _API_KEY,
                    "secret": _SECRET,
                    **{one.name: names[one.subscribed_by] for one in _SHOWN if one.private},
                }
            ],
            "kafka": {
                "bootstrap_servers": bootstrap,
                "delivery": "at-least-once",
                "partitions": PARTITIONS,
                "shards": PARTITIONS,
            },
            "spool": {"max_bytes": 0},
        }
    )


class _Figures:
    """What is shown: the counts of both sides, rates over at least a second, and the book of `symbol`."""

    def __init__(
        self, reader: Reader, sent: Callable[[], dict[str, int]], topics: Mapping[str, str], symbol: str
    ) -> None:
        self.reader = reader
        self.sent = sent
        self.topics = topics
        self.symbol = symbol
        self._since = time.monotonic()  # when the current interval of the rates began
        self._before = dict(reader.read)  # records read of each channel until then
        self._rates = dict.fromkeys(topics, 0.0)  # records per second of each channel in the last interval

    def rates(self) -> dict[str, float]:
        """Return the records per second of each channel, updated at most once a second."""
        now = time.monotonic()
        if now - self._since >= 1:
            for channel, read in self.reader.read.items():
                self._rates[channel] = (read - self._before[channel]) / (now - self._since)
            self._since, self._before = now, dict(self.reader.read)
        return self._rates


async def _show(
    console: Console,
    figures: _Figures,
    stop: asyncio.Event,
    seconds: float | None,
    serving: asyncio.Task[Undelivered],
) -> None:
    """Show the figures until `stop` is set, the time is over, or the bridge ends."""
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    if live:
        live.start()
    try:
        while not stop.is_set() and not serving.done() and (left := end - time.monotonic()) > 0:
            if live:
                live.update(_screen(figures, console.width), refresh=True)
            else:
                print(_line(figures), flush=True)
            await _stopped(stop, min(left, _REFRESH if live else _LINE))
    finally:
        if live:
            live.stop()
    if serving.done():
        serving.result()


async def _ready(bridge: Bridge, serving: asyncio.Task[Undelivered], stop: asyncio.Event) -> bool:
    """Wait until the bridge is ready or asked to stop; return False if that takes too long."""
    deadline = time.monotonic() + _PATIENCE
    while not bridge.readiness().ready and not serving.done() and not await _stopped(stop, _REFRESH):
        if time.monotonic() > deadline:
            return False
    return True


async def _stopped(stop: asyncio.Event, patience: float) -> bool:
    try:
        async with asyncio.timeout(patience):
            return await stop.wait()
    except TimeoutError:
        return False


class _Ends(NamedTuple):
    """What the exchange has sent and what is on Kafka, at the end."""

    sent: Mapping[str, int]  # items, by channel
    held: Mapping[str, int]  # records, by channel
    books: int  # markets whose books were compared: those with a subscription
    different: list[str]  # markets whose book on the topics is not the exchange's

    @property
    def equal(self) -> bool:
        return self.sent == self.held and not self.different


async def _settled(truth: Truth, symbols: Sequence[str], reader: Reader) -> _Ends:
    """Return how both sides compare as soon as they are equal, or else after `_SETTLE` seconds."""
    deadline = time.monotonic() + _SETTLE
    books = {symbol: truth.book(symbol) for symbol in symbols if truth.items(_DEPTH, symbol)}
    while True:
        sent, ends = truth.counts(), await asyncio.to_thread(reader.held)
        held = {channel: ends[channel] for channel in sent}
        found = _Ends(sent, held, len(books), reader.books.different(books))
        if found.equal or time.monotonic() > deadline:
            return found
        await asyncio.sleep(_REFRESH)


def _welcome(url: str, bootstrap: str, topics: Mapping[str, str]) -> str:
    return f"""\
exchange  {url}  (simulated)
Kafka     {bootstrap}  (embedded; no transactions, so delivery is at-least-once here)

Read the topics from another terminal, with kcat or any other Kafka client:
  kcat -b {bootstrap} -C -t {topics["trades"]} -f '%k %s\\n'
  kcat -b {bootstrap} -C -t {topics["depth"]} -o end -f '%T %k %s\\n'
"""


def _screen(figures: _Figures, width: int) -> RenderableType:
    """Return what a terminal of so many columns shows: the table, and a book beside it if there is room."""
    if width < _WITH_BOOK:
        return _table(figures)
    screen = Table.grid(expand=True)
    screen.add_column(ratio=1)
    screen.add_column(width=BOOK_WIDTH)
    # As high as the table, which has a line for each topic and one for its head.
    levels = len(figures.topics) // 2
    screen.add_row(_table(figures), ladder(figures.reader.books, figures.symbol, levels))
    return screen


def _table(figures: _Figures) -> RenderableType:
    reader, sent, rates = figures.reader, figures.sent(), figures.rates()
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("topic", style="cyan", no_wrap=True)
    for name in ("sent", "on Kafka", "records/s", "lag ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last record", no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
    for channel, topic in figures.topics.items():
        lag = reader.lag_ms.get(channel)
        table.add_row(
            topic,
            f"{sent[channel]:,}" if channel in sent else "",  # books are made here, not sent
            f"{reader.read[channel]:,}",
            f"{rates[channel]:,.0f}",
            f"{lag:,.0f}" if lag is not None else "",
            _without_head(reader.last.get(channel, b"").decode()),
        )
    return Panel(Group(table), title="DigiFinex to Kafka", subtitle="Ctrl-C to stop and compare")


def _without_head(record: str) -> str:
    """Return a record from its symbol or account on: the fields before are much the same in all."""
    places = [place for name in ('"account"', '"symbol"') if (place := record.find(name)) > 0]
    return "{" + record[min(places) :] if places else record


def _line(figures: _Figures) -> str:
    reader, rates = figures.reader, figures.rates()
    total, rate = sum(reader.read.values()), sum(rates.values())
    lag = max(reader.lag_ms.values(), default=0.0)
    channels = "  ".join(f"{channel} {read}" for channel, read in reader.read.items())
    return f"{total:>7} records on Kafka  {rate:>6.0f}/s  lag {lag:.0f} ms  |  {channels}"


def _comparison(ends: _Ends, topics: Mapping[str, str]) -> Table:
    sent, held = ends.sent, ends.held
    table = Table(
        title="Sent, and held by Kafka (by end offsets)",
        caption=f"{_verdict(sent == held)}\n{_books(ends)}",
        caption_style="bold green" if ends.equal else "bold red",
    )
    table.add_column("topic")
    table.add_column("sent", justify="right")
    table.add_column("on Kafka", justify="right")
    for channel in sent:
        same = sent[channel] == held[channel]
        style = "" if same else "bold red"
        table.add_row(topics[channel], f"{sent[channel]:,}", f"{held[channel]:,}", style=style)
    return table


def _books(ends: _Ends) -> str:
    if ends.different:
        return f"order books of {', '.join(ends.different)}: DIFFERENT"
    return f"order books of {ends.books} markets: equal"


def _verdict(equal: bool) -> str:
    return "equal" if equal else "DIFFERENT"
