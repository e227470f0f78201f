"""What makes a node good as far as its resources go: to be used little, much, or to a degree.

Each resource that counts yields 0 to 100 per node, and the node gets their mean by weight. A
resource that the node does not have, or one beyond CPU, memory and disk that the pod does not
ask for, does not count. Source: upstream's `plugins/noderesources`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from navarch.scheduler.cluster import CPU, MEMORY, Cluster, Numbers
from navarch.scheduler.configuration.arguments import (
    LEAST,
    MOST,
    RATIO,
    ScoringStrategy,
    ShapePoint,
)
from navarch.scheduler.following import Rows
from navarch.scheduler.framework import MAX_SCORE
from navarch.scheduler.podinfo import PodInfo

BASIC = ("cpu", "memory", "ephemeral-storage")
"""Resources that count whether or not the pod asks for them."""
MAX_POINT = 10
Wanted = tuple[tuple[str, int, int], ...]
"""Resources with the pod's request and their weight."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a node's resources are scored."""

    kind: str
    resources: tuple[tuple[str, int], ...]
    curve: tuple[int, ...] = ()
    """What a resource is worth that is used by so many per cent."""

    @classmethod
    def of(cls, given: ScoringStrategy) -> Self:
        ratio = given.requestedToCapacityRatio
        return cls(
            given.type,
            tuple((each.name, each.weight) for each in given.counted),
            curve_of(ratio.shape) if ratio is not None else (),
        )

    def wanted(self, pod: PodInfo) -> Wanted:
        """The resources that count for the pod. Containers that say nothing of CPU and memory are
        taken to need some."""
        amounts = dict(pod.requests.amounts)
        amounts["cpu"], amounts["memory"] = pod.requests.scored
        return tuple(
            (name, amounts.get(name, 0), weight)
            for name, weight in self.resources
            if name in BASIC or amounts.get(name)
        )

    def scores(self, cluster: Cluster, wanted: Wanted, slots: Rows) -> Numbers:
        """0 to 100 for each slot once the pod is there."""
        total = np.zeros_like(cluster.requested[CPU, slots])
        weights = np.zeros_like(total)
        for name, value, weight in wanted:
            row = cluster.resource(name)
            allocatable = cluster.allocatable[row, slots]
            held = cluster.scored if row in (CPU, MEMORY) else cluster.requested
            used = held[row, slots] + value
            scores = self._scores(used, np.maximum(allocatable, 1))
            counts = allocatable > 0
            if self.kind == RATIO:
                counts &= scores > 0
            total += np.where(counts, scores * weight, 0)
            weights += np.where(counts, weight, 0)
        if self.kind == RATIO:
            rounded = np.floor(total / np.maximum(weights, 1) + 0.5)
            return np.asarray(rounded, np.int64)
        return np.asarray(total // np.maximum(weights, 1), np.int64)

    def score(self, cluster: Cluster, wanted: Wanted, slot: int) -> int:
        """The same of one slot."""
        allocatable = cluster.allocatable[:, slot].tolist()
        requested = cluster.requested[:, slot].tolist()
        requested[CPU : MEMORY + 1] = cluster.scored[:, slot].tolist()
        total = weights = 0
        for name, value, weight in wanted:
            row = cluster.resource(name)
            has, used = allocatable[row], requested[row] + value
            if has <= 0:
                continue
            if self.kind == LEAST:
                score = max(has - used, 0) * MAX_SCORE // has
            else:
                share = min(used, has) * MAX_SCORE // has
                score = share if self.kind == MOST else self.curve[share]
            if score or self.kind != RATIO:
                total += score * weight
                weights += weight
        if self.kind == RATIO:
            return math.floor(total / max(weights, 1) + 0.5)
        return total // max(weights, 1)

    def _scores(self, used: Numbers, allocatable: Numbers) -> Numbers:
        if self.kind == LEAST:
            left: Numbers = np.maximum(allocatable - used, 0) * MAX_SCORE // allocatable
            return left
        share: Numbers = np.minimum(used, allocatable) * MAX_SCORE // allocatable
        return share if self.kind == MOST else np.array(self.curve, np.int64)[share]


def curve_of(shape: tuple[ShapePoint, ...]) -> tuple[int, ...]:
    """The values for 0 to 100 per cent: straight between the points, level beyond them."""
    points = [(p.utilization, p.score * MAX_SCORE // MAX_POINT) for p in shape]
    curve = []
    for share in range(MAX_SCORE + 1):
        before = [point for point in points if point[0] < share]
        after = [point for point in points if point[0] >= share]
        if not before or not after:
            curve.append((after or before[::-1])[0][1])
            continue
        (x0, y0), (x1, y1) = before[-1], after[0]
        rise = (y1 - y0) * (share - x0)
        # Go's division is towards zero.
        step = abs(rise) // (x1 - x0)
        curve.append(y0 + (step if rise >= 0 else -step))
    return tuple(curve)
