"""Volumes: claims must be there and bound, and their volumes reachable from the node."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.api.types.core_v1 import NodeSelector, PersistentVolume, PersistentVolumeClaim
from navarch.client import is_controlled_by
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.cluster import Mask
from navarch.scheduler.framework import Cycle, Plugin, PodRejected, Verdict
from navarch.scheduler.node_selection import selected
from navarch.scheduler.podinfo import ClaimUse, PodInfo

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
OTHER_NODES = "node(s) didn't match PersistentVolume's node affinity"
NO_VOLUME = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"


class VolumeBinding(Plugin):
    """Rejects pods whose claims are missing, on their way out or not bound, and nodes that the
    volumes of bound claims cannot be used from."""

    name: ClassVar[str] = "VolumeBinding"
    interests: ClassVar[frozenset[tuple[Subject, Action]]] = frozenset(
        (subject, action)
        for subject in (Subject.CLAIM, Subject.VOLUME, Subject.STORAGE_CLASS, Subject.NODE)
        for action in (Action.ADD, Action.UPDATE)
    )

    def pre_filter(self, cycle: Cycle) -> Mask | None:
        pod = cycle.pod
        if not pod.claims:
            return None
        claims = [(use, self._usable(cycle, use)) for use in pod.claims]
        unbound = [claim for _, claim in claims if not is_bound(claim)]
        for claim in unbound:
            if not _waits_for_consumer(cycle, claim):
                raise PodRejected(self.name, UNBOUND)
        for claim in unbound:
            name = claim.metadata.name
            raise PodRejected(
                self.name,
                f'persistentvolumeclaim "{name}" of a WaitForFirstConsumer class is not bound',
            )
        cycle.state[self.name] = [claim for _, claim in claims]
        return None

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        claims: list[PersistentVolumeClaim] = cycle.state.get(self.name, [])
        if not claims:
            return None
        elsewhere = np.zeros(cycle.cluster.size, np.bool_)
        missing = np.zeros(cycle.cluster.size, np.bool_)
        for claim in claims:
            volume = cycle.objects.volume(claim.spec.volumeName)
            if volume is None:
                missing[:] = True
            elif (required := _required(volume)) is not None:
                elsewhere |= ~selected(cycle.cluster, required)
        return [Verdict(elsewhere & ~missing, OTHER_NODES), Verdict(missing, NO_VOLUME)]

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        new = change.new
        match change.subject:
            case Subject.CLAIM:
                mine = any(use.name == new.metadata.name for use in pod.claims)
                return mine and bool(new.metadata.namespace == pod.namespace)
            case Subject.NODE:
                old = change.old
                return old is None or bool(old.metadata.labels != new.metadata.labels)
        return True

    def _usable(self, cycle: Cycle, use: ClaimUse) -> PersistentVolumeClaim:
        """The claim, unless there is something wrong with it."""
        pod = cycle.pod
        claim = cycle.objects.claim(pod.namespace, use.name)
        if claim is None and use.is_ephemeral:
            text = "waiting for ephemeral volume controller to create the persistentvolumeclaim"
            raise PodRejected(self.name, f'{text} "{use.name}"')
        what = f'persistentvolumeclaim "{use.name}"'
        if claim is None:
            raise PodRejected(self.name, f"{what} not found")
        if claim.status.phase == "Lost":
            volume = claim.spec.volumeName
            text = f'{what} bound to non-existent persistentvolume "{volume}"'
            raise PodRejected(self.name, text)
        if claim.metadata.deletionTimestamp:
            raise PodRejected(self.name, f"{what} is being deleted")
        if use.is_ephemeral and not is_controlled_by(claim, pod.pod):
            text = f"PVC {pod.namespace}/{use.name} was not created for pod {pod.key}"
            raise PodRejected(self.name, f"{text} (pod is not owner)")
        return claim


def is_bound(claim: PersistentVolumeClaim) -> bool:
    return bool(claim.spec.volumeName) and BIND_COMPLETED in claim.metadata.annotations


def _waits_for_consumer(cycle: Cycle, claim: PersistentVolumeClaim) -> bool:
    if claim.spec.volumeName or not claim.spec.storageClassName:
        return False
    storage_class = cycle.objects.storage_class(claim.spec.storageClassName)
    return storage_class is not None and storage_class.volumeBindingMode == "WaitForFirstConsumer"


def _required(volume: PersistentVolume) -> NodeSelector | None:
    affinity = volume.spec.nodeAffinity
    return None if affinity is None else affinity.required
