"""Runs the bridge through everything that can go wrong: `python -m tests.chaos --seed 7 --seconds 60`.

The seed decides what happens and when. Every update of the simulated exchange is accounted for at the end.
Exits with 1 if anything was lost unreported, repeated or out of order.
"""

import argparse
import json
import pickle
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.plan import plan
from tests.chaos.report import figures, judge, lines, table
from tests.chaos.run import run

_SETTINGS = ("delivery", "replicas", "rate")


def main() -> int:
    """Carry out the runs, and return the exit status."""
    options = _options()
    if options.table:
        print("\n".join(table(json.loads(line) for line in options.table.read_text().splitlines())))
        return 0
    first = random.randrange(1, 2**31) if options.seed is None else options.seed
    failed = [seed for seed in range(first, first + options.runs) if not _succeeds(seed, options)]
    if failed and options.runs > 1:
        print(f"failed: {', '.join(map(str, failed))}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="decides everything that happens (random)")
    parser.add_argument("--seconds", type=float, default=60, help="how long things go wrong (60)")
    parser.add_argument("--runs", type=int, default=1, help="how many runs, each with the next seed (1)")
    parser.add_argument("--delivery", choices=("exactly-once", "at-least-once"), help="instead of the seed's")
    parser.add_argument("--replicas", type=int, choices=(1, 2), help="instead of the seed's")
    parser.add_argument("--rate", type=int, help="updates a second, instead of the seed's")
    parser.add_argument(
        "--without", action="append", default=[], help="a kind of action or a fault to leave out"
    )
    parser.add_argument("--plan", action="store_true", help="print what would happen, and do nothing")
    parser.add_argument(
        "--report", type=Path, help="file to append the figures of each run to, one line each"
    )
    parser.add_argument("--table", type=Path, help="print the table of such a file, and do nothing else")
    return parser.parse_args()


def _succeeds(seed: int, options: argparse.Namespace) -> bool:
    """Carry out one run, and return whether it has shown no violation."""
    settings = {name: getattr(options, name) for name in _SETTINGS}
    made = plan(seed, options.seconds, **settings).without(*options.without)
    print(made, flush=True)
    if options.plan:
        return True
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    seen = run(made, folder)
    verdict = judge(made, seen)
    print("\n".join(lines(made, seen, verdict)), flush=True)
    if options.report:
        with options.report.open("a") as file:
            file.write(json.dumps(figures(made, seen, verdict)) + "\n")
    if not verdict.violations:
        shutil.rmtree(folder)
        return True
    # For a closer look: everything that was seen, for another look by the verifier, and the records as text.
    (folder / "seen.pickle").write_bytes(pickle.dumps((made, seen)))
    (folder / "violations").write_text("".join(f"{one}\n" for one in verdict.violations))
    for channel, records in seen.records.items():
        (folder / f"{channel}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    given = [f"--{name} {value}" for name, value in settings.items() if value]
    given += [f'--without "{name}"' for name in options.without]
    again = " ".join([f"--seed {seed}", f"--seconds {options.seconds:g}", *given])
    print(f"logs and records are in {folder}; once more: make chaos ARGS='{again}'", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
