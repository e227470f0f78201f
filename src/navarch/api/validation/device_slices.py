"""Resource slices: the devices that drivers offer, with what is said about each.
Source: upstream's `pkg/apis/resource/validation`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from navarch.api.errors import (
    forbidden_field,
    invalid,
    required,
    too_long,
    too_many,
)
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
from navarch.api.validation.device_parts import (
    EFFECTS,
    check_binding_conditions,
    check_pool,
    check_qualified,
    check_unique,
    each_item,
    name_of,
)
from navarch.api.validation.scheduling import check_node_selector
from navarch.api.validation.volumes import check_driver_name

MAX_TAINTS = 16
MAX_DEVICES, MAX_ADVANCED_DEVICES = 128, 64
MAX_NAMES, MAX_VALUE = 32, 64
MAX_COUNTER_SETS, MAX_COUNTERS, MAX_CONSUMED = 8, 32, 2
MAX_POLICY_VALUES = 10
PLACES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?"
)


def validate_slice(obj: Object, old: Object | None = None) -> Errors:
    errors: Errors = []
    spec = obj.get("spec") or {}
    check_driver_name(errors, "spec.driver", spec.get("driver") or "")
    pool = spec.get("pool") or {}
    check_pool(errors, "spec.pool.name", pool.get("name") or "")
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
    for here, device in each_item(errors, "spec.devices", devices, limit):
        _check_device(errors, here, device, bool(spec.get("perDeviceNodeSelection")))
    if len(devices) <= limit:
        check_unique(errors, "spec.devices", devices, name_of)
    counters, path = spec.get("sharedCounters") or (), "spec.sharedCounters"
    for here, each in each_item(errors, path, counters, MAX_COUNTER_SETS):
        check_name(errors, f"{here}.name", each.get("name"), dns1123_label)
        _check_counters(errors, here, each)
    check_unique(errors, path, counters, name_of)
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
    check(errors, f"{path}.name", name_of(device), dns1123_label(name_of(device)))
    device = _body(device)
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if (count := len(attributes) + len(capacity)) > MAX_NAMES:
        detail = f"the total number of attributes and capacities must not exceed {MAX_NAMES}"
        errors.append(invalid(path, count, detail))
    for name, value in attributes.items():
        check_qualified(errors, f"{path}.attributes", name)
        _check_attribute(errors, f"{path}.attributes[{name}]", value)
    is_shared = bool(device.get("allowMultipleAllocations"))
    for name, value in capacity.items():
        check_qualified(errors, f"{path}.capacity", name)
        _check_capacity(errors, f"{path}.capacity[{name}]", value, is_shared)
    for here, taint in each_item(errors, f"{path}.taints", device.get("taints"), MAX_TAINTS):
        key, value, effect = (taint.get(field) or "" for field in ("key", "value", "effect"))
        check(errors, f"{here}.key", key, qualified_name(key))
        check(errors, f"{here}.value", value, label_value(value))
        if not effect:
            errors.append(required(f"{here}.effect"))
        else:
            check_choice(errors, f"{here}.effect", effect, EFFECTS)
    consumed, where = device.get("consumesCounters") or (), f"{path}.consumesCounters"
    for here, each in each_item(errors, where, consumed, MAX_CONSUMED):
        check_name(errors, f"{here}.counterSet", each.get("counterSet"), dns1123_label)
        _check_counters(errors, here, each)
    check_unique(errors, where, consumed, lambda each: each.get("counterSet") or "")
    if selects_nodes:
        _check_places(errors, path, device, PLACES[:3])
    elif any(device.get(field) is not None for field in PLACES[:3]):
        detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if "
        detail += "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        errors.append(invalid(path, None, detail))
    check_binding_conditions(errors, path, device)


def _check_counters(errors: Errors, path: str, holder: Object) -> None:
    counters = holder.get("counters") or {}
    if not counters:
        errors.append(required(f"{path}.counters"))
    elif len(counters) > MAX_COUNTERS:
        errors.append(too_many(f"{path}.counters", len(counters), MAX_COUNTERS))
    else:
        for name in counters:
            check(errors, f"{path}.counters", name, dns1123_label(name))


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
    for here, each in each_item(errors, path, values, MAX_POLICY_VALUES):
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
