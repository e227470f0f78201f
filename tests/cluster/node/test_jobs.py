"""Jobs whose pods are real containers."""

from __future__ import annotations

import asyncio

import pytest
from tests.cluster.node.conftest import Cluster, pod
from tests.cluster.node.test_restarts import SHARED, counting

from navarch.api.types.batch_v1 import Job
from navarch.api.types.core_v1 import Pod
from navarch.controllers.manager import ManagerOptions, run_controllers

pytestmark = pytest.mark.cluster


@pytest.mark.conformance(
    "Job should run a job to completion when tasks sometimes fail and are locally restarted"
)
async def test_containers_that_fail_once_are_restarted_in_place(cluster: Cluster) -> None:
    template = pod("", counting("main", "1 0"), restartPolicy="OnFailure", **SHARED)
    template["spec"]["nodeName"] = cluster.options.node_name
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once", "namespace": "default"},
        "spec": {
            "completions": 3,
            "parallelism": 2,
            "template": {"spec": template["spec"]},
        },
    }
    jobs = cluster.client.dynamic("batch", "v1", "jobs")
    work = asyncio.create_task(run_controllers(cluster.client, ManagerOptions("", ("job",))))
    try:
        await jobs.create(body)
        async with asyncio.timeout(60):
            async for event in cluster.client.resource(Job).watch("default"):
                status = event.object.status
                if any(c.type == "Complete" and c.status == "True" for c in status.conditions):
                    break
        found = (await cluster.client.resource(Pod).list("default")).items
        restarts = [each.status.containerStatuses[0].restartCount for each in found]
        assert (status.succeeded, status.failed, restarts) == (3, 0, [1, 1, 1])
        reasons = {c.type: c.reason for c in status.conditions}
        assert reasons["Complete"] == "CompletionsReached"
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        for each in (await jobs.list("default")).items:
            await jobs.delete(each["metadata"]["name"], "default", propagation="Background")
