"""Any bytes from the exchange become records, or a dead letter with a reason."""

import json
import re
import zlib
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.channels import CHANNELS
from bridge.records import DEADLETTER, EVENTS, schema_of
from bridge.simulator.samples import all_ticker_frames, frames
from tests.support.bridge import Bridge
from tests.support.schemas import validate

GOLDEN = Path(__file__).parents[2] / "golden"
FRAMES = [
    json.loads(path.read_text())["frame"]
    for channel in CHANNELS
    for path in (GOLDEN / channel).glob("*.json")
    if not path.stem.startswith("bad_")
]
FIELDS = sorted(set(re.findall(r'"(\w+)": ', json.dumps(FRAMES))))

AS_USUAL = [json.loads(zlib.decompress(frame)) for frame in frames(1, symbols=["BTC_USDT"], count=60)]
AS_USUAL.append(json.loads(zlib.decompress(all_ticker_frames(1, symbols=3, count=1)[0])))

laws = settings(deadline=None, max_examples=60)
figures = st.sampled_from(
    [
        "0",
        "-1",
        "1.50",
        "1e5",
        "1e1000",
        "",
        "-",
        "nan",
        "Infinity",
        " 1",
        "1,5",
        '1"',
        "\x00",
        "٣",
        "\U0001f4a9",
    ]
)
odd_numbers = st.sampled_from(
    [0, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, 1.5, -0.0, 1e300, 5e-324, 1586762545336]
)
scalars = st.none() | st.booleans() | odd_numbers | figures | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


def outcome(frame: bytes, *, binary: bool = False) -> tuple[int, int]:
    """Return how many valid records and dead letters a frame became."""
    bridge = Bridge()
    bridge.receive(frame, binary=binary)
    for record in bridge.records:
        validate(record)
    letters = sum(schema_of(record.channel) == DEADLETTER for record in bridge.records)
    assert letters <= 1
    events = sum(schema_of(record.channel) == EVENTS for record in bridge.records)
    return len(bridge.records) - letters - events, letters


def mutated(data: st.DataObject, node: Any) -> Any:
    """Return a JSON value with one part of it replaced, removed or repeated."""
    if not isinstance(node, dict | list) or not node or data.draw(st.integers(0, 3)) == 0:
        return data.draw(values)
    places = sorted(node) if isinstance(node, dict) else range(len(node))
    place = data.draw(st.sampled_from(places))
    changed = node.copy()
    match data.draw(st.sampled_from(["replace", "replace", "replace", "drop", "twice"])):
        case "drop":
            del changed[place]
        case "twice" if isinstance(changed, list):
            changed.append(changed[place])
        case _:
            changed[place] = mutated(data, node[place])
    return changed


@laws
@given(st.sampled_from(sorted(CHANNELS)), values)
def test_any_json_as_params_becomes_records_or_a_dead_letter(channel: str, params: Any) -> None:
    outcome(json.dumps({"method": f"{channel}.update", "params": params}).encode())


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_valid_push_with_a_mutation_becomes_records_or_a_dead_letter(data: st.DataObject) -> None:
    frame = data.draw(st.sampled_from(FRAMES))
    params = mutated(data, frame["params"])
    text = json.dumps(frame | {"params": params}, ensure_ascii=data.draw(st.booleans()))
    outcome(text.encode(errors="surrogatepass"))


@laws
@given(st.data())
def test_whitespace_in_a_push_does_not_change_its_records(data: st.DataObject) -> None:
    """The usual form of a push is copied almost unparsed, any other is parsed: both give the same records."""
    frame = data.draw(st.sampled_from(AS_USUAL + FRAMES))
    if data.draw(st.booleans()):
        frame = frame | {"params": mutated(data, frame["params"])}
    made = []
    for separators in ((",", ":"), (" , ", " : ")):
        bridge = Bridge()
        bridge.receive(json.dumps(frame, separators=separators).encode(), binary=False)
        made.append(
            [record for record in bridge.records if schema_of(record.channel) not in (DEADLETTER, EVENTS)]
        )
        assert sum(schema_of(record.channel) == DEADLETTER for record in bridge.records) <= 1
    assert made[0] == made[1]


def spelt(data: st.DataObject, node: Any) -> str:
    """Return a JSON value in one of its many spellings."""
    blank = data.draw(st.sampled_from(["", "", " ", "\n\t", " \r\n "]))
    match node:
        case dict():
            names = data.draw(st.permutations(sorted(node)))
            fields = [f"{blank}{spelt(data, name)}{blank}:{spelt(data, node[name])}" for name in names]
            return "{" + ",".join(fields) + blank + "}"
        case list():
            return "[" + ",".join(blank + spelt(data, item) for item in node) + blank + "]"
        case str() if data.draw(st.integers(0, 9)) == 0:
            return '"' + "".join(f"\\u{ord(char):04x}" for char in node) + '"'
        case _:
            return json.dumps(node) + blank


