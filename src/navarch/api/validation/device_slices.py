"""Resource slices: the devices that drivers offer, with what is said about each.
Source: upstream's `pkg/apis/resource/validation`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from navarch.api.quantity import Quantity
from navarch.api.validation.common import (
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
from navarch.api.validation.fields import Field
from navarch.api.validation.go_values import shown_as
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


def validate_slice(obj: Field) -> None:
    spec = obj["spec"]
    _check_pool(spec)
    _check_contents(spec)


def validate_slice_update(obj: Field, old: Field) -> None:
    spec, before = obj["spec"], old["spec"]
    _check_pool(spec)
    spec["pool"].keeps(before["pool"], "name")
    spec.keeps(before, "driver", "nodeName")
    _check_contents(spec)


def _check_pool(spec: Field) -> None:
    check_driver_name(spec["driver"])
    check_pool(spec["pool"]["name"])
    count, generation = spec["pool"].number("resourceSliceCount"), spec["pool"].number("generation")
    if count.value <= 0:
        count.invalid("must be greater than zero")
    if generation.value < 0:
        generation.invalid("must be greater than or equal to zero")


def _check_contents(spec: Field) -> None:
    _check_places(spec, PLACES)
    devices, counters = spec["devices"], spec["sharedCounters"]
    if counters and devices:
        spec.showing("").invalid("only one of `sharedCounters` or `devices` is allowed")
    bodies = [_body(each.value) for each in devices]
    is_advanced = any(each.get("taints") or each.get("consumesCounters") for each in bodies)
    limit = MAX_ADVANCED_DEVICES if is_advanced else MAX_DEVICES
    for device in each_item(devices, limit):
        _check_device(device, bool(spec.get("perDeviceNodeSelection")))
    if len(devices) <= limit:
        devices.unique(name_of)
    for counter_set in each_item(counters, MAX_COUNTER_SETS):
        counter_set["name"].name(dns1123_label)
        _check_counters(counter_set["counters"])
    counters.unique(name_of)


def _check_places(holder: Field, fields: Sequence[str]) -> None:
    """Exactly one way to say which nodes reach it."""
    chosen = []
    node, selector = holder["nodeName"], holder["nodeSelector"]
    if node:
        chosen.append("`nodeName`")
        node.check(dns1123_subdomain)
    elif node.is_set:
        node.invalid("must be either unset or set to a non-empty string")
    if selector.is_set:
        chosen.append("`nodeSelector`")
        check_node_selector(selector)
        terms = selector["nodeSelectorTerms"]
        if len(terms) != 1:
            terms.invalid("must have exactly one node selector term")
    for field in fields[2:]:
        if holder.get(field):
            chosen.append(f"`{field}`")
        elif holder.get(field) is not None:
            holder[field].invalid("must be either unset or set to true")
    if len(fields) == len(PLACES):
        quoted = ", ".join(f"`{field}`" for field in fields)
        detail, more = f"exactly one of {quoted} is required", ", but multiple fields are set"
    else:
        detail, more = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required", ""
        detail += " when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
    if not chosen:
        holder.required(detail)
    elif len(chosen) > 1:
        holder.showing(f"{{{', '.join(chosen)}}}").invalid(detail + more)


def _body(device: Object) -> Object:
    """v1beta1 has a device's fields one level deeper."""
    return device.get("basic") or device


