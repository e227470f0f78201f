"""Pods that name their node."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.framework import Cycle, Plugin, Verdict


class NodeName(Plugin):
    """A pod with `spec.nodeName` fits that node only."""

    name: ClassVar[str] = "NodeName"

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        wanted = cycle.pod.node
        if not wanted:
            return None
        rejected = np.ones(cycle.cluster.size, np.bool_)
        if (slot := cycle.cluster.slots.get(wanted)) is not None:
            rejected[slot] = False
        return [Verdict(rejected, "node(s) didn't match the requested node name")]
