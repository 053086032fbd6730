"""Runs the real command against a hostile exchange, round after round: `python -m tests.fuzz.fuzz_exchange`.

    --seconds 3600    for how long new rounds begin (600)
    --seed 7          the seed of the first round, which the next ones count up (random)
    --rounds 1        how many rounds at most

Each round has a process of its own, with a real Kafka: crashes, leaks and storms show only where the whole
bridge ends, in its log, answers, records, memory and exit status. First the exchange is hostile, then honest.
The bridge must never fail, show a credential, take 256 MiB or connect too often; and then serve again.

What fails is kept in tests/fuzz/found, with the seed and the way to repeat it. Conversations depend on time,
too, so a seed may have to be tried several times.
"""

import argparse
import base64
import html
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from confluent_kafka.admin import AdminClient

from bridge.channels import CHANNELS, SubscribedBy
from tests.fuzz.exchange import FuzzingExchange, Subscription
from tests.fuzz.messages import MARK, Secrets
from tests.support.consumers import read_topic
from tests.support.kafka_broker import Broker
from tests.support.process import RunningBridge, fetch
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "tests" / "fuzz" / "found"

MOST_MEMORY = 256 * 2**20  # bytes
MOST_ANSWER = 65_536  # bytes
PATIENCE = 180.0  # seconds until an honest exchange is served again

_QUIET = "QUIET_USDT"  # of whose trades nothing is pushed before the exchange is honest
_MARKETS = ["BTC_USDT", "ETH_USDT", _QUIET]
_KEYS = {
    "main": ("c4n4ryKeyOfMain+/=00f1e2d3c4", "s3cr3tCanary<&>\"'%41\\of/main=="),
    "other": ("0therC4n4ryKey5a8e6b662ddb0", "0therS3cr3tCanaryq1w2e3r4t5y6"),
}
_EXCHANGE = {
    "subscriptions_per_session": 3,
    "handshakes_per_second": 50.0,
    "subscribes_per_second": 200.0,
    "ping_interval": 0.5,
    "reply_timeout": 3.0,
    "stale_after": 5.0,
    "reconnect_min": 0.05,
    "reconnect_max": 0.3,
    "refused_max": 0.5,
    "max_session_age": 4.0,
}
_LEAST = 8  # characters of a credential that show it
_ENDPOINTS = ("/healthz", "/readyz", "/status", "/metrics")
_BAD_LINES = ("internal error", "Traceback", "dead letter lost", "never retrieved", "exception was never")


