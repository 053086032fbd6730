"""When one connector tries again after its sessions have ended, in whatever way. Pure, but for the jitter."""

from math import inf

from bridge.backoff import Backoff
from bridge.config import ExchangeConfig
from bridge.websocket.courtesy import LIFE, OTHER, Handshake
from bridge.websocket.feed import Ended

_LONG_LIFE = 600.0  # seconds; sessions that live so long may be replaced without limit
_REPORTED = 3  # short lives in a row that are reported


class Retrying:
    """The waits of one connector, and what its next handshake has to say to `Courtesy`.

    All times are seconds of a monotonic clock.
    """

    def __init__(self, config: ExchangeConfig, rank: int, now: float) -> None:
        self.short_lives = 0  # sessions in a row that ended within `LIFE`
        # Whether that is to be reported: at the third in a row, and each time they have doubled.
        self.reports_short_lives = False
        self.keeps_ending = (
            False  # whether the last session was the third short life in a row, or a later one
        )
        self.rank = rank
        self._reconnect_max = config.reconnect_max
        self._longest = max(config.reconnect_max, config.refused_max)
        self._backoff = Backoff(config.reconnect_min, config.reconnect_max)
        self._rejected = Backoff(config.reconnect_max, self._longest)  # of refused credentials
        self._well_at = now  # see `Handshake`
        self._repeated = False  # see `Handshake`
        self._rotations_failed = 0  # in a row, because no session could be opened, or it has ended

    def handshake(self, subscribes: int) -> Handshake:
        """Return the handshake of the next session."""
        return Handshake(subscribes, self.rank, self._well_at, self._repeated)

    def tried(self) -> None:
        """Note that this handshake was admitted: the one after it is a repetition."""
        self._well_at, self._repeated = -inf, True

    def ended(self, ended: Ended, now: float, live_at: float | None) -> float:
        """Note the end of a session that was live since `live_at`, or never; return the seconds to wait.

        If none could be opened, nothing is waited here: `Courtesy` decides when, so that all connectors come
        back as soon as a handshake is accepted.
        """
        lived = 0.0 if live_at is None else now - live_at
        self.reports_short_lives = self.keeps_ending = False
        if lived >= LIFE:
            self.short_lives = 0
            self._backoff.reset()
            self._rejected.reset()
            self._well_at = now
        self._repeated = lived < _LONG_LIFE
        if ended.reason == "rejected":
            # Refused credentials would be refused again.
            return self._rejected.next(share=(0.5, 1.0))
        if not ended.opened:
            return 0.0
        if lived < LIFE:
            self.short_lives += 1
            number, rest = divmod(self.short_lives, _REPORTED)
            self.keeps_ending = number > 0
            self.reports_short_lives = rest == 0 and number & (number - 1) == 0
        # Those that matter most come back first after all have ended together.
        return self._backoff.next(
            longer=ended.overloaded, share=(0.5, 1.0) if self.rank == OTHER else (0.0, 0.5)
        )

    def begin_as_part(self) -> None:
        """Take the next short life for one of several: those before were of a session of which this is part.

        As for that one, an earlier refusal delays its handshake.
        """
        self.short_lives = _REPORTED - 1
        self._well_at = -inf

    # Rotations

    def handshake_to_rotate(self, subscribes: int, now: float, postponed: int) -> Handshake:
        """Return the handshake of a rotation, of which `postponed` before it were refused subscriptions."""
        again = postponed + self._rotations_failed > 0
        return Handshake(subscribes, self.rank, -inf if again else now, again)

    def rotated(self) -> None:
        """Note a rotation."""
        self._rotations_failed = 0

    def rotation_failed(self) -> None:
        """Note that no session could be opened for a rotation, or that it has ended at once."""
        self._rotations_failed += 1

    def until_rotation(self) -> float:
        """Return the seconds until a rotation that was postponed is tried again."""
        return min(self._reconnect_max * 2.0 ** max(0, self._rotations_failed - 1), self._longest)
