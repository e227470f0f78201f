"""The Service `default/kubernetes`, by which pods reach the API server, and what belongs to it: its
Endpoints, its EndpointSlice, and the default ServiceCIDR. Made at start and kept right afterwards.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.patch.common import copy_json
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.security import system_context
from navarch.apiserver.services.addresses import CIDRS, AddressAllocator
from navarch.apiserver.services.peers import Peers
from navarch.apiserver.services.repair import parent_of

Object = dict[str, Any]

log = logging.getLogger(__name__)

NAME = "kubernetes"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"


def _metadata(labels: Object | None = None) -> Object:
    metadata: Object = {"name": NAME, "namespace": "default"}
    if labels:
        metadata["labels"] = labels
    return metadata


class KubernetesService:
    """Keeps the objects of the API server's own Service."""

    def __init__(
        self,
        registry: Registry,
        lookup: Lookup,
        addresses: AddressAllocator,
        where: tuple[str, int],
    ) -> None:
        """`where` is the address and port that the server is reached at."""
        self._registry = registry
        self._lookup = lookup
        self._addresses = addresses
        self._address, self._port = where
        self._peers = Peers(registry.store, self._address, registry.now)
        self._has_told = self._has_left = False

    async def repair(self) -> None:
        """Make what is missing and mend what differs."""
        await self._ensure_range()
        await self._ensure("services", self._service(), ("spec.ports", "spec.type"))
        if self._is_reachable and not self._has_left:
            await self._ensure_endpoints(await self._peers.addresses())

    @property
    def _is_reachable(self) -> bool:
        """A server that only this machine can reach has no endpoint to offer to pods."""
        return not ipaddress.ip_address(self._address).is_loopback

    async def _ensure_endpoints(self, servers: Sequence[str]) -> None:
        wanted = self._endpoints(servers)
        await self._ensure("endpoints", wanted, ("subsets", "metadata.labels"))
        fields = ("endpoints", "ports", "metadata.labels")
        await self._ensure("endpointslices.discovery.k8s.io", self._slice(servers), fields)

    async def leave(self) -> None:
        """The server ends: the endpoints are those of the others from now on. The last one's stays
        until it starts again, for nobody else could be meant."""
        self._has_left = True
        if self._is_reachable:
            others = await self._peers.leave()
            if others:
                await self._ensure_endpoints(others)

    # ---- the objects

    def _range(self) -> Object:
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": NAME},
            "spec": {"cidrs": [str(each) for each in self._addresses.default_ranges]},
        }

    def _service(self) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata({"component": "apiserver", "provider": NAME}),
            "spec": {
                "type": "ClusterIP",
                "clusterIP": str(self._addresses.default_ranges[0][1]),
                "ipFamilyPolicy": "SingleStack",
                "ports": [
                    {"name": "https", "protocol": "TCP", "port": 443, "targetPort": self._port}
                ],
                "sessionAffinity": "None",
            },
        }

    def _endpoints(self, servers: Sequence[str]) -> Object:
        ports = [{"name": "https", "port": self._port, "protocol": "TCP"}]
        return {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": _metadata({SKIP_MIRROR: "true"}),
            "subsets": [{"addresses": [{"ip": each} for each in servers], "ports": ports}],
        }

    def _slice(self, servers: Sequence[str]) -> Object:
        is_six = ":" in self._address
        alike = [each for each in servers if (":" in each) is is_six]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": _metadata({"kubernetes.io/service-name": NAME}),
            "addressType": "IPv6" if is_six else "IPv4",
            "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in alike],
            "ports": [{"name": "https", "port": self._port, "protocol": "TCP"}],
        }

    # ---- keeping them

    async def _ensure(self, name: str, wanted: Object, fields: tuple[str, ...]) -> None:
        """Create an object, or set the fields that must be as wanted."""
        resource = self._registry.catalog.by_name(name)
        assert resource is not None
        metadata = wanted["metadata"]
        key = metadata.get("namespace", ""), metadata["name"]
        found = self._lookup.get(name, *key)
        try:
            if found is None:
                context = system_context(resource, wanted, "create")
                await self._registry.create(resource, copy_json(wanted), context)
            elif any(_at(found, field) != _at(wanted, field) for field in fields):

                def mend(obj: Object) -> Object:
                    for field in fields:
                        _set(obj, field, copy_json(_at(wanted, field)))
                    return obj

                context = system_context(resource, wanted, "update")
                await self._registry.update(resource, key, mend, context)
        except ApiError as error:
            if error.is_already_exists or error.is_conflict or error.is_not_found:
                return
            if found is None and error.reason == "Invalid" and self._is_under_way():
                return
            raise

    def _is_under_way(self) -> bool:
        """Whether another API server makes the Service, or one died at it: its first address is
        taken, for it. Then a later turn finds the Service, or the address free again."""
        first = str(self._addresses.default_ranges[0][1])
        record = self._lookup.get("ipaddresses.networking.k8s.io", "", first)
        return parent_of(record) == ("default", NAME)

    async def _ensure_range(self) -> None:
        """The ranges in the options are the default ServiceCIDR, and once it is there it stays as
        it is, for addresses out of it are in use; only a second family can join."""
        wanted = self._range()
        found = self._lookup.get(CIDRS, "", NAME)
        if found is None:
            await self._ensure(CIDRS, wanted, ())
        else:
            now, then = wanted["spec"]["cidrs"], found["spec"]["cidrs"]
            if len(now) == 2 and now[:1] == then:
                await self._ensure(CIDRS, wanted, ("spec",))
            elif now != then:
                if not self._has_told:
                    self._has_told = True
                    log.warning(
                        "the default ServiceCIDR %s does not match the options %s", then, now
                    )
                return
        await self._set_range_ready()

    async def _set_range_ready(self) -> None:
        found = self._lookup.get(CIDRS, "", NAME)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return
        conditions = (found.get("status") or {}).get("conditions") or ()
        if any(each["type"] == "Ready" and each["status"] != "Unknown" for each in conditions):
            # Whoever said that it is not ready had his reasons.
            return
        resource = self._registry.catalog.by_name(CIDRS)
        assert resource is not None
        now = self._registry.timestamp()

        def set_ready(obj: Object) -> None:
            obj["status"] = {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "lastTransitionTime": now,
                        "reason": "",
                        "message": "Kubernetes default Service CIDR is ready",
                    }
                ]
            }

        await self._registry.modify(resource, ("", NAME), set_ready)


def _at(obj: Any, path: str) -> Any:
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, dict) else None
    return obj


def _set(obj: Object, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        obj = obj.setdefault(name, {})
    obj[last] = value
