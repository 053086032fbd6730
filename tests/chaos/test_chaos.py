"""Two short runs in which everything goes wrong; `make chaos` makes others, and longer ones."""

from pathlib import Path

import pytest

from tests.chaos.plan import plan
from tests.chaos.report import judge, lines
from tests.chaos.run import run


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [3, 7], ids=["at-least-once", "exactly-once, two replicas"])
def test_every_update_is_accounted_for(seed: int, tmp_path: Path) -> None:
    made = plan(seed, 60)
    seen = run(made, tmp_path)
    verdict = judge(made, seen)
    assert not verdict.violations, "\n".join([str(made), *lines(made, seen, verdict)])
