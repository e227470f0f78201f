"""Who holds which cluster address and node port, by the Services that there are.

Records of allocations are objects of their own, and the two can come apart when a server dies
between two writes. The Services are the truth; this index of them is what the records are compared
with.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a Service."""
T = TypeVar("T")


def key_of(service: Object) -> Key:
    metadata = service["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def needs_node_ports(spec: Object) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def needs_health_check(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def cluster_addresses(service: Object | None) -> list[str]:
    """The addresses a Service holds, in canonical form."""
    spec = (service or {}).get("spec") or {}
    if spec.get("type") == "ExternalName":
        return []
    return [canonical(each) for each in spec.get("clusterIPs") or () if each and each != "None"]


@lru_cache(1024)
def canonical(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def node_ports(service: Object | None) -> set[int]:
    """The node ports a Service holds. Other types may carry numbers that mean nothing."""
    spec = (service or {}).get("spec") or {}
    found: set[int] = set()
    if needs_node_ports(spec):
        found = {each.get("nodePort") or 0 for each in spec.get("ports") or ()}
    if needs_health_check(spec):
        found.add(spec.get("healthCheckNodePort") or 0)
    found.discard(0)
    return found


class Holdings:
    """`follow` is told of every change of a Service."""

    def __init__(self) -> None:
        self.addresses: dict[str, set[Key]] = {}
        self.ports: dict[int, set[Key]] = {}
        self.changed: set[str] = set()
        """Addresses to compare with their records; emptied by the repair."""
        self.is_recorded: Callable[[str], bool] = lambda address: False

    def follow(self, old: Object | None, new: Object | None) -> None:
        service = new or old
        assert service is not None
        key = key_of(service)
        before, after = cluster_addresses(old), cluster_addresses(new)
        if before != after:
            self.changed.update(before)
            # The usual case, a Service that comes after its record, needs no second look.
            self.changed.update(
                each for each in after if each in self.addresses or not self.is_recorded(each)
            )
            _exchange(self.addresses, key, before, after)
        ports_before, ports_after = node_ports(old), node_ports(new)
        if ports_before != ports_after:
            _exchange(self.ports, key, ports_before, ports_after)


def _exchange(index: dict[T, set[Key]], key: Key, old: Iterable[T], new: Iterable[T]) -> None:
    for each in old:
        holders = index.get(each)
        if holders is not None:
            holders.discard(key)
            if not holders:
                del index[each]
    for each in new:
        index.setdefault(each, set()).add(key)
