"""Where a pod may run: node selectors, affinity, tolerations, taints, topology spread."""

from __future__ import annotations

from collections.abc import Sequence

from navarch.api import names
from navarch.api.errors import FieldError, duplicate
from navarch.api.validation.common import (
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    indexed,
    label_value,
)

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_OPERATORS = ("Equal", "Exists")
BAD_OPERATOR = "not a valid selector operator"


def check_affinity(errors: Errors, path: str, affinity: Object) -> None:
    node = affinity.get("nodeAffinity")
    if node is not None:
        here = f"{path}.nodeAffinity"
        if node.get(_REQUIRED) is not None:
            check_node_selector(errors, f"{here}.{_REQUIRED}", node[_REQUIRED])
        for each, term in indexed(f"{here}.{_PREFERRED}", node.get(_PREFERRED)):
            _check_weight(errors, each, term)
            preference = term.get("preference") or {}
            _check_node_term(errors, f"{each}.preference", preference, values_too=False)
    for side in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(side) or {}
        for index, term in enumerate(rules.get(_REQUIRED) or ()):
            _check_pod_term(errors, f"{path}.{side}.{_REQUIRED}[{index}]", term)
        for each, weighted in indexed(f"{path}.{side}.{_PREFERRED}", rules.get(_PREFERRED)):
            _check_weight(errors, each, weighted)
            term = weighted.get("podAffinityTerm") or {}
            _check_pod_term(errors, f"{each}.podAffinityTerm", term)


def _check_weight(errors: Errors, path: str, term: Object) -> None:
    weight = term.get("weight") or 0
    if not 1 <= weight <= 100:
        errors.invalid(f"{path}.weight", weight, "must be in the range 1-100")


def check_node_selector(errors: Errors, path: str, selector: Object) -> None:
    terms = selector.get("nodeSelectorTerms")
    if not terms:
        errors.required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")
        return
    for index, term in enumerate(terms):
        _check_node_term(errors, f"{path}.nodeSelectorTerms[{index}]", term, values_too=True)


def _check_node_term(errors: Errors, path: str, term: Object, values_too: bool) -> None:
    for here, requirement in indexed(f"{path}.matchExpressions", term.get("matchExpressions")):
        _check_node_requirement(errors, here, requirement)
        if values_too:
            for position, value in enumerate(requirement.get("values") or ()):
                errors.check(f"{here}.values[{position}]", value, label_value)
    for here, requirement in indexed(f"{path}.matchFields", term.get("matchFields")):
        operator, values = requirement.get("operator"), requirement.get("values") or ()
        if operator not in ("In", "NotIn"):
            errors.invalid(f"{here}.operator", operator or "", BAD_OPERATOR)
        elif len(values) != 1:
            detail = (
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            )
            errors.required(f"{here}.values", detail)
        if requirement.get("key") != "metadata.name":
            detail = "not a valid field selector key"
            errors.invalid(f"{here}.key", requirement.get("key") or "", detail)
        else:
            for position, value in enumerate(values):
                errors.check(f"{here}.values[{position}]", value, dns1123_subdomain)


