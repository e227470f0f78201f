"""Equal parts of pods kept once.

Pods of one workload differ in names, times and addresses and are alike in all else: environment,
probes, tolerations, labels. Decoded, each pod would have its own copy of all that, and many empty
lists besides: some 13 kB. Sharing what is equal leaves a third of it, which decides how many pods a
process can follow. Nothing can be told from an object that shares: objects in caches are never
changed, and a copy is decoded anew.

What is shared is remembered by its encoded form, as long as there is not too much of it; forgetting
costs memory at most.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from navarch.api.types.core_v1 import Container, ContainerStatus, Pod, PodSpec, PodStatus, Volume

LIMIT = 20_000
"""So many different parts are remembered at most."""
SPECS = 2048
"""And so many specs: a burst of pods is bound and started before this many more have come."""

_encode = msgspec.json.Encoder().encode
_intern = sys.intern
_specs: dict[str, PodSpec] = {}
"""The last specs by the pod's uid: a pod that changes nearly always keeps its spec."""
_parts: dict[tuple[str, type, bytes], Any] = {}
"""By field, type and encoded form: what is written alike need not be of one type."""
_NO_ITEMS: list[Any] = []
_NO_ENTRIES: dict[str, Any] = {}

METADATA = ("labels", "annotations", "ownerReferences")
SPEC = (
    *("nodeSelector", "securityContext", "imagePullSecrets", "affinity", "tolerations"),
    *("hostAliases", "dnsConfig", "readinessGates", "topologySpreadConstraints", "overhead"),
)
CONTAINER = (
    *("command", "args", "ports", "envFrom", "env", "resources", "resizePolicy", "livenessProbe"),
    *("readinessProbe", "startupProbe", "lifecycle", "securityContext"),
)
STATUS_TEXTS = ("phase", "hostIP", "startTime", "qosClass")
CONDITION_TEXTS = ("type", "status", "reason", "message", "lastTransitionTime")


def _texts(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(kind) if field.type is str)


def _containers(kind: type, origin: str) -> tuple[str, ...]:
    """The fields that are lists (or maps) and empty where nothing is said."""
    fields = msgspec.structs.fields(kind)
    return tuple(field.name for field in fields if str(field.type).startswith(f"{origin}["))


_TEXTS = {kind: _texts(kind) for kind in (PodSpec, Container, Volume)}
_SPARSE = (PodSpec, Container, PodStatus, ContainerStatus)
_LISTS = {kind: _containers(kind, "list") for kind in _SPARSE}
_MAPS = {kind: _containers(kind, "dict") for kind in _SPARSE}


def share_parts(pod: Pod) -> None:
    """Let a freshly decoded pod share what other pods have as well."""
    if len(_parts) > LIMIT:
        _parts.clear()
    status = pod.status
    pod.metadata.namespace = _intern(pod.metadata.namespace)
    _share(pod.metadata, METADATA)
    _share_spec(pod)
    _intern_texts(status, STATUS_TEXTS)
    _share_empty(status)
    for condition in status.conditions:
        _intern_texts(condition, CONDITION_TEXTS)
    for each in (*status.containerStatuses, *status.initContainerStatuses):
        _share(each, ("lastState", "resources", "volumeMounts"))
        _intern_texts(each, ("name", "image", "imageID"))
        _share_empty(each)


def _share_spec(pod: Pod) -> None:
    """As the pod had it before, its node aside, or in parts."""
    spec, uid = pod.spec, pod.metadata.uid
    before = _specs.pop(uid, None)
    if before is not None:
        node, spec.nodeName = spec.nodeName, before.nodeName
        if spec == before:
            if node != before.nodeName:
                before = msgspec.structs.replace(before, nodeName=_intern(node))
            pod.spec = _specs[uid] = before
            return
        spec.nodeName = node
    if len(_specs) >= SPECS:
        del _specs[next(iter(_specs))]
    _specs[uid] = spec
    _share(spec, SPEC)
    _share_plain(spec)
    for container in (*spec.containers, *spec.initContainers):
        _share(container, CONTAINER)
        _share_plain(container)
        for mount in container.volumeMounts:
            mount.name = _intern(mount.name)
            mount.mountPath = _intern(mount.mountPath)
    for volume in spec.volumes:
        volume.name = _intern(volume.name)
        _share(volume, ("projected",))


def _share(obj: Any, names: Iterable[str]) -> None:
    for name in names:
        part = getattr(obj, name)
        if part:
            key = name, type(part), _encode(part)
            setattr(obj, name, _parts.setdefault(key, part))


def _share_plain(obj: Any) -> None:
    """The texts and the empty collections."""
    _intern_texts(obj, _TEXTS[type(obj)])
    _share_empty(obj)


def _share_empty(obj: Any) -> None:
    kind = type(obj)
    for name in _LISTS[kind]:
        if not getattr(obj, name):
            setattr(obj, name, _NO_ITEMS)
    for name in _MAPS[kind]:
        if not getattr(obj, name):
            setattr(obj, name, _NO_ENTRIES)


def _intern_texts(obj: Any, names: Iterable[str]) -> None:
    for name in names:
        text = getattr(obj, name)
        if text:
            setattr(obj, name, _intern(text))
