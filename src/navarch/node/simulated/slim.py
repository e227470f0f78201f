"""Keeps the memory of 150,000 pods small.

Of a pod, only what its life needs stays, and what is equal in many pods (the containers of one
template, conditions that turned in the same second) is one object in all of them. The parts are
shared: nobody changes them, as with everything in an informer's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import msgspec

from navarch.api.types.core_v1 import (
    Container,
    ContainerStatus,
    Node,
    NodeStatus,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
)
from navarch.api.types.meta_v1 import ObjectMeta

from .timetable import is_setting

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
POOL_SIZE = 50_000

_EMPTY_LIST: list[Any] = []
_EMPTY_MAP: dict[str, Any] = {}

_META = ("name", "namespace", "uid", "resourceVersion", "generation", "finalizers")
_META_DELETION = ("deletionTimestamp", "deletionGracePeriodSeconds")
_SPEC = ("nodeName", "restartPolicy", "hostNetwork", "activeDeadlineSeconds", "readinessGates")
_SPEC_FOR_ADMISSION = ("nodeSelector", "affinity", "tolerations", "overhead", "resources", "os")
_CONTAINER = ("name", "image", "restartPolicy", "restartPolicyRules", "resources", "ports")


def _blank(kind: type[S]) -> Callable[[], S]:
    """Makes empty Structs of a kind whose lists and maps are all the same."""
    fixed: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.default_factory is list:
            fixed[field.name] = _EMPTY_LIST
        elif field.default_factory is dict:
            fixed[field.name] = _EMPTY_MAP
    if kind is ContainerStatus:
        return lambda: kind(**fixed)
    # Nested Structs that are left out are one object as well.
    for field in msgspec.structs.fields(kind):
        factory = field.default_factory
        if factory not in (list, dict, msgspec.NODEFAULT):
            fixed[field.name] = factory()
    return lambda: kind(**fixed)


_blank_meta, _blank_spec = _blank(ObjectMeta), _blank(PodSpec)
_blank_status, _blank_container = _blank(PodStatus), _blank(Container)
_blank_container_status, _blank_condition = _blank(ContainerStatus), _blank(PodCondition)


class Slimmer:
    """Transforms of informers."""

    def __init__(self, *, keep_labels: bool, is_ours: Callable[[str], bool]) -> None:
        self._keep_labels, self._is_ours = keep_labels, is_ours
        self._pool: dict[Hashable, Any] = {}

    def _shared(self, key: Hashable, value: T) -> T:
        if len(self._pool) > POOL_SIZE:
            # It only saves memory: what is in use stays, what comes next is shared anew.
            self._pool.clear()
        found: T = self._pool.setdefault(key, value)
        return found

    def text(self, value: str) -> str:
        return self._shared(value, value)

    def pod(self, pod: Pod) -> Pod:
        """Only what the life of a pod needs; of pods on others' nodes only who they are."""
        meta, spec, status = _blank_meta(), _blank_spec(), _blank_status()
        _copy(pod.metadata, meta, _META)
        meta.namespace = self.text(meta.namespace)
        spec.nodeName = self.text(pod.spec.nodeName)
        if self._is_ours(spec.nodeName):
            self._fill(pod, meta, spec, status)
        return Pod(metadata=meta, spec=spec, status=status)

    def _fill(self, pod: Pod, meta: ObjectMeta, spec: PodSpec, status: PodStatus) -> None:
        if pod.metadata.deletionTimestamp:
            _copy(pod.metadata, meta, _META_DELETION)
        annotations = pod.metadata.annotations
        if annotations and any(is_setting(key) or key in _STATIC for key in annotations):
            kept = {k: v for k, v in annotations.items() if is_setting(k) or k in _STATIC}
            meta.annotations = self._shared(("annotations", *kept.items()), kept)
        if self._keep_labels and pod.metadata.labels:
            labels = pod.metadata.labels
            meta.labels = self._shared(("labels", *labels.items()), labels)
            meta.annotations = pod.metadata.annotations
        _copy(pod.spec, spec, _SPEC)
        spec.restartPolicy = self.text(spec.restartPolicy)
        spec.containers = self._containers(pod.spec.containers)
        spec.initContainers = self._containers(pod.spec.initContainers)
        if not pod.status.startTime:
            _copy(pod.spec, spec, _SPEC_FOR_ADMISSION)
            meta.labels = pod.metadata.labels
        elif pod.spec.resources is not None or pod.spec.overhead:
            _copy(pod.spec, spec, ("overhead", "resources"))
        self._fill_status(pod.status, status)

    def _fill_status(self, old: PodStatus, new: PodStatus) -> None:
        new.observedGeneration, new.podIP = old.observedGeneration, old.podIP
        new.phase, new.startTime = self.text(old.phase), old.startTime and self.text(old.startTime)
        new.containerStatuses = self._statuses(old.containerStatuses)
        new.initContainerStatuses = self._statuses(old.initContainerStatuses)
        if old.conditions:
            key = tuple(
                (c.type, c.status, c.reason, c.message, c.lastTransitionTime, c.observedGeneration)
                for c in old.conditions
            )
            new.conditions = self._shared(key, old.conditions)

    def _containers(self, containers: list[Container]) -> list[Container]:
        if not containers:
            return _EMPTY_LIST
        slim = []
        for container in containers:
            kept = _blank_container()
            _copy(container, kept, _CONTAINER)
            slim.append(kept)
        return self._shared(msgspec.json.encode(slim), slim)

    def _statuses(self, statuses: list[ContainerStatus]) -> list[ContainerStatus]:
        if not statuses:
            return _EMPTY_LIST
        slim = []
        for status in statuses:
            kept = _blank_container_status()
            _copy(status, kept, ("name", "ready", "started", "restartCount", "state", "lastState"))
            slim.append(kept)
        return self._shared(msgspec.json.encode(slim), slim)


def node(node: Node) -> Node:
    """The transform of the node informer."""
    meta, status = _blank_meta(), NodeStatus()
    _copy(node.metadata, meta, ("name", "uid", "resourceVersion", "labels", "annotations"))
    status.conditions, status.capacity = node.status.conditions, node.status.capacity
    status.allocatable, status.nodeInfo = node.status.allocatable, node.status.nodeInfo
    status.images, status.addresses = node.status.images[:1], node.status.addresses
    return Node(metadata=meta, spec=node.spec, status=status)


_STATIC = ("kubernetes.io/config.source",)


def _copy(source: object, target: object, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(target, name, getattr(source, name))
