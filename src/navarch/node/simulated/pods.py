"""Takes each pod on simulated nodes to its next step, and comes back when one is due."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from navarch.api.errors import ignoring, outdated
from navarch.api.objects import to_object
from navarch.api.types.core_v1 import Pod, PodStatus
from navarch.client import Controller, ControllerContext, PatchType

from ..admission import Refusal, problems
from ..podspec import full_name
from . import usage
from .addresses import Addresses
from .config import Fleet
from .faults import pressure_refusal
from .life import (
    BACKING_OFF,
    TERMINAL,
    Moment,
    Place,
    Remove,
    Step,
    Wait,
    Write,
    next_step,
    refused,
)
from .load import NodeLoad, node_view
from .nodes import SimulatedNodes
from .slim import Slimmer
from .timetable import Timetable, TimetableError, fraction


@dataclass(frozen=True, slots=True)
class Written:
    """Our last write of a pod's status."""

    uid: str
    version: int
    at: datetime
    generation: int
    then: Wait | None
    """What comes after it, if nobody else has changed the pod."""


class SimulatedPods(Controller):
    """Watches all pods that have a node; knows those on its own nodes."""

    name = "simulated-pods"
    workers = 32

    def __init__(
        self, context: ControllerContext, nodes: SimulatedNodes, fleet: Fleet, timetable: Timetable
    ) -> None:
        super().__init__(context)
        self._nodes, self._fleet, self._default = nodes, fleet, timetable
        self._tells_usage = usage.are_told(timetable, (rule.settings for rule in fleet.pods))
        self._resource = self.client.metadata("", "v1", "pods")
        self._recorder = context.recorder("kubelet")
        self._slimmer = Slimmer(keep_labels=bool(fleet.pods), is_ours=nodes.__contains__)
        self._loads: dict[str, NodeLoad] = {}
        self._written: dict[str, Written] = {}
        self.pods = context.informers.informer(
            Pod, field_selector="spec.nodeName!=", transform=self._slimmer.pod
        )
        self.pods.add_index("node", lambda pod: [pod.spec.nodeName])
        self.pods.add_handler(self._count, lambda _, pod: self._count(pod), self._forget)
        self.watch(self.pods, self._key_of)
        self.depends_on(nodes.informer)
        nodes.on_return = self._look_at

    def _key_of(self, pod: Pod) -> str | None:
        return _key(pod) if pod.spec.nodeName in self._nodes else None

    def _look_at(self, node: str) -> None:
        for pod in self.pods.cache.by_index("node", node):
            self.enqueue(_key(pod))

    def _count(self, pod: Pod) -> None:
        """Keep the sums of what a node's pods take: of those it has taken in, until they end."""
        name, uid = pod.spec.nodeName, pod.metadata.uid
        if name not in self._nodes:
            return
        load = self._loads.setdefault(name, NodeLoad())
        if pod.status.phase in TERMINAL:
            load.remove(uid)
        elif pod.status.startTime and uid not in load:
            load.add(pod)

    def _forget(self, pod: Pod) -> None:
        name, uid = pod.spec.nodeName, pod.metadata.uid
        self._written.pop(_key(pod), None)
        if name not in self._nodes:
            return
        if name in self._loads:
            self._loads[name].remove(uid)
        addresses = self._nodes.addresses(name)
        if addresses is not None:
            addresses.release(uid)

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
        if self._nodes.fault(node) is not None:
            return
        written = self._written.get(key)
        if written is not None and written.uid != meta.uid:
            written = None
        if written is not None:
            version = int(meta.resourceVersion)
            if version < written.version:
                return  # the informer is about to tell of our own write
            if version == written.version and self._goes_on(key, pod, written):
                return
        addresses = self._addresses(node)
        if addresses is None:
            if not self._nodes.is_gone(node):
                self.queue.add_after(key, 0.1)
            return
        own = "" if pod.spec.hostNetwork else addresses.of(meta.uid, pod.status.podIP)
        place = Place(self._nodes.address(node), own)
        now = self.clock.now()
        wrote = written.at if written is not None else None
        step = self._decide(pod, place, Moment(now, wrote, self._nodes.booted(node)))
        await self._apply(key, pod, step, now)

    def _decide(self, pod: Pod, place: Place, moment: Moment) -> Step:
        try:
            timetable = self._fleet.timetable(
                pod, self._nodes.group(pod.spec.nodeName), self._default
            )
        except TimetableError as error:
            if pod.status.phase in TERMINAL or pod.metadata.deletionTimestamp:
                return next_step(pod, place, self._default, moment)
            return self._refuse(pod, place, Refusal("InvalidTimetable", str(error)), moment.now)
        if pod.status.startTime is None and not pod.metadata.deletionTimestamp:
            refusal = self._admit(pod, timetable)
            if refusal is not None:
                return self._refuse(pod, place, refusal, moment.now)
            self._loads.setdefault(pod.spec.nodeName, NodeLoad()).add(pod)
        return next_step(pod, place, timetable, moment)

    def _admit(self, pod: Pod, timetable: Timetable) -> Refusal | None:
        """The node's own check, as the kubelet makes it."""
        name, uid = pod.spec.nodeName, pod.metadata.uid
        if timetable.reject and fraction(uid, "reject") < timetable.reject_chance:
            return Refusal(timetable.reject, timetable.reject_message)
        node = self._nodes.object(name)
        if node is None or pod.status.phase in TERMINAL:
            return None
        load = self._loads.setdefault(name, NodeLoad())
        load.remove(uid)
        refusal = pressure_refusal(pod, node)
        return refusal or next(iter(problems(pod, load.view(), node_view(node))), None)

    def _refuse(self, pod: Pod, place: Place, refusal: Refusal, now: datetime) -> Step:
        self._recorder.event(pod, "Warning", refusal.reason, refusal.message)
        return refused(pod, place, refusal, now)

    async def _apply(self, key: str, pod: Pod, step: Step, now: datetime) -> None:
        meta = pod.metadata
        # The pod is gone: the informer is about to tell.
        with ignoring(outdated):
            match step:
                case Wait():
                    self._wait(key, step)
                case Write():
                    self._tell(pod, step.status)
                    await self._write(key, pod, step, now)
                case Remove():
                    await self._resource.delete(
                        meta.name, meta.namespace, uid=meta.uid, grace_period=0
                    )

    def _wait(self, key: str, wait: Wait) -> None:
        if wait.seconds is not None:
            self.queue.add_after(key, wait.seconds + 0.005)
        else:
            self._written.pop(key, None)

    def _goes_on(self, key: str, pod: Pod, written: Written) -> bool:
        """After our own write most pods have nothing new to say: what comes next was known then.
        The rest of the time counts from the write, which is a moment too late, never too early."""
        meta = pod.metadata
        if (
            written.then is None
            or meta.deletionTimestamp
            or meta.generation != written.generation
            or meta.annotations
            or pod.spec.readinessGates
        ):
            return False
        then, self._written[key] = written.then, replace(written, then=None)
        self._wait(key, then)
        return True

    def _tell(self, pod: Pod, status: PodStatus) -> None:
        """The kubelet's warning that people look for."""
        for each in (*status.initContainerStatuses, *status.containerStatuses):
            waiting = each.state.waiting
            if waiting is not None and waiting.reason == BACKING_OFF:
                text = f"Back-off restarting failed container {each.name} in pod {full_name(pod)}"
                self._recorder.event(pod, "Warning", "BackOff", text)

    def _usage(self, pod: Pod) -> dict[str, dict[str, str]]:
        """The annotations by which the pod's use is told, if it is."""
        if not self._tells_usage:
            return {}
        group = self._nodes.group(pod.spec.nodeName)
        try:
            timetable = self._fleet.timetable(pod, group, self._default)
        except TimetableError:
            return {}  # it was refused for that
        return {"annotations": usage.annotations_for(pod, timetable)}

    async def _write(self, key: str, pod: Pod, write: Write, now: datetime) -> None:
        meta = pod.metadata
        metadata: dict[str, object] = {"uid": meta.uid, **self._usage(pod)}
        status = to_object(write.status)
        # The patch merges conditions: what it does not name would stay as it was.
        unsaid = dict.fromkeys(("reason", "message"))
        status["conditions"] = [unsaid | each for each in status.get("conditions", ())]
        patch = {"metadata": metadata, "status": status}
        answer = await self._resource.patch(
            meta.name, meta.namespace, patch, subresource="status", patch_type=PatchType.STRATEGIC
        )
        version = int(answer.metadata.resourceVersion)
        self._written[key] = Written(meta.uid, version, now, meta.generation, write.then)
        known = self.pods.cache.get(key)
        if known is not None and int(known.metadata.resourceVersion) >= version:
            self.queue.add(key)  # it was told of already, while we waited for the answer


def _key(pod: Pod) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"
