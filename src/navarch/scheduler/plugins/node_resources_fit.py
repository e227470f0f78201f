"""Room on nodes: what is left of each resource, and which node has most of it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.cluster import CPU, MEMORY, PODS, Numbers
from navarch.scheduler.framework import MAX_SCORE, Code, Cycle, Plugin, Verdict


class NodeResourcesFit(Plugin):
    """Filters by what is allocatable and not yet requested; scores nodes by how much of their CPU
    and memory would be left (LeastAllocated)."""

    name: ClassVar[str] = "NodeResourcesFit"
    weight: ClassVar[int] = 1

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        cluster = cycle.cluster
        full = cluster.requested[PODS] + 1 > cluster.allocatable[PODS]
        verdicts = [Verdict(full, "Too many pods", Code.UNSCHEDULABLE)]
        for name, value in cycle.pod.requests.amounts:
            row = cluster.resource(name)
            allocatable = cluster.allocatable[row]
            lacking = value > allocatable - cluster.requested[row]
            verdicts.append(Verdict(lacking, f"Insufficient {name}", Code.UNSCHEDULABLE))
        return verdicts

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, nodes = cycle.cluster, cycle.nodes
        total = np.zeros(len(nodes), np.int64)
        weights = np.zeros(len(nodes), np.int64)
        for number, row in enumerate((CPU, MEMORY)):
            allocatable = cluster.allocatable[row][nodes]
            wanted = cluster.scored[number][nodes] + cycle.pod.requests.scored[number]
            left = np.maximum(allocatable - wanted, 0)
            total += left * MAX_SCORE // np.maximum(allocatable, 1)
            weights += allocatable > 0
        return total // np.maximum(weights, 1)
