"""Endpoints and EndpointSlices: where the traffic of a service goes."""

from __future__ import annotations

from typing import Any

from navarch.api.validation.addresses import address_problem, address_warnings, canonical_problem
from navarch.api.validation.common import (
    PROTOCOLS,
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    indexed,
    label_value,
)

ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
MAX_ADDRESSES = 100
MAX_ENDPOINTS = 1000
MAX_PORTS = 20000
MAX_HINTS = 8


def validate_endpoints(obj: Object) -> Errors:
    errors = Errors()
    for here, subset in indexed("subsets", obj.get("subsets")):
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            errors.required(here, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for position, address in enumerate(subset.get(field) or ()):
                _check_address(errors, f"{here}.{field}[{position}]", address)
        ports = subset.get("ports") or ()
        for position, port in enumerate(ports):
            _check_port(errors, f"{here}.ports[{position}]", port, len(ports) > 1)
    return errors


def _check_address(errors: Errors, path: str, address: Object) -> None:
    text = address.get("ip") or ""
    errors.address(f"{path}.ip", text)
    if address.get("hostname"):
        errors.check(f"{path}.hostname", address["hostname"], dns1123_label)
    if address.get("nodeName") is not None:
        errors.check(f"{path}.nodeName", address["nodeName"], dns1123_subdomain)
    errors.endpoint_address(f"{path}.ip", text)


def _check_port(errors: Errors, path: str, port: Object, needs_name: bool) -> None:
    name = port.get("name")
    if name:
        errors.check(f"{path}.name", name, dns1123_label)
    elif needs_name:
        errors.required(f"{path}.name")
    errors.port(f"{path}.port", port.get("port"))
    errors.choice(f"{path}.protocol", port.get("protocol"), PROTOCOLS)
    if port.get("appProtocol") is not None:
        errors.label_name(f"{path}.appProtocol", port["appProtocol"])


def validate_slice(errors: Errors, obj: Object) -> None:
    kind = obj.get("addressType") or ""
    errors.choice("addressType", kind, ADDRESS_TYPES)
    endpoints, ports = obj.get("endpoints") or (), obj.get("ports") or ()
    if len(endpoints) > MAX_ENDPOINTS:
        errors.too_many("endpoints", len(endpoints), MAX_ENDPOINTS)
        return
    for index, endpoint in enumerate(endpoints):
        _check_endpoint(errors, f"endpoints[{index}]", endpoint, kind)
    if len(ports) > MAX_PORTS:
        errors.too_many("ports", len(ports), MAX_PORTS)
        return
    seen: set[Any] = set()
    for here, port in indexed("ports", ports):
        name = port.get("name")
        if name:
            errors.check(f"{here}.name", name, dns1123_label)
        if name in seen:
            errors.duplicate(f"{here}.name", name or "")
        seen.add(name)
        errors.choice(f"{here}.protocol", port.get("protocol"), PROTOCOLS)
        if port.get("port") is not None:
            errors.port(f"{here}.port", port["port"])
        if port.get("appProtocol") is not None:
            errors.label_name(f"{here}.appProtocol", port["appProtocol"])


def _check_endpoint(errors: Errors, path: str, endpoint: Object, kind: str) -> None:
    addresses = endpoint.get("addresses") or ()
    if not addresses:
        errors.required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > MAX_ADDRESSES:
        errors.too_many(f"{path}.addresses", len(addresses), MAX_ADDRESSES)
    if kind == "FQDN":
        for index, address in enumerate(addresses):
            errors.check(f"{path}.addresses[{index}]", address, dns1123_subdomain)
    elif kind in ADDRESS_TYPES:
        for index, address in enumerate(addresses):
            _check_ip(errors, f"{path}.addresses", index, (address, kind))
    for field, rule in (("nodeName", dns1123_subdomain), ("hostname", dns1123_label)):
        if endpoint.get(field) is not None:
            errors.check(f"{path}.{field}", endpoint[field], rule)
    topology = endpoint.get("deprecatedTopology")
    if topology:
        errors.labels(f"{path}.deprecatedTopology", topology)
    _check_hints(errors, f"{path}.hints", endpoint.get("hints") or {})


def _check_ip(errors: Errors, path: str, index: int, value: tuple[str, str]) -> None:
    """IPv4 addresses are taken in their older forms too, IPv6 ones in one form alone."""
    address, kind = value
    here = f"{path}[{index}]"
    problem = canonical_problem(address) if kind == "IPv6" else address_problem(address)
    if problem:
        errors.invalid(here, address, problem)
        return
    if (":" in address) is (kind == "IPv4"):
        errors.invalid(path, address, f"must be an {kind} address")
    errors.endpoint_address(here, address)


def _check_hints(errors: Errors, path: str, hints: Object) -> None:
    for field, rule in (("forZones", label_value), ("forNodes", dns1123_subdomain)):
        items = hints.get(field) or ()
        if len(items) > MAX_HINTS:
            errors.too_many(f"{path}.{field}", len(items), MAX_HINTS)
            return
        seen: set[str] = set()
        for index, hint in enumerate(items):
            here, name = f"{path}.{field}[{index}].name", hint.get("name") or ""
            errors.once(seen, here, name)
            errors.check(here, name, rule)


def validate_slice_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_slice(errors, obj)
    if errors and obj.get("endpoints") == old.get("endpoints"):
        # They were right once.
        errors[:] = [each for each in errors if not each.field.startswith("endpoints")]
    errors.immutable("addressType", obj.get("addressType"), old.get("addressType"))


def slice_warnings(obj: Object, old: Object | None) -> list[str]:
    kind = obj.get("addressType")
    if kind == "FQDN":
        return ["spec.addressType: FQDN endpoints are deprecated"] if old is None else []
    return [
        told
        for index, endpoint in enumerate(obj.get("endpoints") or ())
        for place, address in enumerate(endpoint.get("addresses") or ())
        for told in address_warnings(f"endpoints[{index}].addresses[{place}]", address)
    ]


def endpoints_warnings(obj: Object) -> list[str]:
    return [
        told
        for index, subset in enumerate(obj.get("subsets") or ())
        for field in ("addresses", "notReadyAddresses")
        for place, address in enumerate(subset.get(field) or ())
        for told in address_warnings(
            f"subsets[{index}].{field}[{place}].ip", address.get("ip") or ""
        )
    ]
