"""The node lifecycle controller: a node that is not heard of is not relied on.

A node says that it lives by renewing its Lease. When the Lease has not been renewed for the grace
period, the node's conditions become Unknown and its pods are no longer ready; taints say the same
to the scheduler (NoSchedule) and to the pods (NoExecute, which `taint_eviction` carries out), the
latter no faster than `node_zones` allows. Time is measured from when this controller last saw the
Lease change, on its own clock, so that clocks of nodes need not agree.

Source: KEP-589 (node leases), upstream's `pkg/controller/nodelifecycle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from navarch.api.errors import ignoring, missing
from navarch.api.objects import copy_object
from navarch.api.times import format_time
from navarch.api.types.coordination_v1 import Lease
from navarch.api.types.core_v1 import Node, NodeCondition, Pod, Taint
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Controller, ControllerContext
from navarch.controllers.node_zones import Change, Rates, Zone, Zones, count_zones, zone_of
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
STARTUP_GRACE_SECONDS = 60.0
"""For a node that has never said how it is."""
ZONES = "zones:"
"""The key of the look at all zones."""
PERIOD_SECONDS = 0.1
"""Nodes that change at about the same time are looked at together."""
OLD_LABELS = {
    "kubernetes.io/os": "beta.kubernetes.io/os",
    "kubernetes.io/arch": "beta.kubernetes.io/arch",
}
"""What a node is called by is repeated in labels that some still look at."""


@dataclass(frozen=True, slots=True)
class Heard:
    """When a node was last heard of (monotonic seconds), and by what sign."""

    sign: tuple[str, str]
    at: float


def wanted_taints(node: Node, now: datetime, is_given_up: bool = True) -> list[Taint]:
    """The node's taints as its conditions and `spec.unschedulable` ask for; those that are not
    this controller's stay as they are, those that were there keep their time. Only a node that is
    given up chases its pods."""
    statuses = {condition.type: condition.status for condition in node.status.conditions}
    no_schedule = {
        key for (type_, status), key in CONDITION_TAINTS.items() if statuses.get(type_) == status
    }
    no_execute = no_schedule & MANAGED_NO_EXECUTE if is_given_up else set[str]()
    if "Ready" not in statuses:
        no_schedule.add(NOT_READY)
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


def chases_pods(node: Node) -> bool:
    """Whether a taint of this controller's is on the node that pods have to tolerate."""
    return any(t.effect == "NoExecute" and t.key in MANAGED_NO_EXECUTE for t in node.spec.taints)


def missing_labels(node: Node) -> dict[str, str]:
    """The older labels that have another value than the newer ones."""
    labels = node.metadata.labels
    return {
        old: labels[new]
        for new, old in OLD_LABELS.items()
        if new in labels and labels.get(old) != labels[new]
    }


