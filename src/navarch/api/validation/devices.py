"""Dynamic resource allocation: claims, their templates, device classes and slices.

Every list has a limit, and a list that is too long is not looked into. Selectors are compiled when
they are written; those that were stored already are compiled with everything there is.
Source: upstream's `pkg/apis/resource/validation`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from navarch.api import names
from navarch.api.errors import (
    FieldError,
    duplicate,
    forbidden_field,
    invalid,
    not_supported,
    required,
    too_long,
    too_many,
)
from navarch.api.resource_claims import SelectorProblem
from navarch.api.validation.common import (
    Errors,
    Object,
    check,
    check_choice,
    check_immutable,
    check_name,
    dns1123_label,
    dns1123_subdomain,
    label_value,
    qualified_name,
    quantity,
)
from navarch.api.validation.resources import is_extended
from navarch.api.validation.scheduling import check_node_selector
from navarch.api.validation.volumes import check_driver_name

MAX_REQUESTS = MAX_SELECTORS = MAX_CONSTRAINTS = MAX_CONFIGS = MAX_RESULTS = 32
MAX_ALTERNATIVES = 8
MAX_TOLERATIONS = MAX_TAINTS = 16
MAX_DEVICES, MAX_ADVANCED_DEVICES = 128, 64
MAX_NAMES, MAX_IDENTIFIER, MAX_VALUE = 32, 32, 64
MAX_COUNTER_SETS, MAX_COUNTERS, MAX_CONSUMED = 8, 32, 2
MAX_CONDITIONS = 4
MAX_RESERVED = 256
MAX_POLICY_VALUES = 10
MAX_STATUS_CONDITIONS = 8
MAX_PARAMETERS = 10 * 1024
EFFECTS = ("NoExecute", "NoSchedule", "None")
MODES = ("All", "ExactCount")
PLACES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?"
)
NO_REQUEST = (
    "must be the name of a request in the claim or the name of a request and a subrequest "
    "separated by '/'"
)
ONE_KIND = "exactly one of `exactly` or `firstAvailable` is required"


def _each(
    errors: Errors, path: str, items: Sequence[Any] | None, limit: int
) -> Iterator[tuple[str, Any]]:
    """The items with their paths; none if there are too many."""
    items = items or ()
    if limit >= 0 and len(items) > limit:
        errors.append(too_many(path, len(items), limit))
        return
    for index, item in enumerate(items):
        yield f"{path}[{index}]", item


def _unique(errors: Errors, path: str, items: Sequence[Any], key: Callable[[Any], Any]) -> None:
    seen: set[Any] = set()
    for index, item in enumerate(items):
        if (found := key(item)) in seen:
            errors.append(duplicate(f"{path}[{index}]", found))
        seen.add(found)


def _name(item: Object) -> str:
    return item.get("name") or ""


# Claims


class _Claim:
    """Checks what claims and templates have in common."""

    def __init__(self, errors: Errors, devices: Object, stored: bool = False) -> None:
        self._errors = errors
        self._devices = devices
        self._stored = stored
        self.names: dict[str, set[str]] = {
            _name(each): {_name(sub) for sub in each.get("firstAvailable") or ()}
            for each in devices.get("requests") or ()
        }

    def check(self, path: str) -> None:
        errors, devices = self._errors, self._devices
        requests = devices.get("requests") or ()
        for here, request in _each(errors, f"{path}.requests", requests, MAX_REQUESTS):
            self._request(here, request)
        if len(requests) <= MAX_REQUESTS:
            _unique(errors, f"{path}.requests", requests, _name)
        constraints = devices.get("constraints")
        for here, each in _each(errors, f"{path}.constraints", constraints, MAX_CONSTRAINTS):
            self.references(here, each)
            match, distinct = each.get("matchAttribute"), each.get("distinctAttribute")
            if match is not None:
                _full_name(errors, f"{here}.matchAttribute", match)
            elif distinct is not None:
                _full_name(errors, f"{here}.distinctAttribute", distinct)
            else:
                detail = 'exactly one of "matchAttribute" or "distinctAttribute" is required'
                errors.append(required(here, f"{detail}, but multiple fields are set"))
        for here, each in _each(errors, f"{path}.config", devices.get("config"), MAX_CONFIGS):
            self.references(here, each)
            check_config(errors, here, each)

    def references(self, path: str, holder: Object) -> None:
        """The requests that a constraint or a configuration is for."""
        found = holder.get("requests") or ()
        for here, name in _each(self._errors, f"{path}.requests", found, MAX_REQUESTS):
            self.reference(here, name)
        _unique(self._errors, f"{path}.requests", found, lambda name: name)

    def reference(self, path: str, name: str) -> None:
        parts = name.split("/")
        if len(parts) > 2:
            self._errors.append(invalid(path, name, NO_REQUEST))
            return
        for part in parts:
            check(self._errors, path, part, dns1123_label(part))
        known = self.names.get(parts[0])
        if known is None or (len(parts) == 2 and parts[1] not in known):
            self._errors.append(invalid(path, name, NO_REQUEST))

    def _request(self, path: str, request: Object) -> None:
        errors = self._errors
        check(errors, f"{path}.name", _name(request), dns1123_label(_name(request)))
        exactly, choices = request.get("exactly"), request.get("firstAvailable") or ()
        if request.get("deviceClassName"):
            # v1beta1 has the fields of `exactly` in the request itself.
            exactly = request
        if exactly is not None and choices:
            errors.append(invalid(path, None, f"{ONE_KIND}, but multiple fields are set"))
        elif exactly is not None:
            self._one(f"{path}.exactly", exactly)
        elif choices:
            where = f"{path}.firstAvailable"
            for here, each in _each(errors, where, choices, MAX_ALTERNATIVES):
                check(errors, f"{here}.name", _name(each), dns1123_label(_name(each)))
                self._one(here, each)
            if len(choices) <= MAX_ALTERNATIVES:
                _unique(errors, where, choices, _name)
        else:
            errors.append(required(path, ONE_KIND))

    def _one(self, path: str, request: Object) -> None:
        errors, class_name = self._errors, request.get("deviceClassName")
        check_name(errors, f"{path}.deviceClassName", class_name, dns1123_subdomain)
        check_selectors(errors, path, request, self._stored)
        mode, count = request.get("allocationMode"), request.get("count") or 0
        if mode == "All":
            if count:
                detail = "must not be specified when allocationMode is 'All'"
                errors.append(invalid(f"{path}.count", count, detail))
        elif mode == "ExactCount":
            if count <= 0:
                errors.append(invalid(f"{path}.count", count, "must be greater than zero"))
        else:
            errors.append(not_supported(f"{path}.allocationMode", mode or "", MODES))
        tolerations = request.get("tolerations")
        for here, each in _each(errors, f"{path}.tolerations", tolerations, MAX_TOLERATIONS):
            _toleration(errors, here, each)


def _toleration(errors: Errors, path: str, toleration: Object) -> None:
    key, value = toleration.get("key"), toleration.get("value") or ""
    if key:
        check(errors, f"{path}.key", key, qualified_name(key))
    match toleration.get("operator"):
        case "Exists":
            if value:
                detail = "must be empty for operator `Exists`"
                errors.append(invalid(f"{path}.value", value, detail))
        case "Equal":
            check(errors, f"{path}.value", value, label_value(value))
        case None | "":
            errors.append(required(f"{path}.operator"))
        case other:
            errors.append(not_supported(f"{path}.operator", other, ("Equal", "Exists")))
    if effect := toleration.get("effect"):
        check_choice(errors, f"{path}.effect", effect, EFFECTS)


def check_selectors(errors: Errors, path: str, holder: Object, stored: bool) -> None:
    selectors = holder.get("selectors")
    for here, each in _each(errors, f"{path}.selectors", selectors, MAX_SELECTORS):
        cel = each.get("cel")
        if cel is None:
            errors.append(required(f"{here}.cel"))
            continue
        problem = _expression_problem(f"{here}.cel.expression", cel.get("expression") or "", stored)
        if problem is not None:
            errors.append(problem)


def _expression_problem(path: str, text: str, stored: bool) -> FieldError | None:
    # Late, because most servers never see a selector.
    from navarch.api.cel.devices import (
        COST_LIMIT,
        MAX_BYTES,
        compile_selector,
        estimated_cost,
    )
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
        errors.append(required(f"{path}.opaque"))
        return
    check_driver_name(errors, f"{path}.opaque.driver", opaque.get("driver") or "")
    _json_object(errors, f"{path}.opaque.parameters", opaque.get("parameters"))


def _json_object(errors: Errors, path: str, value: Any) -> None:
    import json

    if value is None:
        errors.append(required(path))
    elif len(json.dumps(value, separators=(",", ":"))) > MAX_PARAMETERS:
        errors.append(too_long(path, MAX_PARAMETERS))
    elif not isinstance(value, dict):
        errors.append(invalid(path, "<value omitted>", "must be a valid JSON object"))


def validate_claim(obj: Object) -> Errors:
    errors: Errors = []
    _Claim(errors, (obj.get("spec") or {}).get("devices") or {}).check("spec.devices")
    return errors


def validate_claim_update(obj: Object, old: Object) -> Errors:
    errors: Errors = []
    check_immutable(errors, "spec", obj.get("spec"), old.get("spec"))
    return errors


def validate_template(obj: Object) -> Errors:
    errors: Errors = []
    spec = (obj.get("spec") or {}).get("spec") or {}
    _Claim(errors, spec.get("devices") or {}).check("spec.spec.devices")
    return errors


def validate_template_update(obj: Object, old: Object) -> Errors:
    errors: Errors = []
    check_immutable(errors, "spec", obj.get("spec"), old.get("spec"))
    return errors


def _device_key(device: Object) -> tuple[Any, ...]:
    return tuple(device.get(field) or "" for field in ("driver", "pool", "device", "shareID"))


def validate_claim_status(obj: Object, old: Object) -> Errors:
    errors: Errors = []
    status, before = obj.get("status") or {}, old.get("status") or {}
    allocation, known = status.get("allocation"), before.get("allocation")
    reserved = status.get("reservedFor") or ()
    path = "status.reservedFor"
    for here, consumer in _each(errors, path, reserved, MAX_RESERVED):
        for field in ("resource", "name", "uid"):
            if not consumer.get(field):
                errors.append(required(f"{here}.{field}"))
    if len(reserved) <= MAX_RESERVED:
        _unique(errors, path, reserved, lambda each: each.get("uid") or "")
    results = ((allocation or {}).get("devices") or {}).get("results") or ()
    _check_devices(errors, status.get("devices") or (), {_device_key(each) for each in results})
    if reserved and allocation is None:
        detail = "may not be specified when `allocated` is not set"
        errors.append(forbidden_field(path, detail))
    is_deleted = bool((obj.get("metadata") or {}).get("deletionTimestamp"))
    is_more = any(each not in (before.get("reservedFor") or ()) for each in reserved)
    if allocation is not None and is_deleted and is_more:
        detail = "new entries may not be added while `deallocationRequested` or "
        errors.append(forbidden_field(path, f"{detail}`deletionTimestamp` are set"))
    if allocation is not None and known is not None:
        check_immutable(errors, "status.allocation", allocation, known)
    elif allocation is not None:
        claim = _Claim(errors, (obj.get("spec") or {}).get("devices") or {})
        _check_allocation(errors, claim, allocation)
    return errors


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
    for here, result in _each(errors, f"{path}.results", results, MAX_RESULTS):
        claim.reference(f"{here}.request", result.get("request") or "")
        _check_device_name(errors, here, result)
        _binding(errors, here, result)
    configs = devices.get("config")
    for here, config in _each(errors, f"{path}.config", configs, 2 * MAX_CONFIGS):
        source = config.get("source")
        if not source:
            errors.append(required(f"{here}.source"))
        else:
            check_choice(errors, f"{here}.source", source, ("FromClaim", "FromClass"))
        claim.references(here, config)
        check_config(errors, here, config)
    if allocation.get("nodeSelector") is not None:
        check_node_selector(errors, "status.allocation.nodeSelector", allocation["nodeSelector"])


def _check_device_name(errors: Errors, path: str, device: Object) -> None:
    check_driver_name(errors, f"{path}.driver", device.get("driver") or "")
    _check_pool(errors, f"{path}.pool", device.get("pool") or "")
    name = device.get("device") or ""
    check(errors, f"{path}.device", name, dns1123_label(name))


def _check_devices(
    errors: Errors, devices: Sequence[Object], allocated: set[tuple[Any, ...]]
) -> None:
    """What drivers say of a claim's devices."""
    for here, device in _each(errors, "status.devices", devices, -1):
        _check_device_name(errors, here, device)
        if _device_key(device) not in allocated:
            name = "/".join(filter(None, _device_key(device)))
            errors.append(invalid(here, name, "must be an allocated device in the claim"))
        conditions = device.get("conditions") or ()
        if len(conditions) > MAX_STATUS_CONDITIONS:
            where = f"{here}.conditions"
            errors.append(too_many(where, len(conditions), MAX_STATUS_CONDITIONS))
        if device.get("data") is not None:
            _json_object(errors, f"{here}.data", device["data"])
    _unique(errors, "status.devices", devices, _device_key)


