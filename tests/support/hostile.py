"""An exchange that attacks whoever connects to it; each market stands for one attack."""

import asyncio
import json
import random
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

LARGEST = 8_388_608
"""Bytes that a frame may inflate to by default."""

STRANGERS = 100_000
"""Markets that are pushed and that nobody has asked for."""

_TRADE = '{"id":7,"time":1600000000.5,"price":"1","amount":"1","type":"buy"}'

_PATIENCE = 120.0  # seconds
_UNSENT = 1_000_000  # bytes that wait in this process before an attack pauses

Attack = Callable[["Victim"], Awaitable[None]]


class Victim:
    """A connection to attack; `number` counts those that asked for the same market, from 1."""

    def __init__(self, connection: ServerConnection, symbol: str, number: int) -> None:
        self.connection = connection
        self.symbol = symbol
        self.number = number
        self.sent = 0  # how often something was sent

    async def flood(self, data: bytes, times: int = 10**9) -> None:
        """Send bytes again and again until the connection is closed."""
        transport = self.connection.transport
        for _ in range(times):
            while transport.get_write_buffer_size() > _UNSENT and not transport.is_closing():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if transport.is_closing():
                return
            transport.write(data)
            self.sent += 1
            await asyncio.sleep(0)

    def push(self, params: str, method: str = "trades") -> bytes:
        """Return a push as the exchange sends it."""
        return _frame(zlib.compress(f'{{"method":"{method}.update","params":{params},"id":null}}'.encode()))


async def slow_to_confirm(victim: Victim) -> None:
    """From the second connection on, push a lot and confirm nothing."""
    if victim.number > 1:
        # Without an answer to the subscribe, see `_NEVER_CONFIRMED`.
        await victim.flood(victim.push(f'[false,[],"{victim.symbol}","{"x" * 1_000_000}"]'))


