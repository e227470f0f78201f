"""StorageVersionMigrations: written once, and what has ended stays ended."""

from __future__ import annotations

from navarch.api import names
from navarch.api.validation.common import dns1123_subdomain
from navarch.api.validation.fields import Field

_MAX = 2**63


def validate_migration(obj: Field) -> None:
    wanted = obj["spec"]["resource"]
    wanted["resource"].name(names.dns1035_label, "resource is required to be set")
    wanted["group"].check_unless_empty(dns1123_subdomain)


def validate_migration_update(obj: Field, old: Field) -> None:
    validate_migration(obj)
    obj.keeps(old, "spec")


def validate_migration_status(obj: Field, old: Field) -> None:
    version, conditions = obj["status"].text("resourceVersion"), obj["status"]["conditions"]
    text = version.value
    if text and not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < _MAX):
        version.invalid(f"resource version is not well formed: {text}")
    if known := old["status"].get("resourceVersion"):
        version.immutable(known)
    conditions = conditions.showing(conditions.value or [])
    ended, had_ended = _ended(conditions), _ended(old["status"]["conditions"])
    if len(ended) == 2:
        detail = "Both success and failed conditions cannot be true at the same time"
        conditions.invalid(detail)
    for kind, label in (("Succeeded", "Success"), ("Failed", "Failed")):
        if kind in had_ended and kind not in ended:
            conditions.invalid(f"{label} condition cannot be set to false once it is true")


def _ended(conditions: Field) -> set[str]:
    return {
        condition.get("type")
        for condition in conditions
        if condition.get("type") in ("Succeeded", "Failed") and condition.get("status") == "True"
    }
