"""Logging: the bridge's own lines and those of its libraries, rendered alike, on standard error.

Libraries log from `warning` up, whatever `log.level` is: below that, websockets and aiokafka write out the
frames and requests that carry credentials.

Whatever the exchange or Kafka do, the log stays small: a line has a bounded length, and a message that is
repeated is limited to a few lines a minute, with the number of those left out.
"""

import logging
import re
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TextIO

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from bridge.config import LogConfig, LogFormat

REDACTED = "[redacted]"

log = structlog.get_logger(__name__)

_OURS = "bridge"  # the logger of the bridge's own lines, and of none of its libraries
_AT_ONCE = 10  # lines of the bridge with the same message that are written at once; a library has one
_APART = 10.0  # seconds from one line to the next, once they are used up
# Fields that make a line another one, although the message is the same. The configuration bounds how many
# values they have. Sessions and symbols are not among them: a flood of lines may have another one in each.
_WHOSE = ("shard", "account", "topic")
# Loggers whose lines are few by nature, and where one that is missing would make others wrong: an outage is a
# pair of lines, and lasts for a new connection or a second of Kafka; a number of dropped lines is said once.
_NEVER_LEFT_OUT = {"bridge.websocket.outage", "bridge.kafka.outage", "bridge.watch.stderr"}
# Errors of partitions that are new or change their leader. aiokafka tries again, and each start on a new
# cluster has some: they are written if they last.
_PASSING = re.compile(
    "NotLeaderForPartition|LeaderNotAvailable|UnknownTopicOrPartition"
    "|CoordinatorNotAvailable|CoordinatorLoadInProgress|NotCoordinator"
)
_LASTING = 5.0  # seconds
_MESSAGES = 1000  # that are counted apart; a library that makes its messages up must not take all memory

_LONGEST_VALUE = 1000  # characters of one field
_LONGEST_TRACEBACK = 20_000  # characters
_MOST_ITEMS = 50  # of a list or a table in a field
_LONGEST_ITEM = 100  # characters of each of them
_TRACEBACK = "exception"  # the field with a traceback

_SECRET_KEY = re.compile(r"(^|_)(secret|password|api_key|sign)$", re.IGNORECASE)


