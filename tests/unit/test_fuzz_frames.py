"""A short run of the fuzzer of frames, always the same one."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HAS_ATHERIS = (sys.platform, platform.machine()) == ("linux", "x86_64") and sys.version_info < (3, 14)


@pytest.mark.skipif(not HAS_ATHERIS, reason="there is no atheris for this platform")
def test_no_conversation_that_the_fuzzer_thinks_of_raises(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.fuzz_frames", "-seed=7", "-runs=3000", "-max_len=1024"]
    run = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "Done 3000 runs" in run.stderr
