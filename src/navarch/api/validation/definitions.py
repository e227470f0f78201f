"""Custom resource definitions and API services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from navarch.api import names
from navarch.api.errors import FieldError, invalid
from navarch.api.schema.formats import is_format
from navarch.api.validation.clients import check_client, check_review_versions, is_ca_bundle
from navarch.api.validation.common import Errors, Object, dns1123_subdomain, indexed

COLUMN_CHOICES = {
    "type": ("boolean", "date", "integer", "number", "string"),
    "format": ("byte", "date", "date-time", "double", "float", "int32", "int64", "password"),
}
MAX_SELECTABLE_FIELDS = 8
SIMPLE_PATH = "must be a simple json path starting with ."
APPROVAL = "api-approved.kubernetes.io"
PROTECTED = ("k8s.io", "kubernetes.io")


def validate_definition(obj: Object, old: Object | None = None) -> list[FieldError]:
    """A CustomResourceDefinition; `old` is its stored state, if there is one."""
    errors = Errors()
    spec = obj["spec"]
    kind_names, group = spec.get("names") or {}, spec.get("group") or ""
    expected = f"{kind_names.get('plural') or ''}.{group}"
    for field in ("name", "generateName") if old is None else ():
        if (name := obj["metadata"].get(field)) and name != expected:
            errors.invalid(f"metadata.{field}", name, 'must be spec.names.plural+"."+spec.group')
    if not group:
        errors.required("spec.group")
    elif problems := dns1123_subdomain(group):
        errors.invalid("spec.group", group, ",".join(problems))
    elif "." not in group:
        errors.invalid("spec.group", group, "should be a domain with at least one dot")
    errors.choice("spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
    _check_versions(errors, spec, (old or {}).get("spec") or {})
    _check_kind_names(errors, "spec.names", kind_names)
    _check_conversion(errors, "spec.conversion", spec.get("conversion") or {})
    if spec.get("preserveUnknownFields"):
        detail = (
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in "
            "spec.versions[*].schema instead"
        )
        errors.invalid("spec.preserveUnknownFields", True, detail)
    _check_approval(errors, obj, old)
    return errors + _stored_versions(obj)


def is_protected(group: str) -> bool:
    """Whether a group is one of the community's own."""
    return group in PROTECTED or group.endswith(tuple(f".{each}" for each in PROTECTED))


def approval(obj: Object) -> tuple[str, str]:
    """The state of a definition's approval by the community's API review, and the reason. An
    approval names the review by its URL; an explicit `unapproved` does without. (KEP-1111)"""
    value = (obj["metadata"].get("annotations") or {}).get(APPROVAL) or ""
    see = "see https://github.com/kubernetes/enhancements/pull/1111"
    if not value:
        return "Missing", f'protected groups must have approval annotation "{APPROVAL}", {see}'
    if value.startswith("unapproved"):
        return "Bypassed", f'not approved: "{value}"'
    try:
        url = urlsplit(value)
    except ValueError:
        url = urlsplit("")
    if url.scheme and url.netloc:
        return "Approved", f"approved in {value}"
    return "Invalid", (
        f'protected groups must have approval annotation "{APPROVAL}" with either a URL or a '
        f'reason starting with "unapproved", {see}'
    )


def _check_approval(errors: Errors, obj: Object, old: Object | None) -> None:
    """What had no approval before may go on without."""
    if not is_protected(obj["spec"].get("group") or ""):
        return
    state, reason = approval(obj)
    if old is not None and state == approval(old)[0]:
        return
    here = f"metadata.annotations[{APPROVAL}]"
    if state == "Missing":
        errors.required(here, reason)
    elif state == "Invalid":
        errors.invalid(here, obj["metadata"]["annotations"][APPROVAL], reason)


