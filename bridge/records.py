"""Record: one message on its way to Kafka. Pure."""

from typing import Literal, NamedTuple, TypeAlias, get_args

import msgspec

from bridge.errors import DeadLetterReason

DEAD_LETTER_REASONS: tuple[DeadLetterReason, ...] = get_args(DeadLetterReason)
Cause = Literal[
    "closed",
    "refused",
    "timeout",
    "stale",
    "rejected",
    "rotated",
    "stopped",
    "takeover",
    "repeated_list",
    "spool_damaged",
    "first_listened",
    "ids_restarted",
    "damaged_frame",
    "state_unreadable",
]
"""Why a session ended or was opened, or what caused a gap."""

Kind: TypeAlias = Literal[
    "gap",
    "ids_restarted",
    "session_begun",
    "session_ended",
    "session_rotated",
    "subscription_refused",
    "subscription_silent",
    "short_lives",
    "rotation_given_up",
    "takeover",
    "second_bridge",
    "state_unreadable",
    "spool_begun",
    "spool_ended",
    "spool_overflowed",
    "spool_discarded",
    "spool_damaged",
    "records_lost",
    "cluster_changed",
    "partitions_grown",
    "pushes_left_out",
    "markets_left_out",
    "unknown_field",
    "book_too_large",
    "book_suspect",
]
"""Every kind of event that the bridge records."""

MOST_DETAIL = 500
"""Characters of the `detail` in an event or a dead letter; the rest is cut off."""

BOOK = "book"
"""The present books, which are made of the records of `depth`."""

DEADLETTER = "deadletter"
EVENTS = "events"
STATE = "bridge-state"

PRIVATE_DEADLETTER = "private-deadletter"
"""Dead letters of sessions with an account and of private channels; on a topic below the private prefix."""

PRIVATE_EVENTS = "private-events"
"""Events of accounts and of private channels; likewise."""

PRIVATE_STATE = "private-bridge-state"
"""Which topic prefix the private prefix belongs to."""

_SCHEMAS = {PRIVATE_DEADLETTER: DEADLETTER, PRIVATE_EVENTS: EVENTS}


def schema_of(channel: str) -> str:
    """Return the channel, `deadletter` or `events`: what a record is, wherever its topic is."""
    return _SCHEMAS.get(channel, channel)


class Stretch(NamedTuple):
    """The part of a symbol's trades after one of them and before another, by their ids and times in µs."""

    after_id: int
    after_us: int
    before_id: int
    before_us: int


class Open(NamedTuple):
    """The open stretches of a symbol, by ascending ids.

    `revision` grows with each change; `overtaken` once pushes of the symbol have overtaken each other.
    `since` is when each stretch was opened, in µs since the epoch; 0: not known.
    """

    revision: int = 0
    stretches: tuple[Stretch, ...] = ()
    overtaken: bool = False
    since: tuple[int, ...] = ()


Mark: TypeAlias = tuple[int | None, int, int, Open]
"""What a record changes in a watermark: the id and time in µs of its trade, the epoch of its ids, and what is
open once it is on Kafka. The id is None, and the time 0, in an event: a gap that closes a stretch, or the
beginning of the epoch."""


class Record(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One message on its way to Kafka."""

    channel: str
    """A channel, or one of the names above; decides the topic."""

    key: bytes | None
    """Decides the partition; None: any."""

    value: bytes
    """The JSON object; empty: none, for a tombstone."""

    time_us: int
    """Time of reception in µs since the epoch."""

    mark: Mark | None = None
    """Its part in the watermark of its symbol; trades, and gaps in trades, only."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that could not become records, kept whole with the reason."""

    schema: str = "digifinex.deadletter.v1"
    session: str
    received_us: int
    reason: DeadLetterReason
    channel: str | None
    detail: str
    frame_base64: bytes
    """The bytes as received; encoded in base64 as it is written."""


def deadletter(letter: DeadLetter, *, private: bool) -> Record:
    """Return the record of a dead letter; `private`: below the private prefix."""
    key = None if letter.channel is None else letter.channel.encode()
    topic = PRIVATE_DEADLETTER if private else DEADLETTER
    return Record(topic, key, msgspec.json.encode(letter), letter.received_us)


class _Provenance(msgspec.Struct):
    session: str | None


_provenance = msgspec.json.Decoder(_Provenance).decode


def session_of(record: Record) -> str:
    """Return the session that a record came over; "none" if its value does not say."""
    try:
        return _provenance(record.value).session or "none"
    except msgspec.DecodeError:
        return "none"


def letter_for(record: Record, detail: str, *, private: bool, whole: bool = True) -> Record:
    """Return the dead letter of a record that Kafka rejects; if `whole`, with its value as the frame."""
    letter = DeadLetter(
        session=session_of(record),
        received_us=record.time_us,
        reason="payload",
        channel=schema_of(record.channel),
        detail=detail,
        frame_base64=record.value if whole else b"",
    )
    return deadletter(letter, private=private)
