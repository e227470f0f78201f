"""Which address a Service of type LoadBalancer gets: pools, the books of who has what, the rules.

Kubernetes leaves this to whoever provides load balancers. The rules here are MetalLB's, whose users
are many: pools with names, requested addresses and pools, addresses shared by Services that agree
to it. Nothing in this module waits or writes; `load_balancer.py` acts on its decisions.

An address belongs to whom the API says: the Service's own status. The books only add what has been
decided and is not to be seen there yet, so they can be made anew from the Services at any time.
Source: MetalLB, `internal/allocator`, `controller/service.go`; KEP-1959 (loadBalancerClass).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from navarch.api.load_balancers import annotation, is_ours
from navarch.api.selectors import LabelSelector, label_selector_from_object
from navarch.api.types.core_v1 import Service
from navarch.api.types.meta_v1 import LabelSelector as SelectorObject

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

OWN_CLASS = "navarch.dev/load-balancer"
FINALIZER = "service.kubernetes.io/load-balancer-cleanup"


class Refusal(Exception):
    """Why a Service cannot have what it asks for."""


class Range(NamedTuple):
    first: Address
    last: Address

    def __contains__(self, address: object) -> bool:
        assert isinstance(address, Address)
        return self.first.version == address.version and self.first <= address <= self.last  # type: ignore[operator]


def parse_range(text: str) -> Range:
    """First and last address of `a-b` or of a CIDR. Raises ValueError."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not dash:
        if "/" not in first:
            raise ValueError(f"{text!r} is neither a range A-B nor a CIDR")
        network = ipaddress.ip_network(first, strict=False)
        return Range(network[0], network[-1])
    found = Range(ipaddress.ip_address(first), ipaddress.ip_address(last))
    if found.last not in found:
        raise ValueError(f"{text!r}: the last address does not come after the first")
    return found


@dataclass(frozen=True, slots=True)
class Allocation:
    """For which Services a pool is. Namespaces and selectors are alternatives, each."""

    priority: int = 0
    """The lower the earlier; 0 comes last."""
    namespaces: tuple[str, ...] = ()
    namespace_selectors: tuple[LabelSelector, ...] = ()
    service_selectors: tuple[LabelSelector, ...] = ()

    def takes(self, demand: Demand) -> bool:
        if self.namespaces or self.namespace_selectors:
            labels = demand.namespace_labels
            if demand.namespace not in self.namespaces and not any(
                selector.matches(labels) for selector in self.namespace_selectors
            ):
                return False
        selectors = self.service_selectors
        return not selectors or any(each.matches(demand.labels) for each in selectors)


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses to give."""

    name: str
    ranges: tuple[Range, ...]
    auto_assign: bool = True
    """Otherwise only who asks for the pool or for an address gets one of it."""
    avoid_buggy_ips: bool = False
    """Leave out IPv4 addresses that end in 0 or 255: some old networks take them for broadcasts."""
    allocation: Allocation | None = None

    def __contains__(self, address: object) -> bool:
        assert isinstance(address, Address)
        return not self.avoids(address) and any(address in each for each in self.ranges)

    def avoids(self, address: Address) -> bool:
        return self.avoid_buggy_ips and address.version == 4 and int(address) & 0xFF in (0, 255)

    def takes(self, demand: Demand) -> bool:
        return self.allocation is None or self.allocation.takes(demand)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a Service asks for."""

    key: str
    families: tuple[int, ...] = (4,)
    needs_all: bool = True
    """Otherwise one of the families will do (PreferDualStack)."""
    ports: frozenset[tuple[str, int]] = frozenset()
    sharing: str = ""
    backend: str = ""
    """Who share an address go to the same nodes: all with the Cluster policy, or those with one
    selector."""
    requested: tuple[Address, ...] = ()
    pool: str = ""
    labels: Mapping[str, str] | None = None
    namespace_labels: Mapping[str, str] | None = None

    @property
    def namespace(self) -> str:
        return self.key.partition("/")[0]

    def fits(self, addresses: Sequence[Address]) -> bool:
        """Whether addresses are of the right families, one of each."""
        versions = [address.version for address in addresses]
        if len(set(versions)) != len(versions) or not set(versions) <= set(self.families):
            return False
        return len(versions) == len(self.families) or (not self.needs_all and bool(versions))


def is_wanted(service: Service) -> bool:
    """Whether the Service is to have an address, of ours."""
    spec = service.spec
    return spec.type == "LoadBalancer" and spec.loadBalancerClass in (None, "", OWN_CLASS)


def addresses_of(service: Service) -> tuple[Address, ...]:
    """The addresses in the Service's status. What cannot be read is none of ours."""
    found = []
    for ingress in service.status.loadBalancer.ingress:
        try:
            found.append(ipaddress.ip_address(ingress.ip))
        except ValueError:
            continue
    return tuple(found)


