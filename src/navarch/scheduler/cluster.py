"""The cluster as arrays: a row of slots for nodes, and one array per thing that plugins ask about.

Everything is kept up to date change by change, so that looking at all nodes at once costs a few
array operations and no walk over objects. A node keeps its slot while it lives; slots of nodes
that are gone are used again, and `alive` says which count. Label values and sets of taints are
interned: an array holds small numbers, and what a number means is decided once per distinct value
rather than once per node.

Pods count from the moment a node is chosen for them (assumed), before the API server has agreed.
A pod may be known before its node is; its slot then waits, not alive, until the node appears.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from navarch.api.types.core_v1 import Node
from navarch.scheduler.counts import Counts, PodCounts, Sums, Tally, Wanted
from navarch.scheduler.following import Following
from navarch.scheduler.nominations import Nominations
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.requests import is_tracked, units
from navarch.scheduler.rotation import Rotation

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
T = TypeVar("T")

CPU, MEMORY, STORAGE, PODS = range(4)
FIRST_SLOTS = 64
CACHE_LIMIT = 2048

TaintSet = tuple[tuple[str, str, str], ...]
"""Taints as (key, value, effect)."""


class LabelColumn:
    """One label of all nodes: a number per node, -1 where it has no such label."""

    def __init__(self, size: int) -> None:
        self.values: list[str] = []
        self.numbers: dict[str, int] = {}
        self.column: Numbers = np.full(size, -1, np.int64)

    def number(self, value: str) -> int:
        found = self.numbers.get(value)
        if found is None:
            found = self.numbers[value] = len(self.values)
            self.values.append(value)
        return found

    def compact(self) -> None:
        """Forget values that no node has any more."""
        used, column = np.unique(self.column, return_inverse=True)
        offset = int(used[0] < 0)
        self.values = [self.values[number] for number in used[offset:]]
        self.numbers = {value: number for number, value in enumerate(self.values)}
        self.column = (column - offset).astype(np.int64)


class Image:
    """An image that nodes have: its size, as first told of, and their slots."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.slots: set[int] = set()


