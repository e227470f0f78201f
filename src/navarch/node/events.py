"""Tells the API's readers what happened to a pod, with upstream's reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from navarch.api.types.core_v1 import ObjectReference, Pod
from navarch.client.events import EventRecorder

from .podspec import CONFIG_MIRROR, ContainerSpec


class PodEvents(Protocol):
    """Where the agent's events about pods go."""

    def pod(
        self,
        pod: Pod,
        kind: str,
        reason: str,
        message: str,
        annotations: Mapping[str, str] | None = None,
    ) -> None: ...

    def node(self, kind: str, reason: str, message: str) -> None:
        """Something happened to the node itself."""
        ...

    def container(
        self, pod: Pod, spec: ContainerSpec, kind: str, reason: str, message: str
    ) -> None: ...


class ApiEvents:
    """Events written to the API server."""

    def __init__(self, recorder: EventRecorder, node_name: str) -> None:
        self._recorder, self._node_name = recorder, node_name

    def pod(
        self,
        pod: Pod,
        kind: str,
        reason: str,
        message: str,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self._recorder.event(_reference(pod), kind, reason, message, annotations=annotations)

    def node(self, kind: str, reason: str, message: str) -> None:
        # Upstream's reference to a node has its name for a uid: tools select by that.
        name = self._node_name
        self._recorder.event(
            ObjectReference(apiVersion="v1", kind="Node", name=name, uid=name),
            kind,
            reason,
            message,
        )

    def container(
        self, pod: Pod, spec: ContainerSpec, kind: str, reason: str, message: str
    ) -> None:
        self._recorder.event(_reference(pod), kind, reason, message, field_path=spec.field_path)


def _reference(pod: Pod) -> ObjectReference:
    meta = pod.metadata
    return ObjectReference(
        apiVersion="v1",
        kind="Pod",
        namespace=meta.namespace,
        name=meta.name,
        # People see a static pod through its mirror, whose uid is not the pod's own.
        uid=meta.annotations.get(CONFIG_MIRROR, meta.uid),
        resourceVersion=meta.resourceVersion,
    )
