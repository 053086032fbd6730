"""The workflows of the forge, as far as they can be tried without it."""

import os
import re
import shutil
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


def run_step(job: str, name: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a step as the forge does: bash stops at a failure within a pipe only if the workflow names it."""
    named = WORKFLOWS["release.yml"].get("defaults", {}).get("run", {}).get("shell") == "bash"
    return subprocess.run(
        ["bash", *(["-eo", "pipefail"] if named else ["-e"]), "-c", step(job, name)],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


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


CHECKED = "The tag is the version, and the chart has real addresses and the image of this release"
HERE = "https://example.org/digifinex-bridge"
RUNBOOK = "https://example.org/digifinex-bridge/blob/main/"
PUBLISHED = "ghcr.io/someone/digifinex-bridge"


@pytest.mark.parametrize(
    ("tag", "home", "runbook", "registry", "repository", "words"),
    [
        (f"v{__version__}", HERE, RUNBOOK, "", PUBLISHED, None),
        (f"v{__version__}", HERE, RUNBOOK, "ghcr.io", "someone/digifinex-bridge", None),
        ("v9.9.9", HERE, RUNBOOK, "", PUBLISHED, f"but version {__version__}"),
        (
            f"v{__version__}",
            "https://git.example.com/bridge",
            RUNBOOK,
            "",
            PUBLISHED,
            "placeholders",
        ),
        (f"v{__version__}", HERE, "", "", PUBLISHED, "no runbookBase"),
        (f"v{__version__}", HERE, "https://git.example.com/x/", "", PUBLISHED, "no runbookBase"),
        (f"v{__version__}", HERE, RUNBOOK, "", "digifinex-bridge", "pulls the image digifinex-bridge:"),
        (f"v{__version__}", HERE, RUNBOOK, "quay.io", PUBLISHED, "pulls the image quay.io/"),
    ],
    ids=[
        "as it should be",
        "registry apart",
        "another tag",
        "placeholders",
        "no runbook",
        "placeholder of the runbook",
        "bare image",
        "another registry",
    ],
)
def test_a_release_needs_the_right_tag_real_addresses_and_its_own_image(
    tag: str, home: str, runbook: str, registry: str, repository: str, words: str | None, tmp_path: Path
) -> None:
    chart = tmp_path / "helm" / "digifinex-bridge"
    shutil.copytree(ROOT / "helm" / "digifinex-bridge", chart)
    about, values = chart / "Chart.yaml", chart / "values.yaml"
    text = about.read_text().replace("https://git.example.com/digifinex-bridge", HERE)
    about.write_text(re.sub(r"(?m)^home: .*", f"home: {home}", text))
    text = re.sub(r"(?m)^runbookBase: .*", f'runbookBase: "{runbook}"', values.read_text())
    text = re.sub(r"(?m)^  registry: .*", f'  registry: "{registry}"', text, count=1)
    values.write_text(re.sub(r"(?m)^  repository: .*", f"  repository: {repository}", text, count=1))
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    done = run_step(
        "build",
        CHECKED,
        tmp_path,
        GITHUB_REF_NAME=tag,
        PUBLISH_TO="ghcr.io/Someone",
        PATH=f"{ROOT / '.cache' / 'bin'}:{os.environ['PATH']}",
    )
    assert done.returncode == (0 if words is None else 1), done.stdout + done.stderr
    assert words is None or words in done.stdout


def test_a_chart_that_could_not_be_pushed_is_not_signed(tmp_path: Path) -> None:
    for name, script in (("helm", "echo denied; exit 1"), ("cosign", "touch signed")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "dist"
    folder.mkdir()
    done = run_step(
        "publish",
        "Publish and sign the chart",
        folder,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        VERSION=__version__,
        REGISTRY="ghcr.io/someone",
    )
    assert done.returncode != 0
    assert not (folder / "signed").exists()


def test_nothing_is_published_before_all_tests_have_passed() -> None:
    assert set(RELEASE["publish"]["needs"]) == {"test", "build"}
    assert RELEASE["test"]["steps"] == WORKFLOWS["ci.yml"]["jobs"]["test"]["steps"]


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