# Classes


def validate_class(obj: Object, old: Object | None = None) -> Errors:
    errors: Errors = []
    spec, before = obj.get("spec") or {}, (old or {}).get("spec") or {}
    stored = old is not None and spec.get("selectors") == before.get("selectors")
    check_selectors(errors, "spec", spec, stored)
    for here, config in _each(errors, "spec.config", spec.get("config"), MAX_CONFIGS):
        check_config(errors, here, config)
    name = spec.get("extendedResourceName")
    if name is not None and not is_extended(name):
        path = "spec.extendedResourceName"
        errors.append(invalid(path, name, "must be a valid extended resource name"))
    return errors


# Slices


def _check_pool(errors: Errors, path: str, name: str) -> None:
    if not name:
        errors.append(required(path))
        return
    if len(name) > 253:
        errors.append(too_long(path, 253))
    for part in name.split("/"):
        check(errors, path, part, dns1123_subdomain(part))


def validate_slice(obj: Object, old: Object | None = None) -> Errors:
    errors: Errors = []
    spec = obj.get("spec") or {}
    check_driver_name(errors, "spec.driver", spec.get("driver") or "")
    pool = spec.get("pool") or {}
    _check_pool(errors, "spec.pool.name", pool.get("name") or "")
    if (count := pool.get("resourceSliceCount") or 0) <= 0:
        errors.append(invalid("spec.pool.resourceSliceCount", count, "must be greater than zero"))
    if (generation := pool.get("generation") or 0) < 0:
        detail = "must be greater than or equal to zero"
        errors.append(invalid("spec.pool.generation", generation, detail))
    if old is not None:
        before = old.get("spec") or {}
        known = before.get("pool") or {}
        check_immutable(errors, "spec.pool.name", pool.get("name"), known.get("name"))
        for field in ("driver", "nodeName"):
            check_immutable(errors, f"spec.{field}", spec.get(field), before.get(field))
    _check_places(errors, "spec", spec, PLACES)
    if spec.get("sharedCounters") and spec.get("devices"):
        detail = "only one of `sharedCounters` or `devices` is allowed"
        errors.append(invalid("spec", "", detail))
    devices = spec.get("devices") or ()
    is_advanced = any(_body(d).get("taints") or _body(d).get("consumesCounters") for d in devices)
    limit = MAX_ADVANCED_DEVICES if is_advanced else MAX_DEVICES
    for here, device in _each(errors, "spec.devices", devices, limit):
        _check_device(errors, here, device, bool(spec.get("perDeviceNodeSelection")))
    if len(devices) <= limit:
        _unique(errors, "spec.devices", devices, _name)
    counters, path = spec.get("sharedCounters") or (), "spec.sharedCounters"
    for here, each in _each(errors, path, counters, MAX_COUNTER_SETS):
        check_name(errors, f"{here}.name", each.get("name"), dns1123_label)
        _check_counters(errors, here, each)
    _unique(errors, path, counters, _name)
    return errors


