"""IP addresses and networks: `ip('10.0.0.1')`, `cidr('10.0.0.0/8')`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from navarch.api.cel.costs import TRAVERSAL, CallEstimate, Estimate, fixed, scaled
from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import (
    CostNode,
    Estimator,
    Library,
    RuntimeCost,
    call,
    estimate_traversal,
    member,
    method,
    overload,
    succeeds,
    traversal,
)
from navarch.api.cel.library import addresses
from navarch.api.cel.library.addresses import Address, AddressError, Prefix
from navarch.api.cel.types import BOOL, INT, STRING, opaque
from navarch.api.cel.values import Wrapped
from navarch.api.errors import go_quoted

IP = opaque("net.IP")
CIDR = opaque("net.CIDR")

_MAPPED = "IPv4-mapped IPv6 address {} is not allowed"
_WRONG_NETWORK = "network address parse error during conversion from string: "


class IpValue(Wrapped[Address]):
    cel_type = IP

    def cost_size(self) -> int:
        return self.value.max_prefixlen // 8


class CidrValue(Wrapped[Prefix]):
    cel_type = CIDR

    def cost_size(self) -> int:
        return -(-self.value.bits // 8)


def _is_mapped(address: Address) -> bool:
    return address.version == 6 and int(address) >> 32 == 0xFFFF


def to_ip(text: str) -> IpValue:
    try:
        address, zone = addresses.parse_address(text)
    except AddressError as error:
        why = f"IP Address {go_quoted(text)} parse error during conversion from string: {error}"
        raise EvaluationError(why) from None
    if zone:
        raise EvaluationError(f"IP address {go_quoted(text)} with zone value is not allowed")
    if _is_mapped(address):
        raise EvaluationError(_MAPPED.format(go_quoted(text)))
    return IpValue(address)


def to_cidr(text: str) -> CidrValue:
    try:
        prefix = addresses.parse_prefix(text)
    except AddressError as error:
        # Upstream prefixes its text in two places.
        raise EvaluationError(f"{_WRONG_NETWORK}{_WRONG_NETWORK}{error}") from None
    if _is_mapped(prefix.address):
        raise EvaluationError(_WRONG_NETWORK + _MAPPED.format(go_quoted(text)))
    return CidrValue(prefix)


def contains_ip(network: CidrValue, other: Any) -> bool:
    found = to_ip(other) if isinstance(other, str) else other
    return network.value.contains(found.value)


def contains_cidr(network: CidrValue, other: Any) -> bool:
    found = to_cidr(other) if isinstance(other, str) else other
    return network.value.covers(found.value)


_BYTES = Estimate(4, 16)
"""An address has four or sixteen."""


def _contains_costs(is_network: bool, is_text: bool) -> tuple[RuntimeCost, Estimator]:
    """Two addresses are compared byte by byte; a network is masked first; a text is parsed."""

    def cost(arguments: Sequence[Any], result: Any) -> int:
        size = arguments[0].cost_size()
        total = scaled(2 * size, TRAVERSAL)
        if is_network:
            total += scaled(size, TRAVERSAL) + 1
        return total + (scaled(len(arguments[1]), TRAVERSAL) if is_text else 0)

    def estimate(nodes: Sequence[CostNode]) -> CallEstimate:
        total = _BYTES.plus(_BYTES).scaled(TRAVERSAL)
        if is_network:
            total = total.plus(_BYTES.scaled(TRAVERSAL)).plus(fixed(1))
        if is_text:
            total = total.plus(nodes[1].size.scaled(TRAVERSAL))
        return CallEstimate(total)

    return cost, estimate


_PARSE = (traversal(), estimate_traversal())
_PARSE_TWICE = (traversal(factor=2 * TRAVERSAL), estimate_traversal(factor=2 * TRAVERSAL))

_TESTS: tuple[tuple[str, str, Callable[[Address], bool]], ...] = (
    ("isUnspecified", "ip_is_unspecified", lambda ip: ip.is_unspecified),
    ("isLoopback", "ip_is_loopback", lambda ip: ip.is_loopback),
    ("isLinkLocalMulticast", "ip_is_link_local_multicast", addresses.is_link_local_multicast),
    ("isLinkLocalUnicast", "ip_is_link_local_unicast", addresses.is_link_local_unicast),
    ("isGlobalUnicast", "ip_is_global_unicast", addresses.is_global_unicast),
)


def _on_address(test: Callable[[Address], bool]) -> Callable[[IpValue], bool]:
    return lambda value: bool(test(value.value))


IPS = Library(
    name="kubernetes.net.ip",
    since=(1, 30),
    types=(IP,),
    functions=(
        call("ip", "string_to_ip", (STRING,), IP, to_ip, *_PARSE),
        call("isIP", "is_ip", (STRING,), BOOL, succeeds(to_ip), *_PARSE),
        call(
            "ip.isCanonical",
            "ip_is_canonical",
            (STRING,),
            BOOL,
            lambda text: str(to_ip(text).value) == text,
            *_PARSE_TWICE,
        ),
        call("string", "ip_to_string", (IP,), STRING, lambda ip: str(ip.value)),
        method("family", "ip_family", (IP,), INT, lambda ip: ip.value.version),
        *(method(name, id, (IP,), BOOL, _on_address(test)) for name, id, test in _TESTS),
    ),
)

CIDRS = Library(
    name="kubernetes.net.cidr",
    since=(1, 30),
    types=(CIDR,),
    functions=(
        call("cidr", "string_to_cidr", (STRING,), CIDR, to_cidr, *_PARSE),
        call("isCIDR", "is_cidr", (STRING,), BOOL, succeeds(to_cidr), *_PARSE),
        call("string", "cidr_to_string", (CIDR,), STRING, lambda c: str(c.value)),
        member(
            "containsIP",
            overload(
                "cidr_contains_ip_string",
                (CIDR, STRING),
                BOOL,
                contains_ip,
                *_contains_costs(False, True),
            ),
            overload(
                "cidr_contains_ip_ip", (CIDR, IP), BOOL, contains_ip, *_contains_costs(False, False)
            ),
        ),
        member(
            "containsCIDR",
            overload(
                "cidr_contains_cidr_string",
                (CIDR, STRING),
                BOOL,
                contains_cidr,
                *_contains_costs(True, True),
            ),
            overload(
                "cidr_contains_cidr",
                (CIDR, CIDR),
                BOOL,
                contains_cidr,
                *_contains_costs(True, False),
            ),
        ),
        method("ip", "cidr_ip", (CIDR,), IP, lambda c: IpValue(c.value.address)),
        method("prefixLength", "cidr_prefix_length", (CIDR,), INT, lambda c: c.value.bits),
        method("masked", "cidr_masked", (CIDR,), CIDR, lambda c: CidrValue(c.value.masked())),
    ),
)
