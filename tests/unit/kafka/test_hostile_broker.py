"""Whatever answers in place of a Kafka broker: the bridge says what is the matter, and tries again."""

import asyncio
import base64
import hashlib
import hmac
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from bridge import service
from bridge.check.kafka import check_kafka
from bridge.config import Config, KafkaConfig
from bridge.kafka.client import admin, in_words, sends_password_in_clear, understood
from bridge.kafka.leases import Leases
from bridge.kafka.looking import View, look
from bridge.kafka.producer import open_producer
from bridge.watch.metrics import Metrics
from tests.support.clusters import cluster_of
from tests.support.hostile_broker import Answer, HostileBroker, mechanisms, token, versions
from tests.support.waiting import soon

PASSWORD = "pa55w0rd-canary"
SCRAM = "SCRAM-SHA-256"
SALT = base64.b64encode(b"salt")


def settings(address: str, mechanism: str) -> dict[str, Any]:
    return {
        "bootstrap_servers": address,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "bridge",
        "sasl_plain_password": PASSWORD,
    }


def cause(broker: HostileBroker, mechanism: str) -> str:
    """Return why a client can't use a broker, as `/readyz` and `check` would say it."""

    async def scenario() -> str:
        async with broker.listening() as address:
            with pytest.raises(KafkaError) as caught:
                async with admin(KafkaConfig(**settings(address, mechanism))):
                    pass
        return in_words(caught.value)

    words = uvloop.run(scenario())
    assert PASSWORD not in words
    assert words.isprintable()
    assert len(words) < 500
    return words


def first(form: str) -> Answer:
    """Return the broker's first answer of SCRAM; `N` in it stands for the client's nonce."""

    def answer(sent: bytes) -> bytes:
        nonce = sent.partition(b"r=")[2]
        return token(form.encode().replace(b"N", nonce))

    return answer


GOOD = first(f"r=Nxyz,s={SALT.decode()},i=4096")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([b""], "SCRAM-SHA-256 failed"),
        ([b"\xff\xfe"], "SCRAM-SHA-256 failed: UnicodeDecodeError"),
        ([b"nonsense"], "SCRAM-SHA-256 failed: ValueError"),
        ([b"e=other-error"], "SCRAM-SHA-256 failed: KeyError('r')"),
        ([first("r=other,s=c2FsdA==,i=4096")], "nonce"),
        ([first("r=Nxyz,s=c2FsdA,i=4096")], "SCRAM-SHA-256 failed: Error"),
        ([first("r=Nxyz,s=c2FsdA==,i=many")], "SCRAM-SHA-256 failed: ValueError"),
        ([first("r=Nxyz,s=c2FsdA==,i=" + "9" * 10_000)], "SCRAM-SHA-256 failed: ValueError"),
        ([first("r=Nxyz,s=c2FsdA==,i=-1")], "-1 iterations, 4096 to 1000000 are accepted"),
        ([first("r=Nxyz,s=c2FsdA==,i=1")], "1 iterations, 4096 to 1000000 are accepted"),
        ([first("r=Nxyz,s=c2FsdA==,i=4095")], "4095 iterations, 4096 to 1000000 are accepted"),
        ([first("r=Nxyz,s=c2FsdA==,i=1000000000")], "1000000000 iterations, 4096 to 1000000 are accepted"),
        ([GOOD, b""], "SCRAM-SHA-256 failed"),
        ([GOOD, b"e=invalid-proof"], "SCRAM-SHA-256 failed: KeyError('v')"),
        ([GOOD, b"v=AAAA"], "wrong signature"),
        ([GOOD, b"v=A"], "SCRAM-SHA-256 failed: Error"),
        ([GOOD, lambda _: token(b"", 58, "Authentication failed")], "Authentication failed"),
        ([lambda _: None], "closed"),
        ([GOOD, lambda _: None], "closed"),
        ([lambda _: b"\0"], "no answer of a Kafka broker"),
        ([lambda _: token(b"", 4711)], "UnknownError"),
    ],
)
def test_a_malformed_answer_to_scram_is_named(answers: list[Answer | bytes], words: str) -> None:
    assert words in cause(HostileBroker(*answers), SCRAM)


