"""Tokens of a token endpoint: fetched once for all, renewed in time, and explained if there is none."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus

import pytest
import uvloop
from pydantic import ValidationError

from bridge.config import ConfigError, KafkaConfig
from bridge.kafka import aws
from bridge.kafka import tokens as module
from bridge.kafka.client import connection
from bridge.kafka.quirks import connection as connecting
from bridge.kafka.tokens import Granted, Tokens, TokenUnavailable, from_endpoint
from bridge.network import Loop
from tests.support.certificates import make_certificates
from tests.support.token_server import CLIENT, SECRET, TokenServer
from tests.support.waiting import soon


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The monotonic clock that tokens go by; a test moves its `now` on, in seconds."""
    one = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: one.now))
    return one


@pytest.fixture
def server() -> Iterator[TokenServer]:
    """A token endpoint without TLS."""
    with TokenServer() as server:
        yield server


def config(url: str, **keys: Any) -> KafkaConfig:
    return KafkaConfig.model_validate(
        {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_endpoint": url,
            "sasl_oauth_client_id": CLIENT,
            "sasl_oauth_client_secret": SECRET,
            **keys,
        }
    )


def of(settings: KafkaConfig) -> Tokens:
    return Tokens(partial(from_endpoint, settings))


def ask(settings: KafkaConfig, times: int = 1) -> list[str]:
    """Return the tokens that several connections get, opened one after the other."""

    async def scenario() -> list[str]:
        tokens = of(settings)
        return [await tokens.token() for _ in range(times)]

    return uvloop.run(scenario(), loop_factory=Loop)


def refusal(settings: KafkaConfig) -> str:
    """Return why there is no token."""
    with pytest.raises(TokenUnavailable) as caught:
        ask(settings)
    words = str(caught.value.args[0])
    assert SECRET not in words
    assert quote_plus(SECRET) not in words
    assert words.isprintable()
    assert len(words) < 500
    return words


def test_a_token_is_asked_for_with_client_credentials_and_the_scope(server: TokenServer) -> None:
    assert ask(config(server.url, sasl_oauth_scope="kafka other")) == server.granted
    assert server.asked == [{"grant_type": ["client_credentials"], "scope": ["kafka other"]}]


@pytest.mark.parametrize("lifetime", [3600, "3600", 3600.5, 10**12])
def test_one_token_is_for_all_connections(server: TokenServer, lifetime: object) -> None:
    server.lifetime = lifetime
    first, second = ask(config(server.url), 2)
    assert first == second


@pytest.mark.parametrize("lifetime", [None, 0, -5, "NaN"])
def test_a_token_without_a_known_end_is_for_one_connection(server: TokenServer, lifetime: object) -> None:
    server.lifetime = lifetime
    assert ask(config(server.url), 2) == server.granted
    assert len(server.asked) == 2


def test_connections_that_are_opened_at_once_wait_for_the_same_token(server: TokenServer) -> None:
    async def scenario() -> set[str]:
        tokens = of(config(server.url))
        return set(await asyncio.gather(*(tokens.token() for _ in range(5))))

    assert uvloop.run(scenario()) == set(server.granted)
    assert len(server.asked) == 1


def test_a_token_is_renewed_before_it_expires_and_used_up_while_there_is_no_other(
    server: TokenServer, clock: SimpleNamespace
) -> None:
    server.lifetime = 100

    async def scenario() -> None:
        tokens = of(config(server.url))
        first = await tokens.token()
        clock.now += 79
        assert await tokens.token() == first
        server.answer = (503, {}, b"")
        clock.now += 2
        assert await tokens.token() == first
        await others_done()
        assert len(server.asked) == 2
        assert await tokens.token() == first
        assert len(server.asked) == 2, "the endpoint is not asked again at once"
        clock.now += 40
        with pytest.raises(TokenUnavailable, match="HTTP 503"):
            await tokens.token()
        server.answer = None
        clock.now += 40
        assert await tokens.token() == server.granted[-1] != first

    asyncio.run(scenario())


