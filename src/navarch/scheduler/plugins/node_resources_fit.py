"""Room on nodes: what is left of each resource, and which node has most of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import numpy as np

from navarch.api.types.core_v1 import Node
from navarch.scheduler.changes import ADD, DELETE, UPDATE, Action, Change, Subject
from navarch.scheduler.cluster import PODS, Mask, Numbers
from navarch.scheduler.configuration.arguments import NodeResourcesFitArgs
from navarch.scheduler.following import Rows
from navarch.scheduler.framework import Code, Cycle, Plugin, Verdict
from navarch.scheduler.plugins.resource_strategies import Strategy
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.requests import units

DEFAULTS = NodeResourcesFitArgs()


class NodeResourcesFit(Plugin):
    """Filters by what is allocatable and not yet requested; scores nodes by how much of it would
    be in use, of CPU and memory if nothing else is said: the less the better."""

    name: ClassVar[str] = "NodeResourcesFit"
    weight: ClassVar[int] = 1
    interests = (
        Subject.NODE.when(ADD, UPDATE)
        | Subject.ASSIGNED_POD.when(DELETE, UPDATE)
        | Subject.OWN_POD.when(UPDATE)
        | Subject.DEVICE_CLASS.when(ADD, UPDATE)
    )

    def __init__(self, arguments: NodeResourcesFitArgs = DEFAULTS) -> None:
        self._ignored = frozenset(arguments.ignoredResources)
        self._ignored_groups = frozenset(arguments.ignoredResourceGroups)
        self._strategy = Strategy.of(arguments.scoringStrategy)

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        cluster, amounts = cycle.cluster, self.counted(cycle.pod)
        wanted = np.array([1, *(value for _, value in amounts)], np.int64)[:, None]
        which = [PODS, *(cluster.resource(name) for name, _ in amounts)]
        # What a node does not have itself may be had as devices; that is not judged here.
        devices = cycle.objects.devices
        elsewhere = [n for n, (name, _) in enumerate(amounts, 1) if devices.class_of(name)]

        def compute(slots: Rows) -> Mask:
            allocatable = cluster.allocatable[:, slots][which]
            hopeless = wanted > allocatable
            hopeless[0] = False
            hopeless[elsewhere] &= allocatable[elsewhere] > 0
            lacking = (wanted > allocatable - cluster.requested[:, slots][which]) & ~hopeless
            lacking[elsewhere] &= allocatable[elsewhere] > 0
            return np.concatenate((lacking, hopeless))

        def one(slot: int) -> list[bool]:
            allocatable = cluster.allocatable[:, slot].tolist()
            requested = cluster.requested[:, slot].tolist()
            lacking = [requested[PODS] >= allocatable[PODS]]
            hopeless = [False]
            for row, (_, value) in zip(which[1:], amounts, strict=True):
                hopeless.append(value > allocatable[row])
                lacking.append(allocatable[row] - requested[row] < value <= allocatable[row])
            return lacking + hopeless

        key = (self, "filter", amounts, *elsewhere)
        found = cluster.following.all(key, compute, None if elsewhere else one)
        verdicts = [Verdict(found[0], "Too many pods", Code.UNSCHEDULABLE)]
        for number, (name, _) in enumerate(amounts, 1):
            reason = f"Insufficient {name}"
            verdicts.append(Verdict(found[number], reason, Code.UNSCHEDULABLE))
            verdicts.append(Verdict(found[len(which) + number], reason))
        return verdicts

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, strategy = cycle.cluster, self._strategy
        wanted = strategy.wanted(cycle.pod)

        def compute(slots: Rows) -> Numbers:
            return strategy.scores(cluster, wanted, slots)

        def one(slot: int) -> int:
            return strategy.score(cluster, wanted, slot)

        return cluster.following.at(cycle.nodes, (self, wanted), compute, one)

    def is_all_about_room(self, cycle: Cycle) -> bool:
        """Whether sums of requests tell all, since nothing the pod wants may be had as devices."""
        devices = cycle.objects.devices
        return not any(devices.class_of(name) for name, _ in self.counted(cycle.pod))

    def counted(self, pod: PodInfo) -> tuple[tuple[str, int], ...]:
        """What the pod requests, without what others look after."""
        if not self._ignored and not self._ignored_groups:
            return pod.requests.amounts
        return tuple(
            (name, value)
            for name, value in pod.requests.amounts
            if name not in self._ignored and name.partition("/")[0] not in self._ignored_groups
        )

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        if change.subject is Subject.NODE:
            return _helped_by_node(pod, change)
        if change.action is Action.DELETE or change.subject is Subject.DEVICE_CLASS:
            return True
        before = dict(change.old.requests.amounts)
        after = dict(change.new.requests.amounts)
        names = before if change.subject is Subject.OWN_POD else dict(pod.requests.amounts)
        return any(after.get(name, 0) < before.get(name, 0) for name in names)


def _helped_by_node(pod: PodInfo, change: Change) -> bool:
    """The pod would fit if the node were empty, and the node is new or has grown."""
    new = _allocatable(change.new)
    wanted = [*pod.requests.amounts, ("pods", 1)]
    if any(new.get(name, 0) < value for name, value in wanted):
        return False
    if change.old is None:
        return True
    old = _allocatable(change.old)
    return any(new.get(name, 0) > old.get(name, 0) for name, _ in wanted)


def _allocatable(node: Node) -> Mapping[str, int]:
    return _amounts(tuple(node.status.allocatable.items()))


@lru_cache(maxsize=256)
def _amounts(texts: tuple[tuple[str, str], ...]) -> Mapping[str, int]:
    """A node that changes is asked about for each pod that waits: it is read once."""
    return {name: units(name, text) for name, text in texts}