def test_a_plain_authentication_that_is_answered_with_something_is_named() -> None:
    assert "PLAIN failed: AssertionError" in cause(HostileBroker(b"x"), "PLAIN")


def test_a_broker_that_repeats_the_password_has_it_in_no_message() -> None:
    """In many words besides, and with control characters."""

    def answer(sent: bytes) -> bytes:
        return token(b"", 58, f"{sent[-20:].decode(errors='replace')} \x1b[2J\n {PASSWORD} " + "x" * 30_000)

    assert "***" in cause(HostileBroker(answer), "PLAIN")


@pytest.mark.parametrize("mechanism", [SCRAM, "PLAIN"])
@pytest.mark.parametrize(
    "change",
    [
        lambda broker: setattr(broker, "mechanisms", mechanisms()),
        lambda broker: setattr(broker, "mechanisms", mechanisms("GSSAPI", error=33)),
        lambda broker: setattr(broker, "mechanisms", b"\0"),
        lambda broker: setattr(broker, "mechanisms", struct.pack(">hi", 0, 2**31 - 1)),
        lambda broker: setattr(broker, "versions", versions((17, 1, 0))),
        lambda broker: setattr(broker, "versions", versions((99, 0, 0))),
        lambda broker: setattr(broker, "versions", b""),
        lambda broker: setattr(broker, "raw", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda broker: setattr(broker, "raw", struct.pack(">i", 2**31 - 1) + bytes(1000)),
        lambda broker: setattr(broker, "raw", struct.pack(">i", -1) + bytes(1000)),
        lambda broker: setattr(broker, "raw", struct.pack(">ii", 4, 4711)),
        lambda broker: setattr(broker, "raw", struct.pack(">i", 0)),
        lambda broker: setattr(broker, "raw", b"\x15\x03\x03\x00\x02\x02\x46"),  # an alert of TLS
    ],
)
def test_what_is_no_broker_is_named(change: Callable[[HostileBroker], None], mechanism: str) -> None:
    broker = HostileBroker(b"", b"")
    change(broker)
    assert "cannot connect to 127.0.0.1:" in cause(broker, mechanism)


@pytest.mark.parametrize("seed", range(4))
def test_responses_that_make_no_sense_are_reasons_to_try_again(seed: int) -> None:
    """Whatever is made of them: null lists, addresses that are none, other lengths than announced."""
    chance = random.Random(seed)
    port = 0

    def brokers(host: bytes, at: int) -> bytes:
        return struct.pack(">iih", 1, 0, len(host)) + host + struct.pack(">i", at)

    def response() -> bytes:
        match chance.randrange(5):
            case 0:
                return chance.randbytes(chance.randrange(200))
            case 1:
                return bytes(chance.randrange(400))
            case 2:
                return b"\xff" * chance.randrange(100)
            case 3:
                host = chance.choice([b"", b"\0", b"x" * 300, b"a..b", b"\xff\xfe"])
                return brokers(host, chance.choice([-1, 0, 99_999, 2**31 - 1])) + bytes(40)
        return (
            brokers(b"127.0.0.1", port) + struct.pack(">i", chance.choice([0, 1, -1, 2**31 - 1])) + bytes(60)
        )

    async def scenario() -> None:
        nonlocal port
        broker = HostileBroker()
        broker.others = response
        async with broker.listening() as address:
            port = int(address.partition(":")[2])
            config = KafkaConfig(bootstrap_servers=address)
            for _ in range(60):
                broker.versions = versions(*((key, 0, chance.choice([0, 1, 5, 12])) for key in range(60)))
                with pytest.raises((KafkaError, TimeoutError)), understood():
                    async with asyncio.timeout(2):
                        await look(config, ["trades"], View())

    uvloop.run(scenario())


@pytest.mark.parametrize("address", ["a" * 64 + ".invalid:9092", "xn--\N{GRINNING FACE}.invalid:9092"])
def test_an_address_that_can_not_be_one_is_named(address: str) -> None:
    async def scenario() -> str:
        with pytest.raises(KafkaError) as caught:
            async with admin(KafkaConfig(**settings(address, SCRAM))):
                pass
        return in_words(caught.value)

    assert "cannot connect to " in uvloop.run(scenario())


def test_a_correct_answer_to_scram_is_accepted() -> None:
    """Up to the signature, which only whoever knows the password can give."""
    said: list[str] = []

    def open_(sent: bytes) -> bytes:
        bare = sent.partition(b"n,,")[2].decode()
        server = f"r={bare.partition('r=')[2]}xyz,s={SALT.decode()},i=4096"
        said.extend((bare, server))
        return token(server.encode())

    def close(sent: bytes) -> bytes:
        final = sent.decode(errors="replace")
        without_proof = final[final.index("c=biws") : final.index(",p=")]
        salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"salt", 4096)
        key = hmac_of(salted, b"Server Key")
        signature = hmac_of(key, ",".join([*said, without_proof]).encode())
        return token(b"v=" + base64.b64encode(signature))

    broker = HostileBroker(open_, close)
    words = cause(broker, SCRAM)  # it says nothing more after that
    assert "failed" not in words


