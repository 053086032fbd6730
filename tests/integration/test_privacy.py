"""What belongs to an account is nowhere but below the private prefix, and its credentials are nowhere."""

import base64
import json
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from confluent_kafka.admin import AdminClient
from websockets.sync.server import ServerConnection

from bridge.records import DEAD_LETTER_REASONS, DEADLETTER, EVENTS, STATE
from bridge.simulator.protocol import PRIVATE
from tests.support.consumers import read_topic
from tests.support.kafka_broker import Broker
from tests.support.process import Command, RunningBridge, config
from tests.support.scripted import Frame, Json, ScriptedExchange, answer, push
from tests.support.waiting import eventually

CANARY = "4242.424242"
ORDER = {
    "id": "31b7", "mode": 1, "side": "buy", "type": "limit", "status": 2, "symbol": "BTC_USDT",
    "price": CANARY, "price_avg": "1", "amount": "1", "filled": "1", "notional": "1",
    "timestamp": 1589272547000,
}  # fmt: skip


def private_pushes() -> Iterator[Frame]:
    """Yield private pushes with the canary: good ones, bad ones, damaged ones and others that are odd."""
    good = push("order", [ORDER])
    yield good
    yield push("balance", [{"currency": "USDT", "free": CANARY, "total": "1", "used": "1"}])
    yield push("order", [ORDER | {"price": f"x{CANARY}"}])
    yield push("order", [ORDER | {"status": CANARY}])
    yield push("order", [ORDER, CANARY])
    yield push("order", CANARY)
    yield push("order", [ORDER | {f"new {CANARY}": 1}])
    yield push("order_algo", [{"id": CANARY}])
    yield push("balance", {"free": CANARY})
    yield push(f"order{CANARY}", [ORDER])
    yield push("order", [ORDER | {"symbol": CANARY}])
    yield push("order", [ORDER | {"symbol": "DOGE_USDT"}])
    yield push("trades", [True, [], CANARY])
    yield {"method": f"order {CANARY}", "params": [ORDER]}
    yield {"neither": CANARY}
    text = b'{"method":"order.update","params":[{"price":"%b' % CANARY.encode()
    yield text
    yield zlib.compress(text)
    yield zlib.compress(text)[:-3]
    yield zlib.compress(text) + CANARY.encode()


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_private_payload_is_below_the_private_prefix_alone(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    def reply(request: Json, _: ServerConnection) -> Iterable[Frame]:
        yield answer(request)
        if request["method"] == "balance.subscribe":
            yield from private_pushes()

    with ScriptedExchange(reply) as exchange:
        settings = config(
            exchange.url,
            kafka,
            prefix,
            {
                "kafka": {"delivery": delivery},
                "channels": {"trades": ["BTC_USDT"], "depth": [], "ticker": [], "all_ticker": False},
            },
            accounts=True,
        )
        settings["log"]["level"] = "debug"
        with RunningBridge(tmp_path, settings) as bridge:
            last = partial(bridge.metric, "deadletters_total", reason="decompression")
            eventually(lambda: last() >= 2, 15, "dead letters")
            status = str(bridge.status()) + str(bridge.ready()) + bridge.metrics()
            assert bridge.stop() == 0
        assert CANARY not in bridge.stderr + status
    names = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=20).topics
    shared = [name for name in names if name.startswith(prefix)]
    assert f"{prefix}.events.v1" in shared
    for name in shared:
        for record in read_topic(kafka.bootstrap, name):
            assert CANARY.encode() not in (record.key or b"") + record.value, name
            assert b'"account":"main"' not in record.value, name
            assert b'"frame_base64"' not in record.value, name
    private = {
        name.removeprefix(f"private.{prefix}."): read_topic(kafka.bootstrap, name)
        for name in names
        if name.startswith(f"private.{prefix}.")
    }
    assert private.keys() == {STATE, *(f"{one}.v1" for one in (*PRIVATE, DEADLETTER, EVENTS))}
    assert [record.json["price"] for record in private["order.v1"]] == [CANARY] * 3
    assert {letter.json["reason"] for letter in private["deadletter.v1"]} == set(DEAD_LETTER_REASONS)
    assert {record.json["account"] for record in private["events.v1"]} == {"main"}


