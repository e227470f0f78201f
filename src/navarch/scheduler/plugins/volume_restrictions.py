"""Claims that only one pod may use, and disks that only one pod of a node may."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.api.types.core_v1 import Volume
from navarch.scheduler.changes import ADD, DELETE, Change, Subject
from navarch.scheduler.cluster import Mask
from navarch.scheduler.framework import Code, Cycle, Plugin, PodRejected, Verdict
from navarch.scheduler.podinfo import ClaimUse, PodInfo

IN_USE = (
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already "
    "in-use by another pod"
)
NO_DISK = "node(s) had no available disk"


class VolumeRestrictions(Plugin):
    """A claim with access mode ReadWriteOncePod is for one pod in the whole cluster. A disk named
    in a pod itself is for one pod of a node, or for many if all only read."""

    name: ClassVar[str] = "VolumeRestrictions"
    interests = Subject.ASSIGNED_POD.when(DELETE) | Subject.CLAIM.when(ADD)

    def looks_at_pods(self, cycle: Cycle) -> bool:
        return bool(cycle.pod.claims or cycle.pod.disks)

    def pre_filter(self, cycle: Cycle) -> Mask | None:
        """Claims that the pod names, not those that are made for it, must be there."""
        for use in cycle.pod.claims:
            if not use.is_ephemeral and cycle.objects.claim(cycle.pod.namespace, use.name) is None:
                raise PodRejected(self.name, f'persistentvolumeclaim "{use.name}" not found')
        return None

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        pod, cluster = cycle.pod, cycle.cluster
        verdicts = []
        taken = np.zeros(cluster.size, np.bool_)
        if pod.disks:
            for slot in np.flatnonzero(cycle.feasible):
                others = (disk for info in cluster.pods_at[slot].values() for disk in info.disks)
                taken[slot] = any(conflict(disk, other) for other in others for disk in pod.disks)
            verdicts.append(Verdict(taken, NO_DISK, Code.UNSCHEDULABLE))
        if any(_in_use(cycle, use) for use in pod.claims):
            verdicts.append(Verdict(cluster.alive & ~taken, IN_USE, Code.UNSCHEDULABLE))
        return verdicts or None

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


def _in_use(cycle: Cycle, use: ClaimUse) -> bool:
    """Whether a claim is for one pod only, and a pod on a living node uses it."""
    cluster, namespace = cycle.cluster, cycle.pod.namespace
    if use.is_ephemeral or not cluster.claims[f"{namespace}/{use.name}"]:
        return False
    claim = cycle.objects.claim(namespace, use.name)
    if claim is None or "ReadWriteOncePod" not in claim.spec.accessModes:
        return False
    return any(
        info.namespace == namespace and cluster.alive[slot] and use in info.claims
        for info, slot in cluster.pods.values()
    )


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
