"""Disruption budgets, autoscalers, priority and runtime classes, leases, flow control."""

from __future__ import annotations

from navarch.api import names
from navarch.api.validation.common import dns1123_label, dns1123_subdomain, quantity
from navarch.api.validation.fields import Field
from navarch.api.validation.go_values import shown_as
from navarch.api.validation.resources import check_requirements, container_name_problems
from navarch.api.validation.scheduling import check_tolerations

HIGHEST_USER_PRIORITY = 1_000_000_000
SYSTEM_CLASSES = {
    "system-cluster-critical": 2 * HIGHEST_USER_PRIORITY,
    "system-node-critical": 2 * HIGHEST_USER_PRIORITY + 1000,
}


def validate_disruption_budget(obj: Field) -> None:
    spec = obj["spec"]
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        shown = shown_as(spec, "policy_v1.PodDisruptionBudgetSpec")
        shown.invalid("minAvailable and maxUnavailable cannot be both set")
    for field in spec.each("minAvailable", "maxUnavailable"):
        field.int_or_percent()
        field.not_more_than_all()
    spec["selector"].label_selector()
    spec["unhealthyPodEvictionPolicy"].optional_choice(("AlwaysAllow", "IfHealthyBudget"))


def validate_disruption_budget_status(obj: Field) -> None:
    counts = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")
    for field in obj["status"].each(*counts):
        field.not_negative()


def _check_target(reference: Field) -> None:
    for field in reference.each("kind", "name"):
        field.name(names.path_segment_name)
    version = reference.text("apiVersion")
    if version.value.count("/") > 1:
        version.invalid(f"unexpected GroupVersion string: {version.value}")


def _check_range_and_target(spec: Field, old: Field) -> None:
    low, high = spec["minReplicas"], spec.number("maxReplicas")
    # As upstream without the HPAScaleToZero gate, which is off by default.
    least = 0 if old["spec"].get("minReplicas") == 0 else 1
    if low.is_set and low.value < least:
        low.invalid(f"must be greater than or equal to {least}")
    if high.value == 0:
        high.required("must be set and greater than 0")
    elif high.value < 0:
        high.invalid("must be greater than or equal to 1")
    if low.is_set and high.value < low.value:
        high.invalid("must be greater than or equal to `minReplicas`")
    target, before = spec["scaleTargetRef"], old["spec"]["scaleTargetRef"]
    _check_target(target)
    version, kind = target.text("apiVersion"), target.get("kind")
    # Of what can be scaled only ReplicationControllers are of the core group; autoscalers from
    # before this was checked may stay as they are.
    is_kept = old.is_set and (before.text("apiVersion").value, before.get("kind")) == (
        version.value,
        kind,
    )
    if not is_kept and kind != "ReplicationController" and "/" not in version:
        version.invalid("apiVersion must specify API group")


def _positive(field: Field, detail: str = "must be greater than 0") -> None:
    if field.is_set and field.value <= 0:
        field.invalid(detail)


def validate_autoscaler_v1(obj: Field) -> None:
    validate_autoscaler_v1_update(obj, Field(None))


def validate_autoscaler_v1_update(obj: Field, old: Field) -> None:
    _check_range_and_target(obj["spec"], old)
    percentage = obj["spec"].get("targetCPUUtilizationPercentage")
    # Upstream's rules know the target by its place in v2.
    _positive(obj["spec"].at("metrics[0].resource.target.averageUtilization", percentage))


def validate_autoscaler(obj: Field) -> None:
    validate_autoscaler_update(obj, Field(None))


def validate_autoscaler_update(obj: Field, old: Field) -> None:
    spec = obj["spec"]
    _check_range_and_target(spec, old)
    for metric in spec["metrics"]:
        _check_metric(metric)
    for rules in spec["behavior"].each("scaleUp", "scaleDown"):
        if rules.is_set:
            _check_scaling(rules)


_METRICS = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_SOURCES = ("object", "external", "pods", "resource", "containerResource")
"""In the order in which upstream looks for them: only the first is checked."""


