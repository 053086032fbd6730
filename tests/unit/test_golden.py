"""Every golden sample becomes the expected records and dead letter, in each form that a frame can have."""

import base64
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bridge.channels import CHANNELS
from bridge.errors import DeadLetterReason
from bridge.records import DEAD_LETTER_REASONS, EVENTS, schema_of
from tests.support.bridge import RECEIVED_US, Bridge
from tests.support.schemas import Json, validate

PRIVATE = [name for name, channel in CHANNELS.items() if channel.private]
GOLDEN = Path(__file__).parents[1] / "golden"


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    """The expected dead letter; `detail` is part of its detail."""

    reason: DeadLetterReason
    channel: str | None
    detail: str


class Sample(msgspec.Struct, forbid_unknown_fields=True):
    """A message, the records and the dead letter that it becomes, and the unknown fields that are reported.

    The message is JSON with its exact whitespace (`frame`), text that is not JSON (`text`), or the bytes of a
    binary frame (`base64`).
    """

    records: list[Json]
    unknown_fields: list[str] = []
    deadletter: Letter | None = None
    frame: msgspec.Raw = msgspec.Raw()
    text: str = ""
    base64: str | None = None


SAMPLES = {
    f"{path.parent.name}/{path.stem}": msgspec.json.decode(path.read_bytes(), type=Sample)
    for channel in (*CHANNELS, "deadletter")
    for path in sorted((GOLDEN / channel).glob("*.json"))
}


def raw_deflate(text: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(text) + stream.flush()


def forms(sample: Sample) -> Iterator[tuple[str, bytes, bool]]:
    """Yield the frames that carry the message: the form's name, the bytes, whether the frame is binary."""
    if sample.base64 is not None:
        yield "as given", base64.b64decode(sample.base64), True
        return
    text = bytes(sample.frame) or sample.text.encode()
    yield "zlib", zlib.compress(text), True
    yield "raw deflate", raw_deflate(text), True
    yield "text", text, False
    if text.startswith(b"{"):
        yield "plain binary", text, True
    if sample.frame:
        yield "without whitespace", msgspec.json.format(text, indent=-1), False


@pytest.mark.parametrize("sample", [pytest.param(sample, id=name) for name, sample in SAMPLES.items()])
def test_a_sample_becomes_its_records_and_its_dead_letter(sample: Sample) -> None:
    for form, frame, binary in forms(sample):
        bridge = Bridge()
        bridge.receive(frame, binary=binary)
        values = [validate(record) for record in bridge.records if schema_of(record.channel) != EVENTS]
        events = [validate(record) for record in bridge.records if schema_of(record.channel) == EVENTS]
        unknown = [one["field"] for one in events if one["event"] == "unknown_field"]
        assert unknown == sample.unknown_fields, form
        gaps = [one["channel"] for one in events if one["event"] == "gap"]
        assert len(events) == len(unknown) + len(gaps)
        if sample.deadletter is not None:
            assert_is_letter(values.pop(), sample.deadletter, frame)
        letter = sample.deadletter
        assert gaps == ([letter.channel] if letter is not None and letter.channel in PRIVATE else [])
        assert values == sample.records, form
        assert_counted(bridge, sample.deadletter)


def assert_is_letter(value: Json, expected: Letter, frame: bytes) -> None:
    assert expected.detail in value.pop("detail")
    assert value == {
        "schema": "digifinex.deadletter.v1",
        "session": "s1",
        "received_us": RECEIVED_US,
        "reason": expected.reason,
        "channel": expected.channel,
        "frame_base64": base64.b64encode(frame).decode(),
    }


def assert_counted(bridge: Bridge, expected: Letter | None) -> None:
    counted = [
        reason
        for reason in DEAD_LETTER_REASONS
        if bridge.metrics.counter("deadletters_total", reason=reason).value
    ]
    assert counted == ([] if expected is None else [expected.reason])
    assert bridge.metrics.counter("decompression_errors_total").value == counted.count("decompression")


@pytest.mark.parametrize("channel", CHANNELS)
def test_every_channel_has_the_example_of_the_api_document_and_bad_samples(channel: str) -> None:
    assert f"{channel}/document_example" in SAMPLES
    assert any(name.startswith(f"{channel}/bad_") for name in SAMPLES)


def test_the_name_of_a_sample_says_whether_it_is_bad() -> None:
    for name, sample in SAMPLES.items():
        bad = name.partition("/")[2].startswith("bad_") or name.startswith("deadletter/")
        assert bad == (sample.deadletter is not None), name


def test_every_reason_for_a_dead_letter_has_samples() -> None:
    assert {sample.deadletter.reason for sample in SAMPLES.values() if sample.deadletter} == set(
        DEAD_LETTER_REASONS
    ) - {"unsubscribed"}  # which depends on the session, not on the frame
