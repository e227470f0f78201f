"""What claims for devices and the slices that offer devices have in common: lists with limits,
names of pools and of what is said about devices."""

from __future__ import annotations

from collections.abc import Iterable

from navarch.api import names
from navarch.api.validation.common import Object, dns1123_subdomain, qualified_name
from navarch.api.validation.fields import Field
from navarch.api.validation.volumes import check_driver_name

MAX_IDENTIFIER = 32
MAX_CONDITIONS = 4
EFFECTS = ("NoExecute", "NoSchedule", "None")


def each_item(items: Field, limit: int) -> Iterable[Field]:
    """The items of a list; none if there are too many."""
    items.at_most(limit)
    return items if len(items) <= limit else ()


def name_of(item: Object) -> str:
    return item.get("name") or ""


def check_pool(name: Field) -> None:
    name.present()
    name.no_longer(253)
    for part in name.value.split("/") if name else ():
        name.showing(part).check(dns1123_subdomain)


def check_qualified(field: Field, name: str) -> None:
    domain, slash, identifier = name.partition("/")
    if not slash:
        domain, identifier = "", name
    elif not domain:
        field.showing("").invalid("the domain must not be empty")
    else:
        check_driver_name(field.showing(domain))
    if slash and not identifier:
        field.showing("").invalid("the name must not be empty")
        return
    field.showing(identifier).no_longer(MAX_IDENTIFIER)
    field.showing(identifier).check(names.c_identifier)


def check_full_name(name: Field) -> None:
    check_qualified(name, name.value)
    if "/" not in name:
        name.invalid("a fully qualified name must be a domain and a name separated by a slash")


def check_binding_conditions(device: Field) -> None:
    conditions, failures = device["bindingConditions"], device["bindingFailureConditions"]
    for found in (conditions, failures):
        for name in each_item(found, MAX_CONDITIONS):
            name.check(qualified_name)
        found.unique(lambda name: name)
    for name in failures:
        if name.value in conditions:
            name.invalid("bindingFailureConditions must not overlap with bindingConditions")
    if failures and not conditions:
        detail = "bindingConditions are required to use bindingFailureConditions"
        conditions.showing(None).invalid(detail)
    elif conditions and not failures:
        detail = "bindingFailureConditions are required to use bindingConditions"
        failures.showing(None).invalid(detail)
