"""Resource names and amounts: what containers, pods, quotas and nodes may ask for."""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache

from navarch.api.errors import FieldError
from navarch.api.validation.common import NOT_INTEGER, dns1123_label, qualified_name, quantity
from navarch.api.validation.fields import Field

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


def check_amount(amount: Field, name: str) -> None:
    """Not negative, and whole where only whole ones exist."""
    amount.quantity_not_negative()
    if name in COUNTED or is_extended(name):
        value = quantity(amount.value)
        if value is not None and value.milli_value() % 1000:
            amount.invalid(NOT_INTEGER)


def check_requirements(resources: Field, pod_claims: Set[str], pod_level: bool = False) -> None:
    """Requests, limits and claims of a container, or of a pod as a whole."""
    for kind in ("limits", "requests"):
        for name, amount in resources[kind].entries():
            _check_name(amount.showing(name), pod_level)
            check_amount(amount, name)
            if is_huge_page(name):
                _check_huge_page(amount, name)
            if kind == "requests":
                _check_against_limit(resources, name, amount.value)
    names = {*(resources.get("limits") or ()), *(resources.get("requests") or ())}
    if any(map(is_huge_page, names)) and not names & {"cpu", "memory"}:
        resources.forbidden("HugePages require cpu or memory")
    if claims := resources["claims"]:
        if pod_level:
            claims.forbidden("claims may not be set for Resources at pod-level")
        _check_claims(claims, pod_claims)


def _check_name(name: Field, pod_level: bool) -> None:
    if not pod_level:
        name.check(container_name_problems)
    elif problems := name_problems(name.value):
        name.problems(problems)
    elif name.value not in ("cpu", "memory") and not is_huge_page(name.value):
        name.not_supported(("cpu", "hugepages-", "memory"))


def _check_against_limit(resources: Field, name: str, text: str) -> None:
    limits, shown = resources.get("limits") or {}, resources.at("requests", text)
    if name not in limits:
        if not may_overcommit(name):
            resources["limits"].required("Limit must be set for non overcommitable resources")
        return
    request, limit = quantity(text), quantity(limits[name])
    if request is None or limit is None or request == limit:
        return
    if not may_overcommit(name):
        shown.invalid(f"must be equal to {name} limit of {limits[name]}")
    elif request > limit:
        shown.invalid(f"must be less than or equal to {name} limit of {limits[name]}")


def _check_huge_page(amount: Field, name: str) -> None:
    size, value = quantity(name.removeprefix("hugepages-")), quantity(amount.value)
    if size is None or value is None or size.value() <= 0 or value.value() % size.value():
        amount.invalid(f"{amount.value} is not positive integer multiple of {name}")


def _check_claims(claims: Field, pod_claims: Set[str]) -> None:
    seen: set[str] = set()
    for claim in claims:
        name, request = claim.get("name"), claim.get("request")
        if not name:
            claim.required()
            continue
        claim["request"].check_unless_empty(dns1123_label)
        key = f"{name}/{request}" if request else name
        overlaps = not request and any(other.partition("/")[0] == name for other in seen)
        if name in seen:
            claim.showing(name).duplicate()
        elif key in seen or overlaps:
            claim.showing(key).duplicate()
        seen.add(key)
        if name not in pod_claims:
            listed = f": {', '.join(sorted(pod_claims))}" if pod_claims else " which is empty"
            detail = f"must be one of the names in pod.spec.resourceClaims{listed}"
            message = f'Not found: "{name}": {detail}'
            claim.errors.append(FieldError("FieldValueNotFound", claim.path, message))
