"""A Deployment under load: a kubelet sees it, the API server tells it, an autoscaler scales it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, _cluster, eventually, shell
from tests.cluster.node.environment import RuntimeEnvironment
from tests.cluster.node.test_node_server import BURN, served

from navarch.api.types.apps_v1 import Deployment
from navarch.api.types.autoscaling_v2 import HorizontalPodAutoscaler
from navarch.controllers.manager import ManagerOptions, run_controllers

pytestmark = pytest.mark.cluster

CONTROLLERS = ("deployment", "replicaset", "horizontalpodautoscaling", "serviceaccount")
WEB = {"app": "web"}


def workload() -> dict[str, Any]:
    """One container that does nothing but burn what it may, and one that sleeps."""
    resources = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
    containers = [
        shell("burner", BURN, resources=resources),
        shell("sleeper", "sleep 1000", resources={"requests": {"cpu": "10m"}}),
    ]
    spec = {
        "containers": containers,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "nodeName": "node-1",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": WEB},
            "template": {"metadata": {"labels": WEB}, "spec": spec},
        },
    }


def autoscaler() -> dict[str, Any]:
    source = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 2,
            "metrics": [{"type": "Resource", "resource": source}],
        },
    }


async def kubectl(cluster: Cluster, *arguments: str) -> list[list[str]]:
    """The words of each line of what kubectl prints."""
    command = ("kubectl", "--server", cluster.client.config.server, *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return [line.split() for line in out.decode().splitlines()]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="run: navarch setup")
async def test_load_makes_more_pods(
    runtime_environment: RuntimeEnvironment, tmp_path: Path
) -> None:
    async with (
        _cluster(runtime_environment, tmp_path) as cluster,
        served(cluster, tmp_path, anonymous_auth=True),
    ):
        options = ManagerOptions(
            kubeconfig="",
            controllers=CONTROLLERS,
            horizontal_pod_autoscaler_sync_period="500ms",
            horizontal_pod_autoscaler_cpu_initialization_period="0s",
        )
        task = asyncio.create_task(run_controllers(cluster.client, options))
        try:
            await _story(cluster)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _story(cluster: Cluster) -> None:
    client = cluster.client

    async def is_registered() -> bool:
        return bool((await client.dynamic("", "v1", "nodes", namespaced=False).list()).items)

    await eventually(is_registered)
    await client.dynamic("apps", "v1", "deployments").create(workload())
    scalers = client.dynamic("autoscaling", "v2", "horizontalpodautoscalers")
    await scalers.create(autoscaler())

    async def is_scaled() -> bool:
        found = await client.resource(Deployment).get("web", "default")
        return found.status.readyReplicas == 2

    await eventually(is_scaled)
    status = (await client.resource(HorizontalPodAutoscaler).get("web", "default")).status
    assert status.desiredReplicas == 2
    assert status.lastScaleTime

    async def all_are_told() -> bool:
        # The new pod's two samples take a moment; the sleepers have used nothing yet.
        return len(await kubectl(cluster, "top", "pod", "--containers")) == 5

    await eventually(all_are_told)
    head, *rows = await kubectl(cluster, "top", "pod", "--containers", "--sort-by=cpu")
    assert head == ["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"]
    used = [(name, int(cpu.removesuffix("m"))) for _, name, cpu, _ in rows]
    burning = [cpu for name, cpu in used if name == "burner"]
    assert max(burning) > 20
    assert all(cpu < 20 for name, cpu in used if name == "sleeper")
    _, [name, cpu, *_] = await kubectl(cluster, "top", "node")
    assert (name, int(cpu.removesuffix("m")) >= max(burning) / 2) == ("node-1", True)
