"""What a write of a Service reserves: families, a cluster address, node ports.

The registry calls `reserve` once the object is valid, so that nothing is allocated for a write that
is refused anyway; what it returns is called with the outcome, and gives back what the write did not
keep or no longer needs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any

from navarch.api.errors import FieldError, internal_error, invalid, invalid_object
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.registry import Settle
from navarch.apiserver.services.addresses import AddressAllocator, AddressError
from navarch.apiserver.services.ports import PortAllocator, PortError, node_ports

Object = dict[str, Any]

log = logging.getLogger(__name__)


def cluster_addresses(service: Object | None) -> list[str]:
    """The addresses a Service holds."""
    spec = (service or {}).get("spec") or {}
    if spec.get("type") == "ExternalName":
        return []
    return [each for each in spec.get("clusterIPs") or () if each and each != "None"]


def is_headless(spec: Object) -> bool:
    return spec.get("clusterIP") == "None"


class ServiceAllocator:
    """The reservations of all Services."""

    def __init__(self, addresses: AddressAllocator, ports: PortAllocator) -> None:
        self.addresses = addresses
        self.ports = ports
        self._releases: set[asyncio.Task[None]] = set()

    async def reserve(
        self, obj: Object, old: Object | None, context: WriteContext
    ) -> Settle | None:
        spec = obj.get("spec") or {}
        if old is not None and spec == old.get("spec"):
            return None
        errors = set_families(spec, old, self.addresses.family)
        if errors:
            raise invalid_object("Service", "", obj["metadata"].get("name", ""), errors)
        taken: list[str] = []
        numbers: set[int] = set()
        try:
            # Ports first: they are kept in memory, an address is written down.
            self._reserve_ports(obj, old, numbers)
            await self._reserve_addresses(obj, old, taken, context.dry_run)
        except BaseException:
            await self._give_back(taken, numbers, context.dry_run)
            raise
        dropped = set(cluster_addresses(old)) - set(cluster_addresses(obj))

        async def settle(is_kept: bool) -> None:
            await self._give_back([] if is_kept else taken, numbers, context.dry_run)
            if is_kept:
                for address in dropped:
                    await self.addresses.release(address)

        return settle

    async def _give_back(self, taken: list[str], numbers: set[int], dry_run: bool) -> None:
        self.ports.settle(numbers)
        if not dry_run:
            for address in taken:
                await self.addresses.release(address)

    async def _reserve_addresses(
        self, obj: Object, old: Object | None, taken: list[str], dry_run: bool
    ) -> None:
        spec = obj["spec"]
        if spec.get("type") == "ExternalName" or is_headless(spec):
            return
        held = set(cluster_addresses(old))
        wanted = [each for each in spec.get("clusterIPs") or () if each]
        try:
            if not wanted:
                address = await self.addresses.take_any(obj, dry_run)
                taken.append(address)
                spec["clusterIP"], spec["clusterIPs"] = address, [address]
                return
            for address in wanted:
                if address not in held:
                    await self.addresses.take(address, obj, dry_run)
                    taken.append(address)
        except AddressError as error:
            name = obj["metadata"].get("name", "")
            if not wanted:
                raise internal_error(
                    f'failed to allocate a serviceIP for Service "{name}": {error}'
                ) from None
            text = f"failed to allocate IP {', '.join(wanted)}: {error}"
            raise invalid_object(
                "Service", "", name, [invalid("spec.clusterIPs", wanted, text)]
            ) from None

    def _reserve_ports(self, obj: Object, old: Object | None, numbers: set[int]) -> None:
        spec = obj["spec"]
        kind = spec.get("type")
        if kind not in ("NodePort", "LoadBalancer"):
            return
        held = node_ports(old)
        wants_all = kind == "NodePort" or spec.get("allocateLoadBalancerNodePorts") is not False
        by_port: dict[int, int] = {}
        for index, port in enumerate(spec.get("ports") or ()):
            number = port.get("nodePort") or 0
            if not number and not wants_all:
                continue
            # The same port over TCP and UDP shares one number.
            number = number or by_port.get(port.get("port"), 0)
            if not number:
                number = self._any_port(numbers)
            elif number not in held and number not in numbers:
                self._certain_port(obj, f"spec.ports[{index}].nodePort", number)
                numbers.add(number)
            port["nodePort"] = by_port[port.get("port")] = number
        if kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local":
            number = spec.get("healthCheckNodePort") or 0
            if not number:
                spec["healthCheckNodePort"] = self._any_port(numbers)
            elif number not in held and number not in numbers:
                self._certain_port(obj, "spec.healthCheckNodePort", number)
                numbers.add(number)

    def _any_port(self, numbers: set[int]) -> int:
        try:
            number = self.ports.take_any()
        except PortError as error:
            raise internal_error(f"failed to allocate a nodePort: {error}") from None
        numbers.add(number)
        return number

    def _certain_port(self, obj: Object, path: str, number: int) -> None:
        try:
            self.ports.take(number)
        except PortError as error:
            name = obj["metadata"].get("name", "")
            raise invalid_object("Service", "", name, [invalid(path, number, str(error))]) from None

    def follow(self, old: Object | None, new: Object | None) -> None:
        """A Service changed; a deleted one gives its addresses back."""
        self.ports.follow(old, new)
        if old is not None and new is None:
            addresses = cluster_addresses(old)
            if addresses:
                task = asyncio.create_task(self._release(addresses), name="release addresses")
                self._releases.add(task)
                task.add_done_callback(self._releases.discard)

    async def _release(self, addresses: list[str]) -> None:
        try:
            for address in addresses:
                await self.addresses.release(address)
        except Exception:
            # The next repair finds an address without a Service and releases it then.
            log.exception("addresses %s could not be released", addresses)

    async def close(self) -> None:
        """Wait for releases that are under way."""
        await asyncio.gather(*self._releases, return_exceptions=True)


def set_families(spec: Object, old: Object | None, default: str) -> list[FieldError]:
    """ipFamilies and ipFamilyPolicy of a cluster with one family."""
    if spec.get("type") == "ExternalName":
        return []
    before = (old or {}).get("spec") or {}
    is_free = is_headless(spec) and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        single = "RequireDualStack" if is_free else "SingleStack"
        spec["ipFamilyPolicy"] = before.get("ipFamilyPolicy") or single
    policy = spec["ipFamilyPolicy"]
    errors: list[FieldError] = []
    families = list(spec.get("ipFamilies") or ())
    for index, address in enumerate(spec.get("clusterIPs") or ()):
        if address == "None" or index < len(families):
            break
        try:
            family = f"IPv{ipaddress.ip_address(address).version}"
        except ValueError:
            return []
        if family != default:
            text = f"{family} is not configured on this cluster"
            errors.append(invalid(f"spec.clusterIPs[{index}]", spec["clusterIPs"], text))
        families.append(family)
    if errors:
        return errors
    families = families or [default]
    if is_free:
        if len(families) < 2 and policy != "SingleStack":
            families.append("IPv6" if families[0] == "IPv4" else "IPv4")
    else:
        if policy == "RequireDualStack":
            text = "this cluster is not configured for dual-stack services"
            errors.append(invalid("spec.ipFamilyPolicy", policy, text))
        errors += [
            invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
            for index, family in enumerate(families)
            if family != default
        ]
    spec["ipFamilies"] = families
    return errors
