"""Resources of running containers change, and the containers do not notice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, pod, shell
from tests.cluster.node.test_pod_life import is_ready
from tests.cluster.node.test_pod_surroundings import is_unified

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Pod
from navarch.client.resource import PatchType

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
RESIZE = "Pod InPlace Resize Container"
GUARANTEED = f"{RESIZE} guaranteed pods with multiple containers 3 containers -"
BURSTABLE = f"{RESIZE} burstable pods - extended"
SINCE = "[MinimumKubeletVersion:1.34]"


@dataclass(frozen=True)
class Amounts:
    """Requests and limits of a container: of CPU in thousandths, of memory in Mi; 0 is none."""

    cpu: int = 0
    cpu_limit: int = 0
    memory: int = 0
    memory_limit: int = 0

    def resources(self) -> Object:
        requests = {
            "cpu": self.cpu and f"{self.cpu}m",
            "memory": self.memory and f"{self.memory}Mi",
        }
        limits = {
            "cpu": self.cpu_limit and f"{self.cpu_limit}m",
            "memory": self.memory_limit and f"{self.memory_limit}Mi",
        }
        both = {"requests": requests, "limits": limits}
        given = {name: {key: v for key, v in one.items() if v} for name, one in both.items()}
        return {name: one for name, one in given.items() if one}

    def files(self) -> dict[str, int]:
        """What the kernel is told: files of the container's group, without units."""
        quota = max(1000, self.cpu_limit * 100) if self.cpu_limit else -1
        memory = self.memory_limit << 20 if self.memory_limit else -1
        if is_unified():
            return {"cpu.max": quota, "memory.max": memory}
        shares = max(2, self.cpu * 1024 // 1000)
        return {"cpu.shares": shares, "cpu.cfs_quota_us": quota, "memory.limit_in_bytes": memory}


def whole(cpu: int, memory: int) -> Amounts:
    """Requests that are limits as well."""
    return Amounts(cpu, cpu, memory, memory)


START = [whole(100, 35), whole(110, 37), whole(120, 39)]
CASES: dict[str, tuple[list[Amounts], list[Amounts]]] = {
    "up": (START, [whole(125, 40), whole(135, 42), whole(95, 34)]),
    "down": (START, [whole(125, 40), whole(85, 32), whole(95, 34)]),
    "both": (START, [whole(125, 35), whole(85, 42), whole(145, 44)]),
    "adding": (
        [Amounts(100), Amounts(memory=35), Amounts(100, memory=35), Amounts(100),
         Amounts(memory=35)],
        [Amounts(125, 175), Amounts(memory=30, memory_limit=50), Amounts(100, memory=30),
         Amounts(75, memory=35), Amounts(100, memory=40)],
    ),
    "equal": ([Amounts(2, 10)], [Amounts(1, 5)]),
}  # fmt: skip


def document(name: str, amounts: list[Amounts]) -> Object:
    containers = []
    for number, each in enumerate(amounts, 1):
        base = {**shell(f"c{number}", ""), "command": ["sleep", "1000"]}
        containers.append({**base, "resources": each.resources()})
    return pod(name, *containers)


def is_settled(each: Pod) -> bool:
    conditions = {one.type for one in each.status.conditions}
    return (
        is_ready(each)
        and each.status.observedGeneration == each.metadata.generation
        and not conditions & {"PodResizePending", "PodResizeInProgress"}
    )


async def check(cluster: Cluster, name: str, amounts: list[Amounts]) -> Pod:
    """All of the pod tells of these amounts, and so does the kernel."""
    found = await cluster.wait(name, is_settled)
    quality = "guaranteed" if found.status.qosClass == "Guaranteed" else "burstable"
    middle = "" if quality == "guaranteed" else f"/{quality}"
    group = f"{cluster.options.cgroup_root}/kubepods{middle}/pod{found.metadata.uid}"
    for spec, status, each in zip(
        found.spec.containers, found.status.containerStatuses, amounts, strict=True
    ):
        assert status.resources is not None and status.restartCount == 0
        wanted = comparable(each.resources())
        told = {"requests": spec.resources.requests, "limits": spec.resources.limits}
        real = {"requests": status.resources.requests, "limits": status.resources.limits}
        assert comparable(told) == comparable(real) == wanted
        allocated = comparable({"requests": status.allocatedResources, "limits": {}})
        assert allocated["requests"] == wanted["requests"]
        container = status.containerID.rpartition("/")[2]
        assert read(f"{group}/{container}", each.files()) == each.files()
    if all(each.cpu_limit and each.memory_limit for each in amounts):
        names = ("cpu", "cpu_limit", "memory", "memory_limit")
        total = Amounts(*(sum(getattr(each, name) for each in amounts) for name in names)).files()
        assert read(group, total) == total
    return found


def comparable(resources: Object) -> dict[str, dict[str, Any]]:
    return {
        kind: {key: parse_quantity(value) for key, value in resources.get(kind, {}).items()}
        for kind in ("requests", "limits")
    }


def read(group: str, files: dict[str, int]) -> dict[str, int]:
    """The same files as the kernel has them; no limit reads as -1."""
    found = {}
    for name in files:
        root = "/sys/fs/cgroup" + ("" if is_unified() else f"/{name.partition('.')[0]}")
        text = Path(f"{root}{group}/{name}").read_text().split()[0]
        value = -1 if text == "max" else int(text)
        found[name] = -1 if value > 1 << 60 else value
    return found


@pytest.mark.conformance(
    f"{GUARANTEED} increase cpu & mem on c1, c2, decrease cpu & mem on c3 - net increase {SINCE}",
    f"{GUARANTEED} increase cpu & mem on c1, decrease cpu & mem on c2, c3 - net decrease {SINCE}",
    f"{GUARANTEED} increase: CPU (c1,c3), memory (c2, c3) ; decrease: CPU (c2) {SINCE}",
    f"{BURSTABLE} 6 containers - various operations performed (including adding limits and "
    f"requests) {SINCE}",
    f"{BURSTABLE} resize with equivalents {SINCE}",
)
async def test_there_and_back_again(cluster: Cluster) -> None:
    pods = cluster.client.dynamic("", "v1", "pods")

    async def resize(name: str, to: list[Amounts]) -> None:
        containers = [
            {"name": f"c{number}", "resources": each.resources()}
            for number, each in enumerate(to, 1)
        ]
        await pods.patch(
            name, "default", {"spec": {"containers": containers}},
            subresource="resize", patch_type=PatchType.STRATEGIC,
        )  # fmt: skip

    async def story(name: str, before: list[Amounts], after: list[Amounts]) -> None:
        await cluster.create(document(name, before))
        first = await check(cluster, name, before)
        await resize(name, after)
        second = await check(cluster, name, after)
        assert second.metadata.generation == first.metadata.generation + 1
        if name != "adding":  # what was added cannot be taken away
            await resize(name, before)
            second = await check(cluster, name, before)
        identities = [
            [one.containerID for one in each.status.containerStatuses] for each in (first, second)
        ]
        assert identities[0] == identities[1]

    await asyncio.gather(*(story(name, *amounts) for name, amounts in CASES.items()))


@pytest.mark.conformance(f"{RESIZE} resize pod via the replace endpoint {SINCE}")
async def test_a_pod_is_replaced_by_a_resized_one(cluster: Cluster) -> None:
    before, after = [Amounts(20, memory=35)], [Amounts(25, memory=40)]
    await cluster.create(document("replaced", before))
    assert (await check(cluster, "replaced", before)).metadata.generation == 1
    pods = cluster.client.dynamic("", "v1", "pods")
    current = await pods.get("replaced", "default")
    current["spec"]["containers"][0]["resources"] = after[0].resources()
    await pods.update(current, subresource="resize")
    assert (await check(cluster, "replaced", after)).metadata.generation == 2
    whole_pod = await cluster.client.request("GET", "/api/v1/namespaces/default/pods/replaced")
    assert await pods.get_subresource("replaced", "default", "resize") == whole_pod
