"""Nodes that an administrator has closed (cordoned)."""

from __future__ import annotations

from typing import ClassVar

from navarch.scheduler.changes import ADD, UPDATE, Change, Subject
from navarch.scheduler.framework import Cycle, NodePlugin, Verdict
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.tolerations import tolerates

TAINT = "node.kubernetes.io/unschedulable"


class NodeUnschedulable(NodePlugin):
    """Keeps pods off closed nodes, except those that tolerate the taint such nodes get."""

    name: ClassVar[str] = "NodeUnschedulable"
    interests = Subject.NODE.when(ADD, UPDATE) | Subject.OWN_POD.when(UPDATE)

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        cluster = cycle.cluster
        if not cluster.unschedulable.any():
            return None
        if tolerates(cycle.pod.pod.spec.tolerations, TAINT, "", "NoSchedule"):
            return None
        return [Verdict(cluster.unschedulable, "node(s) were unschedulable")]

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        if change.subject is Subject.OWN_POD:
            return tolerates(change.new.pod.spec.tolerations, TAINT, "", "NoSchedule")
        was_closed = change.old is None or change.old.spec.unschedulable
        return was_closed and not change.new.spec.unschedulable
