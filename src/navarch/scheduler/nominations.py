"""Pods that wait for a node of their own choice: room is being made there for them (preemption).

A nomination is a hint, not a claim: it is published as `status.nominatedNodeName`, holds in memory
from the moment it is decided, and ends when the pod gets a node, any node, or is gone. Pods of
lower priority leave the room alone; pods of higher priority may take it.
"""

from __future__ import annotations

from collections.abc import Iterable

from navarch.scheduler.podinfo import PodInfo


class Nominations:
    """Who waits for which node."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._pods: dict[str, dict[str, PodInfo]] = {}

    def node_of(self, uid: str) -> str:
        """The node a pod waits for; empty for none."""
        return self._nodes.get(uid, "")

    @property
    def nodes(self) -> Iterable[str]:
        return self._pods.keys()

    def set(self, info: PodInfo, node: str) -> None:
        """From now on the pod waits for this node, or with "" for none."""
        self.remove(info.uid)
        if node:
            self._nodes[info.uid] = node
            self._pods.setdefault(node, {})[info.uid] = info

    def update(self, old: PodInfo, new: PodInfo) -> None:
        """The pod changed. A nomination that somebody wrote or took back counts; one that is not
        written yet stays."""
        told = new.pod.status.nominatedNodeName
        is_told = told != old.pod.status.nominatedNodeName
        self.set(new, told if is_told else self.node_of(new.uid))

    def remove(self, uid: str) -> bool:
        """The pod waits for no node any more; returns whether it did."""
        node = self._nodes.pop(uid, "")
        if not node:
            return False
        del self._pods[node][uid]
        if not self._pods[node]:
            del self._pods[node]
        return True

    def ahead_of(self, info: PodInfo, node: str) -> list[PodInfo]:
        """The others that wait for the node and are not less important."""
        there = self._pods.get(node, {}).values()
        return [each for each in there if each.priority >= info.priority and each.uid != info.uid]

    def behind(self, info: PodInfo, node: str) -> list[PodInfo]:
        """Those that wait for the node and are less important."""
        there = self._pods.get(node, {}).values()
        return [each for each in there if each.priority < info.priority]
