"""Admission webhooks and policies."""

from __future__ import annotations

from navarch.api import names
from navarch.api.cel.library.json_patches import JSON_PATCH, OBJECT
from navarch.api.cel.schema import RESERVED
from navarch.api.cel.types import BOOL, DYN, NULL, STRING, list_of
from navarch.api.errors import forbidden_field
from navarch.api.validation.clients import check_client, check_review_versions
from navarch.api.validation.common import Errors, Object, dns1123_subdomain, indexed, qualified_name
from navarch.api.validation.expressions import ExpressionChecks, stored_texts

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


def validate_webhooks(obj: Object, mutating: bool, old: Object | None = None) -> Errors:
    """A mutating or validating webhook configuration; `old` is its stored state, if any. Match
    conditions are looked at again only when there are new ones among them."""
    errors = Errors()
    checks: ExpressionChecks | None = ExpressionChecks(errors, stored_texts(old))
    if old is not None and _conditions(obj) <= _conditions(old):
        checks = None
    seen: set[str] = set()
    for here, webhook in indexed("webhooks", obj.get("webhooks")):
        name = webhook.get("name") or ""
        errors.check(f"{here}.name", name, names.fully_qualified_name)
        if name and name in seen:
            errors.duplicate(f"{here}.name", name)
        seen.add(name)
        for position, rule in enumerate(webhook.get("rules") or ()):
            _check_rule(errors, f"{here}.rules[{position}]", rule)
        _check_webhook(errors, here, webhook)
        if checks is not None:
            checks.conditions(f"{here}.matchConditions", webhook.get("matchConditions"))
        if mutating:
            policy = webhook.get("reinvocationPolicy")
            errors.optional_choice(f"{here}.reinvocationPolicy", policy, ("IfNeeded", "Never"))
    return errors


def _conditions(obj: Object) -> set[str]:
    return {
        condition.get("expression") or ""
        for webhook in obj.get("webhooks") or ()
        for condition in webhook.get("matchConditions") or ()
    }


def _check_webhook(errors: Errors, path: str, webhook: Object) -> None:
    for field, choices in (
        ("failurePolicy", ("Fail", "Ignore")),
        ("matchPolicy", ("Equivalent", "Exact")),
    ):
        errors.optional_choice(f"{path}.{field}", webhook.get(field), choices)
    effects = webhook.get("sideEffects")
    if effects is None:
        errors.required(f"{path}.sideEffects", "must specify one of None, NoneOnDryRun")
    errors.optional_choice(f"{path}.sideEffects", effects, ("None", "NoneOnDryRun"))
    seconds = webhook.get("timeoutSeconds")
    if seconds is not None and not 1 <= seconds <= 30:
        detail = "the timeout value must be between 1 and 30 seconds"
        errors.invalid(f"{path}.timeoutSeconds", seconds, detail)
    for field in ("namespaceSelector", "objectSelector"):
        errors.label_selector(f"{path}.{field}", webhook.get(field))
    check_review_versions(
        errors, f"{path}.admissionReviewVersions", webhook.get("admissionReviewVersions") or []
    )
    check_client(errors, f"{path}.clientConfig", webhook.get("clientConfig") or {})


def _check_rule(errors: Errors, path: str, rule: Object) -> None:
    operations = rule.get("operations") or []
    errors.present(f"{path}.operations", operations)
    if len(operations) > 1 and "*" in operations:
        detail = "if '*' is present, must not specify other operations"
        errors.invalid(f"{path}.operations", operations, detail)
    for index, operation in enumerate(operations):
        if operation not in OPERATIONS:
            errors.not_supported(f"{path}.operations[{index}]", operation, OPERATIONS)
    for field, what in (("apiGroups", "API groups"), ("apiVersions", "API versions")):
        values = rule.get(field) or []
        errors.present(f"{path}.{field}", values)
        if len(values) > 1 and "*" in values:
            detail = f"if '*' is present, must not specify other {what}"
            errors.invalid(f"{path}.{field}", values, detail)
    for index, version in enumerate(rule.get("apiVersions") or ()):
        errors.present(f"{path}.apiVersions[{index}]", version)
    _check_rule_resources(errors, f"{path}.resources", rule.get("resources") or [])
    errors.optional_choice(f"{path}.scope", rule.get("scope"), sorted(SCOPES))


def _check_rule_resources(errors: Errors, path: str, resources: list[str]) -> None:
    errors.present(path, resources)
    whole = {each.partition("/")[0] for each in resources if each.endswith("/*")}
    parts = {each.partition("/")[2] for each in resources if each.startswith("*/")}
    for index, each in enumerate(resources):
        resource, slash, part = each.partition("/")
        if not each:
            errors.required(f"{path}[{index}]")
        elif slash and each != "*/*":
            if part != "*" and resource in whole:
                detail = f"if '{resource}/*' is present, must not specify {each}"
                errors.invalid(f"{path}[{index}]", each, detail)
            if resource != "*" and part in parts:
                detail = f"if '*/{part}' is present, must not specify {each}"
                errors.invalid(f"{path}[{index}]", each, detail)
    if len(resources) > 1 and "*/*" in resources:
        errors.invalid(path, resources, "if '*/*' is present, must not specify other resources")
    if "*" in resources and any("/" not in each and each != "*" for each in resources):
        detail = "if '*' is present, must not specify other resources without subresources"
        errors.invalid(path, resources, detail)


