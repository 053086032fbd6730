"""Runs the demo and shows it: a live table in a terminal, plain lines elsewhere, a comparison at the end."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from bridge.channels import CHANNELS, SubscribedBy
from bridge.config import Config, LogConfig
from bridge.demo.broker import PARTITIONS, embedded_broker, make_topics
from bridge.demo.reader import Reader
from bridge.kafka.topics import topic_name, topic_names
from bridge.records import PRIVATE_STATE
from bridge.service import Bridge, Undelivered
from bridge.simulator import Simulator
from bridge.simulator.protocol import PRIVATE, PUBLIC
from bridge.stopping import STOP
from bridge.watch import logs

_REFRESH = 0.25  # seconds between two updates of the table
_LINE = 2.0  # seconds between two lines when the output is not a terminal
_PATIENCE = 60.0  # seconds within which the bridge has to be ready
_SETTLE = 15.0  # seconds within which everything sent has to be on Kafka
_API_KEY, _SECRET = "demo-key", "demo-secret"
_CURRENCIES = ("BTC", "ETH", "USDT")

# The channels that the simulated exchange pushes.
_SHOWN = [channel for channel in CHANNELS.values() if channel.name in (*PUBLIC, *PRIVATE)]


async def run(seconds: float | None = None, symbols: int = 6, rate: float = 200.0) -> int:
    """Show the bridge at work for a number of seconds, or until Ctrl-C; return the exit status.

    It is 1 if at the end Kafka holds a different number of records than the exchange sent. Delivery is
    at-least-once here, since the embedded broker does not support transactions.
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
            names = topic_names(config.kafka, [channel.name for channel in _SHOWN])
            make_topics(bootstrap, [*names.values(), topic_name(config.kafka, PRIVATE_STATE)])
            topics = {channel.name: names[channel.name] for channel in _SHOWN}
            bridge = Bridge(config)
            with Reader(bootstrap, topics, PARTITIONS) as reader:
                serving = asyncio.create_task(bridge.run())
                print(_welcome(exchange.url, bootstrap, topics), flush=True)
                if not await _ready(bridge, serving, stop):
                    console.print(f"not ready after {_PATIENCE:g} s: {bridge.readiness().missing}")
                    bridge.stop.set()
                    await serving
                    return 1
                await _show(console, _Figures(reader, exchange.truth.counts, topics), stop, seconds, serving)
                await exchange.quiesce()
                held = await _settled(exchange.truth.counts, reader)
                bridge.stop.set()
                await serving
            sent = exchange.truth.counts()
    console.print(_comparison(sent, held, topics))
    return 0 if sent == held and not bridge.failed else 1


def _config(url: str, symbols: list[str], bootstrap: str) -> Config:
    names = {
        SubscribedBy.MARKET: symbols,
        SubscribedBy.CURRENCY: _CURRENCIES,
        SubscribedBy.NOTHING: True,
    }
    return Config.model_validate(
        {
            "exchange": {"url": url},
            "channels": {one.name: names[one.subscribed_by] for one in _SHOWN if not one.private},
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
    """The figures in the table: the counts of both sides, and rates over at least a second."""

    def __init__(self, reader: Reader, sent: Callable[[], dict[str, int]], topics: Mapping[str, str]) -> None:
        self.reader = reader
        self.sent = sent
        self.topics = topics
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
                live.update(_table(figures), refresh=True)
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


async def _settled(sent: Callable[[], dict[str, int]], reader: Reader) -> dict[str, int]:
    """Return the counts on Kafka once they equal those sent, or else after `_SETTLE` seconds."""
    deadline = time.monotonic() + _SETTLE
    while True:
        held = await asyncio.to_thread(reader.held)
        if held == sent() or time.monotonic() > deadline:
            return held
        await asyncio.sleep(_REFRESH)


def _welcome(url: str, bootstrap: str, topics: Mapping[str, str]) -> str:
    return f"""\
exchange  {url}  (simulated)
Kafka     {bootstrap}  (embedded; no transactions, so delivery is at-least-once here)

Read the topics from another terminal, with kcat or any other Kafka client:
  kcat -b {bootstrap} -C -t {topics["trades"]} -f '%k %s\\n'
  kcat -b {bootstrap} -C -t {topics["depth"]} -o end -f '%T %k %s\\n'
"""


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
            f"{sent[channel]:,}",
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


def _comparison(sent: Mapping[str, int], held: Mapping[str, int], topics: Mapping[str, str]) -> Table:
    equal = sent == held
    table = Table(
        title="Sent, and held by Kafka (by end offsets)",
        caption="equal" if equal else "DIFFERENT",
        caption_style="bold green" if equal else "bold red",
    )
    table.add_column("topic")
    table.add_column("sent", justify="right")
    table.add_column("on Kafka", justify="right")
    for channel, topic in topics.items():
        same = sent[channel] == held[channel]
        table.add_row(topic, f"{sent[channel]:,}", f"{held[channel]:,}", style="" if same else "bold red")
    return table
