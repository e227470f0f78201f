"""The seam between the volume manager and the types of volumes.

A plug-in knows one type: how to make it appear below the pod's directory and how to take it away
again. What all types share (claims, the order of things, sub-paths, retries, what is still mounted
after a crash) is the manager's. Names and places are upstream's, so that node tools, drivers and a
restarted agent find what they expect:

    pods/<uid>/volumes/<plugin>/<name>              what containers mount
    pods/<uid>/volumeDevices/<plugin>/<name>        a link to the device they get
    plugins/<plugin>/...                            what the pods of a node share (staging)

`<plugin>` is the plug-in's name with `~` for `/`, `<name>` the persistent volume's name or else the
volume's name in the pod. Taking down starts from these names alone: the pod may be long gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from navarch.api.types.core_v1 import (
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeSpec,
    Pod,
    Volume,
)
from navarch.client.clock import Clock

from ..events import PodEvents
from ..objects import Objects
from ..resources import NodeResources


class VolumeProblem(Exception):
    """A volume cannot be set up (now); the text goes into the pod's FailedMount event, with the
    step that has failed if it is not the setting up itself."""

    def __init__(self, text: str, step: str = "") -> None:
        super().__init__(text)
        self.step = step


class NotAttachedInTime(VolumeProblem):
    """The volume has not been attached to the node for so long that the pod's user is told."""

    def __init__(self, text: str, *, is_exhausted: bool = False) -> None:
        super().__init__(text)
        self.is_exhausted = is_exhausted
        """Whether the node has as many volumes attached as it can."""


class ExpansionProblem(VolumeProblem):
    """A volume's file system could not be grown: what is known of that."""

    def __init__(
        self,
        text: str,
        *,
        is_final: bool = True,
        is_infeasible: bool = False,
        is_in_use: bool = False,
        is_unsupported: bool = False,
    ) -> None:
        super().__init__(text)
        self.is_final = is_final
        """Nothing is at work any more."""
        self.is_infeasible = is_infeasible
        """The volume can never be of this size."""
        self.is_in_use = is_in_use
        """It can be, but not while it is mounted."""
        self.is_unsupported = is_unsupported


@dataclass(frozen=True, slots=True)
class PreparedVolume:
    """A volume that containers can mount, or a device they can be given."""

    path: Path
    read_only: bool = False
    """Whatever the mount says: files made from API objects are not for containers to change."""
    is_device: bool = False
    relabel: bool = False
    """Whether the runtime is to give the files the container's SELinux label."""
    image_id: str = ""
    """The image whose files these are."""
    is_mounted_by_runtime: bool = False
    """Whether the runtime mounts that image itself; then there is nothing at `path`."""


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    """What a volume holds, as the node's statistics and evictions want to know it."""

    used: int
    capacity: int = 0
    available: int = 0
    inodes_used: int = 0
    inodes: int = 0
    inodes_free: int = 0


@dataclass(frozen=True)
class VolumeHost:
    """What plug-ins are given by their node."""

    root: Path
    objects: Objects
    node: NodeResources
    clock: Clock
    events: PodEvents
    node_name: str = ""

    def __post_init__(self) -> None:
        # The kernel tells of mounts by their real paths.
        object.__setattr__(self, "root", self.root.resolve())

    def pod_directory(self, uid: str) -> Path:
        return self.root / "pods" / uid

    def plugin_directory(self, name: str) -> Path:
        """Where a plug-in keeps what does not belong to one pod."""
        return self.root / "plugins" / name


@dataclass(frozen=True)
class VolumeSpec:
    """One volume of one pod, its claim looked up."""

    pod: Pod
    volume: Volume
    """The entry of the pod."""
    persistent: PersistentVolume | None = None
    claim: PersistentVolumeClaim | None = None
    is_fresh: bool = True
    """Whether objects must be read anew; a refresh of a running pod may use what was just read."""

    @property
    def name(self) -> str:
        return self.persistent.metadata.name if self.persistent is not None else self.volume.name

    @property
    def source(self) -> Volume | PersistentVolumeSpec:
        """Where the type's own field is."""
        return self.persistent.spec if self.persistent is not None else self.volume

    @property
    def read_only(self) -> bool:
        """Whether the pod's reference to a claim says so; a type may have a field of its own."""
        reference = self.volume.persistentVolumeClaim
        return reference is not None and reference.readOnly

    @property
    def is_block(self) -> bool:
        return self.persistent is not None and self.persistent.spec.volumeMode == "Block"

    @property
    def mount_options(self) -> tuple[str, ...]:
        """The persistent volume's, and those of the old annotation."""
        if self.persistent is None:
            return ()
        annotation = self.persistent.metadata.annotations.get(
            "volume.beta.kubernetes.io/mount-options", ""
        )
        return (*(each for each in annotation.split(",") if each),
                *self.persistent.spec.mountOptions)  # fmt: skip

    @property
    def fs_group(self) -> int | None:
        context = self.pod.spec.securityContext
        return context.fsGroup if context is not None else None


class VolumePlugin:
    """One type of volume. What may hang or take long runs in a thread of the plug-in's choosing.

    All calls for one volume of one pod come one after the other; every call may come again after
    it has succeeded, failed or been cut short by the end of the agent.
    """

    name: ClassVar[str]
    """As upstream's, for instance `kubernetes.io/empty-dir`: part of paths."""
    field: ClassVar[str]
    """The field of a pod's volume or of a persistent volume that asks for this type."""
    is_inline: ClassVar[bool] = True
    is_persistent: ClassVar[bool] = False
    supports_block: ClassVar[bool] = False
    supports_mount_options: ClassVar[bool] = False
    is_refreshed: ClassVar[bool] = False
    """Whether `set_up` is to be called about once a minute while the pod runs."""
    owns_files: ClassVar[bool] = False
    """Whether what lies at `target` is the pod's and is deleted with it. Of all other types only an
    empty mount point may be left, and anything else there is data that nobody may delete."""
    may_expand: ClassVar[bool] = False

    def __init__(self, host: VolumeHost) -> None:
        self.host = host

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        """Makes the volume appear, mostly at `target`; raises `VolumeProblem` or `OSError`."""
        raise VolumeProblem(f"volumes of type {self.field} are not supported by this node")

    def give_up(self, uid: str) -> None:
        """The pod is ending: a `set_up` or `map_device` for it that waits for others may fail."""

    async def tear_down(self, uid: str, name: str, target: Path) -> None:
        """Undoes `set_up`. The manager unmounts and deletes what is left at `target` after it."""

    async def map_device(self, spec: VolumeSpec, target: Path) -> Path:
        """The device of a volume with volumeMode Block. The manager makes the link at `target`
        and the one all pods share, and finds the loop device of a regular file."""
        raise VolumeProblem(f"volumes of type {self.field} are not block devices on this node")

    async def unmap_device(self, uid: str, name: str, target: Path) -> None:
        """Undoes `map_device`; the links go after it."""

    async def unstage(self, name: str) -> None:
        """No pod of this node uses the volume any more: undo what was done once for all of them."""

    async def expand(self, spec: VolumeSpec, prepared: PreparedVolume, size: str) -> None:
        """Grows the file system of a volume that has become larger; the claim is the caller's
        business (see `expansion`). Raises `ExpansionProblem`."""

    async def usage(self, target: Path) -> VolumeUsage | None:
        """What the volume holds now; None if the type does not count."""
        return None


def escaped(plugin: str) -> str:
    """A plug-in's name as a part of a path."""
    return plugin.replace("/", "~")


def unescaped(part: str) -> str:
    return part.replace("~", "/")
