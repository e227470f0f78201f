"""Pods as controllers see them: ready and available, which to delete first, made from a template.

Source: upstream's `pkg/controller/controller_utils.go` and `pkg/api/v1/pod`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from navarch.api.errors import ApiError
from navarch.api.names import generate_name
from navarch.api.objects import copy_object
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Pod, PodCondition, PodTemplateSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.events import EventRecorder
from navarch.client.informer import Informer
from navarch.client.objects import KubernetesObject
from navarch.client.owners import controller_of, owner_reference

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_COST = re.compile(r"0|-?[1-9][0-9]{0,9}")
UNKNOWN_OUTCOME = (0, 504)
"""After these (no answer, or one that came too late) a write may have been done or not."""
CREATE_ATTEMPTS = 4
PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}
PACE_SECONDS = 0.0002
"""For each pod that a pass looks at, how long events are gathered before it: to look at five
thousand pods anew for each that has become ready would be quadratic. So a workload takes about the
same share of time at any size."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 1.0


def gathering_seconds(pods: int, pace: float = PACE_SECONDS) -> float:
    """How long events are gathered for a pass over that many pods; 0 for a few."""
    pause = min(LONGEST_PAUSE, pods * pace)
    return 0.0 if pause < SHORTEST_PAUSE else pause


BY_NODE = "node"


def index_by_node(informer: Informer[Pod]) -> None:
    """Let `pods_on` find the pods of a node without a look at all others."""
    informer.add_index(BY_NODE, _node_of)


def _node_of(pod: Pod) -> Sequence[str]:
    return (pod.spec.nodeName,) if pod.spec.nodeName else ()


def pods_on(informer: Informer[Pod], node: str) -> list[Pod]:
    """The pods bound to a node; the informer has the index."""
    return informer.cache.by_index(BY_NODE, node)


class Condition(Protocol):
    """What every condition of every kind has."""

    type: str
    status: str


C = TypeVar("C", bound=Condition)


def find_condition(conditions: Iterable[C], type_: str) -> C | None:
    # A loop, not a generator: passes over thousands of pods ask this for each.
    for condition in conditions:
        if condition.type == type_:
            return condition
    return None