def _check_metric(metric: Field) -> None:
    kind = metric.text("type")
    sources = [field for field in _SOURCES if metric[field].is_set]
    if not kind:
        kind.required("must specify a metric source type")
    if kind.value not in _METRICS:
        kind.not_supported(tuple(_METRICS))
        # Upstream looks at the type once more when it has counted the sources.
        kind.not_supported(tuple(_METRICS))
    wanted = _METRICS.get(kind.value)
    for field in sources[:1]:
        _check_metric_source(metric[field], field)
    if wanted and wanted not in sources:
        metric[wanted].required("must populate information for the given metric source")
    if len(sources) > 1:
        for field in sources:
            if field != wanted:
                metric[field].forbidden("must populate the given metric source only")


def _check_metric_source(source: Field, kind: str) -> None:
    if kind in ("resource", "containerResource"):
        name = source["name"]
        name.present("must specify a resource name")
        if kind == "containerResource":
            name.check_unless_empty(container_name_problems)
            source["container"].name(dns1123_label, "must specify a container")
    else:
        if kind == "object":
            _check_target(source["describedObject"])
        source["metric"]["name"].name(names.path_segment_name, "must specify a metric name")
    _check_metric_target(source["target"], kind)


def _check_metric_target(target: Field, source: str) -> None:
    kind, value, average = target.text("type"), target["value"], target["averageValue"]
    if not kind:
        kind.required("must specify a metric target type")
    if kind.value not in ("Utilization", "Value", "AverageValue"):
        kind.invalid("must be either Utilization, Value, or AverageValue")
    for field in (value, average):
        amount = quantity(field.value) if field.is_set else None
        if field.is_set and (amount is None or amount.sign() != 1):
            field.invalid("must be positive")
    utilization = target["averageUtilization"]
    _positive(utilization)
    if source in ("resource", "containerResource"):
        if not utilization.is_set and not average.is_set:
            utilization.required("must set either a target raw value or a target utilization")
        if utilization.is_set and average.is_set:
            average.forbidden("may not set both a target raw value and a target utilization")
    elif source == "pods":
        average.must_be_set("must specify a positive target averageValue")
    elif not value.is_set and not average.is_set:
        is_external = source == "external"
        either = "value for metric or a per-pod target" if is_external else "value or averageValue"
        average.required(f"must set either a target {either}")
    if source == "external" and value.is_set and average.is_set:
        value.forbidden("may not set both a target value for metric and a per-pod target")


def _check_scaling(rules: Field) -> None:
    window = rules.number("stabilizationWindowSeconds")
    if window.value < 0:
        window.invalid("must be greater than or equal to zero")
    if window.value > 3600:
        window.invalid("must be less than or equal to 3600")
    rules["selectPolicy"].optional_choice(("Disabled", "Max", "Min"))
    rules["policies"].present("must specify at least one Policy")
    for policy in rules["policies"]:
        period = policy.number("periodSeconds")
        policy.text("type").optional_choice(("Percent", "Pods"))
        _positive(policy.number("value"), "must be greater than zero")
        _positive(period, "must be greater than zero")
        if period.value > 1800:
            period.invalid("must be less than or equal to 1800")
    if rules["tolerance"].is_set:
        rules["tolerance"].quantity_not_negative()


def validate_priority_class(obj: Field) -> None:
    field, value = obj["metadata"].text("name"), obj.get("value") or 0
    name = field.value
    known = SYSTEM_CLASSES.get(name)
    if name.startswith("system-"):
        if known != value or obj.get("globalDefault"):
            why = f"{name} is not a known system priority class"
            if known is not None:
                why = f"value of {name} PriorityClass must be {known}"
                if known == value:
                    why = f"globalDefault of {name} PriorityClass must be false"
            field.forbidden(
                "priority class names with 'system-' prefix are reserved for system use only. "
                f"error: {why}"
            )
    elif value > HIGHEST_USER_PRIORITY:
        detail = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        obj["value"].forbidden(detail)
    if obj["preemptionPolicy"].is_set:
        obj["preemptionPolicy"].choice(("PreemptLowerPriority", "Never"))


