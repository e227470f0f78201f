"""`navarch.testing.Cluster`: what it promises to tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.pace import slowness

from navarch.api.errors import ApiError
from navarch.testing import Cluster, KubectlError

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: registry.example/web:1}
"""

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
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
---
apiVersion: example.com/v1
kind: Widget
metadata: {name: first}
spec: {size: 3}
"""


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}


def role(verbs: list[str], resource: str, user: dict[str, str]) -> list[dict[str, Any]]:
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": {"name": "test", "namespace": "default"},
            "rules": [{"apiGroups": [""], "resources": [resource], "verbs": verbs}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "test", "namespace": "default"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "test"},
            "subjects": [user],
        },
    ]


@pytest.mark.navarch(nodes=2)
def test_a_deployment_on_simulated_nodes_becomes_available(navarch_cluster: Cluster) -> None:
    navarch_cluster.apply(DEPLOYMENT)
    found = navarch_cluster.wait_for("deployment/web", condition="Available")
    assert found["status"]["readyReplicas"] == 3
    assert "3/3" in navarch_cluster.kubectl("get", "deployments.apps")
    pods = navarch_cluster.find("pods", namespace="default", label_selector="app=web")
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-0", "node-1"}
    reasons = [event["reason"] for event in navarch_cluster.events("deployment/web")]
    assert "ScalingReplicaSet" in reasons
    with pytest.raises(KubectlError, match="is simulated: it has no kubelet, containers or logs"):
        navarch_cluster.kubectl("logs", "deployment/web")


@pytest.mark.navarch(nodes=1)
def test_what_a_deleted_owner_had_is_collected(navarch_cluster: Cluster) -> None:
    navarch_cluster.apply(DEPLOYMENT)
    navarch_cluster.wait_for("deploy/web", condition="Available")
    navarch_cluster.delete("deploy/web")
    for dependant in [*navarch_cluster.find("rs"), *navarch_cluster.find("po")]:
        navarch_cluster.wait_gone(dependant)
    assert not navarch_cluster.find("pods")


@pytest.mark.navarch(nodes=1)
def test_the_deletion_of_a_namespace_finishes(navarch_cluster: Cluster) -> None:
    cluster = navarch_cluster
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    cluster.wait_for("sa/default", namespace="shop")
    cluster.apply(WIDGETS, DEPLOYMENT, namespace="shop")
    cluster.wait_for("deployment/web", condition="Available", namespace="shop")
    cluster.delete("namespace/shop")
    assert cluster.get("widget/first", namespace="shop") is None
    assert not cluster.find("pods", namespace="shop")


def test_clusters_are_isolated_and_quick(navarch_session_cluster: Cluster) -> None:
    """The session's cluster has paid for the imports. Other work on the machine does not count."""
    before = time.process_time()
    with Cluster() as cluster:
        seconds = time.process_time() - before
        cluster.apply(config_map("mine"))
        assert navarch_session_cluster.get("cm/mine") is None
        assert cluster.url != navarch_session_cluster.url
    assert seconds < 1.6 * slowness(), (
        "the processor's time, of this thread and the control plane's"
    )


def test_manifests_may_name_kinds_that_they_define(tmp_path: Path) -> None:
    (tmp_path / "widgets.yaml").write_text(WIDGETS)
    with Cluster(manifests=[tmp_path]) as cluster:
        for name in ("widget/first", "Widgets.example.com/first", "wd/first"):
            found = cluster.get(name)
            assert found is not None and found["spec"] == {"size": 3}
        assert cluster.kubectl("get", "wd", "-o", "name") == "widget.example.com/first\n"


def test_users_may_what_rbac_grants_them(navarch_cluster: Cluster) -> None:
    cluster = navarch_cluster
    alice = cluster.user("alice", groups=["developers"])
    assert "alice" in cluster.kubectl("auth", "whoami", kubeconfig=alice)
    with pytest.raises(KubectlError, match=r'User "alice" cannot list resource "pods"'):
        cluster.kubectl("get", "pods", kubeconfig=alice)
    group = {"kind": "Group", "name": "developers", "apiGroup": "rbac.authorization.k8s.io"}
    cluster.apply(role(["list"], "pods", group))
    assert cluster.kubectl("get", "pods", "-o", "name", kubeconfig=alice) == ""


def test_service_accounts_have_tokens(navarch_cluster: Cluster) -> None:
    cluster = navarch_cluster
    robot = cluster.service_account("robot")
    said = cluster.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo}", kubeconfig=robot)
    assert "system:serviceaccount:default:robot" in said
    cluster.apply(role(["get"], "secrets", {"kind": "ServiceAccount", "name": "robot"}))
    answer = cluster.kubectl("auth", "can-i", "get", "secrets", kubeconfig=robot)
    assert answer == "yes\n"


