"""A short run of the fuzzer of frames with a fixed seed, and a replay of all that it ever found."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "tests" / "fuzz" / "found"
HAS_ATHERIS = (sys.platform, platform.machine()) == ("linux", "x86_64") and sys.version_info < (3, 14)

pytestmark = pytest.mark.skipif(not HAS_ATHERIS, reason="atheris does not support this platform")


def fuzz(*arguments: str) -> str:
    """Run the fuzzer; return what it printed to the standard error."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_frames", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stderr


def test_the_fuzzer_finds_no_conversation_that_raises(tmp_path: Path) -> None:
    printed = fuzz("-seed=7", "-runs=3000", "-max_len=1024", f"-artifact_prefix={tmp_path}/")
    assert "Done 3000 runs" in printed


def test_no_conversation_that_the_fuzzer_found_raises_again() -> None:
    found = sorted(str(path) for path in FOUND.glob("crash-*"))
    if found:
        fuzz(*found)
