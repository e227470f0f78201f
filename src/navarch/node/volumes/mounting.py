"""What the runtime is told of a container's volumes: its mounts and devices. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from navarch.api.types.core_v1 import Container, VolumeMount

from ..cri import runtime_pb2 as pb
from .plugin import PreparedVolume, VolumeProblem

_PROPAGATION = {
    "": pb.PROPAGATION_PRIVATE,
    "None": pb.PROPAGATION_PRIVATE,
    "HostToContainer": pb.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": pb.PROPAGATION_BIDIRECTIONAL,
}


def volume_mounts(
    container: Container,
    volumes: Mapping[str, PreparedVolume],
    subpaths: Mapping[int, Path],
    *,
    recursive_read_only: bool,
) -> list[pb.Mount]:
    """The mounts in the order of the specification; `subpaths` are what some of them (by number)
    show, `recursive_read_only` is whether the runtime can make mounts below a mount read-only."""
    mounts = []
    for number, wanted in enumerate(container.volumeMounts):
        volume = volumes.get(wanted.name)
        if volume is None or volume.is_device:
            raise VolumeProblem(
                f'cannot find volume "{wanted.name}" to mount into container "{container.name}"'
            )
        if volume.is_mounted_by_runtime:
            mounts.append(
                pb.Mount(
                    container_path=str(PurePosixPath("/") / wanted.mountPath),
                    image=pb.ImageSpec(image=volume.image_id),
                    image_sub_path=str(subpaths.get(number, "")),
                    readonly=True,
                )
            )
            continue
        mounts.append(
            pb.Mount(
                container_path=str(PurePosixPath("/") / wanted.mountPath),
                host_path=str(subpaths.get(number, volume.path)),
                # runc mounts anew what it is to make read-only, and forgets "noexec" over it; the
                # node's own mount of an image is both already, and cannot be made writable.
                readonly=(wanted.readOnly or volume.read_only) and not volume.image_id,
                propagation=_propagation(wanted, container),
                recursive_read_only=is_recursive_read_only(wanted, recursive_read_only),
                selinux_relabel=volume.relabel,
            )
        )
    return mounts


def _propagation(wanted: VolumeMount, container: Container) -> pb.MountPropagation:
    mode = wanted.mountPropagation or ""
    if mode not in _PROPAGATION:
        raise VolumeProblem(f'invalid MountPropagation mode: "{mode}"')
    context = container.securityContext
    if mode == "Bidirectional" and not (context is not None and context.privileged):
        # The API refuses it as well; a static pod has passed no API.
        raise VolumeProblem("Bidirectional mount propagation is available only to privileged "
                            "containers")  # fmt: skip
    return _PROPAGATION[mode]


def is_recursive_read_only(wanted: VolumeMount, supported: bool) -> bool:
    """KEP-3857: `Enabled` is never quietly less than that."""
    mode = wanted.recursiveReadOnly or "Disabled"
    if mode == "Disabled":
        return False
    asked = f'volume "{wanted.name}" requested recursive read-only mode, but it is not'
    problem = ""
    if not wanted.readOnly:
        problem = f"{asked} read-only"
    elif wanted.mountPropagation not in (None, "", "None"):
        problem = f'{asked} compatible with propagation "{wanted.mountPropagation}"'
    elif mode == "Enabled" and not supported:
        problem = f"{asked} supported by the runtime"
    elif mode not in ("Enabled", "IfPossible"):
        problem = f'unknown recursive read-only mode "{mode}"'
    if problem:
        raise VolumeProblem(f"failed to resolve recursive read-only mode: {problem}")
    return supported


def volume_devices(container: Container, volumes: Mapping[str, PreparedVolume]) -> list[pb.Device]:
    """The block volumes of a container; the runtime lets it use just these."""
    devices = []
    for wanted in container.volumeDevices:
        volume = volumes.get(wanted.name)
        if not wanted.devicePath.startswith("/"):
            raise VolumeProblem(f"error DevicePath `{wanted.devicePath}` must be an absolute path")
        if volume is None or not volume.is_device:
            raise VolumeProblem(
                f'cannot find volume "{wanted.name}" to pass into container "{container.name}"'
            )
        devices.append(
            pb.Device(
                container_path=wanted.devicePath,
                host_path=str(volume.path),
                permissions="r" if volume.read_only else "mrw",
            )
        )
    return devices
