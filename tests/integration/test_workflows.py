"""The workflows of the forge, as far as they can be tried without it."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge import __version__

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS: dict[str, Any] = {path.name: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yml")}
RELEASE = WORKFLOWS["release.yml"]["jobs"]


def step(job: str, name: str) -> str:
    """Return the script of a step of the release."""
    (script,) = (one["run"] for one in RELEASE[job]["steps"] if one.get("name") == name)
    return str(script)


def test_actionlint_accepts_the_workflows() -> None:
    done = subprocess.run(
        [ROOT / ".cache" / "bin" / "actionlint", *FOLDER.glob("*.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned_by_commit_with_their_version_beside_them() -> None:
    for path in FOLDER.glob("*.yml"):
        used = re.findall(r"uses: (.*)", path.read_text())
        assert used
        assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in used), used


def test_only_the_job_that_publishes_may_write() -> None:
    for name, workflow in WORKFLOWS.items():
        for job, about in workflow["jobs"].items():
            rights = about.get("permissions", workflow["permissions"])
            writes = {right for right, level in rights.items() if level == "write"}
            assert not writes or (name, job) == ("release.yml", "publish")
    assert not any("make" in one.get("run", "") for one in RELEASE["publish"]["steps"])


@pytest.mark.parametrize(
    ("tag", "addresses", "status", "words"),
    [
        (f"v{__version__}", "https://example.org/digifinex-bridge", 0, ""),
        ("v9.9.9", "https://example.org/digifinex-bridge", 1, f"but version {__version__}"),
        (f"v{__version__}", None, 1, "placeholders"),
    ],
    ids=["as it should be", "another tag", "placeholders"],
)
def test_a_release_needs_the_right_tag_and_real_addresses(
    tag: str, addresses: str | None, status: int, words: str, tmp_path: Path
) -> None:
    chart = tmp_path / "helm" / "digifinex-bridge" / "Chart.yaml"
    chart.parent.mkdir(parents=True)
    text = (ROOT / "helm" / "digifinex-bridge" / "Chart.yaml").read_text()
    chart.write_text(
        text.replace("https://git.example.com/digifinex-bridge", addresses) if addresses else text
    )
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    done = subprocess.run(
        ["bash", "-e", "-c", step("build", "The tag is the version, and the chart has real addresses")],
        cwd=tmp_path,
        env={**os.environ, "GITHUB_REF_NAME": tag},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert words in done.stdout


def test_the_files_that_are_published_are_those_that_are_built() -> None:
    """Their names are in `scripts/release.py` and in docs/releasing.md, too."""
    scripts = "".join(one.get("run", "") for one in RELEASE["publish"]["steps"])
    named = {
        name.replace("$VERSION", "VERSION")
        for name in re.findall(r"digifinex[\w$.-]*VERSION[\w.-]*", scripts)
    }
    document = (ROOT / "docs" / "releasing.md").read_text()
    assert named == {
        "digifinex_bridge-VERSION-py3-none-any.whl",
        "digifinex_bridge-VERSION.tar.gz",
        "digifinex-bridge-VERSION.tgz",
        "digifinex-bridge-VERSION.oci.tar",
        "digifinex-bridge-VERSION.cdx.json",
    }
    listed = document.replace("whl`, `.tar.gz`", "whl`, `digifinex_bridge-VERSION.tar.gz`")
    assert all(f"`{name}`" in listed for name in named)


def test_tools_have_the_versions_that_are_pinned() -> None:
    (wanted,) = re.findall(r"--spec uv==(\S+)", step("publish", "Publish the package"))
    assert f"\nuv=={wanted} " in (ROOT / "requirements-dev.txt").read_text()
    (base,) = re.findall(r"ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text())
    assert WORKFLOWS["release.yml"]["env"]["BASE"] == base
