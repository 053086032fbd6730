"""Runs all fuzzers at random, side by side: `python -m tests.fuzz --seconds 600`.

They are the property tests, the fuzzer of frames, and the hostile exchange. What fails is kept: inputs of the
fuzzer and logs of the bridge in tests/fuzz/found, examples of property tests in tests/examples. `make
test` replays inputs and examples. Exits with 1 if anything failed.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.examples import FOLDER

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "tests" / "fuzz" / "found"

_PROPERTIES = ("-q", "-m", "hypothesis", "--hypothesis-profile=fuzz", "--timeout=0", "tests/unit")


def main() -> int:
    """Fuzz for the given time, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600, help="how long (3600)")
    parser.add_argument("--seed", type=int, help="seed of frames and of the hostile exchange (random)")
    options = parser.parse_args()
    seed = options.seed or random.randrange(1, 2**31)
    deadline = time.monotonic() + options.seconds
    print(f"fuzzing for {options.seconds} s, with --seed {seed}", flush=True)
    FOUND.mkdir(exist_ok=True)
    before = {*_files()}
    limits = (f"-max_total_time={options.seconds}", f"-seed={seed}", "-verbosity=0", "-print_final_stats=1")
    frames = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.fuzz_frames", f"-artifact_prefix={FOUND}/", *limits], cwd=ROOT
    )
    arguments = (f"--seconds={options.seconds}", f"--seed={seed}")
    exchange = subprocess.Popen([sys.executable, "-m", "tests.fuzz.fuzz_exchange", *arguments], cwd=ROOT)
    try:
        properties_hold = _fuzz_properties(deadline)
        others_hold = [process.wait() == 0 for process in (frames, exchange)]
    finally:
        frames.kill()
        exchange.terminate()
        exchange.wait()
    new = sorted({*_files()} - before)
    if new:
        print("kept:", *(str(path.relative_to(ROOT)) for path in new), sep="\n  ")
    return 0 if properties_hold and all(others_hold) and not new else 1


def _files() -> Iterator[Path]:
    """Return all that is kept."""
    return (path for folder in (FOLDER, FOUND) for path in folder.rglob("*") if path.is_file())


def _fuzz_properties(deadline: float) -> bool:
    """Run all property tests again and again until the deadline; return False as soon as one fails."""
    while (left := deadline - time.monotonic()) > 0:
        run = subprocess.Popen([sys.executable, "-m", "pytest", *_PROPERTIES], cwd=ROOT)
        try:
            if run.wait(left) != 0:
                return False
        except subprocess.TimeoutExpired:
            continue
        finally:
            run.kill()
            run.wait()
    return True


if __name__ == "__main__":
    sys.exit(main())