def is_terminal(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def is_active(pod: Pod) -> bool:
    """Neither finished nor on its way out."""
    return not is_terminal(pod) and not pod.metadata.deletionTimestamp


def is_terminating(pod: Pod) -> bool:
    """Being deleted and not finished yet."""
    return bool(pod.metadata.deletionTimestamp) and not is_terminal(pod)


def ready_condition(pod: Pod) -> PodCondition | None:
    return find_condition(pod.status.conditions, "Ready")


def is_ready(pod: Pod) -> bool:
    condition = ready_condition(pod)
    return condition is not None and condition.status == "True"


def ready_since(pod: Pod) -> datetime | None:
    condition = ready_condition(pod)
    return _since(condition) if condition is not None and condition.status == "True" else None


def _since(condition: PodCondition) -> datetime | None:
    return parse_time(condition.lastTransitionTime) if condition.lastTransitionTime else None


def seconds_until_available(pod: Pod, min_ready_seconds: int, now: datetime) -> float | None:
    """0 for a pod that is available: ready, and for long enough. Seconds to go for one that is
    ready but too young, None for one that is not ready."""
    condition = ready_condition(pod)
    if condition is None or condition.status != "True":
        return None
    if min_ready_seconds <= 0:
        return 0.0
    since = _since(condition)
    if since is None:
        return None
    return max(0.0, min_ready_seconds - (now - since).total_seconds())


def is_available(pod: Pod, min_ready_seconds: int, now: datetime) -> bool:
    return seconds_until_available(pod, min_ready_seconds, now) == 0.0


def deletion_order(candidates: Sequence[Pod], related: Iterable[Pod], now: datetime) -> list[Pod]:
    """Pods in the order in which a controller gives them up: those that serve least first.

    `related` are the pods of all versions of the workload; a node with many of them loses one
    first."""
    on_node: dict[str, int] = {}
    for pod in related:
        if is_active(pod):
            on_node[pod.spec.nodeName] = on_node.get(pod.spec.nodeName, 0) + 1

    def rank(pod: Pod) -> tuple[object, ...]:
        return (
            bool(pod.spec.nodeName),
            PHASE_RANK.get(pod.status.phase, 0),
            is_ready(pod),
            deletion_cost(pod),
            -on_node.get(pod.spec.nodeName, 0),
            _Service.of(pod, now),
        )

    return sorted(candidates, key=rank)


@dataclass(frozen=True, slots=True)
class _Service:
    """How long a pod has served, and how well. Of two pods the "lesser" goes first. Ages are
    compared by magnitude (as powers of two), so that among pods of about the same age chance
    decides, in the shape of their uids."""

    ready: datetime | None
    restarts: tuple[int, int]
    created: datetime | None
    uid: str
    now: datetime
    is_ready: bool

    @staticmethod
    def of(pod: Pod, now: datetime) -> _Service:
        created = pod.metadata.creationTimestamp
        return _Service(
            ready_since(pod),
            restarts(pod),
            parse_time(created) if created else None,
            pod.metadata.uid,
            now,
            is_ready(pod),
        )

    def __lt__(self, other: _Service) -> bool:
        if self.is_ready and self.ready != other.ready:
            return self._is_younger(self.ready, other.ready, other.uid)
        if self.restarts != other.restarts:
            return self.restarts > other.restarts
        if self.created != other.created:
            return self._is_younger(self.created, other.created, other.uid)
        return False

    def _is_younger(self, one: datetime | None, two: datetime | None, uid: str) -> bool:
        if one is None or two is None:
            return one is None
        ours, theirs = self._magnitude(one), self._magnitude(two)
        return self.uid < uid if ours == theirs else ours < theirs

    def _magnitude(self, since: datetime) -> int:
        nanoseconds = (self.now - since).total_seconds() * 1e9
        return int(math.log2(nanoseconds)) if nanoseconds >= 1 else -1


def deletion_cost(pod: Pod) -> int:
    """What the annotation says; 0 when it is not a number as the API would take it."""
    text = pod.metadata.annotations.get(DELETION_COST, "0")
    return int(text) if _COST.fullmatch(text) and -(2**31) <= int(text) < 2**31 else 0


def restarts(pod: Pod) -> tuple[int, int]:
    """The largest number of restarts among the containers and among the sidecars."""
    sidecars = {c.name for c in pod.spec.initContainers if c.restartPolicy == "Always"}
    initial = [s for s in pod.status.initContainerStatuses if s.name in sidecars]
    regular = max((s.restartCount for s in pod.status.containerStatuses), default=0)
    return regular, max((s.restartCount for s in initial), default=0)


def pod_from_template(template: PodTemplateSpec, owner: KubernetesObject) -> Pod:
    """A new pod for `owner`: named after it, controlled by it."""
    source = copy_object(template)
    metadata = source.metadata
    return Pod(
        metadata=ObjectMeta(
            # Of the longest names the hyphen would make bad ones.
            generateName=f"{owner.metadata.name}-"[:253],
            namespace=owner.metadata.namespace,
            labels=metadata.labels,
            annotations=metadata.annotations,
            finalizers=metadata.finalizers,
            ownerReferences=[owner_reference(owner)],
        ),
        spec=source.spec,
    )


class PodControl:
    """Creates and deletes pods for a controller and says so in events on the owner."""

    def __init__(self, client: Client, recorder: EventRecorder) -> None:
        self._pods = client.resource(Pod)
        self._recorder = recorder
        self._random = random.Random()

    async def create(self, pod: Pod, owner: KubernetesObject) -> Pod:
        """Raises ApiError. A namespace that is going away is no fault of the owner's, so then
        there is no event."""
        try:
            created = await self._create_once(pod, owner)
        except ApiError as error:
            if not is_namespace_terminating(error):
                message = f"Error creating: {error}"
                self._recorder.event(owner, "Warning", "FailedCreate", message)
            raise
        name = created.metadata.name
        self._recorder.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {name}")
        return created

    async def _create_once(self, pod: Pod, owner: KubernetesObject) -> Pod:
        """Make the pod under a name chosen here, so that it can be asked for again when nobody
        knows whether it was made: to make another would be one too many."""
        meta = pod.metadata
        if not meta.name:
            meta.name = generate_name(meta.generateName, self._random)
        for attempt in range(CREATE_ATTEMPTS):
            try:
                return await self._pods.create(pod)
            except ApiError as error:
                if attempt and error.is_already_exists:
                    break
                if error.status not in UNKNOWN_OUTCOME or attempt + 1 == CREATE_ATTEMPTS:
                    raise
        found = await self._found(meta)
        reference = controller_of(found)
        if reference is None or reference.uid != owner.metadata.uid:
            raise ApiError(409, "AlreadyExists", f'pods "{meta.name}" already exists')
        return found

    async def _found(self, meta: ObjectMeta) -> Pod:
        """The pod that is there: who gave up now would make another one."""
        for _ in range(CREATE_ATTEMPTS - 1):
            try:
                return await self._pods.get(meta.name, meta.namespace)
            except ApiError as error:
                if error.status not in UNKNOWN_OUTCOME:
                    raise
        return await self._pods.get(meta.name, meta.namespace)

    async def delete(self, pod: Pod, owner: KubernetesObject) -> None:
        """Raises ApiError, also (404) when the pod is gone already or was made anew."""
        meta = pod.metadata
        try:
            await self._pods.delete(meta.name, meta.namespace, uid=meta.uid)
        except ApiError as error:
            if error.is_not_found:
                raise
            if error.is_conflict:
                raise ApiError(404, "NotFound", error.message) from error
            self._recorder.event(owner, "Warning", "FailedDelete", f"Error deleting: {error}")
            text = f"unable to delete pods: {error}"
            raise ApiError(error.status, error.reason, text, error.details) from error
        self._recorder.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {meta.name}")


def is_namespace_terminating(error: ApiError) -> bool:
    causes = (error.details or {}).get("causes") or []
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def is_settled(error: ApiError) -> bool:
    """An object for a namespace is there by now, or its namespace is going."""
    return error.is_already_exists or error.is_not_found or is_namespace_terminating(error)


def controller_key(obj: KubernetesObject, kind: str) -> str | None:
    """The key of the object of that kind which controls `obj`."""
    reference = controller_of(obj)
    if reference is None or reference.kind != kind:
        return None
    return f"{obj.metadata.namespace}/{reference.name}"
