"""What claims for devices and the slices that offer devices have in common: lists with limits,
names of pools and of what is said about devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from navarch.api import names
from navarch.api.validation.common import Errors, Object, dns1123_subdomain, indexed, qualified_name
from navarch.api.validation.volumes import check_driver_name

MAX_IDENTIFIER = 32
MAX_CONDITIONS = 4
EFFECTS = ("NoExecute", "NoSchedule", "None")


def each_item(
    errors: Errors, path: str, items: Sequence[Any] | None, limit: int
) -> Iterator[tuple[str, Any]]:
    """The items with their paths; none if there are too many."""
    items = items or ()
    if limit >= 0 and len(items) > limit:
        errors.too_many(path, len(items), limit)
        return
    yield from indexed(path, items)


def name_of(item: Object) -> str:
    return item.get("name") or ""


def check_pool(errors: Errors, path: str, name: str) -> None:
    if not name:
        errors.required(path)
        return
    errors.no_longer(path, name, 253)
    for part in name.split("/"):
        errors.check(path, part, dns1123_subdomain)


def check_qualified(errors: Errors, path: str, name: str) -> None:
    domain, slash, identifier = name.partition("/")
    if not slash:
        domain, identifier = "", name
    elif not domain:
        errors.invalid(path, "", "the domain must not be empty")
    else:
        check_driver_name(errors, path, domain)
    if slash and not identifier:
        errors.invalid(path, "", "the name must not be empty")
        return
    errors.no_longer(path, identifier, MAX_IDENTIFIER)
    errors.check(path, identifier, names.c_identifier)


def check_full_name(errors: Errors, path: str, name: str) -> None:
    check_qualified(errors, path, name)
    if "/" not in name:
        detail = "a fully qualified name must be a domain and a name separated by a slash"
        errors.invalid(path, name, detail)


def check_binding_conditions(errors: Errors, path: str, device: Object) -> None:
    conditions = device.get("bindingConditions") or ()
    failures = device.get("bindingFailureConditions") or ()
    for field, found in (("bindingConditions", conditions), ("bindingFailureConditions", failures)):
        for here, name in each_item(errors, f"{path}.{field}", found, MAX_CONDITIONS):
            errors.check(here, name, qualified_name)
        errors.unique(f"{path}.{field}", found, lambda name: name)
    for index, name in enumerate(failures):
        if name in conditions:
            detail = "bindingFailureConditions must not overlap with bindingConditions"
            errors.invalid(f"{path}.bindingFailureConditions[{index}]", name, detail)
    if failures and not conditions:
        detail = "bindingConditions are required to use bindingFailureConditions"
        errors.invalid(f"{path}.bindingConditions", conditions or None, detail)
    elif conditions and not failures:
        detail = "bindingFailureConditions are required to use bindingConditions"
        errors.invalid(f"{path}.bindingFailureConditions", failures or None, detail)
