"""Keeps to the machine what is the machine's: pods together get no more than is allocatable.

`enforceNodeAllocatable` names what is limited: the pods' own cgroup (`pods`), and, for those who
have given their system's daemons cgroups, these too (`system-reserved`, `kube-reserved`, and both
with `-compressible` for processor time alone). Memory that pods use already is more than a limit
may be set to on cgroup v1: then eviction brings it down, and the limit is tried again
(`pkg/kubelet/cm/node_container_manager_linux.go`).
"""

from __future__ import annotations

import asyncio
import logging

from navarch.api.quantity import parse_quantity

from .cgroups import CgroupProblem
from .resources import CgroupLimits, amount, cpu_shares, milli
from .starting import NodeServices

log = logging.getLogger(__name__)

COMPRESSIBLE = "-compressible"


class Reservations:
    """The cgroups of all pods, and those of the system that are configured."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._enforced = False
        self.problems: list[str] = []
        """Why the node cannot be ready: something it is to limit is not there."""

    async def make(self) -> None:
        """Makes the cgroups, then limits them."""
        await asyncio.to_thread(self._services.cgroups.ensure_classes)
        await self._limit_daemons()
        await self.enforce()

    def whole(self) -> CgroupLimits:
        """What all pods together may have: capacity without reservations. What eviction keeps free
        is theirs, too: it has to notice before the kernel does."""
        options, node = self._services.options, self._services.node
        policy = node.policy
        memory = policy.memory_capacity
        cpu = node.cpu_millis
        if "pods" in options.enforce_node_allocatable:
            for reserved in options.reserved:
                memory -= amount(reserved, "memory")
        else:
            cpu += sum(milli(reserved, "cpu") for reserved in options.reserved)
            memory = 0
        return CgroupLimits(cpu_shares(cpu), memory=max(0, memory))

    async def enforce(self) -> None:
        """Limits the pods' cgroup, unless that has been done."""
        if self._enforced:
            return
        events = self._services.events
        try:
            await asyncio.to_thread(self._services.cgroups.ensure_classes, self.whole())
        except CgroupProblem as problem:
            text = f"Failed to update Node Allocatable Limits {problem}"
            log.warning("%s", text)
            events.node("Warning", "FailedNodeAllocatableEnforcement", text)
            return
        self._enforced = True
        events.node(
            "Normal", "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods"
        )

    async def _limit_daemons(self) -> None:
        options = self._services.options
        for kind, title, name, reserved in (
            ("system-reserved", "System", options.system_reserved_cgroup, options.system_reserved),
            ("kube-reserved", "Kube", options.kube_reserved_cgroup, options.kube_reserved),
        ):
            for suffix in ("", COMPRESSIBLE):
                if kind + suffix not in options.enforce_node_allocatable:
                    continue
                cpu = parse_quantity(reserved.get("cpu", "0")).milli_value()
                limits = CgroupLimits(cpu_shares(cpu), memory=amount(reserved, "memory"))
                try:
                    await asyncio.to_thread(
                        self._services.cgroups.enforce_existing,
                        name,
                        limits,
                        compressible=bool(suffix),
                    )
                except CgroupProblem as problem:
                    text = f"Failed to enforce {title} Reserved Cgroup Limits on {problem}"
                    log.error("%s", text)
                    self._services.events.node("Warning", "FailedNodeAllocatableEnforcement", text)
                    self.problems.append(text)
