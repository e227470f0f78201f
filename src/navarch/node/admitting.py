"""Takes pods in, or refuses them: what `admission` decides, and what follows from it.

Most pods are taken at once. One whose devices a plug-in has to hand out, that other pods have to
make room for, or that seems to be on the wrong node, waits before it starts
(`PodWorker.before_start`), without keeping others waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from navarch.api.errors import ApiError
from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Node, Pod
from navarch.api.validation.resources import is_extended

from . import preemption
from .admission import Lacking, NodeView, Refusal, load_of, problems, rests_on_object
from .evicting import EvictionManager
from .figures import admission_rejections, preemptions
from .podspec import is_critical, pod_key
from .shutdown import ShutdownManager
from .starting import NodeServices
from .worker import PodWorker

log = logging.getLogger(__name__)

ROOM_LOOK_SECONDS = 0.1


class Admitter:
    """The door of one node."""

    def __init__(
        self,
        services: NodeServices,
        workers: Callable[[], Sequence[PodWorker]],
        evictions: EvictionManager,
        shutdown: ShutdownManager,
    ) -> None:
        self._services, self._workers = services, workers
        self._evictions, self._shutdown = evictions, shutdown
        self.node: Node | None = None
        """The node's object as it was last seen."""

    def admit(self, worker: PodWorker) -> None:
        """Decides about a pod that is new to the node."""
        refusal, victims = self._decide(worker)
        if refusal is None:
            if victims or self._awaits_devices(worker.pod):
                worker.before_start = partial(self._make_ready, worker, victims)
        elif rests_on_object(refusal):
            worker.before_start = partial(self._decide_again, worker)
        else:
            self.refuse(worker, refusal)

    async def _decide_again(self, worker: PodWorker) -> None:
        """Decides by the node's object as it is now.

        The scheduler watches nodes and may send a pod for a label, a device or the end of a taint
        that is newer than what is known here.
        """
        try:
            name = self._services.options.node_name
            self.node = await self._services.objects.node(name) or self.node
        except ApiError as error:
            log.warning("%s is judged by an old node: %s", pod_key(worker.pod), error)
        refusal, victims = self._decide(worker)
        if refusal is not None:
            self.refuse(worker, refusal)
        else:
            await self._make_ready(worker, victims)

    def _awaits_devices(self, pod: Pod) -> bool:
        devices = self._services.devices
        return devices is not None and devices.concerns(pod)

    async def _make_ready(self, worker: PodWorker, victims: Sequence[PodWorker]) -> None:
        """Has the pod wait for its victims to go and for its devices."""
        while not all(each.is_cleaned for each in victims):
            await self._services.clock.sleep(ROOM_LOOK_SECONDS)
        devices = self._services.devices
        if devices is not None and devices.concerns(worker.pod):
            refusal = await devices.admit(worker.pod)
            if refusal is not None:
                self.refuse(worker, refusal)

    def refuse(self, worker: PodWorker, refusal: Refusal) -> None:
        admission_rejections.labels(refusal.reason).inc()
        self._services.events.pod(worker.pod, "Warning", refusal.reason, refusal.message)
        worker.refuse(refusal.reason, refusal.message)

    def _decide(self, worker: PodWorker) -> tuple[Refusal | None, Sequence[PodWorker]]:
        """Why the pod is refused, or else who has to make room for it."""
        pod = worker.pod
        others = [each for each in self._workers() if each is not worker and _takes_room(each)]
        refusal = self._evictions.admit(pod) or self._shutdown.admit()
        if refusal is not None:
            return refusal, ()
        view = self.view()
        found = problems(pod, load_of([each.resizer.pod for each in others]), view)
        if not found:
            return None, ()
        if not is_critical(pod):
            return found[0], ()
        # For a critical pod those that are on their way out need only be waited for.
        staying = {each.pod.metadata.uid: each for each in others if not each.is_rejected}
        leaving = [each for each in others if each.is_rejected]
        found = problems(pod, load_of([each.resizer.pod for each in staying.values()]), view)
        lacking = [each for each in found if isinstance(each, Lacking)]
        if len(lacking) < len(found):
            return next(each for each in found if not isinstance(each, Lacking)), ()
        try:
            chosen = preemption.victims(pod, [each.pod for each in staying.values()], lacking)
        except preemption.NoVictims as problem:
            text = f"Unexpected error while attempting to recover from admission failure: {problem}"
            return Refusal("UnexpectedAdmissionError", text), ()
        victims = [self._preempt(staying[each.metadata.uid], lacking, pod) for each in chosen]
        return None, [*leaving, *victims]

    def _preempt(self, worker: PodWorker, lacking: Sequence[Lacking], pod: Pod) -> PodWorker:
        log.warning("preempting %s for %s", pod_key(worker.pod), pod_key(pod))
        reason, message = preemption.REASON, preemption.MESSAGE
        self._services.events.pod(worker.pod, "Warning", reason, message)
        worker.reject(reason, message, disruption=preemption.DISRUPTION)
        preemptions.labels(lacking[0].resource).inc()
        return worker

    def view(self) -> NodeView:
        """What admission knows of the node."""
        options, devices, node = self._services.options, self._services.devices, self.node
        others = {}
        if node is not None:
            # Devices are counted by whoever hands them out, and their want is told by it.
            others = {
                name: parse_quantity(text).value()
                for name, text in node.status.allocatable.items()
                if name.startswith("hugepages-")
                or (is_extended(name) and not (devices and devices.offers(name)))
            }
        return NodeView(
            options.node_name,
            node.metadata.labels if node is not None else options.labels,
            node.spec.taints if node is not None else options.taints,
            self._services.node,
            options.allowed_unsafe_sysctls,
            others,
            self._services.runtime.known.supplemental_groups_policy,
            self._services.security.apparmor,
        )


def _takes_room(worker: PodWorker) -> bool:
    """Whether the pod has a share of the node: not if it was refused before it had anything, nor if
    it was deleted by force, for then the scheduler has given its share to the next one."""
    holds = bool(worker.state.ids) or worker.is_moving
    return worker.active and not worker.is_removed and (holds or not worker.is_rejected)
