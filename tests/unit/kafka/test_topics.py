"""The names of topics: what belongs to an account is below the private prefix."""

import pytest

from bridge.channels import CHANNELS
from bridge.config import KafkaConfig
from bridge.kafka.topics import new_topic, topic_names
from bridge.records import DEADLETTER, EVENTS, PRIVATE_DEADLETTER, PRIVATE_EVENTS, STATE

PUBLIC = [name for name, channel in CHANNELS.items() if not channel.private]


def test_what_belongs_to_accounts_is_below_the_private_prefix() -> None:
    names = topic_names(KafkaConfig(topic_prefix="feed"), CHANNELS)
    private = {name.removeprefix("private.") for name in names.values() if not name.startswith("feed.")}
    assert private == {f"feed.{one}.v1" for one in ("order", "order_algo", "balance", DEADLETTER, EVENTS)}
    assert names[STATE] == "feed.bridge-state"
    assert len(set(names.values())) == len(CHANNELS) + 5


def test_without_a_private_channel_there_are_no_private_topics() -> None:
    names = topic_names(KafkaConfig(topic_prefix="feed"), PUBLIC)
    assert all(name.startswith("feed.") for name in names.values())


def test_the_private_prefix_can_be_set() -> None:
    config = KafkaConfig(topic_prefix="feed", private_topic_prefix="ours")
    names = topic_names(config, ["order"])
    assert (names["order"], names[PRIVATE_EVENTS]) == ("ours.order.v1", "ours.events.v1")


@pytest.mark.parametrize("channel", [DEADLETTER, PRIVATE_DEADLETTER])
def test_all_dead_letters_have_room_for_whole_frames(channel: str) -> None:
    topic = new_topic(KafkaConfig(), channel, "letters")
    assert ("max.message.bytes", "16777216") in dict(topic.topic_configs).items()
