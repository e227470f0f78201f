"""What extends the API: custom resource definitions, API services, webhooks, admission policies.

Structural schemas are checked where they are compiled, CEL expressions where they are."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from navarch.api import names
from navarch.api.errors import (
    duplicate,
    forbidden_field,
    invalid,
    not_supported,
    required,
    too_many,
)
from navarch.api.validation.common import (
    Errors,
    Object,
    check,
    check_choice,
    check_label_selector,
    check_name,
    check_optional_choice,
    check_port,
    dns1123_label,
    dns1123_subdomain,
    qualified_name,
)

SCOPES = ("Cluster", "Namespaced", "*")
OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
REVIEW_VERSIONS = ("v1", "v1beta1")
COLUMN_TYPES = ("integer", "number", "string", "boolean", "date")
COLUMN_FORMATS = (
    "int32",
    "int64",
    "float",
    "double",
    "byte",
    "date",
    "date-time",
    "password",
)
MAX_SELECTABLE_FIELDS = 8


def validate_definition(obj: Object) -> Errors:
    """A CustomResourceDefinition."""
    errors: Errors = []
    spec = obj["spec"]
    kind_names, group = spec.get("names") or {}, spec.get("group") or ""
    expected = f"{kind_names.get('plural') or ''}.{group}"
    if obj["metadata"].get("name") != expected:
        detail = 'must be spec.names.plural+"."+spec.group'
        errors.append(invalid("metadata.name", obj["metadata"].get("name"), detail))
    if not group:
        errors.append(required("spec.group"))
    elif problems := dns1123_subdomain(group):
        errors.append(invalid("spec.group", group, ",".join(problems)))
    elif "." not in group:
        detail = "should be a domain with at least one dot"
        errors.append(invalid("spec.group", group, detail))
    check_choice(errors, "spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
    _check_versions(errors, spec)
    _check_kind_names(errors, "spec.names", kind_names)
    _check_conversion(errors, "spec.conversion", spec.get("conversion") or {})
    if spec.get("preserveUnknownFields"):
        detail = (
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in "
            "spec.versions[*].schema instead"
        )
        errors.append(invalid("spec.preserveUnknownFields", True, detail))
    return errors


def _check_versions(errors: Errors, spec: Object) -> None:
    versions = spec.get("versions") or []
    seen: set[str] = set()
    storing = 0
    if not versions:
        errors.append(required("spec.versions", "must have at least one version"))
    for index, version in enumerate(versions):
        here, name = f"spec.versions[{index}]", version.get("name") or ""
        storing += bool(version.get("storage"))
        if name in seen:
            errors.append(invalid("spec.versions", versions, "must contain unique version names"))
        seen.add(name)
        if problems := names.dns1035_label(name):
            errors.append(invalid(f"{here}.name", name, ",".join(problems)))
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if schema is None:
            errors.append(required(f"{here}.schema.openAPIV3Schema", "schemas are required"))
        elif schema.get("type") != "object":
            where = f"{here}.schema.openAPIV3Schema.type"
            if not schema.get("type"):
                errors.append(required(where, "must not be empty at the root"))
            else:
                errors.append(invalid(where, schema["type"], "must be object at the root"))
        warning = version.get("deprecationWarning")
        if warning is not None:
            if not version.get("deprecated"):
                detail = "can only be set for deprecated versions"
                errors.append(invalid(f"{here}.deprecationWarning", warning, detail))
            if not warning:
                detail = "must not be empty if specified"
                errors.append(invalid(f"{here}.deprecationWarning", warning, detail))
            elif len(warning) > 256:
                detail = "must be <= 256 characters long"
                errors.append(invalid(f"{here}.deprecationWarning", warning, detail))
        _check_columns(errors, here, version)
        _check_scale(errors, here, version)
    if versions and storing != 1:
        detail = "must have exactly one version marked as storage version"
        errors.append(invalid("spec.versions", versions, detail))


def _check_columns(errors: Errors, path: str, version: Object) -> None:
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        here = f"{path}.additionalPrinterColumns[{index}]"
        if not column.get("name"):
            errors.append(required(f"{here}.name"))
        check_choice(errors, f"{here}.type", column.get("type"), COLUMN_TYPES)
        check_optional_choice(
            errors, f"{here}.format", column.get("format") or None, COLUMN_FORMATS
        )
        if not column.get("jsonPath"):
            errors.append(required(f"{here}.JSONPath"))
    fields = version.get("selectableFields") or ()
    if len(fields) > MAX_SELECTABLE_FIELDS:
        errors.append(too_many(f"{path}.selectableFields", len(fields), MAX_SELECTABLE_FIELDS))
    seen: set[str] = set()
    for index, field in enumerate(fields):
        here, target = f"{path}.selectableFields[{index}].jsonPath", field.get("jsonPath") or ""
        if not target:
            errors.append(required(here))
        elif not target.startswith("."):
            errors.append(invalid(here, target, "is an invalid path: does not start with ."))
        if target in seen:
            errors.append(duplicate(here, target))
        seen.add(target)


def _check_scale(errors: Errors, path: str, version: Object) -> None:
    scale = (version.get("subresources") or {}).get("scale")
    if scale is None:
        return
    for field, prefixes in (
        ("specReplicasPath", (".spec.",)),
        ("statusReplicasPath", (".status.",)),
        ("labelSelectorPath", (".spec.", ".status.")),
    ):
        here, target = f"{path}.subresources.scale.{field}", scale.get(field) or ""
        if not target:
            if field != "labelSelectorPath":
                errors.append(required(here))
        elif not target.startswith(prefixes):
            what = " or ".join(prefix.rstrip(".") for prefix in prefixes)
            detail = f"should be a json path under {what}"
            errors.append(invalid(here, target, detail))


def _check_kind_names(errors: Errors, path: str, given: Object) -> None:
    for field in ("plural", "singular", "kind", "listKind"):
        if not given.get(field):
            errors.append(required(f"{path}.{field}"))
    for field in ("plural", "singular"):
        value = given.get(field)
        if value and (problems := names.dns1035_label(value)):
            errors.append(invalid(f"{path}.{field}", value, ",".join(problems)))
    for field in ("kind", "listKind"):
        if (value := given.get(field)) and (problems := names.dns1035_label(value.lower())):
            detail = f"may have mixed case, but should otherwise match: {','.join(problems)}"
            errors.append(invalid(f"{path}.{field}", value, detail))
    for field in ("shortNames", "categories"):
        for index, value in enumerate(given.get(field) or ()):
            if problems := names.dns1035_label(value):
                errors.append(invalid(f"{path}.{field}[{index}]", value, ",".join(problems)))
    if given.get("kind") and given.get("kind") == given.get("listKind"):
        detail = "kind and listKind may not be the same"
        errors.append(invalid(f"{path}.listKind", given["listKind"], detail))


def _check_conversion(errors: Errors, path: str, conversion: Object) -> None:
    strategy, webhook = conversion.get("strategy"), conversion.get("webhook")
    check_choice(errors, f"{path}.strategy", strategy, ("None", "Webhook"))
    if strategy != "Webhook":
        if webhook is not None:
            detail = "should not be set when strategy is not set to Webhook"
            errors.append(forbidden_field(f"{path}.webhook", detail))
        return
    client = (webhook or {}).get("clientConfig")
    if client is None:
        detail = "required when strategy is set to Webhook"
        errors.append(required(f"{path}.webhookClientConfig", detail))
    else:
        _check_client(errors, f"{path}.webhookClientConfig", client)
    _check_review_versions(
        errors,
        f"{path}.conversionReviewVersions",
        (webhook or {}).get("conversionReviewVersions") or [],
    )


def validate_definition_update(obj: Object, old: Object) -> Errors:
    errors = validate_definition(obj)
    new, before = obj["spec"], old["spec"]
    established = any(
        each.get("type") == "Established" and each.get("status") == "True"
        for each in (old.get("status") or {}).get("conditions") or ()
    )
    if established:
        for field in ("scope",):
            if new.get(field) != before.get(field):
                errors.append(invalid(f"spec.{field}", new.get(field), "field is immutable"))
        if (new.get("names") or {}).get("kind") != (before.get("names") or {}).get("kind"):
            kind = (new.get("names") or {}).get("kind")
            errors.append(invalid("spec.names.kind", kind, "field is immutable"))
    if new.get("group") != before.get("group"):
        errors.append(invalid("spec.group", new.get("group"), "field is immutable"))
    errors += _stored_versions(obj)
    return errors


def validate_definition_status(obj: Object) -> Errors:
    return _stored_versions(obj)


def _stored_versions(obj: Object) -> Errors:
    errors: Errors = []
    stored = (obj.get("status") or {}).get("storedVersions") or []
    here = "status.storedVersions"
    if not stored:
        return [invalid(here, stored, "must have at least one stored version")]
    versions = {each.get("name"): each for each in obj["spec"].get("versions") or ()}
    for name, version in versions.items():
        if version.get("storage") and name not in stored:
            errors.append(invalid(here, stored, f"must have the storage version {name}"))
    for index, name in enumerate(stored):
        if name not in versions:
            detail = (
                f"missing from spec.versions; {name} was previously a storage version, and must "
                "remain in spec.versions until a storage migration ensures no data remains "
                f"persisted in {name} and removes {name} from status.storedVersions"
            )
            errors.append(invalid(f"{here}[{index}]", name, detail))
    return errors


def validate_api_service(obj: Object) -> Errors:
    errors: Errors = []
    spec = obj["spec"]
    group, version = spec.get("group") or "", spec.get("version") or ""
    expected = f"{version}.{group}"
    if obj["metadata"].get("name") != expected:
        detail = f'must be `spec.version+"."+spec.group`: {expected}'.replace(f": {expected}", "")
        errors.append(invalid("metadata.name", obj["metadata"].get("name"), detail))
    if not group and version != "v1":
        detail = "only v1 may have an empty group and it better be legacy kube"
        errors.append(required("spec.group", detail))
    if group:
        check(errors, "spec.group", group, dns1123_subdomain(group))
    check(errors, "spec.version", version, names.dns1035_label(version))
    for field, most in (("groupPriorityMinimum", 20000), ("versionPriority", 1000)):
        value = spec.get(field) or 0
        if not 0 < value <= most:
            errors.append(invalid(f"spec.{field}", value, f"must be positive and less than {most}"))
    service, bundle = spec.get("service"), spec.get("caBundle") or ""
    skips = bool(spec.get("insecureSkipTLSVerify"))
    if service is None:
        for field, value in (("caBundle", bundle), ("insecureSkipTLSVerify", skips)):
            if value:
                shown: Any = f"{len(bundle)} bytes" if field == "caBundle" else True
                detail = f"local APIServices may not have {'a ' if value is bundle else ''}{field}"
                errors.append(invalid(f"spec.{field}", shown, detail))
        return errors
    for field in ("namespace", "name"):
        if not service.get(field):
            errors.append(required(f"spec.service.{field}"))
    check_port(errors, "spec.service.port", service.get("port"))
    if skips and bundle:
        detail = "may not be true if caBundle is present"
        errors.append(invalid("spec.insecureSkipTLSVerify", True, detail))
    return errors


def validate_api_service_status(obj: Object) -> Errors:
    errors: Errors = []
    for index, condition in enumerate((obj.get("status") or {}).get("conditions") or ()):
        here = f"status.conditions[{index}].status"
        choices = ("True", "False", "Unknown")
        check_optional_choice(errors, here, condition.get("status") or "", choices)
    return errors


def validate_webhooks(obj: Object, mutating: bool) -> Errors:
    """A mutating or validating webhook configuration."""
    errors: Errors = []
    seen: set[str] = set()
    for index, webhook in enumerate(obj.get("webhooks") or ()):
        here, name = f"webhooks[{index}]", webhook.get("name") or ""
        check(errors, f"{here}.name", name, names.fully_qualified_name(name))
        if name and name in seen:
            errors.append(duplicate(f"{here}.name", name))
        seen.add(name)
        for position, rule in enumerate(webhook.get("rules") or ()):
            _check_rule(errors, f"{here}.rules[{position}]", rule)
        _check_webhook(errors, here, webhook)
        if mutating:
            policy = webhook.get("reinvocationPolicy")
            choices = ("IfNeeded", "Never")
            check_optional_choice(errors, f"{here}.reinvocationPolicy", policy, choices)
    return errors


def _check_webhook(errors: Errors, path: str, webhook: Object) -> None:
    for field, choices in (
        ("failurePolicy", ("Fail", "Ignore")),
        ("matchPolicy", ("Equivalent", "Exact")),
    ):
        check_optional_choice(errors, f"{path}.{field}", webhook.get(field), choices)
    effects = webhook.get("sideEffects")
    if effects is None:
        detail = "must specify one of None, NoneOnDryRun"
        errors.append(required(f"{path}.sideEffects", detail))
    check_optional_choice(errors, f"{path}.sideEffects", effects, ("None", "NoneOnDryRun"))
    seconds = webhook.get("timeoutSeconds")
    if seconds is not None and not 1 <= seconds <= 30:
        detail = "the timeout value must be between 1 and 30 seconds"
        errors.append(invalid(f"{path}.timeoutSeconds", seconds, detail))
    for field in ("namespaceSelector", "objectSelector"):
        check_label_selector(errors, f"{path}.{field}", webhook.get(field))
    _check_review_versions(
        errors,
        f"{path}.admissionReviewVersions",
        webhook.get("admissionReviewVersions") or [],
    )
    _check_client(errors, f"{path}.clientConfig", webhook.get("clientConfig") or {})
    _check_match_conditions(errors, f"{path}.matchConditions", webhook.get("matchConditions"))


def _check_review_versions(errors: Errors, path: str, versions: list[str]) -> None:
    if not versions:
        errors.append(required(path, f"must specify one of {', '.join(REVIEW_VERSIONS)}"))
        return
    for index, version in enumerate(versions):
        if version in versions[:index]:
            errors.append(invalid(f"{path}[{index}]", version, "duplicate version"))
        check(errors, f"{path}[{index}]", version, names.dns1035_label(version))
    if not any(version in REVIEW_VERSIONS for version in versions):
        detail = f"must include at least one of {', '.join(REVIEW_VERSIONS)}"
        errors.append(invalid(path, versions, detail))


def _check_client(errors: Errors, path: str, client: Object) -> None:
    url, service = client.get("url"), client.get("service")
    if (url is None) == (service is None):
        errors.append(required(path, "exactly one of url or service is required"))
    elif url is not None:
        _check_url(errors, f"{path}.url", url)
    else:
        assert service is not None
        for field in ("name", "namespace"):
            if not service.get(field):
                errors.append(required(f"{path}.service.{field}", f"service {field} is required"))
        check_port(errors, f"{path}.service.port", service.get("port", 443))
        target = service.get("path")
        if target is not None:
            _check_path(errors, f"{path}.service.path", target)


def _check_url(errors: Errors, path: str, url: str) -> None:
    form = "; desired format: https://host[/path]"
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        errors.append(required(path, f"url must be a valid URL: {error}{form}"))
        return
    if parts.scheme != "https":
        detail = f"'https' is the only allowed URL scheme{form}"
        errors.append(invalid(path, parts.scheme, detail))
    if not host:
        errors.append(invalid(path, "", f"host must be specified{form}"))
    if parts.username is not None:
        errors.append(invalid(path, parts.username, "user information is not permitted in the URL"))
    if parts.fragment:
        errors.append(invalid(path, parts.fragment, "fragments are not permitted in the URL"))
    if parts.query:
        detail = "query parameters are not permitted in the URL"
        errors.append(invalid(path, parts.query, detail))


def _check_path(errors: Errors, path: str, target: str) -> None:
    if target in ("", "/"):
        return
    if not target.startswith("/"):
        errors.append(invalid(path, target, "must start with a '/'"))
        return
    for index, step in enumerate(target.removeprefix("/").removesuffix("/").split("/")):
        if not step:
            errors.append(invalid(path, target, f"segment[{index}] may not be empty"))
        else:
            problems = dns1123_subdomain(step)
            check(errors, path, target, (f"segment[{index}]: {text}" for text in problems))


def _check_rule(errors: Errors, path: str, rule: Object) -> None:
    operations = rule.get("operations") or []
    if not operations:
        errors.append(required(f"{path}.operations"))
    if len(operations) > 1 and "*" in operations:
        detail = "if '*' is present, must not specify other operations"
        errors.append(invalid(f"{path}.operations", operations, detail))
    for index, operation in enumerate(operations):
        if operation not in OPERATIONS:
            here = f"{path}.operations[{index}]"
            errors.append(not_supported(here, operation, OPERATIONS))
    for field, what in (("apiGroups", "API groups"), ("apiVersions", "API versions")):
        values = rule.get(field) or []
        if not values:
            errors.append(required(f"{path}.{field}"))
        if len(values) > 1 and "*" in values:
            detail = f"if '*' is present, must not specify other {what}"
            errors.append(invalid(f"{path}.{field}", values, detail))
    for index, version in enumerate(rule.get("apiVersions") or ()):
        if not version:
            errors.append(required(f"{path}.apiVersions[{index}]"))
    _check_rule_resources(errors, f"{path}.resources", rule.get("resources") or [])
    check_optional_choice(errors, f"{path}.scope", rule.get("scope"), sorted(SCOPES))


def _check_rule_resources(errors: Errors, path: str, resources: list[str]) -> None:
    if not resources:
        errors.append(required(path))
    whole = {each.partition("/")[0] for each in resources if each.endswith("/*")}
    parts = {each.partition("/")[2] for each in resources if each.startswith("*/")}
    for index, each in enumerate(resources):
        resource, slash, part = each.partition("/")
        if not each:
            errors.append(required(f"{path}[{index}]"))
        elif slash and each != "*/*":
            if part != "*" and resource in whole:
                detail = f"if '{resource}/*' is present, must not specify {each}"
                errors.append(invalid(f"{path}[{index}]", each, detail))
            if resource != "*" and part in parts:
                detail = f"if '*/{part}' is present, must not specify {each}"
                errors.append(invalid(f"{path}[{index}]", each, detail))
    if len(resources) > 1 and "*/*" in resources:
        detail = "if '*/*' is present, must not specify other resources"
        errors.append(invalid(path, resources, detail))
    if "*" in resources and any("/" not in each and each != "*" for each in resources):
        detail = "if '*' is present, must not specify other resources without subresources"
        errors.append(invalid(path, resources, detail))


def _check_match_conditions(errors: Errors, path: str, conditions: list[Object] | None) -> None:
    if len(conditions or ()) > 64:
        errors.append(too_many(path, len(conditions or ()), 64))
    seen: set[str] = set()
    for index, condition in enumerate(conditions or ()):
        here, name = f"{path}[{index}]", condition.get("name") or ""
        check_name(errors, f"{here}.name", name, qualified_name)
        if name and name in seen:
            errors.append(duplicate(f"{here}.name", name))
        seen.add(name)
        if not (condition.get("expression") or "").strip():
            errors.append(required(f"{here}.expression"))


def validate_policy(obj: Object, mutating: bool) -> Errors:
    """A validating or mutating admission policy."""
    errors: Errors = []
    spec = obj["spec"]
    check_choice(errors, "spec.failurePolicy", spec.get("failurePolicy"), ("Fail", "Ignore"))
    kind = spec.get("paramKind")
    if kind is not None:
        for field in ("apiVersion", "kind"):
            if not kind.get(field):
                errors.append(required(f"spec.paramKind.{field}"))
    match = spec.get("matchConstraints")
    if match is None:
        errors.append(required("spec.matchConstraints"))
    else:
        _check_match(errors, "spec.matchConstraints", match)
        if not match.get("resourceRules"):
            errors.append(required("spec.matchConstraints.resourceRules"))
    _check_match_conditions(errors, "spec.matchConditions", spec.get("matchConditions"))
    for index, variable in enumerate(spec.get("variables") or ()):
        here = f"spec.variables[{index}]"
        check_name(errors, f"{here}.name", variable.get("name"), names.c_identifier)
        if not (variable.get("expression") or "").strip():
            errors.append(required(f"{here}.expression"))
    if mutating:
        _check_mutations(errors, spec)
    else:
        _check_validations(errors, obj)
    return errors


def _check_mutations(errors: Errors, spec: Object) -> None:
    policy, choices = spec.get("reinvocationPolicy"), ("IfNeeded", "Never")
    check_choice(errors, "spec.reinvocationPolicy", policy, choices)
    if not spec.get("mutations"):
        errors.append(required("spec.mutations", "mutations must contain at least one item"))
    for index, mutation in enumerate(spec.get("mutations") or ()):
        here, kind = f"spec.mutations[{index}]", mutation.get("patchType")
        check_choice(errors, f"{here}.patchType", kind, ("ApplyConfiguration", "JSONPatch"))
        wanted = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}.get(
            kind or ""
        )
        for field in ("applyConfiguration", "jsonPatch"):
            value = mutation.get(field)
            if field == wanted and value is None:
                detail = f"must be specified when patchType is {kind}"
                errors.append(required(f"{here}.{field}", detail))
            elif field == wanted and not (value.get("expression") or "").strip():
                errors.append(required(f"{here}.{field}.expression"))
            elif field != wanted and value is not None:
                detail = f"must not be specified when patchType is {kind}"
                errors.append(invalid(f"{here}.{field}", "{" + field + "}", detail))


def _check_validations(errors: Errors, obj: Object) -> None:
    spec = obj["spec"]
    validations, audits = spec.get("validations") or (), spec.get("auditAnnotations") or ()
    if not validations and not audits:
        detail = "validations or auditAnnotations must contain at least one item"
        errors.append(required("spec.validations", detail))
        errors.append(required("spec.auditAnnotations", detail))
    for index, validation in enumerate(validations):
        here = f"spec.validations[{index}]"
        if not (validation.get("expression") or "").strip():
            errors.append(required(f"{here}.expression", "expression is not specified"))
        message = validation.get("message") or ""
        if "\n" in message:
            detail = "must not contain line breaks"
            errors.append(invalid(f"{here}.message", message, detail))
        reason = validation.get("reason")
        if reason is not None:
            choices = ("Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge")
            check_optional_choice(errors, f"{here}.reason", reason, choices)
    seen: set[str] = set()
    for index, audit in enumerate(audits):
        here, key = f"spec.auditAnnotations[{index}]", audit.get("key") or ""
        full = f"{obj['metadata'].get('name')}/{key}"
        check_name(errors, f"{here}.key", key, lambda _, full=full: qualified_name(full))  # type: ignore[misc]
        if key in seen:
            errors.append(duplicate(f"{here}.key", key))
        seen.add(key)
        if not (audit.get("valueExpression") or "").strip():
            detail = "valueExpression is not specified"
            errors.append(required(f"{here}.valueExpression", detail))


def _check_match(errors: Errors, path: str, match: Object) -> None:
    policy = match.get("matchPolicy")
    check_choice(errors, f"{path}.matchPolicy", policy, ("Equivalent", "Exact"))
    for field in ("namespaceSelector", "objectSelector"):
        if match.get(field) is None:
            errors.append(required(f"{path}.{field}"))
        check_label_selector(errors, f"{path}.{field}", match.get(field))
    for field in ("resourceRules", "excludeResourceRules"):
        for index, rule in enumerate(match.get(field) or ()):
            here = f"{path}.{field}[{index}]"
            _check_rule(errors, here, rule)
            seen: set[str] = set()
            for position, name in enumerate(rule.get("resourceNames") or ()):
                each = f"{here}.resourceNames[{position}]"
                check(errors, each, name, names.path_segment_name(name))
                if name in seen:
                    errors.append(duplicate(each, name))
                seen.add(name)


def validate_policy_binding(obj: Object, mutating: bool) -> Errors:
    errors: Errors = []
    spec = obj["spec"]
    name = spec.get("policyName") or ""
    check_name(errors, "spec.policyName", name, dns1123_subdomain)
    reference = spec.get("paramRef")
    if reference is not None:
        _check_parameters(errors, "spec.paramRef", reference)
    if spec.get("matchResources") is not None:
        _check_match(errors, "spec.matchResources", spec["matchResources"])
    if mutating:
        return errors
    actions = spec.get("validationActions") or []
    if not actions:
        errors.append(
            required("spec.validationActions", "at least one validation action is required")
        )
    for index, action in enumerate(actions):
        here = f"spec.validationActions[{index}]"
        if action not in ("Audit", "Deny", "Warn"):
            errors.append(not_supported(here, action, ("Audit", "Deny", "Warn")))
        if action in actions[:index]:
            errors.append(duplicate(here, action))
    if {"Deny", "Warn"} <= set(actions):
        detail = (
            "must not contain both Deny and Warn (repeating the same validation failure "
            "information in the API response and headers serves no purpose)"
        )
        errors.append(invalid("spec.validationActions", actions, detail))
    return errors


def _check_parameters(errors: Errors, path: str, reference: Object) -> None:
    name, selector = reference.get("name"), reference.get("selector")
    if name:
        check(errors, f"{path}.name", name, names.path_segment_name(name))
        if selector is not None:
            errors.append(
                forbidden_field(f"{path}.name", "name and selector are mutually exclusive")
            )
    elif selector is None:
        errors.append(required(path, "one of name or selector must be specified"))
    check_label_selector(errors, f"{path}.selector", selector)
    namespace = reference.get("namespace")
    if namespace:
        check(errors, f"{path}.namespace", namespace, dns1123_label(namespace))
    action = reference.get("parameterNotFoundAction")
    if action is None:
        errors.append(required(f"{path}.parameterNotFoundAction"))
    check_optional_choice(errors, f"{path}.parameterNotFoundAction", action, ("Allow", "Deny"))
