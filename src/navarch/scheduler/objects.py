"""What plugins look up besides nodes and pods: namespaces, claims, and who owns a pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from navarch.api.selectors import LabelSelector
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSIStorageCapacity,
    StorageClass,
    VolumeAttachment,
)
from navarch.scheduler.dra.devices import Devices
from navarch.scheduler.podinfo import PodInfo


class Objects(Protocol):
    """Looked up by name; None for what does not exist."""

    @property
    def namespaces(self) -> Mapping[str, Mapping[str, str]]:
        """The labels of every namespace."""
        ...

    def default_selector(self, pod: PodInfo) -> LabelSelector:
        """The pods that belong together with this one, by its Services and its owner; empty when
        there are neither."""
        ...

    def budgets(self, namespace: str) -> Sequence[PodDisruptionBudget]: ...

    def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None: ...

    def volume(self, name: str) -> PersistentVolume | None: ...

    def storage_class(self, name: str) -> StorageClass | None: ...

    def volumes_of_class(self, name: str) -> Sequence[PersistentVolume]: ...

    def csi_driver(self, name: str) -> CSIDriver | None: ...

    def capacities(self, storage_class: str) -> Sequence[CSIStorageCapacity]:
        """What drivers say of the room there is for volumes of a class."""
        ...

    def volume_limits(self, driver: str) -> Mapping[str, int]:
        """How many volumes of a driver can be attached, of the nodes that have a limit. Another
        mapping after every change."""
        ...

    @property
    def devices(self) -> Devices:
        """Devices, who has them, and the claims for them."""
        ...

    def attachments(self, node: str) -> Sequence[VolumeAttachment]: ...

    def attachment_counts(self) -> Mapping[str, int]:
        """How many there are of each node. Another mapping after every change."""
        ...
