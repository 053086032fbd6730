"""The life of one session as a state machine: authenticate, subscribe, keep alive, give up.

Sans-I/O: frames and the time go in; what to send, what was pushed, when to be called next and why to
give up come out. The caller owns the socket and the clock:

    session.start(now)                      # once the socket is open
    push = session.receive(text, now)       # each message, inflated; None: it was an answer
    session.tick(now)                       # no later than session.next_call()
    session.send_held(now)                  # session.held times, each when there is time for a request
    for request in session.to_send(): ...   # after each of these
    for event in session.events(): ...
    if session.over: ...                    # close the socket

Times are seconds of a monotonic clock.
"""

import enum
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import msgspec

from bridge.exchange import requests
from bridge.exchange.frames import Answer, Push, decode

Symbols = tuple[str, ...]

_LONGEST_AGAIN = 900.0  # seconds between two requests for the same that was refused

# The most symbols that other clients have been seen to put into one subscribe.
_CHUNK = 20

_YEAR_5138 = 1e11

_decode_time = msgspec.json.Decoder(int | float | str).decode


class State(enum.Enum):
    """Where a session stands; see TRANSITIONS."""

    NEW = "new"
    CLOCK = "asking for the server's clock"
    AUTH = "authenticating"
    SUBSCRIBING = "subscribing"
    LIVE = "live"
    OVER = "over"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.NEW: frozenset({State.CLOCK, State.SUBSCRIBING}),
    State.CLOCK: frozenset({State.AUTH, State.OVER}),
    State.AUTH: frozenset({State.SUBSCRIBING, State.OVER}),
    State.SUBSCRIBING: frozenset({State.LIVE, State.OVER}),
    State.LIVE: frozenset({State.SUBSCRIBING, State.OVER}),
    State.OVER: frozenset(),
}
"""Sessions with credentials begin at CLOCK, others at SUBSCRIBING; a later subscribe leads back from LIVE."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account's key and secret; neither shows in a repr."""

    api_key: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Timing:
    """The patience of a session, in seconds."""

    ping_interval: float = 15.0
    reply_timeout: float = 10.0
    stale_after: float = 120.0
    ask_again: float = 30.0


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a session is over by its own decision."""

    reason: Literal["timeout", "stale", "rejected"]
    detail: str


@dataclass(frozen=True, slots=True)
class ClockRead:
    """The server's clock is `offset` seconds ahead of the local one."""

    offset: float


@dataclass(frozen=True, slots=True)
class Ponged:
    """The ping with this id was answered after `seconds`."""

    request_id: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The exchange accepted these subscriptions."""

    channel: str
    symbols: Symbols


@dataclass(frozen=True, slots=True)
class Refused:
    """The exchange refused this subscription, in its own words; it is asked for again."""

    channel: str
    symbols: Symbols
    error: str


@dataclass(frozen=True, slots=True)
class Split:
    """The exchange refused these subscriptions together, so each is asked for by itself."""

    channel: str
    symbols: Symbols
    error: str


Event = ClockRead | Ponged | Confirmed | Refused | Split


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request without an answer yet."""

    what: Literal["ping", "time", "auth", "subscribe"]
    sent: float
    deadline: float
    channel: str = ""
    symbols: Symbols = ()
    again: bool = False


class _Held(NamedTuple):
    """A subscription that is still to be asked for; `again` if it was refused before."""

    channel: str
    symbols: Symbols
    again: bool


