"""What bridge-state contains: its keys, and what their values mean. Pure.

    owner               the replica that serves the shard, and the number of its last transaction
    trades/<symbol>     the watermark of a symbol
    account/<name>      the last-heard times of its private channels
    book/<symbol>       that the symbol has a record of `book`
    spool               the committed offsets of the spool
    cluster             which cluster and topics these are
    second/<group>      a bridge of another group, or with another number of shards, that waits for the owner

Nothing in it is trusted: whoever may write to the topic can have written anything, and another version of the
bridge may have written what this one does not know. What can't be used is left out, and named. A value of a
later version has fields that are ignored; a key without a value is one that was forgotten.
"""

from collections.abc import Mapping
from itertools import chain, pairwise
from typing import NamedTuple, TypeAlias

import msgspec

from bridge.config import KafkaConfig
from bridge.exchange.words import printable
from bridge.ledger import Heard, Watermark
from bridge.seen import Seen
from bridge.spool.progress import Owner, decode_progress

OWNER = b"owner"
TRADES = b"trades/"
ACCOUNT = b"account/"
BOOK = b"book/"
SPOOL = b"spool"
CLUSTER = b"cluster"
SECOND = b"second/"

MOST_LEASE = 1800.0
"""The longest lease, in seconds: as long as the longest session timeout that brokers accept by default."""

RENEWALS = 3
"""How often an owner saves within its lease, at least."""

MOST_NAME = 200
"""Characters of a symbol, an account, a replica or a group."""

Values: TypeAlias = Mapping[bytes | None, bytes | None]
"""The newest value of each key; None is a tombstone."""

_END_OF_TIME = 2**53  # µs since the epoch: the year 2255
# What decoding raises: errors of msgspec and of UTF-8 are ValueErrors, and JSON may be nested without end.
_UNUSABLE = (ValueError, RecursionError)

_MOST = 2**63 - 1  # the largest id, and the largest number of anything
_LONGEST_WHY = 100  # characters


class Second(msgspec.Struct, frozen=True):
    """A bridge that waits until the owner of the shard has ended."""

    group: str
    replica: str
    shards: int


class _Nothing(msgspec.Struct):
    """A value that says nothing but that it is there."""


class Unreadable(NamedTuple):
    """A record that can't be used: its key, as text, and why; the symbol if it is a watermark, or account."""

    key: str
    why: str
    symbol: str | None = None
    account: str | None = None


Found: TypeAlias = Second | Unreadable
"""What somebody else has written to bridge-state."""


class Contents(NamedTuple):
    """What some values of a partition mean; each is None or empty if there is none."""

    owner: Owner | None
    watermarks: dict[bytes, Watermark]  # by symbol
    heard: dict[str, Heard]  # by account
    books: set[bytes]  # the symbols that have a record of `book`
    spool_progress: bytes | None  # encoded
    remembered: Seen | None  # the cluster
    seconds: dict[bytes, Second]  # by key
    unreadable: list[Unreadable]


_decode_owner = msgspec.json.Decoder(Owner).decode
_decode_watermark = msgspec.json.Decoder(Watermark).decode
_decode_heard = msgspec.json.Decoder(dict[str, int]).decode
_decode_seen = msgspec.json.Decoder(Seen).decode
_decode_nothing = msgspec.json.Decoder(_Nothing).decode
_decode_second = msgspec.json.Decoder(Second).decode


def contents(values: Values) -> Contents:
    """Return what these values mean."""
    found = Contents(None, {}, {}, set(), None, None, {}, [])
    for key, value in values.items():
        if value is None:
            continue
        try:
            found = _with(found, key, value)
        except _UNUSABLE as error:
            found.unreadable.append(_unreadable(key, error))
    return found


def lease_of(config: KafkaConfig) -> float:
    """Return the seconds without a save after which an owner with this configuration counts as gone."""
    return min(config.session_timeout, MOST_LEASE)


def opposes(config: KafkaConfig, owner: Owner) -> bool:
    """Return whether an owner may still write, and is no replica that shares the shards with this one.

    The group assigns each shard to one of its members, so these need not be waited for.
    """
    ours = owner.group in ("", config.group_id) and owner.shards == config.shards
    return not ours and not owner.ended