def validate_policy(obj: Object, mutating: bool, old: Object | None = None) -> Errors:
    """A validating or mutating admission policy; `old` is its stored state, if there is one."""
    errors = Errors()
    spec, before = obj["spec"], (old or {}).get("spec") or {}
    errors.choice("spec.failurePolicy", spec.get("failurePolicy"), ("Fail", "Ignore"))
    kind = spec.get("paramKind")
    if kind is not None:
        _check_param_kind(errors, "spec.paramKind", kind)
    match = spec.get("matchConstraints")
    if match is None:
        errors.required("spec.matchConstraints")
    else:
        _check_match(errors, "spec.matchConstraints", match)
        errors.present("spec.matchConstraints.resourceRules", match.get("resourceRules"))
        if mutating:
            _check_mutable(errors, match)
    checks = ExpressionChecks(errors, stored_texts(before), kind is not None)
    if old is None or spec.get("matchConditions") != before.get("matchConditions"):
        checks.conditions("spec.matchConditions", spec.get("matchConditions"))
    for here, variable in indexed("spec.variables", spec.get("variables")):
        name = variable.get("name") or ""
        if not name.strip():
            errors.required(f"{here}.name", "name is not specified")
        elif names.c_identifier(name) or name in RESERVED:
            errors.invalid(f"{here}.name", name, "must be a valid CEL identifier")
        if not (variable.get("expression") or "").strip():
            errors.required(f"{here}.expression", "expression is not specified")
        else:
            checks.variable(f"{here}.expression", name, variable["expression"])
    if mutating:
        _check_mutations(errors, spec, checks)
    else:
        _check_validations(errors, obj, checks)
    return errors


def _check_param_kind(errors: Errors, path: str, kind: Object) -> None:
    api_version, name = kind.get("apiVersion") or "", kind.get("kind") or ""
    here = f"{path}.apiVersion"
    group, slash, version = api_version.partition("/")
    if not slash:
        group, version = "", group
    if not api_version:
        errors.required(here)
    elif "/" in version:
        errors.invalid(here, api_version, f"unexpected GroupVersion string: {api_version}")
    else:
        if found := ",".join(dns1123_subdomain(group) if group else ()):
            errors.invalid(here, group, found)
        if not version:
            errors.invalid(here, api_version, "version must be specified")
        elif found := ",".join(names.dns1035_label(version)):
            errors.invalid(here, version, found)
    if not name:
        errors.required(f"{path}.kind")
    elif found := ",".join(names.dns1035_label(name.lower())):
        detail = f"may have mixed case, but should otherwise match: {found}"
        errors.invalid(f"{path}.kind", name, detail)


def _check_mutable(errors: Errors, match: Object) -> None:
    """What is deleted cannot be changed."""
    for rule in match.get("resourceRules") or ():
        for operation in rule.get("operations") or ():
            if operation not in MUTABLE_OPERATIONS:
                here = "spec.matchConstraints.resourceRules.operations"
                errors.not_supported(here, operation, MUTABLE_OPERATIONS)


def _check_mutations(errors: Errors, spec: Object, checks: ExpressionChecks) -> None:
    if not spec.get("mutations"):
        errors.required("spec.mutations", "mutations must contain at least one item")
    for here, mutation in indexed("spec.mutations", spec.get("mutations")):
        kind = mutation.get("patchType") or ""
        errors.choice(f"{here}.patchType", kind, tuple(PATCHES))
        wanted, result = PATCHES.get(kind, ("", DYN))
        for field in ("jsonPatch", "applyConfiguration"):
            value = mutation.get(field)
            if field != wanted:
                if wanted and value is not None:
                    detail = f"must not be specified when patchType is {kind}"
                    errors.invalid(f"{here}.{field}", "{" + field + "}", detail)
            elif value is None:
                errors.required(f"{here}.{field}", f"must be specified when patchType is {kind}")
            elif text := (value.get("expression") or "").strip():
                checks.check(f"{here}.{field}.expression", text, (result,), has_patch_types=True)
            else:
                errors.required(f"{here}.{field}.expression")
    policy, choices = spec.get("reinvocationPolicy"), ("IfNeeded", "Never")
    errors.choice("spec.reinvocationPolicy", policy, choices)