def _check_node_requirement(errors: Errors, path: str, requirement: Object) -> None:
    operator, values = requirement.get("operator"), requirement.get("values") or ()
    here = f"{path}.values"
    if operator in ("In", "NotIn"):
        errors.present(here, values, "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            errors.forbidden(here, detail)
    elif operator in ("Gt", "Lt"):
        if len(values) != 1:
            errors.required(here, "must be specified single value when `operator` is 'Lt' or 'Gt'")
    else:
        errors.invalid(f"{path}.operator", operator or "", BAD_OPERATOR)
    errors.label_name(f"{path}.key", requirement.get("key") or "")


def _check_pod_term(errors: Errors, path: str, term: Object) -> None:
    errors.label_selector(f"{path}.labelSelector", term.get("labelSelector"))
    errors.label_selector(f"{path}.namespaceSelector", term.get("namespaceSelector"))
    for name in term.get("namespaces") or ():
        errors.check(f"{path}.namespace", name, dns1123_label)
    _check_label_keys(errors, path, term)
    topology = term.get("topologyKey") or ""
    errors.present(f"{path}.topologyKey", topology, "can not be empty")
    errors.label_name(f"{path}.topologyKey", topology)


def _check_label_keys(errors: Errors, path: str, term: Object) -> None:
    """matchLabelKeys and mismatchLabelKeys: they need a selector and must not repeat it. (On create
    they have been added to the selector already, once.)"""
    selector = term.get("labelSelector")
    for field in ("matchLabelKeys", "mismatchLabelKeys"):
        keys = term.get(field) or ()
        if keys and selector is None:
            detail = "must not be specified when labelSelector is not set"
            errors.forbidden(f"{path}.{field}", detail)
        for index, key in enumerate(keys):
            errors.label_name(f"{path}.{field}[{index}]", key)
    match = term.get("matchLabelKeys") or []
    seen = set((selector or {}).get("matchLabels") or ())
    for expression in (selector or {}).get("matchExpressions") or ():
        key = expression.get("key")
        if key in match and key in seen:
            detail = "exists in both matchLabelKeys and labelSelector"
            errors.invalid(f"{path}[{match.index(key)}]", key, detail)
        seen.add(key)
    for index, key in enumerate(match):
        if key in (term.get("mismatchLabelKeys") or ()):
            detail = "exists in both matchLabelKeys and mismatchLabelKeys"
            errors.invalid(f"{path}.matchLabelKeys[{index}]", key, detail)


def check_tolerations(errors: Errors, path: str, tolerations: Sequence[Object]) -> None:
    for here, toleration in indexed(path, tolerations):
        key, value = toleration.get("key") or "", toleration.get("value") or ""
        operator, effect = toleration.get("operator") or "", toleration.get("effect") or ""
        if key:
            errors.label_name(f"{here}.key", key)
        elif operator != "Exists":
            detail = (
                "operator must be Exists when `key` is empty, which means "
                '"match all values and all keys"'
            )
            errors.invalid(f"{here}.operator", operator, detail)
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            errors.invalid(f"{here}.effect", effect, detail)
        if operator in ("", "Equal"):
            if problems := label_value(value):
                errors.invalid(f"{here}.operator", value, ";".join(problems))
        elif operator == "Exists":
            if value:
                detail = "value must be empty when `operator` is 'Exists'"
                errors.invalid(f"{here}.operator", value, detail)
        else:
            # Comparing tolerations (Lt, Gt) are behind a gate that is off.
            known = ("Equal", "Exists", "Lt", "Gt") if operator in ("Lt", "Gt") else _OPERATORS
            errors.not_supported(f"{here}.operator", operator, known)
        if effect:
            errors.choice(f"{here}.effect", effect, EFFECTS)


def check_taints(errors: Errors, path: str, taints: Sequence[Object]) -> None:
    seen: set[tuple[str, str]] = set()
    for here, taint in indexed(path, taints):
        key, effect = taint.get("key") or "", taint.get("effect") or ""
        errors.label_name(f"{here}.key", key)
        if problems := names.label_value(taint.get("value") or ""):
            errors.invalid(f"{here}.value", taint.get("value"), ";".join(problems))
        errors.choice(f"{here}.effect", effect, EFFECTS)
        if (key, effect) in seen:
            doubled = duplicate(here, taint)
            detail = "taints must be unique by key and effect pair"
            errors.append(FieldError(doubled.reason, here, f"{doubled.message}: {detail}"))
        seen.add((key, effect))


def check_spread(errors: Errors, path: str, constraints: Sequence[Object]) -> None:
    seen: set[tuple[str, str]] = set()
    for here, constraint in indexed(path, constraints):
        skew, minimum = constraint.get("maxSkew") or 0, constraint.get("minDomains")
        topology, action = constraint.get("topologyKey") or "", constraint.get("whenUnsatisfiable")
        if skew <= 0:
            errors.invalid(f"{here}.maxSkew", skew, "must be greater than 0")
        errors.present(f"{here}.topologyKey", topology, "can not be empty")
        errors.optional_choice(
            f"{here}.whenUnsatisfiable", action or "", ("DoNotSchedule", "ScheduleAnyway")
        )
        if (topology, action or "") in seen:
            pair = f"{{{topology}, {action or ''}}}"
            errors.duplicate(f"{here}.{{topologyKey, whenUnsatisfiable}}", pair)
        seen.add((topology, action or ""))
        if minimum is not None:
            if minimum <= 0:
                errors.invalid(f"{here}.minDomains", minimum, "must be greater than 0")
            if action != "DoNotSchedule":
                detail = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                errors.invalid(f"{here}.minDomains", minimum, detail)
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            errors.optional_choice(f"{here}.{field}", constraint.get(field), ("Honor", "Ignore"))
        _check_label_keys(errors, here, constraint)
        errors.label_selector(f"{here}.labelSelector", constraint.get("labelSelector"))
