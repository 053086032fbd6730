"""Building the tools that check the chart fails with a clear message if Go is missing or too old."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.chart.helm import ROOT


@pytest.mark.parametrize(
    ("version", "found"), [("go1.19.8", "found: 1.19"), ("go1.9", "found: 1.9"), (None, "found: none")]
)
def test_a_missing_or_old_go_is_reported_with_its_version(
    version: str | None, found: str, tmp_path: Path
) -> None:
    for folder in ("scripts", "tools", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "scripts" / "build-chart-tools.sh", tmp_path / "scripts")
    for name in ("go.mod", "go.sum"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    go = tmp_path / "bin" / "go"
    go.write_text(
        f"#!/bin/sh\necho go version {version} linux/amd64\n" if version else "#!/bin/sh\nexit 127\n"
    )
    go.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "scripts" / "build-chart-tools.sh"],
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "install Go 1.21 or newer" in done.stderr
    assert found in done.stderr
