"""Fixtures: a real Kafka that tests share, and one of a test's own to kill."""

import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.kafka_broker import Broker

# No example has to be quick: machines that run tests are shared.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A broker for all tests that leave it alone; a prefix of their own keeps them apart."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def own_kafka() -> Iterator[Broker]:
    """A broker for one test that kills, stops or freezes it."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test has."""
    return f"t{uuid.uuid4().hex[:8]}"
