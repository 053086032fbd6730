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

Longer than 350 lines because it is one state machine, whose parts change the same few values; what they queue
and wait for is in `subscribing` and `awaited`.
"""

import enum
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from bridge.exchange import requests
from bridge.exchange.awaited import NEVER, Awaited, Repeats
from bridge.exchange.clock import ServerClock
from bridge.exchange.events import (
    ClockRead,
    Confirmed,
    Event,
    GivenUp,
    Ponged,
    RepeatRefused,
    RequestPostponed,
    RequestSplit,
    SubscriptionRefused,
    Symbols,
)
from bridge.exchange.frames import Answer, Messages, Push, inflate, within
from bridge.exchange.refusals import Meaning, blamed, meaning
from bridge.exchange.requests import Credentials
from bridge.exchange.subscribing import ALIKE, MOST_SYMBOLS, Subscribe, SubscribeQueue, subscribes
from bridge.exchange.words import Confidential, Words

_YEAR_5138 = 1e11

ANSWER_TIMEOUT = 60.0
"""Seconds to wait for the answer to a request other than a ping, at least."""

_SAME_MOMENT = 5.0  # seconds within which one answer to a subscribe request helps to explain another

_decode_time = msgspec.json.Decoder(int | float | str).decode


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

    `reply_timeout` is for pings; other requests are waited for up to a minute, while pings are answered.
    `retry_refused` is the time until a refused subscription is requested again; it doubles with each retry.
    If the server's clock is more than `max_clock_offset` from the local one, nothing is signed.
    """

    ping_interval: float = 15.0
    reply_timeout: float = 10.0
    retry_refused: float = 30.0
    max_clock_offset: float = NEVER


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """A request that waits for its answer; `subscribe` is set if it is a subscribe request."""

    method: str
    sent: float
    deadline: float
    patience: float  # seconds, from when it was sent or reading was resumed to the deadline
    subscribe: Subscribe | None