def validate_slice_update(obj: Object, old: Object) -> Errors:
    return validate_slice(obj, old)


def _check_places(errors: Errors, path: str, holder: Object, fields: Sequence[str]) -> None:
    """Exactly one way to say which nodes reach it."""
    chosen = []
    if holder.get("nodeName") is not None:
        if holder["nodeName"]:
            chosen.append("`nodeName`")
            name = holder["nodeName"]
            check(errors, f"{path}.nodeName", name, dns1123_subdomain(name))
        else:
            detail = "must be either unset or set to a non-empty string"
            errors.append(invalid(f"{path}.nodeName", "", detail))
    if (selector := holder.get("nodeSelector")) is not None:
        chosen.append("`nodeSelector`")
        check_node_selector(errors, f"{path}.nodeSelector", selector)
        terms = selector.get("nodeSelectorTerms") or ()
        if len(terms) > 1:
            where = f"{path}.nodeSelector.nodeSelectorTerms"
            errors.append(invalid(where, terms, "must have exactly one node selector term"))
    for field in fields[2:]:
        if holder.get(field):
            chosen.append(f"`{field}`")
        elif holder.get(field) is not None:
            detail = "must be either unset or set to true"
            errors.append(invalid(f"{path}.{field}", False, detail))
    if len(fields) == len(PLACES):
        quoted = ", ".join(f"`{field}`" for field in fields)
        detail, more = f"exactly one of {quoted} is required", ", but multiple fields are set"
    else:
        detail, more = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required", ""
        detail += " when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
    if not chosen:
        errors.append(required(path, detail))
    elif len(chosen) > 1:
        errors.append(invalid(path, f"{{{', '.join(chosen)}}}", detail + more))