def demand_of(service: Service, namespace_labels: Mapping[str, str] | None = None) -> Demand:
    """What a Service asks for. Raises Refusal for what cannot be understood."""
    spec, meta = service.spec, service.metadata
    local = spec.externalTrafficPolicy == "Local"
    families = tuple(6 if family == "IPv6" else 4 for family in spec.ipFamilies)
    if not families:
        families = (6 if ":" in spec.clusterIP else 4,)
    return Demand(
        key=f"{meta.namespace}/{meta.name}",
        families=families,
        needs_all=spec.ipFamilyPolicy != "PreferDualStack",
        ports=frozenset((port.protocol or "TCP", port.port) for port in spec.ports),
        sharing=annotation(service, "allow-shared-ip"),
        backend=",".join(f"{k}={v}" for k, v in sorted(spec.selector.items())) if local else "",
        requested=_requested(service),
        pool=annotation(service, "address-pool"),
        labels=meta.labels,
        namespace_labels=namespace_labels,
    )


def _requested(service: Service) -> tuple[Address, ...]:
    listed, field = annotation(service, "loadBalancerIPs"), service.spec.loadBalancerIP
    if listed and field:
        raise Refusal(
            "service can not have both metallb.io/loadBalancerIPs and svc.Spec.LoadBalancerIP"
        )
    found = []
    for text in (listed or field).split(","):
        if not text.strip():
            continue
        try:
            found.append(ipaddress.ip_address(text.strip()))
        except ValueError:
            raise Refusal(f"invalid requested address {text.strip()!r}") from None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Holding:
    """What a Service has, and on which terms."""

    addresses: tuple[Address, ...]
    pool: str
    demand: Demand


class Books:
    """Who has which address."""

    def __init__(self, pools: Iterable[Pool] = ()) -> None:
        self.pools: tuple[Pool, ...] = tuple(pools)
        self.held: dict[str, Holding] = {}
        self._users: dict[Address, set[str]] = {}
        self._lowest: dict[Range, int] = {}
        """No address of the range below is free."""

    def set_pools(self, pools: Iterable[Pool]) -> None:
        """Other pools. Who holds what is in none of them any more keeps it until it is cleared."""
        self.pools = tuple(pools)
        self._lowest.clear()

    def pool_of(self, addresses: Iterable[Address]) -> Pool | None:
        """The pool that all these addresses are of."""
        wanted = [*addresses]
        if not wanted:
            return None
        return next((pool for pool in self.pools if all(each in pool for each in wanted)), None)

    def hold(self, demand: Demand, addresses: Sequence[Address]) -> Holding:
        """Note that a Service has these addresses, and no others. Raises Refusal if it may not."""
        return self.occupy(demand, addresses, self._check(demand, addresses).name)

    def occupy(self, demand: Demand, addresses: Sequence[Address], pool: str = "") -> Holding:
        """The same for what is so already, whether it may be or not."""
        self.release(demand.key)
        holding = Holding(tuple(addresses), pool, demand)
        self.held[demand.key] = holding
        for address in addresses:
            self._users.setdefault(address, set()).add(demand.key)
        return holding

    def release(self, key: str) -> bool:
        """A Service has nothing any more. Whether it had."""
        holding = self.held.pop(key, None)
        if holding is None:
            return False
        for address in holding.addresses:
            users = self._users[address]
            users.discard(key)
            if not users:
                del self._users[address]
        for range_, lowest in self._lowest.items():
            for address in holding.addresses:
                if address in range_:
                    self._lowest[range_] = min(lowest, int(address))
        return True

    def choose(self, demand: Demand) -> Holding:
        """Give a Service the address that it asks for, or a free one. Raises Refusal."""
        if demand.requested:
            return self.hold(demand, demand.requested)
        best: tuple[Address, ...] = ()
        for pool in self._eligible(demand):
            found = [self._free(pool, version, demand) for version in demand.families]
            addresses = tuple(address for address in found if address is not None)
            if len(addresses) == len(demand.families):
                return self.hold(demand, addresses)
            if addresses and (not best or addresses[0].version == demand.families[0]):
                best = best if best and best[0].version == demand.families[0] else addresses
        if best and not demand.needs_all:
            return self.hold(demand, best)
        raise Refusal("no available IPs")

    def _check(self, demand: Demand, addresses: Sequence[Address]) -> Pool:
        """The addresses' pool. Raises Refusal if the Service may not have them."""
        shown = "[" + " ".join(f'"{address}"' for address in addresses) + "]"
        if not demand.fits(addresses):
            raise Refusal(f"{shown} does not match the ipFamily of the service")
        if demand.requested and set(demand.requested) != set(addresses):
            raise Refusal(f"{shown} is not what the service requests")
        pool = self.pool_of(addresses)
        if pool is None:
            raise Refusal(f"{shown} is not allowed in config")
        if demand.pool and demand.pool != pool.name:
            raise Refusal(f"{shown} is not compatible with requested address pool {demand.pool}")
        if not pool.takes(demand):
            raise Refusal(f"pool {pool.name} not compatible for ip assignment")
        for address in addresses:
            self._check_sharing(demand, address)
        return pool

    def _check_sharing(self, demand: Demand, address: Address) -> None:
        for key in sorted(self._users.get(address, set()) - {demand.key}):
            other = self.held[key].demand
            if not demand.sharing or demand.sharing != other.sharing:
                raise Refusal(
                    f'can\'t change sharing key for "{demand.key}", address also in use by {key}'
                )
            if demand.backend != other.backend:
                raise Refusal(f'"{demand.key}" and {key} do not go to the same nodes')
            if clash := sorted(demand.ports & other.ports):
                protocol, port = clash[0]
                raise Refusal(f'port {protocol}/{port} is already in use on "{address}"')

    def _eligible(self, demand: Demand) -> Iterator[Pool]:
        """Pools to look at, the most special first."""
        if demand.pool:
            named = [pool for pool in self.pools if pool.name == demand.pool]
            if not named:
                raise Refusal(f'unknown pool "{demand.pool}"')
            if not named[0].takes(demand):
                raise Refusal(f"pool {demand.pool} not compatible for ip assignment")
            yield named[0]
            return
        automatic = [pool for pool in self.pools if pool.auto_assign]
        pinned = [
            (pool.allocation.priority or 1 << 32, pool.name, pool)
            for pool in automatic
            if pool.allocation is not None and pool.takes(demand)
        ]
        yield from (pool for _, _, pool in sorted(pinned, key=lambda each: each[:2]))
        yield from (pool for pool in automatic if pool.allocation is None)

    def _free(self, pool: Pool, version: int, demand: Demand) -> Address | None:
        """An address that others share with it, else the first one that nobody has."""
        if demand.sharing:
            for address in sorted(self._users, key=lambda each: (each.version, int(each))):
                if address.version == version and address in pool:
                    try:
                        self._check_sharing(demand, address)
                    except Refusal:
                        continue
                    return address
        for range_ in pool.ranges:
            if range_.first.version != version:
                continue
            number = self._lowest.get(range_, int(range_.first))
            make = type(range_.first)
            while number <= int(range_.last):
                address = make(number)
                if address not in self._users and not pool.avoids(address):
                    self._lowest[range_] = number
                    return address
                number += 1
            self._lowest[range_] = number
        return None


