"""What `/metrics` tells of cluster addresses and node ports, under upstream's names."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator

from navarch.apiserver.services.addresses import AddressAllocator
from navarch.apiserver.services.holdings import Holdings
from navarch.apiserver.services.ports import PortAllocator
from navarch.apiserver.services.repair import Repair

ADDRESSES = "kube_apiserver_clusterip_allocator"
PORTS = "kube_apiserver_nodeport_allocator"
ERROR_TYPES = {
    "ClusterIPNotAllocated": ("clusterip", "repair"),
    "ClusterIPAlreadyAllocated": ("clusterip", "duplicate"),
    "ClusterIPOutOfRange": ("clusterip", "outOfRange"),
    "IPAddressNotAllocated": ("clusterip", "leak"),
    "IPAddressWrongReference": ("clusterip", "leak"),
    "PortNotAllocated": ("nodeport", "repair"),
    "PortAlreadyAllocated": ("nodeport", "duplicate"),
    "PortOutOfRange": ("nodeport", "outOfRange"),
    "": ("nodeport", "leak"),
}


def allocation_metrics(
    addresses: AddressAllocator, ports: PortAllocator, holdings: Holdings, repair: Repair
) -> Iterator[str]:
    held = [ipaddress.ip_address(each) for each in holdings.addresses]
    ranges = addresses.ranges.usable()
    inside = Counter(
        str(each.network) for each in ranges for address in held if each.holds(address)
    )
    sizes = {str(each.network): max(each.last, 0) for each in ranges}
    yield from _metric(
        f"{ADDRESSES}_allocated_ips", "gauge", {_cidr(each): inside[each] for each in sizes}
    )
    yield from _metric(
        f"{ADDRESSES}_available_ips",
        "gauge",
        {_cidr(each): size - inside[each] for each, size in sizes.items()},
    )
    taken = sum(ports.is_valid(each) for each in holdings.ports)
    yield from _metric(f"{PORTS}_allocated_ports", "gauge", {"": taken})
    free = ports.last - ports.first + 1 - taken
    yield from _metric(f"{PORTS}_available_ports", "gauge", {"": free})
    for prefix, tally in ((ADDRESSES, addresses.tally), (PORTS, ports.tally)):
        for name in ("allocation_total", "allocation_errors_total"):
            found = {_labels(key[1:]): count for key, count in tally.items() if key[0] == name}
            yield from _metric(f"{prefix}_{name}", "counter", found)
    for kind, unit in (("clusterip", "ip"), ("nodeport", "port")):
        errors: Counter[str] = Counter()
        for reason, count in repair.tally.items():
            of, type_ = ERROR_TYPES[reason]
            if of == kind:
                errors[f'type="{type_}"'] += count
        yield from _metric(f"apiserver_{kind}_repair_{unit}_errors_total", "counter", errors)


def _cidr(cidr: str) -> str:
    return f'cidr="{cidr}"'


def _labels(key: tuple[str, ...]) -> str:
    """Of a count: its scope, and its range where it has one."""
    scope, *cidr = key
    return ",".join([*map(_cidr, cidr), f'scope="{scope}"'])


def _metric(name: str, type_: str, values: dict[str, int]) -> Iterator[str]:
    yield f"# TYPE {name} {type_}"
    for labels, value in values.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
