"""Ask OSV (https://osv.dev) for advisories about every pinned requirement: `make audit`.

The exit status is 0 if there are none, 1 if there are any, and 2 if that could not be found out.
"""

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OSV = "https://api.osv.dev/v1/querybatch"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_TIMEOUT = 60.0  # seconds
_AT_ONCE = 500  # requirements in one query; OSV accepts 1000


def pins(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Return the name and version of each requirement in these files."""
    return sorted({pin for file in files for pin in _PIN.findall(file.read_text())})


def advisories(url: str, requirements: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the ids of the advisories about each of these, those without any left out.

    Raises:
        OSError, HTTPException: there was no answer.
        ValueError: the answer is not about all of these.
    """
    found: dict[str, list[str]] = {}
    for start in range(0, len(requirements), _AT_ONCE):
        asked = requirements[start : start + _AT_ONCE]
        results = _ask(url, asked)
        if len(results) != len(asked):
            raise ValueError(f"{len(results)} results for {len(asked)} requirements")
        for (name, version), result in zip(asked, results, strict=True):
            if ids := [str(one["id"]) for one in result.get("vulns", [])]:
                found[f"{name} {version}"] = ids
            elif result.get("next_page_token"):
                raise ValueError(f"no complete result for {name}")
    return found


def _ask(url: str, asked: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, Any]]:
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in asked
    ]
    body = json.dumps({"queries": queries}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - likewise
        results = json.load(answer)["results"]
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise ValueError("the answer has no results")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advisories, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=OSV, help="where to ask")
    parser.add_argument("files", nargs="*", type=Path, help="requirements files; all of them by default")
    options = parser.parse_args(arguments)
    requirements = pins(options.files or sorted(ROOT.glob("requirements*.txt")))
    if not requirements:
        sys.stderr.write("not audited: no requirements found\n")
        return 2
    try:
        found = advisories(options.url, requirements)
    except Exception as error:  # noqa: BLE001 - a crash has the exit status of advisories
        sys.stderr.write(f"not audited: {options.url}: {error!r}\n")
        return 2
    for name, ids in found.items():
        sys.stdout.write(f"{name}: {' '.join(ids)}\n")
    sys.stdout.write(f"{len(requirements)} requirements, {len(found)} with advisories\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
