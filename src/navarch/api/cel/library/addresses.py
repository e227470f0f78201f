"""IP addresses and prefixes as Go's `net/netip` reads and prints them.

Stricter than Python's `ipaddress` where it matters (leading zeros, signs in prefix lengths, zones),
and with Go's words for what is wrong, since those reach the user through CEL's `ip()` and `cidr()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from navarch.api.errors import go_quoted

Address = IPv4Address | IPv6Address

_HEX = frozenset("0123456789abcdefABCDEF")
_FIELDS = 8


class AddressError(ValueError):
    """The text is no address or prefix."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A network: an address, whose host bits may be set, and the length of the prefix."""

    address: Address
    bits: int

    def __str__(self) -> str:
        return f"{self.address}/{self.bits}"

    def masked(self) -> Prefix:
        shift = self.address.max_prefixlen - self.bits
        return Prefix(type(self.address)(int(self.address) >> shift << shift), self.bits)

    def contains(self, address: Address) -> bool:
        return self.covers(Prefix(address, address.max_prefixlen))

    def covers(self, other: Prefix) -> bool:
        """Whether the other network lies in this one."""
        if self.address.version != other.address.version or self.bits > other.bits:
            return False
        shift = self.address.max_prefixlen - self.bits
        return int(self.address) >> shift == int(other.address) >> shift


def _bad(text: str, why: str, at: str = "") -> AddressError:
    where = f" (at {go_quoted(at)})" if at else ""
    return AddressError(f"ParseAddr({go_quoted(text)}): {why}{where}")


def parse_address(text: str) -> tuple[Address, str]:
    """An address and its zone ("" if there is none). Raises AddressError."""
    for character in text:
        if character == ".":
            return IPv4Address(_octets(text, text)), ""
        if character == ":":
            return _parse_v6(text)
        if character == "%":
            raise _bad(text, "missing IPv6 address")
    raise _bad(text, "unable to parse IP")


def _octets(whole: str, text: str) -> bytes:
    """The four bytes of the IPv4 notation `text`, which is (the end of) `whole`."""
    octets: list[int] = []
    value = digits = 0
    for index, character in enumerate(text):
        if "0" <= character <= "9":
            if digits == 1 and value == 0:
                raise _bad(whole, "IPv4 field has octet with leading zero")
            value, digits = value * 10 + int(character), digits + 1
            if value > 255:
                raise _bad(whole, "IPv4 field has value >255")
        elif character == ".":
            if not digits or index == len(text) - 1:
                raise _bad(whole, "IPv4 field must have at least one digit", text[index:])
            if len(octets) == 3:
                raise _bad(whole, "IPv4 address too long")
            octets.append(value)
            value = digits = 0
        else:
            raise _bad(whole, "unexpected character", text[index:])
    if len(octets) < 3:
        raise _bad(whole, "IPv4 address too short")
    return bytes([*octets, value])


def _parse_v6(text: str) -> tuple[Address, str]:
    rest, percent, zone = text.partition("%")
    if percent and not zone:
        raise _bad(text, "zone must be a non-empty string")
    found = bytearray()
    gap = -1
    if rest.startswith("::"):
        gap, rest = 0, rest[2:]
    while rest and len(found) < 2 * _FIELDS:
        length = next((i for i, each in enumerate(rest) if each not in _HEX), len(rest))
        if length > 4:
            raise _bad(text, "each group must have 4 or less digits", rest)
        if not length:
            raise _bad(text, "each colon-separated field must have at least one digit", rest)
        if rest[length : length + 1] == ".":
            if gap < 0 and len(found) != 12:
                why = "embedded IPv4 address must replace the final 2 fields of the address"
                raise _bad(text, why, rest)
            if len(found) > 12:
                why = "too many hex fields to fit an embedded IPv4 at the end of the address"
                raise _bad(text, why, rest)
            found += _octets(text, rest)
            rest = ""
            break
        found += int(rest[:length], 16).to_bytes(2, "big")
        rest = rest[length:]
        if not rest:
            break
        if rest[0] != ":":
            raise _bad(text, "unexpected character, want colon", rest)
        if len(rest) == 1:
            raise _bad(text, "colon must be followed by more characters", rest)
        rest = rest[1:]
        if rest[0] == ":":
            if gap >= 0:
                raise _bad(text, "multiple :: in address", rest)
            gap, rest = len(found), rest[1:]
    if rest:
        raise _bad(text, "trailing garbage after address", rest)
    missing = 2 * _FIELDS - len(found)
    if missing and gap < 0:
        raise _bad(text, "address string too short")
    if not missing and gap >= 0:
        raise _bad(text, "the :: must expand to at least one field of zeros")
    if missing:
        found[gap:gap] = bytes(missing)
    return IPv6Address(bytes(found)), zone


def parse_prefix(text: str) -> Prefix:
    """A network. Raises AddressError."""

    def bad(why: str) -> AddressError:
        return AddressError(f"netip.ParsePrefix({go_quoted(text)}): {why}")

    before, slash, length = text.rpartition("/")
    if not slash:
        raise bad("no '/'")
    try:
        address, zone = parse_address(before)
    except AddressError as error:
        raise bad(str(error)) from None
    if zone:
        raise bad("IPv6 zones cannot be present in a prefix")
    if not (length.isascii() and length.isdigit()) or (len(length) > 1 and length[0] == "0"):
        raise bad(f"bad bits after slash: {go_quoted(length)}")
    if len(length) > 3 or int(length) > address.max_prefixlen:
        raise bad("prefix length out of range")
    return Prefix(address, int(length))


def is_link_local_multicast(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return int(address) >> 8 == 0xE00000
    return int(address) >> 112 & 0xFF0F == 0xFF02


def is_link_local_unicast(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return int(address) >> 16 == 0xA9FE
    return int(address) >> 118 == 0xFE80 >> 6


def is_global_unicast(address: Address) -> bool:
    """Any address of a single host; private ranges count."""
    return not (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or is_link_local_unicast(address)
        or (int(address) == 0xFFFFFFFF and isinstance(address, IPv4Address))
    )
