"""Keeps the Node object and the node's Lease: registered, up to date, alive.

The Lease says every ten seconds (a quarter of its duration) that the node lives; the Node's status
is computed just as often, but written only when something has changed, and every five minutes in
any case: those of a cluster's nodes that were started together spread out over the minutes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime

from navarch.api.errors import ApiError
from navarch.api.objects import Object, to_object
from navarch.api.times import format_micro_time
from navarch.api.types.coordination_v1 import Lease, LeaseSpec
from navarch.api.types.core_v1 import Node, NodeStatus
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.client.batches import together
from navarch.client.client import Client
from navarch.client.clock import Clock, timeout
from navarch.client.events import EventRecorder
from navarch.client.resource import PatchType

from .cri.runtime import Images, Runtime
from .cri.values import ImageRecord, RuntimeFailure, RuntimeInfo
from .machine import MachineFacts
from .node_object import (
    OWN_CONDITIONS,
    NodeFacts,
    NodeReport,
    condition_events,
    merged_labels,
    new_node,
    node_status,
    own_labels,
    without_heartbeat,
)
from .settings import NodeOptions

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
RENEWALS = 4
"""How often a Lease is renewed within its duration."""
JITTER = 0.04
STARTING_SECONDS = 0.1
SETTLING_SECONDS = 10.0
"""For so long at most a node that was ready is not reported on while its new agent looks around."""
RUNTIME_ANSWER_SECONDS = 10.0
RUNTIME_DOWN_SECONDS = 30.0
"""As upstream: after so long without an answer the runtime counts as down."""
UNREADY_SECONDS = 1.0
"""A node that is not ready looks often: pods wait for the moment its network is there."""


class Registration:
    """This node in the API."""

    def __init__(
        self,
        client: Client,
        options: NodeOptions,
        runtime: Runtime,
        images: Images,
        machine: MachineFacts,
        addresses: tuple[str, ...],
    ) -> None:
        self._client, self._options, self._machine = client, options, machine
        self._runtime, self._images, self._addresses = runtime, images, addresses
        self._clock: Clock = client.clock
        self._recorder = EventRecorder(client, "kubelet", options.node_name)
        self.node: Node | None = None
        """The object as it was last seen."""
        self._changed = asyncio.Event()
        self._random = random.Random()
        self._report_after = options.node_status_report_frequency
        self._reported_at = float("-inf")
        self._unschedulable = False
        self._reported: list[object] | None = None
        self._lease: Lease | None = None
        self._runtime_info: RuntimeInfo | None = None
        self._image_list: list[ImageRecord] = []
        self._answered_at = float("-inf")
        """When the runtime last said how it is."""
        self.on_node: Callable[[Node], None] = lambda node: None
        self.report: Callable[[], NodeReport] = NodeReport
        """What the rest of the agent says of the node."""
        self.is_settled: Callable[[], bool] = lambda: True
        """Whether the rest of the agent has found out how the node is since it started."""

    async def run(self) -> None:
        """Registers the node, then keeps it alive until cancelled."""
        await self._greet()
        await self._until_done(self._register)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._renew_lease), name="node-lease")
            tasks.create_task(self._repeat_report(), name="node-status")

    async def _repeat(self, step: Callable[[], object]) -> None:
        while True:
            await self._until_done(step)
            await self._clock.sleep(self._options.node_lease_duration_seconds / RENEWALS)

    async def _repeat_report(self) -> None:
        """Reports often until the node is ready for the first time: pods wait for it then. A node
        that was ready stays so while its agent is replaced: that nobody has looked yet is no news,
        but would taint the node, which its pods may not tolerate."""
        begin = self._clock.monotonic()
        while self._is_ready and not self.is_settled():
            if self._clock.monotonic() - begin >= SETTLING_SECONDS:
                break
            await self._clock.sleep(STARTING_SECONDS)
        while True:
            await self._until_done(self._report)
            if self._is_ready:
                break
            await self._clock.sleep(STARTING_SECONDS)
        while True:
            self._changed.clear()
            await self._until_done(self._report)
            beat = self._options.node_status_update_frequency
            pause = beat * (1 + JITTER * self._random.random())
            pause = pause if self._is_ready else min(pause, UNREADY_SECONDS)
            timer = self._clock.call_later(pause, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()

    @property
    def _is_ready(self) -> bool:
        found = self.node.status.conditions if self.node is not None else []
        return any(each.type == "Ready" and each.status == "True" for each in found)

    async def _until_done(self, step: Callable[[], object]) -> None:
        """An API server that is away is waited for: pods run on meanwhile."""
        delay = 0.2
        while True:
            try:
                await step()  # type: ignore[misc]
                return
            except ApiError as error:
                log.warning("node %s: %s", self._options.node_name, error)
                await self._clock.sleep(delay)
                delay = min(delay * 2, 7.0)

    async def _register(self) -> None:
        facts = await self._facts()
        nodes = self._client.resource(Node)
        now = self._clock.now()
        try:
            self.node = await nodes.get(self._options.node_name)
        except ApiError as error:
            if not error.is_not_found or not self._options.register_node:
                raise
            self.node = await nodes.create(new_node(facts, now))
            self._event("Normal", "Starting", "Starting kubelet.")
        labels = merged_labels(self.node.metadata.labels, own_labels(self._options, self._machine))
        if labels:
            self.node = await nodes.patch(
                self._options.node_name, "", {"metadata": {"labels": labels}}
            )
        self.on_node(self.node)

    async def _report(self) -> None:
        """Writes the status if it has changed or has not been written for long."""
        nodes = self._client.resource(Node)
        try:
            self.node = await nodes.get(self._options.node_name)
        except ApiError as error:
            if not error.is_not_found:
                raise
            # Somebody has deleted the object of a living node: it comes back.
            self._reported = None
            await self._register()
        assert self.node is not None
        self.on_node(self.node)
        self._tell_whether_schedulable(self.node.spec.unschedulable)
        status = node_status(self.node, await self._facts(), self._clock.now())
        told = without_heartbeat(status)
        age = self._clock.monotonic() - self._reported_at
        unchanged = told == self._reported == without_heartbeat(self.node.status)
        if unchanged and age < self._report_after:
            return
        before = self.node.status
        self.node = await nodes.patch(
            self._options.node_name,
            "",
            {"status": _status_patch(before, status)},
            subresource="status",
            patch_type=PatchType.STRATEGIC,
        )
        self._reported, self._reported_at = told, self._clock.monotonic()
        # After a change the next report comes at any time within half and one and a half periods.
        spread = 1.0 if unchanged else 0.5 + self._random.random()
        self._report_after = self._options.node_status_report_frequency * spread
        self.on_node(self.node)
        name, booted = self._options.node_name, self._machine.boot_id
        if before.nodeInfo.bootID not in ("", booted):
            text = f"Node {name} has been rebooted, boot id: {booted}"
            self._event("Warning", "Rebooted", text)
        for reason in condition_events(before.conditions, status.conditions):
            self._event("Normal", reason, f"Node {name} status is now: {reason}")

    def _tell_whether_schedulable(self, unschedulable: bool) -> None:
        if unschedulable != self._unschedulable:
            reason = "NodeNotSchedulable" if unschedulable else "NodeSchedulable"
            text = f"Node {self._options.node_name} status is now: {reason}"
            self._event("Normal", reason, text)
            self._unschedulable = unschedulable

    def refresh(self) -> None:
        """Something of the report has changed: it is written now, not in a while."""
        self._changed.set()

    async def _facts(self) -> NodeFacts:
        """A runtime that is restarted, or busy for a moment, does not make the node unready."""
        try:
            async with timeout(self._clock, RUNTIME_ANSWER_SECONDS):
                self._runtime_info, self._image_list = await together(
                    self._runtime.info(), self._images.images()
                )
            self._answered_at = self._clock.monotonic()
        except RuntimeFailure as failure:
            log.warning("container runtime: %s", failure.message)
        except TimeoutError:
            log.warning("container runtime: no answer within %s s", RUNTIME_ANSWER_SECONDS)
        is_up = self._clock.monotonic() - self._answered_at < RUNTIME_DOWN_SECONDS
        runtime = self._runtime_info if is_up else None
        return NodeFacts(
            self._options, self._machine, runtime, self._image_list, self._addresses, self.report()
        )

    async def _greet(self) -> None:
        """A node that is known is heard of at once, before its runtime has been asked anything: the
        time of an agent that is killed over and over may suffice for nothing else, and its pods
        would no longer count as ready though they run."""
        try:
            self._lease = await self._client.resource(Lease).get(
                self._options.node_name, LEASE_NAMESPACE
            )
            await self._renew_lease()
        except ApiError as error:
            log.info("lease of node %s: %s", self._options.node_name, error)

    async def _renew_lease(self) -> None:
        leases = self._client.resource(Lease)
        name = self._options.node_name
        try:
            if self._lease is None:
                self._lease = await leases.get(name, LEASE_NAMESPACE)
            self._lease.spec.holderIdentity = name
            self._lease.spec.leaseDurationSeconds = self._options.node_lease_duration_seconds
            self._lease.spec.renewTime = format_micro_time(self._clock.now())
            self._lease = await leases.update(self._lease)
        except ApiError as error:
            # Whatever is known of the Lease may be wrong: look again the next time.
            self._lease = None
            if error.is_not_found:
                self._lease = await leases.create(self._new_lease(self._clock.now()))
            elif not error.is_conflict:
                raise

    def _new_lease(self, now: datetime) -> Lease:
        name = self._options.node_name
        owners = []
        if self.node is not None:
            owners.append(
                OwnerReference(apiVersion="v1", kind="Node", name=name, uid=self.node.metadata.uid)
            )
        return Lease(
            metadata=ObjectMeta(name=name, namespace=LEASE_NAMESPACE, ownerReferences=owners),
            spec=LeaseSpec(
                holderIdentity=name,
                leaseDurationSeconds=self._options.node_lease_duration_seconds,
                renewTime=format_micro_time(now),
            ),
        )

    def _event(self, kind: str, reason: str, message: str) -> None:
        if self.node is not None:
            self._recorder.event(self.node, kind, reason, message)


def _status_patch(before: NodeStatus, after: NodeStatus) -> Object:
    """What to write, by parts: a condition or a resource that somebody else has written since we
    looked stays as it is."""
    patch = to_object(after)
    patch["conditions"] = [each for each in patch["conditions"] if each["type"] in OWN_CONDITIONS]
    # Addresses are not told apart by their type alone, which is their key.
    patch["addresses"] = [*patch.get("addresses", []), {"$patch": "replace"}]
    for name in ("capacity", "allocatable"):
        old, new = getattr(before, name), getattr(after, name)
        changed = {each: value for each, value in new.items() if old.get(each) != value}
        patch[name] = {**changed, **dict.fromkeys(old.keys() - new.keys())}
    for name in ("images", "runtimeHandlers", "declaredFeatures"):
        patch.setdefault(name, [])
    return patch
