"""One cluster for the clients' tests, with two simulated nodes; a namespace for each test."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from navarch.testing import Cluster

_NAMES = count(1)

WIDGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer}, color: {type: string}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=2, manifests=[WIDGETS]) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environ().items():
            patch.setenv(name, value)
        yield cluster
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def what_clients_leave() -> Iterator[None]:
    """Sockets that they left open are found here, where that is no error; and what the cluster's
    end leaves of them, there."""
    yield
    gc.collect()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    name = f"clients-{next(_NAMES)}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.wait_for("serviceaccount/default", namespace=name)
    yield name
    cluster.request("DELETE", f"/api/v1/namespaces/{name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clients leave sockets to the garbage collector: theirs to mend."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(
                pytest.mark.filterwarnings(
                    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
                )
            )
