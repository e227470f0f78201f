"""Sets up, refreshes and takes down the volumes of pods.

Little is remembered, and nothing that matters: setting up is idempotent, and taking down finds what
there is in the mount table and on disk (see `plugin` for the places), so a restarted agent cleans
up after the one before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from navarch.api.errors import ApiError
from navarch.api.persistent_volumes import claim_name
from navarch.api.types.core_v1 import Pod, Volume
from navarch.client.batches import together

from . import claims
from .devices import map_device, unmap_device
from .empty_dir import EmptyDirPlugin
from .expansion import Expansion
from .files import ConfigMapPlugin, DownwardPlugin, ProjectedPlugin, SecretPlugin
from .host_path import HostPathPlugin
from .kernel import mounts_under, unmount
from .local import LocalPlugin
from .nfs import NfsPlugin
from .plugin import (
    ExpansionProblem,
    NotAttachedInTime,
    PreparedVolume,
    VolumeHost,
    VolumePlugin,
    VolumeProblem,
    VolumeSpec,
    VolumeUsage,
    escaped,
    unescaped,
)
from .refused import refuse
from .subpath import bind_subpath
from .tokens import PodTokens
from .trees import is_directory, remove_tree

log = logging.getLogger(__name__)

FAILED_MOUNT, FAILED_MAP = "FailedMount", "FailedMapVolume"
RESIZE_FAILED = "VolumeResizeFailed"
BUSY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""How long a teardown waits before it is tried again."""


class VolumesFailed(Exception):
    """Some of a pod's volumes are not there (yet): what its events say, as reason and text."""

    def __init__(self, problems: Iterable[tuple[str, str]], rejection: str = "") -> None:
        self.problems = list(problems)
        self.rejection = rejection
        """Why the pod cannot have them on this node at all, if it cannot."""
        super().__init__("; ".join(text for _, text in self.problems))


@dataclass
class _Known:
    """What was set up for a pod since the agent has been running."""

    prepared: dict[str, PreparedVolume] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """The persistent volume behind each of the pod's volumes, once it is looked up."""
    plugins: dict[str, VolumePlugin] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    """The volumes that the pod's containers may have."""


