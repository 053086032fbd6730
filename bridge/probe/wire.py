"""One connection of the probe: sends requests, waits for their answers, reads all that comes."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import orjson
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from bridge.config import ExchangeConfig
from bridge.errors import VisitFailed
from bridge.exchange import clock, requests
from bridge.exchange.requests import Credentials, Request
from bridge.probe.messages import Answered, Line, Messages
from bridge.websocket.opening import connection, in_words

Keep = Callable[[bytes], None]
"""Takes the JSON text of each message."""


class Wire:
    """An open connection within its context; `keep` gets every message, None: none.

    Raises:
        VisitFailed: the connection could not be opened.
    """

    def __init__(
        self,
        config: ExchangeConfig,
        messages: Messages,
        credentials: Credentials | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.line = Line()
        self.closed = ""  # why the exchange closed it; "" while it is open
        self._config = config
        self._messages = messages
        self._credentials = credentials
        self._keep = keep
        self._next_id = 1  # of requests, +1 for each
        self._news = asyncio.Event()  # set by each message and by the end of the connection
        self._connection: ClientConnection  # open from `__aenter__` on
        self._reading: asyncio.Task[None]  # reads until the connection is closed

    async def __aenter__(self) -> Self:
        try:
            self._connection = await connection(self._config, ClientConnection)
        except InvalidStatus as error:
            if locations := error.response.headers.get_all("Location"):
                self._messages.findings.note("no_redirect", False, f"to {locations[0]}")
            raise VisitFailed(in_words(error)) from None
        except (OSError, EOFError, TimeoutError, WebSocketException) as error:
            raise VisitFailed(in_words(error)) from None
        self._messages.findings.note("no_redirect", True, self._config.address)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()
        await self._reading

    async def ping(self) -> float | None:
        """Return the seconds until a ping was answered; None if it was not in time."""
        sent = time.monotonic()
        answered = await self._ask(requests.ping)
        well = answered.number > 0 and answered.error is None
        seconds = answered.at - sent
        shown = f"{seconds * 1000:.0f} ms" if well else answered.error or "no answer"
        self._messages.findings.note("pings_answered", well, shown)
        return seconds if well else None

    async def server_time(self) -> tuple[float, float] | None:
        """Return the bounds of what the server's clock is ahead of ours, in seconds; None if it is not read.

        See `bridge.exchange.clock`.
        """
        sent = time.time()
        answered = await self._ask(requests.time)
        if not isinstance(answered.result, int | float):
            return None
        return clock.bounds(answered.result, sent, time.time())

    async def log_in(self) -> Answered:
        """Log in, signed with the server's clock, unless that is too far from ours."""
        assert self._credentials is not None  # noqa: S101 - a wire without credentials has nothing to log in
        bounds = await self.server_time()
        most = self._config.max_clock_offset
        if bounds and (bounds[0] > most or bounds[1] < -most):
            return Answered(error=f"nothing signed: server.time is {bounds[0]:+.0f} s off")
        milliseconds = int((time.time() + (bounds[0] if bounds else 0.0)) * 1000)
        credentials = self._credentials
        self._messages.findings.confidential.note_signature(credentials, milliseconds)
        return await self._ask(lambda number: requests.auth(number, credentials, milliseconds))

    async def subscribe(self, channel: str, symbols: Sequence[str]) -> Answered:
        """Subscribe, and return the answer."""
        self.line.asked.update((channel, symbol) for symbol in symbols or [""])
        return await self._ask(lambda number: requests.subscribe(number, channel, symbols))

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until a message makes a condition true, for at most so long; return whether it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition() and not self.closed:
                    self._news.clear()
                    await self._news.wait()
        return condition()

    async def clean_comes(self, channel: str, symbol: str, after: int = 0) -> bool:
        """Wait for one more list or snapshot than there were; return whether it comes in time."""
        pushed = self.line.pushed[channel, symbol]
        return await self.until(lambda: pushed.clean > after, self._config.reply_timeout)

    async def _ask(self, request: Callable[[int], Request]) -> Answered:
        """Send a request and wait for its answer; without one its number is 0."""
        number = self._next_id
        self._next_id += 1
        answered = self.line.answers[number]
        text = request(number)
        try:
            await self._connection.send(text)
        except ConnectionClosed:
            return answered
        in_time = await self.until(lambda: answered.number > 0, self._config.reply_timeout)
        if in_time or not self.closed:
            self._messages.findings.note("answers_in_time", in_time, orjson.loads(text)["method"])
        return answered

    async def _read(self) -> None:
        try:
            async for message in self._connection:
                binary = isinstance(message, bytes)
                frame = message if isinstance(message, bytes) else message.encode()
                text = self._messages.take(self.line, frame, binary, time.monotonic())
                if text is not None and self._keep is not None:
                    self._keep(text)
                self._news.set()
        except WebSocketException as error:
            self.closed = self._messages.findings.confidential.words(str(error))
        else:
            self.closed = "closed by the exchange"
        finally:
            self._news.set()