class Session:
    """One session of the exchange's protocol.

    `wanted` maps each channel to its symbols, none for a channel that is subscribed by nothing. `wall_offset`
    is the local wall-clock time minus the monotonic time, in seconds; requests are signed with the server's
    clock once it is known. A frame may inflate to at most `max_frame_bytes`.

    The first subscribe requests are sent at once: one for each channel, as far as its symbols fit into one.
    Later ones are `held` until the caller sends each of them with `send_held`: for subscriptions that are
    added, for the parts of a request that was refused as a whole, for retries of subscriptions that were
    refused on their own, and for repeats (see `ask_again`).

    A subscribe request may replace the one before it on the connection (FACTS, "Added later", on ViaBTC). So
    there is one at a time of each channel, and it names the confirmed symbols of its channel too. These come
    first: in ViaBTC's server, a request that is refused subscribes to the symbols in front of the bad one.
    Example: A and B are confirmed, and C is added. The request names A B C, and only C is in question.

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
        self._wanted = {channel: tuple(symbols) for channel, symbols in wanted.items()}
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
        self._accepted_at = -NEVER  # when the exchange last accepted a subscribe request
        self._paused = False  # between `pause` and `resume`
        self._queue = SubscribeQueue(timing.retry_refused)  # of requests to come; empty once over
        self._begins_clean = frozenset(begins_clean)
        # By channel: its confirmed symbols, in that order. One is removed when the exchange says that it is
        # bad, or when it is forgotten.
        self._confirmed: defaultdict[str, dict[str, None]] = defaultdict(dict)
        # Confirmed ones that the exchange refuses to confirm again: no request names them as `others`.
        self._unnameable: set[tuple[str, str]] = set()
        # Whether requests name confirmed symbols too; False once the exchange has refused that.
        self._names_others = True
        self._aside: set[tuple[str, str]] = set()  # subscriptions that are refused anyway, see `put_aside`
        self._awaited = Awaited(timing.reply_timeout)  # clean lists and snapshots; none once over
        self._repeats = Repeats(timing.reply_timeout)  # that are needed; none once over
        # What no text of the exchange may show. The owner may replace it before the start, by that of all
        # accounts of the process.
        self.confidential = Confidential([] if credentials is None else [credentials])
        self._messages = Messages(self._words)
        self._to_send: list[requests.Request] = []  # emptied by `to_send`
        self._events: list[Event] = []  # emptied by `events`

    # Called by the owner of the connection

    def put_aside(self, refused: Iterable[tuple[str, str]]) -> None:
        """Take subscriptions, by channel and symbol, for refused because of their symbols, before the start.

        Nothing is asked for at first, and no event is made of it: an earlier session has found it out.
        """
        self._aside.update(refused)

    def start(self, now: float) -> None:
        """Begin. To be called once, when the connection is open."""
        self._next_ping = now + self._timing.ping_interval
        self.fresh_at = now
        self._to_send.append(requests.time(self._expect("server.time", now)))
        if self._credentials is None:
            self._subscribe_wanted(now)
        else:
            self._enter(SessionState.CLOCK)

    def receive(self, frame: bytes, binary: bool, now: float) -> Push | None:
        """Take one frame as it came, binary or text; return it if it is a push.

        An answer is matched to its request by id; a second answer to the same request is ignored.

        Raises:
            BadFrame: the frame is not a message of the protocol. The session continues.
        """
        limit = self._max_frame_bytes
        message = self._messages.decode(inflate(frame, limit) if binary else within(frame, limit))
        if type(message) is Push:
            self.fresh_at = now
            return message
        assert isinstance(message, Answer)  # noqa: S101
        request = self._unanswered.pop(message.id, None)
        if request is not None and not self.over:
            self._answered(message, request, now)
        return None

    def tick(self, now: float) -> None:
        """Do what is due: send the ping, request something again, or give up on a silent exchange.

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
        late = next((request for request in self._unanswered.values() if now >= request.deadline), None)
        if late is not None:
            self._give_up("timeout", f"no response to {late.method} within {late.patience:g} s")
        else:
            self._queue.hold_due_retries(now)
            self._events += self._awaited.take_due(now)
            self._hold_repeats(now)

    def next_call(self) -> float:
        """Return the time by which `tick` has to be called."""
        if self._paused:
            return self._next_ping
        deadlines = [request.deadline for request in self._unanswered.values()]
        repeats = [at for channel, at in self._repeats.wished() if not self._is_requesting(channel)]
        own = (self._next_ping, self._queue.retry_at, self._awaited.next_at, self._clock_asked_at)
        return min(*own, *deadlines, *repeats)

    @property
    def wanted(self) -> Mapping[str, Sequence[str]]:
        """The symbols of each channel that it subscribes to, confirmed or not; none: all of the channel."""
        return self._wanted

    @property
    def channels(self) -> Collection[str]:
        """The channels that it subscribes to, confirmed or not; a view that grows by `subscribe`."""
        return self._wanted.keys()

    @property
    def newest_request(self) -> int:
        """The id of the newest request; ids rise by 1. 0 before the first."""
        return self._next_id - 1

    @property
    def held(self) -> int:
        """The number of subscribe requests that wait for `send_held` alone.

        Of each channel it is one at most, and none as long as another one is unanswered.
        """
        return self._queue.sendable(self._busy)

    def send_held(self, now: float) -> Subscribe | None:
        """Send the subscribe request that has been held the longest, and return it.

        None is sent if none is `held`, or once the session is over.
        """
        request = None if self.over else self._queue.pop(self._busy)
        if request is not None:
            self._subscribe(request, now)
        return request

    def to_send(self) -> list[requests.Request]:
        """Return the requests to send, in order, each once."""
        sending, self._to_send = self._to_send, []
        return sending

    def events(self) -> list[Event]:
        """Return the events since the last call."""
        happened, self._events = self._events, []
        return happened

    def subscribe(self, channel: str, symbols: Sequence[str]) -> None:
        """Add symbols of a channel, at any time of the session's life."""
        self._wanted[channel] = self._wanted.get(channel, ()) + tuple(symbols)
        if self.state in (SessionState.SUBSCRIBING, SessionState.LIVE):
            self._queue.hold(subscribes(channel, symbols))
            if self.state is SessionState.LIVE:
                self._enter(SessionState.SUBSCRIBING)

    def forget(self, channel: str, symbols: Sequence[str], now: float) -> None:
        """Want symbols of a channel no longer. Nothing is sent, so what is confirmed goes on."""
        left = tuple(symbol for symbol in self._wanted.get(channel, ()) if symbol not in symbols)
        if left:
            self._wanted[channel] = left
        else:
            self._wanted.pop(channel, None)
        for symbol in symbols:
            self._confirmed[channel].pop(symbol, None)
        self._queue.drop(channel, tuple(symbols))
        self._live_if_answered(now)

    def confirm(self, channel: str, symbols: Sequence[str], now: float) -> None:
        """Take subscriptions that were refused for confirmed, because the exchange pushes to them."""
        if not self.over:
            self._queue.forget(channel, tuple(symbols))
            self._confirm(channel, symbols, now)
            self._hold_repeats(now)

    def ask_again(self, channel: str, now: float, missing: Sequence[str] = ()) -> None:
        """Request the clean lists or snapshots of a channel again: one was lost, or some are `missing`.

        A repeat names all confirmed symbols of the channel. It is held like other requests, once no other
        request of the channel is held or unanswered, and the sooner a repeat follows others the longer it
        waits (see `Repeats`). The session stays live, and a refused repeat changes nothing.

        Its answer starts the deadlines of `CleanDue` anew. Those `missing` at one keep what is left of
        theirs: they are due once more `reply_timeout` from now, whatever becomes of the repeat.
        """
        if self.over or not self._wanted.get(channel):
            return
        if channel in self._begins_clean:
            self._awaited.extend(channel, missing, now)
        if not self._queue.holds_repeat(channel):
            self._repeats.wish(channel, now)
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
        self._awaited.restart(now)
        self._queue.hold_due_retries(now)
        self._hold_repeats(now)

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

    def _answered(self, answer: Answer, request: _Unanswered, now: float) -> None:
        error = answer.error
        match request.method:
            case "server.ping":
                if error is None:
                    self._events.append(Ponged(answer.id, now - request.sent))
                else:
                    self._give_up("rejected", f"server.ping refused: {error}")
            case "server.time":
                self._read_clock(answer, request.sent, now)
                if self.state is SessionState.CLOCK:
                    self._authenticate(now)
            case "server.auth":
                if error is None:
                    self._subscribe_wanted(now)
                else:
                    self._give_up("rejected", f"server.auth refused: {error}")
            case _ if request.subscribe is not None:
                self._subscribed(request.subscribe, error, now)

    def _read_clock(self, answer: Answer, sent: float, now: float) -> None:
        """Take an answer to server.time; one that cannot be read changes nothing."""
        try:
            seconds = float(_decode_time(answer.result))
        except (ValueError, OverflowError, msgspec.DecodeError):
            return
        if answer.error is None and 0 < seconds < _YEAR_5138:
            self.clock.add(seconds, sent, now)
            low, high = self.clock.within(now)
            self._events.append(ClockRead((low + high) / 2 - self.wall_offset))

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
        for channel, symbols in self._wanted.items():
            for symbol in symbols:
                if (channel, symbol) in self._aside:
                    self._queue.put_aside(channel, (symbol,), now)
            asked = [symbol for symbol in symbols if (channel, symbol) not in self._aside]
            if asked or not symbols:
                for one in subscribes(channel, asked):
                    self._subscribe(one, now)
        self._live_if_answered(now)

    def _hold_repeats(self, now: float) -> None:
        """Hold the repeats that are needed and may be sent now."""
        if self._paused:
            return
        for channel, moment in self._repeats.wished():
            if now >= moment and not self._is_requesting(channel):
                self._repeats.drop(channel)
                if symbols := tuple(self._confirmed[channel]):
                    self._queue.hold([Subscribe(channel, symbols, repeat=True)])

    @property
    def _busy(self) -> set[str]:
        """The channels of which a subscribe request is unanswered."""
        return {one.subscribe.channel for one in self._unanswered.values() if one.subscribe}

    def _is_requesting(self, channel: str) -> bool:
        """Return whether a subscribe request of a channel is held or unanswered."""
        return self._queue.holds(channel) or channel in self._busy

    def _subscribe(self, one: Subscribe, now: float) -> None:
        if one.repeat:
            self._repeats.sent(one.channel, now)
        elif self._names_others and one.symbols and not one.alone:
            others = tuple(
                symbol
                for symbol in self._confirmed[one.channel]
                if symbol not in one.symbols and (one.channel, symbol) not in self._unnameable
            )
            if len(others) + len(one.symbols) <= MOST_SYMBOLS:
                one = one._replace(others=others)
        request_id = self._expect(f"{one.channel}.subscribe", now, one)
        self._to_send.append(requests.subscribe(request_id, one.channel, one.named))

    def _subscribed(self, request: Subscribe, error: str | None, now: float) -> None:
        """Settle one request, as far as its subscriptions are still wanted."""
        channel = request.channel
        wanted = self._wanted.get(channel)
        symbols = tuple(symbol for symbol in request.symbols if wanted and symbol in wanted)
        request = request._replace(symbols=symbols)
        if wanted is None or (wanted and not symbols):
            pass
        elif request.repeat:
            if error is not None:
                self._events.append(RepeatRefused(channel, symbols, error))
            self._await_clean(channel, symbols, now)
        elif error is None:
            self._accepted_at = now
            self._confirm(channel, symbols, now)
        else:
            self._refused(request, error, now)
        self._live_if_answered(now)
        self._hold_repeats(now)

    def _refused(self, request: Subscribe, error: str, now: float) -> None:
        """Find out why, and what to do about it.

        Symbols refused together are requested in parts, to find the bad one, if there seems to be one: if the
        error says so, or if it says nothing and the exchange accepts others at the same moment.
        """
        channel, symbols = request.channel, request.symbols
        found = meaning(error, request.named)
        # Then it may be that confirmed symbols must not be named.
        is_doubtful = found is Meaning.UNKNOWN and (request.again or request.retry)
        # What is refused again and again, while one of its symbols is accepted, has another that is bad.
        vague = (Meaning.UNKNOWN, Meaning.LATER) if request.again > ALIKE else (Meaning.UNKNOWN,)
        if found in vague and now - self._accepted_at <= _SAME_MOMENT:
            found = Meaning.BAD_SYMBOL
        bad = blamed(error, request.named) if found is Meaning.BAD_SYMBOL else ()
        if found is Meaning.CONFIRMED and request.others:
            self._names_others = False
            self._queue.hold_next([request._replace(others=())])
        elif is_doubtful and request.others:
            self._queue.hold_next([request._replace(others=(), alone=True)])
            self._repeats.wish(channel, now)
        elif gone := [symbol for symbol in request.others if symbol in bad]:
            for symbol in gone:
                self._unnameable.add((channel, symbol))
                self._confirmed[channel].pop(symbol)
                self._refuse(channel, (symbol,), error, now)
            self._queue.hold_next([request._replace(others=())])
        elif request.trial and found is not Meaning.CONFIRMED:
            pass  # the request that it belongs to is held behind it
        elif len(symbols) > 1 and found in (Meaning.BAD_SYMBOL, Meaning.CONFIRMED):
            self._split(request, found, error, bad, now)
        elif found is Meaning.CONFIRMED:
            self._confirm(channel, symbols, now)
        elif found is Meaning.BAD_SYMBOL or request.retry:
            self._refuse(channel, symbols, error, now)
        else:
            self._events.append(RequestPostponed(channel, symbols, error))
            self._queue.postpone(channel, symbols, now, request.again + 1)

    def _split(
        self, request: Subscribe, found: Meaning, error: str, bad: Collection[str], now: float
    ) -> None:
        """Request the symbols of a refused request in parts.

        Without those that the error names, if it names a few. Else by halves, as one of them is bad; or one
        by one, as any of them may exist already.
        """
        channel, symbols = request.channel, request.symbols
        if named := [symbol for symbol in symbols if symbol in bad]:
            for symbol in named:
                self._refuse(channel, (symbol,), error, now)
            parts = [tuple(symbol for symbol in symbols if symbol not in bad)]
        else:
            self._events.append(RequestSplit(channel, symbols, error))
            size = 1 if found is Meaning.CONFIRMED else (len(symbols) + 1) // 2
            parts = [symbols[start : start + size] for start in range(0, len(symbols), size)]
        again = request.again
        self._queue.hold_next([Subscribe(channel, part, again=again) for part in parts if part])

    def _refuse(self, channel: str, symbols: Symbols, error: str, now: float) -> None:
        self._events.append(SubscriptionRefused(channel, symbols, error))
        self._queue.refuse(channel, symbols, now)

    def _confirm(self, channel: str, symbols: Sequence[str], now: float) -> None:
        self._events.append(Confirmed(channel, tuple(symbols)))
        self._confirmed[channel].update(dict.fromkeys(symbols))
        self._await_clean(channel, symbols, now)

    def _await_clean(self, channel: str, symbols: Sequence[str], now: float) -> None:
        if channel in self._begins_clean:
            self._awaited.start(channel, symbols, now)

    def _live_if_answered(self, now: float) -> None:
        asking = any(one.subscribe and one.subscribe.first for one in self._unanswered.values())
        if self.state is SessionState.SUBSCRIBING and not asking and self._queue.only_settled():
            self.fresh_at = now
            if self.live_at == NEVER:
                self.live_at = now
            self._enter(SessionState.LIVE)

    def _expect(
        self, method: str, now: float, subscribe: Subscribe | None = None, patience: float | None = None
    ) -> int:
        """Return the id for a request that is sent now and has to be answered in time."""
        request_id = self._next_id
        self._next_id += 1
        if patience is None:
            patience = self._timing.reply_timeout
            if method != "server.ping":
                patience = max(patience, ANSWER_TIMEOUT)
        self._unanswered[request_id] = _Unanswered(method, now, now + patience, patience, subscribe)
        return request_id

    def _give_up(self, reason: Literal["timeout", "rejected"], detail: str) -> None:
        self.over = GivenUp(reason, detail)
        self._queue.clear()
        self._awaited.clear()
        self._repeats.clear()
        self._enter(SessionState.OVER)

    def _enter(self, state: SessionState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"  # noqa: S101
        self.state = state