class VolumeManager:
    """The volumes of all pods on this node."""

    def __init__(self, host: VolumeHost) -> None:
        self.host = host
        self._objects, self._clock = host.objects, host.clock
        self._tokens = PodTokens(host.objects, host.clock)
        self._plugins: dict[str, VolumePlugin] = {}
        self._fields: dict[str, VolumePlugin] = {}
        self._known: dict[str, _Known] = {}
        self._locks: dict[str, _Lock] = {}
        self._expansion = Expansion(host)
        self.node_labels: Callable[[], Mapping[str, str]] = dict
        """The node's labels by now; its owner knows."""
        for kind in (EmptyDirPlugin, HostPathPlugin, LocalPlugin, NfsPlugin):
            self.add(kind(host))
        for files in (ConfigMapPlugin, SecretPlugin, DownwardPlugin, ProjectedPlugin):
            self.add(files(host, self._tokens))

    def add(self, plugin: VolumePlugin) -> None:
        """Makes a type of volume known."""
        self._plugins[plugin.name] = plugin
        self._fields[plugin.field] = plugin

    def pod_directory(self, uid: str) -> Path:
        return self.host.pod_directory(uid)

    def known_pods(self) -> list[str]:
        """The uids of pods that something lies on disk of."""
        try:
            return os.listdir(self.host.root / "pods")
        except FileNotFoundError:
            return []

    # Setting up

    async def prepare(self, pod: Pod, *, fresh: bool = True) -> dict[str, PreparedVolume]:
        """Sets up every volume that containers of the pod use, or raises `VolumesFailed`.

        Called again for a running pod it refreshes the files (`fresh=False` may then use what was
        read for another pod moments ago).
        """
        mounted, devices = claims.used_volumes(pod)
        used = [each for each in pod.spec.volumes if each.name in mounted | devices]
        known = self._known.setdefault(pod.metadata.uid, _Known())
        try:
            self._make_directory(pod.metadata.uid)
        except OSError as error:
            text = f"error making pod data directories: {error}"
            raise VolumesFailed([("Failed", text)]) from error
        outcomes = await together(
            *(self._prepare_one(pod, volume, known, fresh) for volume in used)
        )
        problems = [each for each in outcomes if isinstance(each, tuple)]
        waiting = {
            volume.name: outcome
            for volume, outcome in zip(used, outcomes, strict=True)
            if isinstance(outcome, VolumeProblem)
        }
        missing = [each.name for each in used if each.name not in known.prepared]
        if waiting:
            text = _summary(missing, waiting)
            if any(
                isinstance(each, NotAttachedInTime) and each.is_exhausted
                for each in waiting.values()
            ):
                limit = "Node has reached its volume attachment limit, rejecting pod. "
                raise VolumesFailed(problems, limit + text)
            problems.append((FAILED_MOUNT, f"Unable to attach or mount volumes: {text}"))
        if problems:
            raise VolumesFailed(problems)
        return {each.name: known.prepared[each.name] for each in used}

    def _make_directory(self, uid: str) -> None:
        """What pods have is nobody's to see who comes upon the agent's directory."""
        directory = self.pod_directory(uid)
        for each in (directory.parent, directory):
            each.mkdir(parents=True, exist_ok=True)
            each.chmod(0o750)

    async def _prepare_one(
        self, pod: Pod, volume: Volume, known: _Known, fresh: bool
    ) -> VolumeProblem | tuple[str, str] | None:
        """What went wrong: an event, or the part of one in which all that the pod waits for is
        told together."""
        operation, step, reason, name = "MountVolume", "SetUp", FAILED_MOUNT, volume.name
        try:
            spec = await self._look_up(pod, volume, fresh)
            name = spec.name
            if spec.is_block:
                operation, step, reason = "MapVolume", "MapPodDevice", FAILED_MAP
            plugin = self._plugin_for(spec)
            await self._set_up(spec, plugin, known)
        except (claims.ClaimProblem, NotAttachedInTime) as problem:
            return problem
        except ExpansionProblem as problem:
            what = "MountVolume.Setup failed while expanding volume"
            if volume.name in known.ready:
                reason, what = RESIZE_FAILED, "NodeExpandVolume.NodeExpandVolume failed"
            return reason, f'{what} for volume "{name}" : {problem}'
        except VolumeProblem as problem:
            text, step = str(problem), problem.step or step
        except ApiError as error:
            text = error.message
        except OSError as error:
            text = _text_of(error)
        else:
            return None
        return reason, f'{operation}.{step} failed for volume "{name}" : {text}'

    async def _look_up(self, pod: Pod, volume: Volume, fresh: bool) -> VolumeSpec:
        name = claim_name(pod, volume)
        if not name:
            return VolumeSpec(pod, volume, is_fresh=fresh)
        claim = await self._objects.claim(pod.metadata.namespace, name)
        bound = claims.bound_volume_name(pod, volume, claim)
        persistent = await self._objects.volume(bound)
        assert claim is not None
        claims.check_bound(pod, volume, claim, persistent)
        return VolumeSpec(pod, volume, persistent, claim, fresh)

    def _plugin_for(self, spec: VolumeSpec) -> VolumePlugin:
        source = spec.source
        fields = [
            each for each in source.__struct_fields__
            if each in _TYPES and getattr(source, each) is not None
        ]  # fmt: skip
        for each in fields:
            plugin = self._fields.get(each)
            if plugin is not None and (
                plugin.is_persistent if spec.persistent is not None else plugin.is_inline
            ):
                return plugin
        raise refuse(fields[0] if fields else "", spec.volume.name)

    async def _set_up(self, spec: VolumeSpec, plugin: VolumePlugin, known: _Known) -> None:
        name = spec.volume.name
        known.names[name], known.plugins[name] = spec.name, plugin
        async with self._lock(plugin, spec):
            # What a container has as a device stays that device.
            if name not in known.prepared or (plugin.is_refreshed and not spec.is_block):
                self._check(spec, plugin)
                known.prepared[name] = await self._appear(spec, plugin)
            await self._expansion.expand(spec, plugin, known.prepared[name])
            known.ready.add(name)

    def _check(self, spec: VolumeSpec, plugin: VolumePlugin) -> None:
        claims.check_node(spec, self.host.node_name, self.node_labels())
        if spec.mount_options and not plugin.supports_mount_options:
            raise VolumeProblem(
                "Mount options are not supported for this volume type", "MountOptionSupport check"
            )
        if spec.is_block and not plugin.supports_block:
            raise VolumeProblem(f"volumes of type {plugin.field} cannot be block devices")
        modes = spec.persistent.spec.accessModes if spec.persistent is not None else []
        if modes == ["ReadWriteOncePod"] and self._is_used_elsewhere(spec):
            raise VolumeProblem(
                "volume uses the ReadWriteOncePod access mode and is already in use by another pod"
            )

    def _is_used_elsewhere(self, spec: VolumeSpec) -> bool:
        return any(
            uid != spec.pod.metadata.uid
            and any(known.names.get(volume) == spec.name for volume in known.prepared)
            for uid, known in self._known.items()
        )

    async def _appear(self, spec: VolumeSpec, plugin: VolumePlugin) -> PreparedVolume:
        directory = self.pod_directory(spec.pod.metadata.uid)
        if not spec.is_block:
            return await plugin.set_up(
                spec, directory / "volumes" / escaped(plugin.name) / spec.name
            )
        link = directory / "volumeDevices" / escaped(plugin.name) / spec.name
        source = await plugin.map_device(spec, link)
        shared = self._shared_link(plugin, spec.name, spec.pod.metadata.uid)
        await asyncio.to_thread(map_device, source, link, shared)
        return PreparedVolume(link, read_only=spec.read_only, is_device=True)

    def _shared_link(self, plugin: VolumePlugin, name: str, uid: str) -> Path:
        return self.host.plugin_directory(plugin.name) / "volumeDevices" / name / uid

    def _lock(self, plugin: VolumePlugin, spec: VolumeSpec) -> _Hold:
        """Pods take turns with a volume they share; others' are nobody else's business."""
        uid = spec.pod.metadata.uid if spec.persistent is None else ""
        return _Hold(self._locks, f"{plugin.name}/{spec.name}/{uid}")

    async def bind_subpath(
        self, pod: Pod, volume: PreparedVolume, name: str, subpath: str, place: str
    ) -> Path:
        """Makes a part of a volume mountable; `place` is `<container>/<number of the mount>`."""
        if volume.is_mounted_by_runtime:
            return Path(subpath)
        target = self.pod_directory(pod.metadata.uid) / "volume-subpaths" / name / place
        try:
            return await asyncio.to_thread(bind_subpath, volume.path, subpath, target)
        except (VolumeProblem, OSError) as error:
            # What is in the way is the node's business: a container could ask about its files.
            container = place.partition("/")[0]
            log.warning("subPath %s of %s: %s", subpath, name, error)
            raise VolumeProblem(
                f'failed to prepare subPath for volumeMount "{name}" of container "{container}"'
            ) from error

    # Taking down

    def give_up(self, uid: str) -> None:
        """The pod is ending: nobody need wait any longer for its volumes."""
        known = self._known.get(uid)
        for plugin in known.plugins.values() if known is not None else ():
            plugin.give_up(uid)

    async def release(self, uid: str) -> None:
        """Takes down the volumes of a pod that has ended; its termination messages stay.

        What is busy is tried again until it is not: a pod is not over before.
        """
        delays = iter(BUSY_SECONDS)
        while True:
            try:
                await self._release(uid)
                return
            except (OSError, VolumeProblem) as error:
                log.warning("taking down the volumes of pod %s: %s", uid, error)
            await self._clock.sleep(next(delays, BUSY_SECONDS[-1]))

    async def take_down(self, uid: str) -> None:
        """Unmounts and deletes everything of a pod."""
        await self.release(uid)
        await asyncio.to_thread(_remove_rest, self.pod_directory(uid))

    async def take_down_orphan(self, uid: str) -> None:
        """The same for a pod that nobody knows any more; one attempt, the next comes by itself."""
        await self._release(uid)
        await asyncio.to_thread(_remove_rest, self.pod_directory(uid))

    async def _release(self, uid: str) -> None:
        self._tokens.forget(uid)
        directory = self.pod_directory(uid)
        await asyncio.to_thread(_remove_subpaths, directory / "volume-subpaths")
        found = await asyncio.to_thread(_volumes_on_disk, directory)
        for kind, part, name in found:
            plugin = self._plugins.get(unescaped(part))
            if plugin is None:
                log.warning("pod %s has a volume of the unknown type %s", uid, unescaped(part))
            # Whether an inline volume's name is another pod's as well, its type may tell.
            owner = uid if plugin is not None and not plugin.is_persistent else ""
            async with _Hold(self._locks, f"{unescaped(part)}/{name}/{owner}"):
                await self._take_down_one(uid, plugin, directory / kind / part / name)
        for kind in ("volumes", "volumeDevices"):
            await asyncio.to_thread(_remove_empty, directory / kind)
        self._known.pop(uid, None)

    async def _take_down_one(self, uid: str, plugin: VolumePlugin | None, target: Path) -> None:
        name, is_device = target.name, target.parent.parent.name == "volumeDevices"
        if plugin is not None:
            if is_device:
                await plugin.unmap_device(uid, name, target)
                shared = self._shared_link(plugin, name, uid)
                await asyncio.to_thread(unmap_device, target, shared)
            else:
                await plugin.tear_down(uid, name, target)
        await asyncio.to_thread(_remove_volume, target, plugin is not None and plugin.owns_files)
        if plugin is None or plugin.owns_files:
            return
        if not await asyncio.to_thread(self._is_on_disk, plugin, name):
            self._expansion.forget(name)
            await plugin.unstage(name)

    def _is_on_disk(self, plugin: VolumePlugin, name: str) -> bool:
        pods = self.host.root / "pods"
        return any(
            os.path.lexists(pods / uid / kind / escaped(plugin.name) / name)
            for uid in self.known_pods()
            for kind in ("volumes", "volumeDevices")
        )

    # Measuring

    async def usage(self, pod: Pod) -> dict[str, VolumeUsage]:
        """What each volume of a pod holds, by the pod's names for them; those that are not counted
        (hostPath) or not there are left out."""
        known = self._known.get(pod.metadata.uid)
        if known is None:
            return {}
        names = [
            name for name, volume in known.prepared.items()
            if not volume.is_device and name in known.plugins
        ]  # fmt: skip
        found = await asyncio.gather(
            *(known.plugins[name].usage(known.prepared[name].path) for name in names),
            return_exceptions=True,
        )
        result = {}
        for name, usage in zip(names, found, strict=True):
            if isinstance(usage, VolumeUsage):
                result[name] = usage
            elif isinstance(usage, BaseException) and not isinstance(usage, OSError):
                raise usage
        return result


