"""What stays of a release that is uninstalled."""

from tests.chart.helm import VALUES
from tests.cluster.procedures import procedure
from tests.cluster.releases import FEED, KINDS, Namespace


def test_the_volumes_stay_and_the_pod_of_the_last_test(namespace: Namespace) -> None:
    """Until somebody deletes them as docs/kubernetes.md says."""
    namespace.install("autoscaling.enabled=false", "replicas=2", values=VALUES["all-switches"])
    namespace.settled()
    test = namespace.helm("get", "hooks", "feed")
    namespace.kubectl("create", "--filename=-", stdin=test)
    uninstall, clean = procedure("Uninstall")
    namespace.follow(uninstall)
    namespace.until_gone(f"pod/{FEED}-0")
    namespace.until_gone(f"pod/{FEED}-1")
    assert sorted(namespace.names(KINDS)) == [
        f"persistentvolumeclaim/spool-{FEED}-0",
        f"persistentvolumeclaim/spool-{FEED}-1",
        f"pod/{FEED}-check",
    ]
    namespace.follow(clean)
    assert namespace.names(KINDS) == []


def test_a_new_release_of_the_name_finds_the_old_volumes(namespace: Namespace) -> None:
    namespace.install()
    namespace.settled()
    (volume,) = namespace.get("pvc")["items"]
    namespace.helm("uninstall", "feed", "--wait")
    namespace.install()
    namespace.settled()
    (found,) = namespace.get("pvc")["items"]
    assert found["metadata"]["uid"] == volume["metadata"]["uid"]


def test_volumes_end_with_the_release_if_the_policy_says_so(namespace: Namespace) -> None:
    namespace.install("spool.persistentVolumeClaimRetentionPolicy.whenDeleted=Delete")
    namespace.settled()
    namespace.helm("uninstall", "feed")
    namespace.until_gone(f"pvc/spool-{FEED}-0")
