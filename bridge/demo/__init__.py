"""The demo: simulator, embedded broker and bridge in one process; needs no Kafka and no account."""

from bridge.demo.show import run

__all__ = ["run"]