def _facts(node: Node) -> tuple[object, ...]:
    """What the look at all zones depends on."""
    return _ready_status(node), chases_pods(node), zone_of(node), node.metadata.uid


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
        self,
        context: ControllerContext,
        grace_seconds: float = DEFAULT_GRACE_SECONDS,
        rates: Rates | None = None,
    ) -> None:
        super().__init__(context)
        self.grace_seconds = grace_seconds
        self.zones = Zones(rates or Rates())
        self._waiting: dict[str, Zone] = {}
        """The nodes that are to be given up, in their order."""
        self._given_up: set[str] = set()
        self._known: dict[str, str] = {}
        """The uids of the nodes, by name."""
        self.recorder = context.recorder("node-controller")
        self.nodes = context.informers.informer(Node)
        # All of them, though the nodes' are in one namespace: the garbage collector follows all
        # anyway, and each heartbeat comes once to those who share an informer.
        self.leases = context.informers.informer(Lease)
        self.pods = context.informers.informer(Pod)
        index_by_node(self.pods)
        self._heard: dict[str, Heard] = {}
        self.watch(self.nodes)
        self.nodes.add_handler(self._look_at_zones, self._node_changed, self._look_at_zones)
        self.depends_on(self.leases)
        self.depends_on(self.pods)
        self.leases.add_handler(self._lease_seen, lambda _, lease: self._lease_seen(lease))

    def _look_at_zones(self, node: Node) -> None:
        self.queue.add_after(ZONES, PERIOD_SECONDS)

    def _node_changed(self, old: Node, new: Node) -> None:
        if _facts(old) != _facts(new):
            self._look_at_zones(new)

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
        if key == ZONES:
            self._judge_zones()
            return
        node = self.nodes.cache.get(key)
        self._welcome(key, node)
        if node is None:
            return
        silence = self._silence(node)
        grace = self.grace_seconds if _ready_status(node) else self._startup_grace
        lost = silence > grace
        if lost and _ready_status(node) != "Unknown":
            changed = copy_object(node)
            changed.status.conditions = lost_conditions(node.status.conditions, self.clock.now())
            node = await self.client.resource(Node).update_status(changed)
            text = f"Node {key} status is now: NodeNotReady"
            self.recorder.event(node, "Normal", "NodeNotReady", text)
        is_given_up = not self.zones.is_lost and (chases_pods(node) or key in self._given_up)
        taints = wanted_taints(node, self.clock.now(), is_given_up)
        labels = missing_labels(node)
        if labels or _by_identity(taints) != _by_identity(node.spec.taints):
            changed = copy_object(node)
            changed.spec.taints = taints
            changed.metadata.labels.update(labels)
            node = await self.client.resource(Node).update(changed)
        if _ready_status(node) == "Unknown":
            await self._mark_pods(key)
        if not lost:
            self.queue.add_after(key, grace - silence + 1.0)

    @property
    def _startup_grace(self) -> float:
        return self.grace_seconds + STARTUP_GRACE_SECONDS - DEFAULT_GRACE_SECONDS

    def _welcome(self, name: str, node: Node | None) -> None:
        """Tell of nodes that come and go."""
        if node is not None:
            if name in self._known:
                return
            self._known[name] = node.metadata.uid
            reason, what = "RegisteredNode", f"Registered Node {name} in"
        else:
            self._heard.pop(name, None)
            node = Node(metadata=ObjectMeta(name=name, uid=self._known.pop(name, "")))
            reason, what = "RemovingNode", f"Removing Node {name} from"
        self.recorder.event(node, "Normal", reason, f"Node {name} event: {what} Controller")

    def _judge_zones(self) -> None:
        """Give up, as far as their zones allow, nodes that are not ready."""
        nodes = self.nodes.cache.list()
        statuses = [(node, _ready_status(node)) for node in nodes]
        failed = {
            node.metadata.name: zone_of(node)
            for node, status in statuses
            if status in ("False", "Unknown")
        }
        chasing = {node.metadata.name for node in nodes if chases_pods(node)}
        now = self.clock.monotonic()
        counts = count_zones((node, status == "True") for node, status in statuses)
        change = self.zones.observe(counts, now)
        self._given_up &= failed.keys()
        if change is Change.LOST:
            self.log.info("no node is ready: nothing is evicted until one is")
            self._given_up.clear()
            self.enqueue(chasing)
        elif change is Change.FOUND:
            # The others were not heard of because nobody listened: their time begins anew.
            self._heard = {name: replace(each, at=now) for name, each in self._heard.items()}
        left = failed.keys() - chasing - self._given_up
        order = [*self._waiting, *(name for name in failed if name not in self._waiting)]
        self._waiting = {name: failed[name] for name in order if name in left}
        for name in self.zones.grant(self._waiting.items(), now):
            del self._waiting[name]
            self._given_up.add(name)
            self.enqueue(name)
        wait = self.zones.wait(set(self._waiting.values()), now)
        if wait is not None:
            self.queue.add_after(ZONES, max(wait, PERIOD_SECONDS))

    async def _mark_pods(self, node: str) -> None:
        for pod in pods_to_mark(pods_on(self.pods, node)):
            changed = copy_object(pod)
            ready = find_condition(changed.status.conditions, "Ready")
            if ready is None:
                continue
            ready.status = "False"
            ready.lastTransitionTime = format_time(self.clock.now())
            with ignoring(missing):
                await self.client.resource(Pod).update_status(changed)
                self.recorder.event(pod, "Warning", "NodeNotReady", "Node is not ready")


def _ready_status(node: Node) -> str:
    ready = find_condition(node.status.conditions, "Ready")
    return ready.status if ready is not None else ""


def _by_identity(taints: Iterable[Taint]) -> Mapping[tuple[str, str], str]:
    return {(taint.key, taint.effect): taint.value for taint in taints}