class _Hold:
    """Holds the lock of a name for a while; locks nobody holds or waits for are forgotten."""

    def __init__(self, locks: dict[str, _Lock], name: str) -> None:
        self._locks, self._name = locks, name

    async def __aenter__(self) -> None:
        lock = self._locks.setdefault(self._name, _Lock())
        lock.users += 1
        try:
            await lock.lock.acquire()
        except BaseException:
            self._forget(lock)
            raise

    async def __aexit__(self, *error: object) -> None:
        lock = self._locks[self._name]
        lock.lock.release()
        self._forget(lock)

    def _forget(self, lock: _Lock) -> None:
        lock.users -= 1
        if not lock.users:
            del self._locks[self._name]


@dataclass
class _Lock:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


_TYPES = frozenset(Volume.__struct_fields__) - {"name"} | {"local"}


def _text_of(error: Exception) -> str:
    """What went wrong, without Python's way of saying it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _summary(missing: Iterable[str], waiting: Mapping[str, VolumeProblem]) -> str:
    """What a pod waits for, in upstream's words."""
    unattached = {name for name, each in waiting.items() if isinstance(each, NotAttachedInTime)}
    reasons = "; ".join(dict.fromkeys(str(each) for each in waiting.values()))
    return (
        f"unmounted volumes={_list(missing)}, unattached volumes={_list(unattached)}, "
        f"failed to process volumes={_list(waiting.keys() - unattached)}: {reasons}"
    )


