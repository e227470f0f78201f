"""Admission webhooks and policies."""

from __future__ import annotations

from navarch.api import names
from navarch.api.cel.library.json_patches import JSON_PATCH, OBJECT
from navarch.api.cel.schema import RESERVED
from navarch.api.cel.types import BOOL, DYN, NULL, STRING, list_of
from navarch.api.validation.clients import check_client, check_review_versions
from navarch.api.validation.common import dns1123_subdomain
from navarch.api.validation.expressions import ExpressionChecks, stored_texts
from navarch.api.validation.fields import Field

SCOPES = ("Cluster", "Namespaced", "*")
REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge")
MUTABLE_OPERATIONS = ("*", "CONNECT", "CREATE", "UPDATE")
MAX_AUDIT_ANNOTATIONS = 20
MAX_AUDIT_EXPRESSION = 5 * 1024
PATCHES = {
    "ApplyConfiguration": ("applyConfiguration", OBJECT),
    "JSONPatch": ("jsonPatch", list_of(JSON_PATCH)),
}
"""The field of each type of patch, and what its expression makes."""
OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")


def validate_webhooks(obj: Field, old: Field) -> None:
    """A mutating or validating webhook configuration; `old` is its stored state, if any. Match
    conditions are looked at again only when there are new ones among them."""
    is_new = not old.is_set or not _conditions(obj) <= _conditions(old)
    checks = ExpressionChecks(stored_texts(old.value))
    seen: set[str] = set()
    for webhook in obj["webhooks"]:
        name = webhook["name"]
        name.check(names.fully_qualified_name)
        if name:
            name.once(seen)
        for rule in webhook["rules"]:
            _check_rule(rule)
        _check_webhook(webhook)
        if is_new:
            checks.conditions(webhook["matchConditions"])
        webhook["reinvocationPolicy"].optional_choice(("IfNeeded", "Never"))


def _conditions(obj: Field) -> set[str]:
    return {
        condition.get("expression") or ""
        for webhook in obj["webhooks"]
        for condition in webhook["matchConditions"]
    }


def _check_webhook(webhook: Field) -> None:
    effects, seconds = webhook["sideEffects"], webhook["timeoutSeconds"]
    webhook["failurePolicy"].optional_choice(("Fail", "Ignore"))
    webhook["matchPolicy"].optional_choice(("Equivalent", "Exact"))
    effects.must_be_set("must specify one of None, NoneOnDryRun")
    effects.optional_choice(("None", "NoneOnDryRun"))
    if seconds.is_set and not 1 <= seconds.value <= 30:
        seconds.invalid("the timeout value must be between 1 and 30 seconds")
    for selector in webhook.each("namespaceSelector", "objectSelector"):
        selector.label_selector()
    check_review_versions(webhook["admissionReviewVersions"])
    check_client(webhook["clientConfig"])


def _check_rule(rule: Field) -> None:
    for field, what in (
        ("operations", "operations"),
        ("apiGroups", "API groups"),
        ("apiVersions", "API versions"),
    ):
        values = rule[field]
        values.present()
        if len(values) > 1 and "*" in values:
            values.invalid(f"if '*' is present, must not specify other {what}")
        for value in values if field == "operations" else ():
            value.optional_choice(OPERATIONS)
    for version in rule["apiVersions"]:
        version.present()
    _check_rule_resources(rule["resources"])
    rule["scope"].optional_choice(sorted(SCOPES))


def _check_rule_resources(resources: Field) -> None:
    resources.present()
    values = resources.value or ()
    whole = {each.partition("/")[0] for each in values if each.endswith("/*")}
    parts = {each.partition("/")[2] for each in values if each.startswith("*/")}
    for each in resources:
        resource, slash, part = each.value.partition("/")
        if not each:
            each.required()
        elif slash and each.value != "*/*":
            if part != "*" and resource in whole:
                each.invalid(f"if '{resource}/*' is present, must not specify {each.value}")
            if resource != "*" and part in parts:
                each.invalid(f"if '*/{part}' is present, must not specify {each.value}")
    if len(values) > 1 and "*/*" in values:
        resources.invalid("if '*/*' is present, must not specify other resources")
    if "*" in values and any("/" not in each and each != "*" for each in values):
        detail = "if '*' is present, must not specify other resources without subresources"
        resources.invalid(detail)


def validate_policy(obj: Field, old: Field, mutating: bool) -> None:
    """A validating or mutating admission policy; `old` is its stored state, if there is one."""
    spec, before = obj["spec"], old["spec"]
    kind, match, conditions = spec.each("paramKind", "matchConstraints", "matchConditions")
    spec["failurePolicy"].choice(("Fail", "Ignore"))
    if kind.is_set:
        _check_param_kind(kind)
    if not match.is_set:
        match.required()
    else:
        _check_match(match)
        match["resourceRules"].present()
        if mutating:
            _check_mutable(match)
    checks = ExpressionChecks(stored_texts(before.value), kind.is_set)
    if not old.is_set or conditions.value != before.get("matchConditions"):
        checks.conditions(conditions)
    for variable in spec["variables"]:
        name, expression = variable.text("name"), variable.text("expression")
        if not name.value.strip():
            name.required("name is not specified")
        elif names.c_identifier(name.value) or name.value in RESERVED:
            name.invalid("must be a valid CEL identifier")
        if not expression.value.strip():
            expression.required("expression is not specified")
        else:
            checks.variable(name.value, expression)
    if mutating:
        _check_mutations(spec, checks)
    else:
        _check_validations(obj, checks)


