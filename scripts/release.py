"""Build everything that a release publishes, from the last commit, into `dist/`: `make release`.

These are the wheel and the sources, the chart, the image, a bill of materials of the Python packages, and the
checksums of them all. The same commit gives the same bytes, on any machine with the same Python: what is
built is a copy of what is committed, and all times are that of the commit. The image is the same as long as
its base and buildah are, so name the base by digest.
"""

import argparse
import gzip
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
HELM = ROOT / ".cache" / "bin" / "helm"
NAME = "digifinex-bridge"
SUMS = "SHA256SUMS"


def release(dist: Path, *, base: str | None = None, image: bool = True) -> None:
    """Build a release into a directory, in place of an earlier release there once everything is built.

    `base` is the base image, if not the one of the Dockerfile. Without `image` none is built.

    Raises:
        RuntimeError: a tool failed, and its output is on standard error; or the directory has anything but a
            release; or the versions in pyproject.toml and Chart.yaml differ.
        OSError: the release could not be written.
    """
    dist = dist.resolve()
    _refuse_others(dist)
    if _output("git", "status", "--porcelain"):
        _say("changes that are not committed are left out")
    commit = _output("git", "rev-parse", "HEAD")
    epoch = int(_output("git", "log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        tree, built = Path(folder, "tree"), Path(folder, "built")
        built.mkdir()
        archive = Path(folder, "tree.tar")
        _run("git", "archive", "--output", str(archive), "HEAD")
        with tarfile.open(archive) as tar:
            tar.extractall(tree, filter="data")
        version = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["version"]
        _check_chart(tree / "helm" / NAME / "Chart.yaml", version)
        times = {"SOURCE_DATE_EPOCH": str(epoch)}

        _say(f"wheel and sources, with Python {platform.python_version()}")
        _run(
            sys.executable, "-m", "hatchling", "build", "--directory", str(built), folder=tree, environ=times
        )
        _say("chart")
        _run(str(HELM), "package", str(tree / "helm" / NAME), "--destination", str(built))
        _settle(built / f"{NAME}-{version}.tgz", epoch)
        _say("bill of materials, of an environment with the wheel")
        _bill_of_materials(tree, built, Path(folder, "environment"), version, times)
        if image and shutil.which("buildah") is None:
            _say("no image: buildah is not installed")
        elif image:
            _say(f"image, with {_output('buildah', '--version')}")
            _image(tree, built, version, commit, epoch, base)
        _sums(built)
        _replace(dist, built)
    for file in sorted(dist.iterdir()):
        _say(f"made {file}")


def _refuse_others(dist: Path) -> None:
    """Raise RuntimeError if a directory has anything that no release has put there: it would be deleted."""
    if dist == ROOT or dist in ROOT.parents:
        raise RuntimeError(f"{dist} contains the sources; name another directory")
    if not dist.exists():
        return
    if not dist.is_dir():
        raise RuntimeError(f"{dist} is not a directory")
    sums = dist / SUMS
    lines = sums.read_text(errors="replace").splitlines() if sums.is_file() else []
    ours = {SUMS} | {line.partition("  ")[2] for line in lines}
    if others := sorted(file.name for file in dist.iterdir() if file.is_dir() or file.name not in ours):
        raise RuntimeError(f"{dist} has {others[0]}, which is not of a release; empty it or name another")


def _replace(dist: Path, built: Path) -> None:
    """Put what was built at the place of an earlier release, which stays if anything fails."""
    _refuse_others(dist)  # building took a while
    dist.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that what may fail half-way, copying, is done before the earlier release is touched.
    with tempfile.TemporaryDirectory(prefix=".release-", dir=dist.parent) as folder:
        new, old = Path(folder, "new"), Path(folder, "old")
        shutil.copytree(built, new)
        if dist.exists():
            dist.rename(old)
        new.rename(dist)


def _check_chart(file: Path, version: str) -> None:
    chart = yaml.safe_load(file.read_text())
    for field in ("version", "appVersion"):
        if chart[field] != version:
            raise RuntimeError(
                f"{file.name} has {field} {chart[field]}, but pyproject.toml has version {version}"
            )


def _bill_of_materials(
    tree: Path, built: Path, environment: Path, version: str, times: Mapping[str, str]
) -> None:
    """Install the wheel with the pinned packages, try it, and list what is there."""
    uv = str(Path(sys.executable).with_name("uv"))
    _run(uv, "venv", "--quiet", "--python", sys.executable, str(environment))
    install = [uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python")]
    requirements = str(tree / "requirements.txt")
    _run(*install, "--require-hashes", "--only-binary", ":all:", "--requirement", requirements)
    (wheel,) = built.glob("*.whl")
    _run(*install, "--no-deps", "--offline", str(wheel))
    if (said := _output(str(environment / "bin" / NAME), "--version")) != f"{NAME} {version}":
        raise RuntimeError(f"the wheel says that it is {said}, not version {version}")
    (packages,) = environment.glob("lib/python*/site-packages")
    target = built / f"{NAME}-{version}.cdx.json"
    _run(sys.executable, str(tree / "scripts" / "sbom.py"), str(packages), str(target), environ=times)


def _image(tree: Path, built: Path, version: str, commit: str, epoch: int, base: str | None) -> None:
    tag = f"localhost/{NAME}:{version}"
    arguments = {"VERSION": version, "REVISION": commit, "SOURCE_DATE_EPOCH": str(epoch)}
    if base is not None:
        arguments["PYTHON_IMAGE"] = base
    if "@sha256:" not in (base or ""):
        _say("the base image is named by a tag: the same commit will give another image one day")
    command = ["buildah", "build", "--timestamp", str(epoch), "--no-cache", "--tag", tag]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    if "--identity-label" in _output("buildah", "build", "--help"):
        command.append("--identity-label=false")  # else the image has the version of buildah in it
    made = datetime.fromtimestamp(epoch, UTC).isoformat()
    _run(*command, "--label", f"org.opencontainers.image.created={made}", str(tree))
    target = built / f"{NAME}-{version}.oci.tar"
    _run("buildah", "push", "--quiet", tag, f"oci-archive:{target}:{version}")
    _settle(target, epoch)


def _settle(archive: Path, epoch: int) -> None:
    """Write an archive anew, with its files in order and with the same time and owner everywhere."""
    unpacked = io.BytesIO()
    with (
        tarfile.open(archive) as before,
        tarfile.open(fileobj=unpacked, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for member in sorted(before.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.pax_headers = {}
            after.addfile(member, before.extractfile(member))
    content = unpacked.getvalue()
    if archive.suffix == ".tgz":
        content = gzip.compress(content, mtime=epoch)
    archive.write_bytes(content)


def _sums(folder: Path) -> None:
    """Write what `sha256sum --check SHA256SUMS` reads."""
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(folder.iterdir())
    ]
    (folder / SUMS).write_text("".join(lines))


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def _run(*command: str, folder: Path = ROOT, environ: Mapping[str, str] | None = None) -> None:
    """Run a tool; its output is shown only if it fails."""
    done = subprocess.run(  # noqa: S603 - the commands are those of this module
        command,
        cwd=folder,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise RuntimeError(f"'{' '.join(command)}' exited with status {done.returncode}")


def _say(text: str) -> None:
    sys.stderr.write(f"release: {text}\n")


def main() -> int:
    """Build a release; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--base", metavar="IMAGE", help="base image, as tag@sha256:digest; otherwise the Dockerfile's"
    )
    parser.add_argument("--no-image", action="store_true", help="build everything but the image")
    parser.add_argument("--dist", type=Path, metavar="DIR", default=DIST, help="where to, instead of dist/")
    arguments = parser.parse_args()
    try:
        release(arguments.dist, base=arguments.base, image=not arguments.no_image)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        _say(f"failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
