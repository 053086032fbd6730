"""An exchange that does to whoever connects what a seed says, and is honest when it is told to be."""

import asyncio
import itertools
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from bridge.channels import CHANNELS
from tests.fuzz import wire
from tests.fuzz.messages import Secrets, answer, honest_push, odd_answers, push, text
from tests.fuzz.wire import End, Step

_PATIENCE = 60.0  # seconds
_UNREAD = 5.0  # seconds for which a client that reads nothing is waited for
_LONGEST = 5.0  # seconds of a hostile conversation
_HONEST_EVERY = 0.2  # seconds between two rounds of honest pushes
_LARGE = 10_000_000  # bytes of a flood
_MANY = 24_000  # items of one push

_SUBSCRIBE = ".subscribe"
_GONE = (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, RuntimeError)

Subscription = tuple[str, str]
"""A channel, and the market or currency; without one for a channel that is subscribed by nothing."""


class FuzzingExchange:
    """Listens inside its context. Each connection is treated by a generator of its own, from seed and number.

    `truthful` are subscriptions of which nothing is pushed before the exchange is honest: an exchange that
    lies about what was subscribed to is believed.
    """

    def __init__(self, seed: int, secrets: Secrets, truthful: Collection[Subscription], folder: Path) -> None:
        self.handshakes = 0  # since the start
        self.elsewhere = 0  # connections to the address that redirects have named
        self.read: set[Subscription] = set()  # of which honest pushes were read for certain
        self.seed = seed
        self.secrets = secrets
        self.truthful = truthful
        self.honest = False
        self.url = ""
        self.url_elsewhere = ""
        self.faults: list[str] = []  # of the client, or of this exchange
        self.moves: Counter[str] = Counter()  # what was done, for people
        self._log = (folder / "moves.log").open("w")
        self._numbers = itertools.count()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fuzzing exchange", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._log.close()

    def turn_honest(self) -> None:
        """End all conversations; from here on be as the API document says."""
        self.honest = True
        self._run(self._abort)

    def note(self, number: int, move: str) -> None:
        """Write down what is done on a connection."""
        self.moves[move] += 1
        self._log.write(f"{time.time():.3f} {number} {move}\n")

    def _run(self, what: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(what(), self._loop).result(_PATIENCE)

    async def _listen(self) -> None:
        self._servers = [
            await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20),
            await asyncio.start_server(self._serve_elsewhere, "127.0.0.1", 0),
        ]
        here, elsewhere = (server.sockets[0].getsockname()[1] for server in self._servers)
        self.url, self.url_elsewhere = f"ws://127.0.0.1:{here}/ws/v1/", f"ws://127.0.0.1:{elsewhere}/"

    async def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        await self._abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # at the end
            await self._talk(reader, writer)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handshakes += 1
        self._writers.add(writer)
        talk = _Talk(self, next(self._numbers), reader, writer)
        try:
            await talk.run()
        except* _GONE:
            pass
        except* Exception as errors:  # noqa: BLE001 - whatever it is, a round has to fail because of it
            self.faults.append(f"connection {talk.number}: {errors.exceptions!r}")
        finally:
            self._writers.discard(writer)
            if not writer.is_closing():
                writer.transport.abort()

    async def _serve_elsewhere(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.elsewhere += 1
        writer.transport.abort()


class _Talk:
    """One connection."""

    def __init__(
        self,
        exchange: FuzzingExchange,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._exchange = exchange
        self.number = number
        self._reader = reader
        self._writer = writer
        self._honest = exchange.honest
        self._rng = Random(f"{exchange.seed}/{number}")
        # How often something is odd: some conversations get far, others do not.
        self._odd = 0.0 if self._honest else self._rng.choice([0.0, 0.02, 0.1, 0.1, 0.5, 0.5])
        self._subscribed: dict[Subscription, int] = {}  # with the number of pushes
        self._writing = asyncio.Lock()  # a message is written whole before the next one begins

    async def run(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        key = next(
            line.partition(b":")[2].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        if not self._honest and self._rng.random() < 0.2:
            self._note("odd handshake")
            words = self._exchange.secrets.words(self._rng)
            await self._play(wire.handshake(self._rng, key, self._exchange.url_elsewhere, words))
            if self._rng.random() < 0.7:
                return
        else:
            await self._play([wire.accepted(key)])
        async with asyncio.TaskGroup() as group:
            pushing = group.create_task(self._push_honestly() if self._honest else self._push())
            try:
                await self._answer()
            finally:
                pushing.cancel()

    # What comes

    async def _answer(self) -> None:
        while True:
            opcode, payload = await self._read_frame()
            if opcode == 1:
                await self._reply(json.loads(payload))

    async def _read_frame(self) -> tuple[int, bytes]:
        first, second = await self._reader.readexactly(2)
        assert second & 0x80, "a client masks its frames"
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
        mask = await self._reader.readexactly(4)
        payload = await self._reader.readexactly(size)
        key = (mask * (size // 4 + 1))[:size]
        return first & 0x0F, (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(
            size, "big"
        )

    async def _reply(self, request: Mapping[str, Any]) -> None:
        method, params = request["method"], request["params"]
        if method == "server.auth":
            self._exchange.secrets.signatures += params[2:]
        now = int(time.time())
        answers = [answer(request, now)]
        if self._rng.random() < self._odd:
            self._note(f"odd answer to {method}")
            answers = odd_answers(self._rng, request, now, self._exchange.secrets)
        if method == "server.ping" and self._honest:
            self._exchange.read.update(one for one, pushes in self._subscribed.items() if pushes)
        for one in answers:
            await self._say(text(one))
        if method.endswith(_SUBSCRIBE):
            channel = method.removesuffix(_SUBSCRIBE)
            for name in params or [""]:
                self._subscribed.setdefault((channel, name), 0)

    # What goes out

    async def _push_honestly(self) -> None:
        while True:
            await asyncio.sleep(_HONEST_EVERY)
            for (channel, name), number in list(self._subscribed.items()):
                await self._say(text(honest_push(channel, name or "BTC_USDT", number, time.time())))
                self._subscribed[channel, name] += 1

    async def _push(self) -> None:
        rng, exchange = self._rng, self._exchange
        end = time.monotonic() + min(rng.expovariate(1 / 1.5), _LONGEST)
        special = rng.random() < 0.15
        while time.monotonic() < end:
            await asyncio.sleep(rng.choice([0.0, 0.02, 0.2]))
            subscribed = [one for one in self._subscribed if one not in exchange.truthful]
            if special and rng.random() < 0.1:
                await self._flood()
            elif subscribed:
                channel, name = rng.choice(subscribed)
                await self._say(text(push(rng, channel, name or "BTC_USDT", exchange.secrets, self._odd)))
            if rng.random() < self._odd / 10:
                await self._play([wire.control(rng) * rng.choice([1, 100])])
        self._note("end")
        await self._play(wire.closing(rng, exchange.secrets.words(rng)))
        raise ConnectionResetError

    async def _say(self, message: bytes) -> None:
        """Send a message, now and then oddly."""
        odd = self._odd / 5
        payload, is_text = wire.packed(self._rng, message, odd)
        await self._play([wire.framed(self._rng, payload, text=is_text, odd=odd)])

    async def _flood(self) -> None:
        rng = self._rng
        subscribed = list(self._subscribed) or [("trades", "BTC_USDT")]
        channel, name = rng.choice(subscribed)
        if (channel, name) in self._exchange.truthful:
            channel = "unheard"
        tiny = wire.packed(rng, text({"method": f"{channel}.update", "params": [], "id": None}), 0.0)[0]
        bomb = wire.packed(rng, b'{"method":"%b.update"' % channel.encode() + b" " * 9_000_000, 0.0)[0]
        one = honest_push(channel if channel in CHANNELS else "ticker", name or "BTC_USDT", 1, time.time())
        item = text(one["params"][1][0] if channel == "trades" else one["params"][0])
        listed = [b"false", b"[%b]" % b",".join([item] * _MANY), b'"%b"' % name.encode()]
        items = b",".join(listed if channel == "trades" else [item] * _MANY)
        many = b'{"method":"%b.update","params":[%b],"id":null}' % (channel.encode(), items)
        kinds: dict[str, bytes] = {
            "pings": wire.frame(9, bytes(125)) * 500,
            "tiny pushes": wire.frame(2, tiny) * 500,
            "bombs": wire.frame(2, bomb) * 3,
            "empty fragments": wire.frame(2, b"x", 0) + wire.frame(0, b"", 0) * 5000,
            "half a large frame": b"\x82\x7f" + (wire.LARGEST - 100).to_bytes(8, "big") + bytes(100_000),
            "a large frame": wire.frame(2, bytes(wire.LARGEST - 100)),
            "items": wire.frame(2, wire.packed(rng, many, 0.0)[0]),
            "words": wire.frame(
                1, text({"error": {"code": 5, "message": "no " * 500_000}, "id": rng.randrange(9)})
            ),
            "garbage": rng.randbytes(100_000),
        }
        kind = rng.choice([*kinds])
        self._note(f"flood of {kind}")
        data = kinds[kind]
        most = {"half a large frame": 1, "items": 3}.get(kind, 100)
        await self._play([data] * min(most, _LARGE // len(data) + 1))

    async def _play(self, steps: Collection[Step]) -> None:
        async with self._writing:
            for step in steps:
                match step:
                    case bytes():
                        await self._write(step)
                    case float():
                        await asyncio.sleep(step)
                    case End():
                        await self._end(step)

    async def _write(self, data: bytes) -> None:
        """Write bytes, now and then in pieces with pauses between them."""
        if self._odd and self._rng.random() < self._odd / 5 and len(data) > 1:
            for _ in range(self._rng.randrange(1, 5)):
                cut = self._rng.randrange(len(data) + 1)
                self._writer.write(data[:cut])
                data = data[cut:]
                await asyncio.sleep(self._rng.choice([0.0, 0.01, 0.05]))
            if self._rng.random() < 0.3:
                self._note("cut")
                await self._end(self._rng.choice([*End]))
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), _UNREAD)

    async def _end(self, end: End) -> None:
        match end:
            case End.RESET:
                linger = struct.pack("ii", 1, 0)
                self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            case End.HALF_CLOSED:
                self._writer.write_eof()
                await asyncio.sleep(self._rng.random())
            case End.SILENT:
                await asyncio.sleep(self._rng.random() * _LONGEST)
            case End.CLOSED:
                self._writer.close()
        raise ConnectionResetError

    def _note(self, move: str) -> None:
        self._exchange.note(self.number, move)