@dataclass(frozen=True, slots=True)
class Event:
    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of a Service. Neither given nor cleared: it stays as it is."""

    given: Holding | None = None
    clears: bool = False
    """It has nothing from here any more: no finalizer, no place in the books."""
    clears_status: bool = False
    """And its status is ours to empty."""
    frees: bool = False
    """It may be deleted for good."""
    is_pending: bool = False
    """It is to be looked at again when somebody gives an address back."""
    events: tuple[Event, ...] = ()


def decide(
    books: Books, service: Service, namespace_labels: Mapping[str, str] | None = None
) -> Decision:
    """What to do about a Service. What it is given is in the books when this returns; what is to
    be taken from it stays there until that is done."""
    if service.metadata.deletionTimestamp:
        return Decision(frees=FINALIZER in service.metadata.finalizers)
    ours = is_ours(service)
    if not is_wanted(service) or not books.pools:
        return Decision(clears=True, clears_status=ours)
    current = addresses_of(service)
    if not ours and service.status.loadBalancer.ingress and not books.pool_of(current):
        # From elsewhere: another provider, or somebody's own hand.
        return Decision(clears=True)
    try:
        demand = demand_of(service, namespace_labels)
    except Refusal as refusal:
        text = f"invalid requested loadBalancer IPs: {refusal}"
        event = Event("Warning", "LoadBalancerFailed", text)
        return Decision(clears=True, clears_status=ours, events=(event,))
    if current:
        return _keep(books, demand, current)
    # What is in the books and not in the status was decided, and its writing failed or is to come.
    known = books.held.get(demand.key)
    if known is not None:
        try:
            given = books.hold(demand, known.addresses)
            return Decision(given=given, events=(_assigned(given.addresses),))
        except Refusal:
            books.release(demand.key)
    try:
        given = books.choose(demand)
    except Refusal as refusal:
        text = f'Failed to allocate IP for "{demand.key}": {refusal}'
        event = Event("Warning", "AllocationFailed", text)
        return Decision(is_pending=True, events=(event,))
    return Decision(given=given, events=(_assigned(given.addresses),))


def _assigned(addresses: Iterable[Address]) -> Event:
    shown = " ".join(f'"{address}"' for address in addresses)
    return Event("Normal", "IPAllocated", f"Assigned IP [{shown}]")


def _keep(books: Books, demand: Demand, current: tuple[Address, ...]) -> Decision:
    """Leave a Service what it has, unless that is not allowed any more."""
    try:
        holding = books.hold(demand, current)
    except Refusal as refusal:
        text = (
            f'current IP for "{demand.key}" not allowed by config, will attempt for new IP '
            f"assignment: {refusal}"
        )
        event = Event("Normal", "ClearAssignment", text)
        return Decision(clears=True, clears_status=True, events=(event,))
    if len(current) < len(demand.families) and not demand.requested:
        more = _other_family(books, demand, holding)
        if more is not None:
            return Decision(given=more, events=(_assigned(more.addresses[-1:]),))
        return Decision(given=holding, is_pending=True)
    return Decision(given=holding)


def _other_family(books: Books, demand: Demand, holding: Holding) -> Holding | None:
    """An address of the family that a Service which prefers both still lacks, of the same pool."""
    (missing,) = set(demand.families) - {address.version for address in holding.addresses}
    pool = next(pool for pool in books.pools if pool.name == holding.pool)
    address = books._free(pool, missing, demand)
    return None if address is None else books.hold(demand, (*holding.addresses, address))


def adopt(
    books: Books, services: Iterable[Service], labels: Mapping[str, Mapping[str, str]]
) -> None:
    """Note what Services show, before anything is given. Whether they may keep it is asked when
    their turn comes; until it is taken from them, nobody else gets it."""
    for service in services:
        key = f"{service.metadata.namespace}/{service.metadata.name}"
        current = addresses_of(service)
        shows = is_ours(service) or (is_wanted(service) and books.pool_of(current) is not None)
        if not current or not shows or key in books.held:
            continue
        try:
            demand = demand_of(service, labels.get(service.metadata.namespace))
        except Refusal:
            demand = Demand(key)
        books.occupy(demand, current)


class _AllocationConfig(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    priority: int = 0
    namespaces: list[str] = []
    namespace_selectors: list[SelectorObject] = []
    service_selectors: list[SelectorObject] = []


class _PoolConfig(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """The keys of MetalLB's ConfigMap; those of its custom resources are taken as well."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    addresses: Annotated[list[str], msgspec.Meta(min_length=1)]
    protocol: Literal["layer2"] = "layer2"
    auto_assign: bool = True
    avoid_buggy_ips: bool = False
    service_allocation: _AllocationConfig | None = None


