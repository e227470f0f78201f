"""Devices that plug-ins offer: counted in the node's status, given to containers, watched.

A plug-in registers a resource (`vendor.example/gpu`), then tells which devices there are and
whether they are healthy (`ListAndWatch`). A pod that asks for some gets them when it is admitted
(`Allocate`: variables, mounts, device files), and keeps them until it is over. A plug-in that goes
away leaves its devices unhealthy, and after five minutes the node no longer counts them.

Rules and texts: upstream's `pkg/kubelet/cm/devicemanager`; KEP-3573 (device plug-ins), KEP-4680
(health in the pod's status). Alignment to memory nodes is left to the plug-in's preference, as with
upstream's default policy for topology.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Container, Pod
from navarch.client.clock import Clock

from ..admission import Refusal
from ..cri.calls import Calls
from ..cri.values import RuntimeFailure
from ..durable import write_durably
from ..figures import device_allocations
from ..podspec import is_sidecar
from . import deviceplugin_pb2 as pb
from .records import (
    Allocation,
    Checkpoint,
    ContainerDevices,
    Device,
    Owner,
    encode,
    merged,
    names_of,
    read,
)

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

STOP_GRACE_SECONDS = 300.0
"""How long the devices of a plug-in that is gone are still counted (as unhealthy)."""
ALLOCATE_SECONDS = 300.0
PRE_START_SECONDS = 30.0
_SERVICE = "/v1beta1.DevicePlugin/"


class DeviceProblem(Exception):
    """Why a container cannot have its devices; upstream's text."""


@dataclass
class Plugin:
    """One plug-in, or what is left of it."""

    calls: Calls | None = None
    options: pb.DevicePluginOptions = field(default_factory=pb.DevicePluginOptions)
    stopped_at: float | None = None
    """When (monotonic) it went away."""


@dataclass
class _Resource:
    """A resource that a plug-in offers, or did."""

    plugin: Plugin
    devices: dict[str, Device] = field(default_factory=dict)

    @property
    def healthy(self) -> set[str]:
        if self.plugin.stopped_at is not None:
            return set()
        return {each.id for each in self.devices.values() if each.healthy}


