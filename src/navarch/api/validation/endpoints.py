"""Endpoints and EndpointSlices: where the traffic of a service goes."""

from __future__ import annotations

from typing import Any

from navarch.api.validation.addresses import address_problem, address_warnings, canonical_problem
from navarch.api.validation.common import (
    PROTOCOLS,
    Object,
    dns1123_label,
    dns1123_subdomain,
    label_value,
    qualified_name,
)
from navarch.api.validation.fields import Field

ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
MAX_ADDRESSES = 100
MAX_ENDPOINTS = 1000
MAX_PORTS = 20000
MAX_HINTS = 8


def validate_endpoints(obj: Field) -> None:
    for subset in obj["subsets"]:
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            subset.required("must specify `addresses` or `notReadyAddresses`")
        for addresses in subset.each("addresses", "notReadyAddresses"):
            for address in addresses:
                _check_address(address)
        for port in subset["ports"]:
            name = port["name"]
            name.check_unless_empty(dns1123_label)
            if not name and len(subset["ports"]) > 1:
                name.required()
            port["port"].port()
            port["protocol"].choice(PROTOCOLS)
            port["appProtocol"].check_if_set(qualified_name)


def validate_endpoints_update(obj: Field, old: Field) -> None:
    if obj.get("subsets") != old.get("subsets"):  # else they were right once
        validate_endpoints(obj)


def _check_address(address: Field) -> None:
    ip = address.text("ip")
    ip.address()
    address["hostname"].check_unless_empty(dns1123_label)
    address["nodeName"].check_if_set(dns1123_subdomain)
    ip.endpoint_address()


def validate_slice(obj: Field) -> None:
    kind, endpoints, ports = obj.text("addressType"), obj["endpoints"], obj["ports"]
    kind.choice(ADDRESS_TYPES)
    endpoints.at_most(MAX_ENDPOINTS)
    if len(endpoints) > MAX_ENDPOINTS:
        return
    for endpoint in endpoints:
        _check_endpoint(endpoint, kind.value)
    ports.at_most(MAX_PORTS)
    if len(ports) > MAX_PORTS:
        return
    seen: set[Any] = set()
    for port in ports:
        name = port.text("name")
        name.check_unless_empty(dns1123_label)
        if port.get("name") in seen:
            name.duplicate()
        seen.add(port.get("name"))
        port.text("protocol").optional_choice(PROTOCOLS)
        port["appProtocol"].check_if_set(qualified_name)


def _check_endpoint(endpoint: Field, kind: str) -> None:
    addresses = endpoint["addresses"]
    addresses.present("must contain at least 1 address")
    addresses.at_most(MAX_ADDRESSES)
    for address in addresses if kind in ADDRESS_TYPES else ():
        if kind == "FQDN":
            address.check(dns1123_subdomain)
        else:
            _check_ip(address, addresses, kind)
    endpoint["nodeName"].check_if_set(dns1123_subdomain)
    endpoint["hostname"].check_if_set(dns1123_label)
    endpoint["deprecatedTopology"].labels()
    if endpoint.get("hints"):
        _check_hints(endpoint["hints"])


def _check_ip(address: Field, addresses: Field, kind: str) -> None:
    """IPv4 addresses are taken in their older forms too, IPv6 ones in one form alone."""
    text = address.value
    problem = canonical_problem(text) if kind == "IPv6" else address_problem(text)
    if problem:
        address.invalid(problem)
        return
    if (":" in text) is (kind == "IPv4"):
        addresses.showing(text).invalid(f"must be an {kind} address")
    address.endpoint_address()


def _check_hints(hints: Field) -> None:
    for field, rule in (("forZones", label_value), ("forNodes", dns1123_subdomain)):
        hints[field].at_most(MAX_HINTS)
        if len(hints[field]) > MAX_HINTS:
            return
        seen: set[str] = set()
        for hint in hints[field]:
            name = hint.text("name")
            name.once(seen)
            name.check(rule)


def validate_slice_update(obj: Field, old: Field) -> None:
    validate_slice(obj)
    if obj.errors and obj.get("endpoints") == old.get("endpoints"):
        # They were right once.
        obj.errors[:] = [each for each in obj.errors if not each.field.startswith("endpoints")]
    obj.keeps(old, "addressType")


def slice_warnings(obj: Object, old: Object | None) -> list[str]:
    kind = obj.get("addressType")
    if kind == "FQDN":
        return ["spec.addressType: FQDN endpoints are deprecated"] if old is None else []
    return [
        told
        for endpoint in Field(obj)["endpoints"]
        for address in endpoint["addresses"]
        for told in address_warnings(address.path, address.value)
    ]


def endpoints_warnings(obj: Object) -> list[str]:
    return [
        told
        for subset in Field(obj)["subsets"]
        for addresses in subset.each("addresses", "notReadyAddresses")
        for address in addresses
        for told in address_warnings(address["ip"].path, address.get("ip") or "")
    ]
