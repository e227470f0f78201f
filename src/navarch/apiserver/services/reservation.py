"""What a write of a Service reserves: families, cluster addresses, node ports.

The registry calls `reserve` once the object is valid, so that nothing is allocated for a write that
is refused anyway; what it returns is called with the outcome, and gives back what the write did not
keep or no longer needs. Records are written before the Service that they are for and removed after
it, so that whenever a server dies some record may be too many, which the repair finds, but never
one too few.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

from navarch.api.errors import ApiError, internal_error, invalid, invalid_object
from navarch.api.validation.service import validate_addresses_update
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.registry.reservation import Settle
from navarch.apiserver.services.addresses import AddressAllocator, AddressError, RangeFull
from navarch.apiserver.services.families import init_families, is_headless, is_unchanged_preference
from navarch.apiserver.services.holdings import (
    canonical,
    cluster_addresses,
    key_of,
    needs_health_check,
    needs_node_ports,
    node_ports,
)
from navarch.apiserver.services.ports import PortAllocator, PortError
from navarch.store.contract import CasFailed, StoreError

Object = dict[str, Any]

log = logging.getLogger(__name__)

HEALTH_CHECK = "spec.healthCheckNodePort"


@dataclass(slots=True)
class Taken:
    """What was taken for a write: names and numbers with the revisions of their records."""

    addresses: dict[str, int] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class PortWish:
    """A node port that a write needs. Without a number any will do."""

    path: str
    number: int
    targets: list[Object]
    """The Service's ports that get it."""


def wishes_of(spec: Object, old: Object | None) -> list[PortWish]:
    """The node ports to take for a write; `old` is the whole Service before it."""
    wishes: list[PortWish] = []
    if needs_node_ports(spec):
        if old is None:
            _new_ports(wishes, spec)
        else:
            _more_ports(wishes, spec, node_ports(old))
    if needs_health_check(spec) and not needs_health_check((old or {}).get("spec") or {}):
        wishes.append(PortWish(HEALTH_CHECK, spec.get("healthCheckNodePort") or 0, []))
    return wishes


def _gets_all(spec: Object) -> bool:
    return bool(
        spec.get("type") == "NodePort" or spec.get("allocateLoadBalancerNodePorts") is not False
    )


def _new_ports(wishes: list[PortWish], spec: Object) -> None:
    """In a new Service the same port over TCP and UDP shares one number."""
    ports = spec.get("ports") or ()
    by_port: dict[int, PortWish] = {}
    for index, port in enumerate(ports):
        number, plain = port.get("nodePort") or 0, port.get("port") or 0
        if not number and not _gets_all(spec):
            continue
        path = f"spec.ports[{index}].nodePort"
        shared = by_port.get(plain)
        if shared is None:
            alike = (each.get("nodePort") or 0 for each in ports if each.get("port") == plain)
            wish = PortWish(path, next(filter(None, alike), 0), [port])
            by_port[plain] = wish
            wishes.append(wish)
        elif not number:
            shared.targets.append(port)
        elif number != shared.number:
            wishes.append(PortWish(path, number, [port]))


def _more_ports(wishes: list[PortWish], spec: Object, held: set[int]) -> None:
    asked: set[int] = set()
    for index, port in enumerate(spec.get("ports") or ()):
        number = port.get("nodePort") or 0
        if number in held or number in asked or not (number or _gets_all(spec)):
            continue
        if number:
            asked.add(number)
        wishes.append(PortWish(f"spec.ports[{index}].nodePort", number, [port]))


