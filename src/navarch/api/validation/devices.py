"""Dynamic resource allocation: claims, their templates, device classes and slices."""

from __future__ import annotations

from navarch.api import names
from navarch.api.errors import duplicate, forbidden_field, invalid, required, too_many
from navarch.api.validation.common import (
    Errors,
    Object,
    check,
    check_immutable,
    check_name,
    check_optional_choice,
    dns1123_label,
    dns1123_subdomain,
)
from navarch.api.validation.scheduling import check_node_selector
from navarch.api.validation.volumes import check_driver_name

MAX_REQUESTS = 32
MAX_SELECTORS = 32
MAX_DEVICES = 128
MAX_RESERVED = 256


def _check_requests(errors: Errors, path: str, spec: Object) -> None:
    devices = spec.get("devices") or {}
    requests = devices.get("requests") or ()
    if len(requests) > MAX_REQUESTS:
        errors.append(too_many(f"{path}.devices.requests", len(requests), MAX_REQUESTS))
    seen: set[str] = set()
    for index, request in enumerate(requests):
        here, name = f"{path}.devices.requests[{index}]", request.get("name") or ""
        check_name(errors, f"{here}.name", name, dns1123_label)
        if name and name in seen:
            errors.append(duplicate(here, name))
        seen.add(name)
        exactly, choices = request.get("exactly"), request.get("firstAvailable") or ()
        if "deviceClassName" in request:
            # v1beta1 has the fields of `exactly` in the request itself.
            exactly = request
        if exactly is not None and choices:
            detail = "exactly one of `exactly` or `firstAvailable` is required"
            errors.append(invalid(here, None, f"{detail}, but multiple fields are set"))
        elif exactly is None and not choices:
            detail = "exactly one of `exactly` or `firstAvailable` is required"
            errors.append(required(here, detail))
        if exactly is not None:
            _check_request(errors, f"{here}.exactly", exactly)
        inner: set[str] = set()
        for position, each in enumerate(choices):
            where, sub = f"{here}.firstAvailable[{position}]", each.get("name") or ""
            check_name(errors, f"{where}.name", sub, dns1123_label)
            if sub and sub in inner:
                errors.append(duplicate(f"{where}.name", sub))
            inner.add(sub)
            seen.add(f"{name}/{sub}")
            _check_request(errors, where, each)
    for field in ("constraints", "config"):
        for index, each in enumerate(devices.get(field) or ()):
            for position, name in enumerate(each.get("requests") or ()):
                if name not in seen:
                    here = f"{path}.devices.{field}[{index}].requests[{position}]"
                    detail = "must be the name of a request in the claim or the name of a request "
                    errors.append(invalid(here, name, f"{detail}and a subrequest separated by '/'"))


def _check_request(errors: Errors, path: str, request: Object) -> None:
    check_name(errors, f"{path}.deviceClassName", request.get("deviceClassName"), dns1123_subdomain)
    mode, count = request.get("allocationMode"), request.get("count") or 0
    check_optional_choice(errors, f"{path}.allocationMode", mode, ("All", "ExactCount"))
    if mode == "All" and count:
        detail = 'must not be specified when allocationMode is "All"'
        errors.append(invalid(f"{path}.count", count, detail))
    if mode == "ExactCount" and count <= 0:
        errors.append(invalid(f"{path}.count", count, "must be greater than zero"))
    _check_selectors(errors, path, request)


def _check_selectors(errors: Errors, path: str, holder: Object) -> None:
    selectors = holder.get("selectors") or ()
    if len(selectors) > MAX_SELECTORS:
        errors.append(too_many(f"{path}.selectors", len(selectors), MAX_SELECTORS))
    for index, selector in enumerate(selectors):
        expression = (selector.get("cel") or {}).get("expression")
        here = f"{path}.selectors[{index}].cel"
        if selector.get("cel") is None:
            errors.append(required(here))
        elif not expression:
            errors.append(required(f"{here}.expression"))


def validate_claim(obj: Object) -> Errors:
    errors: Errors = []
    _check_requests(errors, "spec", obj.get("spec") or {})
    return errors


def validate_claim_update(obj: Object, old: Object) -> Errors:
    errors: Errors = []
    check_immutable(errors, "spec", obj.get("spec"), old.get("spec"))
    return errors


