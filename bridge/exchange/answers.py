"""What an answer says of its request: accepted, refused and why, or nothing; pure.

The API document has an `error` for a refusal, and a `result` with the status "success". An answer may say
either in a code as well, as REST and the exchange's server for swaps do (FACTS, section 3), in its result, or
in fields beside it.
"""

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from bridge.channels.additions import ABSENT
from bridge.exchange.refusals import success
from bridge.exchange.words import Words

NOT_THAT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoders raise for bytes that are not of their type."""

_is_success_code = re.compile(r"0+|200|ok|success", re.IGNORECASE).fullmatch
_is_number = re.compile(r"-?[0-9]+").fullmatch
_NO_ERROR = ("", "false")
_AMBIGUOUS = "1"  # success for swaps, an invalid argument in ViaBTC's server


class Verdict(NamedTuple):
    """What an answer says. `why` it refuses is None if it does not; without both, it says nothing."""

    accepted: bool
    why: Words | None = None


_ACCEPTED, _NOTHING = Verdict(True), Verdict(False)

_Show = Callable[[str], Words]


class Beside(msgspec.Struct, gc=False):
    """The fields of a message that may stand in place of an `error` and a `result`, or say the same again."""

    code: Raw = ABSENT
    success: Raw = ABSENT
    status: Raw = ABSENT
    message: Raw = ABSENT
    msg: Raw = ABSENT  # what REST calls it

    @property
    def answers(self) -> bool:
        """Whether they are those of an answer."""
        return any(_value(one) is not None for one in (self.code, self.success, self.status))


_decode_beside = msgspec.json.Decoder(Beside).decode
_decode = msgspec.json.Decoder().decode


def beside(text: bytes) -> Beside:
    """Return the fields of a message beside its `error` and `result`."""
    try:
        return _decode_beside(text)
    except NOT_THAT:
        return Beside()


def verdict(error: Raw, result: Raw, text: bytes, words: _Show) -> Verdict:
    """Return what an answer, whose whole JSON is `text`, says of its request.

    In an object with a code, that alone decides; then come an error and a result. Where they contradict
    each other, the request is refused.
    """
    fields = beside(text)
    found = {name: _value(getattr(fields, name)) for name in fields.__struct_fields__}
    return _together(
        _of_object(found, text, words),
        _of_error(_value(error), error, words),
        _of_result(_value(result), result, words),
    )


def is_error(error: Raw, text: bytes, words: _Show) -> bool:
    """Return whether a message has an error or the code of one: words alone may be a notice of any kind."""
    code = {"code": _value(beside(text).code)}
    return _together(_of_error(_value(error), error, words), _of_object(code, text, words)).why is not None


def _together(*said: Verdict) -> Verdict:
    refused = next((one for one in said if one.why is not None), None)
    return refused or (_ACCEPTED if _ACCEPTED in said else _NOTHING)


def _of_object(fields: dict[str, Any], text: bytes | Raw, words: _Show) -> Verdict:
    """Judge an object other than an error, whose JSON is `text`."""
    code, message = fields.get("code"), _message(fields)
    if code not in (None, ""):
        return _of_code(code, message, words)
    said = _together(
        _of_error(fields.get("error"), text, words),
        *(_of_value(fields.get(name), text, words) for name in ("success", "status")),
        _of_value(message or None, text, words),
    )
    return said._replace(why=words(message)) if message and said.why is not None else said


def _of_code(code: object, message: str, words: _Show) -> Verdict:
    text = _text(int(code) if isinstance(code, float) and code.is_integer() else code)
    if _is_success_code(text) or (text == _AMBIGUOUS and success(message)):
        return _ACCEPTED
    shown = f"code {words(text)}"
    return Verdict(False, Words(f"{words(message)} ({shown})" if message else shown))


def _of_error(error: Any, text: bytes | Raw, words: _Show) -> Verdict:  # noqa: ANN401 - JSON
    """Judge an error, whose JSON is `text`."""
    why: str | None = _shown(text)
    match error:
        case {"code": code} if code not in (None, ""):
            return _of_code(code, _message(error), words)
        case dict() if message := _message(error):
            why = None if success(message) else message
        case dict() | list():
            why = why if any(one not in (None, "") for one in _parts(error)) else None
        case str() if not _is_number(error):
            why = None if error.lower() in _NO_ERROR or success(error) else error
        case str() | int() | float() if error and error is not True:
            return _of_code(error, "", words)
        case _ if not error:
            why = None
    return _NOTHING if why is None else Verdict(False, words(why))


def _of_result(result: object, text: bytes | Raw, words: _Show) -> Verdict:
    if isinstance(result, dict):
        return _of_object(result, text, words)
    return _of_value(result, text, words)


def _of_value(value: object, text: bytes | Raw, words: _Show) -> Verdict:
    """Judge a result, or a part of one, that is in the JSON `text`. What is inside a part says nothing."""
    # A number may be a time, and 0 a success or a failure.
    succeeds = value if isinstance(value, bool) else success(value) if isinstance(value, str) else None
    if succeeds is False:
        return Verdict(False, words(_shown(text)))
    return _ACCEPTED if succeeds else _NOTHING


def _parts(value: Any) -> Collection[Any]:  # noqa: ANN401 - JSON
    return value.values() if isinstance(value, dict) else value


def _message(fields: dict[str, Any]) -> str:
    return _text(fields.get("message") or fields.get("msg") or "")


def _value(raw: Raw) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value, its text if it cannot be read, or None if there is none."""
    if raw == ABSENT:
        return None
    try:
        return _decode(raw)
    except NOT_THAT:
        return _shown(raw)


def _text(value: object) -> str:
    try:
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    except RecursionError:
        return "too deep"


def _shown(text: bytes | Raw) -> str:
    return bytes(text).decode(errors="replace")
