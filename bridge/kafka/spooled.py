"""Which entries of a spool may be sent: those that the bridge itself can have written."""

from collections.abc import Callable, Mapping

from bridge.channels import CHANNELS
from bridge.config import KafkaConfig
from bridge.kafka.topics import Topic, topic_names
from bridge.records import EVENTS, STATE
from bridge.spool.segment import Entry

_ONCE_PARTITIONS = 1000  # of a topic that has fewer now, at most
_END_OF_TIME = 2**53  # µs since the epoch: the year 2255


def own_entries(config: KafkaConfig, topics: Callable[[], Mapping[str, Topic]]) -> Callable[[Entry], bool]:
    """Return whether an entry is for a topic of the bridge and a partition that this may have had.

    A topic that was deleted and created again may have fewer partitions now. A record may also be of a
    channel that is not configured any more: its topic, which is not looked at, counts as one like that of the
    events.
    """
    names = {channel: name for channel, name in topic_names(config, CHANNELS).items() if channel != STATE}

    def is_own(entry: Entry) -> bool:
        place, record = entry
        name, _, number = place.rpartition("/")
        if names.get(record.channel) != name or not (number.isascii() and number.isdecimal()):
            return False
        topic = topics().get(record.channel) or topics()[EVENTS]
        is_partition = number == str(int(number)) and int(number) < max(topic.partitions, _ONCE_PARTITIONS)
        return is_partition and 0 <= record.time_us < _END_OF_TIME

    return is_own