@laws
@given(st.data())
def test_every_spelling_of_a_push_gives_the_same_records(data: st.DataObject) -> None:
    frame = data.draw(st.sampled_from(AS_USUAL + FRAMES))
    made = []
    for text in (json.dumps(frame, separators=(",", ":")), spelt(data, frame)):
        bridge = Bridge()
        bridge.receive(text.encode(), binary=False)
        made.append([record for record in bridge.records if schema_of(record.channel) != EVENTS])
    assert made[0] == made[1]


@laws
@given(st.data(), st.integers(1, 3))
def test_added_fields_change_no_record_and_are_reported_once(data: st.DataObject, times: int) -> None:
    frame = data.draw(st.sampled_from(AS_USUAL))
    bare, added = Bridge(), Bridge()
    bare.receive(json.dumps(frame).encode(), binary=False)
    larger = with_additions(data, frame)
    for _ in range(times):
        added.receive(json.dumps(larger).encode(), binary=False)
    assert [one for one in added.records if schema_of(one.channel) != EVENTS][
        : len(bare.records)
    ] == bare.records
    assert not any(schema_of(record.channel) == DEADLETTER for record in added.records)
    fields = [validate(record)["field"] for record in added.records if schema_of(record.channel) == EVENTS]
    assert len(fields) == len(set(fields))
    assert bool(fields) == (larger != frame)


def with_additions(data: st.DataObject, node: Any) -> Any:
    """Return a push with fields added to some of its objects, and elements behind its params."""
    match node:
        case {"params": [*params], **rest}:
            params = [with_additions(data, one) for one in params]
            if data.draw(st.booleans()):
                params += data.draw(st.lists(st.integers() | st.text(max_size=3), min_size=1))
            changed = rest | {"params": params}
        case dict():
            changed = {name: with_additions(data, one) for name, one in node.items()}
        case list():
            return [with_additions(data, one) for one in node]
        case _:
            return node
    names = st.text(max_size=8).map(lambda name: f"new{name}")
    return changed | (
        data.draw(st.dictionaries(names, values, max_size=2)) if data.draw(st.booleans()) else {}
    )


@laws
@given(st.data())
def test_a_valid_push_with_changed_bytes_becomes_records_or_a_dead_letter(data: st.DataObject) -> None:
    """Such as text that is not UTF-8, truncated names and numbers, brackets that never close."""
    text = bytearray(
        json.dumps(data.draw(st.sampled_from(FRAMES + AS_USUAL)), separators=(",", ":")).encode()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        text[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    outcome(bytes(text))


@laws
@given(st.data())
def test_a_compressed_push_with_changed_bytes_becomes_records_or_a_dead_letter(data: st.DataObject) -> None:
    frame = bytearray(zlib.compress(json.dumps(data.draw(st.sampled_from(FRAMES + AS_USUAL))).encode()))
    start = data.draw(st.integers(0, len(frame)))
    frame[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    outcome(bytes(frame), binary=True)


@laws
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_become_records_or_a_dead_letter(frame: bytes, binary: bool) -> None:
    outcome(frame, binary=binary)


def test_deeply_nested_items_become_a_dead_letter() -> None:
    """On either side of the parser's limit, and without a crash."""
    for channel in CHANNELS:
        for depth in range(100, 2_000, 100):
            nest = "[" * depth + "]" * depth
            for params in (
                nest,
                f'[{{"symbol":{nest}}}]',
                f'[true,[{nest}],"A"]',
                f'[true,{{"asks":{nest}}},"A"]',
            ):
                assert outcome(f'{{"method":"{channel}.update","params":{params}}}'.encode()) == (0, 1)


def test_an_item_that_is_not_utf8_does_not_spoil_the_others() -> None:
    good = b'{"id": 1, "time": 1597419159, "price": "1", "amount": "1", "type": "buy"}'
    spoilt = good.replace(b"buy", b"b\xffy").replace(b'"id": 1', b'"id": 2')
    frame = b'{"method": "trades.update", "params": [false, [%s, %s], "ETH_USDT"]}' % (spoilt, good)
    assert outcome(frame) == (1, 1)
    good = b'{"symbol": "BTC_USDT", "timestamp": 1586762545336}'
    frame = b'{"method": "all_ticker.update", "params": [%s, %s]}' % (good.replace(b"BTC", b"\xff"), good)
    assert outcome(frame) == (1, 1)


def test_a_decimal_may_be_as_long_as_a_frame() -> None:
    bridge = Bridge()
    digits = "9" * 60_000
    frame = f'{{"method":"depth.update","params":[true,{{"asks":[["{digits}","1"]]}},"A"]}}'
    bridge.receive(frame.encode(), binary=False)
    (record,) = bridge.records
    assert validate(record)["asks"] == [[digits, "1"]]
