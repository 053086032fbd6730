"""The demo: simulator, embedded broker and bridge in one process, with nothing installed."""

from bridge.demo.show import run

__all__ = ["run"]