async def others_done() -> None:
    """Return when no other task is at work."""
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=30)


def test_a_token_that_lives_is_used_while_an_endpoint_hangs(
    server: TokenServer, clock: SimpleNamespace
) -> None:
    server.lifetime = 100

    async def scenario() -> None:
        tokens = of(config(server.url))
        first = await tokens.token()
        server.pause.clear()
        clock.now += 81
        assert {await tokens.token() for _ in range(5)} == {first}
        server.pause.set()
        await others_done()
        assert len(server.asked) == 2
        assert await tokens.token() == server.granted[1] != first

    asyncio.run(scenario())


def test_a_connection_that_gives_up_does_not_take_the_token_from_the_others(server: TokenServer) -> None:
    server.pause.clear()

    async def scenario() -> None:
        tokens = of(config(server.url))
        waiting = [asyncio.create_task(tokens.token()) for _ in range(2)]
        await soon(lambda: server.asked, 30, "request")
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        assert waiting[0].cancelled()
        server.pause.set()
        assert await waiting[1] == server.granted[0]
        assert len(server.asked) == 1

    asyncio.run(scenario())


def test_an_attempt_that_the_end_of_the_loop_cuts_off_counts_as_failed(
    server: TokenServer, clock: SimpleNamespace
) -> None:
    server.pause.clear()
    tokens = of(config(server.url))

    async def begin() -> None:
        waiting = asyncio.create_task(tokens.token())
        await soon(lambda: server.asked, 30, "request")
        assert not waiting.done()

    async def go_on() -> str:
        with pytest.raises(TokenUnavailable, match="given up"):
            await tokens.token()
        server.pause.set()
        clock.now += 1
        return await tokens.token()

    asyncio.run(begin())
    # The server answers the attempt that was cut off, too, before or after the last one.
    assert asyncio.run(go_on()) in server.granted


@pytest.mark.parametrize("timeout", [module._TIMEOUT, aws._TIMEOUT])
def test_a_token_and_the_broker_both_have_time_while_a_connection_is_opened(timeout: float) -> None:
    assert timeout <= connecting._CONNECT_TIMEOUT / 2


@pytest.mark.parametrize("error", [ValueError, MemoryError, RecursionError, asyncio.InvalidStateError])
def test_an_error_that_nobody_has_foreseen_is_no_token_either(error: type[Exception]) -> None:
    asked = []

    async def grant() -> Granted:
        asked.append(1)
        raise error(SECRET)

    async def scenario() -> None:
        tokens = Tokens(grant)
        for _ in range(2):
            with pytest.raises(TokenUnavailable) as caught:
                await tokens.token()
            assert caught.value.args[0] == f"no token: {error.__name__}"
        assert len(asked) == 1, "it is not asked again at once"

    asyncio.run(scenario())


