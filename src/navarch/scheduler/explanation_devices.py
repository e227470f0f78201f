"""Which devices a pod's claims lack on nodes: none that match, or none that are free.

What the search for devices itself says is only that it found nothing. The requests are looked at
one by one here, so when each could be had alone but not all together, that is what is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from navarch.api.resource_claims import ClaimProblem, SelectorProblem
from navarch.api.types.core_v1 import Node
from navarch.api.types.resource_v1 import DeviceSubRequest, ExactDeviceRequest, ResourceClaim
from navarch.scheduler.cluster import Mask
from navarch.scheduler.dra.devices import Devices
from navarch.scheduler.dra.pools import DeviceView
from navarch.scheduler.framework import Cycle
from navarch.scheduler.plugins.dynamic_resources import NOT_ALL, NOT_HERE, pod_claims

Request = ExactDeviceRequest | DeviceSubRequest


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request of a claim that has no devices yet; any of its alternatives would do."""

    claim: str
    options: tuple[Request, ...]

    def __str__(self) -> str:
        texts = (_option(each) for each in self.options)
        return f"claim {self.claim} asks for {' or '.join(texts)}"


def missing_devices(cycle: Cycle, reason: str, nodes: Mask) -> list[tuple[Mask, str, str]]:
    """Nodes, what is to be said of them, and what would help."""
    devices = cycle.objects.devices
    try:
        claims = [*pod_claims(devices, cycle.pod.pod)]
    except ClaimProblem:
        return [(nodes, "", "")]
    if reason == NOT_HERE:
        return [(nodes, _where(claims), "let the pod run there, or end what uses the claim")]
    if reason != NOT_ALL:
        return [(nodes, "", "")]
    asked = [*_requests(claims)]
    told: dict[tuple[str, str], list[int]] = {}
    for slot in np.flatnonzero(nodes).tolist():
        node = cycle.cluster.nodes[slot]
        assert node is not None
        told.setdefault(_judge(devices, node, asked), []).append(slot)
    # Where there are devices that only are not free is nearer than where there are none.
    order = sorted(told, key=lambda each: each[0].endswith("none of it here"))
    return [(cycle.cluster.mask(told[each]), *each) for each in order]


def _judge(devices: Devices, node: Node, asked: Iterable[_Asked]) -> tuple[str, str]:
    reached = [
        device
        for pool in (devices.pools(node) if devices.has_any(node.metadata.name) else ())
        if not (pool.is_incomplete or pool.is_invalid)
        for device in pool.devices
    ]
    for each in asked:
        best, free_there = 0, 0
        for option in each.options:
            matching = [device for device in reached if _matches(devices, option, device)]
            free = sum(device.id not in devices.in_use.devices for device in matching)
            enough = free == len(matching) if option.allocationMode == "All" else (
                free >= option.count
            )  # fmt: skip
            if matching and enough:
                break
            best, free_there = max((best, free_there), (len(matching), free))
        else:
            if not best:
                return f"{each}: none of it here", "ask for other devices, or add nodes with them"
            return (
                f"{each}: of {best} here {free_there or 'none'} "
                f"{'are' if free_there > 1 else 'is'} free",
                "end pods that have such devices, or ask for fewer",
            )
    return "matching devices are free, but tainted, short of capacity, or do not go together", ""


def _requests(claims: Iterable[ResourceClaim]) -> Iterator[_Asked]:
    for claim in claims:
        if claim.status.allocation is None:
            for request in claim.spec.devices.requests:
                exactly = request.exactly
                options = (exactly,) if exactly is not None else tuple(request.firstAvailable)
                yield _Asked(claim.metadata.name, options)


def _matches(devices: Devices, option: Request, device: DeviceView) -> bool:
    device_class = devices.classes.get(option.deviceClassName)
    if device_class is None:
        return False
    try:
        return all(
            each.cel is not None and device.matches(each.cel.expression)
            for each in (*device_class.spec.selectors, *option.selectors)
        )
    except SelectorProblem:
        return False


def _option(option: Request) -> str:
    count = "all devices" if option.allocationMode == "All" else f"{option.count} device(s)"
    which = " that its selectors choose" if option.selectors else ""
    return f"{count} of class {option.deviceClassName}{which}"


def _where(claims: Iterable[ResourceClaim]) -> str:
    """The nodes to which claims are tied by the devices that they have."""
    texts = []
    for claim in claims:
        selector = claim.status.allocation.nodeSelector if claim.status.allocation else None
        for term in selector.nodeSelectorTerms if selector else ():
            where = [f"{e.key}={'|'.join(e.values)}" for e in term.matchExpressions]
            names = [name for each in term.matchFields for name in each.values]
            texts.append(f"claim {claim.metadata.name} has its devices at "
                         f"{', '.join([*names, *where])}")  # fmt: skip
    return "; ".join(texts)
