"""The times in which a connector has no live session, each as a pair of log lines."""

import time

import structlog

from bridge.websocket.feed import Ended

log = structlog.get_logger(__name__)


class Outage:
    """From the end of a session to the next one that is live, for the connector of this shard and account.

    Example: session a ends ("session ended", session=a). The next three handshakes are refused ("could not
    connect, retrying", once). Session b is live: "session recovered", session=b, lost=a, refused=3.
    """

    def __init__(self, shard: str, account: str | None) -> None:
        self.session: str | None = None  # the session in use, or the last one; None: there was none yet
        self._log = log.bind(shard=shard, account=account)
        self._since: float | None = None  # when it began, on the monotonic clock; None while there is none
        self._refused = 0  # handshakes since then

    def begin(self, ended: Ended, next_try_in: float) -> None:
        """Log that there is no session, unless the one before could not be opened either."""
        if self._since is None:
            self._since = time.monotonic()
        about = {"reason": ended.reason, "detail": ended.detail, "next_try_in": round(next_try_in, 3)}
        if ended.opened:
            self._log.warning("session ended", session=self.session, **about)
            return
        self._refused += 1
        if self._refused == 1:
            self._log.warning("could not connect, retrying", **about)

    def end(self, session: str) -> None:
        """Log that a session is live, if there was none before it."""
        if self._since is not None:
            self._log.warning(
                "session recovered",
                session=session,
                lost=self.session,
                seconds=round(time.monotonic() - self._since, 1),
                refused=self._refused,
            )
        self.session, self._since, self._refused = session, None, 0
