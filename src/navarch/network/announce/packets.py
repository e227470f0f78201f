"""The frames by which an address is announced, as bytes. No I/O.

ARP    (RFC 826, RFC 5227)   IPv4: who has it asks, a reply and unasked announcements answer
NDP    (RFC 4861)            IPv6: neighbour solicitation and advertisement, in ICMPv6
beat   (ours)                who else on this link announces: EtherType 0x88B5, which IEEE 802
                             leaves to local experiments; payload: magic, cluster, node's name
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ETH_ARP, ETH_IPV6, ETH_BEAT = 0x0806, 0x86DD, 0x88B5
BROADCAST = b"\xff" * 6
ALL_NODES = ipaddress.IPv6Address("ff02::1")
REQUEST, REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136
SOLICITED, OVERRIDE = 0x40000000, 0x20000000
MAGIC = b"navarch\x01"
_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_SHORTEST = 60
"""Ethernet's shortest frame without its checksum: ours are filled up with zeros."""


@dataclass(frozen=True, slots=True)
class Question:
    """Somebody asks for an address."""

    address: Address
    mac: bytes
    """Who asks."""
    asker: Address
    """Unspecified: a probe whether anybody has the address yet."""


def read_arp(frame: bytes) -> tuple[int, Question] | None:
    """The operation of an ARP packet and what it asks for; of a reply, what it claims. None for
    what is no ARP for IPv4 on Ethernet."""
    if len(frame) < _ARP.size:
        return None
    _, _, kind, hardware, protocol, hlen, plen, operation, mac, spa, _, tpa = _ARP.unpack_from(
        frame
    )
    if (kind, hardware, protocol, hlen, plen) != (ETH_ARP, 1, 0x0800, 6, 4):
        return None
    address = ipaddress.IPv4Address(tpa if operation == REQUEST else spa)
    return operation, Question(address, mac, ipaddress.IPv4Address(spa))


def arp_reply(question: Question, own: bytes) -> bytes:
    """The answer, to the asker alone."""
    packed = question.address.packed, question.asker.packed
    return _arp(question.mac, own, REPLY, (packed[0], question.mac, packed[1]))


def gratuitous_arp(address: Address, own: bytes) -> tuple[bytes, bytes]:
    """Unasked announcements in both forms, since some systems heed only one of them: sender and
    target are the address (RFC 5227, section 3)."""
    packed = address.packed
    return (
        _arp(BROADCAST, own, REQUEST, (packed, BROADCAST, packed)),
        _arp(BROADCAST, own, REPLY, (packed, BROADCAST, packed)),
    )


def arp_request(address: Address, own: bytes, asker: Address) -> bytes:
    return _arp(BROADCAST, own, REQUEST, (asker.packed, bytes(6), address.packed))


def _arp(to: bytes, own: bytes, operation: int, fields: tuple[bytes, bytes, bytes]) -> bytes:
    sender, target_mac, target = fields
    header = (to, own, ETH_ARP, 1, 0x0800, 6, 4, operation)
    return _ARP.pack(*header, own, sender, target_mac, target).ljust(_SHORTEST, b"\0")


def read_solicitation(frame: bytes) -> Question | None:
    """The address that a neighbour solicitation asks for. None for anything else, and for what has
    passed a router: its hop limit would not be 255 any more."""
    if len(frame) < 78 or struct.unpack_from("!H", frame, 12)[0] != ETH_IPV6:
        return None
    if frame[20] != 58 or frame[21] != 255 or frame[54] != SOLICITATION:
        return None
    asker = ipaddress.IPv6Address(frame[22:38])
    mac = frame[6:12]
    if frame[78:80] == b"\x01\x01" and len(frame) >= 86:
        mac = frame[80:86]
    return Question(ipaddress.IPv6Address(frame[62:78]), mac, asker)


def advertisement(question: Question, own: bytes) -> bytes:
    """The answer to a solicitation. Who asks without an address of its own checks whether the
    address is free: that is answered to all, since it is not."""
    if question.asker.is_unspecified:
        return unsolicited_advertisement(question.address, own)
    flags = SOLICITED | OVERRIDE
    return _advertisement(question.address, own, question.mac, question.asker, flags)


def unsolicited_advertisement(address: Address, own: bytes) -> bytes:
    return _advertisement(address, own, multicast_mac(ALL_NODES), ALL_NODES, OVERRIDE)


def _advertisement(address: Address, own: bytes, mac: bytes, to: Address, flags: int) -> bytes:
    body = struct.pack("!BBHI", ADVERTISEMENT, 0, 0, flags) + address.packed + b"\x02\x01" + own
    return _icmp6(own, mac, (address, to), body)


def solicitation(address: Address, own: bytes, asker: Address) -> bytes:
    body = struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + address.packed + b"\x01\x01" + own
    group = solicited_node(address)
    return _icmp6(own, multicast_mac(group), (asker, group), body)


def _icmp6(own: bytes, mac: bytes, ends: tuple[Address, Address], body: bytes) -> bytes:
    source, to = ends
    pseudo = source.packed + to.packed + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + source.packed + to.packed
    return mac + own + struct.pack("!H", ETH_IPV6) + header + body


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def solicited_node(address: Address) -> ipaddress.IPv6Address:
    """The group in which those listen who have the address (RFC 4291, section 2.7.1)."""
    return ipaddress.IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + address.packed[13:])


def multicast_mac(group: Address) -> bytes:
    return b"\x33\x33" + group.packed[12:]


def beat(cluster: bytes, node: str, own: bytes) -> bytes:
    payload = MAGIC + cluster + bytes([len(node)]) + node.encode()
    return (BROADCAST + own + struct.pack("!H", ETH_BEAT) + payload).ljust(_SHORTEST, b"\0")


def read_beat(frame: bytes, cluster: bytes) -> str | None:
    """The node that a beat of this cluster is from."""
    start = 14 + len(MAGIC) + len(cluster)
    if frame[12:start] != struct.pack("!H", ETH_BEAT) + MAGIC + cluster or len(frame) <= start:
        return None
    name = frame[start + 1 : start + 1 + frame[start]]
    try:
        return name.decode() or None
    except UnicodeDecodeError:
        return None
