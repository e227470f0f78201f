"""Balance between CPU and memory: a node that runs out of one wastes the other."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from navarch.scheduler.cluster import CPU, MEMORY, Numbers
from navarch.scheduler.framework import Cycle, Plugin

Shares = NDArray[np.float64]


class NodeResourcesBalancedAllocation(Plugin):
    """Prefers nodes whose balance the pod improves: 75 changes nothing, 100 is best."""

    name: ClassVar[str] = "NodeResourcesBalancedAllocation"
    weight: ClassVar[int] = 1

    def score(self, cycle: Cycle) -> Numbers | None:
        amounts = dict(cycle.pod.requests.amounts)
        wanted = [(CPU, amounts.get("cpu", 0)), (MEMORY, amounts.get("memory", 0))]
        if not any(value for _, value in wanted):
            return None
        cluster, nodes = cycle.cluster, cycle.nodes
        allocatable = [cluster.allocatable[row][nodes] for row, _ in wanted]
        before = [cluster.requested[row][nodes] for row, _ in wanted]
        after = [had + value for had, (_, value) in zip(before, wanted, strict=True)]
        gain = _balance(after, allocatable) - _balance(before, allocatable)
        return 50 + (50 + gain) // 2


def _balance(used: list[Numbers], allocatable: list[Numbers]) -> Numbers:
    """100 minus the deviation of the two shares in use; a node that lacks one has no deviation."""
    cpu, memory = (_share(*pair) for pair in zip(used, allocatable, strict=True))
    deviation = np.abs(cpu - memory) / 2
    deviation[(allocatable[0] == 0) | (allocatable[1] == 0)] = 0.0
    balance: Numbers = ((1 - deviation) * 100).astype(np.int64)
    return balance


def _share(used: Numbers, allocatable: Numbers) -> Shares:
    shares: Shares = np.minimum(used / np.maximum(allocatable, 1), 1.0)
    return shares
