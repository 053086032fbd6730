"""A minute of the hostile exchange of `make fuzz`, with fixed seeds."""

from pathlib import Path

import pytest

from tests.fuzz.fuzz_exchange import Round
from tests.support.kafka_broker import Broker


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hostile_exchange_neither_fails_the_bridge_nor_makes_it_show_a_credential(
    seed: int, kafka: Broker, tmp_path: Path
) -> None:
    """Nor does it take 256 MiB or connect too often; and then an honest exchange is served again."""
    Round(seed, kafka, tmp_path).run(seconds=15)