class DeviceManager:
    """The devices of one node."""

    def __init__(
        self, directory: Path, clock: Clock, active_pods: Callable[[], Iterable[Pod]]
    ) -> None:
        self.directory, self._clock, self._active_pods = directory, clock, active_pods
        self._file = directory / "kubelet_internal_checkpoint"
        self._resources: dict[str, _Resource] = {}
        self._gone: set[str] = set()
        self._allocations: dict[Owner, Allocation] = {}
        self._saving = asyncio.Lock()
        self._turn = asyncio.Lock()
        """Allocations go one by one: what one takes the next must not be offered."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when the counts of the node's status have changed."""
        self.on_health: Callable[[set[str]], None] = lambda uids: None
        """Called with the uids of pods whose devices have changed their health."""

    def load(self) -> None:
        """Takes up what the agent before this one knew."""
        checkpoint = read(self._file)
        self._allocations = dict(checkpoint.allocations)
        stopped = self._clock.monotonic()
        for name in checkpoint.resources:
            self._resources[name] = _Resource(Plugin(stopped_at=stopped))

    def adopt(self, uid: str, container: str, annotation: str) -> None:
        """Takes up what a running container says of its devices, where the file has lost it. What
        the plug-in answered is asked for again when the container starts the next time."""
        for resource, ids in names_of(annotation).items():
            owner = Owner(uid, container, resource)
            if owner not in self._allocations:
                log.warning("%s of container %s (pod %s) are known from itself only: %s",
                            resource, container, uid, ids)  # fmt: skip
                self._allocations[owner] = Allocation(dict.fromkeys(ids, ()), b"")
                if resource not in self._resources:
                    stopped = self._clock.monotonic()
                    self._resources[resource] = _Resource(Plugin(stopped_at=stopped))

    async def _save(self) -> None:
        """Several plug-ins may have news at once: the newest is written last, and whole."""
        async with self._saving:
            healthy = {name: each.healthy for name, each in self._resources.items()}
            blob = encode(Checkpoint(self._allocations, list(self._resources)), healthy)
            try:
                await asyncio.to_thread(write_durably, self._file, blob)
            except OSError as error:
                log.error("device checkpoint: %s", error)

    # What plug-ins tell

    async def connect(self, resource: str, socket: Path) -> Plugin:
        """Talks to a plug-in that has registered; the one before it for the resource is over.
        Raises `RuntimeFailure`."""
        calls = Calls(str(socket), ALLOCATE_SECONDS)
        calls.open()
        try:
            options = await calls.call(
                _SERVICE + "GetDevicePluginOptions",
                pb.Empty(),
                pb.DevicePluginOptions,
                timeout=10.0,
            )
        except BaseException:
            await calls.close()
            raise
        plugin = Plugin(calls, options)
        known = self._resources.get(resource)
        if known is not None and known.plugin.calls is not None:
            await known.plugin.calls.close()
        self._gone.discard(resource)
        if known is None:
            self._resources[resource] = _Resource(plugin)
        else:
            known.plugin = plugin
        return plugin

    async def follow(self, resource: str, plugin: Plugin) -> None:
        """Listens to a plug-in until it is gone."""
        assert plugin.calls is not None
        try:
            stream = plugin.calls.stream(
                _SERVICE + "ListAndWatch", pb.Empty(), pb.ListAndWatchResponse
            )
            async for response in stream:
                await self._update(resource, plugin, response.devices)
        except RuntimeFailure as failure:
            log.info("device plug-in of %s: %s", resource, failure.message)
        finally:
            self.disconnect(resource, plugin)
            await plugin.calls.close()

    def disconnect(self, resource: str, plugin: Plugin) -> None:
        """The plug-in is gone: none of its devices can be given to anybody."""
        known = self._resources.get(resource)
        if known is None or known.plugin is not plugin or plugin.stopped_at is not None:
            return
        plugin.stopped_at = self._clock.monotonic()
        self.on_change()
        # Whoever has such a device keeps it, and its pod's status does not change: nobody knows
        # that the device is not well.

    async def _update(self, resource: str, plugin: Plugin, devices: Iterable[pb.Device]) -> None:
        known = self._resources.get(resource)
        if known is None or known.plugin is not plugin:
            return
        before = known.devices
        known.devices = {
            each.ID: Device(
                each.ID, each.health == "Healthy", tuple(node.ID for node in each.topology.nodes)
            )
            for each in devices
        }
        changed = {
            name
            for name, device in known.devices.items()
            if name not in before or before[name].healthy != device.healthy
        }
        affected = {
            owner.pod_uid
            for owner, allocation in self._allocations.items()
            if owner.resource == resource and changed & allocation.devices.keys()
        }
        self.on_change()
        if affected:
            self.on_health(affected)
        await self._save()

    # What the node's and the pods' status say

    def counts(self) -> dict[str, tuple[int, int]]:
        """How many devices there are of each resource, and how many of them are healthy."""
        now = self._clock.monotonic()
        for name, each in list(self._resources.items()):
            stopped = each.plugin.stopped_at
            if stopped is not None and now - stopped >= STOP_GRACE_SECONDS:
                del self._resources[name]
                self._gone.add(name)
        present = {
            name: (len(each.devices), len(each.healthy)) for name, each in self._resources.items()
        }
        # A count of zero says that the resource is a plug-in's, which is away.
        return {**dict.fromkeys(self._gone, (0, 0)), **present}

    def allocatable(self) -> dict[str, int]:
        """What admission may count with: never less than what has been given away already."""
        free = {name: healthy for name, (_, healthy) in self.counts().items()}
        for name, devices in self._in_use().items():
            free[name] = max(free.get(name, 0), len(devices))
        return free

    def health(self, pod: Pod, container: str) -> dict[str, dict[str, bool]]:
        """The health of a container's devices, by resource."""
        result: dict[str, dict[str, bool]] = {}
        for owner, allocation in self._of(pod.metadata.uid, container):
            known = self._resources.get(owner.resource)
            devices = known.devices if known is not None else {}
            result[owner.resource] = {
                name: name not in devices or devices[name].healthy for name in allocation.devices
            }
        return result

    def _of(self, uid: str, container: str) -> list[tuple[Owner, Allocation]]:
        return [
            (owner, allocation)
            for owner, allocation in self._allocations.items()
            if owner.pod_uid == uid and owner.container == container
        ]

    def devices_of(self, uid: str, container: str) -> dict[str, Mapping[str, tuple[int, ...]]]:
        """A container's devices with their memory nodes, by resource."""
        return {owner.resource: each.devices for owner, each in self._of(uid, container)}

    def healthy_devices(self) -> dict[str, list[Device]]:
        return {
            name: [device for device in each.devices.values() if device.id in each.healthy]
            for name, each in self._resources.items()
        }

    def _in_use(self) -> dict[str, set[str]]:
        result: dict[str, set[str]] = {}
        for owner, allocation in self._allocations.items():
            result.setdefault(owner.resource, set()).update(allocation.devices)
        return result

    def offers(self, resource: str) -> bool:
        """Whether it is a plug-in's resource, or was."""
        return resource in self._resources or any(
            owner.resource == resource for owner in self._allocations
        )

    def wanted(self, container: Container) -> dict[str, int]:
        """The devices a container asks for. Requests of devices are their limits."""
        amounts = {
            name: parse_quantity(text).value() for name, text in container.resources.limits.items()
        }
        return {name: value for name, value in amounts.items() if value and self.offers(name)}

    @property
    def has_allocations(self) -> bool:
        return bool(self._allocations)

    def concerns(self, pod: Pod) -> bool:
        return any(self.wanted(each) for each in (*pod.spec.initContainers, *pod.spec.containers))

    # What containers get

    async def admit(self, pod: Pod) -> Refusal | None:
        """Gives a new pod its devices. (One that ran before this agent did has its own; what its
        containers still lack they get when they start.)"""
        try:
            async with self._turn:
                await self._allocate_pod(pod)
        except DeviceProblem as problem:
            return Refusal(
                "UnexpectedAdmissionError", f"Allocate failed due to {problem}, which is unexpected"
            )
        return None

    async def _allocate_pod(self, pod: Pod) -> None:
        uid = pod.metadata.uid
        active = {each.metadata.uid for each in self._active_pods()} | {uid}
        self._allocations = {
            owner: each for owner, each in self._allocations.items() if owner.pod_uid in active
        }
        before = dict(self._allocations)
        reusable: dict[str, dict[str, None]] = {}
        for container in (*pod.spec.initContainers, *pod.spec.containers):
            for resource, count in self.wanted(container).items():
                owner = Owner(uid, container.name, resource)
                free = reusable.setdefault(resource, {})
                await self._allocate(owner, count, list(free))
                taken = self._allocations.get(owner)
                if taken is None:
                    continue
                if container in pod.spec.initContainers and not is_sidecar(container):
                    free |= dict.fromkeys(taken.devices)  # it will be over: others may have them
                else:
                    for device in taken.devices:
                        free.pop(device, None)
        if self._allocations != before:
            await self._save()

    async def _allocate(self, owner: Owner, count: int, reusable: Sequence[str]) -> None:
        resource = owner.resource
        known = self._resources.get(resource)
        given = self._allocations.get(owner)
        if given is not None and len(given.devices) != count:
            raise DeviceProblem(
                f'pod "{owner.pod_uid}" container "{owner.container}" changed request for resource '
                f'"{resource}" from {len(given.devices)} to {count}'
            )
        if known is None:
            raise DeviceProblem(f"cannot allocate unregistered device {resource}")
        if not known.healthy:
            raise DeviceProblem(
                f"no healthy devices present; cannot allocate unhealthy devices {resource}"
            )
        if given is not None:
            if not given.devices.keys() <= known.healthy:
                raise DeviceProblem(
                    "previously allocated devices are no longer healthy; cannot allocate "
                    f"unhealthy devices {resource}"
                )
            return
        chosen = await self._choose(known, owner, count, reusable)
        await self._give(known, owner, chosen)

    async def _give(self, known: _Resource, owner: Owner, chosen: Sequence[str]) -> None:
        """Has the plug-in hand these devices out."""
        resource = owner.resource
        with device_allocations.labels(resource).time():
            answer = await self._call(
                known.plugin,
                "Allocate",
                pb.AllocateRequest(
                    container_requests=[pb.ContainerAllocateRequest(devices_ids=chosen)]
                ),
                pb.AllocateResponse,
            )
        if not answer.container_responses:
            raise DeviceProblem(f"no containers return in allocation response {answer}")
        self._allocations[owner] = Allocation(
            {name: known.devices[name].nodes if name in known.devices else () for name in chosen},
            answer.container_responses[0].SerializeToString(),
        )

    async def _choose(
        self, known: _Resource, owner: Owner, count: int, reusable: Sequence[str]
    ) -> list[str]:
        """Devices of the pod's own init containers first, then those the plug-in prefers."""
        chosen = list(reusable)[:count]
        needed = count - len(chosen)
        if not needed:
            return chosen
        available = sorted(known.healthy - self._in_use().get(owner.resource, set()))
        if len(available) < needed:
            raise DeviceProblem(
                f"requested number of devices unavailable for {owner.resource}. Requested: "
                f"{needed}, Available: {len(available)}"
            )
        if known.plugin.options.get_preferred_allocation_available:
            wish = pb.ContainerPreferredAllocationRequest(
                available_deviceIDs=[*available, *chosen],
                must_include_deviceIDs=chosen,
                allocation_size=count,
            )
            answer = await self._call(
                known.plugin,
                "GetPreferredAllocation",
                pb.PreferredAllocationRequest(container_requests=[wish]),
                pb.PreferredAllocationResponse,
            )
            preferred = [*answer.container_responses][:1]
            for name in preferred[0].deviceIDs if preferred else ():
                if name in available and name not in chosen and len(chosen) < count:
                    chosen.append(name)
        rest = [name for name in available if name not in chosen]
        return chosen + rest[: count - len(chosen)]

    async def _call(
        self,
        plugin: Plugin,
        method: str,
        request: Message,
        response: type[M],
        seconds: float = ALLOCATE_SECONDS,
    ) -> M:
        if plugin.calls is None or plugin.stopped_at is not None:
            raise DeviceProblem("endpoint has been stopped")
        try:
            return await plugin.calls.call(_SERVICE + method, request, response, timeout=seconds)
        except RuntimeFailure as failure:
            if method == "Allocate":
                raise DeviceProblem(failure.message) from failure
            text = f"device plugin {method} rpc failed with err: {failure.message}"
            raise DeviceProblem(text) from failure

    async def for_container(self, pod: Pod, container: Container) -> ContainerDevices:
        """What a container that is about to start is given. Raises `DeviceProblem`."""
        uid = pod.metadata.uid
        wanted = self.wanted(container)
        if not wanted:
            return ContainerDevices()
        async with self._turn:
            before = dict(self._allocations)
            for name, count in wanted.items():
                owner = Owner(uid, container.name, name)
                known, given = self._resources.get(name), self._allocations.get(owner)
                if given is not None and (known is None or known.plugin.calls is None):
                    # After a reboot the device may not even be there yet: its plug-in will say.
                    raise DeviceProblem(
                        f"endpoint not found in cache for a registered resource: {name}"
                    )
                if given is None:
                    # The agent was away between the pod's admission and now.
                    await self._allocate(owner, count, ())
                elif not given.response and known is not None:
                    await self._give(known, owner, list(given.devices))
            if self._allocations != before:
                await self._save()
        for name in wanted:
            known = self._resources.get(name)
            if known is not None and known.plugin.options.pre_start_required:
                await self._call(
                    known.plugin,
                    "PreStartContainer",
                    pb.PreStartContainerRequest(
                        devices_ids=list(
                            self._allocations[Owner(uid, container.name, name)].devices
                        )
                    ),
                    pb.PreStartContainerResponse,
                    PRE_START_SECONDS,
                )
        return merged({owner.resource: each for owner, each in self._of(uid, container.name)})
