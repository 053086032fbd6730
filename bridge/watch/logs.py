"""Logging: the bridge's own lines and those of its libraries, rendered alike, on standard error.

Libraries log from `warning` up, whatever `log.level` is: below that, websockets and aiokafka write out the
frames and requests that carry credentials.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import TextIO

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from bridge.config import LogConfig, LogFormat

REDACTED = "[redacted]"

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
    handler.addFilter(Repeats("aiokafka"))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=to_values,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(config.format, colors=stream.isatty()),
            ],
        )
    )
    level = logging.getLevelNamesMapping()[config.level.upper()]
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("bridge").setLevel(level)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """Replace secrets in a log event: values of type SecretStr, and values whose key names a secret."""
    return {key: _redacted(key, value) for key, value in event.items()}


class Repeats(logging.Filter):
    """Passes the same message of a library at most once in `interval` seconds.

    aiokafka writes about 40 lines a second while Kafka is unavailable. The next line that passes says how
    many were suppressed: "Unable connect to node with id 0 (and 19 more like it)".
    """

    def __init__(self, name: str, interval: float = 10.0) -> None:
        super().__init__(name)
        self._interval = interval
        # When each message last passed, in seconds since the epoch; keyed by logger and format string. Grows
        # by one entry for each logging call in the library's code, so it is bounded.
        self._passed_at: dict[tuple[str, str], float] = {}
        # How often each message was suppressed since it last passed; an entry goes when the message passes.
        self._suppressed: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the line. Lines count as the same if logger and format string are."""
        if not super().filter(record):
            return True
        message = (record.name, str(record.msg))
        passed_at = self._passed_at.get(message)
        if passed_at is not None and 0 <= record.created - passed_at < self._interval:
            self._suppressed[message] = self._suppressed.get(message, 0) + 1
            return False
        self._passed_at[message] = record.created
        suppressed = self._suppressed.pop(message, 0)
        if suppressed:
            record.msg, record.args = f"{record.getMessage()} (and {suppressed} more like it)", None
        return True


def _renderers(form: LogFormat, *, colors: bool) -> list[Processor]:
    if form is LogFormat.JSON:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
    ]


def _redacted(key: str, value: object) -> object:
    if isinstance(value, SecretStr) or _SECRET_KEY.search(key):
        return REDACTED
    if isinstance(value, Mapping):
        return {inner: _redacted(str(inner), nested) for inner, nested in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(key, item) for item in value]
    return value