def _check_versions(errors: Errors, spec: Object, old: Object) -> None:
    versions = spec.get("versions") or []
    seen: set[str] = set()
    storing = 0
    is_schemaless = all(_schema_of(version) is None for version in versions)
    for index, version in enumerate(versions):
        here, name = f"spec.versions[{index}]", version.get("name") or ""
        storing += bool(version.get("storage"))
        if name in seen:
            errors.invalid("spec.versions", versions, "must contain unique version names")
        seen.add(name)
        if problems := names.dns1035_label(name):
            errors.invalid(f"{here}.name", name, ",".join(problems))
            if name and not index:  # the first has a place of its own in the internal form
                errors.invalid("spec.version", name, ",".join(problems))
        if _schema_of(version) is None:
            errors.required(f"{here}.schema.openAPIV3Schema")
        for problem in _warning_problems(version):
            errors.invalid(f"{here}.deprecationWarning", version["deprecationWarning"], problem)
    for path, columns in _places(versions, "additionalPrinterColumns"):
        _check_columns(errors, path, columns)
    for path, subresources in _places(versions, "subresources"):
        _check_scale(errors, f"{path}.scale", subresources.get("scale"))
    if storing != 1:
        detail = "must have exactly one version marked as storage version"
        errors.invalid("spec.versions", spec.get("versions"), detail)
    if not is_schemaless:
        _check_schemas(errors, versions, old.get("versions") or [])


def _places(versions: list[Object], field: str) -> Iterator[tuple[str, Any]]:
    """What versions say in a field, and where. What all share has one place of its own in
    upstream's internal form, and in the paths of errors."""
    values = [version.get(field) for version in versions]
    if values and values[0] and all(value == values[0] for value in values):
        yield f"spec.{field}", values[0]
        return
    for index, value in enumerate(values):
        if value:
            yield f"spec.versions[{index}].{field}", value


def _warning_problems(version: Object) -> list[str]:
    warning = version.get("deprecationWarning")
    if warning is None:
        return []
    if not version.get("deprecated"):
        return ["can only be set for deprecated versions"]
    if not warning:
        return ["must not be an empty string"]
    problems = ["must be <= 256 characters long"] if len(warning.encode()) > 256 else []
    odd = next((place for place, char in enumerate(warning) if not char.isprintable()), None)
    if odd is not None:
        at = len(warning[:odd].encode())
        detail = "must only contain printable UTF-8 characters"
        problems.append(f"{detail}; non-printable character found at index {at}")
    return problems


def _schema_of(version: Object) -> Object | None:
    schema: Object | None = (version.get("schema") or {}).get("openAPIV3Schema")
    return schema


_NUMBER_FORMATS = {"integer": ("int32", "int64"), "number": ("float", "double")}


def unknown_formats(obj: Object) -> list[str]:
    """The formats in a definition's schemas that nothing checks."""
    found: list[str] = []

    def visit(schema: Object) -> None:
        form, kind = schema.get("format"), schema.get("type") or "string"
        is_known = is_format if kind == "string" else _NUMBER_FORMATS.get(kind, ()).__contains__
        if form and not is_known(form):
            found.append(form)
        for inner in _inner_schemas(schema):
            visit(inner)

    schemas = [_schema_of(version) for version in obj["spec"].get("versions") or ()]
    is_shared = all(schema == schemas[0] for schema in schemas)
    for schema in schemas[: 1 if is_shared else None]:
        visit(schema or {})
    return found


def _inner_schemas(schema: Object) -> Iterator[Object]:
    for key in ("properties", "items", "additionalProperties", "not"):
        inner = schema.get(key)
        if isinstance(inner, dict):
            yield from inner.values() if key == "properties" else (inner,)
    for key in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(key) or ()


def _check_schemas(errors: Errors, versions: list[Object], old: list[Object]) -> None:
    """The versions' schemas, and the fields they can be selected by. What all versions share has
    one place of its own in upstream's internal form, and in the paths of errors."""
    from navarch.api.validation.schemas import rule_texts, validate_schema  # late: it needs CEL

    before = {each.get("name"): _schema_of(each) for each in old}
    stored = rule_texts([schema for schema in before.values() if schema is not None])
    schemas = [_schema_of(version) for version in versions]
    is_shared = all(schema == schemas[0] for schema in schemas)
    for index, (version, schema) in enumerate(zip(versions, schemas, strict=True)):
        where = f"spec.versions[{index}]"
        if schema is not None and not (is_shared and index):
            path = "spec.validation" if is_shared else f"{where}.schema"
            is_unchanged = before.get(version.get("name")) == schema
            errors += validate_schema(schema, f"{path}.openAPIV3Schema", stored, is_unchanged)
        if schema is not None:
            fields = version.get("selectableFields")
            if all(each.get("selectableFields") == fields for each in versions):
                where = "spec"
            if fields and (where != "spec" or not index):
                _check_selectable(errors, f"{where}.selectableFields", fields, schema)


