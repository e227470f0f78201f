"""Nodes without containers: thousands of them in one process, for tests of scale and of whatever
works with pods rather than in them.

Each has a Node object and a Lease like any other. Pods bound to them go through their life by a
timetable: Pending, Running and ready, perhaps Succeeded or Failed, gone. One watch serves all
nodes, one queue all pods; nothing is kept per pod but what an informer holds. Needs no root.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from navarch import KUBERNETES_VERSION
from navarch.api.errors import ApiError
from navarch.api.objects import Object, to_object
from navarch.api.times import format_micro_time, format_time
from navarch.api.types.coordination_v1 import Lease, LeaseSpec
from navarch.api.types.core_v1 import (
    Container,
    Node,
    NodeAddress,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    NodeSystemInfo,
    Pod,
    PodStatus,
    Taint,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import (
    Client,
    ClientConfig,
    Controller,
    ControllerContext,
    InformerFactory,
    PatchType,
    drop_managed_fields,
    owner_reference,
)

from .simulated_pod import Place, Remove, Timetable, Wait, Write, next_step

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
WRITES_PER_SECOND = 100.0
"""As many heartbeats are sent at most, if the nodes can live with it."""
QUICKEST, SLOWEST = 10.0, 25.0
"""Bounds of the seconds between two heartbeats of a node."""
AT_ONCE = 16
KIND_LABEL = "navarch.dev/node-kind"


@dataclass(frozen=True, slots=True)
class SimulatedOptions:
    """What the simulated nodes are like."""

    kubeconfig: str
    nodes: int = 1
    name_prefix: str = "sim-"
    """Nodes are called this and a number from 0."""
    names: tuple[str, ...] = ()
    """Names of the nodes, instead of `nodes` and `name_prefix`."""
    first_number: int = 0
    """The number of the first node, which its address comes from. Lets several processes have nodes
    in one cluster."""
    capacity: Mapping[str, str] = field(
        default_factory=lambda: {
            "cpu": "8",
            "memory": "32Gi",
            "ephemeral-storage": "100Gi",
            "pods": "110",
        }
    )
    labels: Mapping[str, str] = field(default_factory=dict)
    """Further labels of all nodes."""
    taints: tuple[str, ...] = ()
    """`key=value:Effect`, of all nodes when they are made."""
    zones: tuple[str, ...] = ()
    """Nodes are dealt out to these zones in turn."""
    start_seconds: float = 0.0
    """From a pod's arrival until it is ready."""
    stop_seconds: float = 0.0
    """From a pod's deletion until it is gone, within its grace period."""
    run_seconds: float | None = None
    """After so long, pods that do not restart always succeed. Without it they run until they are
    deleted. A pod's annotation `simulated.navarch.dev/run-seconds` overrides it."""
    heartbeat_seconds: float = 0.0
    """Between two heartbeats of a node; 0 chooses by the number of nodes."""
    node_cidr: str = "198.18.0.0/15"
    """Where nodes have their addresses; nothing listens there (a range for benchmarks)."""
    pod_cidr: str = "100.64.0.0/10"
    """Where pods get theirs on nodes that have not been given a range of their own."""
    range_seconds: float = 10.0
    """So long pods of a new node wait for it to be given one."""


async def run(options: SimulatedOptions) -> None:
    """Be these nodes until cancelled."""
    config = ClientConfig.from_kubeconfig(options.kubeconfig)
    async with Client(config.with_user_agent("simulated")) as client:
        await run_nodes(client, options)


async def run_nodes(client: Client, options: SimulatedOptions) -> None:
    """Be nodes with a client that is there already."""
    context = ControllerContext(client, InformerFactory(client), client.clock)
    try:
        nodes = SimulatedNodes(context, options)
        pods = SimulatedPods(context, options, nodes)
        await context.informers.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(nodes.run(), name="simulated nodes")
            group.create_task(pods.run(), name="simulated pods")
    finally:
        await context.close()


