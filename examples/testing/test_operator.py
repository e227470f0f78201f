"""Tests of the operator, against a real API server with all controllers, in this process.

pip install navarch kopf kubernetes pytest && pytest examples/testing
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kopf.testing import KopfRunner

from navarch.testing import Cluster, KubectlError

HERE = Path(__file__).parent


@pytest.fixture
def operator(navarch_cluster: Cluster) -> Iterator[KopfRunner]:
    """The operator at work. KUBECONFIG leads it to the test's cluster."""
    command = ["run", "--all-namespaces", "--standalone", str(HERE / "operator.py")]
    with KopfRunner(command, timeout=30) as runner:
        yield runner
    assert runner.exit_code == 0
    assert runner.exception is None


def website(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Website",
        "metadata": {"name": "shop"},
        "spec": {"image": "registry.example/shop:1", **spec},
    }


def status(site: dict[str, Any]) -> dict[str, Any]:
    return dict(site.get("status", {}))


@pytest.mark.navarch(nodes=1, manifests=["crd.yaml"])
def test_a_website_is_served(navarch_cluster: Cluster, operator: KopfRunner) -> None:
    cluster = navarch_cluster
    cluster.apply(website(replicas=2))
    cluster.wait_for("website/shop", until=lambda site: status(site).get("replicas") == 2)
    made = cluster.wait_for("website/shop", until=lambda site: "create" in status(site))
    service = cluster.wait_for("service/shop")
    assert status(made)["create"]["address"] == service["spec"]["clusterIP"]
    assert "2" in cluster.kubectl("get", "websites", "--no-headers").split()

    cluster.apply(website(replicas=1, image="registry.example/shop:2"))
    cluster.wait_for("website/shop", until=lambda site: status(site)["replicas"] == 1)
    found = cluster.wait_for("deployment/shop", condition="Available")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/shop:2"

    cluster.delete("website/shop")
    cluster.wait_gone("deployment/shop")
    cluster.wait_gone("service/shop")


@pytest.mark.navarch(manifests=["crd.yaml"])
def test_a_website_needs_an_image(navarch_cluster: Cluster) -> None:
    """What the CRD refuses needs no operator."""
    with pytest.raises(KubectlError, match=r"spec\.image"):
        navarch_cluster.kubectl("apply", "-f", str(HERE / "bad.yaml"))
