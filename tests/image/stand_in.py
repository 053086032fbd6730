"""A base image made of this machine's own files, and the images built on it."""

import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

BASE = "localhost/digifinex-bridge-tests/python"
IMAGE = "localhost/digifinex-bridge-tests/bridge"

# What Python's extension modules link to, and what the Dockerfile runs.
_PACKAGES = {
    *("ca-certificates", "libbz2-1.0", "libexpat1", "libffi8", "liblzma5", "libncursesw6", "libreadline8"),
    *("libsqlite3-0", "libssl3", "libuuid1", "openssl", "passwd", "zlib1g"),
}
_FILES = ["/bin/sh", "/usr/sbin/nologin", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"]
_FILES += ["/etc/login.defs", "/etc/nsswitch.conf"]
# Packages of the system's Python, if that is used; pip refuses to run with EXTERNALLY-MANAGED.
_SYSTEMS_PYTHON = {"python3", "python3-venv"}
_LEFT_OUT = re.compile(r"^/usr/share/(doc|man|locale|info)/|/EXTERNALLY-MANAGED$")


class Images:
    """Builds and runs images in their own storage, in `folder`; needs root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._storage = ["--root", f"{folder}/storage", "--runroot", f"{folder}/run"]

    def build(self, context: Path, file: Path, tag: str, **arguments: str) -> None:
        """Build an image without pulling any.

        Raises:
            RuntimeError: the build failed; the text is the end of its output.
        """
        command = ["buildah", *self._storage, "build", "--isolation=chroot", "--pull=never", "--network=host"]
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        done = _run([*command, "--file", str(file), "--tag", tag, str(context)])
        if done.returncode:
            raise RuntimeError(done.stdout[-4000:] + done.stderr[-4000:])

    def make_base(self) -> None:
        """Build the stand-in, with the wheels that the requirements pin: it cannot reach a package index.

        Raises:
            RuntimeError: the build failed.
        """
        context = self._folder / "base"
        _fetch_wheels(context / "wheels")
        with tarfile.open(context / "root.tar", "w") as tar:
            systems = sys.base_prefix == "/usr"
            packages = _PACKAGES | _SYSTEMS_PYTHON if systems else _PACKAGES
            for name in sorted({*_debian(packages), *_FILES}):
                path = Path(name)
                if (path.exists() or path.is_symlink()) and not _LEFT_OUT.search(name):
                    tar.add(name, _merged(name), recursive=False)
            for name in ("bin", "sbin", "lib", "lib64"):
                _link(tar, name, f"usr/{name}")
            if systems:
                _add_pip(tar)
                _link(tar, "usr/local/bin/python", "../../bin/python3")
            else:
                tar.add(sys.base_prefix, "usr/local", filter=_needed)
            for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("proc", 0o755)):
                folder = tarfile.TarInfo(name)
                folder.type, folder.mode = tarfile.DIRTYPE, mode
                tar.addfile(folder)
        self.build(context, ROOT / "tests" / "image" / "Containerfile.base", BASE)

    def command(self, name: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """Return the command line that runs the bridge's image as Kubernetes would: without privileges."""
        rights = [
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
        ]
        # Options that work on a machine that is a container itself.
        machine = [
            "--runtime=runc",
            "--network=host",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
        ]
        podman = ["podman", *self._storage, "run", "--rm", f"--name={name}"]
        return [*podman, *rights, *machine, *options, IMAGE, *arguments]

    def stop(self, name: str) -> None:
        """Send a container SIGTERM and wait until it has stopped."""
        done = _run(["podman", *self._storage, "stop", "--time=30", name])
        assert done.returncode == 0, done.stderr

    def remove(self) -> None:
        """Remove all images; the folder itself belongs to the caller.

        `podman system reset` would remove the machine's own networks, too.
        """
        _run(["podman", *self._storage, "rmi", "--all", "--force"])
        _run(["umount", str(self._folder / "storage" / "overlay")])

    def inspect(self, template: str) -> str:
        """Return the output of a Go template on the bridge's image."""
        done = _run(["podman", *self._storage, "inspect", "--type", "image", "--format", template, IMAGE])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def _fetch_wheels(folder: Path) -> None:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--require-hashes", "--only-binary", ":all:", "--dest", str(folder)]
    for name in ("requirements.txt", "requirements-build.txt"):
        done = _run([*command, "--requirement", str(ROOT / name)])
        if done.returncode:
            raise RuntimeError(done.stderr)


def _debian(packages: Iterable[str]) -> Iterator[str]:
    """Return the files of these packages, of the essential ones, and of all their dependencies."""
    fields = "${Package}\t${db:Status-Abbrev}\t${Essential}\t${Priority}\t${Pre-Depends}, ${Depends}\n"
    depends: dict[str, list[str]] = {}
    wanted = set(packages)
    for line in _run(["dpkg-query", "-Wf", fields]).stdout.splitlines():
        name, status, essential, priority, needed = line.split("\t")
        if not status.startswith("ii"):
            continue
        depends[name] = [re.split(r"[ :(|]", one.strip())[0] for one in needed.split(",") if one.strip()]
        if essential == "yes" or priority == "required":
            wanted.add(name)
    left = list(wanted)
    while left:
        new = [one for one in depends.get(left.pop(), []) if one in depends and one not in wanted]
        wanted.update(new)
        left += new
    for name in sorted(wanted & depends.keys()):
        yield from _run(["dpkg-query", "-L", name]).stdout.splitlines()


def _add_pip(tar: tarfile.TarFile) -> None:
    """Add the pip of .venv, because Debian's can't be uninstalled by itself."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in Path(sysconfig.get_path("purelib")).glob("pip*"):
        tar.add(path, f"usr/local/lib/python{version}/dist-packages/{path.name}")


def _merged(name: str) -> str:
    """Return the path of a file if /bin and the like are links into /usr."""
    return re.sub(r"^/(bin|sbin|lib|lib64)/", "/usr/\\1/", name).lstrip("/") or "."


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    tar.addfile(link)


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out tests, and the files of other packages."""
    name = member.name
    if re.search(r"/(__pycache__|test|idlelib|tkinter)$|\.a$|/local/(bin/(?!python)|share/)", name):
        return None
    if "/site-packages/" in name and not re.search(r"/site-packages/(pip|_distutils)", name):
        return None
    member.uid = member.gid = 0
    return member
