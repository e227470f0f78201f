"""Balance between CPU and memory: a node that runs out of one wastes the other."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.cluster import CPU, MEMORY, Numbers, Rows
from navarch.scheduler.framework import Cycle, Plugin


class NodeResourcesBalancedAllocation(Plugin):
    """Prefers nodes whose balance the pod improves: 75 changes nothing, 100 is best."""

    name: ClassVar[str] = "NodeResourcesBalancedAllocation"
    weight: ClassVar[int] = 1

    def score(self, cycle: Cycle) -> Numbers | None:
        amounts = dict(cycle.pod.requests.amounts)
        cpu, memory = amounts.get("cpu", 0), amounts.get("memory", 0)
        if not cpu and not memory:
            return None
        cluster = cycle.cluster
        wanted = np.array([cpu, memory], np.int64)[:, None]

        def compute(slots: Rows) -> Numbers:
            allocatable = cluster.allocatable[CPU : MEMORY + 1, slots]
            before = cluster.requested[CPU : MEMORY + 1, slots]
            gain = _balance(before + wanted, allocatable) - _balance(before, allocatable)
            return 50 + (50 + gain) // 2

        return cluster.following((self.name, cpu, memory), compute)[cycle.nodes]


def _balance(used: Numbers, allocatable: Numbers) -> Numbers:
    """100 minus the deviation of the two shares in use; a node that lacks one has no deviation."""
    shares = np.minimum(used / np.maximum(allocatable, 1), 1.0)
    deviation = np.abs(shares[0] - shares[1]) / 2
    deviation[~allocatable.all(axis=0)] = 0.0
    balance: Numbers = ((1 - deviation) * 100).astype(np.int64)
    return balance