def test_an_error_that_nobody_has_foreseen_is_named_without_the_secret(
    server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Granted:
        raise LookupError(f"what about {SECRET}?")

    monkeypatch.setattr(module, "_understood", broken)
    assert "LookupError('what about ***?')" in refusal(config(server.url))


def test_a_secret_that_is_renewed_in_its_file_is_used_for_the_next_token(
    server: TokenServer, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("other\n")
    settings = config(server.url, sasl_oauth_client_secret="", sasl_oauth_client_secret_file=str(file))
    assert "HTTP 401: invalid_client" in refusal(settings)
    file.write_text(SECRET + "\n")
    assert ask(settings) == server.granted
    file.unlink()
    assert "kafka.sasl_oauth_client_secret_file: cannot read" in refusal(settings)


def granted(**body: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(body).encode()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {}, b'{"error": "invalid_client"}'), "HTTP 401: invalid_client"),
        (
            (400, {}, b'{"error": "invalid_scope", "error_description": "no \\u001b[2J"}'),
            "invalid_scope: no ",
        ),
        ((500, {}, b"<html>" + b"x" * 5000), "HTTP 500"),
        ((400, {}, b'{"error": 7}'), "HTTP 400"),
        ((400, {}, b"\xff\xfe"), "HTTP 400"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "HTTP 302: a redirect, which is not followed"),
        ((307, {"Location": "http://127.0.0.1:1/"}, b""), "HTTP 307: a redirect, which is not followed"),
        ((200, {}, b""), "its answer is no token"),
        ((200, {}, b"\xff"), "its answer is no token"),
        ((200, {}, b"[]"), "its answer is no token"),
        ((200, {}, b'{"a":' + b"[" * 10_000), "its answer is no token"),
        ((401, {}, b'{"a":' + b"[" * 10_000), "HTTP 401"),
        (granted(expires_in=5), "its answer is no token"),
        (granted(access_token=None), "its answer is no token"),
        (granted(access_token="a", expires_in="soon"), "its answer is no token"),
        (granted(access_token=""), "no token that can be sent"),
        (granted(access_token="a\x01auth=Bearer b"), "no token that can be sent"),
        (granted(access_token="\N{SNOWMAN}"), "no token that can be sent"),
        ((200, {}, b"x" * 70_000), "larger than 65536 bytes"),
        ((200, {"Content-Length": "1000000000000"}, b"x" * 70_000), "larger than 65536 bytes"),
        ((200, {"Content-Length": "x"}, b""), "no answer in HTTP"),
        ((200, {"Content-Length": "5"}, b"{}"), "no answer in HTTP"),
        ((200, {"X": "y" * 60_000}, b""), "no answer in HTTP"),
        ((401, {}, json.dumps({"error": f"I know {SECRET}"}).encode()), "I know ***"),
        ((401, {}, json.dumps({"error": f"I know {quote_plus(SECRET)}"}).encode()), "I know ***"),
    ],
)
def test_an_answer_that_is_no_token_is_named(
    server: TokenServer, answer: tuple[int, dict[str, str], bytes], words: str
) -> None:
    server.answer = answer
    assert f"no token from {server.url}: " in refusal(config(server.url))
    assert words in refusal(config(server.url))


CANARY = "Kanarienvogel/im+Bergwerk?>~ist-gelb"


