"""IP addresses and ranges of addresses as the fields of objects take them."""

from __future__ import annotations

import ipaddress
import re

from navarch.api.numbers import natural

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BAD_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_BAD_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_OCTET_ZEROS = re.compile(r"(?<![0-9a-fA-F])0+(?=[0-9])")


def parse_address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def sloppy_address(text: str) -> Address | None:
    """An address as old parsers read it: leading zeros in the parts of IPv4 mean nothing."""
    return parse_address(_OCTET_ZEROS.sub("", text) if "." in text else text)


def is_mapped(address: Address) -> bool:
    """Whether this is an IPv4 address in IPv6's clothes."""
    return address.version == 6 and address.ipv4_mapped is not None


def address_problem(text: str) -> str:
    """What is wrong with an IP address as older fields take it; leading zeros, which tools read
    differently, are refused for new values (KEP-4858)."""
    address = parse_address(text or "")
    if address is None:
        return "must not have leading 0s" if sloppy_address(text or "") else _BAD_ADDRESS
    return "must not be an IPv4-mapped IPv6 address" if is_mapped(address) else ""


def cidr_problem(text: str) -> str:
    """What is wrong with a range of addresses."""
    address, slash, length = (text or "").partition("/")
    parsed = sloppy_address(address) if slash else None
    bits = natural(length)
    if parsed is None or bits is None or bits > parsed.max_prefixlen:
        return _BAD_CIDR
    if parse_address(address) is None or (length != "0" and length.startswith("0")):
        return "must not have leading 0s in IP or prefix length"
    if is_mapped(parsed):
        return "must not have an IPv4-mapped IPv6 address"
    if ipaddress.ip_network(text, strict=False).network_address != parsed:
        return "must not have bits set beyond the prefix length"
    return ""


def canonical_problem(text: str, *, is_range: bool = False) -> str:
    """What is wrong with an address or range of a newer field, which takes one form alone."""
    problem = cidr_problem(text) if is_range else address_problem(text)
    if not problem:
        canonical = str(ipaddress.ip_network(text) if is_range else ipaddress.ip_address(text))
        if canonical != text:
            return f'must be in canonical form ("{canonical}")'
    return problem


def address_warnings(path: str, text: str) -> list[str]:
    """What to tell about an address that is valid in an older field, but not as it should be."""
    address = parse_address(text)
    if address is None or is_mapped(address):
        known = sloppy_address(text)
        known = known if known is None else getattr(known, "ipv4_mapped", None) or known
        return [f'{path}: non-standard IP address "{text}" is invalid: use "{known}"'] * (
            known is not None
        )
    if str(address) != text:
        told = f'IPv6 address "{text}" should be in RFC 5952 canonical format ("{address}")'
        return [f"{path}: {told}"]
    return []


def cidr_warnings(path: str, text: str) -> list[str]:
    """The same for a range. What the rules refuse today may be stored since before."""
    if cidr_problem(text):
        return []
    canonical = str(ipaddress.ip_network(text))
    if canonical == text:
        return []
    told = f'IPv6 CIDR value "{text}" should be in RFC 5952 canonical format ("{canonical}")'
    return [f"{path}: {told}"]


def endpoint_problem(text: str) -> str:
    """What is wrong with an address to send traffic to: not the node's own and not a link's."""
    address = sloppy_address(text or "")
    # The kernel takes `::ffff:127.0.0.1` for what it wraps (RFC 4291, section 2.5.5.2).
    address = getattr(address, "ipv4_mapped", None) or address
    if address is None:
        return "must be a valid IP address"
    if address.is_unspecified:
        return f"may not be unspecified ({text})"
    if address.is_loopback:
        return "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    if address.is_link_local:
        return "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    if address.is_multicast and str(address).startswith(("224.0.0.", "ff02:")):
        return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    return ""
