"""What is in bridge-state is used, or it is named; nothing in it stops a start."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.channels.known import Known
from bridge.config import KafkaConfig
from bridge.kafka.contents import Values, contents, newness, opposes, owner_of
from bridge.ledger import Watermark, advanced, newest
from bridge.records import Mark, Open, Record, Stretch
from bridge.spool.progress import Owner, decode_progress

NOW_US = 1_600_000_000_000_000
STRETCH = Stretch(3, NOW_US, 6, NOW_US)
WATERMARK = Watermark([1, 2, 3, 6], [NOW_US] * 4, Open(1, (STRETCH,), since=(NOW_US,)))
OWNER = Owner("replica", 1, 7, group="blue", lease=10.0)

GOOD: dict[bytes, Any] = {
    b"owner": OWNER,
    b"trades/BTC_USDT": WATERMARK,
    b"account/main": {"order": NOW_US},
    b"book/BTC_USDT": {},
    b"spool": {"spool": "a", "committed": {"t/0": 5}, "transaction": ["replica", 7]},
    b"second/green": {"group": "green", "replica": "r", "shards": 1},
}

# Values that are JSON of the right form, and are wrong all the same.
WRONG: dict[bytes, list[Any]] = {
    b"owner": [
        {"replica": "", "shards": 1, "transaction": 1},
        {"replica": "r\n", "shards": 1, "transaction": 1},
        {"replica": "r", "shards": 0, "transaction": 1},
        {"replica": "r", "shards": 1, "transaction": -1},
        {"replica": "r", "shards": 1, "transaction": 2**64},
        {"replica": "r", "shards": 1, "transaction": 1, "saved_us": 2**60},
        {"replica": "r", "shards": 1, "transaction": 1, "lease": -1},
        {"replica": "r"},
    ],
    b"trades/BTC_USDT": [
        {"ids": [], "times": []},
        {"ids": [1], "times": []},
        {"ids": [2, 1], "times": [NOW_US, NOW_US]},
        {"ids": [2**63], "times": [NOW_US]},
        {"ids": [-1], "times": [NOW_US]},
        {"ids": [1], "times": [-1]},
        {"ids": [1], "times": [2**62]},
        {"ids": [1], "times": [NOW_US], "past": [[1, 2**70]]},
        {"ids": [1], "times": [NOW_US], "open": [1, [[0, 0, 2**65, 0]]]},
        {"ids": [1], "times": [NOW_US], "open": [1, [[0, 0, 2, 0]], False, [1, 2]]},
        {"ids": [1], "times": [NOW_US], "epoch": -1},
        {"ids": [1.5], "times": [NOW_US]},
        None,
        [],
        7,
    ],
    b"account/main": [{"order": -1}, {"order": 2**70}, {"order": "x"}, [], None],
    b"spool": [{"spool": "a", "committed": {"t/0": -1}, "transaction": ["r", 1]}, {}, None],
    b"book/BTC_USDT": [[], None, 7],
    b"second/green": [{"group": "", "replica": "r", "shards": 1}, {}, None],
}


WRONG_VALUES = [(key, value) for key, values in WRONG.items() for value in values]


def encoded(key: bytes) -> bytes:
    return msgspec.json.encode(GOOD[key])


def test_what_the_bridge_writes_is_read_back() -> None:
    found = contents({key: encoded(key) for key in GOOD})
    assert found.owner == OWNER
    assert found.watermarks == {b"BTC_USDT": WATERMARK}
    assert found.heard == {"main": {"order": NOW_US}}
    assert found.books == {b"BTC_USDT"}
    assert found.spool_progress is not None
    assert found.seconds.keys() == {b"second/green"}
    assert found.unreadable == []


@pytest.mark.parametrize("key", GOOD)
def test_fields_of_a_later_version_are_ignored(key: bytes) -> None:
    if key == b"account/main":
        return  # its fields are the channels, which a later version may have more of
    later = {**msgspec.to_builtins(GOOD[key]), "added": {"in": ["a", "later", "version"]}}
    found, expected = contents({key: msgspec.json.encode(later)}), contents({key: encoded(key)})
    if key == b"spool":
        assert found.spool_progress is not None
        assert expected.spool_progress is not None
        assert decode_progress(found.spool_progress) == decode_progress(expected.spool_progress)
    else:
        assert found == expected


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_a_value_that_is_wrong_is_named_and_left_out(key: bytes, value: object) -> None:
    others: Values = {one: encoded(one) for one in GOOD if one != key}
    found = contents({**others, key: msgspec.json.encode(value)})
    (unreadable,) = found.unreadable
    assert unreadable.key == key.decode()
    assert unreadable.why
    assert unreadable.symbol == ("BTC_USDT" if key.startswith(b"trades/") else None)
    assert unreadable.account == ("main" if key.startswith(b"account/") else None)
    assert found._replace(unreadable=[]) == contents(others)


@pytest.mark.parametrize(
    "key", [None, b"", b"\xff\xfe", b"trades/", b"trades/\xff", b"BTC_USDT", b"account/\n"]
)
def test_a_key_that_is_none_of_the_bridge_is_named(key: bytes | None) -> None:
    (unreadable,) = contents({key: b"{}"}).unreadable
    assert unreadable.key.isprintable()
    assert unreadable.symbol is unreadable.account is None


@pytest.mark.parametrize("key", GOOD)
def test_json_that_is_nested_without_end_is_named(key: bytes) -> None:
    for value in (b"[" * 100_000, b'{"ids":[1],"x":' + b"[" * 100_000):
        assert len(contents({key: value}).unreadable) == 1


@pytest.mark.parametrize("key", [None, b"", b"\xff", *GOOD])
def test_a_tombstone_is_nothing_at_all(key: bytes | None) -> None:
    assert contents({key: None}) == contents({})


keys = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.sampled_from([*GOOD, b"trades/ETH_USDT"]),
    st.builds(bytes.__add__, st.sampled_from([b"trades/", b"account/", b"second/"]), st.binary(max_size=10)),
)
figures = st.integers(-(2**70), 2**70) | st.sampled_from([0, 1, NOW_US])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | figures
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
watermarks = st.fixed_dictionaries(
    {"ids": st.lists(figures, max_size=3), "times": st.lists(figures, max_size=3)},
    optional={
        "open": st.tuples(figures, st.lists(st.tuples(*[figures] * 4), max_size=2)),
        "epoch": figures,
        "epoch_us": figures,
        "past": st.lists(st.tuples(figures, figures), max_size=2),
        "reported": figures,
    },
)
values = st.one_of(
    st.none(),
    st.binary(max_size=50),
    json_values.map(msgspec.json.encode),
    watermarks.map(msgspec.json.encode),
)


@given(st.dictionaries(keys, values, max_size=5))
def test_any_bytes_are_used_or_named(given_values: dict[bytes | None, bytes | None]) -> None:
    """And what is used can be: as at a start, and when trades come."""
    found = contents(given_values)
    used = len(found.watermarks) + len(found.heard) + len(found.seconds) + len(found.books)
    used += (found.owner is not None) + (found.spool_progress is not None)
    assert used + len(found.unreadable) == sum(1 for value in given_values.values() if value is not None)
    for key, value in given_values.items():
        newness(key or b"", value)
        if (owner := owner_of(value)) is not None:
            opposes(KafkaConfig(), owner)
    if found.spool_progress is not None:
        decode_progress(found.spool_progress)
    for symbol, watermark in found.watermarks.items():
        known = Known(symbol, watermark)
        known.judge(1, NOW_US, listed=True)
        mark: Mark = (2**40, NOW_US, watermark.epoch, watermark.open)
        advanced(found.watermarks, [Record("trades", symbol, b"{}", NOW_US, mark)])
        assert newest(found.watermarks, found.watermarks).keys() == found.watermarks.keys()
        msgspec.json.encode(watermark)


def owner(**changes: object) -> Owner:
    return msgspec.structs.replace(OWNER, **changes)


@pytest.mark.parametrize(
    ("changed", "opposed"),
    [
        (lambda: OWNER, False),
        (lambda: owner(group=""), False),
        (lambda: owner(group="green"), True),
        (lambda: owner(group="green", ended=True), False),
        (lambda: owner(shards=2), True),
        (lambda: owner(shards=2, group=""), True),
        (lambda: owner(shards=2, ended=True), False),
    ],
)
def test_an_owner_is_waited_for_unless_it_has_ended_or_shares_the_shards(
    changed: Callable[[], Owner], opposed: bool
) -> None:
    assert opposes(KafkaConfig(group_id="blue"), changed()) is opposed
