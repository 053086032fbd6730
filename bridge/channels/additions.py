"""Decodes JSON objects of a known type, and notices fields that the exchange has added to it.

An added field is ignored. To notice it costs nothing: the decoder refuses unknown fields, and only the first
object with a new one is looked at more closely. From then on that field is known too.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.inspect import IntType, StructType

Item = TypeVar("Item", bound=Struct)

REFUSED = (msgspec.ValidationError, UnicodeDecodeError)
"""What decoders raise for JSON that is not of their type."""

MOST_ADDED = 16
"""Added fields of one kind of object that are noticed; once there are more, all are ignored."""

_MOST_NAME = 64  # characters
ABSENT = Raw(b"")
"""The value of an added field that an object does not have."""

is_integer_text = re.compile(rb'"-?[0-9]+"').fullmatch
"""Whether a JSON string is an integer: lenient decoders read others by way of a double, and "7e2" as 700."""

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_odd = re.compile(r"[^!-~]")
_is_sane = re.compile(rf'[^"\\\x00-\x1f]{{0,{_MOST_NAME}}}').fullmatch  # other names are not remembered


class Reader(Generic[Item]):
    """Decodes objects of one type; of an `array_like` type, lists whose elements are its fields.

    `path` says where the objects are, such as `params[1][]` for the trades of a push. The paths of their
    added fields begin with it: `params[1][].fee`.
    """

    def __init__(self, item_type: type[Item], path: str = "") -> None:
        self._type = item_type
        self._path = path
        self._is_list = item_type.__struct_config__.array_like
        self.is_strict = True  # until there are too many added fields
        self._added: dict[str, str] = {}  # names of added fields to their paths; at most MOST_ADDED
        # Numbers and booleans may be texts: "7" is 7, and 1 is true.
        self._decode_leniently = msgspec.json.Decoder(item_type, strict=False).decode
        self._integers = _integers(item_type)  # names of the fields that are integers
        self._decode_raw = msgspec.json.Decoder(_raw(item_type)).decode
        self._make_type()

    strict_type: Any
    """The type with the fields noticed so far; its decoders refuse any other field."""

    decode: Callable[[bytes | Raw], Item]
    """Decode one object of `strict_type`. What it refuses, `read_odd` may accept."""

    def read_odd(self, text: bytes | Raw, added: list[str]) -> Item:
        """Return an object that was refused, and append the paths of fields that it brings anew to `added`.

        Raises:
            msgspec.DecodeError: it is not of the type, whatever fields it has besides.
            UnicodeDecodeError: likewise.
        """
        item = self._decode_leniently(text)
        if self._integers:
            self._refuse_rounded(text)
        if self.is_strict:
            added += self._notice(text)
        return item

    @property
    def noticed(self) -> int:
        """The number of added fields that it has noticed and remembers."""
        return len(self._added)

    def added(self, item: Item) -> list[str]:
        """Return the paths of the noticed fields that an object from `decode` has."""
        values = [getattr(item, _field(place), ABSENT) for place in range(len(self._added))]
        return [path for path, value in zip(self._added.values(), values, strict=True) if value is not ABSENT]

    def _refuse_rounded(self, text: bytes | Raw) -> None:
        """Refuse an integer as text in another form: by way of a double, two ids would become the same."""
        written = self._decode_raw(text)
        for name in self._integers:
            value = bytes(getattr(written, name))
            if value.startswith(b'"') and not is_integer_text(value):
                raise msgspec.ValidationError(f"{value[:80]!r} is not an integer")

    def _notice(self, text: bytes | Raw) -> list[str]:
        try:
            names = self._unknown(text)
        except (msgspec.DecodeError, UnicodeDecodeError):  # a name that is not UTF-8, for example
            return []
        if not names:
            return []
        room = MOST_ADDED - len(self._added)
        new = {name: path_of(self._path, name, is_list=self._is_list) for name in names[:room]}
        if len(names) < room and all(map(_is_sane, names)):
            self._added |= new
        else:
            self.is_strict, self._added = False, {}
        self._make_type()
        return list(new.values())

    def _unknown(self, text: bytes | Raw) -> list[str]:
        if self._is_list:
            known = len(self._type.__struct_fields__) + len(self._added)
            return [str(place) for place in range(known, len(_decode_list(text)))]
        own = self._type.__struct_encode_fields__
        return [name for name in _decode_object(text) if name not in own and name not in self._added]

    def _make_type(self) -> None:
        self.strict_type = _strict(self._type, tuple(self._added)) if self.is_strict else self._type
        self.decode = msgspec.json.Decoder(self.strict_type).decode


def _integers(item_type: type[Struct]) -> list[str]:
    info = msgspec.inspect.type_info(item_type)
    assert isinstance(info, StructType)  # noqa: S101
    return [one.name for one in info.fields if isinstance(one.type, IntType)]


def _raw(item_type: type[Struct]) -> type[Struct]:
    """Return a type with the same fields as they are written."""
    fields = item_type.__struct_fields__
    return msgspec.defstruct(
        item_type.__name__,
        [(name, Raw, ABSENT) for name in fields],
        rename=dict(zip(fields, item_type.__struct_encode_fields__, strict=True)),
        array_like=item_type.__struct_config__.array_like,
    )


@lru_cache(maxsize=64)
def _strict(item_type: type[Struct], added: tuple[str, ...]) -> type[Struct]:
    """Return a type that refuses every field but its own and those that were added."""
    return msgspec.defstruct(
        item_type.__name__,
        [(_field(place), Raw, ABSENT) for place in range(len(added))],
        bases=(item_type,),
        rename={_field(place): name for place, name in enumerate(added)},
        forbid_unknown_fields=True,
        gc=False,
    )


def path_of(path: str, name: str, *, is_list: bool = False) -> str:
    """Return the path of a field, cleaned and cut: the exchange may write anything as a name."""
    name = _odd.sub("?", name[:_MOST_NAME]) or "?"
    if is_list:
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def _field(place: int) -> str:
    return f"_added_{place}"
