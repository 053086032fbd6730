"""Logging: our events and the libraries' lines through one renderer, to the standard error.

Libraries are heard from `warning` on, whatever the level: below that websockets and aiokafka write out the
frames and requests in which they carry our credentials.
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
    """Send every log line of this process to `stream`, by default the standard error.

    Colours only on a terminal. Tracebacks show no local variables: they may hold secrets.
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
    """Take secrets out of an event: values of a secret's type, and those under a secret's name."""
    return {key: _redacted(key, value) for key, value in event.items()}


class Repeats(logging.Filter):
    """Lets the same message of a library through at most once in `interval` seconds.

    aiokafka writes about 40 lines a second while Kafka is away. The next line to pass tells how many did not.
    """

    def __init__(self, name: str, interval: float = 10.0) -> None:
        super().__init__(name)
        self._interval = interval
        self._last: dict[tuple[str, str], float] = {}
        self._held_back: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the line; its place in the library's code tells it from others."""
        if not super().filter(record):
            return True
        place = (record.name, str(record.msg))
        last = self._last.get(place)
        if last is not None and 0 <= record.created - last < self._interval:
            self._held_back[place] = self._held_back.get(place, 0) + 1
            return False
        self._last[place] = record.created
        held_back = self._held_back.pop(place, 0)
        if held_back:
            record.msg, record.args = f"{record.getMessage()} (and {held_back} more like it)", None
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
        return {inner: _redacted(str(inner), one) for inner, one in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(key, one) for one in value]
    return value
