"""The simulated nodes themselves: their objects, what these report, and their heartbeats."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime

from navarch import KUBERNETES_VERSION
from navarch.api.errors import ApiError
from navarch.api.objects import Object, to_object
from navarch.api.quantity import parse_quantity
from navarch.api.times import format_micro_time
from navarch.api.types.coordination_v1 import Lease, LeaseSpec
from navarch.api.types.core_v1 import (
    ContainerImage,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    NodeSystemInfo,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import ControllerContext, PatchType, owner_reference

from . import slim
from .addresses import Addresses, NodeAddresses
from .config import parse_taint
from .faults import (
    Fault,
    boot_id,
    boot_id_of_the_dead,
    booted_at,
    conditions,
    fault_of,
    reports_rightly,
)
from .options import Member, SimulatedOptions, heartbeat_seconds
from .timetable import PREFIX

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
AT_ONCE = 16
NODES_IN_PART = 100
"""Heartbeats of so many nodes wait for each other: a server that is busy may take a quarter of a
second for each, and none is late."""
KIND_LABEL = "navarch.dev/node-kind"
OWNER = f"{PREFIX}/owner"
GROUP = f"{PREFIX}/group"
IMAGE_SIZE = "100Mi"


class SimulatedNodes:
    """Registers the nodes, repairs what is said of them, and keeps their Leases fresh."""

    def __init__(
        self, context: ControllerContext, options: SimulatedOptions, members: Sequence[Member]
    ) -> None:
        self._options, self._clock = options, context.clock
        self._nodes = context.client.resource(Node)
        self._leases = context.client.resource(Lease)
        self._members = {member.name: member for member in members}
        self._addresses = NodeAddresses(options.node_cidr, options.first_number)
        self._fallback = ipaddress.ip_network(options.pod_cidr)
        self._objects: dict[str, Node] = {}
        self._faults: dict[str, Fault] = {}
        self._booted: dict[str, datetime] = {}
        self._first_seen: dict[str, float] = {}
        self._ranges: dict[str, Addresses] = {}
        self._registered: set[str] = set()
        self._gone: set[str] = set()
        """Nodes that somebody deleted: they stay deleted until this process starts anew."""
        self.on_return: Callable[[str], None] = lambda _: None
        """Told of nodes that are at work again."""
        self.informer = context.informers.informer(Node, transform=slim.node)
        self.informer.add_handler(self._seen, lambda _, new: self._seen(new), self._deleted)
        self._repairs: asyncio.Queue[str] = asyncio.Queue()
        self.are_heard = asyncio.Event()
        """Set once all nodes that were there before this process have sent a heartbeat. Taking over
        their pods can wait: after the grace period, all of them would be said not to be ready, and
        have to be said to be ready again."""

    async def run(self) -> None:
        await self.informer.wait_synced()
        for node in self.informer.cache.list():
            self._addresses.know(node.metadata.name, _internal_address(node))
        self._addresses.give(self._members)
        there = await self._longest_silent_first()
        names = [*there, *(name for name in self._members if name not in self._objects)]
        parts = min(len(names), max(AT_ONCE, len(names) // NODES_IN_PART))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repair(), name="repair nodes")
            async with asyncio.TaskGroup() as first:
                for part in range(parts):
                    first.create_task(self._greet(there[part::parts]), name=f"first {part}")
            self.are_heard.set()
            # Nodes that are there live while others are still made: thousands may take a minute.
            for part in range(parts):
                turns = self._heartbeats(names[part::parts], part / parts)
                group.create_task(turns, name=f"heartbeats {part}")
            gate = asyncio.Semaphore(AT_ONCE)
            for name in names:
                if name not in self._registered:
                    await gate.acquire()
                    group.create_task(self._register(name, gate), name=f"register {name}")

    async def _longest_silent_first(self) -> list[str]:
        """Those of our nodes that are there already. On a busy machine thousands of heartbeats take
        so long that their order decides whose grace period ends before."""
        renewed: dict[str, str] = {}

        async def read(_: str) -> None:
            for lease in (await self._leases.list(LEASE_NAMESPACE)).items:
                renewed[lease.metadata.name] = lease.spec.renewTime or ""

        await self._patiently("leases of nodes", read)
        there = (name for name in self._members if name in self._objects)
        return sorted(there, key=lambda name: renewed.get(name, ""))

    async def _greet(self, names: Iterable[str]) -> None:
        """Take over nodes that are there, one after another; what fails is tried again later."""
        for name in names:
            try:
                await self._register_once(name)
            except ApiError as error:
                log.warning("%s: %s; again later", name, error)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def is_gone(self, name: str) -> bool:
        """Whether somebody deleted the node."""
        return name in self._gone

    def fault(self, name: str) -> Fault | None:
        return self._faults.get(name)

    def booted(self, name: str) -> datetime | None:
        """When the node came back from the dead."""
        return self._booted.get(name)

    def object(self, name: str) -> Node | None:
        return self._objects.get(name)

    def group(self, name: str) -> str:
        return self._members[name].group.name

    def address(self, name: str) -> str:
        return self._addresses[name]

    def addresses(self, name: str) -> Addresses | None:
        """The pod addresses of a node: of its own range or, if it is not given one soon, of the
        range for nodes without. None while that is not decided."""
        known = self._ranges.get(name)
        node = self._objects.get(name)
        if known is None and node is not None and name in self._addresses:
            cidr = node.spec.podCIDR
            if not cidr:
                if self._clock.monotonic() - self._first_seen[name] < self._options.range_seconds:
                    return None
                offset = 128 * self._addresses.offset(name)
                cidr = f"{ipaddress.ip_address(int(self._fallback.network_address) + offset)}/25"
            known = self._ranges[name] = Addresses(cidr)
        return known

    def _seen(self, node: Node) -> None:
        name = node.metadata.name
        if name not in self._members:
            return
        self._objects[name] = node
        self._first_seen.setdefault(name, self._clock.monotonic())
        self._gone.discard(name)
        fault, before = fault_of(node), self._faults.pop(name, None)
        if name not in self._booted:
            # What is known from before this process, or of a node that hung after it had died.
            if node.status.nodeInfo.bootID == boot_id_of_the_dead(name):
                before = Fault.DEAD
            elif (since := booted_at(node)) is not None:
                self._booted[name] = since
        if fault is not None:
            self._faults[name] = fault
            if fault is Fault.DEAD:
                self._booted.pop(name, None)
            if fault is not before:
                log.info("%s is %s", name, fault.value)
        elif before is not None:
            log.info("%s is back", name)
            if before is Fault.DEAD:
                self._booted[name] = self._clock.now()
            self._repairs.put_nowait(name)
            self.on_return(name)
        if not self._is_right(node):
            self._repairs.put_nowait(name)

    def _deleted(self, node: Node) -> None:
        name = node.metadata.name
        if self._objects.pop(name, None) is not None:
            self._gone.add(name)
            for known in (self._ranges, self._first_seen, self._faults, self._booted):
                known.pop(name, None)

    def _is_right(self, node: Node) -> bool:
        """Whether the Node says of itself what it should: of a dead one, only that it is."""
        name, known = node.metadata.name, node.status.nodeInfo.bootID
        fault = self.fault(name)
        if fault is Fault.DEAD:
            return known == boot_id_of_the_dead(name)
        is_same_boot = known == boot_id(name, self.booted(name))
        return fault is not None or (is_same_boot and reports_rightly(node))

    async def _register(self, name: str, gate: asyncio.Semaphore) -> None:
        """Make the Node and its Lease, or take over those that are there."""
        try:
            await self._patiently(name, self._register_once)
        finally:
            gate.release()

    async def _patiently(self, name: str, step: Callable[[str], Awaitable[None]]) -> None:
        delay = 0.2
        while True:
            try:
                await step(name)
            except ApiError as error:
                log.warning("%s: %s; again in %.1f s", name, error, delay)
                await self._clock.sleep(delay)
                delay = min(2 * delay, 10.0)
            else:
                return

    async def _register_once(self, name: str) -> None:
        await self._put_in_place(name)
        self._registered.add(name)

    async def _put_in_place(self, name: str) -> None:
        node = self._objects.get(name)
        if node is None:
            wanted = self._described(name)
            try:
                node = await self._nodes.create(wanted)
            except ApiError as error:
                if not error.is_already_exists:
                    raise
                node = await self._nodes.get(name)
            else:
                self._seen(self._objects.get(name, slim.node(node)))
                await self._make_lease(name)
                return
            self._seen(self._objects.get(name, slim.node(node)))
        if name in self._faults:
            return
        described = self._described(name).status
        if not self._is_right(node) or node.status.capacity != described.capacity:
            await self._report(name)
        await self._renew(name)

    async def _report(self, name: str) -> None:
        """Say what the node has, and how it is."""
        described = self._described(name)
        status = described.status
        status.conditions = conditions(self._objects.get(name, described), self._clock.now())
        await self._patch_status(name, {"status": to_object(status)})

    async def _patch_status(self, name: str, patch: Object) -> None:
        await self._nodes.patch(
            name, "", patch, subresource="status", patch_type=PatchType.STRATEGIC
        )

    def _described(self, name: str) -> Node:
        member = self._members[name]
        group = member.group
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            KIND_LABEL: "simulated",
            **group.labels,
        }
        if group.region:
            labels["topology.kubernetes.io/region"] = group.region
        if zone := group.zone(member.number):
            labels["topology.kubernetes.io/zone"] = zone
        annotations = dict(group.annotations)
        if self._options.owner:
            annotations[OWNER] = self._options.owner
        node = Node(
            metadata=ObjectMeta(name=name, labels=labels, annotations=annotations),
            spec=NodeSpec(
                taints=[parse_taint(text) for text in group.taints],
                unschedulable=group.unschedulable,
            ),
            status=NodeStatus(
                capacity={**group.capacity},
                allocatable={**group.capacity, **group.allocatable},
                addresses=[
                    NodeAddress(type="InternalIP", address=self.address(name)),
                    NodeAddress(type="Hostname", address=name),
                ],
                nodeInfo=NodeSystemInfo(
                    machineID=name,
                    systemUUID=name,
                    bootID=boot_id(name, self.booted(name)),
                    kernelVersion="simulated",
                    osImage="simulated",
                    containerRuntimeVersion="simulated://1",
                    kubeletVersion=KUBERNETES_VERSION,
                    operatingSystem="linux",
                    architecture="amd64",
                ),
                images=[_image(text) for text in group.images],
            ),
        )
        node.status.conditions = conditions(node, self._clock.now())
        return node

    async def _repair(self) -> None:
        """Contradict those who say of a node what it does not say itself."""
        while True:
            name = await self._repairs.get()
            node = self._objects.get(name)
            if node is None or self._is_right(node):
                continue
            try:
                if self.fault(name) is Fault.DEAD:
                    patch = {"status": {"nodeInfo": {"bootID": boot_id_of_the_dead(name)}}}
                    await self._patch_status(name, patch)
                else:
                    await self._report(name)
                    await self._renew(name)
            except ApiError as error:
                if not error.is_not_found:
                    log.warning("%s: status not written: %s", name, error)

    async def _heartbeats(self, names: Sequence[str], offset: float) -> None:
        """Renew these nodes' Leases one by one, evenly over the time between two heartbeats; now
        and then, the node's status as well. The first comes after `offset` of a step."""
        seconds = heartbeat_seconds(self._options, len(self._members))
        pause = seconds / len(names)
        rounds = max(1, round(self._options.status_seconds / seconds))
        due = self._clock.monotonic() + pause * offset
        turn = 0
        while True:
            for number, name in enumerate(names):
                await self._clock.sleep(due - self._clock.monotonic())
                # What is late is not made up for: that would only make everything later.
                due = max(due + pause, self._clock.monotonic())
                if name not in self._objects or name in self._faults:
                    continue
                try:
                    await self._renew(name)
                    # Each in another round, so that there is never a flood.
                    if (turn + number) % rounds == rounds - 1:
                        await self._stamp(name)
                except ApiError as error:
                    log.warning("%s: no heartbeat: %s", name, error)
            turn += 1

    async def _stamp(self, name: str) -> None:
        """Report the conditions anew, though nothing has changed (every five minutes)."""
        node = self._objects.get(name)
        if node is not None:
            told = [to_object(each) for each in conditions(node, self._clock.now())]
            await self._patch_status(name, {"status": {"conditions": told}})

    async def _renew(self, name: str) -> None:
        patch: Object = {"spec": {"renewTime": format_micro_time(self._clock.now())}}
        try:
            await self._leases.patch(name, LEASE_NAMESPACE, patch)
        except ApiError as error:
            if not error.is_not_found:
                raise
            await self._make_lease(name)

    async def _make_lease(self, name: str) -> None:
        node = self._objects.get(name)
        if node is None:
            return
        reference = owner_reference(node, controller=False)
        lease = Lease(
            metadata=ObjectMeta(name=name, namespace=LEASE_NAMESPACE, ownerReferences=[reference]),
            spec=LeaseSpec(
                holderIdentity=name,
                leaseDurationSeconds=LEASE_SECONDS,
                renewTime=format_micro_time(self._clock.now()),
            ),
        )
        try:
            await self._leases.create(lease)
        except ApiError as error:
            if not error.is_already_exists:
                raise
            await self._renew(name)


def _internal_address(node: Node) -> str:
    return next((a.address for a in node.status.addresses if a.type == "InternalIP"), "")


def _image(text: str) -> ContainerImage:
    """`name=size`, or only the name."""
    name, _, size = text.partition("=")
    return ContainerImage(names=[name], sizeBytes=parse_quantity(size or IMAGE_SIZE).value())
