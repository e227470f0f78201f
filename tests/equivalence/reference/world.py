"""What there is to decide upon: the objects of a cluster, as the API server has them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from hypothesis.vendor.pretty import RepresentationPrinter

from navarch.api.objects import encode
from navarch.api.types.apps_v1 import ReplicaSet, StatefulSet
from navarch.api.types.core_v1 import (
    Namespace,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    ReplicationController,
    Service,
)
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    StorageClass,
    VolumeAttachment,
)


@dataclass
class World:
    """Printed compactly, one object a line, so that a failing example can be read."""

    nodes: list[Node] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    namespaces: list[Namespace] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    replica_sets: list[ReplicaSet] = field(default_factory=list)
    stateful_sets: list[StatefulSet] = field(default_factory=list)
    controllers: list[ReplicationController] = field(default_factory=list)
    budgets: list[PodDisruptionBudget] = field(default_factory=list)
    claims: list[PersistentVolumeClaim] = field(default_factory=list)
    volumes: list[PersistentVolume] = field(default_factory=list)
    classes: list[StorageClass] = field(default_factory=list)
    csi_nodes: list[CSINode] = field(default_factory=list)
    csi_drivers: list[CSIDriver] = field(default_factory=list)
    capacities: list[CSIStorageCapacity] = field(default_factory=list)
    attachments: list[VolumeAttachment] = field(default_factory=list)

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        objects = [obj for each in fields(self) for obj in getattr(self, each.name)]
        printer.text("\n".join(["", *(encode(obj).decode() for obj in objects)]))

    def pods_on(self, node: str) -> list[Pod]:
        """Those that take room: not those that have run to their end."""
        return [
            pod
            for pod in self.pods
            if pod.spec.nodeName == node and pod.status.phase not in ("Succeeded", "Failed")
        ]