class Addresses:
    """The pod addresses of one node, given out lowest first."""

    def __init__(self, cidr: str) -> None:
        self._network = ipaddress.ip_network(cidr)
        self._of: dict[str, int] = {}
        self._used: set[int] = set()
        self._next = 1
        self.is_new = True

    def of(self, uid: str, known: str) -> str:
        """The address of a pod: the one it has, or the next that is free."""
        offset = self._of.get(uid)
        if offset is None:
            offset = self._offset(known)
            self._of[uid] = offset
            self._used.add(offset)
        return str(self._network[offset])

    def release(self, uid: str) -> None:
        offset = self._of.pop(uid, None)
        if offset is not None:
            self._used.discard(offset)

    def _offset(self, known: str) -> int:
        if known and ipaddress.ip_address(known) in self._network:
            return int(ipaddress.ip_address(known)) - int(self._network.network_address)
        size = self._network.num_addresses
        for step in range(size):
            # On from the last one, so that an address just freed is not at once another pod's.
            offset = (self._next + step - 1) % (size - 2) + 1
            if offset not in self._used:
                self._next = offset + 1
                return offset
        raise RuntimeError(f"no address is left in {self._network}")


class SimulatedNodes:
    """Registers the nodes, repairs what is said of them, and keeps their Leases fresh."""

    def __init__(self, context: ControllerContext, options: SimulatedOptions) -> None:
        self._options = options
        self._clock = context.clock
        self._nodes = context.client.resource(Node)
        self._leases = context.client.resource(Lease)
        names = options.names or [f"{options.name_prefix}{n}" for n in range(options.nodes)]
        self._numbers = {name: n for n, name in enumerate(names, options.first_number)}
        self._network = ipaddress.ip_network(options.node_cidr)
        self._fallback = ipaddress.ip_network(options.pod_cidr)
        self._objects: dict[str, Node] = {}
        self._first_seen: dict[str, float] = {}
        self._ranges: dict[str, Addresses] = {}
        self._gone: set[str] = set()
        """Nodes that somebody deleted: they stay deleted until this process starts anew."""
        self.informer = context.informers.informer(Node)
        self.informer.add_handler(self._seen, lambda _, new: self._seen(new), self._deleted)
        self._repairs: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        await self.informer.wait_synced()
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for name in self._numbers:
                await gate.acquire()
                group.create_task(self._register(name, gate), name=f"register {name}")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repair(), name="repair nodes")
            parts = min(AT_ONCE, max(1, len(self._numbers)))
            for part in range(parts):
                group.create_task(self._heartbeats(part, parts), name=f"heartbeats {part}")

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def is_gone(self, name: str) -> bool:
        """Whether somebody deleted the node."""
        return name in self._gone

    def address(self, name: str) -> str:
        return str(self._network[self._numbers[name] + 1])

    def addresses(self, name: str) -> Addresses | None:
        """The pod addresses of a node: of its own range or, if it is not given one soon, of the
        range for nodes without. None while that is not decided."""
        known = self._ranges.get(name)
        node = self._objects.get(name)
        if known is None and node is not None:
            cidr = node.spec.podCIDR
            if not cidr:
                if self._clock.monotonic() - self._first_seen[name] < self._options.range_seconds:
                    return None
                start = int(self._fallback.network_address) + 128 * self._numbers[name]
                cidr = f"{ipaddress.ip_address(start)}/25"
            known = self._ranges[name] = Addresses(cidr)
        return known

    def _seen(self, node: Node) -> None:
        name = node.metadata.name
        if name not in self._numbers:
            return
        self._objects[name] = node
        self._first_seen.setdefault(name, self._clock.monotonic())
        self._gone.discard(name)
        if not _is_ready(node):
            self._repairs.put_nowait(name)

    def _deleted(self, node: Node) -> None:
        name = node.metadata.name
        if self._objects.pop(name, None) is not None:
            self._gone.add(name)
            self._ranges.pop(name, None)
            self._first_seen.pop(name, None)

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
        node = self._objects.get(name)
        if node is None:
            try:
                node = await self._nodes.create(self._described(name))
            except ApiError as error:
                if not error.is_already_exists:
                    raise
                node = await self._nodes.get(name)
                await self._report(name)
            self._seen(self._objects.get(name, node))
        else:
            await self._report(name)
        await self._renew(name)

    async def _report(self, name: str) -> None:
        """Say what the node has, and that it is ready."""
        patch = {"status": to_object(self._described(name).status)}
        await self._nodes.patch(
            name, "", patch, subresource="status", patch_type=PatchType.STRATEGIC
        )

    def _described(self, name: str) -> Node:
        options, number = self._options, self._numbers[name]
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            KIND_LABEL: "simulated",
            **options.labels,
        }
        if options.zones:
            labels["topology.kubernetes.io/zone"] = options.zones[number % len(options.zones)]
        now = format_time(self._clock.now())
        conditions = [
            NodeCondition(
                type=kind,
                status=status,
                reason=reason,
                message=message,
                lastHeartbeatTime=now,
                lastTransitionTime=now,
            )
            for kind, status, reason, message in (
                ("MemoryPressure", "False", "KubeletHasSufficientMemory", "memory is simulated"),
                ("DiskPressure", "False", "KubeletHasNoDiskPressure", "the disk is simulated"),
                ("PIDPressure", "False", "KubeletHasSufficientPID", "processes are simulated"),
                ("Ready", "True", "KubeletReady", "the node is simulated"),
            )
        ]
        status = NodeStatus(
            capacity={**options.capacity},
            allocatable={**options.capacity},
            conditions=conditions,
            addresses=[
                NodeAddress(type="InternalIP", address=self.address(name)),
                NodeAddress(type="Hostname", address=name),
            ],
            nodeInfo=NodeSystemInfo(
                machineID=name,
                systemUUID=name,
                bootID=name,
                kernelVersion="simulated",
                osImage="simulated",
                containerRuntimeVersion="simulated://1",
                kubeletVersion=KUBERNETES_VERSION,
                operatingSystem="linux",
                architecture="amd64",
            ),
        )
        spec = NodeSpec(taints=[parse_taint(text) for text in options.taints])
        return Node(metadata=ObjectMeta(name=name, labels=labels), spec=spec, status=status)

    async def _repair(self) -> None:
        """Contradict those who say a node is not ready."""
        while True:
            name = await self._repairs.get()
            node = self._objects.get(name)
            if node is None or _is_ready(node):
                continue
            try:
                await self._report(name)
            except ApiError as error:
                if not error.is_not_found:
                    log.warning("%s: status not written: %s", name, error)

    async def _heartbeats(self, part: int, parts: int) -> None:
        """Renew every `parts`-th node's Lease, evenly over the time between two heartbeats."""
        names = list(self._numbers)[part::parts]
        seconds = self._options.heartbeat_seconds or min(
            max(QUICKEST, len(self._numbers) / WRITES_PER_SECOND), SLOWEST
        )
        pause = seconds / len(names)
        due = self._clock.monotonic() + pause * part / parts
        while True:
            for name in names:
                await self._clock.sleep(due - self._clock.monotonic())
                # What is late is not made up for: that would only make everything later.
                due = max(due + pause, self._clock.monotonic())
                if name in self._gone:
                    continue
                try:
                    await self._renew(name)
                except ApiError as error:
                    log.warning("%s: no heartbeat: %s", name, error)

    async def _renew(self, name: str) -> None:
        now = format_micro_time(self._clock.now())
        patch: Object = {"spec": {"renewTime": now}}
        try:
            await self._leases.patch(name, LEASE_NAMESPACE, patch)
        except ApiError as error:
            if not error.is_not_found:
                raise
        else:
            return
        node = self._objects[name]
        reference = owner_reference(node, controller=False)
        lease = Lease(
            metadata=ObjectMeta(name=name, namespace=LEASE_NAMESPACE, ownerReferences=[reference]),
            spec=LeaseSpec(holderIdentity=name, leaseDurationSeconds=LEASE_SECONDS, renewTime=now),
        )
        await self._leases.create(lease)


