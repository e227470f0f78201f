"""The downward API: a pod's own fields and resources as text, for variables and files. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Container, Pod, ResourceFieldSelector

from .resources import NodeResources

_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.*)'\]$", re.DOTALL)


class InvalidField(Exception):
    """A field reference that names nothing; the text goes into the event."""


@dataclass(frozen=True, slots=True)
class PodAddresses:
    """Addresses that are known to the node before the API's status shows them."""

    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()


def field_value(pod: Pod, path: str, addresses: PodAddresses) -> str:
    """The text of `fieldRef.fieldPath`."""
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        values = getattr(pod.metadata, subscript[1])
        return str(values.get(subscript[2], ""))
    match path:
        case "metadata.name":
            return pod.metadata.name
        case "metadata.namespace":
            return pod.metadata.namespace
        case "metadata.uid":
            return pod.metadata.uid
        case "metadata.labels":
            return format_map(pod.metadata.labels)
        case "metadata.annotations":
            return format_map(pod.metadata.annotations)
        case "spec.nodeName":
            return pod.spec.nodeName
        case "spec.serviceAccountName":
            return pod.spec.serviceAccountName
        case "status.hostIP":
            return next(iter(addresses.host_ips), "")
        case "status.hostIPs":
            return ",".join(addresses.host_ips)
        case "status.podIP":
            return next(iter(addresses.pod_ips), "")
        case "status.podIPs":
            return ",".join(addresses.pod_ips)
    raise InvalidField(f"unsupported fieldPath: {path}")


def format_map(values: Mapping[str, str]) -> str:
    """Labels or annotations as lines `key="value"`, sorted, quoted as Go quotes."""
    return "\n".join(f"{key}={go_quote(values[key])}" for key in sorted(values))


def go_quote(text: str) -> str:
    """A string literal as Go's `strconv.Quote` writes it."""
    special = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t",
               "\v": r"\v", "\\": r"\\", '"': r"\""}  # fmt: skip
    out = ['"']
    for char in text:
        code = ord(char)
        if char in special:
            out.append(special[char])
        elif char == " " or char.isprintable():
            out.append(char)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    out.append('"')
    return "".join(out)


def resource_value(
    pod: Pod, selector: ResourceFieldSelector, default: Container | None, node: NodeResources
) -> str:
    """The text of a `resourceFieldRef`: the quantity divided by the divisor, rounded up.

    A limit that is not set is the pod's as a whole, or what the node can give (not so for an init
    container that is named by others); a request that is not set is 0.
    """
    container, is_defaulted = default, True
    if selector.containerName:
        everyone = (*pod.spec.containers, *pod.spec.initContainers)
        container = next((each for each in everyone if each.name == selector.containerName), None)
        is_defaulted = container in pod.spec.containers
    if container is None:
        raise InvalidField(f"container {selector.containerName} not found")
    kind, _, name = selector.resource.partition(".")
    if kind not in ("limits", "requests") or not _known_resource(name):
        raise InvalidField(f"unsupported container resource : {selector.resource}")
    values = container.resources.limits if kind == "limits" else container.resources.requests
    milli_value = _milli(values, name)
    if kind == "limits" and milli_value == 0 and is_defaulted:
        milli_value = {
            "cpu": node.cpu_millis,
            "memory": node.memory_bytes * 1000,
            "ephemeral-storage": node.ephemeral_bytes * 1000,
        }.get(name, 0)
        if name in ("cpu", "memory") and milli_value and pod.spec.resources is not None:
            milli_value = _milli(pod.spec.resources.limits, name) or milli_value
    divisor = parse_quantity(selector.divisor or "1").milli_value() or 1000
    return str(-(-milli_value // divisor))


def _milli(values: Mapping[str, str], name: str) -> int:
    return parse_quantity(values[name]).milli_value() if values.get(name) else 0


def _known_resource(name: str) -> bool:
    return name in ("cpu", "memory", "ephemeral-storage") or name.startswith("hugepages-")
