"""Cluster addresses of Services: which are free, and the IPAddress objects that record the others.

An address is taken by creating the IPAddress of its name: the store lets only one of two writers do
that, so no lock is needed, not even between API servers. Ranges come from the ServiceCIDR objects
(KEP-1880); the low end of each is kept for those who choose an address themselves (KEP-3070).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from navarch.api.errors import ApiError
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.security import system_context
from navarch.apiserver.services.holdings import Holdings, Key, key_of
from navarch.store.contract import CasFailed

Object = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FAMILY_LABEL = "ipaddress.kubernetes.io/ip-family"
MANAGED_LABEL = "ipaddress.kubernetes.io/managed-by"
MANAGER = "ipallocator.k8s.io"
CIDRS = "servicecidrs.networking.k8s.io"
DEFAULT = "kubernetes"
"""The ServiceCIDR made of the server's own options."""


class AddressError(Exception):
    """Why an address cannot be had."""


class RangeFull(AddressError):
    """There is none left."""


TAKEN = "provided IP is already allocated"
ELSEWHERE = "the provided network does not match the current range"


def static_band(size: int) -> int:
    """How many addresses at the low end of a range are kept for those who choose one themselves
    (KEP-3070)."""
    return min(max(16, size // 16), 256) if size > 16 else 0


def family_of(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


@dataclass(frozen=True, slots=True)
class Range:
    """One range of addresses. The network's own address is nobody's, nor is the broadcast address
    of IPv4."""

    network: Network

    @property
    def family(self) -> str:
        return f"IPv{self.network.version}"

    @property
    def last(self) -> int:
        """The place of the last address that can be given."""
        return self.network.num_addresses - (2 if self.network.version == 4 else 1)

    def holds(self, address: Address) -> bool:
        """Whether the address can be given from here."""
        if address not in self.network:
            return False
        return 1 <= int(address) - int(self.network.network_address) <= self.last

    def candidates(self, chance: Random) -> Iterator[str]:
        """All addresses: the upper band from a random place on and around, then the lower one."""
        band = min(static_band(self.network.num_addresses), max(self.last, 0))
        for first, last in ((band + 1, self.last), (1, band)):
            if first > last:
                continue
            start = chance.randrange(first, last + 1)
            for index in range(start, last + 1):
                yield str(self.network[index])
            for index in range(first, start):
                yield str(self.network[index])


def is_ready(cidr: Object) -> bool:
    """Whether addresses may be given from a ServiceCIDR. One without the condition counts as ready:
    the controller that sets it may be away."""
    if cidr["metadata"].get("deletionTimestamp"):
        return False
    conditions = (cidr.get("status") or {}).get("conditions") or ()
    return all(each["status"] == "True" for each in conditions if each["type"] == "Ready")


class Ranges:
    """The ranges of all ServiceCIDRs, read anew when one changes."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._usable: list[Range] | None = None
        self._all: list[Network] = []
        self.changes = 0
        lookup.follow(CIDRS, self._changed)

    def _changed(self, namespace: str, name: str, obj: Object | None) -> None:
        self._usable = None
        self.changes += 1

    def usable(self) -> list[Range]:
        """Those that addresses may be given from, the default first."""
        if self._usable is None:
            found: dict[Network, bool] = {}
            cidrs = sorted(
                self._lookup.list(CIDRS),
                key=lambda each: (each["metadata"]["name"] != DEFAULT, each["metadata"]["name"]),
            )
            for cidr in cidrs:
                for text in (cidr.get("spec") or {}).get("cidrs") or ():
                    network = ipaddress.ip_network(text)
                    found[network] = found.get(network, False) or is_ready(cidr)
            self._all = list(found)
            self._usable = [Range(network) for network, ready in found.items() if ready]
        return self._usable

    def cover(self, address: Address) -> bool:
        """Whether the address is in any range, be it on its way out."""
        self.usable()
        return any(address in network for network in self._all)


class AddressAllocator:
    """Takes and gives back cluster addresses."""

    def __init__(
        self, registry: Registry, lookup: Lookup, default_ranges: Sequence[str], holdings: Holdings
    ) -> None:
        self._registry = registry
        self._holdings = holdings
        self.default_ranges = [ipaddress.ip_network(text) for text in default_ranges]
        self.families = [f"IPv{network.version}" for network in self.default_ranges]
        """Those that the cluster is configured for, the default first."""
        self.resource = registry.catalog.get("networking.k8s.io", "v1", "ipaddresses")
        self.ranges = Ranges(lookup)
        self.tally: Counter[tuple[str, ...]] = Counter()
        """Allocations and refusals, by scope and range: for the metrics."""
        self.making: set[str] = set()
        """Addresses whose records are being written here, for a Service that comes next."""

    def is_taken(self, address: str) -> bool:
        """An address that a Service holds is taken even when somebody deleted its record."""
        if address in self._holdings.addresses:
            return True
        return self.resource.cache.get("", address) is not None

    async def take(self, text: str, service: Object, dry_run: bool) -> tuple[str, int]:
        """Take a certain address: its canonical form and the revision of its record. Raises
        AddressError."""
        address = ipaddress.ip_address(text)
        home = next((each for each in self.ranges.usable() if each.holds(address)), None)
        if home is None:
            raise AddressError(ELSEWHERE)
        name = str(address)
        free = not self.is_taken(name)
        revision = 0 if dry_run or not free else await self.record(name, service)
        if not free or revision is None:
            self._count("allocation_errors_total", "static", home, dry_run)
            raise AddressError(TAKEN)
        self._count("allocation_total", "static", home, dry_run)
        return name, revision

    def _count(self, what: str, scope: str, home: Range, dry_run: bool) -> None:
        if not dry_run:
            self.tally[what, scope, str(home.network)] += 1

    async def take_any(self, family: str, service: Object, dry_run: bool) -> tuple[str, int]:
        """Take a free address of a family, from upper bands first. Raises RangeFull."""
        for each in self.ranges.usable():
            if each.family != family:
                continue
            for name in each.candidates(self._registry.chooser):
                if self.is_taken(name):
                    continue
                revision = 0 if dry_run else await self.record(name, service)
                if revision is not None:
                    self._count("allocation_total", "dynamic", each, dry_run)
                    return name, revision
            self._count("allocation_errors_total", "dynamic", each, dry_run)
        raise RangeFull("range is full")

    async def record(self, address: str, service: Object) -> int | None:
        """Create the address's object: its revision, or None when somebody else was first."""
        obj = ip_address_of(address, service)
        context = system_context(self.resource, obj, "create")
        self.making.add(address)
        try:
            written = await self._registry.create(self.resource, obj, context)
        except BaseException as error:
            if isinstance(error, ApiError) and error.is_already_exists:
                return None
            # It may be written all the same: a request that takes too long ends anywhere.
            self.doubt((address,))
            raise
        finally:
            self.making.discard(address)
        return int(written.obj["metadata"]["resourceVersion"])

    def doubt(self, addresses: Iterable[str]) -> None:
        """Have the repair look at addresses whose Service may never come."""
        self._holdings.changed.update(addresses)

    async def release(self, address: str, whose: Key | None, before: int) -> None:
        """Remove the record of an address, if it is that of the Service (None: anybody's) and was
        made before a revision: what came later is somebody else's by right."""
        entry = self.resource.cache.get("", address)
        while entry is not None and entry.create_revision < before:
            if whose is not None:
                parent = entry.decode(self.resource.stored_kind)["spec"].get("parentRef") or {}
                if (parent.get("namespace", ""), parent.get("name", "")) != whose:
                    return
            try:
                await self._registry.remove(self.resource, entry)
            except CasFailed as lost:
                await self._registry.catch_up(lost)
            entry = self.resource.cache.get("", address)


def ip_address_of(address: str, service: Object) -> Object:
    """The object that records an address of a Service."""
    namespace, name = key_of(service)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address,
            "labels": {FAMILY_LABEL: family_of(address), MANAGED_LABEL: MANAGER},
        },
        "spec": {
            "parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}
        },
    }
