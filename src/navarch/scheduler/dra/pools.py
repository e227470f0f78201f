"""The pools of devices that a node can reach, as drivers publish them in slices.

A pool is spread over slices, all of one generation, and is complete when as many are there as they
say themselves. While a driver replaces a pool it is not; then nothing of it is given away, and
whoever wants *all* devices has to wait. Partitions of one device share counters that are published
beside them: what one partition takes, the others lack.
Source: KEP-4381, KEP-4815; upstream's `structured/internal/incubating/pools_incubating.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from navarch.api.node_selection import selects
from navarch.api.quantity import Quantity, parse_quantity
from navarch.api.resource_claims import DeviceId, SelectorProblem, qualified
from navarch.api.types.core_v1 import Node, NodeSelector
from navarch.api.types.resource_v1 import Device, DeviceAttribute, ResourceSlice

Counters = Mapping[str, Mapping[str, Quantity]]
"""Amounts by the names of counter set and counter."""


class DeviceView:
    """A device of a slice, and what was found out about it."""

    __slots__ = ("_consumes", "_matches", "device", "id", "slice")

    def __init__(self, device: Device, owner: SliceView) -> None:
        self.device = device
        self.slice = owner
        spec = owner.slice.spec
        self.id: DeviceId = (spec.driver, spec.pool.name, device.name)
        self._matches: dict[str, bool | SelectorProblem] = {}
        self._consumes: tuple[tuple[str, str, Quantity], ...] | None = None

    @property
    def consumes(self) -> tuple[tuple[str, str, Quantity], ...]:
        """Counter set, counter and amount of all that it takes of counters."""
        if self._consumes is None:
            self._consumes = tuple(
                (each.counterSet, name, parse_quantity(counter.value))
                for each in self.device.consumesCounters
                for name, counter in each.counters.items()
            )
        return self._consumes

    def matches(self, expression: str) -> bool:
        """What a selector says of it. Raises SelectorProblem, whose text begins with the stage."""
        known = self._matches.get(expression)
        if known is None:
            known = self._matches[expression] = self._match(expression)
        if isinstance(known, SelectorProblem):
            raise known
        return known

    def _match(self, expression: str) -> bool | SelectorProblem:
        # Late, because most clusters have no devices.
        from navarch.api.cel.devices import compile_selector, matches, variables

        try:
            program = compile_selector(expression)
        except SelectorProblem as problem:
            return SelectorProblem(f"CEL compile error: {problem}")
        try:
            return matches(program, variables(self.id[0], self.device))
        except SelectorProblem as problem:
            return SelectorProblem(f"CEL runtime error: {problem}")

    def attribute(self, name: str) -> Any:
        """The value of an attribute by its full name, with its type; None if it has none."""
        found = self.device.attributes.get(name)
        if found is None:
            domain, identifier = qualified(name, "")
            if domain == self.id[0]:
                found = self.device.attributes.get(identifier)
        return None if found is None else _typed(found)

    def is_on(self, node: Node) -> bool:
        """Whether the node reaches it, where that is said for each device."""
        each = self.device
        return _reaches(node, each.nodeName, each.allNodes, each.nodeSelector)


def _typed(attribute: DeviceAttribute) -> tuple[str, Any] | None:
    for kind in ("string", "int", "bool", "version"):
        value = getattr(attribute, kind)
        if value is not None:
            return kind, value
    return None


def _reaches(
    node: Node, name: str | None, all_nodes: bool | None, selector: NodeSelector | None
) -> bool:
    if name:
        return node.metadata.name == name
    if all_nodes:
        return True
    meta = node.metadata
    return selector is not None and selects(selector, meta.name, meta.labels)


class SliceView:
    """A slice, and its devices."""

    def __init__(self, slice_: ResourceSlice) -> None:
        self.slice = slice_
        self.pool = (slice_.spec.driver, slice_.spec.pool.name)
        self.devices = [DeviceView(each, self) for each in slice_.spec.devices]

    @property
    def generation(self) -> int:
        return self.slice.spec.pool.generation

    @cached_property
    def is_local(self) -> bool:
        """Whether only the node that it names has to do with it."""
        return bool(self.slice.spec.nodeName) and not self.slice.spec.sharedCounters

    def reachable(self, node: Node) -> list[DeviceView] | None:
        """Its devices that the node reaches; None if it has nothing to do with the node."""
        spec = self.slice.spec
        if spec.sharedCounters:
            return self.devices
        if spec.perDeviceNodeSelection:
            return [each for each in self.devices if each.is_on(node)] or None
        if _reaches(node, spec.nodeName, spec.allNodes, spec.nodeSelector):
            return self.devices
        return None


@dataclass(slots=True)
class Pool:
    """Devices of one pool, as far as one node reaches them."""

    id: tuple[str, str]
    devices: list[DeviceView] = field(default_factory=list)
    """In the order of their slices' names."""
    all_devices: list[DeviceView] = field(default_factory=list)
    """With those that the node does not reach, but that may take of the same counters."""
    counters: Counters = field(default_factory=dict)
    is_incomplete: bool = False
    is_invalid: bool = False

    def __str__(self) -> str:
        return "/".join(self.id)

    @property
    def has_conditions(self) -> bool:
        return any(each.device.bindingConditions for each in self.devices)


def gather(
    node: Node, slices: Iterable[SliceView], in_pool: Mapping[tuple[str, str], Sequence[SliceView]]
) -> list[Pool]:
    """The pools with something for a node, those first whose devices can be used at once. `slices`
    are those that may concern the node, `in_pool` are all there are, by pool."""
    found: dict[tuple[str, str], list[tuple[SliceView, list[DeviceView]]]] = {}
    for view in slices:
        devices = view.reachable(node)
        if devices is None:
            continue
        known = found.setdefault(view.pool, [])
        if known and known[0][0].generation != view.generation:
            if known[0][0].generation > view.generation:
                continue
            known.clear()
        known.append((view, devices))
    pools = [pool for name in sorted(found) if (pool := _pool(name, found[name], in_pool[name]))]
    return sorted(pools, key=lambda pool: pool.has_conditions)


def _pool(
    name: tuple[str, str],
    reached: list[tuple[SliceView, list[DeviceView]]],
    every: Sequence[SliceView],
) -> Pool | None:
    """None: a newer generation, with nothing for this node, is about to replace it."""
    generation = reached[0][0].generation
    if any(view.generation > generation for view in every):
        return None
    current = [view for view in every if view.generation == generation]
    if len(current) != reached[0][0].slice.spec.pool.resourceSliceCount:
        return Pool(name, is_incomplete=True)
    reached.sort(key=lambda each: each[0].slice.metadata.name)
    devices = [device for _, some in reached for device in some]
    whole = [device for view, _ in reached for device in view.devices]
    if len({device.id for device in whole}) != len(whole):
        return Pool(name, is_invalid=True)
    counters: dict[str, dict[str, Quantity]] = {}
    for view, _ in reached:
        for each in view.slice.spec.sharedCounters:
            if each.name in counters:
                return Pool(name, is_invalid=True)
            amounts = {key: parse_quantity(value.value) for key, value in each.counters.items()}
            counters[each.name] = amounts
    all_devices = [device for view in current for device in view.devices]
    if any(key not in counters.get(set_, {}) for set_, key, _ in _consumed(all_devices)):
        return Pool(name, is_invalid=True)
    return Pool(name, devices, all_devices, counters)


def _consumed(devices: Iterable[DeviceView]) -> Iterator[tuple[str, str, Quantity]]:
    for device in devices:
        yield from device.consumes