async def half_a_frame(victim: Victim) -> None:
    """Begin a frame as large as possible, and never end it."""
    begin = b"\x82\x7f" + (LARGEST - 1000).to_bytes(8, "big")
    await victim.flood(begin, 1)
    await victim.flood(bytes(100_000), (LARGEST - 200_000) // 100_000)


async def pings(victim: Victim) -> None:
    """Send pings, and read no pong."""
    victim.connection.transport.pause_reading()
    await victim.flood(Frame(Opcode.PING, bytes(125)).serialize(mask=False) * 500)


async def whole_in_fragments(victim: Victim) -> None:
    """Send whole messages inside one that never ends."""
    await victim.flood(Frame(Opcode.BINARY, b"x", fin=False).serialize(mask=False), 1)
    await victim.flood(victim.push(f'[false,[],"{victim.symbol}"]') * 100)


async def empty_fragments(victim: Victim) -> None:
    """Send a message in fragments without content, and never end it."""
    await victim.flood(Frame(Opcode.BINARY, b"x", fin=False).serialize(mask=False), 1)
    await victim.flood(Frame(Opcode.CONT, b"", fin=False).serialize(mask=False) * 10_000)


async def tiny_items(victim: Victim) -> None:
    """Send lists of millions of items that are nothing."""
    items = ",".join(["{}"] * (LARGEST // 3 - 100))
    await victim.flood(victim.push(f'[true,[{items}],"{victim.symbol}"]'), 50)


async def many_names(victim: Victim) -> None:
    """Send items with a million fields."""
    fields = ",".join(f'"{number}":1' for number in range(700_000))
    await victim.flood(victim.push(f'[true,[{{{fields}}}],"{victim.symbol}"]'), 50)


async def long_words(victim: Victim) -> None:
    """Answer with errors as long as a frame may be."""
    text = json.dumps({"error": {"code": 5, "message": "\u0001no" * 1_000_000}, "result": None, "id": 2})
    await victim.flood(_frame(zlib.compress(text.encode())), 50)


async def strangers(victim: Victim) -> None:
    """Push trades of markets that nobody has asked for, each of another one."""
    for first in range(0, STRANGERS, 500):
        names = [f"S{victim.number}S{number}_USDT" for number in range(first, first + 500)]
        await victim.flood(b"".join(victim.push(f'[true,[{_TRADE}],"{name}"]') for name in names), 1)


ATTACKS: dict[str, Attack] = {
    "SLOW_USDT": slow_to_confirm,
    **{f"HALF{number}_USDT": half_a_frame for number in range(12)},
    "PINGS_USDT": pings,
    "WHOLE_USDT": whole_in_fragments,
    "EMPTY_USDT": empty_fragments,
    "ITEMS_USDT": tiny_items,
    "NAMES_USDT": many_names,
    "WORDS_USDT": long_words,
}


async def many_tickers(victim: Victim) -> None:
    """Push tickers of the market, as many as a frame may have."""
    items = ",".join([f'{{"symbol":"{victim.symbol}"}}'] * 24_000)
    await victim.flood(victim.push(f"[{items}]", "ticker"), 3)


TICKERS: dict[str, Attack] = {f"MANY{number}_USDT": many_tickers for number in range(24)}


async def many_numbers(victim: Victim) -> None:
    """From the second connection on, push as many numbers as a frame may have, of a channel unknown."""
    if victim.number > 1:
        await victim.flood(victim.push(f"[{{}},{'10,' * 249_000}10]", "moon"), 30)


NUMBERS: dict[str, Attack] = {"NUMBERS_USDT": many_numbers}

STRANGE: dict[str, Attack] = {"STRANGERS_USDT": strangers}


async def random_frames(victim: Victim) -> None:
    """Send frames of nothing, as large as possible."""
    await victim.flood(_frame(random.Random(victim.number).randbytes(LARGEST - 100)), _WHOLE_FRAMES)


async def stored_frames(victim: Victim) -> None:
    """Send pushes that are no smaller deflated, and no records."""
    digits = random.Random(victim.number).randbytes(LARGEST // 2 - 1000).hex()
    push = f'{{"method":"trades.update","params":[false,"{digits}","{victim.symbol}"],"id":null}}'
    await victim.flood(_frame(zlib.compress(push.encode(), 0)), _WHOLE_FRAMES)


async def wide_frames(victim: Victim) -> None:
    """Send texts full of escapes, whose characters take four bytes each once they are decoded."""
    text = b'{"method":"trades.update","params":"\xf0\x9f\x9a\x80' + b"\\u0041 " * 60_000
    await victim.flood(_frame(text + b"x" * (2 * 2**20 - len(text)), Opcode.TEXT), 2 * _WHOLE_FRAMES)


async def kept_frames(victim: Victim) -> None:
    """Send frames of nothing, of a size of which all are kept in dead letters."""
    await victim.flood(_frame(random.Random(victim.number).randbytes(2**20)), 5 * _WHOLE_FRAMES)


LARGE_FRAMES: dict[str, Attack] = {
    **{f"RANDOM{number}_USDT": random_frames for number in range(4)},
    **{f"STORED{number}_USDT": stored_frames for number in range(4)},
    **{f"WIDE{number}_USDT": wide_frames for number in range(2)},
    **{f"KEPT{number}_USDT": kept_frames for number in range(2)},
}

_WHOLE_FRAMES = 2  # of the largest size that one connection sends

_NEVER_CONFIRMED = ("WORDS_USDT",)


class HostileExchange:
    """Listens inside its context; a connection that subscribes to a market is attacked as `attacks` says."""

    def __init__(self, attacks: Mapping[str, Attack] = ATTACKS) -> None:
        self.begun: Counter[str] = Counter()  # attacks, by market
        self.ended: Counter[str] = Counter()  # those that have come to their end, by market
        self.sent = 0  # messages that these have sent
        self._attacks = attacks
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hostile exchange", daemon=True)
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=0.1
        )
        self.url = f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}/"

    async def _end(self) -> None:
        for connection in list(self._server.connections):
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, connection: ServerConnection) -> None:
        attacking: set[asyncio.Task[None]] = set()
        attack: Attack | None = None
        with suppress(ConnectionClosed):
            async for text in connection:
                request = json.loads(text)
                symbol = next((one for one in request["params"] if one in self._attacks), None)
                answer: object = "pong" if request["method"] == "server.ping" else {"status": "success"}
                if symbol is None:
                    if attack is not half_a_frame:  # of which an answer would be a part
                        await connection.send(_answer(request["id"], answer))
                    continue
                attack = self._attacks[symbol]
                self.begun[symbol] += 1
                victim = Victim(connection, symbol, self.begun[symbol])
                if symbol not in _NEVER_CONFIRMED and not (symbol == "SLOW_USDT" and victim.number > 1):
                    await connection.send(_answer(request["id"], answer))
                attacking.add(asyncio.create_task(self._attack(victim)))
        for task in attacking:
            task.cancel()

    async def _attack(self, victim: Victim) -> None:
        with suppress(ConnectionError, RuntimeError):
            await self._attacks[victim.symbol](victim)
            self.ended[victim.symbol] += 1
            self.sent += victim.sent


def _frame(content: bytes, opcode: Opcode = Opcode.BINARY) -> bytes:
    return Frame(opcode, content).serialize(mask=False)


def _answer(request_id: int, result: object) -> bytes:
    return zlib.compress(json.dumps({"error": None, "result": result, "id": request_id}).encode())