class Round:
    """One bridge against one hostile exchange."""

    def __init__(self, seed: int, kafka: Broker, folder: Path) -> None:
        self._seed = seed
        self._kafka = kafka
        self._folder = folder
        self._prefix = f"fuzz{seed}-{random.randrange(10**6)}"
        self._secrets = Secrets([one for both in _KEYS.values() for one in both])
        self._answers: dict[str, str] = {}  # of the endpoints, all that differed
        self._over = threading.Event()
        self._unanswered: list[str] = []  # endpoints that did not answer

    def run(self, seconds: float) -> str:
        """Be hostile for a time, then honest; return what that was, for people.

        Raises:
            AssertionError: the bridge has not withstood it.
        """
        truthful = [("trades", _QUIET)]
        with FuzzingExchange(self._seed, self._secrets, truthful, self._folder) as exchange:
            with RunningBridge(self._folder, self._settings(exchange.url)) as bridge:
                port = bridge.port
                watching = threading.Thread(target=self._watch, args=[port], name="endpoints", daemon=True)
                watching.start()
                begun = time.monotonic()
                eventually(
                    lambda: time.monotonic() > begun + seconds or bridge.process.poll() is not None, 10**4, ""
                )
                assert bridge.process.poll() is None, "the bridge has ended"
                made, took = exchange.handshakes, time.monotonic() - begun
                assert made < _most_handshakes(took), f"{made} handshakes in {took:.0f} s"
                memory = _peak(bridge.process.pid)
                assert memory < MOST_MEMORY, f"{memory} bytes of memory"
                exchange.turn_honest()
                bridge.wait_ready(PATIENCE)
                eventually(lambda: exchange.read >= {*_subscriptions()}, PATIENCE, "data read again")
                # Until then it may wait in a spool, or with a session that has not taken over yet.
                eventually(lambda: not self._missing(), PATIENCE, "honest data on Kafka", every=1)
                self._over.set()
                watching.join()
                assert bridge.stop() == 0
            assert not exchange.elsewhere, "a redirect was followed"
            assert not exchange.faults, exchange.faults[0]
        assert not self._unanswered, self._unanswered
        log = bridge.stderr
        for bad in _BAD_LINES:
            assert bad not in log, f"{bad!r} in the log"
        for path, body in self._answers.items():
            assert len(body) <= MOST_ANSWER or path.startswith("/metrics"), path
        records = dict(self._records())
        self._look_for_secrets([("log", log), ("stdout", bridge.stdout), *self._answers.items()])
        self._look_for_secrets(_texts(records))
        moves = sum(exchange.moves.values())
        return f"{made} handshakes in {took:.0f} s, {moves} odd moves, {memory >> 20} MiB"

    def _settings(self, url: str) -> dict[str, Any]:
        public: dict[str, Any] = {
            "trades": _MARKETS,
            "depth": _MARKETS,
            "ticker": _MARKETS,
            "all_ticker": True,
        }
        private = {"order": _MARKETS, "order_algo": _MARKETS, "balance": ["BTC", "USDT"]}
        return {
            "exchange": {"url": url, **_EXCHANGE},
            "channels": public,
            "kafka": {
                "bootstrap_servers": self._kafka.bootstrap,
                "topic_prefix": self._prefix,
                "group_id": self._prefix,
                "partitions": 2,
            },
            "http": {"host": "127.0.0.1", "port": 0},
            "log": {"format": "json"},
            "accounts": [
                {"name": name, "api_key": key, "secret": secret, **private}
                for name, (key, secret) in _KEYS.items()
            ],
        }

    def _watch(self, port: int) -> None:
        """Ask the endpoints again and again."""
        while not self._over.wait(0.5):
            for path in _ENDPOINTS:
                status, body = _fetch(port, path)
                if not status or (path == "/healthz" and status != 200):
                    self._unanswered.append(f"{path}: {status}")
                self._answers[f"{path} {len(self._answers)}"] = body
            sessions = re.findall(r'"session": ?"([^"]+)"', body)[:1]
            for session in sessions:
                self._answers[f"/status of {session}"] = _fetch(port, f"/status?session={session}")[1]

    def _records(self) -> Iterator[tuple[str, list[bytes]]]:
        topics = AdminClient({"bootstrap.servers": self._kafka.bootstrap}).list_topics(timeout=60).topics
        for topic in topics:
            if topic.removeprefix("private.").startswith(self._prefix):
                read = read_topic(self._kafka.bootstrap, topic)
                yield topic, [one.value for one in read if not topic.endswith("bridge-state")]

    def _look_for_secrets(self, texts: Iterable[tuple[str, str]]) -> None:
        beginnings = {one[:_LEAST].lower() for one in (*self._secrets.fixed, *self._secrets.signatures)}
        found = re.compile("|".join(map(re.escape, beginnings)))
        for where, shown in texts:
            for level in _unescaped(shown):
                if (match := found.search(level.lower())) is not None:
                    around = level[max(0, match.start() - 200) : match.end() + 100]
                    raise AssertionError(f"a credential in {where}: …{around}…")

    def _missing(self) -> set[Subscription]:
        """Return the subscriptions of which nothing honest is on Kafka."""
        lied = {("trades", market) for market in _MARKETS if market != _QUIET}
        found: set[Subscription] = set()
        for topic, values in self._records():
            channel = topic.split(".")[-2]
            for value in values:
                if channel in CHANNELS and MARK.encode() in value:
                    record = json.loads(value)
                    name = "" if channel == "all_ticker" else record.get("symbol") or record["currency"]
                    found.add((channel, name))
        return {*_subscriptions()} - lied - found


