"""What fuzzing has found stays in the tree and is replayed."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support.examples import KeptExamples, kept

ROOT = Path(__file__).parents[2]


def test_no_example_that_fuzzing_kept_fails_again() -> None:
    if kept():
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "--hypothesis-profile=replay", *kept()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-5000:]


def test_only_the_smallest_failing_example_is_kept_and_replayed(tmp_path: Path) -> None:
    database = KeptExamples(tmp_path)
    tried: list[int] = []

    @settings(database=database, derandomize=False)
    @given(st.integers())
    def law(number: int) -> None:
        assert number < 1000

    @settings(database=database, derandomize=False, phases=(Phase.explicit, Phase.reuse))
    @given(st.integers())
    def edited(number: int) -> None:
        tried.append(number)

    with pytest.raises(AssertionError):
        law()
    edited()
    edited()
    assert tried == [1000, 1000]
    assert [len(list(folder.iterdir())) for folder in tmp_path.iterdir()] == [1]
    (test_id,) = kept(tmp_path)
    assert test_id.endswith("test_examples.py::test_only_the_smallest_failing_example_is_kept_and_replayed")
