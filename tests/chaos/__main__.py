"""Runs the bridge through everything that can go wrong: `python -m tests.chaos --seed 7 --seconds 60`.

The seed decides what happens and when. Every update of the simulated exchange is accounted for at the end.
Exits with 1 if anything was lost unreported, repeated or out of order.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.plan import plan
from tests.chaos.report import figures, judge, lines
from tests.chaos.run import run


def main() -> int:
    """Carry out one run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="decides everything that happens (random)")
    parser.add_argument("--seconds", type=float, default=60, help="how long things go wrong (60)")
    parser.add_argument("--delivery", choices=("exactly-once", "at-least-once"), help="instead of the seed's")
    parser.add_argument("--replicas", type=int, choices=(1, 2), help="instead of the seed's")
    parser.add_argument("--rate", type=int, help="updates a second, instead of the seed's")
    parser.add_argument("--plan", action="store_true", help="print what would happen, and do nothing")
    parser.add_argument("--report", type=Path, help="file to append the figures of the run to, one line")
    options = parser.parse_args()
    seed = random.randrange(1, 2**31) if options.seed is None else options.seed
    settings = {name: getattr(options, name) for name in ("delivery", "replicas", "rate")}
    made = plan(seed, options.seconds, **settings)
    print(made, flush=True)
    if options.plan:
        return 0
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    seen = run(made, folder)
    verdict = judge(made, seen)
    print("\n".join(lines(made, seen, verdict)), flush=True)
    if options.report:
        with options.report.open("a") as file:
            file.write(json.dumps(figures(made, seen, verdict)) + "\n")
    if verdict.violations:
        for channel, records in seen.records.items():
            text = "".join(json.dumps(record) + "\n" for record in records)
            (folder / f"{channel}.jsonl").write_text(text)
        print(f"logs and records are in {folder}; once more: make chaos ARGS='{_again(seed, options)}'")
        return 1
    shutil.rmtree(folder)
    return 0


def _again(seed: int, options: argparse.Namespace) -> str:
    given = [
        f"--{name} {value}" for name in ("delivery", "replicas", "rate") if (value := getattr(options, name))
    ]
    return " ".join([f"--seed {seed}", f"--seconds {options.seconds:g}", *given])


if __name__ == "__main__":
    sys.exit(main())
