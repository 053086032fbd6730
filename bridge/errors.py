"""Every exception that the bridge raises on purpose, as one tree; pure.

    BridgeError
    ├── ConfigError            the configuration, or what it names, cannot be used
    ├── ExchangeError          the exchange did something that the protocol does not allow
    │   ├── BadFrame           a frame is not a message of the protocol
    │   ├── BadItem            an item of a push cannot become a record
    │   └── VisitFailed        `check` could not complete a session
    ├── BrokerError            Kafka is not as the bridge needs it
    │   ├── TopicError         a topic is not as configured
    │   └── ShardLost          another replica serves the shard
    └── SpoolFull              the spool has reached its maximum size

Errors of libraries (aiokafka's `KafkaError`, `OSError`, `WebSocketException`) pass through under their own
names: they are handled where the library is called.
"""

from typing import Literal

DeadLetterReason = Literal["decompression", "json", "unknown_method", "payload"]
"""Why a frame became a dead letter."""


class BridgeError(Exception):
    """The root of the tree."""


class ConfigError(BridgeError):
    """What is wrong with the configuration: where (`source`), which `key`, and what to do, in one line."""

    def __init__(self, key: str, message: str, source: str = "") -> None:
        line = ": ".join(part for part in (source, key, message) if part)
        super().__init__(" ".join(line.split()))
        self.key = key
        self.message = message
        self.source = source


class ExchangeError(BridgeError):
    """The exchange did something that its protocol does not allow."""


class BadFrame(ExchangeError):
    """A frame that is not a message of the protocol; `reason` is that of its dead letter."""

    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: DeadLetterReason = reason
        self.detail = detail


class BadItem(ExchangeError):
    """An item of a push, or a whole push, that cannot become a record; the text says why."""


class VisitFailed(ExchangeError):
    """A session of `check` did not get as far as it should; the text says what happened."""


class BrokerError(BridgeError):
    """Kafka is not as the bridge needs it."""


class TopicError(BrokerError):
    """A topic is not as configured; the text says which, what differs and what to do."""


class ShardLost(BrokerError):
    """Another replica serves the shard now; the text says which."""


class SpoolFull(BridgeError):
    """The spool has reached its maximum size."""