@pytest.mark.parametrize("client", [CLIENT, "ab", "abc", "abcd"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize(
    "repeated",
    [
        f"{{client}}:{quote_plus(CANARY)}",
        f"{{client}}:{CANARY}",
        f'{{{{"id": "{{client}}", "secret": "{CANARY}"}}}}',
        CANARY,
        quote_plus(CANARY),
    ],
)
def test_a_secret_that_an_endpoint_repeats_in_base64_is_not_shown(
    server: TokenServer, client: str, encode: Callable[[bytes], bytes], repeated: str
) -> None:
    written = encode(repeated.format(client=quote_plus(client)).encode()).decode()
    server.answer = (401, {}, json.dumps({"error": f"bad header: Basic {written}"}).encode())
    told = refusal(config(server.url, sasl_oauth_client_id=client, sasl_oauth_client_secret=CANARY))
    assert "HTTP 401: bad header: Basic " in told
    assert "***" in told
    for form in (CANARY, quote_plus(CANARY)):
        plain = "".join(decoded(told.partition("Basic ")[2], at) for at in range(4))
        assert not any(form[at : at + 4] in plain for at in range(len(form) - 3))


def decoded(told: str, start: int) -> str:
    """Return what can be read of a text in base64 from a place on."""
    text = told[start:].replace("-", "+").replace("_", "/")
    text = "".join(one if one.isascii() and (one.isalnum() or one in "+/") else "A" for one in text)
    return base64.b64decode(text[: len(text) // 4 * 4]).decode(errors="replace")


def test_an_endpoint_that_does_not_answer_is_given_up(
    server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    server.pause.clear()
    assert "no answer within 0.2 s" in refusal(config(server.url))


def test_an_endpoint_that_says_one_byte_after_the_other_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.3)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        while not reader.at_eof():
            writer.write(b" ")
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1000), 0.01)
        writer.close()
        closed.set()

    async def scenario() -> None:
        async with await asyncio.start_server(drip, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            with pytest.raises(TokenUnavailable, match="no answer within"):
                await of(config(f"http://127.0.0.1:{port}/")).token()
            await closed.wait()

    closed = asyncio.Event()
    uvloop.run(scenario())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/token?code=hidden", "connection refused"),
        ("http://127.0.0.1:1/token#hidden", "connection refused"),
        ("http://127.0.0.1:1/a-part-that-is-hidden/token?", "127.0.0.1:1/…/token: connection refused"),
        ("https://nosuchhost.invalid/token", "name not found"),
    ],
)
def test_an_endpoint_that_cannot_be_reached_is_named_without_what_may_be_a_token(
    url: str, words: str
) -> None:
    told = refusal(config(url))
    assert words in told
    assert "hidden" not in told


def test_the_certificate_of_an_endpoint_is_verified(tmp_path: Path) -> None:
    authority, keystore = make_certificates(tmp_path)
    with TokenServer(keystore=keystore) as server:
        assert "certificate not accepted" in refusal(config(server.url))
        assert ask(config(server.url, sasl_oauth_cafile=str(authority))) == server.granted


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ({"sasl_oauth_token_endpoint": "http://example.com/"}, "sasl_oauth_token_endpoint", "https://"),
        (
            {"sasl_oauth_token_endpoint": "http://localhost.example.com/"},
            "sasl_oauth_token_endpoint",
            "https",
        ),
        ({"sasl_oauth_token_endpoint": "ftp://example.com/"}, "sasl_oauth_token_endpoint", "must be a URL"),
        ({"sasl_oauth_token_endpoint": "https://a:b@c/"}, "sasl_oauth_token_endpoint", "user name"),
        *(
            ({"sasl_oauth_token_endpoint": f"https://example.com{rest}"}, "sasl_oauth_token_endpoint", "%XX")
            for rest in (
                "/a b",
                "/?a=b c",
                "/ ",
                "/\t",
                "/a\nb",
                "/\x7f",
                "/?\x00",
                "/\N{SNOWMAN}",
                "\u3000/",
            )
        ),
        ({"sasl_oauth_token_endpoint": ""}, "sasl_oauth_token_endpoint", "is missing"),
        ({"sasl_oauth_client_id": ""}, "sasl_oauth_client_id", "is missing"),
        ({"sasl_oauth_client_secret": ""}, "sasl_oauth_client_secret", "is missing"),
        ({"sasl_plain_username": "x"}, "sasl_plain_username", "has no effect"),
        ({"sasl_mechanism": "PLAIN"}, "sasl_oauth_client_id", "has no effect"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, str], key: str, words: str) -> None:
    with pytest.raises((ConfigError, ValidationError)) as caught:
        config("https://example.com/token", **keys)
    assert key in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1/t", "http://[::1]:8080/t", "http://localhost/t"])
def test_an_endpoint_on_this_host_needs_no_tls(url: str) -> None:
    assert config(url).sasl_oauth_token_endpoint == url


def test_authorities_that_cannot_be_used_are_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError) as caught:
        connection(config("https://example.com/token", sasl_oauth_cafile=str(tmp_path / "ca.pem")))
    assert caught.value.key == "kafka.sasl_oauth_cafile"


def test_authorities_are_read_for_tokens_and_not_for_each_connection(tmp_path: Path) -> None:
    authority, keystore = make_certificates(tmp_path)
    with TokenServer(keystore=keystore) as server:
        settings = config(server.url, sasl_oauth_cafile=str(authority))
        connection(settings)
        authority.write_text("no certificate")
        connection(settings)
        assert "kafka.sasl_oauth_cafile: cannot be used" in refusal(settings)


def test_an_endpoint_without_tls_needs_no_authorities(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings = config("http://127.0.0.1:1/", sasl_oauth_cafile=str(tmp_path / "ca.pem"))
    assert connection(settings)["sasl_mechanism"] == "OAUTHBEARER"
