"""Claims that only one pod may use."""

from __future__ import annotations

from typing import ClassVar

from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.framework import Code, Cycle, Plugin, Verdict
from navarch.scheduler.podinfo import PodInfo

IN_USE = (
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already "
    "in-use by another pod"
)


class VolumeRestrictions(Plugin):
    """A claim with access mode ReadWriteOncePod is for one pod in the whole cluster."""

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
        return None

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        names = {use.name for use in pod.claims}
        if change.subject is Subject.CLAIM:
            meta = change.new.metadata
            return meta.namespace == pod.namespace and meta.name in names
        other: PodInfo = change.old
        shared = any(use.name in names for use in other.claims)
        return other.namespace == pod.namespace and shared