def configure(config: LogConfig, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream`, standard error by default.

    Colours are used on a terminal only. Tracebacks show no local variables, which may hold secrets.
    """
    stream = stream or sys.stderr
    to_values: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *to_values,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(Repeats())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=to_values,
            processors=[
                _add_left_out,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                bounded,
                _renderer(config.format, colors=stream.isatty()),
            ],
        )
    )
    level = logging.getLevelNamesMapping()[config.level.upper()]
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger(_OURS).setLevel(level)


def report_left_out() -> None:
    """Log what was left out of repeated messages: at the end, since there is no next line of them."""
    for one in chain.from_iterable(handler.filters for handler in logging.getLogger().handlers):
        if isinstance(one, Repeats) and (left := one.take_left_out()):
            log.warning("log lines left out", messages=left)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """Replace secrets in a log event: values of type SecretStr, and values whose key names a secret."""
    return {key: _redacted(key, value) for key, value in event.items()}


def bounded(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """Cut long values: the middle of a text, whose end often says most, and the end of a list."""
    return {
        key: _cut(value, _LONGEST_TRACEBACK if key == _TRACEBACK else _LONGEST_VALUE)
        for key, value in event.items()
    }


# Logger, message, and the values of _WHOSE. All three for what is counted exactly; otherwise without the last
# one, and for a library without the message as well: those are as many as the code has.
_Key = tuple[str, str, tuple[str, ...]]


@dataclass(slots=True)
class _Repeated:
    """Lines that are counted together: how many may be written at the time `at`, of a log record.

    They have come again and again since the time `since`.
    """

    allowed: float
    at: float
    since: float
    left_out: int = 0  # lines that were not written, since the last one that was


class Repeats(logging.Filter):
    """Limits lines with the same message: some at once, then one every ten seconds.

    At 500 dead letters a second there would be 9 GB of them a day; aiokafka writes 40 lines a second while
    Kafka is unavailable. The next line that passes has the number of those before it that did not:

        dead letter  reason=json left_out=4990

    A thousand messages are counted apart. Another one is counted with all of its kind then: the same message
    of any shard, account and topic, or everything else of a library's logger.

    Lines of the bridge below `warning` are not limited: normal life writes few of them. Nor are those of
    `_NEVER_LEFT_OUT`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()  # other threads log, too
        self._exact: dict[_Key, _Repeated] = {}  # at most _MESSAGES; the one that came last is last
        self._of_a_kind: dict[_Key, _Repeated] = {}  # what did not fit there

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the line.

        Lines count as the same if logger and message are, and with ours the shard, account and topic too.
        """
        is_ours = _is_ours(record.name)
        if is_ours and (record.levelno < logging.WARNING or record.name in _NEVER_LEFT_OUT):
            return True
        fields = record.msg if isinstance(record.msg, dict) else {"event": record.msg}
        key = record.name, str(fields["event"]), tuple(str(fields.get(name)) for name in _WHOSE)
        with self._lock:
            now = record.created
            one = self._counted(key, now)
            # The clock may have been set back.
            passed = max(0.0, now - one.at)
            one.allowed, one.at = min(_most(record.name), one.allowed + passed / _APART), now
            if passed > _APART:
                one.since = now
            if not is_ours and now - one.since < _LASTING and _PASSING.search(record.getMessage()):
                return False
            if one.allowed < 1:
                one.left_out += 1
                return False
            one.allowed -= 1
            record.__dict__["left_out"], one.left_out = one.left_out, 0
            if others := self._of_a_kind.get(_kind(key)):
                record.__dict__["left_out"] += others.left_out
                others.left_out = 0
        return True

    def _counted(self, key: _Key, now: float) -> _Repeated:
        """Return what counts a line: by itself if there is room, or with all of its kind."""
        one = self._exact.pop(key, None) or _Repeated(_most(key[0]), now, now)
        if len(self._exact) >= _MESSAGES:
            oldest = next(iter(self._exact))
            # Forgotten sooner, it would be allowed more lines than its due. The clock may have been set back.
            if abs(now - self._exact[oldest].at) < _AT_ONCE * _APART:
                return self._of_a_kind.setdefault(_kind(key), one)
            self._forget(oldest)
        self._exact[key] = one
        return one

    def _forget(self, key: _Key) -> None:
        """Forget a message; the number of its lines left out is added to the next line of its kind."""
        one = self._exact.pop(key)
        if one.left_out:
            rest = _Repeated(_most(key[0]), one.at, one.at)
            self._of_a_kind.setdefault(_kind(key), rest).left_out += one.left_out

    def take_left_out(self) -> dict[str, int]:
        """Return how many lines of each message were left out since its last one, and forget all messages."""
        left: Counter[str] = Counter()
        with self._lock:
            for (logger, message, _), one in chain(self._exact.items(), self._of_a_kind.items()):
                left[message or logger] += one.left_out
            self._exact.clear()
            self._of_a_kind.clear()
        return dict(+left)


def _is_ours(logger: str) -> bool:
    return logger.partition(".")[0] == _OURS


def _most(logger: str) -> int:
    """Return how many lines are written at once."""
    return _AT_ONCE if _is_ours(logger) else 1


def _kind(key: _Key) -> _Key:
    """Return what a line is counted by when there is no room for its message."""
    logger, message, _ = key
    return logger, message if _is_ours(logger) else "", ()


def _add_left_out(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    if number := getattr(event["_record"], "left_out", 0):
        event["left_out"] = number
    return event


def _renderer(form: LogFormat, *, colors: bool) -> Processor:
    if form is LogFormat.JSON:
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _cut(value: object, most: int) -> object:
    """Return a value of a field, with no text longer than `most` and no list or table with many items."""
    if isinstance(value, str):
        half = most // 2
        return value if len(value) <= most else f"{value[:half]} … {value[-half:]}"
    if isinstance(value, Mapping):
        first = list(value.items())[:_MOST_ITEMS]
        return {_cut(key, _LONGEST_ITEM): _cut(nested, _LONGEST_ITEM) for key, nested in first}
    if isinstance(value, list | tuple):
        rest = [f"and {len(value) - _MOST_ITEMS} more"] if len(value) > _MOST_ITEMS else []
        return [_cut(item, _LONGEST_ITEM) for item in value[:_MOST_ITEMS]] + rest
    return value


def _redacted(key: str, value: object) -> object:
    if isinstance(value, SecretStr) or _SECRET_KEY.search(key):
        return REDACTED
    if isinstance(value, Mapping):
        return {inner: _redacted(str(inner), nested) for inner, nested in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(key, item) for item in value]
    return value