def _body(device: Object) -> Object:
    """v1beta1 has a device's fields one level deeper."""
    return device.get("basic") or device


def _check_device(errors: Errors, path: str, device: Object, selects_nodes: bool) -> None:
    check(errors, f"{path}.name", _name(device), dns1123_label(_name(device)))
    device = _body(device)
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if (count := len(attributes) + len(capacity)) > MAX_NAMES:
        detail = f"the total number of attributes and capacities must not exceed {MAX_NAMES}"
        errors.append(invalid(path, count, detail))
    for name, value in attributes.items():
        _qualified(errors, f"{path}.attributes", name)
        _check_attribute(errors, f"{path}.attributes[{name}]", value)
    is_shared = bool(device.get("allowMultipleAllocations"))
    for name, value in capacity.items():
        _qualified(errors, f"{path}.capacity", name)
        _check_capacity(errors, f"{path}.capacity[{name}]", value, is_shared)
    for here, taint in _each(errors, f"{path}.taints", device.get("taints"), MAX_TAINTS):
        key, value, effect = (taint.get(field) or "" for field in ("key", "value", "effect"))
        check(errors, f"{here}.key", key, qualified_name(key))
        check(errors, f"{here}.value", value, label_value(value))
        if not effect:
            errors.append(required(f"{here}.effect"))
        else:
            check_choice(errors, f"{here}.effect", effect, EFFECTS)
    consumed, where = device.get("consumesCounters") or (), f"{path}.consumesCounters"
    for here, each in _each(errors, where, consumed, MAX_CONSUMED):
        check_name(errors, f"{here}.counterSet", each.get("counterSet"), dns1123_label)
        _check_counters(errors, here, each)
    _unique(errors, where, consumed, lambda each: each.get("counterSet") or "")
    if selects_nodes:
        _check_places(errors, path, device, PLACES[:3])
    elif any(device.get(field) is not None for field in PLACES[:3]):
        detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if "
        detail += "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        errors.append(invalid(path, None, detail))
    _binding(errors, path, device)


