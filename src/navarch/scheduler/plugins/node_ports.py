"""Ports on the node: two pods cannot have the same one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.changes import ADD, DELETE, Change, Subject
from navarch.scheduler.framework import Code, Cycle, Plugin, Verdict
from navarch.scheduler.podinfo import PodInfo, Port

ANY = "0.0.0.0"
REASON = "node(s) didn't have free ports for the requested pod ports"


class NodePorts(Plugin):
    """Keeps pods off nodes where a host port they want is taken."""

    name: ClassVar[str] = "NodePorts"
    interests = Subject.ASSIGNED_POD.when(DELETE) | Subject.NODE.when(ADD)

    def looks_at_pods(self, cycle: Cycle) -> bool:
        return bool(cycle.pod.ports)

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        slots = []
        for address, protocol, number in cycle.pod.ports:
            for used, slot in cycle.cluster.ports.get((protocol, number), ()):
                if collide((address, protocol, number), (used, protocol, number)):
                    slots.append(slot)
        if not slots:
            return None
        rejected = np.zeros(cycle.cluster.size, np.bool_)
        rejected[slots] = True
        return [Verdict(rejected, REASON, Code.UNSCHEDULABLE)]

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        if change.subject is Subject.NODE:
            return True
        return any(collide(mine, other) for mine in pod.ports for other in change.old.ports)


def collide(first: Port, second: Port) -> bool:
    """Whether two ports cannot be had together: a port at every address is all of them."""
    same = first[1:] == second[1:]
    return same and (first[0] == second[0] or ANY in (first[0], second[0]))
