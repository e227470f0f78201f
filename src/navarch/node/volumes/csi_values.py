"""What is said to CSI drivers and by them, apart from their protocol. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from navarch.api.csi import unique_name
from navarch.api.types.core_v1 import CSIPersistentVolumeSource, CSIVolumeSource, Pod

from ..cri.values import RuntimeFailure
from .csi_records import CSI, inline_handle
from .plugin import VolumeProblem, VolumeSpec

_INFO = "csi.storage.k8s.io/"
_UNCERTAIN = {"CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"}
INFEASIBLE_CODES = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_FOUND"})
"""What a driver answers that will never do what it is asked to."""


def is_final(failure: RuntimeFailure) -> bool:
    """Whether a failed call has certainly left nothing behind and nothing at work."""
    return failure.code not in _UNCERTAIN


@contextmanager
def driver_call(what: str) -> Iterator[None]:
    """A call inside that fails is a problem of the volume."""
    try:
        yield
    except RuntimeFailure as failure:
        raise VolumeProblem(f"{CSI}: {what} failed: {failure.message}") from failure


@dataclass(frozen=True, slots=True)
class CsiVolume:
    """A volume as the driver is told of it with every call that needs all of it."""

    handle: str
    access_mode: str = "ReadWriteOnce"
    is_block: bool = False
    fs_type: str = ""
    mount_options: tuple[str, ...] = ()
    fs_group: int | None = None
    """Given only to drivers that can make a volume belong to a group themselves."""
    context: Mapping[str, str] = field(default_factory=dict)
    publish_context: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the driver says of the node it runs on."""

    node_id: str
    limit: int = 0
    """How many volumes it can attach here; 0 for no limit."""
    topology: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """What a pod's volume asks for, whichever way it says so."""

    driver: str
    handle: str
    inline: CSIVolumeSource | None = None
    persistent: CSIPersistentVolumeSource | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.driver, self.handle

    @property
    def unique_name(self) -> str:
        return unique_name(self.driver, self.handle)

    @property
    def fs_type(self) -> str:
        if self.inline is not None:
            return self.inline.fsType or ""
        assert self.persistent is not None
        return self.persistent.fsType


def source_of(spec: VolumeSpec) -> Source:
    csi = spec.source.csi
    if isinstance(csi, CSIPersistentVolumeSource):
        return Source(csi.driver, csi.volumeHandle, persistent=csi)
    assert csi is not None, "not a CSI volume"
    handle = inline_handle(spec.pod.metadata.uid, spec.volume.name)
    return Source(csi.driver, handle, inline=csi)


def access_mode(spec: VolumeSpec) -> str:
    """The first mode of the persistent volume is what the driver is told."""
    modes = spec.persistent.spec.accessModes if spec.persistent is not None else []
    return modes[0] if modes else "ReadWriteOnce"


def wants_group(spec: VolumeSpec, source: Source, policy: str, *, read_only: bool) -> bool:
    """Whether the kubelet has to give the files of a volume to the pod's fsGroup (KEP-1682)."""
    if spec.fs_group is None or policy == "None" or read_only:
        return False
    if policy == "File":
        return True
    if not source.fs_type:
        return False
    if spec.persistent is None:
        return True
    return bool({"ReadWriteOnce", "ReadWriteOncePod"} & set(spec.persistent.spec.accessModes))


def pod_info(pod: Pod, *, is_inline: bool) -> dict[str, str]:
    return {
        f"{_INFO}pod.name": pod.metadata.name,
        f"{_INFO}pod.namespace": pod.metadata.namespace,
        f"{_INFO}pod.uid": pod.metadata.uid,
        f"{_INFO}serviceAccount.name": pod.spec.serviceAccountName,
        f"{_INFO}ephemeral": "true" if is_inline else "false",
    }