def _check_selectable(errors: Errors, path: str, fields: Sequence[Object], schema: Object) -> None:
    from navarch.api.cel.rules import FieldPathProblem, resolve_field_path

    seen: set[str] = set()
    for index, field in enumerate(fields):
        here, target = f"{path}[{index}].jsonPath", field.get("jsonPath") or ""
        if not target:
            errors.required(here)
            continue
        try:
            found, node = resolve_field_path(target, schema, allows_brackets=False)
        except FieldPathProblem as problem:
            errors.invalid(here, target, f"is an invalid path: {problem}")
            continue
        if found.partition(".")[0] == "metadata":
            errors.invalid(here, target, "must not point to fields in metadata")
        if node.get("type") not in ("string", "boolean", "integer"):
            detail = (
                "must point to a field of type string, boolean or integer. Enum string fields and "
                "strings with formats are allowed."
            )
            errors.invalid(here, target, detail)
        if found in seen:
            errors.duplicate(here, target)
        seen.add(found)
    errors.at_most(path, seen, MAX_SELECTABLE_FIELDS)


def _check_columns(errors: Errors, path: str, columns: list[Object]) -> None:
    for here, column in indexed(path, columns):
        errors.present(f"{here}.name", column.get("name"))
        for field, choices in COLUMN_CHOICES.items():
            value, detail = column.get(field), f"must be one of {','.join(choices)}"
            if value and value not in choices:
                errors.invalid(f"{here}.{field}", value, detail)
            elif not value and field == "type":
                errors.required(f"{here}.{field}", detail)
        target = column.get("jsonPath")
        if not target:
            errors.required(f"{here}.JSONPath")
        elif not target.startswith("."):
            errors.invalid(f"{here}.JSONPath", target, SIMPLE_PATH)


def _check_scale(errors: Errors, path: str, scale: Object | None) -> None:
    if scale is None:
        return
    for field, prefixes in (
        ("specReplicasPath", (".spec.",)),
        ("statusReplicasPath", (".status.",)),
        ("labelSelectorPath", (".spec.", ".status.")),
    ):
        here, target = f"{path}.{field}", scale.get(field) or ""
        if not target:
            if field != "labelSelectorPath":
                errors.required(here)
        elif not target.startswith("."):
            errors.invalid(here, target, SIMPLE_PATH)
        elif not target.startswith(prefixes):
            what = "either .spec or .status" if prefixes[1:] else prefixes[0].rstrip(".")
            errors.invalid(here, target, f"should be a json path under {what}")


def _check_kind_names(errors: Errors, path: str, given: Object) -> None:
    for field in ("plural", "singular", "kind", "listKind"):
        errors.present(f"{path}.{field}", given.get(field))
    for field in ("plural", "singular"):
        value = given.get(field)
        if value and (problems := names.dns1035_label(value)):
            errors.invalid(f"{path}.{field}", value, ",".join(problems))
    for field in ("kind", "listKind"):
        if (value := given.get(field)) and (problems := names.dns1035_label(value.lower())):
            detail = f"may have mixed case, but should otherwise match: {','.join(problems)}"
            errors.invalid(f"{path}.{field}", value, detail)
    for field in ("shortNames", "categories"):
        for index, value in enumerate(given.get(field) or ()):
            if problems := names.dns1035_label(value):
                errors.invalid(f"{path}.{field}[{index}]", value, ",".join(problems))
    if given.get("kind") and given.get("kind") == given.get("listKind"):
        detail = "kind and listKind may not be the same"
        errors.invalid(f"{path}.listKind", given["listKind"], detail)


def _check_conversion(errors: Errors, path: str, conversion: Object) -> None:
    strategy, webhook = conversion.get("strategy"), conversion.get("webhook")
    errors.choice(f"{path}.strategy", strategy, ("None", "Webhook"))
    if strategy != "Webhook":
        for field, shown in (
            ("clientConfig", "webhookClientConfig"),
            ("conversionReviewVersions", "conversionReviewVersions"),
        ):
            if (webhook or {}).get(field):
                detail = "should not be set when strategy is not set to Webhook"
                errors.forbidden(f"{path}.{shown}", detail)
        return
    client = (webhook or {}).get("clientConfig")
    if client is None:
        errors.required(f"{path}.webhookClientConfig", "required when strategy is set to Webhook")
    else:
        check_client(errors, f"{path}.webhookClientConfig", client)
    reviews, here = (
        (webhook or {}).get("conversionReviewVersions"),
        f"{path}.conversionReviewVersions",
    )
    if reviews:
        check_review_versions(errors, here, reviews)
    else:
        errors.required(here)


