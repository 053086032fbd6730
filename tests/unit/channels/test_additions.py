"""Fields that the exchange adds are ignored, noticed once, and cost nothing from then on."""

import pytest
from msgspec import Raw, Struct, ValidationError

from bridge.channels.additions import MOST_ADDED, Reader


class Thing(Struct):
    """A type with a field of its own that may be left out."""

    name: str
    size: int = 0


class Pair(Struct, array_like=True):
    """A list of two elements."""

    first: int
    second: int


def noticed(reader: Reader[Thing], text: bytes) -> list[str]:
    added: list[str] = []
    reader.read_odd(text, added)
    return added


def test_an_object_without_added_fields_is_decoded_as_it_is() -> None:
    assert Reader(Thing).decode(b'{"size":2,"name":"A"}').size == 2


def test_an_added_field_is_refused_noticed_and_then_known() -> None:
    reader = Reader(Thing, "things[]")
    text = b'{"new":[1],"name":"A"}'
    with pytest.raises(ValidationError):
        reader.decode(text)
    assert noticed(reader, text) == ["things[].new"]
    assert noticed(reader, text) == []
    assert reader.decode(text).name == "A"
    assert reader.added(reader.decode(text)) == ["things[].new"]
    assert reader.added(reader.decode(b'{"name":"A","new":null}')) == ["things[].new"]
    assert reader.added(reader.decode(b'{"name":"A"}')) == []


def test_a_second_field_is_noticed_as_well() -> None:
    reader = Reader(Thing)
    assert noticed(reader, b'{"name":"A","new":1}') == ["new"]
    assert noticed(reader, b'{"name":"A","new":1,"newer":1}') == ["newer"]
    assert reader.added(reader.decode(b'{"newer":1,"name":"A"}')) == ["newer"]


def test_an_element_behind_a_list_is_noticed_by_its_place() -> None:
    reader, added = Reader(Pair, "params"), list[str]()
    reader.read_odd(b"[1,2,3,4]", added)
    assert added == ["params[2]", "params[3]"]
    assert reader.decode(b"[1,2,3,4]").second == reader.decode(b"[1,2]").second == 2


def test_an_object_that_is_not_of_the_type_teaches_nothing() -> None:
    reader = Reader(Thing)
    with pytest.raises(ValidationError):
        noticed(reader, b'{"name":5,"new":1}')
    assert reader.noticed == 0


def test_two_readers_of_a_type_do_not_know_of_each_other() -> None:
    reader, other = Reader(Thing), Reader(Thing)
    assert noticed(reader, b'{"name":"A","new":1}') == ["new"]
    with pytest.raises(ValidationError):
        other.decode(b'{"name":"A","new":1}')


@pytest.mark.parametrize("at_once", [True, False])
def test_more_fields_than_anybody_would_add_are_ignored_and_not_remembered(at_once: bool) -> None:
    reader, found = Reader(Thing), list[str]()
    names = [f"n{place}" for place in range(3 * MOST_ADDED)]
    for some in [names] if at_once else [[name] for name in names]:
        fields = "".join(f',"{name}":1' for name in some)
        found += noticed(reader, b'{"name":"A"%b}' % fields.encode())
    assert found == names[:MOST_ADDED]
    assert reader.noticed <= MOST_ADDED
    assert reader.decode(b'{"name":"A","another":1}').name == "A"


def test_an_endless_name_is_cut_and_not_remembered() -> None:
    reader = Reader(Thing)
    assert noticed(reader, b'{"name":"A","%b":1}' % (b"x" * 100_000)) == ["x" * 64]
    assert reader.noticed == 0


@pytest.mark.parametrize(
    "name", ["\\u0000", "a b", "\\n", "\\u202e", "\\ud83d\\ude00", "\u00e9", '\\"', "\\\\"]
)
def test_a_name_is_cleaned_of_what_could_garble_a_log(name: str) -> None:
    (path,) = noticed(Reader(Thing), f'{{"name":"A","{name}":1}}'.encode())
    assert path.isascii()
    assert path.isprintable()
    assert " " not in path


def test_an_empty_name_is_a_name() -> None:
    reader = Reader(Thing)
    assert noticed(reader, b'{"name":"A","":1}') == ["?"]
    assert reader.decode(b'{"name":"A","":1}').name == "A"


def test_a_name_that_is_not_utf8_is_ignored_without_a_word() -> None:
    reader = Reader(Thing)
    with pytest.raises((UnicodeDecodeError, ValidationError)):
        reader.decode(b'{"name":"A","\xff":1}')
    assert noticed(reader, b'{"name":"A","\xff":1}') == []


def test_a_raw_value_is_decoded_like_bytes() -> None:
    assert Reader(Thing).decode(Raw(b'{"name":"A"}')).name == "A"


@pytest.mark.parametrize("size", ["7", "-7", "9007199254740993"])
def test_an_integer_may_be_a_text_with_all_its_digits(size: str) -> None:
    assert Reader(Thing).read_odd(b'{"name":"A","size":"%s"}' % size.encode(), []).size == int(size)
    assert Reader(Pair).read_odd(b'["%s",1]' % size.encode(), []).first == int(size)


@pytest.mark.parametrize("size", [b"7e2", b"7.0", b"9007199254740993.0", b"9007199254740992.0", b"", b" 7"])
def test_an_integer_as_text_in_another_form_is_refused(size: bytes) -> None:
    """By way of a double, two ids would become the same, and one trade would be lost without a word."""
    for reader, text in ((Reader(Thing), b'{"name":"A","size":"%s"}'), (Reader(Pair), b'[1,"%s"]')):
        with pytest.raises(ValidationError):
            reader.read_odd(text % size, [])
