"""Dynamic resource allocation: claims, their templates, and device classes.

Every list has a limit, and a list that is too long is not looked into. Selectors are compiled when
they are written; those that were stored already are compiled with everything there is.
Source: upstream's `pkg/apis/resource/validation`. Slices are in `device_slices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from navarch.api.errors import FieldError, forbidden_field, invalid, too_long
from navarch.api.resource_claims import SelectorProblem
from navarch.api.validation.common import (
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    label_value,
    qualified_name,
)
from navarch.api.validation.device_parts import (
    EFFECTS,
    check_binding_conditions,
    check_full_name,
    check_pool,
    each_item,
    name_of,
)
from navarch.api.validation.resources import is_extended
from navarch.api.validation.scheduling import check_node_selector
from navarch.api.validation.volumes import check_driver_name

MAX_REQUESTS = MAX_SELECTORS = MAX_CONSTRAINTS = MAX_CONFIGS = MAX_RESULTS = 32
MAX_ALTERNATIVES = 8
MAX_TOLERATIONS = 16
MAX_RESERVED = 256
MAX_STATUS_CONDITIONS = 8
MAX_PARAMETERS = 10 * 1024
MODES = ("All", "ExactCount")
NO_REQUEST = (
    "must be the name of a request in the claim or the name of a request and a subrequest "
    "separated by '/'"
)
ONE_KIND = "exactly one of `exactly` or `firstAvailable` is required"


class _Claim:
    """Checks what claims and templates have in common."""

    def __init__(self, errors: Errors, devices: Object, stored: bool = False) -> None:
        self._errors = errors
        self._devices = devices
        self._stored = stored
        self.names: dict[str, set[str]] = {
            name_of(each): {name_of(sub) for sub in each.get("firstAvailable") or ()}
            for each in devices.get("requests") or ()
        }

    def check(self, path: str) -> None:
        errors, devices = self._errors, self._devices
        requests = devices.get("requests") or ()
        for here, request in each_item(errors, f"{path}.requests", requests, MAX_REQUESTS):
            self._request(here, request)
        if len(requests) <= MAX_REQUESTS:
            errors.unique(f"{path}.requests", requests, name_of)
        constraints = devices.get("constraints")
        for here, each in each_item(errors, f"{path}.constraints", constraints, MAX_CONSTRAINTS):
            self.references(here, each)
            match, distinct = each.get("matchAttribute"), each.get("distinctAttribute")
            if match is not None:
                check_full_name(errors, f"{here}.matchAttribute", match)
            elif distinct is not None:
                check_full_name(errors, f"{here}.distinctAttribute", distinct)
            else:
                detail = 'exactly one of "matchAttribute" or "distinctAttribute" is required'
                errors.required(here, f"{detail}, but multiple fields are set")
        for here, each in each_item(errors, f"{path}.config", devices.get("config"), MAX_CONFIGS):
            self.references(here, each)
            check_config(errors, here, each)

    def references(self, path: str, holder: Object) -> None:
        """The requests that a constraint or a configuration is for."""
        found = holder.get("requests") or ()
        for here, name in each_item(self._errors, f"{path}.requests", found, MAX_REQUESTS):
            self.reference(here, name)
        self._errors.unique(f"{path}.requests", found, lambda name: name)

    def reference(self, path: str, name: str) -> None:
        parts = name.split("/")
        if len(parts) > 2:
            self._errors.invalid(path, name, NO_REQUEST)
            return
        for part in parts:
            self._errors.check(path, part, dns1123_label)
        known = self.names.get(parts[0])
        if known is None or (len(parts) == 2 and parts[1] not in known):
            self._errors.invalid(path, name, NO_REQUEST)

    def _request(self, path: str, request: Object) -> None:
        errors = self._errors
        errors.check(f"{path}.name", name_of(request), dns1123_label)
        exactly, choices = request.get("exactly"), request.get("firstAvailable") or ()
        if request.get("deviceClassName"):
            # v1beta1 has the fields of `exactly` in the request itself.
            exactly = request
        if exactly is not None and choices:
            errors.invalid(path, None, f"{ONE_KIND}, but multiple fields are set")
        elif exactly is not None:
            self._one(f"{path}.exactly", exactly)
        elif choices:
            where = f"{path}.firstAvailable"
            for here, each in each_item(errors, where, choices, MAX_ALTERNATIVES):
                errors.check(f"{here}.name", name_of(each), dns1123_label)
                self._one(here, each)
            if len(choices) <= MAX_ALTERNATIVES:
                errors.unique(where, choices, name_of)
        else:
            errors.required(path, ONE_KIND)

    def _one(self, path: str, request: Object) -> None:
        errors, class_name = self._errors, request.get("deviceClassName")
        errors.name(f"{path}.deviceClassName", class_name, dns1123_subdomain)
        check_selectors(errors, path, request, self._stored)
        mode, count = request.get("allocationMode"), request.get("count") or 0
        if mode == "All":
            if count:
                detail = "must not be specified when allocationMode is 'All'"
                errors.invalid(f"{path}.count", count, detail)
        elif mode == "ExactCount":
            if count <= 0:
                errors.invalid(f"{path}.count", count, "must be greater than zero")
        else:
            errors.not_supported(f"{path}.allocationMode", mode or "", MODES)
        tolerations = request.get("tolerations")
        for here, each in each_item(errors, f"{path}.tolerations", tolerations, MAX_TOLERATIONS):
            _toleration(errors, here, each)


def _toleration(errors: Errors, path: str, toleration: Object) -> None:
    key, value = toleration.get("key"), toleration.get("value") or ""
    if key:
        errors.check(f"{path}.key", key, qualified_name)
    match toleration.get("operator"):
        case "Exists":
            if value:
                errors.invalid(f"{path}.value", value, "must be empty for operator `Exists`")
        case "Equal":
            errors.check(f"{path}.value", value, label_value)
        case None | "":
            errors.required(f"{path}.operator")
        case other:
            errors.not_supported(f"{path}.operator", other, ("Equal", "Exists"))
    if effect := toleration.get("effect"):
        errors.choice(f"{path}.effect", effect, EFFECTS)


def check_selectors(errors: Errors, path: str, holder: Object, stored: bool) -> None:
    selectors = holder.get("selectors")
    for here, each in each_item(errors, f"{path}.selectors", selectors, MAX_SELECTORS):
        cel = each.get("cel")
        if cel is None:
            errors.required(f"{here}.cel")
            continue
        problem = _expression_problem(f"{here}.cel.expression", cel.get("expression") or "", stored)
        if problem is not None:
            errors.append(problem)


def _expression_problem(path: str, text: str, stored: bool) -> FieldError | None:
    # Late, because most servers never see a selector.
    from navarch.api.cel.devices import COST_LIMIT, MAX_BYTES, compile_selector, estimated_cost
    from navarch.api.cel.environment import STORED
    from navarch.api.cel.library import NEW

    if len(text.encode()) > MAX_BYTES:
        return too_long(path, MAX_BYTES)
    try:
        program = compile_selector(text, STORED if stored else NEW)
    except SelectorProblem as problem:
        return invalid(path, text, str(problem))
    if estimated_cost(program) > COST_LIMIT:
        return forbidden_field(path, "too complex, exceeds cost limit")
    return None


def check_config(errors: Errors, path: str, config: Object) -> None:
    opaque = config.get("opaque")
    if opaque is None:
        errors.required(f"{path}.opaque")
        return
    check_driver_name(errors, f"{path}.opaque.driver", opaque.get("driver") or "")
    _json_object(errors, f"{path}.opaque.parameters", opaque.get("parameters"))


def _json_object(errors: Errors, path: str, value: Any) -> None:
    import json

    if value is None:
        errors.required(path)
    elif len(json.dumps(value, separators=(",", ":"))) > MAX_PARAMETERS:
        errors.too_long(path, MAX_PARAMETERS)
    elif not isinstance(value, dict):
        errors.invalid(path, "<value omitted>", "must be a valid JSON object")


def validate_claim(errors: Errors, obj: Object) -> None:
    _Claim(errors, (obj.get("spec") or {}).get("devices") or {}).check("spec.devices")


def validate_claim_update(errors: Errors, obj: Object, old: Object) -> None:
    errors.immutable("spec", obj.get("spec"), old.get("spec"))


def validate_template(errors: Errors, obj: Object) -> None:
    spec = (obj.get("spec") or {}).get("spec") or {}
    _Claim(errors, spec.get("devices") or {}).check("spec.spec.devices")


def validate_template_update(errors: Errors, obj: Object, old: Object) -> None:
    errors.immutable("spec", obj.get("spec"), old.get("spec"))


def _device_key(device: Object) -> tuple[Any, ...]:
    return tuple(device.get(field) or "" for field in ("driver", "pool", "device", "shareID"))


def validate_claim_status(errors: Errors, obj: Object, old: Object) -> None:
    status, before = obj.get("status") or {}, old.get("status") or {}
    allocation, known = status.get("allocation"), before.get("allocation")
    reserved = status.get("reservedFor") or ()
    path = "status.reservedFor"
    for here, consumer in each_item(errors, path, reserved, MAX_RESERVED):
        for field in ("resource", "name", "uid"):
            errors.present(f"{here}.{field}", consumer.get(field))
    if len(reserved) <= MAX_RESERVED:
        errors.unique(path, reserved, lambda each: each.get("uid") or "")
    results = ((allocation or {}).get("devices") or {}).get("results") or ()
    _check_devices(errors, status.get("devices") or (), {_device_key(each) for each in results})
    if reserved and allocation is None:
        errors.forbidden(path, "may not be specified when `allocated` is not set")
    is_deleted = bool((obj.get("metadata") or {}).get("deletionTimestamp"))
    is_more = any(each not in (before.get("reservedFor") or ()) for each in reserved)
    if allocation is not None and is_deleted and is_more:
        detail = "new entries may not be added while `deallocationRequested` or "
        errors.forbidden(path, f"{detail}`deletionTimestamp` are set")
    if allocation is not None and known is not None:
        errors.immutable("status.allocation", allocation, known)
    elif allocation is not None:
        claim = _Claim(errors, (obj.get("spec") or {}).get("devices") or {})
        _check_allocation(errors, claim, allocation)


def drop_deallocated(obj: Object, old: Object) -> None:
    """What drivers say of devices that the claim has no more goes with them."""
    status = obj.get("status") or {}
    if not status.get("devices"):
        return

    def had(claim: Object) -> set[tuple[Any, ...]]:
        allocation = (claim.get("status") or {}).get("allocation") or {}
        return {
            _device_key(each) for each in (allocation.get("devices") or {}).get("results") or ()
        }

    gone = had(old) - had(obj)
    status["devices"] = [each for each in status["devices"] if _device_key(each) not in gone]
    if not status["devices"]:
        del status["devices"]


def _check_allocation(errors: Errors, claim: _Claim, allocation: Object) -> None:
    devices, path = allocation.get("devices") or {}, "status.allocation.devices"
    results = devices.get("results")
    for here, result in each_item(errors, f"{path}.results", results, MAX_RESULTS):
        claim.reference(f"{here}.request", result.get("request") or "")
        _check_device_name(errors, here, result)
        check_binding_conditions(errors, here, result)
    configs = devices.get("config")
    for here, config in each_item(errors, f"{path}.config", configs, 2 * MAX_CONFIGS):
        source = config.get("source")
        if not source:
            errors.required(f"{here}.source")
        else:
            errors.choice(f"{here}.source", source, ("FromClaim", "FromClass"))
        claim.references(here, config)
        check_config(errors, here, config)
    if allocation.get("nodeSelector") is not None:
        check_node_selector(errors, "status.allocation.nodeSelector", allocation["nodeSelector"])


def _check_device_name(errors: Errors, path: str, device: Object) -> None:
    check_driver_name(errors, f"{path}.driver", device.get("driver") or "")
    check_pool(errors, f"{path}.pool", device.get("pool") or "")
    errors.check(f"{path}.device", device.get("device") or "", dns1123_label)


def _check_devices(
    errors: Errors, devices: Sequence[Object], allocated: set[tuple[Any, ...]]
) -> None:
    """What drivers say of a claim's devices."""
    for here, device in each_item(errors, "status.devices", devices, -1):
        _check_device_name(errors, here, device)
        if _device_key(device) not in allocated:
            name = "/".join(filter(None, _device_key(device)))
            errors.invalid(here, name, "must be an allocated device in the claim")
        conditions = device.get("conditions") or ()
        errors.at_most(f"{here}.conditions", conditions, MAX_STATUS_CONDITIONS)
        if device.get("data") is not None:
            _json_object(errors, f"{here}.data", device["data"])
    errors.unique("status.devices", devices, _device_key)


def validate_class(errors: Errors, obj: Object, old: Object | None = None) -> None:
    spec, before = obj.get("spec") or {}, (old or {}).get("spec") or {}
    stored = old is not None and spec.get("selectors") == before.get("selectors")
    check_selectors(errors, "spec", spec, stored)
    for here, config in each_item(errors, "spec.config", spec.get("config"), MAX_CONFIGS):
        check_config(errors, here, config)
    name = spec.get("extendedResourceName")
    if name is not None and not is_extended(name):
        errors.invalid("spec.extendedResourceName", name, "must be a valid extended resource name")
