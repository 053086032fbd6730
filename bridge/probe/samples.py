"""Keeps one frame of each form as a golden sample, with the records that the bridge makes of it."""

from collections import Counter
from pathlib import Path

import msgspec
import orjson

from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.errors import BadFrame, BadItem
from bridge.exchange.frames import Messages, Push

_MOST = 20  # samples of a channel
_RECEIVED_US = 1_600_000_000_000_000


class Samples:
    """Writes `<channel>/seen_<n>.json` below a directory, at most 20 for each channel.

    Two frames have one form if their fields and the types of the values are the same. Only pushes of public
    channels are kept.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._forms: set[str] = set()  # of the samples that are written
        self._written: Counter[str] = Counter()  # samples by channel

    def keep(self, text: bytes) -> None:
        """Write a message if it is a push in a new form."""
        try:
            push = Messages().decode(text)
        except BadFrame:
            return
        if not isinstance(push, Push) or push.channel not in CHANNELS or CHANNELS[push.channel].private:
            return
        form = f"{push.channel} {_form(orjson.loads(text))}"
        if form in self._forms or self._written[push.channel] >= _MOST:
            return
        self._forms.add(form)
        self._written[push.channel] += 1
        path = self._directory / push.channel / f"seen_{self._written[push.channel]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_sample(text, push))


def _form(value: object) -> str:
    match value:
        case dict():
            return "{" + ",".join(f"{name}:{_form(one)}" for name, one in value.items()) + "}"
        case list():
            return "[" + ",".join(dict.fromkeys(map(_form, value))) + "]"
        case bool():
            return str(value)
        case _:
            return type(value).__name__


def _sample(text: bytes, push: Push) -> bytes:
    """Return a sample like those of `tests/golden`."""
    letter: dict[str, str] | None = None
    records: list[bytes] = []
    unknown = [*push.added]
    try:
        outcome = CHANNELS[push.channel].normaliser({}).push(push.params, Source("s1"), _RECEIVED_US)
        records = [record.value for record in outcome.records]
        unknown += dict.fromkeys(outcome.added)
        if outcome.bad:
            letter = {"reason": "payload", "channel": push.channel, "detail": outcome.bad[0]}
    except (BadItem, msgspec.MsgspecError) as error:
        letter = {"reason": "payload", "channel": push.channel, "detail": str(error)}
    lines = ",\n    ".join(record.decode() for record in records)
    parts = [
        f'  "frame": {text.decode()}',
        f'  "records": [\n    {lines}\n  ]' if lines else '  "records": []',
    ]
    if unknown:
        parts.append(f'  "unknown_fields": {orjson.dumps(unknown).decode()}')
    if letter is not None:
        parts.append(f'  "deadletter": {orjson.dumps(letter).decode()}')
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()