ACCOUNT = {"api_key": "CaNaRyKeY/5a8e6b66+2ddb0", "secret": 'CaNaRy&s3cr3t<of>"an%41account'}


class Sent:
    """What the bridge has sent to log in, which an exchange may repeat in any spelling."""

    def __init__(self) -> None:
        self.texts = list(ACCOUNT.values())

    def note(self, request: Json) -> None:
        if request["method"] == "server.auth":
            self.texts.append(request["params"][2])  # the time may be that of a record, too

    def repeated(self) -> Iterator[str]:
        for text in list(self.texts):
            yield from (text, text.swapcase(), json.dumps(text)[1:-1], quote(text, safe=""))
            yield "".join(f"\\u{ord(one):04x}" for one in text)

    def in_one(self) -> str:
        return " ".join(self.repeated()) + "\x1b[2J\r\nready to run\n" + "x" * 1_000_000


def credentials_in(text: str, sent: Sent) -> list[str]:
    return [one for one in sent.repeated() if one.casefold() in text.casefold()]


@pytest.mark.parametrize("refuses", ["server.auth", "subscribe"])
def test_an_exchange_that_repeats_credentials_puts_them_nowhere(
    kafka: Broker, prefix: str, tmp_path: Path, refuses: str
) -> None:
    sent = Sent()

    def reply(request: Json, connection: ServerConnection) -> Iterable[Frame]:
        sent.note(request)
        method = request["method"]
        yield {"method": f"hello {sent.in_one()[:5000]}", "params": []}
        if refuses in method:
            yield answer(request) | {"error": {"code": 7, "message": sent.in_one()}, "result": None}
        else:
            yield answer(request)
        if method == "balance.subscribe":
            for one in sent.repeated():
                yield push("balance", [{"currency": "USDT", "free": one}])
                yield f'{{"x":"{one}'.encode()
                yield zlib.compress(f'{{"x":"{one}'.encode())[:-2]
            yield push("trades", [False, [{"id": one} for one in sent.repeated()], "BTC_USDT"])
            connection.close(1008, sent.texts[0])

    with ScriptedExchange(reply) as exchange:
        settings = config(
            exchange.url,
            kafka,
            prefix,
            {"channels": {"trades": ["BTC_USDT"], "depth": [], "ticker": [], "all_ticker": False}},
            accounts=True,
        )
        settings["accounts"][0] |= ACCOUNT
        settings["log"]["level"] = "debug"
        with RunningBridge(tmp_path, settings) as bridge:
            eventually(lambda: "session ended" in bridge.stderr, 30, "the end of a session")
            eventually(lambda: bridge.metric("records_total", channel="deadletter") > 2, 15, "dead letters")
            seen = str(bridge.status()) + str(bridge.ready()) + bridge.metrics()
            assert len(str(bridge.ready())) < 20_000
            assert bridge.stop() == 0
        log = bridge.stderr  # which the next command overwrites
        with Command(tmp_path, ["check", "--config", "bridge.toml"]) as checked:
            checked.process.wait(60)
    logged = log + seen + checked.stdout + checked.stderr
    assert not credentials_in(logged, sent)
    assert 1_000 < len(log) < 1_000_000
    assert "session ended" in log
    assert (checked.stdout + log).replace("\n", "").isprintable()
    assert "ready to run\n" not in checked.stdout.splitlines(keepends=True)
    names = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=20).topics
    letters = 0
    for name in names:
        if prefix not in name or not name.endswith((f"{DEADLETTER}.v1", f"{EVENTS}.v1")):
            continue
        for record in read_topic(kafka.bootstrap, name):
            assert not credentials_in(record.value.decode(), sent), name
            if "deadletter" in name:
                letters += 1
                frame = base64.b64decode(record.json["frame_base64"])
                assert not credentials_in(frame.decode(errors="replace"), sent), record
                assert frame or "withheld" in record.json["detail"]
    assert letters > 2