class _Config(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    address_pools: list[_PoolConfig] = []


def parse_pools(text: str) -> tuple[Pool, ...]:
    """The pools of a configuration (docs/network.md). Raises ValueError."""
    import yaml

    try:
        config = msgspec.convert(_kebab(yaml.safe_load(text) or {}), _Config)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ValueError(str(error)) from None
    pools = [_pool(entry) for entry in config.address_pools]
    ranges: list[tuple[str, Range]] = []
    for pool in pools:
        for range_ in pool.ranges:
            for name, other in ranges:
                if range_.first in other or other.first in range_:
                    raise ValueError(f"pool {pool.name} overlaps with pool {name}: {range_.first}")
            ranges.append((pool.name, range_))
    if len({pool.name for pool in pools}) < len(pools):
        raise ValueError("two pools have one name")
    return tuple(pools)


def _kebab(value: Any) -> Any:
    """The same with keys in kebab case, but for what is inside of selectors."""
    if isinstance(value, list):
        return [_kebab(each) for each in value]
    if not isinstance(value, dict):
        return value
    renamed = {re.sub("(?<=[a-z])(?=[A-Z])", "-", str(k)).lower(): v for k, v in value.items()}
    return {k: v if k.endswith("-selectors") else _kebab(v) for k, v in renamed.items()}


def _pool(config: _PoolConfig) -> Pool:
    try:
        return Pool(
            config.name,
            tuple(parse_range(text) for text in config.addresses),
            config.auto_assign,
            config.avoid_buggy_ips,
            None if config.service_allocation is None else _allocation(config.service_allocation),
        )
    except ValueError as error:
        raise ValueError(f"pool {config.name}: {error}") from None


def _allocation(config: _AllocationConfig) -> Allocation:
    return Allocation(
        config.priority,
        tuple(config.namespaces),
        tuple(label_selector_from_object(each) for each in config.namespace_selectors),
        tuple(label_selector_from_object(each) for each in config.service_selectors),
    )
