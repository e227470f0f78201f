"""A small language for scheduling tests: nodes, pods, and what becomes of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from navarch.api.objects import from_object
from navarch.api.selectors import EVERYTHING, LabelSelector
from navarch.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSIStorageCapacity,
    StorageClass,
    VolumeAttachment,
)
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.cycle import Failure, schedule
from navarch.scheduler.dra.devices import Devices
from navarch.scheduler.framework import Cycle, Plugin
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"


@dataclass
class FakeObjects:
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {"default": {}})
    selector: LabelSelector = EVERYTHING
    claims: dict[str, PersistentVolumeClaim] = field(default_factory=dict)
    volumes: dict[str, PersistentVolume] = field(default_factory=dict)
    classes: dict[str, StorageClass] = field(default_factory=dict)
    drivers: dict[str, CSIDriver] = field(default_factory=dict)
    rooms: list[CSIStorageCapacity] = field(default_factory=list)
    limits: dict[str, dict[str, int]] = field(default_factory=dict)
    attached: list[VolumeAttachment] = field(default_factory=list)
    pdbs: list[PodDisruptionBudget] = field(default_factory=list)
    devices: Devices = field(default_factory=Devices)

    def default_selector(self, pod: PodInfo) -> LabelSelector:
        return self.selector

    def budgets(self, namespace: str) -> list[PodDisruptionBudget]:
        return [each for each in self.pdbs if each.metadata.namespace == namespace]

    def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        return self.claims.get(f"{namespace}/{name}")

    def volume(self, name: str) -> PersistentVolume | None:
        return self.volumes.get(name)

    def storage_class(self, name: str) -> StorageClass | None:
        return self.classes.get(name)

    def volumes_of_class(self, name: str) -> list[PersistentVolume]:
        return [each for each in self.volumes.values() if each.spec.storageClassName == name]

    def csi_driver(self, name: str) -> CSIDriver | None:
        return self.drivers.get(name)

    def capacities(self, storage_class: str) -> list[CSIStorageCapacity]:
        return [each for each in self.rooms if each.storageClassName == storage_class]

    def volume_limits(self, driver: str) -> Mapping[str, int]:
        return dict(self.limits.get(driver, {}))

    def attachment_counts(self) -> Mapping[str, int]:
        return Counter(each.spec.nodeName for each in self.attached)

    def attachments(self, node: str) -> list[VolumeAttachment]:
        return [each for each in self.attached if each.spec.nodeName == node]


def node(
    name: str,
    labels: Mapping[str, str] | None = None,
    *,
    taints: Iterable[str] = (),
    images: Mapping[str, int] | None = None,
    unschedulable: bool = False,
    **allocatable: str,
) -> Node:
    """Taints are written `key=value:Effect`."""
    found = []
    for text in taints:
        pair, _, effect = text.partition(":")
        key, _, value = pair.partition("=")
        found.append({"key": key, "value": value, "effect": effect})
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "110", **allocatable}
    return from_object(
        Node,
        {
            "metadata": {"name": name, "labels": {HOSTNAME: name, **(labels or {})}},
            "spec": {"unschedulable": unschedulable, "taints": found},
            "status": {
                "allocatable": {key.replace("__", "/"): value for key, value in amounts.items()},
                "images": [
                    {"names": [name], "sizeBytes": size} for name, size in (images or {}).items()
                ],
            },
        },
    )


def pod(
    name: str = "p",
    labels: Mapping[str, str] | None = None,
    *,
    requests: Mapping[str, str] | None = None,
    containers: list[dict[str, Any]] | None = None,
    namespace: str = "default",
    status: Mapping[str, Any] | None = None,
    deleting: bool = False,
    **spec: Any,
) -> PodInfo:
    made = from_object(
        Pod,
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"{namespace}-{name}",
                "labels": dict(labels or {}),
                "deletionTimestamp": "2026-01-01T00:00:00Z" if deleting else None,
            },
            "spec": {
                "containers": containers
                or [{"name": "c", "image": "i", "resources": {"requests": dict(requests or {})}}],
                **spec,
            },
            "status": dict(status or {}),
        },
    )
    return PodInfo(made)


def cluster_of(nodes: Iterable[Node], placed: Mapping[str, Iterable[PodInfo]] = {}) -> Cluster:
    """`placed` says which pods are on which node."""
    cluster = Cluster()
    for each in nodes:
        cluster.set_node(each)
    for name, pods in placed.items():
        for info in pods:
            cluster.set_pod(info, name)
    return cluster


def cycle_of(info: PodInfo, cluster: Cluster, objects: FakeObjects | None = None) -> Cycle:
    return Cycle(info, cluster, objects or FakeObjects(), random.Random(0), cluster.alive)


def reasons(
    plugin: Plugin, info: PodInfo, cluster: Cluster, objects: FakeObjects | None = None
) -> dict[str, list[str]]:
    """Why which nodes are rejected."""
    cycle = cycle_of(info, cluster, objects)
    plugin.pre_filter(cycle)
    found: dict[str, list[str]] = {}
    for verdict in plugin.filter(cycle) or ():
        for slot in np.flatnonzero(verdict.rejected & cluster.alive):
            found.setdefault(cluster.names[int(slot)], []).append(verdict.reason)
    return found


def scores(
    plugin: Plugin,
    info: PodInfo,
    cluster: Cluster,
    objects: FakeObjects | None = None,
    feasible: Iterable[str] = (),
) -> dict[str, int] | None:
    """The scores of the nodes that are feasible (all, if not said)."""
    cycle = cycle_of(info, cluster, objects)
    names = [*feasible] or [cluster.names[slot] for slot in np.flatnonzero(cluster.alive)]
    cycle.nodes = np.array([cluster.slots[name] for name in names])
    found = plugin.score(cycle)
    return None if found is None else dict(zip(names, found.tolist(), strict=True))


def choose(
    info: PodInfo, cluster: Cluster, objects: FakeObjects | None = None, seed: int = 0
) -> str | Failure:
    rng = random.Random(seed)
    found = schedule(info, cluster, objects or FakeObjects(), default_profile(), rng)
    return found if isinstance(found, Failure) else found.node
