"""What containers of a pod share with each other and with the node; ephemeral containers; names."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, pod, shell

from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster

FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"


def has_ended(each: Pod) -> bool:
    return each.status.phase in ("Succeeded", "Failed")


@pytest.mark.conformance(
    "Ephemeral Containers [NodeConformance] will start an ephemeral container in an existing pod",
    "Ephemeral Containers [NodeConformance] should update the ephemeral containers in an existing "
    "pod",
)
async def test_ephemeral_containers(cluster: Cluster) -> None:
    """They run once, see the processes of their target, and count for nothing."""
    await cluster.create(pod("studied", shell("main", f": the target; {FOREVER}")))
    await cluster.wait("studied", lambda each: each.status.phase == "Running")
    debuggers: list[dict[str, Any]] = []
    for name, target in (("beside", ""), ("inside", "main")):
        look = shell(name, "tr '\\0' ' ' < /proc/1/cmdline; exit 7")
        debuggers.append({**look, "targetContainerName": target})
        await cluster.client.dynamic("", "v1", "pods").patch(
            "studied", "default", {"spec": {"ephemeralContainers": debuggers}},
            subresource="ephemeralcontainers",
        )  # fmt: skip
    done = await cluster.wait(
        "studied",
        lambda each: [one.state.terminated is not None
                      for one in each.status.ephemeralContainerStatuses] == [True, True],
    )  # fmt: skip
    assert ": the target" in await cluster.logs(done, "inside")
    assert ": the target" not in await cluster.logs(done, "beside")
    assert done.metadata.generation == done.status.observedGeneration == 3
    assert done.status.phase == "Running" and done.status.containerStatuses[0].ready
    ends = [each.state.terminated for each in done.status.ephemeralContainerStatuses]
    assert [end.exitCode for end in ends if end is not None] == [7, 7]
    assert [each.restartCount for each in done.status.ephemeralContainerStatuses] == [0, 0]


async def test_namespaces_and_names(cluster: Cluster) -> None:
    def inode(name: str) -> str:
        return os.readlink(f"/proc/self/ns/{name}")

    show = "; ".join(f"readlink /proc/self/ns/{name}" for name in ("pid", "ipc", "net"))
    pods = {
        "own": pod("own", shell("one", show), shell("two", show), restartPolicy="Never"),
        "shared": pod("shared", shell("one", show), shell("two", show), restartPolicy="Never",
                      shareProcessNamespace=True),
        "nodes": pod("nodes", shell("one", show), shell("two", show), restartPolicy="Never",
                     hostPID=True, hostIPC=True, hostNetwork=True),
        "plain": pod("plain", shell("one", "hostname"), restartPolicy="Never", hostname="h",
                     subdomain="s"),
        "full": pod("full", shell("one", "hostname"), restartPolicy="Never", hostname="h",
                    subdomain="s", setHostnameAsFQDN=True),
        "other": pod("other", shell("one", "hostname"), restartPolicy="Never", hostname="h",
                     hostnameOverride="over.example"),
    }  # fmt: skip
    await asyncio.gather(*(cluster.create(each) for each in pods.values()))
    said: dict[str, list[list[str]]] = {}
    for name in pods:
        done = await cluster.wait(name, has_ended)
        containers = [each.name for each in done.spec.containers]
        said[name] = [(await cluster.logs(done, each)).split() for each in containers]
    (pid, *others), (other_pid, *more) = said["own"]
    assert pid != other_pid and others == more
    assert said["shared"][0] == said["shared"][1]
    of_the_node = [inode("pid"), inode("ipc"), inode("net")]
    assert said["nodes"] == [of_the_node, of_the_node]
    assert not set(said["own"][0]) & set(of_the_node)
    assert said["plain"] == [["h"]]
    assert said["full"] == [["h.s.default.svc.cluster.local"]]
    assert said["other"] == [["over.example"]]
