"""The life of one session as a state machine: authenticate, subscribe, keep alive, give up.

Sans-I/O: frames and the time go in; requests to send, pushes, events, the time of the next call and the
reason for giving up come out. The caller owns the connection and the clock:

    session.start(now)                           # once the connection is open
    push = session.receive(frame, binary, now)   # for each frame; None: it was an answer
    session.tick(now)                            # no later than session.next_call()
    session.send_held(now)                       # session.held times, as the request budget allows
    for request in session.to_send(): ...        # after each of these calls
    for event in session.events(): ...           # likewise
    if session.over: ...                         # close the connection

Times are seconds of a monotonic clock.

Longer than 350 lines because its methods say what the caller has to do with each; what becomes of the
subscriptions is in `subscriptions`.
"""

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from bridge.errors import BadFrame
from bridge.exchange import requests
from bridge.exchange.awaited import NEVER
from bridge.exchange.clock import ServerClock
from bridge.exchange.events import ClockRead, Event, GivenUp, Ponged
from bridge.exchange.frames import Answer, Messages, Push, inflate, within
from bridge.exchange.refusals import login_ended
from bridge.exchange.requests import Credentials
from bridge.exchange.subscribing import Subscribe
from bridge.exchange.subscriptions import Subscriptions
from bridge.exchange.words import Confidential, Words

_YEAR_5138 = 1e11
_UNITS = (1.0, 1e3, 1e6)  # of the exchange's time in a second: which one it is tells its size

ANSWER_TIMEOUT = 60.0
"""Seconds to wait for the answer to a request other than a ping, at least."""


class _Time(msgspec.Struct):
    timestamp: int | float | str


_decode_time = msgspec.json.Decoder(int | float | str | _Time).decode


class SessionState(enum.Enum):
    """The state of a session, in the words of `/readyz`; see TRANSITIONS."""

    NEW = "new"
    CLOCK = "reading the server clock"
    AUTH = "authenticating"
    SUBSCRIBING = "subscribing"
    LIVE = "live"
    OVER = "over"


TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = {
    SessionState.NEW: frozenset({SessionState.CLOCK, SessionState.SUBSCRIBING}),
    SessionState.CLOCK: frozenset({SessionState.AUTH, SessionState.OVER}),
    SessionState.AUTH: frozenset({SessionState.SUBSCRIBING, SessionState.OVER}),
    SessionState.SUBSCRIBING: frozenset({SessionState.LIVE, SessionState.OVER}),
    SessionState.LIVE: frozenset({SessionState.SUBSCRIBING, SessionState.OVER}),
    SessionState.OVER: frozenset(),
}
"""Sessions with credentials begin at CLOCK, others at SUBSCRIBING. `subscribe` leads back from LIVE."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The intervals and timeouts of a session, in seconds.

    `reply_timeout` is for pings; other requests are waited for up to `answer_timeout`, while pings are
    answered, or as long as for pings if that is longer.
    `retry_refused` is the time until a refused subscription is requested again; it doubles with each retry.
    If the server's clock is more than `max_clock_offset` from the local one, nothing is signed.
    """

    ping_interval: float = 15.0
    reply_timeout: float = 10.0
    retry_refused: float = 30.0
    max_clock_offset: float = NEVER
    answer_timeout: float = ANSWER_TIMEOUT


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """A request that waits for its answer."""

    method: str
    sent: float
    deadline: float
    patience: float  # seconds, from when it was sent or reading was resumed to the deadline


