"""What the API server and its admission say to a release that is installed."""

import uuid
from typing import Any

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
        place.kubectl("create", "--dry-run=server", "--filename=-", stdin=test)
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


_FIRST_USER, _USERS = 1_000_650_000, 10_000
"""The range that OpenShift would assign to the namespace."""


def openshift(namespace: str) -> list[dict[str, Any]]:
    """Return a policy like OpenShift's `restricted-v2`: users are of the namespace's range, or left out.

    OpenShift itself would then fill them in, which a policy cannot.
    """

    def in_range(owner: str, field: str) -> str:
        value = f"{owner}.?securityContext.?{field}.orValue({_FIRST_USER})"
        return f"{value} >= {_FIRST_USER} && {value} < {_FIRST_USER + _USERS}"

    expressions = [
        in_range("object.spec", "runAsUser"),
        in_range("object.spec", "fsGroup"),
        f"object.spec.containers.all(c, {in_range('c', 'runAsUser')})",
    ]
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": namespace}}
    return [
        {
            **kind,
            "kind": "ValidatingAdmissionPolicy",
            "spec": {
                "matchConstraints": {"resourceRules": [pods]},
                "validations": [{"expression": one} for one in expressions],
            },
        },
        {
            **kind,
            "kind": "ValidatingAdmissionPolicyBinding",
            "spec": {"policyName": namespace, "validationActions": ["Deny"], "matchResources": here},
        },
    ]


def test_a_cluster_that_chooses_users_accepts_pods_that_leave_them_out_or_keep_to_its_range(
    namespace: Namespace,
) -> None:
    """With the values that docs/kubernetes.md shows; the chart's own users are refused there."""
    create = ("create", "--dry-run=server", "--filename=-")
    # It is tried before there is a release with a service account.
    check = (
        "template",
        "feed",
        CHART,
        "--show-only=templates/tests/check.yaml",
        "--set=serviceAccount.create=false",
    )
    test = namespace.helm(*check, values=VALUES["minimal"])
    namespace.server.create(*openshift(namespace.name))
    eventually(
        lambda: (
            "denied request"
            in namespace.server.run("kubectl", "--namespace", namespace.name, *create, stdin=test).stderr
        ),
        30,
        "the policy is in force",
        every=0.5,
    )
    namespace.install()
    eventually(lambda: "denied request" in reasons(namespace), 30, "pods are refused", every=0.5)
    assert namespace.names("pod") == []
    (shown,) = (
        text for name, text in VALUES.items() if "kubernetes.md" in name and "runAsUser: null" in text
    )
    of_range = (
        f"podSecurityContext: {{runAsUser: {_FIRST_USER}, runAsGroup: 0, fsGroup: {_FIRST_USER + 1}}}\n"
    )
    for values in (shown, VALUES["minimal"] + of_range):
        namespace.upgrade(values=values)
        namespace.settled()
        assert "pod" in namespace.kubectl(*create, stdin=namespace.helm(*check, values=values))