def test_nodes_come_and_fall_silent() -> None:
    with Cluster(controllers={"node_monitor_grace_seconds": 3.0}) as cluster:
        node = cluster.add_node(
            "gpu",
            labels={"accelerator": "yes"},
            taints=["dedicated=ml:NoSchedule"],
            capacity={"cpu": "4", "memory": "8Gi", "pods": "10", "example.com/gpu": "2"},
            heartbeat_seconds=0.2,
        )
        assert node["metadata"]["labels"]["accelerator"] == "yes"
        assert node["status"]["allocatable"]["example.com/gpu"] == "2"
        expected = [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}]
        assert node["spec"]["taints"] == expected
        second = cluster.add_node("plain", heartbeat_seconds=0.2)
        assert second["status"]["addresses"][0] != node["status"]["addresses"][0]
        for wrong in ({"labels": {"no label!": "x"}}, {"capacity": {"cpu": "much"}}):
            with pytest.raises(ApiError):
                cluster.add_node("wrong", **wrong)
        with pytest.raises(ApiError, match="already exists"):
            cluster.add_node("gpu")
        cluster.stop_node("gpu")
        cluster.wait_for("node/gpu", condition="Ready=Unknown")
        cluster.wait_for("node/plain", condition="Ready")


def test_a_wait_in_vain_says_what_there_is(navarch_cluster: Cluster) -> None:
    navarch_cluster.apply(DEPLOYMENT)
    wait = navarch_cluster.wait_for
    navarch_cluster.wait_for("deployment/web", until=lambda obj: obj.get("status"))
    with pytest.raises(TimeoutError, match=r"(?s)default/web.*status.*ScalingReplicaSet"):
        wait("deployment/web", condition="Available", timeout=1.0)
    with pytest.raises(TimeoutError, match="does not exist"):
        wait("configmap/none", timeout=0.1)
    with pytest.raises(LookupError, match="gadget"):
        wait("gadget/none")


async def test_a_test_with_an_event_loop(navarch_cluster: Cluster) -> None:
    aio = navarch_cluster.aio

    with pytest.raises(ApiError):
        await aio.apply(config_map("Bad Name"))
    waiting = asyncio.create_task(aio.wait_for("cm/late", until=lambda obj: obj.get("data")))
    await asyncio.sleep(0)
    await aio.apply({**config_map("late"), "data": {"a": "1"}})
    assert (await waiting)["data"] == {"a": "1"}


async def test_asynchronous_start() -> None:
    async with Cluster() as cluster:
        assert await cluster.aio.get("namespace/default")
        directory = cluster.kubeconfig.parent
    assert not directory.exists()
    with pytest.raises(RuntimeError, match="does not run"):
        cluster.get("namespace/default")
    with pytest.raises(RuntimeError, match="once"):
        cluster.start()


def test_admission_plugins_may_be_off() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "registry.example/c"}]},
    }
    off = ["ServiceAccount", "DefaultTolerationSeconds"]
    with Cluster(server={"disable_admission_plugins": off}) as cluster:
        (made,) = cluster.apply(pod)
        assert "serviceAccountName" not in made["spec"] and "tolerations" not in made["spec"]
    with pytest.raises(ValueError, match="unknown admission plug-ins: Nonsense"):
        Cluster(server={"disable_admission_plugins": ["Nonsense"]}).start()


def test_a_part_that_fails_is_told_of() -> None:
    with pytest.raises(ValueError, match="no controller is called 'nonsense'"):
        Cluster(controllers={"controllers": ["nonsense"]}).start()
    with pytest.raises(ValueError, match="ServerOptions has no option speed"):
        Cluster(server={"speed": 9}).start()


def test_a_pod_of_default_resources_can_be_resized(navarch_cluster: Cluster) -> None:
    """Its class counts what the namespace's limits gave it, or no resize could keep the class."""
    limit = {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}
    navarch_cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "limits"},
            "spec": {"limits": [limit]},
        }
    )
    navarch_cluster.wait_for("sa/default")
    navarch_cluster.kubectl("run", "web", "--image=registry.example/web")
    pod = navarch_cluster.get("pod/web")
    assert pod is not None
    assert pod["status"]["qosClass"] == "Burstable"
    more = '{"spec": {"containers": [{"name": "web", "resources": {"requests": {"cpu": "200m"}}}]}}'
    navarch_cluster.kubectl("patch", "pod", "web", "--subresource=resize", "-p", more)
    resized = navarch_cluster.get("pod/web")
    assert resized is not None
    assert resized["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "200m"}


@pytest.mark.navarch(nodes=2, controllers={"node_monitor_grace_seconds": 2.0})
def test_nodes_fail_and_come_back(navarch_cluster: Cluster) -> None:
    def is_ready(status: str) -> Callable[[dict[str, Any]], bool]:
        return lambda node: any(
            each["type"] == "Ready" and each["status"] == status
            for each in node["status"]["conditions"]
        )

    navarch_cluster.disturb_nodes("node-0")
    navarch_cluster.disturb_nodes("node-1", conditions="Ready=False")
    navarch_cluster.wait_for("node/node-1", until=is_ready("False"))
    navarch_cluster.wait_for("node/node-0", until=is_ready("Unknown"))
    navarch_cluster.restore_nodes("node-0", "node-1")
    for name in ("node-0", "node-1"):
        navarch_cluster.wait_for(f"node/{name}", until=is_ready("True"))
