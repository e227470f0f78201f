"""Dynamic resource allocation: claims, their templates, and device classes.

Every list has a limit, and a list that is too long is not looked into. Selectors are compiled when
they are written; those that were stored already are compiled with everything there is.
Source: upstream's `pkg/apis/resource/validation`. Slices are in `device_slices`.
"""

from __future__ import annotations

from typing import Any

from navarch.api.resource_claims import SelectorProblem
from navarch.api.validation.common import (
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
from navarch.api.validation.fields import Field
from navarch.api.validation.meta import validate_template_meta
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

    def __init__(self, devices: Field, stored: bool = False) -> None:
        self._devices = devices
        self._stored = stored
        self.names: dict[str, set[str]] = {
            name_of(each): {name_of(sub) for sub in each.get("firstAvailable") or ()}
            for each in devices.get("requests") or ()
        }

    def check(self) -> None:
        requests, constraints, configs = self._devices.each("requests", "constraints", "config")
        for request in each_item(requests, MAX_REQUESTS):
            self._request(request)
        if len(requests) <= MAX_REQUESTS:
            requests.unique(name_of)
        for each in each_item(constraints, MAX_CONSTRAINTS):
            self.references(each["requests"])
            match, distinct = each["matchAttribute"], each["distinctAttribute"]
            if match.is_set:
                check_full_name(match)
            elif distinct.is_set:
                check_full_name(distinct)
            else:
                detail = 'exactly one of "matchAttribute" or "distinctAttribute" is required'
                each.required(f"{detail}, but multiple fields are set")
        for each in each_item(configs, MAX_CONFIGS):
            self.references(each["requests"])
            check_config(each)

    def references(self, requests: Field) -> None:
        """The requests that a constraint or a configuration is for."""
        for name in each_item(requests, MAX_REQUESTS):
            self.reference(name)
        requests.unique(lambda name: name)

    def reference(self, name: Field) -> None:
        parts = (name.value or "").split("/")
        if len(parts) > 2:
            name.invalid(NO_REQUEST)
            return
        for part in parts:
            name.showing(part).check(dns1123_label)
        known = self.names.get(parts[0])
        if known is None or (len(parts) == 2 and parts[1] not in known):
            name.showing(name.value or "").invalid(NO_REQUEST)

    def _request(self, request: Field) -> None:
        request["name"].check(dns1123_label)
        exactly, choices = request["exactly"], request["firstAvailable"]
        if request.get("deviceClassName"):
            # v1beta1 has the fields of `exactly` in the request itself.
            exactly = exactly.showing(request.value)
        if exactly.is_set and choices:
            request.showing(None).invalid(f"{ONE_KIND}, but multiple fields are set")
        elif exactly.is_set:
            self._one(exactly)
        elif choices:
            for each in each_item(choices, MAX_ALTERNATIVES):
                each["name"].check(dns1123_label)
                self._one(each)
            if len(choices) <= MAX_ALTERNATIVES:
                choices.unique(name_of)
        else:
            request.required(ONE_KIND)

    def _one(self, request: Field) -> None:
        request["deviceClassName"].name(dns1123_subdomain)
        check_selectors(request["selectors"], self._stored)
        mode, count = request.text("allocationMode"), request.number("count")
        mode.optional_choice(MODES)
        if mode.value == "All" and count:
            count.invalid("must not be specified when allocationMode is 'All'")
        if mode.value == "ExactCount" and count.value <= 0:
            count.invalid("must be greater than zero")
        for toleration in each_item(request["tolerations"], MAX_TOLERATIONS):
            _toleration(toleration)


def _toleration(toleration: Field) -> None:
    operator, value, effect = toleration.each("operator", "value", "effect")
    toleration["key"].check_unless_empty(qualified_name)
    operator.choice(("Equal", "Exists"))
    if operator.value == "Exists" and value:
        value.invalid("must be empty for operator `Exists`")
    if operator.value == "Equal":
        value.check(label_value)
    if effect:
        effect.choice(EFFECTS)


def check_selectors(selectors: Field, stored: bool) -> None:
    for each in each_item(selectors, MAX_SELECTORS):
        cel = each["cel"]
        if cel.is_set:
            _check_expression(cel.text("expression"), stored)
        else:
            cel.required()


def _check_expression(expression: Field, stored: bool) -> None:
    # Late, because most servers never see a selector.
    from navarch.api.cel.devices import COST_LIMIT, MAX_BYTES, compile_selector, estimated_cost
    from navarch.api.cel.environment import STORED
    from navarch.api.cel.library import NEW

    if len(expression.value.encode()) > MAX_BYTES:
        expression.too_long(MAX_BYTES)
        return
    try:
        program = compile_selector(expression.value, STORED if stored else NEW)
    except SelectorProblem as problem:
        expression.invalid(str(problem))
        return
    if estimated_cost(program) > COST_LIMIT:
        expression.forbidden("too complex, exceeds cost limit")


def check_config(config: Field) -> None:
    opaque = config["opaque"]
    if not opaque.is_set:
        opaque.required()
        return
    check_driver_name(opaque["driver"])
    _check_json_object(opaque["parameters"])


def _check_json_object(field: Field) -> None:
    import json

    if not field.is_set:
        field.required()
    elif len(json.dumps(field.value, separators=(",", ":"))) > MAX_PARAMETERS:
        field.too_long(MAX_PARAMETERS)
    elif not isinstance(field.value, dict):
        field.showing("<value omitted>").invalid("must be a valid JSON object")


def validate_claim(obj: Field) -> None:
    _Claim(obj["spec"]["devices"]).check()


def validate_spec_update(obj: Field, old: Field) -> None:
    obj.keeps(old, "spec")


def validate_template(obj: Field) -> None:
    validate_template_meta(obj["spec"]["metadata"])
    _Claim(obj["spec"]["spec"]["devices"]).check()


def _device_key(device: Object) -> tuple[Any, ...]:
    return tuple(device.get(field) or "" for field in ("driver", "pool", "device", "shareID"))


def validate_claim_status(obj: Field, old: Field) -> None:
    status, before = obj["status"], old["status"]
    allocation, reserved = status["allocation"], status["reservedFor"]
    for consumer in each_item(reserved, MAX_RESERVED):
        for field in consumer.each("resource", "name", "uid"):
            field.present()
    if len(reserved) <= MAX_RESERVED:
        reserved.unique(lambda each: each.get("uid") or "")
    results = allocation["devices"].get("results") or ()
    _check_devices(status["devices"], {_device_key(each) for each in results})
    if reserved and not allocation.is_set:
        reserved.forbidden("may not be specified when `allocated` is not set")
    is_deleted = bool(obj["metadata"].get("deletionTimestamp"))
    is_more = any(each.value not in before["reservedFor"] for each in reserved)
    if allocation.is_set and is_deleted and is_more:
        detail = "new entries may not be added while `deallocationRequested` or "
        reserved.forbidden(f"{detail}`deletionTimestamp` are set")
    if allocation.is_set and before["allocation"].is_set:
        status.keeps(before, "allocation")
    elif allocation.is_set:
        _check_allocation(_Claim(obj["spec"]["devices"]), allocation)


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


def _check_allocation(claim: _Claim, allocation: Field) -> None:
    devices = allocation["devices"]
    for result in each_item(devices["results"], MAX_RESULTS):
        claim.reference(result["request"])
        _check_device_name(result)
        check_binding_conditions(result)
    for config in each_item(devices["config"], 2 * MAX_CONFIGS):
        config["source"].choice(("FromClaim", "FromClass"))
        claim.references(config["requests"])
        check_config(config)
    if allocation["nodeSelector"].is_set:
        check_node_selector(allocation["nodeSelector"])


def _check_device_name(device: Field) -> None:
    check_driver_name(device["driver"])
    check_pool(device["pool"])
    device["device"].check(dns1123_label)


def _check_devices(devices: Field, allocated: set[tuple[Any, ...]]) -> None:
    """What drivers say of a claim's devices."""
    for device in devices:
        _check_device_name(device)
        key = _device_key(device.value)
        if key not in allocated:
            shown = device.showing("/".join(filter(None, key)))
            shown.invalid("must be an allocated device in the claim")
        device["conditions"].at_most(MAX_STATUS_CONDITIONS)
        if device["data"].is_set:
            _check_json_object(device["data"])
    devices.unique(_device_key)


def validate_class(obj: Field) -> None:
    validate_class_update(obj, Field(None))


def validate_class_update(obj: Field, old: Field) -> None:
    selectors, name = obj["spec"]["selectors"], obj["spec"]["extendedResourceName"]
    is_stored = old.is_set and selectors.value == old["spec"].get("selectors")
    check_selectors(selectors, is_stored)
    for config in each_item(obj["spec"]["config"], MAX_CONFIGS):
        check_config(config)
    if name.is_set and not is_extended(name.value):
        name.invalid("must be a valid extended resource name")