class ServiceAllocator:
    """The reservations of all Services."""

    def __init__(
        self, registry: Registry, addresses: AddressAllocator, ports: PortAllocator
    ) -> None:
        self._registry = registry
        self.addresses = addresses
        self.ports = ports

    async def reserve(
        self, obj: Object, old: Object | None, context: WriteContext
    ) -> Settle | None:
        spec = obj.get("spec") or {}
        if spec.get("type") == "ExternalName":
            # It was checked, but says nothing.
            spec.pop("internalTrafficPolicy", None)
        before = old.get("spec") or {} if old is not None else None
        if spec == before:
            return None
        errors = init_families(spec, before, self.addresses.families)
        if not errors and before is not None:
            errors = validate_addresses_update(spec, before)
        if errors:
            raise invalid_object("Service", "", obj["metadata"].get("name", ""), errors)
        taken = Taken()
        try:
            wishes = wishes_of(spec, old)
            for wish in wishes:
                # What is known to be refused takes nothing, be it for a moment.
                self._check_port(obj, wish, context.dry_run)
            steps = [self._take_addresses(obj, before, taken, context.dry_run)]
            if wishes:
                steps.append(self._take_ports(obj, wishes, taken, context.dry_run))
            await _all(*steps)
        except BaseException:
            await self._give_back(obj, taken)
            raise
        if context.dry_run:
            return None

        async def settle(is_kept: bool | None) -> None:
            if is_kept and old is not None:
                revision = int(obj["metadata"]["resourceVersion"])
                addresses = set(cluster_addresses(old)) - set(cluster_addresses(obj))
                await self._release(obj, addresses, node_ports(old) - node_ports(obj), revision)
            elif is_kept is False:
                await self._give_back(obj, taken)
            elif is_kept is None:
                self.addresses.doubt(taken.addresses)

        return settle

    # ---- taking

    async def _take_addresses(
        self, obj: Object, before: Object | None, taken: Taken, dry_run: bool
    ) -> None:
        spec = obj["spec"]
        if spec.get("type") == "ExternalName" or is_headless(spec):
            return
        if is_unchanged_preference(spec, before):
            return
        families = spec["ipFamilies"]
        wanted = list(spec.get("clusterIPs") or ())
        wanted += [""] * (len(families) - len(wanted))
        held = set(cluster_addresses({"spec": before}))
        for index, family in enumerate(families):
            text = wanted[index]
            if text and canonical(text) in held:
                continue
            try:
                if text:
                    name, revision = await self.addresses.take(text, obj, dry_run)
                else:
                    name, revision = await self.addresses.take_any(family, obj, dry_run)
            except AddressError as error:
                raise _refusal(obj, wanted, text, error) from None
            if not dry_run:
                taken.addresses[name] = revision
            wanted[index] = text or name
        spec["clusterIP"], spec["clusterIPs"] = wanted[0], wanted

    async def _take_ports(
        self, obj: Object, wishes: list[PortWish], taken: Taken, dry_run: bool
    ) -> None:
        # Numbers that were chosen first: any other must not be in their way.
        for has_number in (True, False):
            chosen = [each for each in wishes if bool(each.number) is has_number]
            await _all(*(self._take_port(obj, each, taken, dry_run) for each in chosen))
        for wish in wishes:
            for port in wish.targets:
                port["nodePort"] = wish.number
            if wish.path == HEALTH_CHECK:
                obj["spec"]["healthCheckNodePort"] = wish.number

    async def _take_port(self, obj: Object, wish: PortWish, taken: Taken, dry_run: bool) -> None:
        key = key_of(obj)
        try:
            if wish.number:
                number, revision = await self.ports.take(wish.number, key, dry_run)
            else:
                number, revision = await self.ports.take_any(key, dry_run)
        except PortError as error:
            raise _port_refusal(obj, wish, error) from None
        except StoreError as error:
            raise internal_error("the store has failed") from error
        wish.number = number
        if not dry_run:
            taken.ports[number] = revision

    def _check_port(self, obj: Object, wish: PortWish, dry_run: bool) -> None:
        try:
            if wish.number:
                self.ports.check(wish.number, dry_run)
        except PortError as error:
            raise _port_refusal(obj, wish, error) from None

    # ---- giving back

    async def _give_back(self, obj: Object, taken: Taken) -> None:
        """Undo what was taken for a write that did not come about."""
        self.addresses.doubt(taken.addresses)
        key = key_of(obj)
        await _quietly(
            *(self.addresses.release(each, key, at + 1) for each, at in taken.addresses.items()),
            *(self.ports.release(each, at + 1) for each, at in taken.ports.items()),
        )

    async def _release(
        self, service: Object, addresses: set[str], ports: set[int], before: int
    ) -> None:
        key = key_of(service)
        await _quietly(
            *(self.addresses.release(each, key, before) for each in addresses),
            *(self.ports.release(each, before) for each in ports),
        )

    async def removed(self, entry: Entry, revision: int) -> None:
        """A Service is gone: before its deletion is acknowledged, give back what it held. Its
        Endpoints go with it, so that a new Service of the name does not start with them."""
        service = self._registry.catalog.get("", "v1", "services")
        obj = entry.decode(service.stored_kind)
        await self._release(obj, set(cluster_addresses(obj)), node_ports(obj), revision)
        endpoints = self._registry.catalog.get("", "v1", "endpoints")
        left = endpoints.cache.get(entry.namespace, entry.name)
        if left is not None and left.create_revision < revision:
            try:
                await self._registry.remove(endpoints, left)
            except (CasFailed, ApiError):
                return  # Their controller removes them as well.


async def _all(*steps: Awaitable[None]) -> None:
    """Run steps side by side until all have ended; the first failure is raised then."""
    if len(steps) == 1:
        await steps[0]
        return
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _quietly(*steps: Awaitable[None]) -> None:
    """Run steps that clean up after a write. What fails is left to the repair."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, Exception):
            log.error("an address or node port could not be released", exc_info=result)


def _refusal(obj: Object, wanted: Sequence[str], text: str, error: AddressError) -> ApiError:
    name = obj["metadata"].get("name", "")
    if isinstance(error, RangeFull):
        return internal_error(f'failed to allocate a serviceIP for Service "{name}": {error}')
    detail = f"failed to allocate IP {text}: {error}"
    return invalid_object("Service", "", name, [invalid("spec.clusterIPs", wanted, detail)])


def _port_refusal(obj: Object, wish: PortWish, error: PortError) -> ApiError:
    asked = wish.number
    if wish.path == HEALTH_CHECK:
        which = f"requested HealthCheck NodePort {asked}" if asked else "a HealthCheck NodePort 0"
        return internal_error(f"failed to allocate {which}: {error}")
    if not asked:
        return internal_error(f"failed to allocate a nodePort: {error}")
    name = obj["metadata"].get("name", "")
    return invalid_object("Service", "", name, [invalid(wish.path, asked, str(error))])