def validate_priority_class_update(obj: Field, old: Field) -> None:
    if (obj.get("value") or 0) != (old.get("value") or 0):
        obj["value"].forbidden("may not be changed in an update.")
    obj.keeps(old, "preemptionPolicy")


def validate_runtime_class(obj: Field) -> None:
    obj["handler"].name(dns1123_label)
    overhead, scheduling = obj["overhead"], obj["scheduling"]
    if amounts := overhead.get("podFixed"):
        check_requirements(overhead.showing({"limits": amounts}), set())
    scheduling["nodeSelector"].labels()
    tolerations = scheduling["tolerations"]
    check_tolerations(tolerations)
    for index, toleration in enumerate(tolerations):
        if toleration.value in tolerations.value[:index]:
            shown_as(toleration, "core_v1.Toleration").duplicate()


def validate_runtime_class_update(obj: Field, old: Field) -> None:
    obj.keeps(old, "handler")


def validate_lease(obj: Field) -> None:
    spec = obj["spec"]
    _positive(spec["leaseDurationSeconds"])
    spec["leaseTransitions"].not_negative()
    if spec["strategy"].is_set:
        _check_lease_strategy(spec["strategy"])
    if spec.get("preferredHolder") and not spec.get("strategy"):
        spec["preferredHolder"].forbidden("may only be specified if `strategy` is defined")


def _check_lease_strategy(field: Field) -> None:
    strategy = field.at("strategy", field.value)
    if "/" in strategy:
        strategy.label_name()
    else:
        strategy.optional_choice(("OldestEmulationVersion",))


def validate_lease_candidate(obj: Field) -> None:
    spec = obj["spec"]
    for field in spec.each("leaseName", "binaryVersion", "strategy"):
        field.present()
    if spec.get("strategy"):
        _check_lease_strategy(spec["strategy"])


_FLOW_VERBS = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
)


def validate_flow_schema(obj: Field) -> None:
    spec = obj["spec"]
    precedence, method = spec.number("matchingPrecedence"), spec["distinguisherMethod"]
    _positive(precedence, "must be a positive value")
    if precedence.value > 10000:
        precedence.invalid("must not be greater than 10000")
    if precedence.value == 1 and obj["metadata"].get("name") != "exempt":
        precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1")
    if method.is_set:
        method.text("type").optional_choice(("ByNamespace", "ByUser"))
    level = spec["priorityLevelConfiguration"]["name"]
    level.name(dns1123_subdomain, "must reference a priority level")
    for rule in spec["rules"]:
        _check_flow_rule(rule)


def _check_flow_rule(rule: Field) -> None:
    rule["subjects"].present("subjects must contain at least one value")
    for subject in rule["subjects"]:
        _check_flow_subject(subject)
    if not rule.get("resourceRules") and not rule.get("nonResourceRules"):
        detail = "at least one of resourceRules and nonResourceRules has to be non-empty"
        rule.required(detail)
    for each in rule["resourceRules"]:
        _check_flow_values(each, "verbs", "verbs")
        for field, one, many in (
            ("apiGroups", "api group", "api groups"),
            ("resources", "resource", "resources"),
        ):
            _check_flow_values(each, field, many, f"resource rules must supply at least one {one}")
        if not each.get("namespaces") and not each.get("clusterScope"):
            detail = "resource rules that are not cluster scoped must supply at least one namespace"
            each["namespaces"].required(detail)
        elif each.get("namespaces"):
            _check_flow_values(each, "namespaces", "namespaces")
        for namespace in each["namespaces"] if "*" not in each["namespaces"] else ():
            for problem in dns1123_label(namespace.value):
                namespace.invalid(
                    f"each member of this list must be '*' or a DNS-1123 label; {problem}"
                )
    for each in rule["nonResourceRules"]:
        _check_flow_values(each, "verbs", "verbs")
        _check_flow_values(each, "nonResourceURLs", "non-resource URLs")
        urls = each["nonResourceURLs"]
        for url in urls if "*" not in urls else ():
            if problem := _url_problem(url.value):
                url.invalid(problem)


