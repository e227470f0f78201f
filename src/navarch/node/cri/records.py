"""From the interface's messages to the agent's values. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from . import runtime_pb2 as pb
from .values import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    RESTART_COUNT,
    ContainerRecord,
    ContainerState,
    ContainerUsage,
    ImageRecord,
    LinuxUser,
    PodState,
    SandboxRecord,
)


def condition_text(condition: pb.RuntimeCondition | None) -> str:
    if condition is None or condition.status:
        return ""
    return f"{condition.reason}: {condition.message}" if condition.reason else condition.message


def container_record(status: pb.ContainerStatus, sandbox_id: str) -> ContainerRecord:
    user = None
    if status.user.HasField("linux"):
        linux = status.user.linux
        user = LinuxUser(linux.uid, linux.gid, tuple(linux.supplemental_groups))
    restarts = status.annotations.get(RESTART_COUNT, "")
    return ContainerRecord(
        id=status.id,
        name=status.labels.get(CONTAINER_NAME) or status.metadata.name,
        attempt=int(restarts) if restarts.isdigit() else status.metadata.attempt,
        sandbox_id=sandbox_id,
        state=ContainerState(status.state),
        created_at=status.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        image=status.image.image,
        image_ref=status.image_ref,
        log_path=status.log_path,
        user=user,
        labels=dict(status.labels),
        annotations=dict(status.annotations),
    )


def group_by_pod(
    sandboxes: Sequence[SandboxRecord], containers: Sequence[ContainerRecord]
) -> list[PodState]:
    by_uid: dict[str, tuple[list[SandboxRecord], list[ContainerRecord]]] = {}
    for sandbox in sandboxes:
        by_uid.setdefault(sandbox.uid, ([], []))[0].append(sandbox)
    for container in containers:
        by_uid.setdefault(container.labels[POD_UID], ([], []))[1].append(container)
    result = []
    for uid, (own_sandboxes, own_containers) in by_uid.items():
        own_sandboxes.sort(key=lambda each: (each.created_at, each.attempt), reverse=True)
        own_containers.sort(key=lambda each: (each.created_at, each.attempt), reverse=True)
        if own_sandboxes:
            name, namespace = own_sandboxes[0].name, own_sandboxes[0].namespace
        else:
            labels = own_containers[0].labels
            name, namespace = labels.get(POD_NAME, ""), labels.get(POD_NAMESPACE, "")
        result.append(PodState(uid, name, namespace, tuple(own_sandboxes), tuple(own_containers)))
    return result


def image_record(image: pb.Image) -> ImageRecord:
    return ImageRecord(
        id=image.id,
        tags=tuple(image.repo_tags),
        digests=tuple(image.repo_digests),
        size=image.size,
        uid=image.uid.value if image.HasField("uid") else None,
        username=image.username,
        pinned=image.pinned,
    )


def usage_record(stats: pb.ContainerStats) -> ContainerUsage:
    labels = stats.attributes.labels
    return ContainerUsage(
        id=stats.attributes.id,
        name=labels.get(CONTAINER_NAME, ""),
        pod_uid=labels[POD_UID],
        memory_working_set=stats.memory.working_set_bytes.value,
        memory_usage=stats.memory.usage_bytes.value,
        filesystem_bytes=stats.writable_layer.used_bytes.value,
        filesystem_inodes=stats.writable_layer.inodes_used.value,
    )
