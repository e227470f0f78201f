"""What happened in the cluster, as far as it may help a pod that found no node."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple


class Action(Enum):
    ADD = "add"
    UPDATE = "update"
    DELETE = "delete"


class Subject(Enum):
    """What changed."""

    NODE = "Node"
    ASSIGNED_POD = "AssignedPod"
    OWN_POD = "OwnPod"
    """The very pod that waits."""
    CLAIM = "PersistentVolumeClaim"
    VOLUME = "PersistentVolume"
    STORAGE_CLASS = "StorageClass"
    CSI_NODE = "CSINode"
    CSI_DRIVER = "CSIDriver"
    CAPACITY = "CSIStorageCapacity"
    ATTACHMENT = "VolumeAttachment"
    RESOURCE_CLAIM = "ResourceClaim"
    RESOURCE_SLICE = "ResourceSlice"
    DEVICE_CLASS = "DeviceClass"

    def when(self, *actions: Action) -> Interests:
        """These things that may happen to it."""
        return frozenset((self, action) for action in actions)


Interests = frozenset[tuple[Subject, Action]]
ADD, UPDATE, DELETE = Action


class Change(NamedTuple):
    """`old` is None for an addition, `new` for a deletion. Pods are given as PodInfo."""

    subject: Subject
    action: Action
    old: Any = None
    new: Any = None
