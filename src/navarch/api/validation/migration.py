"""StorageVersionMigrations: written once, and what has ended stays ended."""

from __future__ import annotations

from navarch.api import names
from navarch.api.validation.common import Errors, Object, dns1123_subdomain

_MAX = 2**63


def validate_migration(errors: Errors, obj: Object) -> None:
    wanted = (obj.get("spec") or {}).get("resource") or {}
    here, plural, group = "spec.resource", wanted.get("resource"), wanted.get("group")
    if not plural:
        errors.required(f"{here}.resource", "resource is required to be set")
    else:
        errors.check(f"{here}.resource", plural, names.dns1035_label)
    if group:
        errors.check(f"{here}.group", group, dns1123_subdomain)


def validate_migration_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_migration(errors, obj)
    errors.immutable("spec", obj.get("spec"), old.get("spec"))


def validate_migration_status(errors: Errors, obj: Object, old: Object) -> None:
    status, before = obj.get("status") or {}, old.get("status") or {}
    here, version = "status.resourceVersion", status.get("resourceVersion") or ""
    if version and not (version.isascii() and version.isdigit() and int(version) < _MAX):
        errors.invalid(here, version, f"resource version is not well formed: {version}")
    known = before.get("resourceVersion")
    if known and version != known:
        errors.invalid(here, version, "field is immutable")
    here, conditions = "status.conditions", status.get("conditions") or []
    ended, had_ended = _ended(status), _ended(before)
    if len(ended) == 2:
        detail = "Both success and failed conditions cannot be true at the same time"
        errors.invalid(here, conditions, detail)
    for kind, label in (("Succeeded", "Success"), ("Failed", "Failed")):
        if kind in had_ended and kind not in ended:
            detail = f"{label} condition cannot be set to false once it is true"
            errors.invalid(here, conditions, detail)


def _ended(status: Object) -> set[str]:
    return {
        condition["type"]
        for condition in status.get("conditions") or ()
        if condition.get("type") in ("Succeeded", "Failed") and condition.get("status") == "True"
    }