def owner_of(value: bytes | None) -> Owner | None:
    """Return the owner that a value names; None if it names none."""
    if value is None:
        return None
    try:
        return _owner(value)
    except _UNUSABLE:
        return None


def name_of(key: bytes | None) -> str | None:
    """Return the symbol or account that a key is about; None if it is about none."""
    if key is None or not key.startswith((TRADES, ACCOUNT, BOOK)):
        return None
    try:
        return _name(key.partition(b"/")[2])
    except ValueError:
        return None


def newness(key: bytes, value: bytes | None) -> tuple[int, ...]:
    """Return what is higher for the newer of two values of a key; one that can't be used is the oldest."""
    if value is not None:
        found = contents({key: value})
        for watermark in found.watermarks.values():
            return watermark.newness
        for heard in found.heard.values():
            return 0, max(heard.values(), default=0)
        if found.books:
            return 0, 0
    return -1, -1


def _with(found: Contents, key: bytes | None, value: bytes) -> Contents:
    """Return the contents with one more value.

    Raises:
        ValueError: it can't be used.
    """
    if key is None:
        raise ValueError("it has no key")
    if key == OWNER:
        return found._replace(owner=_owner(value))
    if key == SPOOL:
        progress = decode_progress(value)
        _require(all(0 <= n <= _MOST for n in progress.committed.values()), "offsets out of range")
        return found._replace(spool_progress=value)
    if key == CLUSTER:
        return found._replace(remembered=_decode_seen(value))
    if key.startswith(TRADES):
        symbol = key.removeprefix(TRADES)
        _name(symbol)
        found.watermarks[symbol] = _watermark(value)
    elif key.startswith(ACCOUNT):
        heard = _decode_heard(value)
        _require(all(0 <= us < _END_OF_TIME for us in heard.values()), "times out of range")
        found.heard[_name(key.removeprefix(ACCOUNT))] = heard
    elif key.startswith(BOOK):
        symbol = key.removeprefix(BOOK)
        _name(symbol)
        _decode_nothing(value)
        found.books.add(symbol)
    elif key.startswith(SECOND):
        second = _decode_second(value)
        for name in (second.group, second.replica):
            _name(name.encode())
        found.seconds[key] = second
    else:
        raise ValueError("it has an unknown key")
    return found


def _owner(value: bytes) -> Owner:
    owner = _decode_owner(value)
    _name(owner.replica.encode())
    _require(
        0 < owner.shards <= _MOST
        and 0 <= owner.transaction <= _MOST
        and 0 <= owner.saved_us < _END_OF_TIME
        and owner.lease >= 0,
        "figures out of range",
    )
    return owner


def _watermark(value: bytes) -> Watermark:
    one = _decode_watermark(value)
    ids, stretches = one.ids, one.open.stretches
    _require(bool(ids) and len(ids) == len(one.times), "as many ids as times, and one at least")
    _require(all(earlier <= later for earlier, later in pairwise(ids)), "ids that do not ascend")
    _require(len(one.open.since) in (0, len(stretches)), "as many times as open stretches")
    all_ids = chain(ids, (past[0] for past in one.past), *((s.after_id, s.before_id) for s in stretches))
    all_times = chain(
        one.times,
        (past[1] for past in one.past),
        one.open.since,
        (one.epoch_us,),
        *((s.after_us, s.before_us) for s in stretches),
    )
    _require(all(0 <= n <= _MOST for n in all_ids), "ids out of range")
    _require(all(0 <= us < _END_OF_TIME for us in all_times), "times out of range")
    figures = (one.epoch, one.reported, one.open.revision)
    _require(all(0 <= n <= _MOST for n in figures), "figures out of range")
    return one


def _name(raw: bytes) -> str:
    name = raw.decode()
    _require(bool(name) and len(name) <= MOST_NAME and name.isprintable(), "a name that is none")
    return name


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _unreadable(key: bytes | None, error: Exception) -> Unreadable:
    text = "" if key is None else printable(key.decode(errors="backslashreplace"))
    kind, name = (key or b"").partition(b"/")[0] + b"/", name_of(key)
    return Unreadable(
        text[:MOST_NAME],
        printable(str(error))[:_LONGEST_WHY],
        symbol=name if kind == TRADES else None,
        account=name if kind == ACCOUNT else None,
    )
