"""What a look at the cluster makes of topics that have changed since the one before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from bridge.config import KafkaConfig
from bridge.kafka import looking
from bridge.kafka.looking import View
from bridge.kafka.metadata import Description, Found
from bridge.kafka.topics import MAX_BYTES, Topic, topic_names
from bridge.records import STATE

CONFIG = KafkaConfig(shards=4)
NAMES = topic_names(CONFIG, ["trades"])
BEFORE = View("c", {channel: Topic(name, 4, 1_000_000, "first") for channel, name in NAMES.items()})


class Kafka:
    """Stands in for what Kafka answers to a look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topics = {name: Found(None, "first", 4, frozenset(), 1) for name in NAMES.values()}
        self.settings: dict[str, looking.Reported] = {name: {} for name in NAMES.values()}
        monkeypatch.setattr(looking, "admin", self._admin)
        monkeypatch.setattr(looking, "describe", self._describe)
        monkeypatch.setattr(looking, "settings", self._settings)

    @asynccontextmanager
    async def _admin(self, _config: KafkaConfig) -> AsyncIterator[None]:
        yield

    async def _describe(self, *_: object) -> Description:
        return Description("c", self.topics)

    async def _settings(self, *_: object) -> dict[str, looking.Reported]:
        return self.settings

    def look(self, before: View = BEFORE) -> View:
        return asyncio.run(looking.look(CONFIG, ["trades"], before))


def test_a_bridge_state_that_comes_back_for_fewer_shards_counts_as_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some shards have no state there, so all wait for the one that is right."""
    kafka = Kafka(monkeypatch)
    kafka.topics[NAMES[STATE]] = Found(None, "second", 1, frozenset(), 1)
    view = kafka.look()
    state = view.topics[STATE]
    assert "has state of 1 shards, kafka.shards is 4" in state.missing
    assert replace(state, missing="") == BEFORE.topics[STATE]
    assert not view.topics["trades"].missing
    kafka.topics[NAMES[STATE]] = Found(None, "second", 4, frozenset(), 1)
    state = kafka.look(view).topics[STATE]
    assert (state.missing, state.id) == ("", "second")


@pytest.mark.parametrize("withheld", [TopicAuthorizationFailedError, KafkaError, {}])
def test_a_limit_that_kafka_withholds_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch, withheld: looking.Reported
) -> None:
    """With a smaller one, the queued records that need it would be given up."""
    kafka, name = Kafka(monkeypatch), NAMES["trades"]
    kafka.settings[name] = withheld
    unseen = View("c", {STATE: BEFORE.topics[STATE]})
    assert kafka.look(unseen).topics["trades"].max_message_bytes == looking.KAFKAS_DEFAULT_MAX_BYTES
    kafka.settings[name] = {MAX_BYTES: "16000000"}
    view = kafka.look()
    for _ in range(2):
        assert view.topics["trades"].max_message_bytes == 16_000_000
        kafka.settings[name] = withheld
        view = kafka.look(view)
    kafka.settings[name] = {MAX_BYTES: "2000"}
    assert kafka.look(view).topics["trades"].max_message_bytes == 2000
