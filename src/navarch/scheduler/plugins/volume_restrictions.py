"""Claims that only one pod may use, and disks that only one pod of a node may."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.api.types.core_v1 import Volume
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.framework import Code, Cycle, Plugin, Verdict
from navarch.scheduler.podinfo import PodInfo

IN_USE = (
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already "
    "in-use by another pod"
)
NO_DISK = "node(s) had no available disk"


class VolumeRestrictions(Plugin):
    """A claim with access mode ReadWriteOncePod is for one pod in the whole cluster. A disk named
    in a pod itself is for one pod of a node, or for many if all only read."""

    name: ClassVar[str] = "VolumeRestrictions"
    interests: ClassVar[frozenset[tuple[Subject, Action]]] = frozenset(
        {(Subject.ASSIGNED_POD, Action.DELETE), (Subject.CLAIM, Action.ADD)}
    )

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        pod, cluster = cycle.pod, cycle.cluster
        for use in pod.claims:
            if not cluster.claims[f"{pod.namespace}/{use.name}"]:
                continue
            claim = cycle.objects.claim(pod.namespace, use.name)
            if claim is not None and "ReadWriteOncePod" in claim.spec.accessModes:
                return [Verdict(cluster.alive, IN_USE, Code.UNSCHEDULABLE)]
        if not pod.disks:
            return None
        taken = np.zeros(cluster.size, np.bool_)
        for slot in np.flatnonzero(cycle.feasible):
            others = (disk for info in cluster.pods_at[slot].values() for disk in info.disks)
            taken[slot] = any(conflict(disk, other) for other in others for disk in pod.disks)
        return [Verdict(taken, NO_DISK, Code.UNSCHEDULABLE)]

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        names = {use.name for use in pod.claims}
        if change.subject is Subject.CLAIM:
            meta = change.new.metadata
            return meta.namespace == pod.namespace and meta.name in names
        other: PodInfo = change.old
        shared = any(use.name in names for use in other.claims)
        if other.namespace == pod.namespace and shared:
            return True
        return any(conflict(disk, gone) for disk in pod.disks for gone in other.disks)


def conflict(one: Volume, other: Volume) -> bool:
    """Whether two volumes are the same disk, and not both only read it."""
    if one.gcePersistentDisk and other.gcePersistentDisk:
        a, b = one.gcePersistentDisk, other.gcePersistentDisk
        return a.pdName == b.pdName and not (a.readOnly and b.readOnly)
    if one.awsElasticBlockStore and other.awsElasticBlockStore:
        return one.awsElasticBlockStore.volumeID == other.awsElasticBlockStore.volumeID
    if one.iscsi and other.iscsi:
        return one.iscsi.iqn == other.iscsi.iqn and not (
            one.iscsi.readOnly and other.iscsi.readOnly
        )
    if one.rbd and other.rbd:
        c, d = one.rbd, other.rbd
        same = (c.pool, c.image) == (d.pool, d.image) and not set(c.monitors).isdisjoint(d.monitors)
        return same and not (c.readOnly and d.readOnly)
    return False
