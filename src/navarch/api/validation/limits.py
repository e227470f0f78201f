"""LimitRanges and ResourceQuotas."""

from __future__ import annotations

from navarch.api.quantity import Quantity
from navarch.api.validation.common import (
    IMMUTABLE,
    Errors,
    Object,
    indexed,
    qualified_name,
    quantity,
)
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


def validate_limit_range(errors: Errors, obj: Object) -> None:
    seen: set[str] = set()
    for here, limit in indexed("spec.limits", (obj.get("spec") or {}).get("limits")):
        kind = limit.get("type") or ""
        problems = qualified_name(kind)
        errors.problems(f"{here}.type", kind, problems)
        if not problems and "/" not in kind and kind not in LIMIT_TYPES:
            errors.invalid(f"{here}.type", kind, "must be a standard limit type or fully qualified")
        errors.once(seen, f"{here}.type", kind)
        _check_limit(errors, here, limit, kind)


def _check_limit(errors: Errors, path: str, limit: Object, kind: str) -> None:
    rule = container_name_problems if kind in ("Pod", "Container") else name_problems
    for field in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
        amounts = limit.get(field) or {}
        if kind == "Pod" and field.startswith("default"):
            if amounts:
                errors.forbidden(f"{path}.{field}", "may not be specified when `type` is 'Pod'")
            continue
        for name in amounts:
            errors.check(f"{path}.{field}[{name}]", name, rule)
    if kind == "PersistentVolumeClaim" and (
        not any("storage" in (limit.get(field) or {}) for field in ("min", "max"))
    ):
        detail = "either minimum or maximum storage value is required, but neither was provided"
        errors.required(f"{path}.limits", detail)
    resources = {
        name
        for field in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
        for name in limit.get(field) or ()
    }
    for name in sorted(resources):
        _check_limit_order(errors, path, limit, name)


def _check_limit_order(errors: Errors, path: str, limit: Object, name: str) -> None:
    def amount(field: str) -> Quantity | None:
        text = (limit.get(field) or {}).get(name)
        return quantity(text) if text is not None else None

    low, high = amount("min"), amount("max")
    default, request, ratio = (
        amount("default"),
        amount("defaultRequest"),
        amount("maxLimitRequestRatio"),
    )
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
            detail = text.format(first, second)
            errors.invalid(f"{path}.{field}[{name}]", str(shown), detail)
    here = f"{path}.maxLimitRequestRatio[{name}]"
    if ratio is not None and ratio < Quantity.of(1):
        errors.invalid(here, str(ratio), f"ratio {ratio} is less than 1")
    if ratio is not None and low is not None and high is not None and not low.is_zero():
        most = float(high) / float(low)
        if float(ratio) > most:
            errors.invalid(here, str(ratio), f"ratio {ratio} is greater than max/min = {most:f}")
    if (
        not may_overcommit(name)
        and default is not None
        and request is not None
        and default != request
    ):
        detail = f"default value {default} must equal to defaultRequest value {request} in {name}"
        errors.invalid(f"{path}.defaultRequest[{name}]", str(request), detail)


def validate_resource_quota(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _check_amounts(errors, "spec.hard", spec.get("hard") or {})
    scopes, hard = spec.get("scopes") or [], spec.get("hard") or {}
    for scope in scopes:
        if scope not in SCOPES:
            errors.invalid("spec.scopes", scopes, "unsupported scope")
        for name in sorted(hard):
            if not _scope_fits(scope, name):
                errors.invalid("spec.scopes", scopes, "unsupported scope applied to resource")
    _check_pairs(errors, "spec.scopes", scopes, scopes)
    selector = spec.get("scopeSelector")
    if selector is not None:
        _check_scope_selector(errors, selector, hard, scopes)


def _check_amounts(errors: Errors, path: str, amounts: Object) -> None:
    for name, text in amounts.items():
        here = f"{path}[{name}]"
        errors.check(here, name, quota_name_problems)
        check_amount(errors, here, name, text)


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


def _check_pairs(errors: Errors, path: str, scopes: list[str], shown: object) -> None:
    for pair in (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")):
        if all(scope in scopes for scope in pair):
            errors.invalid(path, shown, "conflicting scopes")


def _check_scope_selector(
    errors: Errors, selector: Object, hard: Object, scopes: list[str]
) -> None:
    here = "spec.scopeSelector.matchExpressions"
    named: list[str] = []
    for expression in selector.get("matchExpressions") or ():
        scope, operator = expression.get("scopeName") or "", expression.get("operator") or ""
        values = expression.get("values") or ()
        named.append(scope)
        if scope not in SCOPES:
            errors.invalid(f"{here}.scopeName", scope, "unsupported scope")
        for name in sorted(hard):
            if not _scope_fits(scope, name):
                errors.invalid(here, selector, "unsupported scope applied to resource")
        if (
            scope in SCOPES
            and scope not in ("PriorityClass", "VolumeAttributesClass")
            and operator != "Exists"
        ):
            errors.invalid(f"{here}.operator", operator, ONLY_EXISTS)
        if operator in ("In", "NotIn"):
            if not values:
                detail = (
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope "
                    "selector"
                )
                errors.required(f"{here}.values", detail)
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                detail = (
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope "
                    "selector"
                )
                errors.invalid(f"{here}.values", values, detail)
        else:
            errors.invalid(f"{here}.operator", operator, "not a valid selector operator")
    _check_pairs(errors, here, named, scopes)


def validate_resource_quota_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_resource_quota(errors, obj)
    new, before = obj["spec"].get("scopes") or [], old["spec"].get("scopes") or []
    if set(new) != set(before):
        errors.invalid("spec.scopes", new, IMMUTABLE)


def validate_resource_quota_status(errors: Errors, obj: Object) -> None:
    status = obj.get("status") or {}
    for field in ("hard", "used"):
        _check_amounts(errors, f"status.{field}", status.get(field) or {})