def _check_device(field: Field, selects_nodes: bool) -> None:
    field["name"].check(dns1123_label)
    device = field.showing(_body(field.value))
    attributes, capacity = device["attributes"], device["capacity"]
    if (count := len(attributes) + len(capacity)) > MAX_NAMES:
        detail = f"the total number of attributes and capacities must not exceed {MAX_NAMES}"
        device.showing(count).invalid(detail)
    for name, attribute in attributes.entries():
        check_qualified(attributes, name)
        _check_attribute(attribute)
    for name, amount in capacity.entries():
        check_qualified(capacity, name)
        _check_capacity(amount, bool(device.get("allowMultipleAllocations")))
    for taint in each_item(device["taints"], MAX_TAINTS):
        taint["key"].check(qualified_name)
        taint["value"].check(label_value)
        taint["effect"].choice(EFFECTS)
    consumed = device["consumesCounters"]
    for each in each_item(consumed, MAX_CONSUMED):
        each["counterSet"].name(dns1123_label)
        _check_counters(each["counters"])
    consumed.unique(lambda each: each.get("counterSet") or "")
    if selects_nodes:
        _check_places(device, PLACES[:3])
    elif any(device.get(place) is not None for place in PLACES[:3]):
        detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if "
        detail += "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        device.showing(None).invalid(detail)
    check_binding_conditions(device)


def _check_counters(counters: Field) -> None:
    counters.present()
    counters.at_most(MAX_COUNTERS)
    if len(counters) <= MAX_COUNTERS:
        for name, _ in counters.entries():
            counters.showing(name).check(dns1123_label)


def _check_attribute(attribute: Field) -> None:
    given = [each for each in attribute.each("int", "bool", "string", "version") if each.is_set]
    if len(given) != 1:
        shown = shown_as(attribute, "resource_v1.DeviceAttribute")
        (shown if given else attribute.showing("")).invalid("exactly one value must be specified")
    version = attribute["version"]
    attribute["string"].no_longer(MAX_VALUE)
    if version.is_set and SEMVER.fullmatch(version.value) is None:
        version.invalid("must be a string compatible with semver.org spec 2.0.0")
    version.no_longer(MAX_VALUE)


def _check_capacity(capacity: Field, is_shared: bool) -> None:
    policy = capacity["requestPolicy"]
    if not policy.is_set:
        return
    if not is_shared:
        policy.forbidden("allowMultipleAllocations must be true")
        return
    values, limits, default = policy.each("validValues", "validRange", "default")
    whole = quantity(capacity.get("value"))
    if values and limits.is_set:
        detail = 'exactly one policy can be specified, cannot specify "validValues" and '
        policy.forbidden(f'{detail}"validRange" at the same time')
    elif (values or limits.is_set) and not default.is_set:
        what = "validValues" if values else "validRange"
        default.required(f"required when {what} is defined")
    elif values:
        _check_values(values, default.value, whole)
    elif limits.is_set:
        _check_range(limits, quantity(default.value), whole)


def _check_values(values: Field, default: str, most: Quantity | None) -> None:
    found = [quantity(each.value) for each in values]
    for index, (one, two) in enumerate(pairwise(found), 1):
        if one is not None and two is not None and one > two:
            place = values.at(f"[{index}]", str(two))
            place.invalid("values must be sorted in ascending order")
    for each, amount in zip(each_item(values, MAX_POLICY_VALUES), found, strict=False):
        if amount is not None and most is not None and amount > most:
            each.showing(str(amount)).invalid(f"option is larger than capacity value: {most}")
    if quantity(default) not in found:
        detail = "default value is not valid according to the requestPolicy"
        values.showing(str(default)).invalid(detail)


def _check_range(limits: Field, standard: Quantity | None, whole: Quantity | None) -> None:
    if not limits["min"].is_set:
        limits["min"].required("required when validRange is defined")
        return
    least, most, step = (
        quantity(each.value) if each else None for each in limits.each("min", "max", "step")
    )
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
            limits.at(field, str(value)).invalid(detail)
    if step is None:
        return
    if (one := least + step) > whole:
        detail = f"one step {one} is larger than capacity value: {whole}"
        limits.at("step", str(step)).invalid(detail)
    for value in (standard, most):
        if value is not None and step.value() and (value.value() - least.value()) % step.value():
            detail = f"value is not a multiple of a given step ({step}) from ({least})"
            limits.at("step", str(value)).invalid(detail)
