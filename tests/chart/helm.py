"""The tools that check the chart, as built by `make setup`, and the values to render it with."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "digifinex-bridge"
DOCUMENTS = [ROOT / "docs" / "kubernetes.md"]

_BIN = ROOT / ".cache" / "bin"


def blocks(document: Path, language: str) -> list[str]:
    """Return the code blocks of a document in this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def _examples() -> dict[str, str]:
    """Return the values shown in documents; those without a broker are completed by the minimal values."""
    found = {}
    for document in DOCUMENTS:
        for number, text in enumerate(blocks(document, "yaml"), 1):
            values = yaml.safe_load(text)
            if "apiVersion" in values:
                continue
            config = values.get("config", {})
            if "kafka" not in config:
                minimal = yaml.safe_load(VALUES["minimal"])
                values = {**minimal, **values, "config": {**minimal["config"], **config}}
            found[f"{document.name}-{number}"] = yaml.safe_dump(values)
    return found


VALUES = {
    path.stem: path.read_text() for path in sorted((ROOT / "tests" / "chart" / "values").glob("*.yaml"))
}
VALUES |= _examples()


def tool(
    name: str, *arguments: object, stdin: str | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run one of the tools."""
    path = _BIN / name
    if not path.is_file():
        raise RuntimeError(f"{name} is not in .cache/bin: run 'make setup'")
    return subprocess.run(
        [path, *map(str, arguments)],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def template(
    values: str | None, *arguments: object, release: str = "feed"
) -> subprocess.CompletedProcess[str]:
    """Render the chart as `helm template` does."""
    given = ["--values", "-"] if values else []
    return tool(
        "helm", "template", release, CHART, "--namespace", "market-data", *given, *arguments, stdin=values
    )


def manifests(values: str, *arguments: object) -> list[dict[str, Any]]:
    """Return the objects that the chart renders from these values."""
    done = template(values, *arguments)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def the(kind: str, objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the only object of a kind."""
    (found,) = (one for one in objects if one["kind"] == kind)
    return found
