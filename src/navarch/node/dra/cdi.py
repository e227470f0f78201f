"""The Container Device Interface: what a device needs in a container, as its driver describes it.

Drivers name devices (`vendor.example/gpu=gpu0`) and put a file beside that says what they mean:
variables, device files, mounts, groups. A runtime of today is only told the names. To older ones
(containerd before 1.7) names mean nothing, so for them the files are read here, and what they say
is put into the container's configuration. Hooks have no place there: a device that needs some is
refused by name on such a runtime.
Source: the CDI specification, 0.x and 1.0.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..cri import runtime_pb2 as pb

log = logging.getLogger(__name__)

DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""Files of the latter go before those of the former."""
SUFFIXES = (".json", ".yaml")
Object = dict[str, Any]


class CdiProblem(Exception):
    """Why a device cannot be given to a container."""


def knows_names(runtime: str, version: str) -> bool:
    """Whether a runtime resolves the names of devices itself."""
    if runtime != "containerd":
        return True
    parts = version.removeprefix("v").split(".")[:2]
    return not all(each.isdigit() for each in parts) or [*map(int, parts)] >= [1, 7]


def give(config: pb.ContainerConfig, names: Sequence[str], directories: Iterable[Path]) -> None:
    """Puts what these devices need into a container's configuration. Raises CdiProblem."""
    if not names:
        return
    specs = [*_specs(directories)]
    done: set[int] = set()
    for name in names:
        kind, _, device_name = name.partition("=")
        spec, device = _find(specs, kind, device_name)
        if id(spec) not in done:
            done.add(id(spec))
            _apply(config, name, spec.get("containerEdits") or {})
        _apply(config, name, device.get("containerEdits") or {})


def _specs(directories: Iterable[Path]) -> Iterator[Object]:
    """All that can be read, those that go before others first."""
    for directory in reversed([*directories]):
        try:
            paths = sorted(
                each for each in directory.iterdir() if each.suffix in (".json", ".yaml")
            )
        except OSError:
            continue
        for path in paths:
            try:
                text = path.read_text()
                spec = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
            except (OSError, ValueError, yaml.YAMLError) as error:
                log.warning("%s: %s", path, error)
                continue
            if isinstance(spec, dict):
                yield spec


def _find(specs: Sequence[Object], kind: str, name: str) -> tuple[Object, Object]:
    for spec in specs:
        if spec.get("kind") == kind:
            for device in spec.get("devices") or ():
                if device.get("name") == name:
                    return spec, device
    raise CdiProblem(f"CDI device injection failed: unresolvable CDI devices {kind}={name}")


def _apply(config: pb.ContainerConfig, name: str, edits: Object) -> None:
    for unknown in edits.keys() - {"env", "deviceNodes", "mounts", "additionalGids"}:
        if edits[unknown]:
            raise CdiProblem(
                f"CDI device {name} asks for {unknown}, which needs a runtime that knows CDI "
                "(containerd 1.7 or newer)"
            )
    for text in edits.get("env") or ():
        key, _, value = text.partition("=")
        for each in [each for each in config.envs if each.key == key]:
            config.envs.remove(each)
        config.envs.append(pb.KeyValue(key=key, value=value.encode()))
    for node in edits.get("deviceNodes") or ():
        path = node["path"]
        host = node.get("hostPath") or path
        _check_device(name, host)
        permissions = node.get("permissions") or "rwm"
        config.devices.append(
            pb.Device(container_path=path, host_path=host, permissions=permissions)
        )
    for mount in edits.get("mounts") or ():
        options = mount.get("options") or ()
        config.mounts.append(
            pb.Mount(
                container_path=mount["containerPath"],
                host_path=mount["hostPath"],
                readonly="ro" in options,
                propagation=_propagation(options),
            )
        )
    groups = config.linux.security_context.supplemental_groups
    groups.extend(each for each in edits.get("additionalGids") or () if each not in groups)


def _check_device(name: str, path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise CdiProblem(f"CDI device {name}: {error}") from error
    if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        raise CdiProblem(f"CDI device {name}: {path} is not a device node")


def _propagation(options: Sequence[str]) -> pb.MountPropagation:
    if {"rshared", "shared"} & {*options}:
        return pb.PROPAGATION_BIDIRECTIONAL
    if {"rslave", "slave"} & {*options}:
        return pb.PROPAGATION_HOST_TO_CONTAINER
    return pb.PROPAGATION_PRIVATE