class Session:
    """One session of the exchange's protocol.

    `wanted` maps each channel to its symbols, none for a channel that is subscribed by nothing. `wall_offset`
    is the local wall-clock time minus the monotonic time, in seconds; requests are signed with the server's
    clock once it is known. A frame may inflate to at most `max_frame_bytes`.

    The first subscribe requests are sent at once: one for each channel, as far as its symbols fit into one.
    Later ones are `held` until the caller sends each of them with `send_held`: for subscriptions that are
    added, for the parts of a request that was refused as a whole, for retries of subscriptions that were
    refused on their own, and for repeats (see `ask_again`). `Subscriptions` says what each of them names.

    A subscription to a channel of `begins_clean` has to bring a clean list or a snapshot once it is
    confirmed; `CleanDue` says when.
    """

    def __init__(
        self,
        wanted: Mapping[str, Sequence[str]],
        *,
        timing: Timing,
        wall_offset: float,
        max_frame_bytes: int,
        credentials: Credentials | None = None,
        begins_clean: Collection[str] = (),
    ) -> None:
        self.state = SessionState.NEW  # moved along TRANSITIONS by `_enter` only
        self.over: GivenUp | None = None  # why the session ended; set once, together with state OVER
        self._timing = timing
        self._credentials = credentials
        self._max_frame_bytes = max_frame_bytes
        self.wall_offset = wall_offset
        # What is known of the exchange's clock; the caller may replace it, so that several sessions share it.
        self.clock = ServerClock()
        self._clock_asked_at = NEVER  # when to ask for it again; NEVER if that is not planned
        self._unanswered: dict[int, _Unanswered] = {}  # by request id, removed by their answer
        self._next_id = 1  # of requests, +1 for each
        self._next_ping = 0.0  # when the next ping is due; moved on by each ping
        self.fresh_at = 0.0  # when it was last pushed to, started, resumed, or became live
        self.live_at = NEVER  # when it became live for the first time
        # When it was last pushed to, or a subscribe request was answered; -NEVER before the first time.
        self._served_at = -NEVER
        self._paused = False  # between `pause` and `resume`
        # What no text of the exchange may show. The owner may replace it before the start, by that of all
        # accounts of the process.
        self.confidential = Confidential([] if credentials is None else [credentials])
        self._messages = Messages(self._words)
        self._to_send: list[requests.Request] = []  # emptied by `to_send`
        self._events: list[Event] = []  # emptied by `events`; `_subscriptions` appends to it, too
        self._subscriptions = Subscriptions(
            wanted,
            retry_refused=timing.retry_refused,
            reply_timeout=timing.reply_timeout,
            begins_clean=begins_clean,
            events=self._events,
        )

    # Called by the owner of the connection

    def put_aside(self, refused: Iterable[tuple[str, str]]) -> None:
        """Take subscriptions, by channel and symbol, for refused because of their symbols, before the start.

        Nothing is asked for at first, and no event is made of it: an earlier session has found it out.
        """
        self._subscriptions.put_aside(refused)

    def start(self, now: float) -> None:
        """Begin. To be called once, when the connection is open."""
        self._next_ping = now + self._timing.ping_interval
        self.fresh_at = now
        patience = NEVER if self._credentials is None else None  # it is needed to sign only
        self._to_send.append(requests.time(self._expect("server.time", now, patience)))
        if self._credentials is None:
            self._subscribe_wanted(now)
        else:
            self._enter(SessionState.CLOCK)

    def receive(self, frame: bytes, binary: bool, now: float) -> Push | None:
        """Take one frame as it came, binary or text; return it if it is a push.

        An answer is matched to its request by id; a second answer to the same request is ignored.

        An error that answers no request, or not any more, ends a session with credentials if it certainly
        says that the login has ended: private channels are silent for days, so nothing else would show it.

        Raises:
            BadFrame: the frame is not a message of the protocol. The session continues, except for that.
        """
        limit = self._max_frame_bytes
        message = self._messages.decode(inflate(frame, limit) if binary else within(frame, limit))
        if type(message) is Push:
            self.fresh_at = self._served_at = now
            return message
        assert isinstance(message, Answer)  # noqa: S101
        request = None if message.id is None else self._unanswered.pop(message.id, None)
        if self.over:
            return None
        if message.id is not None and request is not None:
            self._answered(message.id, message, request, now)
        elif message.error is not None:
            self._note_error(message.error)
            raise BadFrame("unknown_method", f"an error that answers no request: {message.error}")
        return None

    def overdue(self, now: float) -> list[tuple[int, Subscribe]]:
        """Return the subscribe requests, with their ids, that `tick` would take for unanswered now.

        Those that bring data may be taken for `accepted` before.
        """
        if self._paused or self.over:
            return []
        asking = self._subscriptions.unanswered
        return [(one, asking[one]) for one in self._late(now) if one in asking]

    @property
    def asking(self) -> Mapping[int, Subscribe]:
        """The subscribe requests that wait for their answers, by id; those to be sent are among them."""
        return self._subscriptions.unanswered

    def accepted(self, request_id: int, now: float) -> None:
        """Take an overdue request for accepted, because the exchange pushes what it asked for."""
        del self._unanswered[request_id]
        self._settle(request_id, None, now)

    def tick(self, now: float) -> None:
        """Do what is due: send the ping, request something again, or give up on a silent exchange.

        A subscribe request that is not answered ends the session only if the exchange has served it nothing
        since: neither a push, nor the answer to another one. Else the same is requested again later, and
        ends no session then: others may be quiet for days.

        The exchange closes a connection after 60 s without a message from the client, however much it
        pushes itself (FACTS, section 2): pings have a fixed timer.
        """
        if self.over:
            return
        if now >= self._next_ping:
            self.ping(now)
            self._plan_question(now)
        if self._paused:
            return
        if now >= self._clock_asked_at:
            self._ask_for_clock(now)
        for request_id in self._late(now):
            request = self._unanswered[request_id]
            why = f"no response to {request.method} within {request.patience:g} s"
            asked = self.asking.get(request_id)
            if asked is None or not (asked.ignored or self._served_at > request.sent):
                self._give_up("timeout", why)
                return
            del self._unanswered[request_id]
            self._subscriptions.not_answered(request_id, why, now)
            self._live_if_answered(now)
        self._subscriptions.tick(now)

    def next_call(self) -> float:
        """Return the time by which `tick` has to be called."""
        if self._paused:
            return self._next_ping
        deadlines = [request.deadline for request in self._unanswered.values()]
        return min(self._next_ping, self._clock_asked_at, self._subscriptions.next_at, *deadlines)

    @property
    def wanted(self) -> Mapping[str, Sequence[str]]:
        """The symbols of each channel that it subscribes to, confirmed or not; none: all of the channel."""
        return self._subscriptions.wanted

    @property
    def channels(self) -> Collection[str]:
        """The channels that it subscribes to, confirmed or not; a view that grows by `subscribe`."""
        return self._subscriptions.wanted.keys()

    @property
    def newest_request(self) -> int:
        """The id of the newest request; ids rise by 1. 0 before the first."""
        return self._next_id - 1

    @property
    def held(self) -> int:
        """The number of subscribe requests that wait for `send_held` alone.

        Of each channel it is one at most, and none as long as another one is unanswered.
        """
        return self._subscriptions.held

    def send_held(self, now: float) -> Subscribe | None:
        """Send the subscribe request that has been held the longest, and return it.

        None is sent if none is `held`, or once the session is over.
        """
        request = None if self.over else self._subscriptions.pop()
        if request is not None:
            self._subscribe(request, now)
        return request

    def to_send(self) -> list[requests.Request]:
        """Return the requests to send, in order, each once."""
        sending, self._to_send = self._to_send, []
        return sending

    def events(self) -> list[Event]:
        """Return the events since the last call."""
        happened = self._events.copy()
        self._events.clear()
        return happened

    def subscribe(self, channel: str, symbols: Sequence[str]) -> None:
        """Add symbols of a channel, at any time of the session's life."""
        self._subscriptions.want(channel, symbols)
        if self.state in (SessionState.SUBSCRIBING, SessionState.LIVE):
            self._subscriptions.hold(channel, symbols)
            if self.state is SessionState.LIVE:
                self._enter(SessionState.SUBSCRIBING)

    def forget(self, channel: str, symbols: Sequence[str], now: float) -> None:
        """Want symbols of a channel no longer. Nothing is sent, so what is confirmed goes on."""
        self._subscriptions.forget(channel, symbols)
        self._live_if_answered(now)

    def confirm(self, channel: str, symbols: Sequence[str], now: float) -> None:
        """Take subscriptions that were refused for confirmed, because the exchange pushes to them."""
        if not self.over:
            self._subscriptions.confirm(channel, symbols, now)
            self._hold_repeats(now)

    def ask_again(self, channel: str, now: float, missing: Sequence[str] = ()) -> None:
        """Request the clean lists or snapshots of a channel again: one was lost, or some are `missing`.

        A repeat names all confirmed symbols of the channel. It is held like other requests, once no other
        request of the channel is held or unanswered, and the sooner a repeat follows others the longer it
        waits (see `Repeats`). The session stays live, and a refused repeat changes nothing.

        Its answer starts the deadlines of `CleanDue` anew. Those `missing` at one keep what is left of
        theirs: they are due once more `reply_timeout` from now, whatever becomes of the repeat.
        """
        if not self.over:
            self._subscriptions.ask_again(channel, now, missing)
            self._hold_repeats(now)

    def ping(self, now: float) -> int:
        """Send a ping now and return its id: once answered, all that was pushed before has arrived."""
        self._next_ping = now + self._timing.ping_interval
        request_id = self._expect("server.ping", now)
        self._to_send.append(requests.ping(request_id))
        return request_id

    def pause(self) -> None:
        """Expect no answers and no pushes, because the caller has stopped reading. Pings continue."""
        self._paused = True

    def resume(self, now: float) -> None:
        """Expect answers and pushes again, as if everything unanswered had just been sent.

        Example, with pings every 15 s, `reply_timeout` 10 s and `retry_refused` 30 s: at 0 a subscription is
        refused, so that its retry is due at 30, and reading pauses. At 15 and 30 pings go out. Nobody reads
        their pongs, so neither the deadlines at 25 and 40 nor the retry at 30 count. At 41 reading resumes:
        both pings now have until 51, and the retry, which is overdue, is held at once. A pause that ends at
        29 leaves the retry at 30.
        """
        self._paused = False
        if self.over:
            return
        self.fresh_at = now
        for request_id, request in self._unanswered.items():
            self._unanswered[request_id] = replace(request, deadline=now + request.patience)
        self._subscriptions.resume(now)

    @property
    def live(self) -> bool:
        """True when every subscription is confirmed or refused.

        A refused one counts as refused while it is retried: a retry neither makes the session look
        unready, nor fresh.
        """
        return self.state is SessionState.LIVE

    def _words(self, text: str) -> Words:
        return self.confidential.words(text)  # which may have been replaced

    # The state machine

    def _answered(self, request_id: int, answer: Answer, request: _Unanswered, now: float) -> None:
        error = answer.error
        match request.method:
            case "server.ping":
                if error is None:
                    self._events.append(Ponged(request_id, now - request.sent))
                else:
                    self._give_up("rejected", f"server.ping refused: {error}")
            case "server.time":
                self._read_clock(answer, request.sent, now)
                if self.state is SessionState.CLOCK:
                    self._authenticate(now)
            case "server.auth":
                # An account that only counts as logged in would be silent without anybody noticing.
                if error is None and answer.accepted:
                    self._subscribe_wanted(now)
                else:
                    why = error or f"no success: {self._words(bytes(answer.result).decode(errors='replace'))}"
                    self._give_up("rejected", f"server.auth refused: {why}")
            case _:
                self._served_at = now
                self._settle(request_id, error, now)

    def _note_error(self, error: str) -> None:
        """Take an error that answers no request."""
        wanted = (one for symbols in self.wanted.values() for one in symbols)
        if self._credentials is not None and login_ended(error, wanted):
            self._give_up("rejected", f"login ended: {error}")

    def _settle(self, request_id: int, error: str | None, now: float) -> None:
        """Settle a subscribe request."""
        self._subscriptions.answered(request_id, error, now)
        self._live_if_answered(now)
        self._hold_repeats(now)

    def _read_clock(self, answer: Answer, sent: float, now: float) -> None:
        """Take an answer to server.time; one that cannot be read changes nothing."""
        try:
            found = _decode_time(answer.result)
            time = float(found.timestamp if isinstance(found, _Time) else found)
        except (ValueError, OverflowError, msgspec.DecodeError):
            return
        seconds = next((time / unit for unit in _UNITS if 0 < time / unit < _YEAR_5138), None)
        if answer.error is None and seconds is not None:
            self.clock.add(seconds, sent, now)
            low, high = self.clock.within(now)
            self._events.append(ClockRead((low + high) / 2 - self.wall_offset))

    def _late(self, now: float) -> list[int]:
        """Return the ids of the requests that should have been answered by now."""
        return [one for one, request in self._unanswered.items() if now >= request.deadline]

    def _plan_question(self, now: float) -> None:
        """Plan to ask for the exchange's clock again, if that is due and the last answer is not missing."""
        missing = any(request.method == "server.time" for request in self._unanswered.values())
        if self.live and not self._paused and not missing and self._clock_asked_at == NEVER:
            self._clock_asked_at = self.clock.claim_question(now) or NEVER

    def _ask_for_clock(self, now: float) -> None:
        """Ask for the exchange's clock; a session does without the answer."""
        self._clock_asked_at = NEVER
        request_id = self._expect("server.time", now, patience=NEVER)
        self._to_send.append(requests.time(request_id))

    def _authenticate(self, now: float) -> None:
        """Log in, with the least that the exchange's clock may show; with ours if that is not known.

        So a signature is behind by the error of what is known, and never ahead; REST allows five seconds
        behind and one ahead (FACTS, section 8). It is not made if the clocks are too far apart: a signature
        for another day could be kept and used.
        """
        assert self._credentials is not None  # noqa: S101
        offset = self.clock.within(now)[0] if self.clock.known else self.wall_offset
        ahead, most = offset - self.wall_offset, self._timing.max_clock_offset
        if abs(ahead) > most:
            found = f"the exchange's clock is {ahead:+.0f} s from the local one"
            self._give_up("rejected", f"nothing signed: {found}, and max_clock_offset is {most:g} s")
            return
        self._enter(SessionState.AUTH)
        timestamp_ms = int((now + offset) * 1000)
        self.confidential.note_signature(self._credentials, timestamp_ms)
        self._to_send.append(requests.auth(self._expect("server.auth", now), self._credentials, timestamp_ms))

    def _subscribe_wanted(self, now: float) -> None:
        self._enter(SessionState.SUBSCRIBING)
        for one in self._subscriptions.begin(now):
            self._subscribe(one, now)
        self._live_if_answered(now)

    def _subscribe(self, one: Subscribe, now: float) -> None:
        request_id = self._expect(f"{one.channel}.subscribe", now)
        named = self._subscriptions.sent(request_id, one, now)
        self._to_send.append(requests.subscribe(request_id, one.channel, named))

    def _hold_repeats(self, now: float) -> None:
        if not self._paused:
            self._subscriptions.hold_repeats(now)

    def _live_if_answered(self, now: float) -> None:
        if self.state is SessionState.SUBSCRIBING and self._subscriptions.settled:
            self.fresh_at = now
            if self.live_at == NEVER:
                self.live_at = now
            self._enter(SessionState.LIVE)

    def _expect(self, method: str, now: float, patience: float | None = None) -> int:
        """Return the id for a request that is sent now and has to be answered in time."""
        request_id = self._next_id
        self._next_id += 1
        if patience is None:
            patience = self._timing.reply_timeout
            if method != "server.ping":
                patience = max(patience, self._timing.answer_timeout)
        self._unanswered[request_id] = _Unanswered(method, now, now + patience, patience)
        return request_id

    def _give_up(self, reason: Literal["timeout", "rejected"], detail: str) -> None:
        self.over = GivenUp(reason, detail)
        self._subscriptions.clear()
        self._enter(SessionState.OVER)

    def _enter(self, state: SessionState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"  # noqa: S101
        self.state = state
