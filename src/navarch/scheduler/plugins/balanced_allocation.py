"""Balance between resources: a node that runs out of one wastes the others."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.cluster import Numbers
from navarch.scheduler.configuration.arguments import NodeResourcesBalancedAllocationArgs
from navarch.scheduler.following import Rows
from navarch.scheduler.framework import Cycle, Plugin
from navarch.scheduler.plugins.resource_strategies import BASIC

DEFAULTS = NodeResourcesBalancedAllocationArgs()


class NodeResourcesBalancedAllocation(Plugin):
    """Prefers nodes whose balance the pod improves: 75 changes nothing, 100 is best."""

    name: ClassVar[str] = "NodeResourcesBalancedAllocation"
    weight: ClassVar[int] = 1

    def __init__(self, arguments: NodeResourcesBalancedAllocationArgs = DEFAULTS) -> None:
        self._resources = arguments.counted

    def score(self, cycle: Cycle) -> Numbers | None:
        amounts = dict(cycle.pod.requests.amounts)
        asked = tuple(
            (name, amounts.get(name, 0))
            for name in self._resources
            if name in BASIC or amounts.get(name)
        )
        if not any(value for _, value in asked):
            return None
        cluster = cycle.cluster
        which = [cluster.resource(name) for name, _ in asked]
        # A slice is much quicker than a list, and what counts mostly stands together.
        rows = (
            slice(which[0], which[-1] + 1) if which == [*range(which[0], which[-1] + 1)] else which
        )
        wanted = np.array([value for _, value in asked], np.int64)[:, None]

        def compute(slots: Rows) -> Numbers:
            allocatable = cluster.allocatable[rows][:, slots]
            before = cluster.requested[rows][:, slots]
            gain = _balance(before + wanted, allocatable) - _balance(before, allocatable)
            return 50 + (50 + gain) // 2

        def one(slot: int) -> int:
            allocatable = cluster.allocatable[:, slot].tolist()
            before = cluster.requested[:, slot].tolist()
            free = [allocatable[row] for row in which]
            if not all(free):
                return 75
            had = [before[row] for row in which]
            has = [amount + value for amount, (_, value) in zip(had, asked, strict=True)]
            return 50 + (50 + _balance_of_two(has, free) - _balance_of_two(had, free)) // 2

        key = (self, asked)
        is_pair = len(which) == 2
        return cluster.following.at(cycle.nodes, key, compute, one if is_pair else None)


def _balance_of_two(used: list[int], allocatable: list[int]) -> int:
    """`_balance` of one node that lacks neither of two resources."""
    first, second = (min(u / a, 1.0) for u, a in zip(used, allocatable, strict=True))
    return int((1 - abs(first - second) / 2) * 100)


def _balance(used: Numbers, allocatable: Numbers) -> Numbers:
    """100 minus the deviation of the shares in use; what a node lacks does not count."""
    shares = np.minimum(used / np.maximum(allocatable, 1), 1.0)
    if len(shares) == 2:
        deviation = np.abs(shares[0] - shares[1]) / 2
        deviation[~allocatable.all(axis=0)] = 0.0
    else:
        there = allocatable > 0
        count = np.maximum(there.sum(axis=0), 1)
        mean = np.where(there, shares, 0.0).sum(axis=0) / count
        squares = np.where(there, (shares - mean) ** 2, 0.0).sum(axis=0)
        deviation = np.sqrt(squares / count)
    balance: Numbers = ((1 - deviation) * 100).astype(np.int64)
    return balance
