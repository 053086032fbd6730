"""The reports of a session: events while it lasts, and why it gave up; pure values."""

from dataclasses import dataclass
from typing import Literal

Symbols = tuple[str, ...]
"""Symbols or currencies of one channel; none for a channel that is subscribed by nothing."""


@dataclass(frozen=True, slots=True)
class ClockRead:
    """The exchange's clock is `offset` seconds ahead of the local one, to the best of what is known."""

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
class SubscriptionRefused:
    """The exchange refused this subscription because of its symbol, or nobody knows why.

    The session will retry it. With `answered` false the exchange has not answered, see `RequestPostponed`.
    """

    channel: str
    symbols: Symbols
    error: str
    answered: bool = True


@dataclass(frozen=True, slots=True)
class RequestPostponed:
    """The exchange refused these subscriptions in one request, and not because of any symbol.

    Or, unless `answered`, it has not answered in time, though it answers others or pushes to them. The
    session will request the same again.
    """

    channel: str
    symbols: Symbols
    error: str
    answered: bool = True


@dataclass(frozen=True, slots=True)
class RequestSplit:
    """The exchange refused these subscriptions in one request. The session will request them one by one."""

    channel: str
    symbols: Symbols
    error: str


@dataclass(frozen=True, slots=True)
class CleanDue:
    """The clean lists or snapshots of these subscriptions are due by now.

    The session does not read pushes, so the caller knows which of them have come. For those that have not,
    it calls `ask_again`, unless this was the `last` time.
    """

    channel: str
    symbols: Symbols
    last: bool


@dataclass(frozen=True, slots=True)
class RepeatRefused:
    """The exchange refused to confirm these subscriptions once more. They stay confirmed."""

    channel: str
    symbols: Symbols
    error: str


Event = (
    ClockRead
    | Ponged
    | Confirmed
    | SubscriptionRefused
    | RequestPostponed
    | RequestSplit
    | CleanDue
    | RepeatRefused
)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a session decided to end; the connection is still open and has to be closed.

    `timeout`: a request was not answered in time. `rejected`: the exchange refused a ping or the credentials.
    """

    reason: Literal["timeout", "rejected"]
    detail: str
