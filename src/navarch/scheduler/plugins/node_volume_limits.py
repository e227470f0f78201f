"""How many volumes of a CSI driver can be attached to a node at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from navarch.api.persistent_volumes import MIGRATED_PROVISIONERS, claim_class
from navarch.scheduler.changes import ADD, DELETE, UPDATE, Change, Subject
from navarch.scheduler.cluster import Numbers
from navarch.scheduler.framework import Code, Cycle, Plugin, Verdict
from navarch.scheduler.objects import Objects
from navarch.scheduler.podinfo import PodInfo

TOO_MANY = "node(s) exceed max volume count"
NO_LIMIT = 2**62


class Attachable(NamedTuple):
    """A volume as its driver knows it."""

    driver: str
    handle: str


class _Room:
    """What `room` was worked out from."""

    limits: Mapping[str, int] | None = None
    attached: Mapping[str, int] | None = None
    room: Numbers


class NodeVolumeLimits(Plugin):
    """Counts the volumes of pods on the node and those attached to it, each once. A claim that is
    not bound counts as one more volume of its class's driver. Drivers that name no limit have
    none."""

    name: ClassVar[str] = "NodeVolumeLimits"
    interests = (
        Subject.CSI_NODE.when(ADD, UPDATE)
        | Subject.ASSIGNED_POD.when(DELETE)
        | Subject.CLAIM.when(ADD)
        | Subject.ATTACHMENT.when(DELETE)
    )

    def looks_at_pods(self, cycle: Cycle) -> bool:
        return bool(cycle.pod.claims)

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        pod, cluster, objects = cycle.pod, cycle.cluster, cycle.objects
        if not pod.claims:
            return None
        wanted = set(volumes_of(pod, objects))
        full = np.zeros(cluster.size, np.bool_)
        for driver, limits in ((d, objects.volume_limits(d)) for d in {v.driver for v in wanted}):
            # A volume that several pods use, or that is of another driver, does not count (again),
            # but only nodes that would be full if it did have to be looked at one by one.
            most = cluster.claim_uses + len(wanted)
            suspects = np.flatnonzero(cycle.feasible & (most > self._room(cycle, driver)))
            for slot in map(int, suspects):
                node = cluster.names[slot]
                there = self._attached(cycle, slot, node)
                new = {each for each in wanted - there if each.driver == driver}
                count = Counter(each.driver for each in there)[driver]
                if new and count + len(new) > limits[node]:
                    full[slot] = True
        return [Verdict(full, TOO_MANY, Code.UNSCHEDULABLE)] if full.any() else None

    def _room(self, cycle: Cycle, driver: str) -> Numbers:
        """For how many more volumes of a driver there is room on each node, beside all those that
        are attached already, of whichever driver."""
        cluster, limits = cycle.cluster, cycle.objects.volume_limits(driver)
        attached = cycle.objects.attachment_counts()
        kept: _Room = cluster.cached((self.name, driver), _Room)
        if kept.limits is not limits or kept.attached is not attached:
            kept.limits, kept.attached = limits, attached
            kept.room = np.full(cluster.size, NO_LIMIT, np.int64)
            for node, limit in limits.items():
                if (slot := cluster.slots.get(node)) is not None:
                    kept.room[slot] = limit - attached.get(node, 0)
        return kept.room

    def _attached(self, cycle: Cycle, slot: int, node: str) -> set[Attachable]:
        objects = cycle.objects
        there = {
            volume
            for info in cycle.cluster.pods_at[slot].values()
            if info.claims
            for volume in volumes_of(info, objects)
        }
        for attachment in objects.attachments(node):
            name = attachment.spec.source.persistentVolumeName
            found = objects.volume(name) if name else None
            if found is not None and found.spec.csi is not None:
                there.add(Attachable(attachment.spec.attacher, found.spec.csi.volumeHandle))
        return there

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        match change.subject:
            case Subject.CLAIM:
                meta = change.new.metadata
                mine = any(use.name == meta.name for use in pod.claims)
                return mine and bool(meta.namespace == pod.namespace)
            case Subject.ASSIGNED_POD:
                return bool(change.old.claims)
        return True


def volumes_of(pod: PodInfo, objects: Objects) -> Iterator[Attachable]:
    """The volumes of a pod that drivers attach."""
    for use in pod.claims:
        claim = objects.claim(pod.namespace, use.name)
        if claim is None:
            continue
        volume = objects.volume(claim.spec.volumeName) if claim.spec.volumeName else None
        if volume is not None:
            csi = volume.spec.csi
            if csi is not None:
                yield Attachable(csi.driver, csi.volumeHandle)
            continue
        storage_class = objects.storage_class(claim_class(claim)) if claim_class(claim) else None
        if storage_class is not None:
            provisioner = storage_class.provisioner
            driver = MIGRATED_PROVISIONERS.get(provisioner, provisioner)
            yield Attachable(driver, f"of {pod.namespace}/{use.name}")
