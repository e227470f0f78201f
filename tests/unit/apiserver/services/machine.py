"""A little API server, of the parts that allocate alone, on a store that may be shared with others
and that can be cut off in the middle of a write, as a kill does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.patch.common import copy_json
from navarch.apiserver.contracts import AdmissionRequest
from navarch.apiserver.hub.cache import Cache
from navarch.apiserver.hub.hub import Hub
from navarch.apiserver.hub.lookup import HubLookup
from navarch.apiserver.registry.chain import Chain
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.registry.resource import Catalog
from navarch.apiserver.security import system_context
from navarch.apiserver.services.addresses import AddressAllocator, ip_address_of
from navarch.apiserver.services.holdings import Holdings
from navarch.apiserver.services.kubernetes import KubernetesService
from navarch.apiserver.services.ports import PortAllocator
from navarch.apiserver.services.repair import Repair
from navarch.apiserver.services.reservation import ServiceAllocator
from navarch.store.contract import Event, KeyValue, RangeResult, Store, StoreClosed

Object = dict[str, Any]

REFUSED = "tests/refuse"


@dataclass
class Clock:
    """The time of all servers."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(eq=False)
class Line:
    """A server's way to the store. Once it is cut nothing gets through any more; the write at which
    that happens is lost (`after` False), or done and its answer lost."""

    store: Store
    writes_left: int = -1
    """Before the line breaks; negative: it holds."""
    after: bool = False
    is_cut: bool = False

    def _count(self) -> bool:
        """Whether this write is the last."""
        if self.is_cut:
            raise StoreClosed("cut off")
        if self.writes_left < 0:
            return False
        self.writes_left -= 1
        self.is_cut = self.writes_left < 0
        if self.is_cut and not self.after:
            raise StoreClosed("cut off")
        return self.is_cut

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int:
        is_last = self._count()
        revision = await self.store.put(key, value, expected=expected)
        if is_last:
            raise StoreClosed("cut off")
        return revision

    async def delete(self, key: str, *, expected: int | None = None) -> int:
        is_last = self._count()
        revision = await self.store.delete(key, expected=expected)
        if is_last:
            raise StoreClosed("cut off")
        return revision

    async def get(self, key: str, *, at_revision: int = 0) -> KeyValue | None:
        return await self.store.get(key, at_revision=at_revision)

    async def range(
        self, prefix: str, *, limit: int = 0, start: str = "", at_revision: int = 0
    ) -> RangeResult:
        return await self.store.range(prefix, limit=limit, start=start, at_revision=at_revision)

    def watch(self, prefix: str, *, after_revision: int) -> AsyncIterator[Sequence[Event]]:
        return self.store.watch(prefix, after_revision=after_revision)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class Refusing:
    """Admission that refuses after everything was reserved, as a webhook may."""

    name = "Refusing"
    admits = False

    def handles(self, request: AdmissionRequest) -> bool:
        return bool(request.obj)

    async def admit(self, request: AdmissionRequest) -> None:
        return

    async def validate(self, request: AdmissionRequest) -> None:
        assert request.obj is not None
        if REFUSED in (request.obj["metadata"].get("annotations") or {}):
            raise ApiError(403, "Forbidden", "refused")


