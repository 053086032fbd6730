"""The log has one format for all loggers, no secrets and no floods."""

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from bridge.config import LogConfig, LogFormat, LogLevel
from bridge.kafka.outage import Outage as KafkaOutage
from bridge.watch.logs import Repeats, configure, report_left_out
from bridge.websocket.feed import Ended
from bridge.websocket.outage import Outage

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


def test_a_repeated_message_of_a_library_passes_every_ten_seconds_with_the_number_left_out() -> None:
    repeats = Repeats()
    passed = []
    for tick in range(21):
        one = record("Unable connect to node with id %s", 1000 + tick / 2, tick)
        if repeats.filter(one):
            passed.append((one.getMessage(), one.__dict__["left_out"]))
    assert passed == [("Unable connect to node with id 0", 0), ("Unable connect to node with id 20", 19)]


def test_other_messages_and_other_loggers_pass_immediately() -> None:
    repeats = Repeats()
    assert repeats.filter(record("one", 1000))
    assert repeats.filter(record("two", 1000))
    assert repeats.filter(record("one", 1000, name="aiokafka.conn"))
    assert not repeats.filter(record("one", 1001))


def test_a_clock_that_is_set_back_silences_no_message() -> None:
    repeats = Repeats()
    assert repeats.filter(record("one", 100_000))
    assert not repeats.filter(record("one", 1000))
    assert repeats.filter(record("one", 1010))


def ours(message: str, at: float, **fields: str) -> logging.LogRecord:
    made = record("", at, name="bridge.x")
    made.msg = {"event": message, **fields}
    return made


def passed(repeats: Repeats, records: Iterable[logging.LogRecord]) -> list[logging.LogRecord]:
    return [one for one in records if repeats.filter(one)]


def test_messages_that_a_library_makes_up_take_no_memory_without_end() -> None:
    repeats = Repeats()
    made_up = (record(f"task {number} failed", 1000 + number, name="asyncio") for number in range(5000))
    passed(repeats, made_up)
    assert len(repeats._exact) + len(repeats._of_a_kind) <= 1001


def test_messages_that_a_library_makes_up_are_a_flood_too() -> None:
    repeats = Repeats()
    made_up = [record(f"task {number} failed", 1000 + number / 100, name="asyncio") for number in range(5000)]
    written = passed(repeats, made_up)
    assert len(written) < 1010
    assert len(written) + repeats.take_left_out()["asyncio"] + sum(
        one.__dict__["left_out"] for one in written
    ) == len(made_up)


@pytest.mark.parametrize("apart", [0.0, 0.01])
def test_many_accounts_do_not_lift_the_limit_of_a_message(apart: float) -> None:
    repeats = Repeats()
    names = [str(number) for number in range(1500)] * 10
    flood = [ours("account refused", 1000 + at * apart, account=name) for at, name in enumerate(names)]
    written = passed(repeats, flood)
    assert len(written) <= 1000 * 10 + 10 + 15000 * apart / 10
    left = sum(one.__dict__["left_out"] for one in written) + sum(repeats.take_left_out().values())
    assert len(written) + left == len(flood)


def test_a_message_that_repeats_keeps_its_limit_among_many_others() -> None:
    repeats = Repeats()
    written = 0
    for number in range(5000):
        at = 1000 + number / 100
        repeats.filter(record(f"task {number} failed", at, name="asyncio"))
        written += repeats.filter(ours("dead letter", at))
    assert written <= 15


def test_a_new_message_of_the_bridge_is_written_however_many_there_have_been() -> None:
    repeats = Repeats()
    passed(repeats, (record(f"task {number} failed", 1000, name="asyncio") for number in range(5000)))
    assert repeats.filter(ours("gap not filled", 1000))


def test_what_was_left_out_of_a_forgotten_message_is_added_to_the_next_line_of_its_kind() -> None:
    repeats = Repeats()
    passed(repeats, (ours("account refused", 1000, account="first") for _ in range(15)))
    others = [ours("account refused", 2000, account=str(number)) for number in range(1000)]
    assert passed(repeats, others) == others
    assert [one.__dict__["left_out"] for one in others] == [0] * 999 + [5]
    assert repeats.take_left_out() == {}


def test_a_flood_of_warnings_becomes_a_few_lines_and_their_number(start: Start) -> None:
    written = start()
    log = structlog.get_logger("bridge.pipeline")
    for number in range(500):
        log.warning("dead letter", reason="json", session=str(number))
    log.warning("gap not filled")
    assert [line["event"] for line in lines(written)] == ["dead letter"] * 10 + ["gap not filled"]
    report_left_out()
    assert lines(written)[-1]["messages"] == {"dead letter": 490}
    report_left_out()
    assert [line["event"] for line in lines(written)].count("log lines left out") == 1


