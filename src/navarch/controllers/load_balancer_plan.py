"""Which address a Service of type LoadBalancer gets: pools, and a rule for each decision. Pure."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_range(text: str) -> tuple[Address, Address]:
    """First and last address of `a-b` or of a CIDR. Raises ValueError."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not dash:
        if "/" not in first:
            raise ValueError(f"{text!r} is neither a range A-B nor a CIDR")
        network = ipaddress.ip_network(first, strict=False)
        return network[0], network[-1]
    low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
    if low.version != high.version or int(low) > int(high):
        raise ValueError(f"{text!r}: the last address comes before the first")
    return low, high
