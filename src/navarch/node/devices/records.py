"""Who has which devices, and the file that keeps it over a restart of the agent.

The file is upstream's `kubelet_internal_checkpoint`: what plug-ins answered cannot be asked for
again without giving the device away twice, so this is one of the few things an agent has to
remember. It is replaced whole, and carries a checksum; one that does not match is reported and
counts as absent.
"""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cri import runtime_pb2 as runtime
from . import deviceplugin_pb2 as pb

log = logging.getLogger(__name__)

ANNOTATION = "navarch.dev/devices"
"""On a container: its devices by resource, as JSON. A lost checkpoint is made anew from these."""
NO_NODE = -1
"""The memory node of a device that belongs to none in particular."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device as its plug-in last told of it."""

    id: str
    healthy: bool
    nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """A container's claim to devices of one resource."""

    pod_uid: str
    container: str
    resource: str


@dataclass(frozen=True)
class Allocation:
    """The devices of one owner, and how its container gets to them."""

    devices: Mapping[str, tuple[int, ...]]
    """Memory nodes by device."""
    response: bytes
    """The plug-in's `ContainerAllocateResponse`."""


@dataclass(frozen=True)
class Checkpoint:
    """What the file holds."""

    allocations: Mapping[Owner, Allocation] = field(default_factory=dict)
    resources: Sequence[str] = ()
    """Resources that had a plug-in: their count is zero until it is back."""


class GarbledCheckpoint(ValueError):
    """The file is not what was written."""


def encode(checkpoint: Checkpoint, healthy: Mapping[str, Iterable[str]]) -> bytes:
    entries = []
    for owner, allocation in checkpoint.allocations.items():
        by_node: dict[str, list[str]] = {}
        for device, nodes in allocation.devices.items():
            for node in nodes or (NO_NODE,):
                by_node.setdefault(str(node), []).append(device)
        entries.append(
            {
                "PodUID": owner.pod_uid,
                "ContainerName": owner.container,
                "ResourceName": owner.resource,
                "DeviceIDs": by_node,
                "AllocResp": base64.b64encode(allocation.response).decode(),
            }
        )
    data = {
        "PodDeviceEntries": entries,
        "RegisteredDevices": {name: sorted(healthy.get(name, ())) for name in checkpoint.resources},
    }
    return json.dumps({"Data": data, "Checksum": _checksum(data)}).encode()


def decode(blob: bytes) -> Checkpoint:
    """Raises `GarbledCheckpoint`."""
    try:
        document = json.loads(blob)
        data = document["Data"]
        if document["Checksum"] != _checksum(data):
            raise GarbledCheckpoint("checkpoint is corrupted: its checksum does not match")
        allocations = {}
        for entry in data["PodDeviceEntries"]:
            owner = Owner(entry["PodUID"], entry["ContainerName"], entry["ResourceName"])
            devices: dict[str, tuple[int, ...]] = {}
            for node, ids in entry["DeviceIDs"].items():
                for device in ids:
                    own = () if int(node) == NO_NODE else (int(node),)
                    devices[device] = devices.get(device, ()) + own
            response = base64.b64decode(entry["AllocResp"])
            pb.ContainerAllocateResponse.FromString(response)
            allocations[owner] = Allocation(devices, response)
        return Checkpoint(allocations, sorted(data["RegisteredDevices"]))
    except GarbledCheckpoint:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GarbledCheckpoint(f"checkpoint is corrupted: {error}") from error


def _checksum(data: Any) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def read(path: Path) -> Checkpoint:
    """The file's content; nothing if there is none, or if it is garbled (which is reported)."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return Checkpoint()
    except (OSError, GarbledCheckpoint) as error:
        log.error("%s: %s; device allocations from before are not known", path, error)
        return Checkpoint()


@dataclass(frozen=True)
class ContainerDevices:
    """What a container is given to reach its devices."""

    variables: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[pb.Mount] = ()
    devices: Sequence[pb.DeviceSpec] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cdi_names: Sequence[str] = ()
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The devices themselves, by resource."""


def merged(allocations: Mapping[str, Allocation]) -> ContainerDevices:
    """The answers for all resources of a container in one. What two of them claim (a variable, a
    path) goes to the first."""
    variables: dict[str, str] = {}
    annotations: dict[str, str] = {}
    mounts: dict[str, pb.Mount] = {}
    devices: dict[str, pb.DeviceSpec] = {}
    cdi: dict[str, None] = {}
    for allocation in allocations.values():
        response = pb.ContainerAllocateResponse.FromString(allocation.response)
        for table, more in ((variables, response.envs), (annotations, response.annotations)):
            for name, value in more.items():
                if table.setdefault(name, value) != value:
                    log.error("device plug-ins disagree about %s", name)
        for mount in response.mounts:
            mounts.setdefault(mount.container_path, mount)
        for device in response.devices:
            devices.setdefault(device.container_path, device)
        cdi |= {each.name: None for each in response.cdi_devices}
    return ContainerDevices(
        variables,
        list(mounts.values()),
        list(devices.values()),
        annotations,
        list(cdi),
        {name: sorted(each.devices) for name, each in allocations.items()},
    )


def names_of(annotation: str) -> dict[str, list[str]]:
    """What `give` has written onto a container; nothing if that is not what it says."""
    try:
        found = json.loads(annotation or "{}")
        return {str(name): [str(each) for each in ids] for name, ids in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def give(config: runtime.ContainerConfig, given: ContainerDevices) -> None:
    """Adds what a container's devices need to what the runtime is told to make."""
    stated = {each.key for each in config.envs}
    config.envs.extend(
        runtime.KeyValue(key=name, value=value.encode())
        for name, value in given.variables.items()
        if name not in stated
    )
    config.mounts.extend(
        runtime.Mount(
            container_path=each.container_path, host_path=each.host_path, readonly=each.read_only
        )
        for each in given.mounts
    )
    config.devices.extend(
        runtime.Device(
            container_path=each.container_path,
            host_path=each.host_path,
            permissions=each.permissions,
        )
        for each in given.devices
    )
    for name, value in given.annotations.items():
        config.annotations[name] = value
    if given.names:
        config.annotations[ANNOTATION] = json.dumps(given.names)
    config.CDI_devices.extend(runtime.CDIDevice(name=each) for each in given.cdi_names)
