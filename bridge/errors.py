"""All exceptions that the bridge itself raises, as one tree; pure.

    BridgeError
    ├── ConfigError            the configuration is not valid, or a file it names cannot be used
    ├── ExchangeError          the exchange violated its protocol
    │   ├── BadFrame           a frame is not a message of the protocol
    │   ├── BadItem            an item of a push cannot become a record
    │   │   └── Unsubscribed   it is of something that the session has not subscribed to
    │   └── VisitFailed        `check` could not complete a session
    ├── BrokerError            Kafka is not set up as the bridge requires
    │   ├── TopicError         a topic does not match the configuration
    │   ├── TopicMissing       a topic does not exist and is not created
    │   ├── SchemaRefused      a schema registry refuses a schema, or cannot serve the framing
    │   └── ShardLost          another replica serves the shard
    │       └── Contested      it is none that shares the shards with this one
    ├── SpoolFull              the spool has reached its maximum size
    └── NotARecord             a Kafka message is not a record, for users of `bridge.consumer`

Exceptions of libraries (`OSError`, aiokafka's `KafkaError`, websockets' `WebSocketException`) are not
wrapped; they are handled where the library is called. `AclMissing` and `NoController`, of bridge.kafka, are
`KafkaError`s, since they are retried like any of aiokafka's.
"""

from typing import Literal

DeadLetterReason = Literal["decompression", "json", "unknown_method", "payload", "unsubscribed"]
"""Why a frame became a dead letter."""


class BridgeError(Exception):
    """The base class of all exceptions that the bridge raises itself."""


class ConfigError(BridgeError):
    """An error in the configuration in one line: `source` (a file or variable), `key`, and what to change."""

    def __init__(self, key: str, message: str, source: str = "") -> None:
        line = ": ".join(part for part in (source, key, message) if part)
        super().__init__(" ".join(line.split()))
        self.key = key
        self.message = message
        self.source = source


class ExchangeError(BridgeError):
    """The exchange violated its protocol."""


class BadFrame(ExchangeError):
    """A frame that is not a message of the protocol; `reason` is the reason of its dead letter."""

    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: DeadLetterReason = reason
        self.detail = detail


class BadItem(ExchangeError):
    """An item of a push, or a whole push, that cannot become a record; the message says why."""


class Unsubscribed(BadItem):
    """A push or an item of a channel, symbol or currency that the session has not subscribed to."""


class VisitFailed(ExchangeError):
    """A session of `check` could not be completed; the message says what happened."""


class BrokerError(BridgeError):
    """Kafka is not set up as the bridge requires."""


class TopicError(BrokerError):
    """A topic does not match the configuration; the message says which one, how, and what to do.

    The replica waits until it does, and serves nothing.
    """


class TopicMissing(BrokerError):
    """A topic does not exist, and the bridge may not or cannot create it; the message says which and why."""


class SchemaRefused(BrokerError):
    """A schema registry refuses a schema, or cannot serve the configured framing; the message says why."""


class ShardLost(BrokerError):
    """Another replica serves the shard now; the message says which one."""


class Contested(ShardLost):
    """A bridge of another group, or with another number of shards, has served the shard last."""


class SpoolFull(BridgeError):
    """The spool has reached its maximum size."""


class NotARecord(BridgeError):
    """A Kafka message is not a record of a version that is known; the message says why."""
