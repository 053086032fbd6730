"""Whatever the exchange says: short, on one line, without credentials."""

import base64
import gzip
import html
import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exchange.requests import Credentials, auth
from bridge.exchange.words import MOST_WORDS, Confidential, printable

KEY, SECRET = "5a8e6b662ddb0CaNaRy", "q/W+e<r>&t\"y'%41=="
ACCOUNT = Credentials(KEY, SECRET)
TIME_MS = 1_583_135_616_239
SIGNATURE = json.loads(auth(1, ACCOUNT, TIME_MS))["params"][2]
confidential = Confidential([ACCOUNT])
confidential.note_signature(ACCOUNT, TIME_MS)


def each_escaped(form: str) -> Callable[[str], str]:
    return lambda text: "".join(form.format(ord(one)) for one in text)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "swapped case": str.swapcase,
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in JSON with escaped slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "in JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "in a URL": lambda text: quote(text, safe=""),
    "in a URL in a URL": lambda text: quote(quote(text, safe=""), safe=""),
    "in HTML": html.escape,
    "each character as \\u": each_escaped("\\u{:04x}"),
    "each character as \\U": each_escaped("\\u{:04X}"),
    "each character as \\x": each_escaped("\\x{:02x}"),
    "each character as %": each_escaped("%{:02x}"),
    "each character as &#": each_escaped("&#{};"),
    "each character as &#x": each_escaped("&#x{:x};"),
}


@pytest.mark.parametrize("spelling", [pytest.param(one, id=name) for name, one in SPELLINGS.items()])
@pytest.mark.parametrize("what", [KEY, SECRET, SIGNATURE, str(TIME_MS)])
def test_a_credential_is_replaced_however_it_is_written(what: str, spelling: Callable[[str], str]) -> None:
    words = confidential.words(f"refused: {spelling(what)} is wrong")
    assert words.startswith("refused: ")
    assert words.endswith(" is wrong")
    assert "***" in words
    assert len(words) < len("refused:  is wrong") + 10


@pytest.mark.parametrize("spelling", [pytest.param(one, id=name) for name, one in SPELLINGS.items()])
@pytest.mark.parametrize("what", [KEY, SECRET, SIGNATURE])
def test_a_frame_that_repeats_a_credential_is_found(what: str, spelling: Callable[[str], str]) -> None:
    text = b'{"error":"' + spelling(what).encode() + b'"}'
    raw = zlib.compressobj(wbits=-15)
    for frame in (
        text,
        zlib.compress(text),
        raw.compress(text) + raw.flush(),
        gzip.compress(text),
        gzip.compress(text)[:-4],
        zlib.compress(text)[:-4],
        zlib.compress(text)[:-4] + b"????",
        zlib.compress(text + bytes(range(256)))[:-60] + b"?" * 60,
        zlib.compress(random.Random(1).randbytes(5000) + text)[:-4] + b"????",
        zlib.compress(text) + b"more",
        zlib.compress(b"[]") + zlib.compress(text),
        zlib.compress(text, level=0)[:-5] + b"?????",
    ):
        assert confidential.repeats(frame)


def test_a_frame_without_credentials_is_not_found() -> None:
    text = b'{"error":"5a8e6b6 is not 5A8E6B6 nor \\u0035 %35 &amp;"}'
    for frame in (text, zlib.compress(text), zlib.compress(text)[:-4], b"", b"\x78\x9c", bytes(range(256))):
        assert not confidential.repeats(frame)
        assert not Confidential().repeats(frame)


def test_a_frame_that_cannot_be_searched_counts_as_one_that_repeats_credentials() -> None:
    bomb = zlib.compress(bytes(9_000_000))
    assert confidential.repeats(bomb)
    assert confidential.repeats(b"\\" * 200_000)
    assert confidential.repeats(bytes(2_100_000))
    assert not Confidential().repeats(bomb)


