"""Endpoints and EndpointSlices: where the traffic of a service goes."""

from __future__ import annotations

from typing import Any

from navarch.api.errors import duplicate, invalid, required, too_many
from navarch.api.validation.common import (
    PROTOCOLS,
    Errors,
    Object,
    check,
    check_address,
    check_choice,
    check_endpoint_address,
    check_immutable,
    check_label_name,
    check_labels,
    check_port,
    dns1123_label,
    dns1123_subdomain,
    parse_address,
)

ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
MAX_ADDRESSES = 100
MAX_ENDPOINTS = 1000
MAX_PORTS = 20000
MAX_HINTS = 8


def validate_endpoints(obj: Object) -> Errors:
    errors: Errors = []
    for index, subset in enumerate(obj.get("subsets") or ()):
        here = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            errors.append(required(here, "must specify `addresses` or `notReadyAddresses`"))
        for field in ("addresses", "notReadyAddresses"):
            for position, address in enumerate(subset.get(field) or ()):
                _check_address(errors, f"{here}.{field}[{position}]", address)
        ports = subset.get("ports") or ()
        for position, port in enumerate(ports):
            _check_port(errors, f"{here}.ports[{position}]", port, len(ports) > 1)
    return errors


def _check_address(errors: Errors, path: str, address: Object) -> None:
    text = address.get("ip") or ""
    before = len(errors)
    check_address(errors, f"{path}.ip", text)
    if address.get("hostname"):
        check(errors, f"{path}.hostname", address["hostname"], dns1123_label(address["hostname"]))
    if address.get("nodeName") is not None:
        problems = dns1123_subdomain(address["nodeName"])
        check(errors, f"{path}.nodeName", address["nodeName"], problems)
    if len(errors) == before:
        check_endpoint_address(errors, f"{path}.ip", text)


def _check_port(errors: Errors, path: str, port: Object, needs_name: bool) -> None:
    name = port.get("name")
    if name:
        check(errors, f"{path}.name", name, dns1123_label(name))
    elif needs_name:
        errors.append(required(f"{path}.name"))
    check_port(errors, f"{path}.port", port.get("port"))
    check_choice(errors, f"{path}.protocol", port.get("protocol"), PROTOCOLS)
    if port.get("appProtocol") is not None:
        check_label_name(errors, f"{path}.appProtocol", port["appProtocol"])


def validate_slice(obj: Object) -> Errors:
    errors: Errors = []
    kind = obj.get("addressType") or ""
    check_choice(errors, "addressType", kind, ADDRESS_TYPES)
    endpoints, ports = obj.get("endpoints") or (), obj.get("ports") or ()
    if len(endpoints) > MAX_ENDPOINTS:
        errors.append(too_many("endpoints", len(endpoints), MAX_ENDPOINTS))
        return errors
    for index, endpoint in enumerate(endpoints):
        _check_endpoint(errors, f"endpoints[{index}]", endpoint, kind)
    if len(ports) > MAX_PORTS:
        errors.append(too_many("ports", len(ports), MAX_PORTS))
        return errors
    seen: set[Any] = set()
    for index, port in enumerate(ports):
        here, name = f"ports[{index}]", port.get("name")
        if name:
            check(errors, f"{here}.name", name, dns1123_label(name))
        if name in seen:
            errors.append(duplicate(f"{here}.name", name or ""))
        seen.add(name)
        check_choice(errors, f"{here}.protocol", port.get("protocol"), PROTOCOLS)
        if port.get("port") is not None:
            check_port(errors, f"{here}.port", port["port"])
        if port.get("appProtocol") is not None:
            check_label_name(errors, f"{here}.appProtocol", port["appProtocol"])
    return errors


def _check_endpoint(errors: Errors, path: str, endpoint: Object, kind: str) -> None:
    addresses = endpoint.get("addresses") or ()
    if not addresses:
        errors.append(required(f"{path}.addresses", "must contain at least 1 address"))
    elif len(addresses) > MAX_ADDRESSES:
        errors.append(too_many(f"{path}.addresses", len(addresses), MAX_ADDRESSES))
    for index, address in enumerate(addresses):
        here = f"{path}.addresses[{index}]"
        if kind == "FQDN":
            check(errors, here, address, dns1123_subdomain(address))
            continue
        parsed = parse_address(address)
        if parsed is None or f"IPv{parsed.version}" != kind:
            detail = f"must be a valid {kind} address" if kind else "must be a valid IP address"
            errors.append(invalid(here, address, detail))
        else:
            check_endpoint_address(errors, here, address)
    for field, rule in (("nodeName", dns1123_subdomain), ("hostname", dns1123_label)):
        if endpoint.get(field) is not None:
            check(errors, f"{path}.{field}", endpoint[field], rule(endpoint[field]))
    topology = endpoint.get("deprecatedTopology")
    if topology:
        check_labels(errors, f"{path}.deprecatedTopology", topology)
    hints = endpoint.get("hints") or {}
    for field in ("forZones", "forNodes"):
        items = hints.get(field) or ()
        if len(items) > MAX_HINTS:
            errors.append(too_many(f"{path}.hints.{field}", len(items), MAX_HINTS))
        seen: set[str] = set()
        for index, hint in enumerate(items):
            here, name = f"{path}.hints.{field}[{index}].name", hint.get("name") or ""
            if name in seen:
                errors.append(duplicate(here, name))
            seen.add(name)
            if field == "forZones":
                check_label_name(errors, here, name)
            else:
                check(errors, here, name, dns1123_subdomain(name))


def validate_slice_update(obj: Object, old: Object) -> Errors:
    errors = validate_slice(obj)
    check_immutable(errors, "addressType", obj.get("addressType"), old.get("addressType"))
    return errors
