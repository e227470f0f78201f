"""Nodes and namespaces."""

from __future__ import annotations

import json

from navarch.api.validation.fields import Field
from navarch.api.validation.meta import NOT_STANDARD, is_standard
from navarch.api.validation.resources import check_amount
from navarch.api.validation.scheduling import check_taints

POD_RANGES = 'node updates may not change podCIDR except from "" to valid'


def validate_node(obj: Field) -> None:
    spec = obj["spec"]
    check_taints(obj["metadata"].at("taints", spec.get("taints")))
    _check_resources(obj["status"])
    ranges = spec["podCIDRs"]
    for each in ranges:
        each.cidr()
    families = {":" in each for each in ranges}
    if len(ranges) > 1 and (len(ranges) > 2 or len(families) < 2):
        ranges.invalid("may specify no more than one CIDR for each IP family")


def _check_resources(status: Field) -> None:
    for field in status.each("capacity", "allocatable"):
        for name, amount in (field.value or {}).items():
            check_amount(field.at(name, amount), name)


def validate_node_update(obj: Field, old: Field) -> None:
    _check_resources(obj["status"])
    seen: set[str] = set()
    for address in obj["status"]["addresses"]:
        key = json.dumps(address.value, sort_keys=True)
        if key in seen:
            address.duplicate()
        seen.add(key)
    spec, before = obj["spec"], old["spec"]
    if before.get("podCIDRs") and spec.get("podCIDRs") != before.get("podCIDRs"):
        spec["podCIDRs"].forbidden(POD_RANGES)
    if before.get("providerID") and spec.get("providerID") != before.get("providerID"):
        detail = 'node updates may not change providerID except from "" to valid'
        spec["providerID"].forbidden(detail)
    if spec.get("externalID") != before.get("externalID"):
        spec["externalID"].forbidden("may not be updated")
    for each in spec["podCIDRs"] if not before.get("podCIDRs") else ():
        each.cidr()
    check_taints(obj["metadata"].at("taints", spec.get("taints")))


def validate_namespace_finalizers(obj: Field) -> None:
    finalizers = obj["spec"]["finalizers"]
    for each in finalizers:
        finalizer = finalizers.showing(each.value)
        finalizer.label_name()
        if not is_standard(each.value):
            finalizer.invalid(NOT_STANDARD)


def validate_namespace_status(obj: Field) -> None:
    phase = obj["status"].at("Phase", obj["status"].get("phase") or "")
    if obj["metadata"].get("deletionTimestamp"):
        if phase.value != "Terminating":
            phase.invalid("may only be 'Terminating' if `deletionTimestamp` is not empty")
    elif phase.value != "Active":
        phase.invalid("may only be 'Active' if `deletionTimestamp` is empty")
