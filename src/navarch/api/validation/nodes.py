"""Nodes and namespaces."""

from __future__ import annotations

import json

from navarch.api.errors import FieldError, invalid
from navarch.api.validation.common import Errors, Object
from navarch.api.validation.meta import check_finalizer
from navarch.api.validation.resources import check_amount
from navarch.api.validation.scheduling import check_taints

POD_RANGES = 'node updates may not change podCIDR except from "" to valid'


def validate_node(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    check_taints(errors, "metadata.taints", spec.get("taints") or ())
    _check_resources(errors, obj)
    ranges = spec.get("podCIDRs") or []
    for index, each in enumerate(ranges):
        errors.cidr(f"spec.podCIDRs[{index}]", each)
    families = {":" in each for each in ranges}
    if len(ranges) > 1 and (len(ranges) > 2 or len(families) < 2):
        detail = "may specify no more than one CIDR for each IP family"
        errors.invalid("spec.podCIDRs", ranges, detail)


def _check_resources(errors: Errors, obj: Object) -> None:
    status = obj.get("status") or {}
    for field in ("capacity", "allocatable"):
        for name, amount in (status.get(field) or {}).items():
            check_amount(errors, f"status.{field}.{name}", name, amount)


def validate_node_update(errors: Errors, obj: Object, old: Object) -> None:
    _check_resources(errors, obj)
    seen: set[str] = set()
    for index, address in enumerate((obj.get("status") or {}).get("addresses") or ()):
        key = json.dumps(address, sort_keys=True)
        if key in seen:
            errors.duplicate(f"status.addresses[{index}]", address)
        seen.add(key)
    new, before = obj.get("spec") or {}, old.get("spec") or {}
    if before.get("podCIDRs") and new.get("podCIDRs") != before["podCIDRs"]:
        errors.forbidden("spec.podCIDRs", POD_RANGES)
    if before.get("providerID") and new.get("providerID") != before["providerID"]:
        detail = 'node updates may not change providerID except from "" to valid'
        errors.forbidden("spec.providerID", detail)
    if new.get("externalID") != before.get("externalID"):
        errors.forbidden("spec.externalID", "may not be updated")
    if not before.get("podCIDRs"):
        for index, each in enumerate(new.get("podCIDRs") or ()):
            errors.cidr(f"spec.podCIDRs[{index}]", each)
    check_taints(errors, "metadata.taints", new.get("taints") or ())


def validate_namespace_finalizers(obj: Object) -> Errors:
    errors = Errors()
    for finalizer in (obj.get("spec") or {}).get("finalizers") or ():
        check_finalizer(errors, "spec.finalizers", finalizer)
    return errors


def validate_namespace_status(obj: Object) -> list[FieldError]:
    phase = (obj.get("status") or {}).get("phase") or ""
    if obj["metadata"].get("deletionTimestamp"):
        if phase != "Terminating":
            detail = "may only be 'Terminating' if `deletionTimestamp` is not empty"
            return [invalid("status.Phase", phase, detail)]
    elif phase != "Active":
        detail = "may only be 'Active' if `deletionTimestamp` is empty"
        return [invalid("status.Phase", phase, detail)]
    return []
