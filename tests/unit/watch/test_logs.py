"""The log has one format for all loggers, no secrets and no floods."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from bridge.config import LogConfig, LogFormat, LogLevel
from bridge.watch.logs import Repeats, configure

SECRET = "s3cr3t-that-nobody-may-see"

Written = Callable[[], str]
Start = Callable[..., Written]


@pytest.fixture
def start() -> Iterator[Start]:
    """Configure logging and return a function that returns the text written since; restore it at the end."""
    root = logging.getLogger()
    before = root.handlers, root.level, logging.getLogger("bridge").level

    def start(form: str = "json", level: str = "info") -> Written:
        stream = io.StringIO()
        configure(LogConfig(level=LogLevel(level), format=LogFormat(form)), stream)
        return stream.getvalue

    yield start
    structlog.reset_defaults()
    root.handlers, level = before[0], before[1]
    root.setLevel(level)
    logging.getLogger("bridge").setLevel(before[2])


def lines(written: Written) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written().splitlines()]


def test_json_has_one_object_per_line_for_the_bridge_and_its_libraries(start: Start) -> None:
    written = start()
    structlog.get_logger("bridge.websocket").info("session opened", session="a", symbols=["BTC_USDT"])
    logging.getLogger("aiokafka.conn").warning("Closing %s", "x")
    ours, theirs = lines(written)
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "event": "session opened",
        "session": "a",
        "symbols": ["BTC_USDT"],
        "level": "info",
        "logger": "bridge.websocket",
    }
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("Closing x", "warning", "aiokafka.conn")


def test_console_lines_have_no_colours_if_the_output_is_not_a_terminal(start: Start) -> None:
    written = start("console")
    structlog.get_logger("bridge.x").warning("reading paused", shard="0")
    assert "reading paused" in written()
    assert "shard=0" in written()
    assert "\x1b" not in written()
    assert written().count("\n") == 1


def test_lines_below_the_level_are_dropped(start: Start) -> None:
    written = start(level="warning")
    log = structlog.get_logger("bridge.x")
    log.debug("one")
    log.info("two")
    log.warning("three")
    assert [line["event"] for line in lines(written)] == ["three"]


def test_libraries_log_warnings_only_even_at_level_debug(start: Start) -> None:
    """Debug lines of websockets contain the frame with the credentials."""
    written = start(level="debug")
    structlog.get_logger("bridge.x").debug("ours")
    logging.getLogger("websockets.client").debug("> TEXT server.auth %s", SECRET)
    logging.getLogger("aiokafka").info("theirs")
    assert [line["event"] for line in lines(written)] == ["ours"]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "values",
    [
        {"secret": SECRET},
        {"password": SECRET},
        {"api_key": SECRET},
        {"sign": SECRET},
        {"sasl_plain_password": SECRET},
        {"anything": SecretStr(SECRET)},
        {"account": {"name": "main", "Secret": SECRET}},
        {"accounts": [{"api_key": SecretStr(SECRET)}]},
    ],
)
def test_secrets_are_redacted(start: Start, form: str, values: dict[str, Any]) -> None:
    written = start(form)
    structlog.get_logger("bridge.x").info("event", **values)
    assert SECRET not in written()
    assert "[redacted]" in written()


def test_values_under_similar_names_are_not_redacted(start: Start) -> None:
    written = start()
    structlog.get_logger("bridge.x").info("event", secret_file="/run/key", design="d")
    assert (lines(written)[0]["secret_file"], lines(written)[0]["design"]) == ("/run/key", "d")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables(start: Start, form: str) -> None:
    def fail(hidden: str) -> None:
        raise ValueError(len(hidden))

    written = start(form)
    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger("bridge.x").exception("failed")
        logging.getLogger("aiokafka").exception("theirs failed")
    assert written().count("Traceback") == 2
    assert SECRET not in written()


def record(message: str, at: float, *args: object, name: str = "aiokafka.client") -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, "", 0, message, args, None)
    made.created = at
    return made


def test_a_repeated_message_passes_every_ten_seconds_with_the_count_of_the_suppressed_ones() -> None:
    repeats = Repeats("aiokafka")
    passed = []
    for tick in range(21):
        one = record("Unable connect to node with id %s", 1000 + tick / 2, tick)
        if repeats.filter(one):
            passed.append(one.getMessage())
    assert passed == [
        "Unable connect to node with id 0",
        "Unable connect to node with id 20 (and 19 more like it)",
    ]


def test_other_messages_and_other_loggers_pass_immediately() -> None:
    repeats = Repeats("aiokafka")
    assert repeats.filter(record("one", 1000))
    assert repeats.filter(record("two", 1000))
    assert repeats.filter(record("one", 1000, name="aiokafka.conn"))
    assert not repeats.filter(record("one", 1001))


def test_lines_of_the_bridge_are_never_suppressed() -> None:
    repeats = Repeats("aiokafka")
    assert all(repeats.filter(record("one", 1000, name="bridge.x")) for _ in range(3))


def test_a_flood_of_aiokafka_lines_becomes_one_line(start: Start) -> None:
    written = start()
    for _ in range(40):
        logging.getLogger("aiokafka.client").error("Unable to update metadata from %s", [0])
    assert len(lines(written)) == 1
