"""One cluster for all tests, and a namespace for each, in which Pod Security `restricted` is enforced."""

import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.releases import Namespace


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    """An API server that knows what examples of values refer to, as kinds of the Prometheus operator."""
    with ApiServer() as server:
        server.install_crds()
        server.create(
            *(
                {
                    "apiVersion": "scheduling.k8s.io/v1",
                    "kind": "PriorityClass",
                    "metadata": {"name": name},
                    "value": 1,
                }
                for name in ("important", "123")
            ),
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "gvisor"},
                "handler": "runsc",
            },
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": "fast"},
                "provisioner": "kubernetes.io/no-provisioner",
                "allowVolumeExpansion": True,
            },
        )
        yield server


@pytest.fixture
def namespace(server: ApiServer) -> Namespace:
    """A namespace that no other test uses."""
    return Namespace.created(server, f"t{uuid.uuid4().hex[:8]}")