def _check_param_kind(kind: Field) -> None:
    field, name = kind.text("apiVersion"), kind.text("kind")
    group, slash, version = field.value.partition("/")
    if not slash:
        group, version = "", group
    if not field:
        field.required()
    elif "/" in version:
        field.invalid(f"unexpected GroupVersion string: {field.value}")
    else:
        if group and (found := ",".join(dns1123_subdomain(group))):
            field.showing(group).invalid(found)
        if not version:
            field.invalid("version must be specified")
        elif found := ",".join(names.dns1035_label(version)):
            field.showing(version).invalid(found)
    if not name:
        name.required()
    elif found := ",".join(names.dns1035_label(name.value.lower())):
        name.invalid(f"may have mixed case, but should otherwise match: {found}")


def _check_mutable(match: Field) -> None:
    """What is deleted cannot be changed."""
    for rule in match["resourceRules"]:
        for operation in rule["operations"]:
            shown = match.at("resourceRules.operations", operation.value)
            shown.optional_choice(MUTABLE_OPERATIONS)


def _check_mutations(spec: Field, checks: ExpressionChecks) -> None:
    spec["mutations"].present("mutations must contain at least one item")
    for mutation in spec["mutations"]:
        kind = mutation["patchType"]
        kind.choice(tuple(PATCHES))
        wanted, result = PATCHES.get(kind.value, ("", DYN))
        for name in ("jsonPatch", "applyConfiguration"):
            field = mutation[name]
            text = field.text("expression")
            if name != wanted:
                if wanted and field.is_set:
                    shown = field.showing("{" + name + "}")
                    shown.invalid(f"must not be specified when patchType is {kind.value}")
            elif not field.is_set:
                field.required(f"must be specified when patchType is {kind.value}")
            elif stripped := text.value.strip():
                checks.check(text.showing(stripped), (result,), has_patch_types=True)
            else:
                text.required()
    spec["reinvocationPolicy"].choice(("IfNeeded", "Never"))


def _check_validations(obj: Field, checks: ExpressionChecks) -> None:
    validations, audits = obj["spec"].each("validations", "auditAnnotations")
    if not validations and not audits:
        for field in (validations, audits):
            field.required("validations or auditAnnotations must contain at least one item")
    for validation in validations:
        _check_validation(validation, checks)
    if len(audits) > MAX_AUDIT_ANNOTATIONS:
        shown = [
            {"Key": each.get("key"), "ValueExpression": each.get("valueExpression")}
            for each in audits
        ]
        detail = f"must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations"
        audits.showing(shown).invalid(detail)
    seen: set[str] = set()
    for audit in audits:
        key, text = audit.text("key"), audit.text("valueExpression")
        key.showing(f"{obj['metadata'].get('name')}/{key.value}").label_name()
        key.once(seen)
        text = text.showing(text.value.strip())
        if not text:
            text.required("valueExpression is not specified")
        elif len(text.value.encode()) > MAX_AUDIT_EXPRESSION:
            text.required(f"must not exceed {MAX_AUDIT_EXPRESSION} bytes in length")
        else:
            checks.check(text, (STRING, NULL))


def _check_validation(validation: Field, checks: ExpressionChecks) -> None:
    expression, message, text = map(validation.text, ("expression", "message", "messageExpression"))
    if not expression.value.strip():
        expression.required("expression is not specified")
    else:
        checks.check(expression, (BOOL,))
    if text.value.strip():
        checks.check(text, (STRING,), has_authorizer=False)
    elif text:
        text.invalid("must be non-empty if specified")
    if message and not message.value.strip():
        message.invalid("must be non-empty if specified")
    elif "\n" in message.value.strip() or "\r" in message.value.strip():
        message.invalid("must not contain line breaks")
    validation["reason"].optional_choice(REASONS)


def _check_match(match: Field) -> None:
    match["matchPolicy"].choice(("Equivalent", "Exact"))
    for selector in match.each("namespaceSelector", "objectSelector"):
        selector.must_be_set()
        selector.label_selector()
    for rules in match.each("resourceRules", "excludeResourceRules"):
        for rule in rules:
            _check_rule(rule)
            seen: set[str] = set()
            for name in rule["resourceNames"]:
                name.check(names.path_segment_name)
                name.once(seen)


def validate_policy_binding(obj: Field, mutating: bool) -> None:
    spec = obj["spec"]
    spec["policyName"].name(dns1123_subdomain)
    if spec["paramRef"].is_set:
        _check_parameters(spec["paramRef"])
    if spec["matchResources"].is_set:
        _check_match(spec["matchResources"])
    if mutating:
        return
    actions = spec["validationActions"]
    actions.present("at least one validation action is required")
    seen: set[str] = set()
    for action in actions:
        action.optional_choice(("Audit", "Deny", "Warn"))
        action.once(seen)
    if seen >= {"Deny", "Warn"}:
        actions.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure "
            "information in the API response and headers serves no purpose)"
        )


def _check_parameters(reference: Field) -> None:
    name, selector = reference["name"], reference["selector"]
    if name:
        name.check(names.path_segment_name)
        if selector.is_set:
            for field in (name, selector):
                field.forbidden("name and selector are mutually exclusive")
    elif not selector.is_set:
        reference.required("one of name or selector must be specified")
    selector.label_selector()
    action = reference["parameterNotFoundAction"]
    action.must_be_set()
    action.optional_choice(("Deny", "Allow"))
