"""Volumes of type image: the files of an image, read-only (KEP-4639).

Upstream hands such a mount to the runtime, which needs containerd 2.1 or CRI-O. With containerd, of
whatever release, this node mounts the image itself: a view of its layers, below the pod's
directory. Older ones cannot, and 2.1 knows no `subPath`. It is an overlay without an upper layer,
which nobody can make writable: runc since 1.2 clears what flags a mount had, so that with it
nothing is kept from being executed either, whoever mounts.

The image is pulled when a container that mounts it is about to start, by the same rules as the
container's own, and looked up anew each time: a container that starts again may find a newer
image. Each has a directory of its own, named after its id, so that the disk alone tells what was
made:

    pods/<uid>/volumes/kubernetes.io~image/<name>/<hexadecimal part of the image's id>

The directory is made before the view and deleted after it: an agent that is killed in between
leaves nothing behind that the next one does not find.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from navarch.api.types.core_v1 import ImageVolumeSource, Pod, Secret

from ..cri.runtime import Runtime
from ..cri.snapshots import MountStep, Snapshots
from ..cri.values import RuntimeFailure
from ..images.puller import ImageProblem, ImagePuller, Wish
from ..podspec import ContainerSpec
from . import kernel
from .plugin import PreparedVolume, VolumeHost, VolumePlugin, VolumeSpec, escaped

_FLAGS = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_OPTIONS_LIMIT = 4095
"""The kernel takes one page of mount options."""
_ALGORITHM = "sha256:"
_FIRST_RELEASES = {"cri-o": (1, 31)}
"""The first release of each runtime that mounts images itself as it should."""
RETRY_SECONDS = 10.0


class ImagePlugin(VolumePlugin):
    """See the module."""

    name = "kubernetes.io/image"
    field = "image"

    def __init__(
        self, host: VolumeHost, runtime: Runtime, snapshots: Snapshots, puller: ImagePuller
    ) -> None:
        super().__init__(host)
        self._runtime, self._snapshots, self._puller = runtime, snapshots, puller
        self._mounted_by_runtime: bool | None = None

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        """Only the place: the rest is done when a container starts (`provide`)."""
        await asyncio.to_thread(target.mkdir, 0o750, parents=True, exist_ok=True)
        return PreparedVolume(target, read_only=True)

    async def provide(
        self,
        pod: Pod,
        spec: ContainerSpec,
        secrets: Sequence[Secret],
        volumes: Mapping[str, PreparedVolume],
    ) -> dict[str, PreparedVolume]:
        """The image volumes that the container mounts, ready; raises `ImageProblem`."""
        used = {mount.name for mount in spec.container.volumeMounts} & volumes.keys()
        provided = {}
        for volume in pod.spec.volumes:
            if volume.image is None or volume.name not in used:
                continue
            try:
                provided[volume.name] = await self._provide_one(
                    pod, volume.image, secrets, volumes[volume.name]
                )
            except ImageProblem as problem:
                tell = partial(self.host.events.container, pod, spec)
                tell("Warning", "Failed", f"Error: {problem.reason}")
                raise
        return provided

    async def _provide_one(
        self, pod: Pod, source: ImageVolumeSource, secrets: Sequence[Secret], volume: PreparedVolume
    ) -> PreparedVolume:
        policy = source.pullPolicy or "IfNotPresent"
        tell = partial(self.host.events.pod, pod)
        found = await self._puller.get(Wish(pod, source.reference, policy, secrets, tell))
        image = found.record.id
        place = volume.path / image.removeprefix(_ALGORITHM)
        try:
            await asyncio.to_thread(place.mkdir, 0o750, exist_ok=True)
            by_runtime = await self._is_mounted_by_runtime()
            if not by_runtime and not await asyncio.to_thread(os.path.ismount, place):
                steps = await self._snapshots.view(_key(place), image)
                await asyncio.to_thread(mount_image, steps, place)
        except (RuntimeFailure, OSError) as failure:
            text = failure.message if isinstance(failure, RuntimeFailure) else str(failure)
            text = f'failed to mount image "{source.reference}": {text}'
            raise ImageProblem("ImageVolumeMountFailed", text, RETRY_SECONDS) from failure
        return replace(volume, path=place, image_id=image, is_mounted_by_runtime=by_runtime)

    async def _is_mounted_by_runtime(self) -> bool:
        if self._mounted_by_runtime is None:
            info = await self._runtime.info()
            self._mounted_by_runtime = mounts_images(info.name, info.version)
        return self._mounted_by_runtime

    async def tear_down(self, uid: str, name: str, target: Path) -> None:
        for place in await asyncio.to_thread(_places, target):
            await asyncio.to_thread(kernel.unmount, place)
            try:
                await self._snapshots.remove(_key(place))
            except RuntimeFailure as failure:
                if failure.code != "UNIMPLEMENTED":
                    raise OSError(f"view of an image: {failure.message}") from failure
            await asyncio.to_thread(place.rmdir)

    def images_in_use(self) -> set[str]:
        """The ids of all images that are volumes now."""
        pattern = f"pods/*/volumes/{escaped(self.name)}/*/*"
        return {_ALGORITHM + place.name for place in self.host.root.glob(pattern)}


def mounts_images(runtime: str, version: str) -> bool:
    """Whether a runtime takes images as mounts."""
    first = _FIRST_RELEASES.get(runtime)
    numbers = re.findall(r"\d+", version)[:2]
    return first is not None and len(numbers) == 2 and tuple(map(int, numbers)) >= first


def mount_image(steps: Sequence[MountStep], place: Path) -> None:
    """Mounts a view at `place`; raises `OSError`."""
    if len(steps) != 1:
        raise OSError(f"the view of the image takes {len(steps)} mounts, not one")
    (step,) = steps
    if step.kind in ("bind", "rbind") or {"bind", "rbind"} & {*step.options}:
        # An overlay wants two layers: the other is the place itself, which is empty.
        step = MountStep("overlay", "overlay", (f"lowerdir={step.source}:{place}",))
    options = [each for each in step.options if each not in ("ro", "rw")]
    with ExitStack() as opened:
        if len(",".join(options)) > _OPTIONS_LIMIT:
            options = [_shortened(each, opened) for each in options]
        kernel.mount(step.source, place, step.kind, _FLAGS, ",".join(options))


def _shortened(option: str, opened: ExitStack) -> str:
    """The layers of a long list by open descriptors, whose names are short."""
    name, equals, value = option.partition("=")
    if name != "lowerdir":
        return option
    descriptors = [os.open(each, os.O_PATH | os.O_CLOEXEC) for each in value.split(":")]
    for descriptor in descriptors:
        opened.callback(os.close, descriptor)
    return name + equals + ":".join(f"/proc/self/fd/{each}" for each in descriptors)


def _key(place: Path) -> str:
    """The name of the view that is mounted at `place`: of this pod, this volume, this image."""
    uid = place.parent.parent.parent.parent.name
    return f"navarch-image-volume-{uid}-{place.parent.name}-{place.name}"


def _places(target: Path) -> list[Path]:
    return sorted(target.iterdir()) if target.is_dir() else []