class Cluster:
    """Nodes and the pods on them. Plugins read, the scheduler writes."""

    def __init__(self) -> None:
        self.size = FIRST_SLOTS
        self.slots: dict[str, int] = {}
        """Names of nodes, living or only waited for, and their slots."""
        self.names: list[str] = [""] * FIRST_SLOTS
        self.nodes: list[Node | None] = [None] * FIRST_SLOTS
        self.pods_at: list[dict[str, PodInfo]] = [{} for _ in range(FIRST_SLOTS)]
        self.alive: Mask = np.zeros(FIRST_SLOTS, np.bool_)
        self.count = 0
        """How many nodes are alive."""
        self.unschedulable: Mask = np.zeros(FIRST_SLOTS, np.bool_)
        self.resources: dict[str, int] = {
            "cpu": CPU,
            "memory": MEMORY,
            "ephemeral-storage": STORAGE,
            "pods": PODS,
        }
        self.allocatable: Numbers = np.zeros((8, FIRST_SLOTS), np.int64)
        self.requested: Numbers = np.zeros((8, FIRST_SLOTS), np.int64)
        self.scored: Numbers = np.zeros((2, FIRST_SLOTS), np.int64)
        """CPU and memory with defaults for containers that say nothing."""
        self.labels: dict[str, LabelColumn] = {}
        self.taints: Numbers = np.zeros(FIRST_SLOTS, np.int64)
        self.taint_sets: dict[TaintSet, int] = {(): 0}
        self.pods: dict[str, tuple[PodInfo, int]] = {}
        """Every pod that has a node, by its uid, with the node's slot."""
        self.nominations = Nominations()
        self.counts = PodCounts(FIRST_SLOTS)
        self.ports: dict[tuple[str, int], Counter[tuple[str, int]]] = {}
        """Ports in use, by protocol and number: how often at which address of which slot."""
        self.images: dict[str, Image] = {}
        self.claims: Counter[str] = Counter()
        """How many pods on nodes use a claim, by its key."""
        self.claim_uses: Numbers = np.zeros(FIRST_SLOTS, np.int64)
        """How often pods of each slot use a claim."""
        self._images_at: dict[int, set[str]] = {}
        self._free = list(range(FIRST_SLOTS - 1, -1, -1))
        self._cached: dict[Hashable, Any] = {}
        self.rotation = Rotation()
        self.following = Following()

    def cached(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` says of the nodes alone, kept until a node changes. The key must hold
        everything else that the answer depends on."""
        if key in self._cached:
            return cast("T", self._cached[key])
        if len(self._cached) >= CACHE_LIMIT:
            self._cached.clear()
        value = self._cached[key] = compute()
        return value

    def set_node(self, node: Node) -> None:
        """Take in a new node or a node's new state."""
        slot = self._slot(node.metadata.name)
        self._node_changed(slot)
        if not self.alive[slot]:
            self.alive[slot] = True
            self.count += 1
        self.nodes[slot] = node
        self.unschedulable[slot] = node.spec.unschedulable
        taints = tuple((t.key, t.value, t.effect) for t in node.spec.taints)
        self.taints[slot] = self.taint_sets.setdefault(taints, len(self.taint_sets))
        self.allocatable[:, slot] = 0
        for name, text in node.status.allocatable.items():
            if name == "pods" or is_tracked(name):
                column = self.resource(name)
                self.allocatable[column, slot] = units(name, text)
        self.rotation.put(slot, node.metadata.labels)
        self._set_labels(slot, node.metadata.labels)
        self._set_images(slot, node)

    def remove_node(self, name: str) -> None:
        """Forget a node. Pods on it stay known until they are told to be gone."""
        slot = self.slots.get(name)
        if slot is None or not self.alive[slot]:
            return
        self._node_changed(slot)
        self.alive[slot] = False
        self.count -= 1
        self.nodes[slot] = None
        self.rotation.remove(slot)
        self._set_labels(slot, {})
        self._set_images(slot, None)
        self._release(slot)

    def set_pod(self, info: PodInfo, node: str) -> None:
        """Place a pod on a node, or take in the new state of one that is there."""
        known = self.pods.get(info.uid)
        slot = self._slot(node)
        if known is not None:
            before, place = known
            if place == slot and before.requests == info.requests:
                self.pods[info.uid] = (info, slot)
                self.pods_at[slot][info.uid] = info
                if before.labels != info.labels or before.deleting != info.deleting:
                    # Every binding adds its node's zone to the labels; the node is as full as it
                    # was. The new state first: nothing that both count is forgotten in between.
                    self.counts.account(info, slot, 1)
                    self.counts.account(before, slot, -1)
                return
            self._account(before, place, -1)
            del self.pods_at[place][info.uid]
            if place != slot:
                self._release(place)
        self.pods[info.uid] = (info, slot)
        self.pods_at[slot][info.uid] = info
        self._account(info, slot, 1)

    def remove_pod(self, uid: str) -> None:
        known = self.pods.pop(uid, None)
        if known is None:
            return
        info, slot = known
        self._account(info, slot, -1)
        del self.pods_at[slot][uid]
        self._release(slot)

    def resource(self, name: str) -> int:
        """The row of a resource."""
        row = self.resources.get(name)
        if row is None:
            row = self.resources[name] = len(self.resources)
            if row >= len(self.allocatable):
                more = np.zeros((8, self.size), np.int64)
                self.allocatable = np.concatenate((self.allocatable, more))
                self.requested = np.concatenate((self.requested, more))
        return row

    def label(self, key: str) -> LabelColumn:
        """The column of a label."""
        column = self.labels.get(key)
        if column is None:
            column = self.labels[key] = LabelColumn(self.size)
        return column

    def mask(self, slots: Iterable[int]) -> Mask:
        """These slots and no others."""
        mask = np.zeros(self.size, np.bool_)
        mask[[*slots]] = True
        return mask

    def tally(self, wanted: Wanted, skip_deleting: bool = False) -> Tally:
        """How many such pods each slot has."""
        return self.counts.tally(wanted, self.pods.values(), skip_deleting)

    def domains(
        self, tally: Tally, label: str, which: Hashable, where: Callable[[], Mask]
    ) -> Counts:
        """A tally summed over the nodes of each domain of a topology, by the domain's number;
        `where` chooses the nodes that count, and `which` names its answer. The last place, where
        number -1 leads, stands for nodes without the label and stays zero. Not to be changed."""

        def compute() -> Sums:
            labels, chosen = self.label(label), where()
            slots = np.flatnonzero(chosen & (labels.column >= 0))
            sums = np.bincount(labels.column[slots], tally.counts[slots], len(labels.values) + 1)
            return Sums(sums.astype(np.int64), labels.column, chosen)

        return self.counts.sums(tally, (label, which), compute)

    def _node_changed(self, slot: int) -> None:
        self._cached.clear()
        self.counts.nodes_changed()
        self.following.changed(slot)

    def _account(self, info: PodInfo, slot: int, sign: int) -> None:
        self.following.changed(slot)
        for name, value in info.requests.amounts:
            self.requested[self.resource(name), slot] += sign * value
        self.requested[PODS, slot] += sign
        cpu, memory = info.requests.held
        self.scored[0, slot] += sign * cpu
        self.scored[1, slot] += sign * memory
        for address, protocol, number in info.ports:
            used = self.ports.setdefault((protocol, number), Counter())
            used[address, slot] += sign
            if not used[address, slot]:
                del used[address, slot]
        if info.claims:
            self.claim_uses[slot] += sign * len(info.claims)
        for use in info.claims:
            key = f"{info.namespace}/{use.name}"
            self.claims[key] += sign
            if not self.claims[key]:
                del self.claims[key]
        self.counts.account(info, slot, sign)

    def _set_labels(self, slot: int, labels: Mapping[str, str]) -> None:
        for key, column in self.labels.items():
            if key not in labels:
                column.column[slot] = -1
        for key, value in labels.items():
            column = self.label(key)
            column.column[slot] = column.number(value)

            if len(column.values) > 2 * self.size + FIRST_SLOTS:
                column.compact()

    def _set_images(self, slot: int, node: Node | None) -> None:
        there = {n: i.sizeBytes for i in node.status.images for n in i.names} if node else {}
        for name in self._images_at.pop(slot, set()) - there.keys():
            self.images[name].slots.discard(slot)
            if not self.images[name].slots:
                del self.images[name]
        for name, size in there.items():
            self.images.setdefault(name, Image(size)).slots.add(slot)
        if there:
            self._images_at[slot] = set(there)

    def _slot(self, name: str) -> int:
        slot = self.slots.get(name)
        if slot is None:
            if not self._free:
                self._grow()
            slot = self.slots[name] = self._free.pop()
            self.names[slot] = name
        return slot

    def _release(self, slot: int) -> None:
        """Give a slot free that has neither node nor pods."""
        if self.alive[slot] or self.pods_at[slot]:
            return
        del self.slots[self.names[slot]]
        self.names[slot] = ""
        self._free.append(slot)

    def _grow(self) -> None:
        more = max(FIRST_SLOTS, self.size // 4)
        self._free = list(range(self.size + more - 1, self.size - 1, -1))
        self.size += more
        self.names += [""] * more
        self.nodes += [None] * more
        self.pods_at += [{} for _ in range(more)]
        self.alive = _longer(self.alive, more)
        self.unschedulable = _longer(self.unschedulable, more)
        self.taints = _longer(self.taints, more)
        self.allocatable = _longer(self.allocatable, more)
        self.requested = _longer(self.requested, more)
        self.scored = _longer(self.scored, more)
        self.claim_uses = _longer(self.claim_uses, more)
        for column in self.labels.values():
            column.column = _longer(column.column, more, -1)
        self.counts.grow(more)
        self._cached.clear()
        self.following.clear()


def _longer(array: NDArray[Any], more: int, value: int = 0) -> NDArray[Any]:
    """The array with `more` further slots."""
    new = np.full((*array.shape[:-1], more), value, array.dtype)
    return np.concatenate((array, new), axis=-1)
