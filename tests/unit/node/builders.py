"""Pods and states for the tests of the node agent."""

from __future__ import annotations

from typing import Any

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Container, Pod
from navarch.node.cri.values import (
    CONTAINER_HASH,
    ContainerRecord,
    ContainerState,
    PodState,
    SandboxRecord,
)
from navarch.node.podspec import container_hash, find_container

SECOND = 1_000_000_000


def make_pod(
    *containers: dict[str, Any], metadata: dict[str, Any] | None = None, **spec: Any
) -> Pod:
    """A pod as the API would hand it out."""
    listed = containers or ({"name": "main"},)
    document = {
        "metadata": {
            "name": "web", "namespace": "default", "uid": "u-1", "generation": 1,
            **(metadata or {}),
        },
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "nodeName": "node-1",
            "containers": [{"image": "busybox:1.36", **each} for each in listed],
            **spec,
        },
    }  # fmt: skip
    return from_object(Pod, document)


def make_container(**fields: Any) -> Container:
    return make_pod({"name": "main", **fields}).spec.containers[0]


def sandbox(
    attempt: int = 0, *, ready: bool = True, ips: tuple[str, ...] = ("10.1.0.1",)
) -> SandboxRecord:
    return SandboxRecord(
        f"s{attempt}", "web", "default", "u-1", attempt, ready, attempt + 1, ips if ready else ()
    )


def record(
    pod: Pod, name: str = "main", attempt: int = 0, *, exit_code: int | None = None, **fields: Any
) -> ContainerRecord:
    """A container instance: running, or over if it has an exit code."""
    spec = find_container(pod, name)
    digest = container_hash(spec.container) if spec is not None else ""
    over = exit_code is not None
    values: dict[str, Any] = {
        "id": f"{name}-{attempt}",
        "name": name,
        "attempt": attempt,
        "sandbox_id": "s0",
        "state": ContainerState.EXITED if over else ContainerState.RUNNING,
        "created_at": (100 + attempt) * SECOND,
        "started_at": (100 + attempt) * SECOND,
        "finished_at": (110 + attempt) * SECOND if over else 0,
        "exit_code": exit_code or 0,
        "annotations": {CONTAINER_HASH: digest},
        **fields,
    }
    return ContainerRecord(**values)


def state(*records: ContainerRecord, boxes: tuple[SandboxRecord, ...] = (sandbox(),)) -> PodState:
    """What the runtime holds; records are given oldest first."""
    return PodState("u-1", "web", "default", boxes, tuple(reversed(records)))