def _binding(errors: Errors, path: str, device: Object) -> None:
    conditions = device.get("bindingConditions") or ()
    failures = device.get("bindingFailureConditions") or ()
    for field, found in (("bindingConditions", conditions), ("bindingFailureConditions", failures)):
        for here, name in _each(errors, f"{path}.{field}", found, MAX_CONDITIONS):
            check(errors, here, name, qualified_name(name))
        _unique(errors, f"{path}.{field}", found, lambda name: name)
    for index, name in enumerate(failures):
        if name in conditions:
            detail = "bindingFailureConditions must not overlap with bindingConditions"
            errors.append(invalid(f"{path}.bindingFailureConditions[{index}]", name, detail))
    if failures and not conditions:
        detail = "bindingConditions are required to use bindingFailureConditions"
        errors.append(invalid(f"{path}.bindingConditions", conditions or None, detail))
    elif conditions and not failures:
        detail = "bindingFailureConditions are required to use bindingConditions"
        errors.append(invalid(f"{path}.bindingFailureConditions", failures or None, detail))


def _check_counters(errors: Errors, path: str, holder: Object) -> None:
    counters = holder.get("counters") or {}
    if not counters:
        errors.append(required(f"{path}.counters"))
    elif len(counters) > MAX_COUNTERS:
        errors.append(too_many(f"{path}.counters", len(counters), MAX_COUNTERS))
    else:
        for name in counters:
            check(errors, f"{path}.counters", name, dns1123_label(name))


def _qualified(errors: Errors, path: str, name: str) -> None:
    domain, slash, identifier = name.partition("/")
    if not slash:
        domain, identifier = "", name
    elif not domain:
        errors.append(invalid(path, "", "the domain must not be empty"))
    else:
        check_driver_name(errors, path, domain)
    if slash and not identifier:
        errors.append(invalid(path, "", "the name must not be empty"))
        return
    if len(identifier) > MAX_IDENTIFIER:
        errors.append(too_long(path, MAX_IDENTIFIER))
    check(errors, path, identifier, names.c_identifier(identifier))


