"""LimitRanges and ResourceQuotas."""

from __future__ import annotations

from collections.abc import Sequence

from navarch.api.quantity import Quantity
from navarch.api.validation.common import IMMUTABLE, qualified_name, quantity
from navarch.api.validation.fields import Field
from navarch.api.validation.resources import (
    check_amount,
    container_name_problems,
    may_overcommit,
    name_problems,
    quota_name_problems,
)

SCOPES = (
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
)
_BOUNDS = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
LIMIT_TYPES = ("Pod", "Container", "PersistentVolumeClaim")
_COMPUTE = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "requests.", "limits.")
    for name in ("cpu", "memory", "ephemeral-storage")
)
_POD_SCOPES = frozenset({"Terminating", "NotTerminating", "NotBestEffort", "PriorityClass"})
ONLY_EXISTS = (
    "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "
    "ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, "
    "ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)


def validate_limit_range(obj: Field) -> None:
    seen: set[str] = set()
    for limit in obj["spec"]["limits"]:
        kind = limit.text("type")
        kind.label_name()
        is_plain = not qualified_name(kind.value) and "/" not in kind
        if is_plain and kind.value not in LIMIT_TYPES:
            kind.invalid("must be a standard limit type or fully qualified")
        kind.once(seen)
        _check_limit(limit, kind.value)


def _check_limit(limit: Field, kind: str) -> None:
    rule = container_name_problems if kind in ("Pod", "Container") else name_problems
    for field in _BOUNDS:
        if kind == "Pod" and field.startswith("default"):
            if limit.get(field):
                limit[field].forbidden("may not be specified when `type` is 'Pod'")
            continue
        for name, amount in limit[field].entries():
            amount.showing(name).check(rule)
    if kind == "PersistentVolumeClaim" and not any(
        "storage" in field for field in limit.each("min", "max")
    ):
        detail = "either minimum or maximum storage value is required, but neither was provided"
        limit["limits"].required(detail)
    # Defaults of pods, which are forbidden, are compared with nothing.
    bounds = [each for each in _BOUNDS if kind != "Pod" or not each.startswith("default")]
    for name in sorted({name for field in bounds for name in limit.get(field) or ()}):
        _check_limit_order(limit, name, bounds)


def _check_limit_order(limit: Field, name: str, bounds: Sequence[str]) -> None:
    low, high, default, request, ratio = (
        quantity(text)
        if field in bounds and (text := (limit.get(field) or {}).get(name)) is not None
        else None
        for field in ("min", "max", "default", "defaultRequest", "maxLimitRequestRatio")
    )

    def complain(field: str, shown: object, detail: str) -> None:
        limit[field].at(f"[{name}]", str(shown)).invalid(detail)

    for first, second, field, text in (
        (low, high, "min", "min value {} is greater than max value {}"),
        (low, request, "defaultRequest", "min value {} is greater than default request value {}"),
        (request, high, "defaultRequest", "default request value {} is greater than max value {}"),
        (
            request,
            default,
            "defaultRequest",
            "default request value {} is greater than default limit value {}",
        ),
        (low, default, "default", "min value {} is greater than default value {}"),
        (default, high, "default", "default value {} is greater than max value {}"),
    ):
        if first is not None and second is not None and first > second:
            shown = low if field in ("min", "default") and first is low else request or high
            if field == "default" and first is default:
                shown = high
            complain(field, shown, text.format(first, second))
    if ratio is not None and ratio < Quantity.of(1):
        complain("maxLimitRequestRatio", ratio, f"ratio {ratio} is less than 1")
    if ratio is not None and low is not None and high is not None and not low.is_zero():
        most = float(high) / float(low)
        if float(ratio) > most:
            detail = f"ratio {ratio} is greater than max/min = {most:f}"
            complain("maxLimitRequestRatio", ratio, detail)
    if (
        not may_overcommit(name)
        and default is not None
        and request is not None
        and default != request
    ):
        detail = f"default value {default} must equal to defaultRequest value {request} in {name}"
        complain("defaultRequest", request, detail)


def validate_resource_quota(obj: Field) -> None:
    spec = obj["spec"]
    _check_amounts(spec["hard"])
    scopes, hard, selector = spec["scopes"], sorted(spec.get("hard") or ()), spec["scopeSelector"]
    for scope in scopes:
        if scope.value not in SCOPES:
            scopes.invalid("unsupported scope")
        for name in hard:
            if not _scope_fits(scope.value, name):
                scopes.invalid("unsupported scope applied to resource")
    _check_pairs(scopes, scopes.value or ())
    if selector.is_set:
        _check_scope_selector(selector, hard, scopes.value or [])


def _check_amounts(amounts: Field) -> None:
    for name, amount in amounts.entries():
        amount.showing(name).check(quota_name_problems)
        check_amount(amount, name)


def _scope_fits(scope: str, resource: str) -> bool:
    """Scopes select pods, so with them only what pods use can be limited."""
    if quota_name_problems(resource) or "/" in resource:
        return True
    if scope == "BestEffort":
        return resource == "pods"
    if scope == "VolumeAttributesClass":
        return resource in ("persistentvolumeclaims", "requests.storage")
    if scope in _POD_SCOPES or scope == "CrossNamespacePodAffinity":
        return resource == "pods" or resource in _COMPUTE
    return True


def _check_pairs(shown: Field, scopes: Sequence[str]) -> None:
    for pair in (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")):
        if all(scope in scopes for scope in pair):
            shown.invalid("conflicting scopes")


def _check_scope_selector(selector: Field, hard: list[str], scopes: list[str]) -> None:
    expressions = selector["matchExpressions"]
    named: list[str] = []
    for each in expressions:
        expression = expressions.showing(each.value)  # upstream's paths have no index here
        scope, operator = expression.text("scopeName"), expression.text("operator")
        values = expression["values"]
        named.append(scope.value)
        if scope.value not in SCOPES:
            scope.invalid("unsupported scope")
        for name in hard:
            if not _scope_fits(scope.value, name):
                shown = expressions.showing(selector.value)
                shown.invalid("unsupported scope applied to resource")
        has_values = scope.value in ("PriorityClass", "VolumeAttributesClass")
        if scope.value in SCOPES and not has_values and operator.value != "Exists":
            operator.invalid(ONLY_EXISTS)
        if operator.value in ("In", "NotIn"):
            values.present(
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            )
        elif operator.value not in ("Exists", "DoesNotExist"):
            operator.invalid("not a valid selector operator")
        elif values:
            values.invalid(
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
            )
    _check_pairs(expressions.showing(scopes), named)


def validate_resource_quota_update(obj: Field, old: Field) -> None:
    validate_resource_quota(obj)
    scopes = obj["spec"].at("scopes", obj["spec"].get("scopes") or [])
    if set(scopes.value) != set(old["spec"].get("scopes") or ()):
        scopes.invalid(IMMUTABLE)


def validate_resource_quota_status(obj: Field) -> None:
    for field in obj["status"].each("hard", "used"):
        _check_amounts(field)
