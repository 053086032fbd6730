"""How property tests choose their examples; fixtures for a shared Kafka and for one that a test may kill."""

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.internal.conjecture import providers

from tests.support.examples import FOLDER, KeptExamples
from tests.support.kafka_broker import Broker

ROOT = Path(__file__).parents[1]

# Machines that run tests are shared, so no duration turns a test red: neither hypothesis's deadline nor its
# health check. "test" tries the same examples every time; "fuzz" tries others each time and keeps those that
# fail; "replay" tries only those that were kept.
_ANY_SPEED: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("test", derandomize=True, **_ANY_SPEED)
settings.register_profile("fuzz", max_examples=1000, database=KeptExamples(FOLDER), **_ANY_SPEED)
settings.register_profile("replay", settings.get_profile("fuzz"), phases=(Phase.explicit, Phase.reuse))
settings.load_profile("test")
set_hypothesis_home_dir(ROOT / ".cache" / "hypothesis")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """Let no process that is started here ignore SIGHUP because the tests do, as under nohup."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # unlike SIG_IGN, this is not inherited


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Make examples independent of what else is loaded.

    Hypothesis draws on the constants in all loaded modules of the project, so an edit anywhere, or the order
    in which tests import modules, would change the examples that a fixed seed gives.
    """
    if settings.default is not None and settings.default.derandomize:
        assert callable(providers._get_local_constants)
        providers._get_local_constants = lambda: providers._local_constants


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: with short tests at the end, no worker is left alone with a long file."""
    items.sort(key=lambda item: "unit" in item.path.parts)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A broker shared by all tests that do not disturb it; topic prefixes keep them apart."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def own_kafka() -> Iterator[Broker]:
    """A broker for one test, which may kill, stop or freeze it."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}"
