"""kr8s, blocking and asynchronous: what its documentation shows."""

from __future__ import annotations

import asyncio
from typing import Any

import kr8s
import kr8s.asyncio
import pytest
from kr8s.asyncio import objects as aio
from kr8s.objects import ConfigMap, Deployment, Pod, new_class

from navarch.testing import Cluster

pytestmark = pytest.mark.filterwarnings("ignore:Kubernetes version")


def pod(name: str, namespace: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "registry.example/web"}]},
    }


def deployment(namespace: str) -> dict[str, Any]:
    labels = {"app": "web"}
    template = pod("web", namespace, **labels)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
        },
    }


@pytest.fixture
def api(cluster: Cluster) -> Any:
    return kr8s.api(kubeconfig=str(cluster.kubeconfig))


def test_the_life_of_a_pod(api: Any, namespace: str) -> None:
    made = Pod(pod("p", namespace, app="a"), api=api)
    made.create()
    made.wait("condition=Ready", timeout=60)
    assert made.ready() and made.exists()
    made.label(tier="front")
    made.annotate({"note": "1"})
    found = Pod.get("p", namespace=namespace, api=api)
    assert found.labels == {"app": "a", "tier": "front"}
    assert found.annotations["note"] == "1"
    found.remove_label("tier")
    assert "tier" not in found.labels
    found.patch([{"op": "add", "path": "/metadata/labels/x", "value": "y"}], type="json")
    assert found.labels.x == "y"
    (listed,) = api.get("pods", namespace=namespace, label_selector={"x": "y"})
    assert listed.name == "p"
    made.delete(grace_period=0)
    made.wait("delete", timeout=60)
    assert not made.exists()
    with pytest.raises(kr8s.NotFoundError):
        made.refresh()


def test_a_deployment_is_scaled(api: Any, namespace: str) -> None:
    web = Deployment(deployment(namespace), api=api)
    web.create()
    web.scale(3)
    web.wait("jsonpath='{.spec.replicas}'=3", timeout=60)
    web.wait("condition=Available", timeout=60)
    assert {each.labels.app for each in web.pods()} == {"web"}
    node = web.pods()[0].spec.nodeName
    assert node.startswith("node-")
    web.delete(propagation_policy="Foreground")
    web.wait("delete", timeout=60)
    assert not list(api.get("pods", namespace=namespace))


def test_owners_and_custom_resources(api: Any, namespace: str) -> None:
    widget_class = new_class("Widget", "example.com/v1", namespaced=True, asyncio=False)
    widget = widget_class({"metadata": {"name": "w", "namespace": namespace}, "spec": {}}, api=api)
    widget.create()
    child = ConfigMap({"metadata": {"name": "child", "namespace": namespace}}, api=api)
    child.create()
    widget.adopt(child)
    assert child.metadata.ownerReferences[0].kind == "Widget"
    widget.patch({"status": {"size": 2}}, subresource="status")
    widget.refresh()
    assert widget.status.size == 2
    widget.delete()
    child.wait("delete", timeout=60)
    # Kinds that kr8s has no class for are looked up in discovery.
    assert list(api.get("widgets.example.com", namespace=namespace)) == []
    assert list(api.get("wd", namespace=namespace)) == []


def test_what_the_server_is(api: Any) -> None:
    assert api.version()["minor"] == "36"
    assert api.whoami() == "kubernetes-admin"
    resources = {(each["name"], each["version"]) for each in api.api_resources()}
    assert {("pods", "v1"), ("deployments", "apps/v1"), ("widgets", "example.com/v1")} <= resources
    assert "apps/v1" in set(api.api_versions())
    assert api.lookup_kind("deploy")[:2] == ("deployment.apps/v1", "deployments")


async def test_watches(cluster: Cluster, namespace: str) -> None:
    api = await kr8s.asyncio.api(kubeconfig=str(cluster.kubeconfig))
    seen: list[tuple[str, str]] = []
    follows = asyncio.Event()

    async def follow() -> None:
        async for event, obj in api.watch("pods", namespace=namespace):
            seen.append((event, obj.name))
            follows.set()
            if (event, obj.name) == ("DELETED", "b"):
                return

    async with asyncio.timeout(60):
        following = asyncio.create_task(follow())
        for name in ("a", "b"):
            made = await aio.Pod(pod(name, namespace), api=api)
            await made.create()
            await made.wait("condition=Ready", timeout=60)
        await follows.wait()
        await made.delete(grace_period=0)
        await following
    assert ("ADDED", "a") in seen and ("ADDED", "b") in seen
    names = [each.name async for each in api.get("pods", namespace=namespace)]
    assert names == ["a"]


async def test_nodes(cluster: Cluster) -> None:
    api = await kr8s.asyncio.api(kubeconfig=str(cluster.kubeconfig))
    node = await aio.Node.get("node-1", api=api)
    await node.cordon()
    assert node.unschedulable
    await node.uncordon()
    await node.taint("dedicated", "ml", effect="NoSchedule")
    assert [taint.key for taint in node.taints if taint.key == "dedicated"]
    await node.taint("dedicated", "ml", effect="NoSchedule-")