def validate_claim_status(obj: Object, old: Object) -> Errors:
    errors: Errors = []
    status, before = obj.get("status") or {}, old.get("status") or {}
    allocation, known = status.get("allocation"), before.get("allocation")
    reserved = status.get("reservedFor") or ()
    if len(reserved) > MAX_RESERVED:
        errors.append(too_many("status.reservedFor", len(reserved), MAX_RESERVED))
    seen: set[str] = set()
    for index, consumer in enumerate(reserved):
        here = f"status.reservedFor[{index}]"
        for field in ("resource", "name", "uid"):
            if not consumer.get(field):
                errors.append(required(f"{here}.{field}"))
        uid = consumer.get("uid") or ""
        if uid in seen:
            errors.append(duplicate(f"{here}.uid", uid))
        seen.add(uid)
    if reserved and allocation is None:
        detail = "may not be specified when `allocated` is not set"
        errors.append(forbidden_field("status.reservedFor", detail))
    if allocation is not None and known is not None and allocation != known:
        errors.append(invalid("status.allocation", allocation, "field is immutable"))
    if allocation is None and known is not None and before.get("reservedFor") and reserved:
        detail = "claim must not be deallocated while it is reserved"
        errors.append(forbidden_field("status.allocation", detail))
    for index, result in enumerate(((allocation or {}).get("devices") or {}).get("results") or ()):
        here = f"status.allocation.devices.results[{index}]"
        check_driver_name(errors, f"{here}.driver", result.get("driver") or "")
        _check_pool(errors, f"{here}.pool", result.get("pool") or "")
        check_name(errors, f"{here}.device", result.get("device"), dns1123_label)
    return errors


def _check_pool(errors: Errors, path: str, name: str) -> None:
    if not name:
        errors.append(required(path))
    for part in name.split("/") if name else ():
        check(errors, path, part, dns1123_subdomain(part))


def validate_template(obj: Object) -> Errors:
    errors: Errors = []
    _check_requests(errors, "spec.spec", (obj.get("spec") or {}).get("spec") or {})
    return errors


def validate_template_update(obj: Object, old: Object) -> Errors:
    errors: Errors = []
    check_immutable(errors, "spec", obj.get("spec"), old.get("spec"))
    return errors


def validate_class(obj: Object) -> Errors:
    errors: Errors = []
    spec = obj.get("spec") or {}
    _check_selectors(errors, "spec", spec)
    for index, config in enumerate(spec.get("config") or ()):
        opaque = config.get("opaque")
        here = f"spec.config[{index}].opaque"
        if opaque is None:
            errors.append(required(here))
            continue
        check_driver_name(errors, f"{here}.driver", opaque.get("driver") or "")
        if opaque.get("parameters") is None:
            errors.append(required(f"{here}.parameters"))
    return errors


def validate_slice(obj: Object) -> Errors:
    errors: Errors = []
    spec = obj.get("spec") or {}
    check_driver_name(errors, "spec.driver", spec.get("driver") or "")
    pool = spec.get("pool") or {}
    _check_pool(errors, "spec.pool.name", pool.get("name") or "")
    if (pool.get("resourceSliceCount") or 0) <= 0:
        detail = "must be greater than zero"
        count = pool.get("resourceSliceCount") or 0
        errors.append(invalid("spec.pool.resourceSliceCount", count, detail))
    if (pool.get("generation") or 0) < 0:
        detail = "must be greater than or equal to zero"
        errors.append(invalid("spec.pool.generation", pool["generation"], detail))
    places = [
        field
        for field in ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
        if spec.get(field)
    ]
    detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`"
    detail += " is required"
    if not places:
        errors.append(required("spec", detail))
    elif len(places) > 1:
        errors.append(invalid("spec", None, f"{detail}, but multiple fields are set"))
    if spec.get("nodeName"):
        check(errors, "spec.nodeName", spec["nodeName"], dns1123_subdomain(spec["nodeName"]))
    if spec.get("nodeSelector"):
        check_node_selector(errors, "spec.nodeSelector", spec["nodeSelector"])
    devices = spec.get("devices") or ()
    if len(devices) > MAX_DEVICES:
        errors.append(too_many("spec.devices", len(devices), MAX_DEVICES))
    seen: set[str] = set()
    for index, device in enumerate(devices):
        here, name = f"spec.devices[{index}]", device.get("name") or ""
        check_name(errors, f"{here}.name", name, dns1123_label)
        if name and name in seen:
            errors.append(duplicate(f"{here}.name", name))
        seen.add(name)
        for key in device.get("attributes") or ():
            identifier = key.rpartition("/")[2]
            check(errors, f"{here}.attributes[{key}]", key, names.c_identifier(identifier))
    return errors


def validate_slice_update(obj: Object, old: Object) -> Errors:
    errors = validate_slice(obj)
    new, before = obj.get("spec") or {}, old.get("spec") or {}
    for field in ("driver", "nodeName", "nodeSelector", "allNodes"):
        check_immutable(errors, f"spec.{field}", new.get(field), before.get(field))
    if (new.get("pool") or {}).get("name") != (before.get("pool") or {}).get("name"):
        errors.append(
            invalid("spec.pool.name", (new.get("pool") or {}).get("name"), "field is immutable")
        )
    return errors