@dataclass(eq=False)
class Machine:
    """One API server."""

    store: Store
    clock: Clock
    ranges: str
    limits: tuple[int, int]
    seed: int = 0
    address: str = "127.0.0.1"
    line: Line = field(init=False)

    async def start(self) -> None:
        self.line = Line(self.store)
        line: Any = self.line
        self.hub = Hub(line)
        catalog = Catalog(self.hub)
        catalog.add_built_in()
        self.registry = registry = Registry(line, self.hub, catalog)
        registry.now = lambda: self.clock.now
        registry.chain = Chain([Refusing()])
        chance: Any = Random(self.seed)
        registry.chooser = chance
        self.services = catalog.get("", "v1", "services")
        self.addresses = catalog.get("networking.k8s.io", "v1", "ipaddresses")
        self.cidrs = catalog.get("networking.k8s.io", "v1", "servicecidrs")
        self.events = catalog.get("events.k8s.io", "v1", "events")
        await self.hub.start()
        self.lookup = HubLookup(self.hub, self._cache_of)
        holdings = Holdings()
        addresses = AddressAllocator(registry, self.lookup, self.ranges.split(","), holdings)
        self.ports = PortAllocator(line, self.limits, holdings, chance, registry.timestamp)
        allocator = ServiceAllocator(registry, addresses, self.ports)
        self.lookup.subscribe("services", holdings.follow)
        registry.hooks["services"] = allocator.reserve
        registry.removed["services"] = allocator.removed
        self.own = KubernetesService(registry, self.lookup, addresses, (self.address, 6443))
        await self.own.repair()
        self.repair = Repair(registry, self.lookup, addresses, self.ports, holdings)
        await self.repair.turn()

    def _cache_of(self, name: str) -> Cache | None:
        resource = self.registry.catalog.by_name(name)
        return resource.cache if resource is not None else None

    async def stop(self) -> None:
        await self.hub.stop()

    async def catch_up(self) -> None:
        """See what other servers have written."""
        await self.hub.wait_for(await self.store.revision())

    # ---- what clients do

    async def create(self, obj: Object, *, dry_run: bool = False) -> Object:
        context = system_context(self.services, obj, "create")
        return (await self.registry.create(self.services, obj, _of(context, dry_run))).obj

    async def update(self, name: str, spec: Object, *, refused: bool = False) -> Object:
        def change(old: Object) -> Object:
            kept = {key: value for key, value in old["spec"].items() if key not in DROPPED}
            changed = {**old, "spec": {**kept, **copy_json(spec)}}
            if refused:
                changed["metadata"] = {**old["metadata"], "annotations": {REFUSED: "yes"}}
            return changed

        context = system_context(self.services, {"metadata": {"name": name}}, "update")
        key = ("default", name)
        return (await self.registry.update(self.services, key, change, context)).obj

    async def delete(self, name: str) -> None:
        entry = self.registry.get(self.services, "default", name)
        await self.registry.remove(self.services, entry)

    async def forget(self, address: str) -> None:
        """Delete an IPAddress, as anybody may who is allowed to."""
        await self.registry.remove(self.addresses, self.registry.get(self.addresses, "", address))

    async def write_record(self, address: str, owner: Object) -> None:
        """Make an IPAddress by hand, as the allocator makes it."""
        obj = ip_address_of(address, owner)
        context = system_context(self.addresses, obj, "create")
        await self.registry.create(self.addresses, obj, context)

    async def add_range(self, name: str, *ranges: str) -> None:
        obj: Object = {"metadata": {"name": name}, "spec": {"cidrs": list(ranges)}}
        obj |= {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR"}
        context = system_context(self.cidrs, obj, "create")
        await self.registry.create(self.cidrs, obj, context)

    async def remove_range(self, name: str) -> None:
        await self.registry.remove(self.cidrs, self.registry.get(self.cidrs, "", name))

    # ---- what there is

    def stored(self) -> dict[str, Object]:
        """The Services by name."""
        return {each["metadata"]["name"]: each for each in self.lookup.list("services")}

    def records(self) -> dict[str, Object]:
        """The IPAddresses by name."""
        found = self.lookup.list("ipaddresses.networking.k8s.io")
        return {each["metadata"]["name"]: each for each in found}

    def reasons(self) -> list[str]:
        """Of all events, in their order."""
        found = sorted(self.lookup.list("events"), key=lambda each: each["metadata"]["name"])
        return [each["reason"] for each in found]


DROPPED = ("type", "ipFamilyPolicy", "ipFamilies", "externalName", "externalTrafficPolicy")


def _of(context: WriteContext, dry_run: bool) -> WriteContext:
    return WriteContext(context.info, dry_run=dry_run)


def service(name: str, *, refused: bool = False, **spec: Any) -> Object:
    metadata: Object = {"name": name, "namespace": "default"}
    if refused:
        metadata["annotations"] = {REFUSED: "yes"}
    ports: list[Object] = [{"port": 80, "name": "a"}]
    wanted = {"ports": ports, "selector": {"a": "b"}, **copy_json(spec)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": wanted}
