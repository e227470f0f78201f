"""Pods as controllers see them: ready and available, which to delete first, made from a template.

Source: upstream's `pkg/controller/controller_utils.go` and `pkg/api/v1/pod`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Pod, PodCondition, PodTemplateSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.events import EventRecorder
from navarch.client.objects import KubernetesObject
from navarch.client.owners import controller_of, owner_reference

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


class Condition(Protocol):
    """What every condition of every kind has."""

    type: str
    status: str


C = TypeVar("C", bound=Condition)


def find_condition(conditions: Iterable[C], type_: str) -> C | None:
    return next((condition for condition in conditions if condition.type == type_), None)


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
    if condition is None or condition.status != "True" or not condition.lastTransitionTime:
        return None
    return parse_time(condition.lastTransitionTime)


def seconds_until_available(pod: Pod, min_ready_seconds: int, now: datetime) -> float | None:
    """0 for a pod that is available: ready, and for long enough. Seconds to go for one that is
    ready but too young, None for one that is not ready."""
    if not is_ready(pod):
        return None
    since = ready_since(pod)
    if min_ready_seconds <= 0:
        return 0.0
    if since is None:
        return None
    return max(0.0, min_ready_seconds - (now - since).total_seconds())


def is_available(pod: Pod, min_ready_seconds: int, now: datetime) -> bool:
    return seconds_until_available(pod, min_ready_seconds, now) == 0.0


def deletion_order(candidates: Sequence[Pod], related: Iterable[Pod], now: datetime) -> list[Pod]:
    """Pods in the order in which a controller gives them up: those that serve least first.

    `related` are all pods of the same workload; a node with many of them loses one first."""
    on_node: dict[str, int] = {}
    for pod in related:
        if is_active(pod) and pod.spec.nodeName:
            on_node[pod.spec.nodeName] = on_node.get(pod.spec.nodeName, 0) + 1

    def age_bucket(since: datetime | None) -> int:
        """Ages are compared by magnitude, so that a few seconds do not outweigh what follows."""
        if since is None:
            return -1
        seconds = (now - since).total_seconds()
        return int(math.log2(seconds)) if seconds >= 1 else -1

    def rank(pod: Pod) -> tuple[object, ...]:
        created = pod.metadata.creationTimestamp
        return (
            bool(pod.spec.nodeName),
            PHASE_RANK.get(pod.status.phase, 2),
            is_ready(pod),
            deletion_cost(pod),
            -on_node.get(pod.spec.nodeName, 0),
            age_bucket(ready_since(pod)) if is_ready(pod) else 0,
            -restarts(pod),
            age_bucket(parse_time(created)) if created else -1,
            pod.metadata.uid,
        )

    return sorted(candidates, key=rank)


def deletion_cost(pod: Pod) -> int:
    try:
        return int(pod.metadata.annotations.get(DELETION_COST, "0"))
    except ValueError:
        return 0


def restarts(pod: Pod) -> int:
    """The largest number of restarts among the pod's containers."""
    statuses = pod.status.containerStatuses
    return max((status.restartCount for status in statuses), default=0)


def pod_from_template(template: PodTemplateSpec, owner: KubernetesObject) -> Pod:
    """A new pod for `owner`: named after it, controlled by it."""
    source = copy_object(template)
    metadata = source.metadata
    # A name that leaves no room for the suffix would be cut by the server in the same way.
    prefix = f"{owner.metadata.name}-"
    return Pod(
        metadata=ObjectMeta(
            generateName=prefix,
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

    async def create(self, pod: Pod, owner: KubernetesObject) -> Pod:
        """Raises ApiError. A namespace that is going away is no fault of the owner's, so then
        there is no event."""
        try:
            created = await self._pods.create(pod)
        except ApiError as error:
            if not is_namespace_terminating(error):
                message = f"Error creating: {error}"
                self._recorder.event(owner, "Warning", "FailedCreate", message)
            raise
        name = created.metadata.name
        self._recorder.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {name}")
        return created

    async def delete(self, pod: Pod, owner: KubernetesObject) -> None:
        """Raises ApiError, also when the pod is gone already."""
        meta = pod.metadata
        try:
            await self._pods.delete(meta.name, meta.namespace, uid=meta.uid)
        except ApiError as error:
            if not error.is_not_found:
                self._recorder.event(owner, "Warning", "FailedDelete", f"Error deleting: {error}")
            raise
        self._recorder.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {meta.name}")


def is_namespace_terminating(error: ApiError) -> bool:
    causes = (error.details or {}).get("causes") or []
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def controller_key(obj: KubernetesObject, kind: str) -> str | None:
    """The key of the object of that kind which controls `obj`."""
    reference = controller_of(obj)
    if reference is None or reference.kind != kind:
        return None
    return f"{obj.metadata.namespace}/{reference.name}"


def merged_labels(*parts: Mapping[str, str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for part in parts:
        result.update(part)
    return result
