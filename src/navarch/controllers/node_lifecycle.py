"""The node lifecycle controller: a node that is not heard of is not relied on.

A node says that it lives by renewing its Lease. When the Lease has not been renewed for the grace
period, the node's conditions become Unknown and its pods are no longer ready; taints say the same
to the scheduler (NoSchedule) and to the pods (NoExecute, which `taint_eviction` carries out). Time
is measured from when this controller last saw the Lease change, on its own clock, so that clocks
of nodes need not agree.

Source: KEP-589 (node leases), upstream's `pkg/controller/nodelifecycle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from navarch.api.objects import copy_object
from navarch.api.times import format_time
from navarch.api.types.coordination_v1 import Lease
from navarch.api.types.core_v1 import Node, NodeCondition, Pod, Taint
from navarch.client import Controller, ControllerContext
from navarch.controllers.pods import find_condition, index_by_node, pods_on

LEASE_NAMESPACE = "kube-node-lease"
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
CONDITION_TAINTS = {
    ("Ready", "False"): NOT_READY,
    ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): "node.kubernetes.io/memory-pressure",
    ("DiskPressure", "True"): "node.kubernetes.io/disk-pressure",
    ("PIDPressure", "True"): "node.kubernetes.io/pid-pressure",
    ("NetworkUnavailable", "True"): "node.kubernetes.io/network-unavailable",
}
"""What each condition taints the node with (upstream's nodeConditionToTaintKeyStatusMap)."""

MANAGED_NO_SCHEDULE = frozenset({*CONDITION_TAINTS.values(), UNSCHEDULABLE})
MANAGED_NO_EXECUTE = frozenset({NOT_READY, UNREACHABLE})
REPORTED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
DEFAULT_GRACE_SECONDS = 50.0


@dataclass(frozen=True, slots=True)
class Heard:
    """When a node was last heard of (monotonic seconds), and by what sign."""

    sign: tuple[str, str]
    at: float


def wanted_taints(node: Node, now: datetime) -> list[Taint]:
    """The node's taints as its conditions and `spec.unschedulable` ask for; those that are not
    this controller's stay as they are, those that were there keep their time."""
    statuses = {condition.type: condition.status for condition in node.status.conditions}
    no_schedule = {
        key for (type_, status), key in CONDITION_TAINTS.items() if statuses.get(type_) == status
    }
    if "Ready" not in statuses:
        no_schedule.add(NOT_READY)
    no_execute = no_schedule & MANAGED_NO_EXECUTE
    if node.spec.unschedulable:
        no_schedule.add(UNSCHEDULABLE)
    keep = [taint for taint in node.spec.taints if not _is_managed(taint)]
    present = {(t.key, t.effect): t for t in node.spec.taints if _is_managed(t)}
    stamp = format_time(now)
    wanted = [(key, "NoSchedule") for key in sorted(no_schedule)]
    wanted += [(key, "NoExecute") for key in sorted(no_execute)]
    for key, effect in wanted:
        known = present.get((key, effect))
        keep.append(known or Taint(key=key, effect=effect, timeAdded=stamp))
    return keep


def _is_managed(taint: Taint) -> bool:
    if taint.effect == "NoSchedule":
        return taint.key in MANAGED_NO_SCHEDULE
    return taint.effect == "NoExecute" and taint.key in MANAGED_NO_EXECUTE


def lost_conditions(conditions: Iterable[NodeCondition], now: datetime) -> list[NodeCondition]:
    """The conditions of a node that is not heard of: all that it reported is unknown now."""
    stamp = format_time(now)
    result = [copy_object(condition) for condition in conditions]
    for type_ in REPORTED:
        condition = find_condition(result, type_)
        if condition is None:
            result.append(
                NodeCondition(
                    type=type_,
                    status="Unknown",
                    reason="NodeStatusNeverUpdated",
                    message="Kubelet never posted node status.",
                    lastTransitionTime=stamp,
                )
            )
        elif condition.status != "Unknown":
            condition.status = "Unknown"
            condition.reason = "NodeStatusUnknown"
            condition.message = "Kubelet stopped posting node status."
            condition.lastTransitionTime = stamp
    return result


def pods_to_mark(pods: Iterable[Pod]) -> list[Pod]:
    """The pods whose Ready condition says True though nobody can know."""
    return [
        pod
        for pod in pods
        if (ready := find_condition(pod.status.conditions, "Ready")) and ready.status == "True"
    ]


class NodeLifecycleController(Controller):
    """Watches: nodes, their Leases by name, and pods by their node."""

    name = "node-lifecycle"

    def __init__(
        self, context: ControllerContext, grace_seconds: float = DEFAULT_GRACE_SECONDS
    ) -> None:
        super().__init__(context)
        self.grace_seconds = grace_seconds
        self.recorder = context.recorder("node-controller")
        self.nodes = context.informers.informer(Node)
        # All of them, though the nodes' are in one namespace: the garbage collector follows all
        # anyway, and each heartbeat comes once to those who share an informer.
        self.leases = context.informers.informer(Lease)
        self.pods = context.informers.informer(Pod)
        index_by_node(self.pods)
        self._heard: dict[str, Heard] = {}
        self.watch(self.nodes)
        self.depends_on(self.leases)
        self.depends_on(self.pods)
        self.leases.add_handler(self._lease_seen, lambda _, lease: self._lease_seen(lease))

    def _lease_seen(self, lease: Lease) -> None:
        """A renewal needs no work unless the node was given up; the timer looks again."""
        if lease.metadata.namespace != LEASE_NAMESPACE:
            return
        name = lease.metadata.name
        node = self.nodes.cache.get(name)
        if node is not None and _ready_status(node) == "Unknown":
            self.enqueue(name)

    def _silence(self, node: Node) -> float:
        """Seconds since the node was last heard of."""
        name = node.metadata.name
        lease = self.leases.cache.get(f"{LEASE_NAMESPACE}/{name}")
        ready = find_condition(node.status.conditions, "Ready")
        sign = (
            (lease.spec.renewTime or "") if lease is not None else "",
            (ready.lastHeartbeatTime or "") if ready is not None else "",
        )
        now = self.clock.monotonic()
        heard = self._heard.get(name)
        if heard is None or heard.sign != sign:
            heard = self._heard[name] = Heard(sign, now)
        return now - heard.at

    async def reconcile(self, key: str) -> None:
        node = self.nodes.cache.get(key)
        if node is None:
            self._heard.pop(key, None)
            return
        silence = self._silence(node)
        lost = silence > self.grace_seconds
        if lost and _ready_status(node) != "Unknown":
            changed = copy_object(node)
            changed.status.conditions = lost_conditions(node.status.conditions, self.clock.now())
            node = await self.client.resource(Node).update_status(changed)
            text = f"Node {key} status is now: NodeNotReady"
            self.recorder.event(node, "Normal", "NodeNotReady", text)
        taints = wanted_taints(node, self.clock.now())
        if _by_identity(taints) != _by_identity(node.spec.taints):
            changed = copy_object(node)
            changed.spec.taints = taints
            node = await self.client.resource(Node).update(changed)
        if _ready_status(node) in ("False", "Unknown"):
            await self._mark_pods(key)
        if not lost:
            self.queue.add_after(key, self.grace_seconds - silence + 1.0)

    async def _mark_pods(self, node: str) -> None:
        for pod in pods_to_mark(pods_on(self.pods, node)):
            changed = copy_object(pod)
            ready = find_condition(changed.status.conditions, "Ready")
            if ready is None:
                continue
            ready.status = "False"
            ready.reason = "NodeNotReady"
            ready.lastTransitionTime = format_time(self.clock.now())
            await self.client.resource(Pod).update_status(changed)


def _ready_status(node: Node) -> str:
    ready = find_condition(node.status.conditions, "Ready")
    return ready.status if ready is not None else ""


def _by_identity(taints: Iterable[Taint]) -> Mapping[tuple[str, str], str]:
    return {(taint.key, taint.effect): taint.value for taint in taints}
