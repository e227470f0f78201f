"""What leaves this machine: a look at its outer links for packets from or to cluster addresses.

Service and pod addresses, the nodes' subnets and the pools of load balancers in them are the
cluster's own affair. The kernel throws away everything else before this process hears of it (a
classic BPF filter, see socket(7) SO_ATTACH_FILTER), so looking costs next to nothing.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from navarch.cluster.profile import slot_ranges

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 3, 0x0800, 0x0806, 0x86DD
OFFSETS = {4: ((ETH_P_IP, 12), (ETH_P_IP, 16), (ETH_P_ARP, 14), (ETH_P_ARP, 24)),
           6: ((ETH_P_IPV6, 8), (ETH_P_IPV6, 24))}  # fmt: skip
"""Where a packet has its addresses: by EtherType, source before destination."""
SO_ATTACH_FILTER = 26
PACKET_OUTGOING = 4
LOAD, AND, JUMP_IF_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
LOADED_PROTOCOL = 0xFFFFF000
"""Loading from here (SKF_AD_OFF + SKF_AD_PROTOCOL) gives the EtherType."""
MAXIMAL = 128
"""Bytes of a packet that are kept."""
SLOTS = 16
"""More clusters than tests make side by side."""


def cluster_ranges(outside: Iterable[Network] = ()) -> list[Network]:
    """What the first clusters of a machine take by themselves, and all of IPv6's; without those
    ranges that lie where this machine's own links lead, of which no cluster is made either."""
    names = ("subnet", "service_cidr", "pod_cidr")
    found: list[Network] = [
        ipaddress.ip_network(slot_ranges(slot)[name]) for slot in range(SLOTS) for name in names
    ]
    found.append(ipaddress.ip_network(slot_ranges(0)["subnet6"]).supernet(new_prefix=32))
    return [
        each
        for each in found
        if not any(each.version == other.version and each.overlaps(other) for other in outside)
    ]


def routes() -> Iterator[tuple[str, Network]]:
    """The host's: the link, and where it leads."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        link, destination, *_, mask = line.split()[:8]
        address, bits = (struct.pack("=I", int(word, 16)) for word in (destination, mask))
        length = int.from_bytes(bits).bit_count()
        yield link, ipaddress.IPv4Network((address, length))
    for line in Path("/proc/net/ipv6_route").read_text().splitlines():
        destination, size, *_, link = line.split()
        yield link, ipaddress.IPv6Network((bytes.fromhex(destination), int(size, 16)))


def outer_links() -> dict[str, list[Network]]:
    """The links that lead elsewhere, with hardware behind them or a default route, and where to."""
    known = list(routes())
    names = {path.parent.name for path in Path("/sys/class/net").glob("*/device")}
    names |= {link for link, network in known if not network.prefixlen}
    here = {name for _, name in socket.if_nameindex()}
    return {
        name: [network for link, network in known if link == name and network.prefixlen]
        # Of another network namespace than this one's, /sys may tell.
        for name in sorted(names & here - {"lo"})
    }


def program(ranges: Iterable[Network]) -> list[tuple[int, int, int, int]]:
    """The filter: instructions as (code, jump if true, jump if false, value). It sees a packet from
    its network header on."""
    found = []
    for network in ranges:
        size = network.max_prefixlen // 8
        ends = [each.packed for each in (network.network_address, network.netmask)]
        words = [
            (start, *(struct.unpack_from("!I", end, start)[0] for end in ends))
            for start in range(0, size, 4)
        ]
        words = [word for word in words if word[2]]
        for kind, offset in OFFSETS[network.version]:
            left = 3 * len(words) + 1
            found += [(LOAD, 0, 0, LOADED_PROTOCOL), (JUMP_IF_EQUAL, 0, left, kind)]
            for start, value, bits in words:
                left -= 3
                found += [
                    (LOAD, 0, 0, offset + start),
                    (AND, 0, 0, bits),
                    (JUMP_IF_EQUAL, 0, left, value),
                ]
            found.append((RETURN, 0, 0, MAXIMAL))
    return [*found, (RETURN, 0, 0, 0)]


def describe(kind: int, packet: bytes) -> str:
    """A packet in words: enough to find out whose it is."""
    size = 16 if kind == ETH_P_IPV6 else 4
    offsets = [each for version in OFFSETS.values() for each in version if each[0] == kind]
    ends = [str(ipaddress.ip_address(packet[at : at + size])) for _, at in offsets]
    name = {ETH_P_IP: "IPv4", ETH_P_ARP: "ARP", ETH_P_IPV6: "IPv6"}[kind]
    return f"{name} {' > '.join(ends)}: {packet[:64].hex()}"


class Lookout:
    """Watches links of the network namespace that it is made in, wherever the thread goes."""

    def __init__(self, links: Iterable[str], ranges: Iterable[Network]) -> None:
        instructions = program(ranges)
        code = b"".join(struct.pack("=HBBI", *each) for each in instructions)
        self._code = ctypes.create_string_buffer(code, len(code))
        loaded = struct.pack("HP", len(instructions), ctypes.addressof(self._code))
        self._sockets: dict[str, socket.socket] = {}
        for link in links:
            # Bound to no protocol, it hears nothing until the filter is there.
            listening = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
            listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, loaded)
            listening.bind((link, ETH_P_ALL))
            self._sockets[link] = listening

    def seen(self) -> list[str]:
        """What left, or arrived, since the last time."""
        found = []
        for link, listening in self._sockets.items():
            while True:
                try:
                    packet, (_, kind, way, *_) = listening.recvfrom(MAXIMAL)
                except BlockingIOError:
                    break
                word = "out of" if way == PACKET_OUTGOING else "into"
                found.append(f"{word} {link}: {describe(kind, packet)}")
        return found

    def close(self) -> None:
        for listening in self._sockets.values():
            listening.close()
