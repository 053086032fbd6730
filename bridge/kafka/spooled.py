"""Which entries of a spool may be sent: those that the bridge itself can have written."""

from collections.abc import Callable, Mapping

from bridge.channels import CHANNELS
from bridge.config import KafkaConfig
from bridge.kafka.topics import Topic, topic_names
from bridge.records import EVENTS, STATE
from bridge.spool.segment import Entry

_END_OF_TIME = 2**53  # µs since the epoch: the year 2255


def own_entries(config: KafkaConfig, topics: Mapping[str, Topic]) -> Callable[[Entry], bool]:
    """Return whether an entry is for a topic of the bridge and a partition of that topic.

    A record may be of a channel that is not configured any more. Its topic is not looked at then, so it has
    as many partitions as the events, which the bridge has created like it.
    """
    places = {
        channel: {f"{name}/{number}" for number in range(topics.get(channel, topics[EVENTS]).partitions)}
        for channel, name in topic_names(config, CHANNELS).items()
        if channel != STATE
    }

    def is_own(entry: Entry) -> bool:
        place, record = entry
        return place in places.get(record.channel, ()) and 0 <= record.time_us < _END_OF_TIME

    return is_own
