"""What the API server and its admission say to a release that is installed."""

import uuid

import pytest

from tests.chart.helm import CHART, VALUES, manifests
from tests.cluster.api_server import ApiServer
from tests.cluster.releases import Namespace
from tests.support.waiting import eventually


def other_namespaces(values: str) -> set[str]:
    return {one["metadata"]["namespace"] for one in manifests(values) if "namespace" in one["metadata"]} - {
        "market-data"
    }


def reasons(namespace: Namespace) -> str:
    """Return why the controllers could not create pods."""
    events = namespace.get("events")["items"]
    return "\n".join(one["message"] for one in events if one["reason"] == "FailedCreate")


@pytest.mark.parametrize("values", VALUES)
def test_a_release_is_accepted_and_so_are_its_pods(values: str, server: ApiServer) -> None:
    """Also by Pod Security `restricted`: a pod that it refuses is missing from the StatefulSet."""
    text = VALUES[values]
    for name in other_namespaces(text):
        Namespace.created(server, name)
    # Of this name, because some examples write it.
    namespace = Namespace.created(server, f"t{uuid.uuid4().hex[:8]}")
    namespace.install(values=text)
    (pods,) = (one for one in manifests(text) if one["kind"] == "StatefulSet")
    place = Namespace(server, pods["metadata"].get("namespace", namespace.name))
    try:
        place.settled(pods["metadata"]["name"])
    except AssertionError as error:
        pytest.fail(f"{error}: {reasons(place)}")
    test = namespace.helm("get", "hooks", "feed")
    if test.strip():
        namespace.kubectl("create", "--dry-run=server", "--filename=-", stdin=test)
    namespace.helm("uninstall", "feed")


def test_a_pod_with_a_privilege_is_refused(namespace: Namespace) -> None:
    """Otherwise the test above would show nothing."""
    done = namespace.try_helm(
        "install",
        "feed",
        CHART,
        "--set=securityContext.allowPrivilegeEscalation=true",
        values=VALUES["minimal"],
    )
    assert "would violate PodSecurity" in done.stderr
    eventually(lambda: "violates PodSecurity" in reasons(namespace), 20, "pods are refused", every=0.5)
    assert namespace.names("pod") == []
