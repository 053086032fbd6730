"""Which entries of a spool may be sent: those that the bridge itself can have written."""

import re
from collections.abc import Callable, Mapping

from bridge.channels import CHANNELS, depth
from bridge.config import KafkaConfig
from bridge.kafka.topics import Topic, topic_names
from bridge.records import EVENTS, STATE
from bridge.seen import Seen
from bridge.spool.segment import Entry

_NUMBER = re.compile("[0-9]{1,9}").fullmatch
_END_OF_TIME = 2**53  # µs since the epoch: the year 2255


def own_entries(
    config: KafkaConfig,
    topics: Callable[[], Mapping[str, Topic]],
    remembered: Callable[[], Seen | None] = lambda: None,
) -> Callable[[Entry], bool]:
    """Return whether an entry is for a topic of the bridge and a partition that this has, or has had.

    One of depth has to be a record of depth, besides.

    A topic that was deleted and created again may have fewer partitions now than at first, or than the spool
    remembers. A record may also be of a channel that is not configured any more: until its topic was looked
    at, that counts as one like the events'.
    """
    names = {channel: name for channel, name in topic_names(config, CHANNELS).items() if channel != STATE}
    at_first = {channel: topic.partitions for channel, topic in topics().items()}

    def has_had(channel: str) -> int:
        topic = topics().get(channel) or topics()[EVENTS]
        seen = remembered()
        before = seen.topics.get(names[channel]) if seen else None
        return max(topic.partitions, at_first.get(channel, 0), before.partitions if before else 0)

    def is_own(entry: Entry) -> bool:
        place, record = entry
        name, _, number = place.rpartition("/")
        if names.get(record.channel) != name or not _NUMBER(number):
            return False
        # Books are made of these, and what is no level must not stop the shard.
        if record.channel == depth.CHANNEL.name and not depth.is_made(record):
            return False
        is_partition = number == str(int(number)) and int(number) < has_had(record.channel)
        return is_partition and 0 <= record.time_us < _END_OF_TIME

    return is_own