def hmac_of(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def test_the_bridge_goes_on_trying() -> None:
    broker = HostileBroker(first("r=Nxyz,s=c2FsdA==,i=1"))

    async def scenario() -> list[Any]:
        with capture_logs() as lines:
            async with broker.listening() as address:
                config = Config.model_validate(
                    {
                        "channels": {"trades": ["BTC_USDT"]},
                        "kafka": settings(address, SCRAM),
                        "http": {"host": "127.0.0.1", "port": 0},
                    }
                )
                running = asyncio.create_task(service.run(config))
                await soon(lambda: broker.connections > 2 or running.done(), 20, "it tries again")
                assert not running.done()
                running.cancel()
                await asyncio.wait({running})
        return lines

    lines = uvloop.run(scenario())
    retries = [line for line in lines if line["event"] == "Kafka unavailable, retrying"]
    assert "1 iterations, 4096 to 1000000 are accepted" in retries[0]["error"]
    assert PASSWORD not in str(lines)
    (warning,) = [line for line in lines if line["event"] == "password sent to Kafka without TLS"]
    assert (warning["log_level"], warning["mechanism"]) == ("warning", SCRAM)


def test_check_names_the_cause_and_warns_of_a_password_without_tls() -> None:
    broker = HostileBroker(first("r=Nxyz,s=c2FsdA==,i=1"))
    said: list[str] = []

    async def scenario() -> bool:
        async with broker.listening() as address:
            config = Config.model_validate(
                {"channels": {"trades": ["BTC_USDT"]}, "kafka": settings(address, SCRAM)}
            )
            return await check_kafka(config, said.append)

    assert not uvloop.run(scenario())
    assert said[1] == "  the password is sent without TLS (SCRAM-SHA-256): use SASL_SSL"
    assert "1 iterations, 4096 to 1000000 are accepted" in said[2]


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_SSL"])
def test_without_a_password_or_with_tls_there_is_no_warning(protocol: str) -> None:
    keys = settings("localhost:9092", SCRAM) if protocol.startswith("SASL") else {}
    assert not sends_password_in_clear(KafkaConfig(**{**keys, "security_protocol": protocol}))


def test_a_certificate_that_is_gone_while_the_bridge_runs_is_a_reason_to_try_again(tmp_path: Path) -> None:
    """As while it is being renewed."""
    (tmp_path / "certificate").touch()
    config = KafkaConfig.model_validate(
        {
            "bootstrap_servers": "127.0.0.1:1",
            "security_protocol": "SSL",
            "ssl_certfile": str(tmp_path / "certificate"),
        }
    )

    async def scenario() -> str:
        lease = Leases(config, cluster_of(), metrics=Metrics(), on_change=lambda: None)
        running = asyncio.create_task(lease.run())
        await soon(lambda: "ssl_certfile" in lease.missing() or running.done(), 10, "it says so")
        assert not running.done()
        running.cancel()
        await asyncio.wait({running})
        with pytest.raises(KafkaError, match="ssl_certfile"):
            await open_producer(config, "bridge/0")
        return lease.missing()

    assert "consumer group unavailable on 127.0.0.1:1" in uvloop.run(scenario())
