"""Until when each private channel of a connector was listened to, and the gaps that this leaves. Pure.

What a private channel pushes while no session listens is lost for good. So the last-heard time of each is
saved in bridge-state: everything that was pushed up to then is on Kafka. Two things have to be true of it.
A session has read everything that was pushed up to then, see `ReadUpTo`; and all of that has been delivered
by the time of the save.

Example, in seconds. Pings go out at 85 and 100, and their pongs are read at 86 and 101. A change that came
at 98 waits for Kafka when the state is saved at 110: with everything on Kafka that was received before 98,
the pong of 86 counts and that of 101 does not, and 85 is saved. If the process is killed then, the next one
listens to `order` from 117 on and records a gap from 85 to 117; until that event is on Kafka, 85 stays saved.

A channel without a last-heard time may have been listened to never, or by a process that was killed before
it could save one. Both count as "not listened to", and leave a gap without a beginning.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from bridge.ledger import Heard

# Proofs that are kept of a channel while its records wait for Kafka. Past it, every second one is dropped:
# then what is saved may be earlier than it could be.
_MOST_PROOFS = 1000


class ReadUpTo(NamedTuple):
    """Everything that was pushed up to `pushed_us` had been read at `read_us`; µs since the epoch."""

    pushed_us: int
    read_us: int


NOTHING_READ = ReadUpTo(0, 0)


class Missed(NamedTuple):
    """A time in which a channel was not listened to, in µs since the epoch; from None on if unknown."""

    channel: str
    after_us: int | None
    before_us: int


class Listening:
    """The last-heard times of one connector's private channels, from those that an earlier process saved."""

    def __init__(self, heard_us: Heard) -> None:
        # What is known of each channel that was ever listened to, the newest last. A save takes the newest
        # that was read before everything that it leaves out.
        self._read: dict[str, list[ReadUpTo]] = {
            channel: [ReadUpTo(saved_us, 0)] for channel, saved_us in heard_us.items()
        }
        # The channels to which the present session listens and whose gap before it, if any, was recorded.
        self._continued: set[str] = set()
        # The gaps that were recorded, and when (µs since the epoch). Each is forgotten once its event is on
        # Kafka: until then a save must not go beyond its beginning.
        self._recorded: list[tuple[Missed, int]] = []

    def begin_session(self) -> None:
        """Expect a gap in front of what the next session listens to."""
        self._continued.clear()

    def keep(self, channels: Collection[str]) -> None:
        """Expect a gap in front of each channel that is not among these."""
        self._continued.intersection_update(channels)

    def note(self, listening: Mapping[str, int], read: ReadUpTo) -> list[Missed]:
        """Advance to what was read, and return the gaps that were not noted yet; `record` each of them.

        `listening` has the channels of the present session, and since when it listens to each.
        """
        missed = [
            Missed(channel, self._read[channel][-1].pushed_us if channel in self._read else None, since_us)
            for channel, since_us in listening.items()
            if channel not in self._continued
        ]
        self._continued.update(listening)
        self.advance(listening, read)
        return missed

    def record(self, missed: Missed, recorded_us: int) -> None:
        """Remember that the event of a gap was recorded, no later than at `recorded_us`."""
        self._recorded.append((missed, recorded_us))

    def advance(self, listening: Mapping[str, int], read: ReadUpTo) -> None:
        """Advance the channels that were noted to what was read.

        What was pushed before a channel was listened to is in the gap before it.
        """
        for channel, since_us in listening.items():
            if channel not in self._continued:
                continue
            known = self._read.setdefault(channel, [])
            newest = ReadUpTo(max(since_us, read.pushed_us), max(since_us, read.read_us))
            if not known or known[-1] != newest:
                known.append(newest)
            if len(known) > _MOST_PROOFS:
                del known[1:-1:2]

    def savable(self, complete_us: int | None, saved: Heard) -> dict[str, int]:
        """Return the last-heard times that may be saved now, by channel.

        With this save, everything received up to `complete_us` is on Kafka; None: everything. `saved` is
        what is saved already.
        """
        self._recorded = [one for one in self._recorded if not _passed(one[0], saved)]
        savable: dict[str, int] = {}
        for channel, known in self._read.items():
            while len(known) > 1 and (complete_us is None or known[1].read_us <= complete_us):
                del known[0]
            if complete_us is None or known[0].read_us <= complete_us:
                savable[channel] = known[0].pushed_us
        if complete_us is None:
            return savable
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