def _fetch(port: int, path: str) -> tuple[int, str]:
    """Return the status and text of an endpoint, which may be slow for a while on a busy machine; 0: none."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return fetch(port, path)
        except OSError as error:
            if time.monotonic() > end:
                return 0, repr(error)


def _subscriptions() -> Iterator[Subscription]:
    for channel in CHANNELS.values():
        match channel.subscribed_by:
            case SubscribedBy.NOTHING:
                yield channel.name, ""
            case SubscribedBy.CURRENCY:
                yield from ((channel.name, name) for name in ("BTC", "USDT"))
            case SubscribedBy.MARKET:
                yield from ((channel.name, name) for name in _MARKETS)


def _most_handshakes(seconds: float) -> float:
    """Return the number of handshakes in a time that is no storm; see `bridge.websocket.courtesy`.

    Each subscription may have a connector of its own once all sessions were halved. All of them together
    repeat handshakes from a stock that is refilled, and each of them rotates.
    """
    connectors = len([*_subscriptions()]) + 6
    repeated = 7 * connectors + seconds / (_EXCHANGE["reconnect_max"] / 3)
    return repeated + connectors * (1 + seconds / (0.9 * _EXCHANGE["max_session_age"]))


def _peak(process: int) -> int:
    """Return the most memory that a process has had so far, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _texts(records: Mapping[str, list[bytes]]) -> Iterator[tuple[str, str]]:
    """Return the values of records, and the frames of dead letters, inflated as well."""
    for topic, values in records.items():
        for value in values:
            yield topic, value.decode()
            if topic.endswith(".deadletter.v1"):
                frame = base64.b64decode(json.loads(value)["frame_base64"])
                for text in (frame, *_inflated(frame)):
                    yield f"a frame in {topic}", text.decode(errors="replace")


def _inflated(frame: bytes) -> Iterator[bytes]:
    for form in (15, 31, -15):
        stream = zlib.decompressobj(form)
        text = b""
        try:
            for byte in frame[:100_000]:
                text += stream.decompress(bytes([byte]), 10_000)
        except zlib.error:
            pass
        if text:
            yield text


def _unescaped(text: str) -> Iterator[str]:
    """Return a text, and what it is unescaped, again and again."""
    for _ in range(4):
        yield text
        text = html.unescape(unquote(text))
        text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = re.sub(r"\\+x([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), text)
        text = re.sub(r"\\+(.)", r"\1", text)


def main() -> int:
    """Run rounds, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.fuzz_exchange", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for how long new rounds begin (600)")
    parser.add_argument("--seed", type=int, help="of the first round (random)")
    parser.add_argument("--rounds", type=int, default=10**9, help="how many rounds at most")
    parser.add_argument("--hostile", type=float, default=40, help="seconds of a round that are hostile (40)")
    options = parser.parse_args()
    first = options.seed or random.randrange(1, 2**31)
    failed = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that Kafka and the bridge end as well
    with Broker() as kafka:
        end = time.monotonic() + options.seconds
        for seed in range(first, first + options.rounds):
            if time.monotonic() >= end:
                break
            with tempfile.TemporaryDirectory() as folder:
                try:
                    done = Round(seed, kafka, Path(folder)).run(options.hostile)
                    print(f"seed {seed}: {done}", flush=True)
                except AssertionError as error:
                    failed += 1
                    kept = FOUND / f"exchange-{seed}"
                    shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("spool"))
                    again = f"python -m tests.fuzz.fuzz_exchange --rounds 1 --seed {seed}"
                    print(
                        f"seed {seed}: {error}\n  kept in {kept.relative_to(ROOT)}; to repeat it: {again}",
                        flush=True,
                    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
