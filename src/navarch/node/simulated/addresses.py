"""Addresses of nodes and pods that are nobody's: nothing listens there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


class Addresses:
    """The pod addresses of one node, given out lowest first."""

    def __init__(self, cidr: str) -> None:
        network = ipaddress.ip_network(cidr)
        self._base, self._size = int(network.network_address), network.num_addresses
        self._make = type(network.network_address)
        self._cidr = cidr
        self._of: dict[str, int] = {}
        self._used: set[int] = set()
        self._next = 1
        self.is_new = True

    def of(self, uid: str, known: str) -> str:
        """The address of a pod: the one it has, or the next that is free."""
        offset = self._of.get(uid)
        if offset is None:
            offset = self._offset(known)
            self._of[uid] = offset
            self._used.add(offset)
        return str(self._make(self._base + offset))

    def release(self, uid: str) -> None:
        offset = self._of.pop(uid, None)
        if offset is not None:
            self._used.discard(offset)

    def _offset(self, known: str) -> int:
        if known:
            offset = int(ipaddress.ip_address(known)) - self._base
            if 0 <= offset < self._size:
                return offset
        for step in range(self._size):
            # On from the last one, so that an address just freed is not at once another pod's.
            offset = (self._next + step - 1) % (self._size - 2) + 1
            if offset not in self._used:
                self._next = offset + 1
                return offset
        raise RuntimeError(f"no address is left in {self._cidr}")


class NodeAddresses:
    """The nodes' own. A node keeps the one it has; several processes share the range."""

    def __init__(self, cidr: str, first_number: int) -> None:
        self._network = ipaddress.ip_network(cidr)
        self._first = first_number
        self._of: dict[str, str] = {}
        self._taken: set[str] = set()
        self._next = first_number + 1

    def know(self, name: str, address: str) -> None:
        """A node that is there already has this one."""
        if address and ipaddress.ip_address(address) in self._network:
            self._of[name] = address
            self._taken.add(address)

    def give(self, names: Iterable[str]) -> None:
        """Each of these nodes gets one, unless it has one."""
        for name in names:
            while name not in self._of:
                address = str(self._network[self._next])
                self._next += 1
                if address not in self._taken:
                    self.know(name, address)

    def __getitem__(self, name: str) -> str:
        return self._of[name]

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def offset(self, name: str) -> int:
        """The node's place in the range, from 0."""
        return int(ipaddress.ip_address(self._of[name])) - int(self._network.network_address) - 1
