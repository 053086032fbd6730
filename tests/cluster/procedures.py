"""The commands of docs/kubernetes.md, by section."""

import re

from tests.chart.helm import ROOT

_DOCUMENT = ROOT / "docs" / "kubernetes.md"


def procedure(section: str) -> list[str]:
    """Return the blocks of commands of a section, whose heading must exist once."""
    text = _DOCUMENT.read_text()
    (body,) = re.findall(rf"^##+ {re.escape(section)}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```sh\n(.*?)^```$", body, re.DOTALL | re.MULTILINE)