def _full_name(errors: Errors, path: str, name: str) -> None:
    _qualified(errors, path, name)
    if "/" not in name:
        detail = "a fully qualified name must be a domain and a name separated by a slash"
        errors.append(invalid(path, name, detail))


def _check_attribute(errors: Errors, path: str, attribute: Object) -> None:
    kinds = [
        kind for kind in ("int", "bool", "string", "version") if attribute.get(kind) is not None
    ]
    if len(kinds) != 1:
        shown = attribute if kinds else ""
        errors.append(invalid(path, shown, "exactly one value must be specified"))
    for kind in ("string", "version"):
        value = attribute.get(kind)
        if value is None:
            continue
        if kind == "version" and SEMVER.fullmatch(value) is None:
            detail = "must be a string compatible with semver.org spec 2.0.0"
            errors.append(invalid(f"{path}.version", value, detail))
        if len(value) > MAX_VALUE:
            errors.append(too_long(f"{path}.{kind}", MAX_VALUE))


def _check_capacity(errors: Errors, path: str, capacity: Object, is_shared: bool) -> None:
    policy = capacity.get("requestPolicy")
    if policy is None:
        return
    path = f"{path}.requestPolicy"
    if not is_shared:
        detail = "allowMultipleAllocations must be true"
        errors.append(forbidden_field(path, detail))
        return
    values, limits, default = (policy.get(f) for f in ("validValues", "validRange", "default"))
    if values and limits is not None:
        detail = 'exactly one policy can be specified, cannot specify "validValues" and '
        errors.append(forbidden_field(path, f'{detail}"validRange" at the same time'))
    elif (values or limits is not None) and default is None:
        what = "validValues" if values else "validRange"
        errors.append(required(f"{path}.default", f"required when {what} is defined"))
    elif values:
        _check_values(errors, f"{path}.validValues", values, default, capacity)
    elif limits is not None:
        _check_range(errors, f"{path}.validRange", limits, default, capacity)


def _check_values(
    errors: Errors, path: str, values: Sequence[Any], default: Any, capacity: Object
) -> None:
    found, most = [quantity(each) for each in values], quantity(capacity.get("value"))
    for index, (one, two) in enumerate(pairwise(found), 1):
        if one is not None and two is not None and one > two:
            detail = "values must be sorted in ascending order"
            errors.append(invalid(f"{path}[{index}]", str(two), detail))
    for here, each in _each(errors, path, values, MAX_POLICY_VALUES):
        amount = quantity(each)
        if amount is not None and most is not None and amount > most:
            detail = f"option is larger than capacity value: {most}"
            errors.append(invalid(here, str(amount), detail))
    if quantity(default) not in found:
        detail = "default value is not valid according to the requestPolicy"
        errors.append(invalid(path, str(default), detail))


def _check_range(
    errors: Errors, path: str, limits: Mapping[str, Any], default: Any, capacity: Object
) -> None:
    if limits.get("min") is None:
        errors.append(required(f"{path}.min", "required when validRange is defined"))
        return
    found = {name: quantity(limits[name]) for name in ("min", "max", "step") if limits.get(name)}
    least, most, step = found.get("min"), found.get("max"), found.get("step")
    whole, standard = quantity(capacity.get("value")), quantity(default)
    if least is None or whole is None or standard is None:
        return
    for is_wrong, field, value, detail in (
        (least > whole, "min", least, f"min is larger than capacity value: {whole}"),
        (standard < least, "min", standard, f"default is less than min: {least}"),
        (most is not None and least > most, "max", least, f"min is larger than max: {most}"),
        (
            most is not None and most > whole,
            "max",
            most,
            f"max is larger than capacity value: {whole}",
        ),
        (
            most is not None and standard > most,
            "max",
            standard,
            f"default is more than max: {most}",
        ),
    ):
        if is_wrong:
            errors.append(invalid(f"{path}.{field}", str(value), detail))
    if step is None:
        return
    if (one := least + step) > whole:
        detail = f"one step {one} is larger than capacity value: {whole}"
        errors.append(invalid(f"{path}.step", str(step), detail))
    for value in (standard, most):
        if value is not None and step.value() and (value.value() - least.value()) % step.value():
            detail = f"value is not a multiple of a given step ({step}) from ({least})"
            errors.append(invalid(f"{path}.step", str(value), detail))