def _check_flow_values(rule: Field, field: str, what: str, missing: str = "") -> None:
    values = rule[field]
    values.present(missing or f"{field} must contain at least one value")
    if "*" in values:
        if len(values) > 1:
            values.invalid(f"if '*' is present, must not specify other {what}")
    elif field == "verbs" and not set(values.value or ()) <= set(_FLOW_VERBS):
        values.not_supported(_FLOW_VERBS)


def _url_problem(url: str) -> str:
    """What is wrong with a path that a flow schema names, of which the end may be `*`."""
    if not url:
        return "must not be empty"
    if not url.startswith("/"):
        return "must start with slash"
    if " " in url:
        return "must not contain white-space"
    if "//" in url:
        return "must not contain double slash"
    if "*" in url.removesuffix("/*"):
        return "wildcard can only do suffix matching"
    return ""


def _check_flow_subject(subject: Field) -> None:
    kinds = {"Group": "group", "ServiceAccount": "serviceAccount", "User": "user"}
    kind = subject.text("kind")
    if kind.value not in kinds:
        kind.not_supported(tuple(kinds))
        return
    for other, name in kinds.items():
        field = subject[name]
        if other != kind.value:
            if field.is_set:
                field.forbidden(f"{name} is forbidden when subject kind is not '{other}'")
        elif not field.is_set:
            field.required(f"{name} is required when subject kind is '{other}'")
        else:
            account = field.text("name")
            account.present()
            if other == "ServiceAccount":
                if account.value != "*":
                    account.check_unless_empty(dns1123_subdomain)
                field["namespace"].name(dns1123_label, "must specify namespace for service account")


def validate_priority_level(obj: Field) -> None:
    spec, name = obj["spec"], obj["metadata"].get("name")
    kind, limited, exempt = spec.text("type"), spec["limited"], spec["exempt"]
    if (name == "exempt") != (kind.value == "Exempt"):
        kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'")
    kind.optional_choice(("Exempt", "Limited"))
    if kind.value == "Exempt" and limited.is_set:
        limited.forbidden("must be nil if the type is not Limited")
    if kind.value == "Limited":
        if exempt.is_set:
            exempt.forbidden("must be nil if the type is Limited")
        limited.must_be_set("must not be empty when type is Limited")
    for level in (limited, exempt):
        _check_shares(level)
    if limited.is_set:
        _check_limit_response(limited["limitResponse"])


def _check_shares(level: Field) -> None:
    shares, lendable = level.number("nominalConcurrencyShares"), level.number("lendablePercent")
    if shares.value < 0:
        shares.invalid("must be a non-negative integer")
    if not 0 <= lendable.value <= 100:
        lendable.invalid("must be between 0 and 100, inclusive")
    borrowing = level.number("borrowingLimitPercent")
    if borrowing.value < 0:
        borrowing.invalid("if specified, must be a non-negative integer")


def _check_limit_response(response: Field) -> None:
    kind, queuing = response.text("type"), response["queuing"]
    kind.optional_choice(("Queue", "Reject"))
    if kind.value == "Reject" and queuing.is_set:
        queuing.forbidden("must be nil if limited.limitResponse.type is not Limited")
    if kind.value != "Queue":
        return
    if not queuing.is_set:
        queuing.required("must not be empty if limited.limitResponse.type is Limited")
        return
    queues, hand = queuing.number("queues"), queuing.number("handSize")
    for field in (queuing.number("queueLengthLimit"), queues, hand):
        _positive(field, "must be positive")
    if queues.value > 10_000_000:
        queues.invalid("must not be greater than 10000000")
    if hand.value > queues.value:
        hand.invalid(f"should not be greater than queues ({queues.value})")
