"""Where a pod may run: node selectors, affinity, tolerations, taints, topology spread."""

from __future__ import annotations

from navarch.api.errors import FieldError, duplicate
from navarch.api.validation.common import dns1123_label, dns1123_subdomain, label_value
from navarch.api.validation.fields import Field
from navarch.api.validation.go_values import shown_as

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_OPERATORS = ("Equal", "Exists")
BAD_OPERATOR = "not a valid selector operator"


def check_affinity(affinity: Field) -> None:
    node = affinity["nodeAffinity"]
    if node[_REQUIRED].is_set:
        check_node_selector(node[_REQUIRED])
    for term in node[_PREFERRED]:
        _check_weight(term)
        _check_node_term(term["preference"], values_too=False)
    for rules in affinity.each("podAffinity", "podAntiAffinity"):
        for term in rules[_REQUIRED]:
            _check_pod_term(term)
        for weighted in rules[_PREFERRED]:
            _check_weight(weighted)
            _check_pod_term(weighted["podAffinityTerm"])


def _check_weight(term: Field) -> None:
    weight = term.number("weight")
    if not 1 <= weight.value <= 100:
        weight.invalid("must be in the range 1-100")


def check_node_selector(selector: Field) -> None:
    terms = selector["nodeSelectorTerms"]
    terms.present("must have at least one node selector term")
    for term in terms:
        _check_node_term(term, values_too=True)


def _check_node_term(term: Field, values_too: bool) -> None:
    for requirement in term["matchExpressions"]:
        _check_node_requirement(requirement)
        for value in requirement["values"] if values_too else ():
            value.check(label_value)
    for requirement in term["matchFields"]:
        operator, key = requirement.text("operator"), requirement.text("key")
        values = requirement["values"]
        if operator.value not in ("In", "NotIn"):
            operator.invalid(BAD_OPERATOR)
        elif len(values) != 1:
            values.required(
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            )
        if key.value != "metadata.name":
            key.invalid("not a valid field selector key")
            continue
        for value in values:
            value.check(dns1123_subdomain)


def _check_node_requirement(requirement: Field) -> None:
    operator, values = requirement.text("operator"), requirement["values"]
    if operator.value in ("In", "NotIn"):
        values.present("must be specified when `operator` is 'In' or 'NotIn'")
    elif operator.value in ("Exists", "DoesNotExist"):
        if values:
            values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
    elif operator.value not in ("Gt", "Lt"):
        operator.invalid(BAD_OPERATOR)
    elif len(values) != 1:
        values.required("must be specified single value when `operator` is 'Lt' or 'Gt'")
    requirement["key"].label_name()


def _check_pod_term(term: Field) -> None:
    term["labelSelector"].label_selector()
    term["namespaceSelector"].label_selector()
    for name in term.get("namespaces") or ():
        term.at("namespace", name).check(dns1123_label)
    _check_label_keys(term)
    term["topologyKey"].present("can not be empty")
    term["topologyKey"].label_name()


def _check_label_keys(term: Field) -> None:
    """matchLabelKeys and mismatchLabelKeys: they need a selector and must not repeat it. (On create
    they have been added to the selector already, once.)"""
    selector, match = term["labelSelector"], term["matchLabelKeys"]
    for keys in term.each("matchLabelKeys", "mismatchLabelKeys"):
        if keys and not selector.is_set:
            keys.forbidden("must not be specified when labelSelector is not set")
        for key in keys:
            key.label_name()
    seen = set(selector.get("matchLabels") or ())
    for expression in selector.get("matchExpressions") or ():
        name = expression.get("key")
        if name in match and name in seen:
            place = term.at(f"[{match.value.index(name)}]", name)
            place.invalid("exists in both matchLabelKeys and labelSelector")
        seen.add(name)
    for key in match:
        if key.value in term["mismatchLabelKeys"]:
            key.invalid("exists in both matchLabelKeys and mismatchLabelKeys")


def check_tolerations(tolerations: Field) -> None:
    for toleration in tolerations:
        value, operator = toleration.get("value") or "", toleration.text("operator")
        effect, shown = toleration.text("effect"), toleration.at("operator", value)
        if toleration.get("key"):
            toleration["key"].label_name()
        elif operator.value != "Exists":
            operator.invalid(
                "operator must be Exists when `key` is empty, which means "
                '"match all values and all keys"'
            )
        if toleration.get("tolerationSeconds") is not None and effect.value != "NoExecute":
            effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set")
        if operator.value in ("", "Equal"):
            if problems := label_value(value):
                shown.invalid(";".join(problems))
        elif operator.value != "Exists":
            # Comparing tolerations (Lt, Gt) are behind a gate that is off.
            compares = operator.value in ("Lt", "Gt")
            operator.not_supported(("Equal", "Exists", "Lt", "Gt") if compares else _OPERATORS)
        elif value:
            shown.invalid("value must be empty when `operator` is 'Exists'")
        if effect:
            effect.choice(EFFECTS)


def check_taints(taints: Field) -> None:
    seen: set[tuple[str, str]] = set()
    for taint in taints:
        key, effect = taint["key"], taint["effect"]
        key.label_name()
        if problems := label_value(taint.get("value") or ""):
            taint["value"].invalid(";".join(problems))
        effect.choice(EFFECTS)
        pair = (key.value or "", effect.value or "")
        if pair in seen:
            doubled = duplicate(taint.path, shown_as(taint, "core_v1.Taint").value)
            detail = "taints must be unique by key and effect pair"
            message = f"{doubled.message}: {detail}"
            taint.errors.append(FieldError(doubled.reason, doubled.field, message))
        seen.add(pair)


def check_spread(constraints: Field) -> None:
    seen: set[tuple[str, str]] = set()
    for constraint in constraints:
        skew, minimum = constraint.number("maxSkew"), constraint["minDomains"]
        topology, action = constraint.text("topologyKey"), constraint.text("whenUnsatisfiable")
        if skew.value <= 0:
            skew.invalid("must be greater than zero")
        topology.present("can not be empty")
        action.optional_choice(("DoNotSchedule", "ScheduleAnyway"))
        pair = (topology.value, action.value)
        if pair in seen:
            shown = f"{{{topology.value}, {action.value}}}"
            constraint.at("{topologyKey, whenUnsatisfiable}", shown).duplicate()
        seen.add(pair)
        if minimum.is_set:
            if minimum.value <= 0:
                minimum.invalid("must be greater than zero")
            if action.value != "DoNotSchedule":
                wanted = "can only use minDomains if whenUnsatisfiable=DoNotSchedule"
                minimum.invalid(f"{wanted}, not {action.value}")
        for policy in constraint.each("nodeAffinityPolicy", "nodeTaintsPolicy"):
            policy.optional_choice(("Honor", "Ignore"))
        _check_label_keys(constraint)
        constraint["labelSelector"].label_selector()
