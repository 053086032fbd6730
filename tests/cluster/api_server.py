"""A real Kubernetes API server with its storage and controllers, but without nodes: pods stay pending."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.chart.helm import ROOT
from tests.support.kafka_broker import free_ports
from tests.support.waiting import eventually

BUILT = ROOT / ".cache" / "cluster"
HELM = ROOT / ".cache" / "bin" / "helm"
CRDS = BUILT / "crds"

_START = 30.0  # seconds
_TOKEN = "token-of-the-administrator"

Done = subprocess.CompletedProcess[str]


class ApiServer:
    """A cluster that exists within its context, for commands that are run as its administrator."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cluster-")
        self.home = Path(self._folder.name)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, *command: object, stdin: str | None = None, folder: Path = ROOT) -> Done:
        """Run a command that knows this cluster; `helm` and `kubectl` are those of this project."""
        path = f"{self.home}/bin:{os.environ['PATH']}"
        known = {"PATH": path, "HOME": str(self.home), "KUBECONFIG": str(self.home / "kubeconfig")}
        return subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **known},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def kubectl(self, *arguments: object, stdin: str | None = None) -> str:
        """Return what kubectl prints; it has to succeed."""
        done = self.run("kubectl", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, *objects: dict[str, Any]) -> None:
        """Create objects that may exist already."""
        self.kubectl("apply", "--server-side", "--filename=-", stdin=yaml.safe_dump_all(objects))

    def install_crds(self) -> None:
        """Let the server know the kinds of the Prometheus operator."""
        self.kubectl("apply", "--server-side", "--filename", CRDS)
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "--filename", CRDS)

    def _start(self) -> None:
        for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"):
            if not (BUILT / name).is_file():
                raise RuntimeError(f"{name} is not in .cache/cluster: run 'make cluster'")
        store, peers, port = free_ports(3)
        self._write_files(port)
        self._launch(
            "etcd",
            "--data-dir=etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{store}",
            f"--advertise-client-urls=http://127.0.0.1:{store}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
        )
        self._launch(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{store}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--cert-dir=certificates",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=accounts.key",
            "--service-account-signing-key-file=accounts.key",
            "--endpoint-reconciler-type=none",
        )
        self._until_ready()
        self._launch(
            "kube-controller-manager",
            "--kubeconfig=kubeconfig",
            "--service-account-private-key-file=accounts.key",
            "--leader-elect=false",
            "--secure-port=0",
        )
        self._until(
            lambda: self.run("kubectl", "get", "serviceaccount/default").returncode == 0, "controllers run"
        )

    def _write_files(self, port: int) -> None:
        bin_ = self.home / "bin"
        bin_.mkdir()
        (bin_ / "kubectl").symlink_to(BUILT / "kubectl")
        (bin_ / "helm").symlink_to(HELM)
        (self.home / "tokens.csv").write_text(f"{_TOKEN},admin,admin,system:masters\n")
        key = ["openssl", "genrsa", "-out", "accounts.key", "2048"]
        subprocess.run(key, cwd=self.home, check=True, capture_output=True)
        cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        (self.home / "kubeconfig").write_text(yaml.safe_dump(settings))
        (self.home / "kubeconfig").chmod(0o600)  # helm warns of others

    def _launch(self, name: str, *options: str) -> None:
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([BUILT / name, *options], cwd=self.home, stdout=log, stderr=log)
        self._processes.append(process)

    def _until_ready(self) -> None:
        self._until(
            lambda: self.run("kubectl", "get", "--raw", "/readyz").returncode == 0, "the API server is ready"
        )

    def _until(self, condition: Any, what: str) -> None:
        try:
            eventually(condition, _START, what, every=0.5)
        except AssertionError as error:
            logs = {one.name: one.read_text()[-2000:] for one in self.home.glob("*.log")}
            raise RuntimeError(f"{error}\n{json.dumps(logs, indent=1)}") from None

    def _end(self) -> None:
        # The API server does not end without its storage, so that one ends last.
        for process in reversed(self._processes):
            process.kill()
            process.wait(30)
        self._folder.cleanup()