def parse_taint(text: str) -> Taint:
    """`key=value:Effect` or `key:Effect`, as kubectl writes a taint."""
    rest, colon, effect = text.rpartition(":")
    key, _, value = rest.partition("=")
    if not colon or not key:
        raise ValueError(f"{text!r} is no taint: key=value:Effect")
    return Taint(key=key, value=value, effect=effect)


def _is_ready(node: Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def _slim(pod: Pod) -> Pod:
    """The transform of the pod informer: only what `next_step` reads."""
    drop_managed_fields(pod)
    spec = pod.spec
    spec.volumes, spec.tolerations, spec.affinity = [], [], None
    spec.topologySpreadConstraints = []
    for containers in (spec.containers, spec.initContainers):
        containers[:] = [
            Container(name=c.name, image=c.image, restartPolicy=c.restartPolicy) for c in containers
        ]
    return pod


class SimulatedPods(Controller):
    """Takes each pod on these nodes to its next step, and comes back when one is due."""

    name = "simulated-pods"
    workers = 32

    def __init__(
        self, context: ControllerContext, options: SimulatedOptions, nodes: SimulatedNodes
    ) -> None:
        super().__init__(context)
        self._nodes = nodes
        self._timetable = Timetable(
            options.start_seconds, options.stop_seconds, options.run_seconds
        )
        self._resource = self.client.resource(Pod)
        self.pods = context.informers.informer(
            Pod, field_selector="spec.nodeName!=", transform=_slim
        )
        self.pods.add_index("node", lambda pod: [pod.spec.nodeName])
        self.watch(self.pods, self._key_of)
        self.pods.add_handler(on_delete=self._release)
        self.depends_on(nodes.informer)

    def _key_of(self, pod: Pod) -> str | None:
        meta = pod.metadata
        return f"{meta.namespace}/{meta.name}" if pod.spec.nodeName in self._nodes else None

    def _release(self, pod: Pod) -> None:
        addresses = self._nodes.addresses(pod.spec.nodeName)
        if addresses is not None:
            addresses.release(pod.metadata.uid)

    def _addresses(self, node: str) -> Addresses | None:
        """The node's, with those taken out that its pods have had since before this process."""
        addresses = self._nodes.addresses(node)
        if addresses is not None and addresses.is_new:
            addresses.is_new = False
            for pod in self.pods.cache.by_index("node", node):
                if pod.status.podIP and not pod.spec.hostNetwork:
                    addresses.of(pod.metadata.uid, pod.status.podIP)
        return addresses

    async def reconcile(self, key: str) -> None:
        pod = self.pods.cache.get(key)
        if pod is None or pod.spec.nodeName not in self._nodes:
            return
        node, meta = pod.spec.nodeName, pod.metadata
        addresses = self._addresses(node)
        if addresses is None:
            if not self._nodes.is_gone(node):
                self.queue.add_after(key, 0.1)
            return
        own = "" if pod.spec.hostNetwork else addresses.of(meta.uid, pod.status.podIP)
        place = Place(self._nodes.address(node), own)
        try:
            match next_step(pod, place, self._timetable, self.clock.now()):
                case Wait(seconds):
                    if seconds is not None:
                        # Times in objects are whole seconds; a moment more is on the safe side.
                        self.queue.add_after(key, seconds + 0.01)
                case Write(status):
                    await self._write(pod, status)
                case Remove():
                    await self._resource.delete(
                        meta.name, meta.namespace, uid=meta.uid, grace_period=0
                    )
        except ApiError as error:
            # The pod is gone: the informer is about to tell.
            if not error.is_not_found:
                raise

    async def _write(self, pod: Pod, status: PodStatus) -> None:
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": to_object(status)}
        await self._resource.patch(
            pod.metadata.name,
            pod.metadata.namespace,
            patch,
            subresource="status",
            patch_type=PatchType.STRATEGIC,
        )
