"""Releases of the chart in a namespace of a real cluster."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from tests.chart.helm import CHART, VALUES
from tests.cluster.api_server import ApiServer, Done
from tests.support.waiting import eventually

MINIMAL = VALUES["minimal"]
FEED = "feed-digifinex-bridge"
"""The name that the chart gives to the objects of the release `feed`."""

KINDS = (
    "statefulset,pod,configmap,secret,service,serviceaccount,poddisruptionbudget,horizontalpodautoscaler,"
    "networkpolicy,podmonitor,servicemonitor,prometheusrule,persistentvolumeclaim"
)
"""All kinds of objects that the chart or its StatefulSet makes."""

_OF_A_RELEASE = "app.kubernetes.io/instance"
_CONTROLLERS = 20.0  # seconds that they may take


@dataclass(frozen=True)
class Namespace:
    """A namespace in which Pod Security `restricted` is enforced."""

    server: ApiServer
    name: str

    @classmethod
    def created(cls, server: ApiServer, name: str) -> Self:
        """Create it, if it does not exist."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        return cls(server, name)

    def try_helm(self, *arguments: object, values: str | None = None) -> Done:
        """Run helm in this namespace."""
        given = ["--values=-"] if values else []
        return self.server.run("helm", "--namespace", self.name, *arguments, *given, stdin=values)

    def helm(self, *arguments: object, values: str | None = None) -> str:
        """Return what helm prints; it has to succeed, without warnings of the API server."""
        done = self.try_helm(*arguments, values=values)
        assert done.returncode == 0, done.stderr
        assert "warnings.go" not in done.stderr, done.stderr
        return done.stdout

    def install(self, *settings: str, values: str = MINIMAL, chart: Path = CHART) -> None:
        """Install the release `feed`."""
        self.helm("install", "feed", chart, *_set(settings), values=values)

    def upgrade(self, *settings: str, values: str = MINIMAL, chart: Path = CHART) -> None:
        """Upgrade it."""
        self.helm("upgrade", "feed", chart, *_set(settings), values=values)

    def refused(self, *settings: str, values: str = MINIMAL) -> str:
        """Return the error of an upgrade that must fail before it has changed anything."""
        before = self._objects(), self.helm("history", "feed", "--output=json")
        done = self.try_helm("upgrade", "feed", CHART, *_set(settings), values=values)
        assert done.returncode != 0, done.stdout
        assert (self._objects(), self.helm("history", "feed", "--output=json")) == before
        return done.stderr

    def kubectl(self, *arguments: object, stdin: str | None = None) -> str:
        """Return what kubectl prints in this namespace; it has to succeed."""
        return self.server.kubectl("--namespace", self.name, *arguments, stdin=stdin)

    def get(self, what: str) -> dict[str, Any]:
        """Return an object, like `pod/x`, or a list of all of a kind."""
        found: dict[str, Any] = json.loads(self.kubectl("get", what, "--output=json"))
        return found

    def names(self, kinds: str) -> list[str]:
        """Return the objects of these kinds that are of a release, like `pod/x`."""
        return self.kubectl("get", kinds, f"--selector={_OF_A_RELEASE}", "--output=name").split()

    def settled(self, name: str = FEED) -> dict[str, Any]:
        """Return a StatefulSet when its controller has seen it as it is, and has made its pods."""

        def seen() -> bool:
            now = self.get(f"statefulset/{name}")
            status = now["status"].get("observedGeneration"), now["status"]["replicas"]
            return status == (now["metadata"]["generation"], now["spec"]["replicas"])

        eventually(seen, _CONTROLLERS, f"{name} is settled", every=0.2)
        return self.get(f"statefulset/{name}")

    def follow(self, commands: str, values: str = MINIMAL) -> str:
        """Run commands of docs/kubernetes.md, and return what they print; `values` are in feed.yaml.

        Kafka's own tools are only shown their arguments.
        """
        script = 'kafka-topics.sh() { echo kafka-topics.sh "$@"; }\n' + commands.replace(
            "market-data", self.name
        )
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "feed.yaml").write_text(values)
            (folder / "helm").symlink_to(CHART.parent)
            done = self.server.run("bash", "-euc", script, folder=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until_gone(self, what: str) -> None:
        """Wait for an object to be deleted."""
        self.kubectl("wait", "--for=delete", "--timeout=120s", what)

    def _objects(self) -> dict[str, str]:
        """Return what tells whether an object was changed by others than its controller."""
        found = self.kubectl("get", KINDS, f"--selector={_OF_A_RELEASE}", "--output=json")
        return {
            f"{one['kind']}/{one['metadata']['name']}": one["metadata"].get(
                "generation", one["metadata"]["resourceVersion"]
            )
            for one in json.loads(found)["items"]
        }


def _set(settings: tuple[str, ...]) -> list[str]:
    return [part for one in settings for part in ("--set", one)]
