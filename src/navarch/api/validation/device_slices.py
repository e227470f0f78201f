"""Resource slices: the devices that drivers offer, with what is said about each.
Source: upstream's `pkg/apis/resource/validation`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from navarch.api.validation.common import (
    Errors,
    Object,
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


def validate_slice(errors: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj.get("spec") or {}
    check_driver_name(errors, "spec.driver", spec.get("driver") or "")
    pool = spec.get("pool") or {}
    check_pool(errors, "spec.pool.name", pool.get("name") or "")
    if (count := pool.get("resourceSliceCount") or 0) <= 0:
        errors.invalid("spec.pool.resourceSliceCount", count, "must be greater than zero")
    if (generation := pool.get("generation") or 0) < 0:
        errors.invalid("spec.pool.generation", generation, "must be greater than or equal to zero")
    if old is not None:
        before = old.get("spec") or {}
        known = before.get("pool") or {}
        errors.immutable("spec.pool.name", pool.get("name"), known.get("name"))
        for field in ("driver", "nodeName"):
            errors.immutable(f"spec.{field}", spec.get(field), before.get(field))
    _check_places(errors, "spec", spec, PLACES)
    if spec.get("sharedCounters") and spec.get("devices"):
        errors.invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed")
    devices = spec.get("devices") or ()
    is_advanced = any(_body(d).get("taints") or _body(d).get("consumesCounters") for d in devices)
    limit = MAX_ADVANCED_DEVICES if is_advanced else MAX_DEVICES
    for here, device in each_item(errors, "spec.devices", devices, limit):
        _check_device(errors, here, device, bool(spec.get("perDeviceNodeSelection")))
    if len(devices) <= limit:
        errors.unique("spec.devices", devices, name_of)
    counters, path = spec.get("sharedCounters") or (), "spec.sharedCounters"
    for here, each in each_item(errors, path, counters, MAX_COUNTER_SETS):
        errors.name(f"{here}.name", each.get("name"), dns1123_label)
        _check_counters(errors, here, each)
    errors.unique(path, counters, name_of)


def validate_slice_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_slice(errors, obj, old)


def _check_places(errors: Errors, path: str, holder: Object, fields: Sequence[str]) -> None:
    """Exactly one way to say which nodes reach it."""
    chosen = []
    if holder.get("nodeName") is not None:
        if holder["nodeName"]:
            chosen.append("`nodeName`")
            errors.check(f"{path}.nodeName", holder["nodeName"], dns1123_subdomain)
        else:
            detail = "must be either unset or set to a non-empty string"
            errors.invalid(f"{path}.nodeName", "", detail)
    if (selector := holder.get("nodeSelector")) is not None:
        chosen.append("`nodeSelector`")
        check_node_selector(errors, f"{path}.nodeSelector", selector)
        terms = selector.get("nodeSelectorTerms") or ()
        if len(terms) > 1:
            where = f"{path}.nodeSelector.nodeSelectorTerms"
            errors.invalid(where, terms, "must have exactly one node selector term")
    for field in fields[2:]:
        if holder.get(field):
            chosen.append(f"`{field}`")
        elif holder.get(field) is not None:
            errors.invalid(f"{path}.{field}", False, "must be either unset or set to true")
    if len(fields) == len(PLACES):
        quoted = ", ".join(f"`{field}`" for field in fields)
        detail, more = f"exactly one of {quoted} is required", ", but multiple fields are set"
    else:
        detail, more = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required", ""
        detail += " when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
    if not chosen:
        errors.required(path, detail)
    elif len(chosen) > 1:
        errors.invalid(path, f"{{{', '.join(chosen)}}}", detail + more)


def _body(device: Object) -> Object:
    """v1beta1 has a device's fields one level deeper."""
    return device.get("basic") or device


