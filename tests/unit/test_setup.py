"""The setup says what it waits for, a line for each step, and nothing else."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the scripts, in which nothing is set up, and programs that only say something."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(clone: Path, name: str, text: str = "") -> None:
    file = clone / "bin" / name
    file.write_text(f"#!/bin/bash\necho progress of {name}\n{text}\n")
    file.chmod(0o755)


def bash(clone: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the setup would, with the programs of the clone in front of the real ones."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f". scripts/common.sh; {script}"],
        cwd=clone,
        env={**os.environ, "PATH": f"{clone}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="asks for root's password")
def test_debian_packages_are_named_before_they_are_fetched(clone: Path) -> None:
    program(clone, "apt-get")
    done = bash(clone, "install_debian kcat maven")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "setup: fetching Debian's lists of packages",
        "setup: fetching and installing Debian packages: kcat maven",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="asks for root's password")
def test_a_step_that_fails_shows_the_output_of_its_program(clone: Path) -> None:
    program(clone, "apt-get", "exit 100")
    done = bash(clone, "install_debian kcat")
    assert done.returncode == 1
    assert "progress of apt-get" in done.stderr
    assert "setup failed: 'apt-get update' exited with status 100" in done.stderr


def test_jars_are_counted_before_they_are_fetched_and_fetched_once(clone: Path) -> None:
    (clone / "pom.xml").touch()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (clone / "jars.sha256").write_text(f"{empty}  a.jar\n{empty}  b.jar\n")
    program(clone, "mvn", 'folder=${@: -1}; touch "${folder#*=}"/{a,b}.jar')
    done = bash(clone, "fetch_jars pom.xml .cache/jars; fetch_jars pom.xml .cache/jars")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == "setup: fetching 2 jars with Maven: pom.xml\n"


def test_a_second_setup_says_that_it_waits_for_the_first(clone: Path) -> None:
    with (clone / ".cache" / "set-up.lock").open("w") as lock, (clone / "said").open("w+") as said:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(["bash", "-c", ". scripts/common.sh"], cwd=clone, stderr=said)
        try:
            eventually((clone / "said").read_text, 60, "it waits")
            assert waiting.poll() is None
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.wait(60) == 0
        finally:
            waiting.kill()
            waiting.wait(60)
    assert (clone / "said").read_text() == f"setup: waiting for another setup in {clone}\n"
