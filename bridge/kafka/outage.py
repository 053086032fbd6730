"""Whether Kafka takes the records of a shard; each time in which it does not is a pair of log lines."""

import time

import structlog

log = structlog.get_logger(__name__)

_BLIP = 1.0  # seconds; a shorter trouble, as while a partition gets another leader, is normal life


class Outage:
    """The trouble with Kafka of one shard.

    Example, in seconds: the producer fails at 100, and each new one too. At 101 the log says "Kafka
    unavailable, retrying". At 160 a record is settled: "Kafka available again", after 60 s, in which up to
    12,000 records were waiting.
    """

    def __init__(self, shard: int, trouble: str) -> None:
        # Why Kafka counts as unavailable; None if it does not. The first one is that nothing was tried yet.
        self.trouble: str | None = trouble
        self._shard = shard
        self._since: float | None = (
            None  # when the trouble began, on the monotonic clock; None: there is none
        )
        self._is_logged = False
        self._waiting = 0  # the most records that were waiting at a look since then

    def begin(self, trouble: str) -> None:
        """Note that Kafka does not take records, or still does not, and why."""
        self.trouble = trouble
        if self._since is None:
            self._since = time.monotonic()

    def end(self) -> None:
        """Note that Kafka takes records."""
        self.trouble = None
        if self._is_logged and self._since is not None:
            log.warning(
                "Kafka available again",
                shard=self._shard,
                seconds=round(time.monotonic() - self._since, 1),
                waited=self._waiting,
            )
        self._since, self._is_logged, self._waiting = None, False, 0

    def look(self, trouble: str | None, waiting: int, silence: float) -> None:
        """Log what has lasted for a while, or is over, as it is now; to be called every second or so.

        `trouble` is why no records are taken, which may be a silence of so many seconds; None if they are.
        `waiting` is the number of records that are not on Kafka.
        """
        now = time.monotonic()
        if trouble is None:
            if self.trouble is None and self._since is not None:
                self.end()  # it was a silence
            return
        if self.trouble is None and self._since is None:
            self._since = now - silence
        self._waiting = max(self._waiting, waiting)
        if not self._is_logged and self._since is not None and now - self._since >= _BLIP:
            self._is_logged = True
            log.warning("Kafka unavailable, retrying", shard=self._shard, error=trouble, waiting=waiting)
