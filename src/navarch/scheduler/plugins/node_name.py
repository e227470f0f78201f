"""Pods that name their node."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.changes import ADD, Change, Subject
from navarch.scheduler.framework import Cycle, NodePlugin, Verdict
from navarch.scheduler.podinfo import PodInfo


class NodeName(NodePlugin):
    """A pod with `spec.nodeName` fits that node only."""

    name: ClassVar[str] = "NodeName"
    interests = Subject.NODE.when(ADD)

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        wanted = cycle.pod.node
        if not wanted:
            return None
        rejected = np.ones(cycle.cluster.size, np.bool_)
        if (slot := cycle.cluster.slots.get(wanted)) is not None:
            rejected[slot] = False
        return [Verdict(rejected, "node(s) didn't match the requested node name")]

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        return bool(change.new.metadata.name == pod.node)
