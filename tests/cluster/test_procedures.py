"""The commands of docs/kubernetes.md do on a real API server what the document says."""

import pytest

from tests.cluster.procedures import procedure
from tests.cluster.releases import FEED, MINIMAL, Namespace
from tests.support.waiting import eventually


def test_more_shards(namespace: Namespace) -> None:
    namespace.install("config.kafka.shards=4", "replicas=2")
    namespace.settled()
    (commands,) = procedure("More shards")
    values = MINIMAL + "replicas: 2\n"
    assert (
        "once their spools are empty"
        in namespace.refused("config.kafka.shards=8", "resources.limits.memory=640Mi").lower()
    )
    stop, *others = commands.splitlines()
    namespace.follow(stop)
    namespace.settled()
    printed = namespace.follow("\n".join(others), values=values)
    assert "kafka-topics.sh --bootstrap-server" in printed
    assert "shards = 8" in namespace.get(f"configmap/{FEED}")["data"]["bridge.toml"]
    # The pods that were stopped run again.
    assert namespace.settled()["spec"]["replicas"] == 2


def test_a_new_configuration(namespace: Namespace) -> None:
    namespace.install()
    (commands,) = procedure("Upgrade")
    namespace.follow(commands, values=MINIMAL + "replicas: 2\n")
    assert namespace.settled()["spec"]["replicas"] == 2


@pytest.fixture
def bound(namespace: Namespace) -> Namespace:
    """A namespace with a release whose pod has a volume that can be enlarged."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace.name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "20Gi"},
            "storageClassName": "fast",
            "hostPath": {"path": f"/nowhere/{namespace.name}"},
            "claimRef": {"namespace": namespace.name, "name": f"spool-{FEED}-0"},
        },
    }
    namespace.server.create(volume)
    namespace.install("spool.storageClassName=fast")
    namespace.settled()
    eventually(lambda: claim(namespace)["status"]["phase"] == "Bound", 20, "the volume is bound", every=0.5)
    return namespace


def claim(namespace: Namespace) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = namespace.get(f"pvc/spool-{FEED}-0")
    return found


def test_larger_volumes_without_a_stop(bound: Namespace) -> None:
    enlarge, _ = procedure("Spool volumes")
    before, pod = claim(bound), bound.get(f"pod/{FEED}-0")
    values = MINIMAL + "spool: {storageClassName: fast}\n"
    assert "docs/kubernetes.md" in bound.refused("spool.size=12Gi", values=values)
    bound.follow(enlarge, values=values)
    after = bound.settled()
    assert after["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "12Gi"
    assert claim(bound)["metadata"]["uid"] == before["metadata"]["uid"]
    assert claim(bound)["spec"]["resources"] == {"requests": {"storage": "12Gi"}}
    assert bound.get(f"pod/{FEED}-0")["metadata"]["uid"] == pod["metadata"]["uid"]
    assert bound.get(f"pod/{FEED}-0")["metadata"]["ownerReferences"][0]["uid"] == after["metadata"]["uid"]


def test_other_volumes(namespace: Namespace) -> None:
    namespace.install()
    namespace.settled()
    before = claim(namespace)
    _, renew = procedure("Spool volumes")
    namespace.follow(renew)
    namespace.settled()
    assert claim(namespace)["spec"]["storageClassName"] == "fast"
    assert claim(namespace)["metadata"]["uid"] != before["metadata"]["uid"]
    # And the next upgrade is one as any other.
    namespace.upgrade("spool.storageClassName=fast", "config.kafka.partitions=24")


def test_secrets_that_are_made_before_the_release(namespace: Namespace) -> None:
    create, restart = procedure("Secrets")
    files = "printf x >api-key; printf y >secret; printf z >password\n"
    namespace.follow(files + create)
    namespace.install()
    old = namespace.settled()["status"]["updateRevision"]
    namespace.follow(restart)
    assert namespace.settled()["status"]["updateRevision"] != old