def _list(names: Iterable[str]) -> str:
    return f"[{' '.join(sorted(names))}]"


def _volumes_on_disk(directory: Path) -> list[tuple[str, str, str]]:
    """Kind, plug-in and name of what a pod has; what was mounted last comes first."""
    return [
        (kind, part.name, volume.name)
        for kind in ("volumes", "volumeDevices")
        if is_directory(directory / kind)
        for part in sorted((directory / kind).iterdir())
        if is_directory(part)
        for volume in sorted(part.iterdir())
    ]


def _remove_subpaths(directory: Path) -> None:
    """Bind mounts of parts of volumes: the mount points are made by the agent and empty."""
    for point in mounts_under(directory):
        unmount(point)
    if is_directory(directory):
        remove_tree(directory)


def _remove_volume(target: Path, owns_files: bool) -> None:
    for point in mounts_under(target):
        # In memory nothing is lost; elsewhere a mount that is in use stays until it is not.
        unmount(point, lazily=owns_files)
    if owns_files:
        remove_tree(target)
    elif is_directory(target):
        target.rmdir()


def _remove_empty(directory: Path) -> None:
    for below in directory.iterdir() if is_directory(directory) else ():
        below.rmdir()
    if is_directory(directory):
        directory.rmdir()


def _remove_rest(directory: Path) -> None:
    if is_directory(directory) and not is_directory(directory / "volumes"):
        remove_tree(directory)
