"""Until when each private channel of a connector was listened to, and the gaps that this leaves. Pure.

What a private channel pushes while no session listens is lost for good. So the last-heard time of each is
saved in bridge-state, and never beyond what is on Kafka by then. Example, in seconds: a session listens to
`order` and a change that came at 98 waits for Kafka when the state is saved at 100: 97.999999 is saved. If
the process is killed then, the next one listens to `order` from 107 on and records a gap from 97.999999
to 107; until that event is on Kafka, 97.999999 stays saved.

A channel without a last-heard time may have been listened to never, or by a process that was killed before
it could save one. Both count as "not listened to", and leave a gap without a beginning.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from bridge.ledger import Heard


class Missed(NamedTuple):
    """A time in which a channel was not listened to, in µs since the epoch; from None on if unknown."""

    channel: str
    after_us: int | None
    before_us: int


class Listening:
    """The last-heard times of one connector's private channels, from those that an earlier process saved."""

    def __init__(self, heard_us: Heard) -> None:
        self._heard_us = dict(heard_us)  # by channel; one that was never listened to is not in it
        # The channels to which the present session listens and whose gap before it, if any, was recorded.
        self._continued: set[str] = set()
        # The gaps that were recorded, and when (µs since the epoch). Each is forgotten once its event is on
        # Kafka: until then a save must not go beyond its beginning.
        self._recorded: list[tuple[Missed, int]] = []

    @property
    def heard_us(self) -> Heard:
        """The last-heard time of each channel, as of `note` or `advance`."""
        return self._heard_us

    def begin_session(self) -> None:
        """Expect a gap in front of what the next session listens to."""
        self._continued.clear()

    def keep(self, channels: Collection[str]) -> None:
        """Expect a gap in front of each channel that is not among these."""
        self._continued.intersection_update(channels)

    def note(self, listening: Mapping[str, int], heard_us: int) -> list[Missed]:
        """Advance to `heard_us` and return the gaps that were not noted yet; `record` each of them.

        `listening` has the channels of the present session, and since when it listens to each.
        """
        missed = [
            Missed(channel, self._heard_us.get(channel), since_us)
            for channel, since_us in listening.items()
            if channel not in self._continued
        ]
        self._continued.update(listening)
        self.advance(listening, heard_us)
        return missed

    def record(self, missed: Missed, recorded_us: int) -> None:
        """Remember that the event of a gap was recorded, no later than at `recorded_us`."""
        self._recorded.append((missed, recorded_us))

    def advance(self, listening: Mapping[str, int], heard_us: int) -> None:
        """Advance the channels that were noted to `heard_us`."""
        for channel, since_us in listening.items():
            if channel in self._continued:
                self._heard_us[channel] = max(since_us, heard_us)

    def savable(self, complete_us: int | None, saved: Heard) -> dict[str, int]:
        """Return the last-heard times that may be saved now, by channel.

        With this save, everything received up to `complete_us` is on Kafka; None: everything. `saved` is
        what is saved already.
        """
        self._recorded = [one for one in self._recorded if not _passed(one[0], saved)]
        if complete_us is None:
            return dict(self._heard_us)
        savable = {channel: min(heard_us, complete_us) for channel, heard_us in self._heard_us.items()}
        for missed, recorded_us in self._recorded:
            if complete_us >= recorded_us or missed.channel not in savable:
                continue
            if missed.after_us is None:
                del savable[missed.channel]
            else:
                savable[missed.channel] = min(savable[missed.channel], missed.after_us)
        return savable


def _passed(missed: Missed, saved: Heard) -> bool:
    """Return whether a time behind the beginning of a gap is saved, so that its event must be on Kafka."""
    heard_us = saved.get(missed.channel)
    return heard_us is not None and (missed.after_us is None or heard_us > missed.after_us)
