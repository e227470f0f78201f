"""Disruption budgets, autoscalers, priority and runtime classes, leases, flow control."""

from __future__ import annotations

from typing import Any

from navarch.api import names
from navarch.api.validation.common import (
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    indexed,
    quantity,
)
from navarch.api.validation.resources import check_requirements
from navarch.api.validation.scheduling import check_tolerations

HIGHEST_USER_PRIORITY = 1_000_000_000
SYSTEM_CLASSES = {
    "system-cluster-critical": 2 * HIGHEST_USER_PRIORITY,
    "system-node-critical": 2 * HIGHEST_USER_PRIORITY + 1000,
}


def validate_disruption_budget(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        errors.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for field in ("minAvailable", "maxUnavailable"):
        if spec.get(field) is not None:
            errors.int_or_percent(f"spec.{field}", spec[field])
            errors.not_more_than_all(f"spec.{field}", spec[field])
    errors.label_selector("spec.selector", spec.get("selector"))
    policy = spec.get("unhealthyPodEvictionPolicy")
    choices = ("AlwaysAllow", "IfHealthyBudget")
    errors.optional_choice("spec.unhealthyPodEvictionPolicy", policy, choices)


def validate_disruption_budget_status(errors: Errors, obj: Object) -> None:
    status = obj.get("status") or {}
    for field in ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"):
        errors.not_negative(f"status.{field}", status.get(field))


def _check_target(errors: Errors, path: str, reference: Object) -> None:
    for field in ("kind", "name"):
        errors.name(f"{path}.{field}", reference.get(field), names.path_segment_name)
    version = reference.get("apiVersion") or ""
    if version.count("/") > 1:
        errors.invalid(f"{path}.apiVersion", version, f"unexpected GroupVersion string: {version}")


def _check_range_and_target(errors: Errors, spec: Object, old: Object | None) -> None:
    low, high = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    # As upstream without the HPAScaleToZero gate, which is off by default.
    least = 0 if ((old or {}).get("spec") or {}).get("minReplicas") == 0 else 1
    if low is not None and low < least:
        errors.invalid("spec.minReplicas", low, f"must be greater than or equal to {least}")
    if high == 0:
        errors.required("spec.maxReplicas", "must be set and greater than 0")
    elif high < 0:
        errors.invalid("spec.maxReplicas", high, "must be greater than or equal to 1")
    if low is not None and high < low:
        errors.invalid("spec.maxReplicas", high, "must be greater than or equal to `minReplicas`")
    target = spec.get("scaleTargetRef") or {}
    _check_target(errors, "spec.scaleTargetRef", target)
    before = ((old or {}).get("spec") or {}).get("scaleTargetRef") or {}
    version, kind = target.get("apiVersion") or "", target.get("kind")
    # Of what can be scaled only ReplicationControllers are of the core group; autoscalers from
    # before this was checked may stay as they are.
    is_kept = old is not None and (before.get("apiVersion") or "", before.get("kind")) == (
        version,
        kind,
    )
    if not is_kept and kind != "ReplicationController" and "/" not in version:
        detail = "apiVersion must specify API group"
        errors.invalid("spec.scaleTargetRef.apiVersion", version, detail)


def validate_autoscaler_v1(errors: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj.get("spec") or {}
    _check_range_and_target(errors, spec, old)
    percent = spec.get("targetCPUUtilizationPercentage")
    if percent is not None and percent < 1:
        errors.invalid("spec.targetCPUUtilizationPercentage", percent, "must be greater than 0")


def validate_autoscaler(errors: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj.get("spec") or {}
    _check_range_and_target(errors, spec, old)
    for index, metric in enumerate(spec.get("metrics") or ()):
        _check_metric(errors, f"spec.metrics[{index}]", metric)
    behavior = spec.get("behavior") or {}
    for field in ("scaleUp", "scaleDown"):
        if behavior.get(field) is not None:
            _check_scaling(errors, f"spec.behavior.{field}", behavior[field])


_METRICS = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}


def _check_metric(errors: Errors, path: str, metric: Object) -> None:
    kind = metric.get("type") or ""
    if not kind:
        errors.required(f"{path}.type", "must specify a metric source type")
    elif kind not in _METRICS:
        errors.not_supported(f"{path}.type", kind, tuple(_METRICS))
    wanted = _METRICS.get(kind)
    for field in _METRICS.values():
        if field != wanted and metric.get(field) is not None:
            errors.forbidden(f"{path}.{field}", "must populate the given metric source only")
    if wanted is None:
        return
    source, here = metric.get(wanted), f"{path}.{wanted}"
    if source is None:
        errors.required(here, "must populate information for the given metric source")
        return
    if wanted in ("resource", "containerResource"):
        errors.present(f"{here}.name", source.get("name"), "must specify a resource name")
        if wanted == "containerResource" and not source.get("container"):
            errors.required(f"{here}.container", "must specify a container")
    else:
        identifier = source.get("metric") or {}
        detail = "must specify a metric name"
        errors.name(f"{here}.metric.name", identifier.get("name"), names.path_segment_name, detail)
        errors.label_selector(f"{here}.metric.selector", identifier.get("selector"))
    if wanted == "object":
        _check_target(errors, f"{here}.describedObject", source.get("describedObject") or {})
    _check_metric_target(errors, f"{here}.target", source.get("target") or {}, wanted)


def _check_metric_target(errors: Errors, path: str, target: Object, source: str) -> None:
    kind = target.get("type")
    if not kind:
        errors.required(f"{path}.type", "must specify a metric target type")
    elif kind not in ("Utilization", "Value", "AverageValue"):
        errors.invalid(f"{path}.type", kind, "must be either Utilization, Value, or AverageValue")
    for field in ("value", "averageValue"):
        if target.get(field) is not None:
            amount = quantity(target[field])
            if amount is None or amount.sign() != 1:
                errors.invalid(f"{path}.{field}", target[field], "must be positive")
    utilization, average = target.get("averageUtilization"), target.get("averageValue")
    if utilization is not None and utilization < 1:
        errors.invalid(f"{path}.averageUtilization", utilization, "must be greater than 0")
    if source in ("resource", "containerResource"):
        if utilization is None and average is None:
            detail = "must set either a target raw value or a target utilization"
            errors.required(f"{path}.averageUtilization", detail)
        if utilization is not None and average is not None:
            detail = "may not set both a target raw value and a target utilization"
            errors.forbidden(f"{path}.averageValue", detail)
    elif source == "pods":
        if average is None:
            errors.required(f"{path}.averageValue", "must specify a positive target averageValue")
    elif target.get("value") is None and average is None:
        detail = "must set either a target value or averageValue"
        if source == "external":
            detail = "must set either a target value for metric or a per-pod target"
        errors.required(f"{path}.averageValue", detail)


def _check_scaling(errors: Errors, path: str, rules: Object) -> None:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and window < 0:
        detail = "must be greater than or equal to zero"
        errors.invalid(f"{path}.stabilizationWindowSeconds", window, detail)
    if window is not None and window > 3600:
        detail = "must be less than or equal to 3600"
        errors.invalid(f"{path}.stabilizationWindowSeconds", window, detail)
    choices = ("Disabled", "Max", "Min")
    errors.optional_choice(f"{path}.selectPolicy", rules.get("selectPolicy"), choices)
    errors.present(f"{path}.policies", rules.get("policies"), "must specify at least one Policy")
    for here, policy in indexed(f"{path}.policies", rules.get("policies")):
        period = policy.get("periodSeconds") or 0
        errors.optional_choice(f"{here}.type", policy.get("type") or "", ("Percent", "Pods"))
        if (policy.get("value") or 0) <= 0:
            errors.invalid(f"{here}.value", policy.get("value") or 0, "must be greater than zero")
        if period <= 0:
            errors.invalid(f"{here}.periodSeconds", period, "must be greater than zero")
        if period > 1800:
            errors.invalid(f"{here}.periodSeconds", period, "must be less than or equal to 1800")


def validate_priority_class(errors: Errors, obj: Object) -> None:
    name, value = obj["metadata"].get("name") or "", obj.get("value") or 0
    if name.startswith("system-"):
        if SYSTEM_CLASSES.get(name) != value or obj.get("globalDefault"):
            known = SYSTEM_CLASSES.get(name)
            why = f"{name} is not a known system priority class"
            if known is not None:
                why = f"value of {name} PriorityClass must be {known}"
                if known == value:
                    why = f"globalDefault of {name} PriorityClass must be false"
            detail = (
                "priority class names with 'system-' prefix are reserved for system use only. "
                f"error: {why}"
            )
            errors.forbidden("metadata.name", detail)
    elif value > HIGHEST_USER_PRIORITY:
        detail = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        errors.forbidden("value", detail)
    policy, choices = obj.get("preemptionPolicy"), ("PreemptLowerPriority", "Never")
    errors.optional_choice("preemptionPolicy", policy, choices)


def validate_priority_class_update(errors: Errors, obj: Object, old: Object) -> None:
    if (obj.get("value") or 0) != (old.get("value") or 0):
        errors.forbidden("value", "may not be changed in an update.")
    new, before = obj.get("preemptionPolicy"), old.get("preemptionPolicy")
    errors.immutable("preemptionPolicy", new, before)


def validate_runtime_class(errors: Errors, obj: Object) -> None:
    errors.name("handler", obj.get("handler"), dns1123_label)
    overhead = (obj.get("overhead") or {}).get("podFixed")
    if overhead:
        check_requirements(errors, "overhead.podFixed", {"limits": overhead}, set())
    scheduling = obj.get("scheduling") or {}
    errors.labels("scheduling.nodeSelector", scheduling.get("nodeSelector"))
    tolerations = scheduling.get("tolerations") or ()
    check_tolerations(errors, "scheduling.tolerations", tolerations)
    for index, toleration in enumerate(tolerations):
        if toleration in tolerations[:index]:
            errors.duplicate(f"scheduling.tolerations[{index}]", toleration)


def validate_runtime_class_update(errors: Errors, obj: Object, old: Object) -> None:
    errors.immutable("handler", obj.get("handler"), old.get("handler"))


def validate_lease(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    seconds, strategy = spec.get("leaseDurationSeconds"), spec.get("strategy")
    if seconds is not None and seconds <= 0:
        errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    errors.not_negative("spec.leaseTransitions", spec.get("leaseTransitions"))
    if strategy is not None:
        _check_lease_strategy(errors, strategy)
    if spec.get("preferredHolder") and not strategy:
        errors.forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined")


def _check_lease_strategy(errors: Errors, strategy: str) -> None:
    if "/" in strategy:
        errors.check("spec.strategy.strategy", strategy, names.qualified_name)
    elif strategy != "OldestEmulationVersion":
        errors.not_supported("spec.strategy.strategy", strategy, ("OldestEmulationVersion",))


def validate_lease_candidate(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    for field in ("leaseName", "binaryVersion", "strategy"):
        errors.present(f"spec.{field}", spec.get(field))
    if spec.get("strategy"):
        _check_lease_strategy(errors, spec["strategy"])


def validate_flow_schema(errors: Errors, obj: Object) -> None:
    spec, name = obj.get("spec") or {}, obj["metadata"].get("name")
    precedence, here = spec.get("matchingPrecedence") or 0, "spec.matchingPrecedence"
    if precedence <= 0:
        errors.invalid(here, precedence, "must be a positive value")
    if precedence > 10000:
        errors.invalid(here, precedence, "must not be greater than 10000")
    if precedence == 1 and name != "exempt":
        detail = "only the schema named 'exempt' may have matchingPrecedence 1"
        errors.invalid(here, precedence, detail)
    method = (spec.get("distinguisherMethod") or {}).get("type")
    if spec.get("distinguisherMethod") is not None and method not in ("ByNamespace", "ByUser"):
        choices = ("ByNamespace", "ByUser")
        errors.not_supported("spec.distinguisherMethod.type", method or "", choices)
    level = (spec.get("priorityLevelConfiguration") or {}).get("name")
    detail = "must reference a priority level"
    errors.name("spec.priorityLevelConfiguration.name", level, dns1123_subdomain, detail)
    for index, rule in enumerate(spec.get("rules") or ()):
        _check_flow_rule(errors, f"spec.rules[{index}]", rule)


def _check_flow_rule(errors: Errors, path: str, rule: Object) -> None:
    if not rule.get("subjects"):
        errors.required(f"{path}.subjects", "subjects must contain at least one value")
    for index, subject in enumerate(rule.get("subjects") or ()):
        _check_flow_subject(errors, f"{path}.subjects[{index}]", subject)
    if not rule.get("resourceRules") and not rule.get("nonResourceRules"):
        detail = "at least one of resourceRules and nonResourceRules has to be non-empty"
        errors.required(path, detail)
    for here, each in indexed(f"{path}.resourceRules", rule.get("resourceRules")):
        _check_flow_values(errors, f"{here}.verbs", each.get("verbs"), "verbs")
        _check_flow_values(errors, f"{here}.apiGroups", each.get("apiGroups"), "api groups")
        _check_flow_values(errors, f"{here}.resources", each.get("resources"), "resources")
        if not each.get("namespaces") and not each.get("clusterScope"):
            detail = "resource rules that are not cluster scoped must supply at least one namespace"
            errors.required(f"{here}.namespaces", detail)
    for here, each in indexed(f"{path}.nonResourceRules", rule.get("nonResourceRules")):
        urls = each.get("nonResourceURLs")
        _check_flow_values(errors, f"{here}.verbs", each.get("verbs"), "verbs")
        _check_flow_values(errors, f"{here}.nonResourceURLs", urls, "non-resource URLs")


def _check_flow_values(errors: Errors, path: str, values: Any, what: str) -> None:
    field = path.rpartition(".")[2]
    if not values:
        errors.required(path, f"{field} must contain at least one value")
    elif len(values) > 1 and "*" in values:
        errors.invalid(path, values, f"if '*' is present, must not specify other {what}")


def _check_flow_subject(errors: Errors, path: str, subject: Object) -> None:
    kinds = {"Group": "group", "ServiceAccount": "serviceAccount", "User": "user"}
    kind = subject.get("kind") or ""
    if kind not in kinds:
        errors.not_supported(f"{path}.kind", kind, tuple(kinds))
        return
    for other, field in kinds.items():
        value = subject.get(field)
        if other != kind and value is not None:
            detail = f"{field} is forbidden when subject kind is not '{other}'"
            errors.forbidden(f"{path}.{field}", detail)
        if other != kind:
            continue
        if value is None:
            errors.required(f"{path}.{field}", f"{field} is required when subject kind is '{kind}'")
        else:
            errors.present(f"{path}.{field}.name", value.get("name"))
            if kind == "ServiceAccount" and not value.get("namespace"):
                detail = "must specify namespace for service account"
                errors.required(f"{path}.{field}.namespace", detail)


def validate_priority_level(errors: Errors, obj: Object) -> None:
    spec, name = obj.get("spec") or {}, obj["metadata"].get("name")
    kind = spec.get("type") or ""
    if (name == "exempt") != (kind == "Exempt"):
        errors.invalid("spec.type", kind, "must be 'Exempt' if and only if `name` is 'exempt'")
    errors.optional_choice("spec.type", kind, ("Exempt", "Limited"))
    limited, exempt = spec.get("limited"), spec.get("exempt")
    if kind == "Exempt" and limited is not None:
        errors.forbidden("spec.limited", "must be nil if the type is not Limited")
    if kind == "Limited":
        if exempt is not None:
            errors.forbidden("spec.exempt", "must be nil if the type is Limited")
        if limited is None:
            errors.required("spec.limited", "must not be empty when type is Limited")
    for field, value in (("limited", limited), ("exempt", exempt)):
        if value is not None:
            _check_shares(errors, f"spec.{field}", value)
    if limited is not None:
        _check_limit_response(errors, "spec.limited.limitResponse", limited)


def _check_shares(errors: Errors, path: str, level: Object) -> None:
    shares, lendable = level.get("nominalConcurrencyShares"), level.get("lendablePercent")
    if shares is not None and shares < 0:
        errors.invalid(f"{path}.nominalConcurrencyShares", shares, "must be a non-negative integer")
    if lendable is not None and not 0 <= lendable <= 100:
        errors.invalid(f"{path}.lendablePercent", lendable, "must be between 0 and 100, inclusive")
    borrowing = level.get("borrowingLimitPercent")
    if borrowing is not None and borrowing < 0:
        detail = "if specified, must be a non-negative integer"
        errors.invalid(f"{path}.borrowingLimitPercent", borrowing, detail)


def _check_limit_response(errors: Errors, path: str, limited: Object) -> None:
    response = limited.get("limitResponse") or {}
    kind, queuing = response.get("type") or "", response.get("queuing")
    errors.optional_choice(f"{path}.type", kind, ("Queue", "Reject"))
    if kind == "Reject" and queuing is not None:
        detail = "must be nil if limited.limitResponse.type is not Limited"
        errors.forbidden(f"{path}.queuing", detail)
    if kind != "Queue":
        return
    if queuing is None:
        detail = "must not be empty if limited.limitResponse.type is Limited"
        errors.required(f"{path}.queuing", detail)
        return
    here, queues, hand = f"{path}.queuing", queuing.get("queues") or 0, queuing.get("handSize") or 0
    for field in ("queueLengthLimit", "queues", "handSize"):
        if (queuing.get(field) or 0) <= 0:
            errors.invalid(f"{here}.{field}", queuing.get(field) or 0, "must be positive")
    if queues > 10_000_000:
        errors.invalid(f"{here}.queues", queues, "must not be greater than 10000000")
    if hand > queues > 0:
        errors.invalid(f"{here}.handSize", hand, f"should not be greater than queues ({queues})")
