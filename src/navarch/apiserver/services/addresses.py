"""Cluster addresses of Services: which are free, and the IPAddress objects that record the others.

An address is taken by creating the IPAddress of its name: the store lets only one of two writers do
that, so no lock is needed, not even between API servers.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from typing import Any

from navarch.api.errors import ApiError
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.security import system_context
from navarch.store.contract import CasFailed

Object = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FAMILY_LABEL = "ipaddress.kubernetes.io/ip-family"
MANAGED_LABEL = "ipaddress.kubernetes.io/managed-by"
MANAGER = "ipallocator.k8s.io"
RANDOM_TRIES = 32


class AddressError(Exception):
    """Why an address cannot be had."""


def static_band(size: int) -> int:
    """How many addresses at the low end of a range are kept for those who choose one themselves
    (KEP-3070)."""
    return min(max(16, size // 16), 256) if size > 16 else 0


class AddressAllocator:
    """Takes and gives back cluster addresses."""

    def __init__(self, registry: Registry, lookup: Lookup, default_range: str) -> None:
        self._registry = registry
        self._lookup = lookup
        self.default_range: Network = ipaddress.ip_network(default_range)
        self._resource = registry.catalog.get("networking.k8s.io", "v1", "ipaddresses")

    @property
    def family(self) -> str:
        return f"IPv{self.default_range.version}"

    def ranges(self) -> list[Network]:
        """The ranges that addresses are given from."""
        found: list[Network] = []
        for each in self._lookup.list("servicecidrs.networking.k8s.io"):
            if each["metadata"].get("deletionTimestamp"):
                continue
            for text in (each.get("spec") or {}).get("cidrs") or ():
                found.append(ipaddress.ip_network(text))
        if self.default_range not in found:
            found.append(self.default_range)
        return found

    def is_taken(self, address: str) -> bool:
        return self._lookup.get("ipaddresses.networking.k8s.io", "", address) is not None

    async def take(self, text: str, service: Object, dry_run: bool) -> None:
        """Take a certain address. Raises AddressError."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise AddressError(f"failed to parse service IP {text!r}") from None
        homes = [each for each in self.ranges() if address in each]
        if not homes or all(_is_edge(address, each) for each in homes):
            known = ", ".join(str(each) for each in self.ranges())
            raise AddressError(
                f"the provided IP ({text}) is not in the valid range. The range of valid IPs is "
                f"{known}"
            )
        if self.is_taken(str(address)):
            raise AddressError("provided IP is already allocated")
        if not dry_run and not await self._record(address, service):
            raise AddressError("provided IP is already allocated")

    async def take_any(self, service: Object, dry_run: bool) -> str:
        """Take a free address, from the upper band first. Raises AddressError when none is left."""
        for network in self.ranges():
            for address in self._candidates(network):
                if self.is_taken(str(address)):
                    continue
                if dry_run or await self._record(address, service):
                    return str(address)
        raise AddressError("range is full")

    def _candidates(self, network: Network) -> Iterator[Address]:
        """A few random addresses of the upper band, then all in order, the lower band last."""
        last = network.num_addresses - (2 if network.version == 4 else 1)
        band = static_band(network.num_addresses)
        first = band + 1 if last > band else 1
        for _ in range(RANDOM_TRIES):
            yield network[random.randint(first, max(first, last))]
        for index in range(first, last + 1):
            yield network[index]
        for index in range(1, first):
            yield network[index]

    async def record(self, address: str, service: Object) -> bool:
        """Record an address that a Service holds already."""
        return await self._record(ipaddress.ip_address(address), service)

    async def _record(self, address: Address, service: Object) -> bool:
        """Create the address's object; False when somebody else was first."""
        metadata = service["metadata"]
        obj: Object = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {
                "name": str(address),
                "labels": {FAMILY_LABEL: f"IPv{address.version}", MANAGED_LABEL: MANAGER},
            },
            "spec": {
                "parentRef": {
                    "group": "",
                    "resource": "services",
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                }
            },
        }
        context = system_context(self._resource, obj, "create")
        try:
            await self._registry.create(self._resource, obj, context)
        except ApiError as error:
            if error.is_already_exists:
                return False
            raise
        return True

    async def release(self, address: str) -> None:
        """Give an address back."""
        entry = self._resource.cache.get("", address)
        while entry is not None:
            try:
                await self._registry.remove(self._resource, entry)
            except CasFailed as lost:
                await self._registry.catch_up(lost)
            entry = self._resource.cache.get("", address)


def _is_edge(address: Address, network: Network) -> bool:
    """The network's own address and, for IPv4, its broadcast address are nobody's."""
    return address == network[0] or (network.version == 4 and address == network[-1])