def _check_validations(errors: Errors, obj: Object, checks: ExpressionChecks) -> None:
    spec = obj["spec"]
    validations, audits = spec.get("validations") or (), spec.get("auditAnnotations") or ()
    if not validations and not audits:
        detail = "validations or auditAnnotations must contain at least one item"
        errors.required("spec.validations", detail)
        errors.required("spec.auditAnnotations", detail)
    for index, validation in enumerate(validations):
        _check_validation(errors, f"spec.validations[{index}]", validation, checks)
    if len(audits) > MAX_AUDIT_ANNOTATIONS:
        detail = f"must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations"
        shown = [
            {"Key": each.get("key"), "ValueExpression": each.get("valueExpression")}
            for each in audits
        ]
        errors.invalid("spec.auditAnnotations", shown, detail)
    seen: set[str] = set()
    for here, audit in indexed("spec.auditAnnotations", audits):
        key = audit.get("key") or ""
        errors.check(f"{here}.key", f"{obj['metadata'].get('name')}/{key}", qualified_name)
        errors.once(seen, f"{here}.key", key)
        here, text = f"{here}.valueExpression", (audit.get("valueExpression") or "").strip()
        if not text:
            errors.required(here, "valueExpression is not specified")
        elif len(text.encode()) > MAX_AUDIT_EXPRESSION:
            errors.required(here, f"must not exceed {MAX_AUDIT_EXPRESSION} bytes in length")
        else:
            checks.check(here, text, (STRING, NULL))


def _check_validation(
    errors: Errors, path: str, validation: Object, checks: ExpressionChecks
) -> None:
    expression, message = validation.get("expression") or "", validation.get("message") or ""
    if not expression.strip():
        errors.required(f"{path}.expression", "expression is not specified")
    else:
        checks.check(f"{path}.expression", expression, (BOOL,))
    text = validation.get("messageExpression") or ""
    if text.strip():
        checks.check(f"{path}.messageExpression", text, (STRING,), has_authorizer=False)
    elif text:
        errors.invalid(f"{path}.messageExpression", text, "must be non-empty if specified")
    if message and not message.strip():
        errors.invalid(f"{path}.message", message, "must be non-empty if specified")
    elif "\n" in message.strip() or "\r" in message.strip():
        errors.invalid(f"{path}.message", message, "must not contain line breaks")
    errors.optional_choice(f"{path}.reason", validation.get("reason"), REASONS)


def _check_match(errors: Errors, path: str, match: Object) -> None:
    errors.choice(f"{path}.matchPolicy", match.get("matchPolicy"), ("Equivalent", "Exact"))
    for field in ("namespaceSelector", "objectSelector"):
        if match.get(field) is None:
            errors.required(f"{path}.{field}")
        errors.label_selector(f"{path}.{field}", match.get(field))
    for field in ("resourceRules", "excludeResourceRules"):
        for here, rule in indexed(f"{path}.{field}", match.get(field)):
            _check_rule(errors, here, rule)
            seen: set[str] = set()
            for each, name in indexed(f"{here}.resourceNames", rule.get("resourceNames")):
                errors.check(each, name, names.path_segment_name)
                errors.once(seen, each, name)


def validate_policy_binding(obj: Object, mutating: bool) -> Errors:
    errors = Errors()
    spec = obj["spec"]
    errors.name("spec.policyName", spec.get("policyName") or "", dns1123_subdomain)
    reference = spec.get("paramRef")
    if reference is not None:
        _check_parameters(errors, "spec.paramRef", reference)
    if spec.get("matchResources") is not None:
        _check_match(errors, "spec.matchResources", spec["matchResources"])
    if mutating:
        return errors
    actions = spec.get("validationActions") or []
    errors.present("spec.validationActions", actions, "at least one validation action is required")
    for index, action in enumerate(actions):
        here = f"spec.validationActions[{index}]"
        if action not in ("Audit", "Deny", "Warn"):
            errors.not_supported(here, action, ("Audit", "Deny", "Warn"))
        if action in actions[:index]:
            errors.duplicate(here, action)
    if {"Deny", "Warn"} <= set(actions):
        detail = (
            "must not contain both Deny and Warn (repeating the same validation failure "
            "information in the API response and headers serves no purpose)"
        )
        errors.invalid("spec.validationActions", actions, detail)
    return errors


def _check_parameters(errors: Errors, path: str, reference: Object) -> None:
    name, selector = reference.get("name"), reference.get("selector")
    if name:
        errors.check(f"{path}.name", name, names.path_segment_name)
        if selector is not None:
            detail = "name and selector are mutually exclusive"
            errors += [forbidden_field(f"{path}.{field}", detail) for field in ("name", "selector")]
    elif selector is None:
        errors.required(path, "one of name or selector must be specified")
    errors.label_selector(f"{path}.selector", selector)
    action = reference.get("parameterNotFoundAction")
    if action is None:
        errors.required(f"{path}.parameterNotFoundAction")
    errors.optional_choice(f"{path}.parameterNotFoundAction", action, ("Deny", "Allow"))