def test_the_line_after_a_flood_has_the_number_left_out(start: Start) -> None:
    written = start()
    repeated = record("Unable to update metadata from %s", 1000, [0])
    for at in (1000, 1001, 1002, 1011):
        repeated.created = at
        logging.getLogger("aiokafka.client").handle(repeated)
    assert [line.get("left_out") for line in lines(written)] == [None, 2]


NO_LEADER = "produce to %s: NotLeaderForPartitionError"


def test_errors_of_new_topics_and_elections_are_written_only_if_they_last() -> None:
    repeats = Repeats()
    passed = [tick for tick in range(12) if repeats.filter(record(NO_LEADER, 1000 + tick, "md.trades.v1"))]
    assert passed == [5]
    assert not repeats.filter(record(NO_LEADER, 2000, "md.trades.v1"))  # another one, much later
    assert not repeats.filter(record("%s", 1000, "Coordinator: GroupCoordinatorNotAvailableError"))
    assert repeats.filter(record("%s", 1000, "failed: TopicAuthorizationFailedError", name="aiokafka.x"))


def test_sessions_that_all_end_at_once_are_all_in_the_log_with_their_recoveries(start: Start) -> None:
    written = start()
    outages = [Outage("0", None) for _ in range(50)]
    for number, outage in enumerate(outages):
        outage.end(f"old-{number}")
        outage.begin(Ended("closed", "going away", opened=True), 0.5)
    for number, outage in enumerate(outages):
        outage.end(f"new-{number}")
    ended = [line["session"] for line in lines(written) if line["event"] == "session ended"]
    recovered = [line["lost"] for line in lines(written) if line["event"] == "session recovered"]
    assert ended == recovered == [f"old-{number}" for number in range(50)]


def test_shards_that_all_lose_kafka_are_all_in_the_log(start: Start) -> None:
    written = start()
    for shard in range(50):
        outage = KafkaOutage(shard, "no response yet")
        outage.end()
        outage.look("no response", waiting=0, silence=60.0)
        outage.end()
    events = [line["event"] for line in lines(written)]
    assert events == ["Kafka unavailable, retrying", "Kafka available again"] * 50


@pytest.mark.parametrize("field", ["shard", "account", "topic"])
def test_a_flood_hides_no_line_about_another(start: Start, field: str) -> None:
    written = start()
    log = structlog.get_logger("bridge.x")
    for name in ("a", "b"):
        for _ in range(100):
            log.warning("paused reading", **{field: name})
    assert [line[field] for line in lines(written)] == ["a"] * 10 + ["b"] * 10
    report_left_out()
    assert lines(written)[-1]["messages"] == {"paused reading": 180}


def test_lines_of_normal_life_are_not_limited(start: Start) -> None:
    written = start()
    for number in range(100):
        structlog.get_logger("bridge.x").info("session opened", session=str(number))
    assert len(lines(written)) == 100


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "values",
    [
        {"detail": "x" * 10_000_000},
        {"detail": {"inner": "x" * 10_000_000}},
        {"symbols": ["BTC_USDT"] * 100_000},
        {"symbols": ["x" * 100_000] * 100},
        {"symbols": {str(number): number for number in range(100_000)}},
    ],
)
def test_a_line_is_bounded_in_length(start: Start, form: str, values: dict[str, Any]) -> None:
    written = start(form)
    structlog.get_logger("bridge.x").warning("dead letter", **values)
    assert len(written()) < 10_000


def test_a_long_text_keeps_its_beginning_and_its_end(start: Start) -> None:
    written = start()
    structlog.get_logger("bridge.x").warning("dead letter", detail="begin" + "x" * 5000 + "end")
    detail = lines(written)[0]["detail"]
    assert detail.startswith("begin")
    assert detail.endswith("end")


def test_a_long_list_says_how_much_more_there_was(start: Start) -> None:
    written = start()
    structlog.get_logger("bridge.x").info("new markets found", symbols=[str(n) for n in range(5000)])
    assert lines(written)[0]["symbols"][-2:] == ["49", "and 4950 more"]


def test_lines_of_libraries_and_tracebacks_are_bounded_too(start: Start) -> None:
    written = start()
    logging.getLogger("aiokafka").error("batch %s", "x" * 1_000_000)
    try:
        int("x" * 1_000_000)
    except ValueError:
        structlog.get_logger("bridge.x").exception("failed")
    assert len(written()) < 25_000
    assert lines(written)[1]["exception"].startswith("Traceback")
