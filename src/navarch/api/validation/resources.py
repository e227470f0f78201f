"""Resource names and amounts: what containers, pods, quotas and nodes may ask for."""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import lru_cache

from navarch.api.errors import FieldError, not_supported
from navarch.api.validation.common import (
    NOT_INTEGER,
    Errors,
    Object,
    dns1123_label,
    indexed,
    qualified_name,
    quantity,
)

NAMESPACE = "kubernetes.io/"
CONTAINER_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage"})
COUNTED = frozenset(
    {
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    }
)
QUOTA_RESOURCES = COUNTED | {
    *CONTAINER_RESOURCES,
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
}
STANDARD = QUOTA_RESOURCES | {"storage"}


def is_huge_page(name: str) -> bool:
    return name.startswith("hugepages-")


def is_native(name: str) -> bool:
    """Kubernetes' own resources, as opposed to a vendor's."""
    return "/" not in name or NAMESPACE in name


def may_overcommit(name: str) -> bool:
    """Whether requests may differ from limits."""
    return is_native(name) and not is_huge_page(name)


def is_extended(name: str) -> bool:
    if is_native(name) or name.startswith("requests."):
        return False
    return not qualified_name(f"requests.{name}")


@lru_cache(1024)
def name_problems(name: str) -> tuple[str, ...]:
    problems = qualified_name(name)
    if (
        not problems
        and "/" not in name
        and name not in STANDARD
        and not is_huge_page(name)
        and not name.startswith("requests.hugepages-")
    ):
        return ("must be a standard resource type or fully qualified",)
    return problems


@lru_cache(1024)
def container_name_problems(name: str) -> tuple[str, ...]:
    problems = name_problems(name)
    if "/" not in name:
        if name not in CONTAINER_RESOURCES and not is_huge_page(name):
            return (*problems, "must be a standard resource for containers")
    elif not is_native(name) and not is_extended(name):
        return (*problems, "doesn't follow extended resource name standard")
    return problems


@lru_cache(1024)
def quota_name_problems(name: str) -> tuple[str, ...]:
    problems = name_problems(name)
    if (
        "/" not in name
        and name not in QUOTA_RESOURCES
        and not is_huge_page(name)
        and not name.startswith("requests.hugepages-")
    ):
        return (*problems, "must be a standard resource for quota")
    return problems


def check_amount(errors: Errors, path: str, name: str, text: str) -> None:
    """Not negative, and whole where only whole ones exist."""
    errors.quantity_not_negative(path, text)
    if name in COUNTED or is_extended(name):
        value = quantity(text)
        if value is not None and value.milli_value() % 1000:
            errors.invalid(path, text, NOT_INTEGER)


def check_requirements(
    errors: Errors, path: str, resources: Object, pod_claims: Set[str], pod_level: bool = False
) -> None:
    """Requests, limits and claims of a container, or of a pod as a whole."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    rule = _pod_level_problems if pod_level else None
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, text in amounts.items():
            here = f"{path}.{kind}[{name}]"
            _check_name(errors, here, name, rule)
            check_amount(errors, here, name, text)
            if is_huge_page(name):
                _check_huge_page(errors, here, name, text)
            if kind == "requests":
                _check_against_limit(errors, path, name, text, limits)
    names = {*limits, *requests}
    if any(map(is_huge_page, names)) and not names & {"cpu", "memory"}:
        errors.forbidden(path, "HugePages require cpu or memory")
    if resources.get("claims"):
        if pod_level:
            errors.forbidden(f"{path}.claims", "claims may not be set for Resources at pod-level")
        _check_claims(errors, f"{path}.claims", resources["claims"], pod_claims)


def _check_name(
    errors: Errors, path: str, name: str, rule: Callable[[str, str], FieldError | None] | None
) -> None:
    if rule is None:
        errors.check(path, name, container_name_problems)
        return
    problems = name_problems(name)
    errors.problems(path, name, problems)
    complaint = None if problems else rule(path, name)
    if complaint is not None:
        errors.append(complaint)


def _pod_level_problems(path: str, name: str) -> FieldError | None:
    if name in ("cpu", "memory") or is_huge_page(name):
        return None
    return not_supported(path, name, ("cpu", "hugepages-", "memory"))


def _check_against_limit(errors: Errors, path: str, name: str, text: str, limits: Object) -> None:
    if name not in limits:
        if not may_overcommit(name):
            errors.required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        return
    request, limit = quantity(text), quantity(limits[name])
    if request is None or limit is None or request == limit:
        return
    if not may_overcommit(name):
        errors.invalid(f"{path}.requests", text, f"must be equal to {name} limit of {limits[name]}")
    elif request > limit:
        detail = f"must be less than or equal to {name} limit of {limits[name]}"
        errors.invalid(f"{path}.requests", text, detail)


def _check_huge_page(errors: Errors, path: str, name: str, text: str) -> None:
    size, amount = quantity(name.removeprefix("hugepages-")), quantity(text)
    if size is None or amount is None or size.value() <= 0 or amount.value() % size.value():
        errors.invalid(path, text, f"{text} is not positive integer multiple of {name}")


def _check_claims(errors: Errors, path: str, claims: list[Object], pod_claims: Set[str]) -> None:
    seen: set[str] = set()
    for here, claim in indexed(path, claims):
        name, request = claim.get("name"), claim.get("request") or ""
        if not name:
            errors.required(here)
            continue
        if request:
            errors.check(f"{here}.request", request, dns1123_label)
        key = f"{name}/{request}" if request else name
        overlaps = not request and any(other.partition("/")[0] == name for other in seen)
        if name in seen:
            errors.duplicate(here, name)
        elif key in seen or overlaps:
            errors.duplicate(here, key)
        seen.add(key)
        if name not in pod_claims:
            listed = f": {', '.join(sorted(pod_claims))}" if pod_claims else " which is empty"
            detail = f"must be one of the names in pod.spec.resourceClaims{listed}"
            errors.append(FieldError("FieldValueNotFound", here, f'Not found: "{name}": {detail}'))