class Session:
    """One session of the exchange's protocol.

    `wanted` maps each channel to its symbols (none for `all_ticker`). `wall_offset` is local wall-clock
    time minus the monotonic time, in seconds; the signature uses the server's clock as soon as it is known.

    The first subscribe requests go out at once. Those that follow are `held` until the caller lets each of
    them go: for what is added, for each symbol of a chunk that was refused, and, ever less often, for what
    was refused by itself.
    """

    def __init__(
        self,
        wanted: Mapping[str, Sequence[str]],
        *,
        timing: Timing,
        wall_offset: float,
        credentials: Credentials | None = None,
    ) -> None:
        self.state = State.NEW
        self.over: GivenUp | None = None
        self._wanted = {channel: tuple(symbols) for channel, symbols in wanted.items()}
        self._timing = timing
        self._credentials = credentials
        self._wall_offset = wall_offset
        self._server_offset = wall_offset
        self._asked: dict[int, _Asked] = {}
        self._next_id = 1
        self._next_ping = 0.0
        self._last_push = 0.0
        self._paused = False
        self._held: deque[_Held] = deque()
        self._refused: list[_Held] = []
        self._ask_again_at = float("inf")
        self._ask_again_after = timing.ask_again
        self._to_send: list[requests.Request] = []
        self._events: list[Event] = []

    # What the caller does

    def start(self, now: float) -> None:
        """Begin; the socket is open."""
        self._next_ping = now + self._timing.ping_interval
        self._last_push = now
        self._ask_time(now)
        if self._credentials is None:
            self._subscribe_wanted(now)
        else:
            self._enter(State.CLOCK)

    def receive(self, text: bytes, now: float) -> Push | None:
        """Take one message; return it if it is a push. An answer is matched by its id and used up.

        Raises:
            BadFrame: neither of the two; the session goes on.
        """
        message = decode(text)
        if type(message) is Push:
            self._last_push = now
            return message
        assert isinstance(message, Answer)  # noqa: S101
        asked = self._asked.pop(message.id, None)
        if asked is not None and not self.over:
            self._answered(message, asked, now)
        return None

    def tick(self, now: float) -> None:
        """Send the ping that is due, and give up on a server that answers or pushes nothing.

        The server hangs up after 60 s without a message from the client, whatever it pushes itself: the
        ping has a fixed timer.
        """
        if self.over:
            return
        if now >= self._next_ping:
            self.ping(now)
        if self._paused:
            return
        late = next((asked for asked in self._asked.values() if now >= asked.deadline), None)
        if late is not None:
            self._give_up("timeout", f"no answer to {late.what} within {self._timing.reply_timeout:g} s")
        elif now >= self._stale_at():
            self._give_up("stale", f"nothing but answers for {self._timing.stale_after:g} s")
        else:
            self._retry_refused(now)

    def next_call(self) -> float:
        """Return the time by which `tick` has to be called."""
        if self._paused:
            return self._next_ping
        deadlines = [asked.deadline for asked in self._asked.values()]
        return min(self._next_ping, self._stale_at(), self._ask_again_at, *deadlines)

    @property
    def held(self) -> int:
        """The number of subscribe requests that wait to be let go."""
        return len(self._held)

    def send_held(self, now: float) -> None:
        """Let go of the oldest of them."""
        if not self.over:
            self._subscribe(self._held.popleft(), now)

    def to_send(self) -> list[requests.Request]:
        """Return the requests to send, in order, once."""
        sending, self._to_send = self._to_send, []
        return sending

    def events(self) -> list[Event]:
        """Return what happened since the last call."""
        happened, self._events = self._events, []
        return happened

    def subscribe(self, channel: str, symbols: Sequence[str]) -> None:
        """Add symbols of a channel to the session, at any time of its life."""
        self._wanted[channel] = self._wanted.get(channel, ()) + tuple(symbols)
        if self.state in (State.SUBSCRIBING, State.LIVE):
            self._held += [_Held(channel, chunk, again=False) for chunk in _chunks(symbols)]
            if self.state is State.LIVE:
                self._enter(State.SUBSCRIBING)

    def ping(self, now: float) -> int:
        """Send a ping now and return its id: when it is answered, all pushes of before have arrived."""
        self._next_ping = now + self._timing.ping_interval
        request_id = self._ask(_Asked("ping", now, now + self._timing.reply_timeout))
        self._to_send.append(requests.ping(request_id))
        return request_id

    def pause(self) -> None:
        """Stop waiting for answers, since the caller stops reading; pings go on."""
        self._paused = True

    def resume(self, now: float) -> None:
        """Wait for answers again, with all their time before them.

        Retries that became due during the pause are held from here on, so that `next_call` lies ahead again.
        """
        self._paused = False
        if self.over:
            return
        self._last_push = now
        deadline = now + self._timing.reply_timeout
        for request_id, asked in self._asked.items():
            self._asked[request_id] = replace(asked, deadline=deadline)
        self._retry_refused(now)

    def without_secrets(self, words: str) -> str:
        """Return words of the exchange as they may be told: it may repeat what it refuses."""
        if self._credentials is not None:
            for secret in (self._credentials.api_key, self._credentials.secret):
                words = words.replace(secret, "***")
        return words

    @property
    def live(self) -> bool:
        """True when every subscription is confirmed or refused.

        A refused subscription that is being retried still counts as refused: a session does not stop being
        live, nor look fresh again, every time it retries one.
        """
        return self.state is State.LIVE

    # The machine

    def _answered(self, answer: Answer, asked: _Asked, now: float) -> None:
        error = None if answer.error is None else self.without_secrets(answer.error)
        match asked.what:
            case "ping":
                if error is None:
                    self._events.append(Ponged(answer.id, now - asked.sent))
                else:
                    self._give_up("rejected", f"server.ping refused: {error}")
            case "time":
                self._read_clock(answer, now)
                if self.state is State.CLOCK:
                    self._authenticate(now)
            case "auth":
                if error is None:
                    self._subscribe_wanted(now)
                else:
                    self._give_up("rejected", f"server.auth refused: {error}")
            case "subscribe":
                self._subscribed(asked, error, now)

    def _read_clock(self, answer: Answer, now: float) -> None:
        """Take over the server's clock; one that can't be read leaves the local one in place.

        It counts whole seconds, so the signature is up to one behind and never ahead: the exchange
        allows five behind and one ahead.
        """
        try:
            seconds = float(_decode_time(answer.result))
        except (ValueError, OverflowError, msgspec.DecodeError):
            return
        if answer.error is None and 0 < seconds < _YEAR_5138:
            self._server_offset = seconds - now
            self._events.append(ClockRead(self._server_offset - self._wall_offset))

    def _authenticate(self, now: float) -> None:
        assert self._credentials is not None  # noqa: S101
        self._enter(State.AUTH)
        request_id = self._ask(_Asked("auth", now, now + self._timing.reply_timeout))
        timestamp_ms = int((now + self._server_offset) * 1000)
        credentials = self._credentials
        self._to_send.append(requests.auth(request_id, credentials.api_key, credentials.secret, timestamp_ms))

    def _subscribe_wanted(self, now: float) -> None:
        self._enter(State.SUBSCRIBING)
        for channel, symbols in self._wanted.items():
            for chunk in _chunks(symbols):
                self._subscribe(_Held(channel, chunk, again=False), now)
        self._live_if_answered(now)

    def _subscribe(self, one: _Held, now: float) -> None:
        deadline = now + self._timing.reply_timeout
        request_id = self._ask(_Asked("subscribe", now, deadline, one.channel, one.symbols, one.again))
        self._to_send.append(requests.subscribe(request_id, one.channel, one.symbols))

    def _subscribed(self, asked: _Asked, error: str | None, now: float) -> None:
        """Settle one request; what was refused together is asked for one by one, to find the bad one."""
        if error is None:
            self._events.append(Confirmed(asked.channel, asked.symbols))
        elif len(asked.symbols) > 1:
            self._events.append(Split(asked.channel, asked.symbols, error))
            self._held += [_Held(asked.channel, (symbol,), again=False) for symbol in asked.symbols]
        else:
            self._events.append(Refused(asked.channel, asked.symbols, error))
            self._refused.append(_Held(asked.channel, asked.symbols, again=True))
            if self._ask_again_at == float("inf"):
                self._ask_again_at = now + self._ask_again_after
        self._live_if_answered(now)

    def _retry_refused(self, now: float) -> None:
        """Hold the refused subscriptions for another request, once their time has come."""
        if now >= self._ask_again_at:
            self._held += self._refused
            self._refused.clear()
            self._ask_again_at = float("inf")
            self._ask_again_after = min(2 * self._ask_again_after, _LONGEST_AGAIN)

    def _live_if_answered(self, now: float) -> None:
        asked = any(one.what == "subscribe" and not one.again for one in self._asked.values())
        waiting = asked or any(not one.again for one in self._held)
        if self.state is State.SUBSCRIBING and not waiting:
            self._last_push = now
            self._enter(State.LIVE)

    def _ask_time(self, now: float) -> None:
        request_id = self._ask(_Asked("time", now, now + self._timing.reply_timeout))
        self._to_send.append(requests.time(request_id))

    def _ask(self, asked: _Asked) -> int:
        request_id = self._next_id
        self._next_id += 1
        self._asked[request_id] = asked
        return request_id

    def _stale_at(self) -> float:
        """Return when a feed without a push counts as dead.

        Private channels are silent until something changes: there only pings tell the living from the dead.
        """
        if self._credentials is not None:
            return float("inf")
        return self._last_push + self._timing.stale_after

    def _give_up(self, reason: Literal["timeout", "stale", "rejected"], detail: str) -> None:
        self.over = GivenUp(reason, detail)
        self._held.clear()
        self._enter(State.OVER)

    def _enter(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"  # noqa: S101
        self.state = state


def subscribes(wanted: Mapping[str, Sequence[str]]) -> int:
    """Return how many subscribe requests a session sends for these symbols of each channel."""
    return sum(len(_chunks(symbols)) for symbols in wanted.values())


def _chunks(symbols: Sequence[str]) -> list[Symbols]:
    """Return what one request each asks for; a channel without symbols is one request."""
    return [tuple(symbols[first : first + _CHUNK]) for first in range(0, max(len(symbols), 1), _CHUNK)]