def test_a_search_takes_a_bounded_multiple_of_what_may_be_searched() -> None:
    """One character beyond the 16 bits makes each character of a text take four bytes."""
    frame = '{"error":"\N{ROCKET}'.encode() + b"\\x" * 40_000
    frame += bytes(2_097_152 - len(frame))
    tracemalloc.start()
    try:
        confidential.repeats(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 14 * len(frame)


def test_the_beginning_of_a_credential_is_replaced_where_a_text_was_cut() -> None:
    assert confidential.words(f"method '{KEY[:9]}") == "method '***"
    assert confidential.repeats(zlib.compress(KEY[:9].encode()))


def test_credentials_of_all_accounts_are_replaced_and_the_newest_signatures() -> None:
    several = Confidential()
    accounts = [Credentials(f"the-key-of-{n}", f"the-secret-of-{n}") for n in range(3)]
    for account in accounts:
        several.add(account)
        for moment in range(100):
            several.note_signature(account, TIME_MS + moment)
    text = " ".join(f"{one.api_key} {one.secret}" for one in accounts)
    assert several.words(text) == "*** *** *** *** *** ***"
    newest = json.loads(auth(1, accounts[2], TIME_MS + 99))["params"][2]
    assert several.words(newest) == "***"


def test_signatures_of_many_accounts_that_log_in_together_are_replaced() -> None:
    """The exchange may answer the first of them after the last one has signed."""
    several = Confidential()
    accounts = [Credentials(f"the-key-of-{n}", f"the-secret-of-{n}") for n in range(100)]
    for account in accounts:
        several.note_signature(account, TIME_MS)
    for account in accounts:
        assert several.words(json.loads(auth(1, account, TIME_MS))["params"][2]) == "***"


def test_a_signature_stays_confidential_when_the_exchange_says_that_it_is_old() -> None:
    several = Confidential()
    account = Credentials("the-key", "the-secret")
    several.note_signature(account, TIME_MS)
    several.note_signature(account, TIME_MS + 600_000_000)
    assert several.words(json.loads(auth(1, account, TIME_MS))["params"][2]) == "***"
    assert several.words(str(TIME_MS)) == str(TIME_MS)
    assert several.words(str(TIME_MS + 600_000_000)) == "***"


def test_a_long_text_is_cut_and_its_length_is_shown() -> None:
    assert confidential.words("x" * MOST_WORDS) == "x" * MOST_WORDS
    assert confidential.words("x" * 8_000_000) == "x" * MOST_WORDS + "… (8000000 characters)"
    escaped = "\\\\u0035" * 5_000
    assert len(confidential.words(escaped + KEY)) < MOST_WORDS + 30


def test_a_credential_on_the_edge_of_a_cut_is_replaced() -> None:
    for before in range(MOST_WORDS - len(KEY), MOST_WORDS + 1):
        assert KEY[:8] not in confidential.words("x" * before + KEY + "y" * 50)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\n", "a\\nb\\r\\n"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("\u202eevil\u2028", "\\u202eevil\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("grün 价格", "grün 价格"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert Confidential().words(text) == shown


@given(st.text(st.characters()) | st.binary().map(lambda raw: base64.b85encode(raw).decode()))
def test_words_are_one_short_line_whatever_the_text_is(text: str) -> None:
    for one in (confidential, Confidential()):
        words = one.words(text)
        assert words.isprintable()
        assert len(words) <= MOST_WORDS + 30
        words.encode()


@pytest.mark.parametrize("part", ["\\", "%25", "&amp;", "&#0", "\\u005c", "0"])
def test_no_text_takes_more_than_linear_time(part: str) -> None:
    """With quadratic time, these would take minutes."""
    text = KEY + part * (99_000 // len(part))
    assert KEY not in confidential.words(text)
    assert confidential.repeats(text.encode())
    assert confidential.repeats(part.encode() * 30_000 + KEY.encode())


@pytest.mark.parametrize("length", [63, 64, 65, 129, 1000, 5000])
@pytest.mark.parametrize("spelling", ["as it is", "upper case", "in a URL"])
def test_a_credential_of_any_length_is_replaced(length: int, spelling: str) -> None:
    """A token may have thousands of characters."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789-_ABCDEFGHIJKLMNOPQRSTUVWXYZ~"
    chance = random.Random(length)
    credential = "".join(chance.choices(alphabet, k=length))
    words = Confidential([Credentials("", credential)]).words(f"I know {SPELLINGS[spelling](credential)}.")
    assert words.startswith("I know ***")
    assert words.replace("*", "") == "I know ."
