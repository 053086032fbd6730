"""An ageing session is replaced by a new one that is live before the old one is closed."""

import threading
import zlib
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bridge.simulator import Faults
from bridge.simulator.client import Client
from tests.support.checks import (
    assert_books_are,
    assert_no_hole,
    assert_trades_are,
    by_symbol,
    gaps_of,
    records_of,
)
from tests.support.exchange import ExchangeThread, books
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually


@contextmanager
def listener(url: str) -> Iterator[list[bytes]]:
    """Receive the tickers over one connection that is never replaced; gives the frames received so far."""
    received: list[bytes] = []

    def listen() -> None:
        try:
            for message in socket:
                assert isinstance(message, bytes)
                received.append(message)
        except ConnectionClosed:
            return

    with connect(url, compression=None) as socket:
        socket.send(msgspec.json.encode({"id": 1, "method": "ticker.subscribe", "params": SYMBOLS}).decode())
        thread = threading.Thread(target=listen)
        thread.start()
        yield received
    thread.join()


def test_rotations_lose_and_repeat_nothing(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=600) as exchange, listener(exchange.url) as received:
        sections = {"exchange": {"max_session_age": 0.7}}
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("reconnects_total", reason="rotated") >= 4, 60, "4 rotations")
            exchange.quiesce()
            assert bridge.metric("reconnects_total", reason="closed") == 0
            assert bridge.stop() == 0
        trades = records_of(kafka, prefix, "trades")
        assert_trades_are(trades, exchange.truth.made)
        assert len({record.json["session"] for record in trades}) >= 4
        assert_books_are(records_of(kafka, prefix, "depth"), books(exchange))
        tickers = records_of(kafka, prefix, "ticker")
    assert_no_hole(tickers)
    for symbol, records in by_symbol(tickers).items():
        pushed = [_figures(one) for one in _tickers(received) if one["symbol"] == symbol]
        # The first one is the state at the moment of subscribing, which no other connection received.
        once = _without_answers_to_subscribing(records[1:], pushed)
        assert once == pushed[pushed.index(once[0]) :], symbol


def test_rotation_passes_each_bad_frame_once(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    faults = Faults(corrupt=0.2, bad_json=0.2, unknown_method=0.1)
    with (
        ExchangeThread(symbols=SYMBOLS, rate=600, faults=faults) as exchange,
        listener(exchange.url) as received,
    ):
        sections = {"exchange": {"max_session_age": 0.5}}
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            rotations = partial(bridge.metric, "reconnects_total", reason="rotated")
            bridge.wait_ready()
            eventually(lambda: rotations() >= 4, 60, "4 rotations")
            exchange.quiesce()
            before = rotations()
            eventually(lambda: rotations() >= before + 2, 20, "rotations after the last frame")
            assert bridge.metric("reconnects_total", reason="closed") == 0
            assert bridge.stop() == 0
        letters = records_of(kafka, prefix, "deadletter")
    pushed = [frame for frame in received if _is_bad(frame)]
    letters.sort(key=lambda letter: int(letter.json["received_us"]))
    kept = [b64decode(letter.json["frame_base64"]) for letter in letters]
    assert Counter(kept) <= Counter(pushed)
    first = next(frame for frame in kept if pushed.count(frame) == 1)
    assert set(pushed[pushed.index(first) :]) <= set(kept)


def _messages(frames: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for frame in frames:
        yield msgspec.json.decode(zlib.decompress(frame))


def _tickers(frames: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for message in _messages(frames):
        if message.get("method") == "ticker.update":
            yield from message["params"]


def _is_bad(frame: bytes) -> bool:
    try:
        (message,) = _messages([frame])
    except (zlib.error, msgspec.DecodeError):
        return True
    return message.get("method") == "moon.update"


def _figures(ticker: dict[str, Any]) -> tuple[object, ...]:
    time_ms = ticker.get("timestamp") or ticker["time_us"] // 1000
    return time_ms, ticker["last"], ticker["best_bid"], ticker["best_ask"], ticker["base_volume_24h"]


def _without_answers_to_subscribing(
    records: list[dict[str, Any]], pushed: list[tuple[object, ...]]
) -> list[tuple[object, ...]]:
    """Leave out the tickers that only a new session received: the state when it subscribed.

    If nothing has changed since, that is the last ticker once more.
    """
    known, found = set(pushed), list[tuple[object, ...]]()
    for record in records:
        figures = _figures(record)
        repeated = record["seq"] == 0 and found[-1:] == [figures]
        if figures in known and not repeated:
            found.append(figures)
    return found


def test_a_session_that_ends_before_its_replacement_is_live_leaves_a_recorded_gap(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """The exchange is silent until the old session is cut, so the new one cannot log in before."""
    with ExchangeThread(symbols=SYMBOLS, rate=100, accounts=ACCOUNTS) as exchange:
        clients = exchange.simulator.clients
        settings = config(exchange.url, kafka, prefix, {"exchange": {"max_session_age": 3.0}}, accounts=True)
        settings["channels"] = {}
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            exchange.call(exchange.simulator.stall, 60.0)
            eventually(lambda: len(clients) == 2, 10, "the new session")
            exchange.call(min(clients, key=_opened).cut)
            exchange.call(exchange.simulator.stall, 0.0)
            eventually(
                lambda: bridge.metric("gaps_total", channel="order", cause="closed") == 1, 20, "the gap"
            )
            assert bridge.metric("reconnects_total", reason="closed") == 1
            assert bridge.stop() == 0
    for channel in ("order", "order_algo", "balance"):
        first, gap = gaps_of(kafka, prefix, channel)
        assert (first["cause"], first["after_us"]) == ("first_listened", None)
        assert (gap["cause"], gap["account"], gap["closed_by"]) == ("closed", "main", None)
        assert gap["after_us"] < gap["before_us"]


def _opened(client: Client) -> float:
    return client.opened