def _check_device(errors: Errors, path: str, device: Object, selects_nodes: bool) -> None:
    errors.check(f"{path}.name", name_of(device), dns1123_label)
    device = _body(device)
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if (count := len(attributes) + len(capacity)) > MAX_NAMES:
        detail = f"the total number of attributes and capacities must not exceed {MAX_NAMES}"
        errors.invalid(path, count, detail)
    for name, value in attributes.items():
        check_qualified(errors, f"{path}.attributes", name)
        _check_attribute(errors, f"{path}.attributes[{name}]", value)
    is_shared = bool(device.get("allowMultipleAllocations"))
    for name, value in capacity.items():
        check_qualified(errors, f"{path}.capacity", name)
        _check_capacity(errors, f"{path}.capacity[{name}]", value, is_shared)
    for here, taint in each_item(errors, f"{path}.taints", device.get("taints"), MAX_TAINTS):
        key, value, effect = (taint.get(field) or "" for field in ("key", "value", "effect"))
        errors.check(f"{here}.key", key, qualified_name)
        errors.check(f"{here}.value", value, label_value)
        if not effect:
            errors.required(f"{here}.effect")
        else:
            errors.choice(f"{here}.effect", effect, EFFECTS)
    consumed, where = device.get("consumesCounters") or (), f"{path}.consumesCounters"
    for here, each in each_item(errors, where, consumed, MAX_CONSUMED):
        errors.name(f"{here}.counterSet", each.get("counterSet"), dns1123_label)
        _check_counters(errors, here, each)
    errors.unique(where, consumed, lambda each: each.get("counterSet") or "")
    if selects_nodes:
        _check_places(errors, path, device, PLACES[:3])
    elif any(device.get(field) is not None for field in PLACES[:3]):
        detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if "
        detail += "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        errors.invalid(path, None, detail)
    check_binding_conditions(errors, path, device)


def _check_counters(errors: Errors, path: str, holder: Object) -> None:
    counters = holder.get("counters") or {}
    if not counters:
        errors.required(f"{path}.counters")
    elif len(counters) > MAX_COUNTERS:
        errors.too_many(f"{path}.counters", len(counters), MAX_COUNTERS)
    else:
        for name in counters:
            errors.check(f"{path}.counters", name, dns1123_label)


def _check_attribute(errors: Errors, path: str, attribute: Object) -> None:
    kinds = [
        kind for kind in ("int", "bool", "string", "version") if attribute.get(kind) is not None
    ]
    if len(kinds) != 1:
        shown = attribute if kinds else ""
        errors.invalid(path, shown, "exactly one value must be specified")
    for kind in ("string", "version"):
        value = attribute.get(kind)
        if value is None:
            continue
        if kind == "version" and SEMVER.fullmatch(value) is None:
            detail = "must be a string compatible with semver.org spec 2.0.0"
            errors.invalid(f"{path}.version", value, detail)
        errors.no_longer(f"{path}.{kind}", value, MAX_VALUE)


def _check_capacity(errors: Errors, path: str, capacity: Object, is_shared: bool) -> None:
    policy = capacity.get("requestPolicy")
    if policy is None:
        return
    path = f"{path}.requestPolicy"
    if not is_shared:
        errors.forbidden(path, "allowMultipleAllocations must be true")
        return
    values, limits, default = (policy.get(f) for f in ("validValues", "validRange", "default"))
    if values and limits is not None:
        detail = 'exactly one policy can be specified, cannot specify "validValues" and '
        errors.forbidden(path, f'{detail}"validRange" at the same time')
    elif (values or limits is not None) and default is None:
        what = "validValues" if values else "validRange"
        errors.required(f"{path}.default", f"required when {what} is defined")
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
            errors.invalid(f"{path}[{index}]", str(two), "values must be sorted in ascending order")
    for here, each in each_item(errors, path, values, MAX_POLICY_VALUES):
        amount = quantity(each)
        if amount is not None and most is not None and amount > most:
            errors.invalid(here, str(amount), f"option is larger than capacity value: {most}")
    if quantity(default) not in found:
        detail = "default value is not valid according to the requestPolicy"
        errors.invalid(path, str(default), detail)


def _check_range(
    errors: Errors, path: str, limits: Mapping[str, Any], default: Any, capacity: Object
) -> None:
    if limits.get("min") is None:
        errors.required(f"{path}.min", "required when validRange is defined")
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
            errors.invalid(f"{path}.{field}", str(value), detail)
    if step is None:
        return
    if (one := least + step) > whole:
        detail = f"one step {one} is larger than capacity value: {whole}"
        errors.invalid(f"{path}.step", str(step), detail)
    for value in (standard, most):
        if value is not None and step.value() and (value.value() - least.value()) % step.value():
            detail = f"value is not a multiple of a given step ({step}) from ({least})"
            errors.invalid(f"{path}.step", str(value), detail)