def _ca_bundle(spec: Object) -> str:
    webhook = (spec.get("conversion") or {}).get("webhook") or {}
    return (webhook.get("clientConfig") or {}).get("caBundle") or ""


def _check_new_bundle(errors: Errors, bundle: str, before: str) -> None:
    """What serves already must not lose its webhook to a bundle that is none; one that was none
    before may stay."""
    if bundle and not is_ca_bundle(bundle) and (not before or is_ca_bundle(before)):
        detail = "unable to load root certificates: unable to parse bytes as PEM block"
        errors.invalid("spec.conversion.webhookClientConfig.caBundle", bundle, detail)


def validate_definition_update(obj: Object, old: Object) -> list[FieldError]:
    errors = Errors(validate_definition(obj, old))
    new, before = obj["spec"], old["spec"]
    kind_names, known_names = new.get("names") or {}, before.get("names") or {}
    established = any(
        each.get("type") == "Established" and each.get("status") == "True"
        for each in (old.get("status") or {}).get("conditions") or ()
    )
    if established:
        errors.immutable("spec.scope", new.get("scope"), before.get("scope"))
        _check_new_bundle(errors, _ca_bundle(new), _ca_bundle(before))
        errors.immutable("spec.names.kind", kind_names.get("kind"), known_names.get("kind"))
    errors.immutable("spec.names.plural", kind_names.get("plural"), known_names.get("plural"))
    errors.immutable("spec.group", new.get("group"), before.get("group"))
    return errors


def _stored_versions(obj: Object) -> list[FieldError]:
    errors = Errors()
    stored = (obj.get("status") or {}).get("storedVersions")
    here = "status.storedVersions"
    if not stored:
        return [invalid(here, stored, "must have at least one stored version")]
    versions = {each.get("name"): each for each in obj["spec"].get("versions") or ()}
    for name, version in versions.items():
        if version.get("storage") and name not in stored:
            errors.invalid(here, stored, f"must have the storage version {name}")
    for index, name in enumerate(stored):
        if name not in versions:
            detail = (
                f"missing from spec.versions; {name} was previously a storage version, and must "
                "remain in spec.versions until a storage migration ensures no data remains "
                f"persisted in {name} and removes {name} from status.storedVersions"
            )
            errors.invalid(f"{here}[{index}]", name, detail)
    return errors


def validate_api_service(errors: Errors, obj: Object) -> None:
    spec = obj["spec"]
    group, version = spec.get("group") or "", spec.get("version") or ""
    expected = f"{version}.{group}"
    if obj["metadata"].get("name") != expected:
        detail = f'must be `spec.version+"."+spec.group`: {expected}'.replace(f": {expected}", "")
        errors.invalid("metadata.name", obj["metadata"].get("name"), detail)
    if not group and version != "v1":
        detail = "only v1 may have an empty group and it better be legacy kube"
        errors.required("spec.group", detail)
    if group:
        errors.check("spec.group", group, dns1123_subdomain)
    errors.check("spec.version", version, names.dns1035_label)
    for field, most in (("groupPriorityMinimum", 20000), ("versionPriority", 1000)):
        value = spec.get(field) or 0
        if not 0 < value <= most:
            errors.invalid(f"spec.{field}", value, f"must be positive and less than {most}")
    service, bundle = spec.get("service"), spec.get("caBundle") or ""
    skips = bool(spec.get("insecureSkipTLSVerify"))
    if service is None:
        for field, value in (("caBundle", bundle), ("insecureSkipTLSVerify", skips)):
            if value:
                shown: Any = f"{len(bundle)} bytes" if field == "caBundle" else True
                detail = f"local APIServices may not have {'a ' if value is bundle else ''}{field}"
                errors.invalid(f"spec.{field}", shown, detail)
        return
    for field in ("namespace", "name"):
        errors.present(f"spec.service.{field}", service.get(field))
    errors.port("spec.service.port", service.get("port"))
    if skips and bundle:
        errors.invalid("spec.insecureSkipTLSVerify", True, "may not be true if caBundle is present")


def validate_api_service_status(errors: Errors, obj: Object) -> None:
    for index, condition in enumerate((obj.get("status") or {}).get("conditions") or ()):
        here = f"status.conditions[{index}].status"
        errors.optional_choice(here, condition.get("status") or "", ("True", "False", "Unknown"))
