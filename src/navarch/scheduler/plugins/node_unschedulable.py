"""Nodes that an administrator has closed (cordoned)."""

from __future__ import annotations

from typing import ClassVar

from navarch.scheduler.framework import Cycle, Plugin, Verdict
from navarch.scheduler.tolerations import tolerates

TAINT = "node.kubernetes.io/unschedulable"


class NodeUnschedulable(Plugin):
    """Keeps pods off closed nodes, except those that tolerate the taint such nodes get."""

    name: ClassVar[str] = "NodeUnschedulable"

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        cluster = cycle.cluster
        if not cluster.unschedulable.any():
            return None
        if tolerates(cycle.pod.pod.spec.tolerations, TAINT, "", "NoSchedule"):
            return None
        return [Verdict(cluster.unschedulable, "node(s) were unschedulable")]
