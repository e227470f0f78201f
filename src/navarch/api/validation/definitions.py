"""Custom resource definitions and API services."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import urlsplit

from navarch.api import names
from navarch.api.schema.formats import is_format
from navarch.api.validation.clients import check_client, check_review_versions, is_ca_bundle
from navarch.api.validation.common import Object, dns1123_subdomain
from navarch.api.validation.fields import Field, Rule

COLUMN_CHOICES = {
    "type": ("boolean", "date", "integer", "number", "string"),
    "format": ("byte", "date", "date-time", "double", "float", "int32", "int64", "password"),
}
MAX_SELECTABLE_FIELDS = 8
SIMPLE_PATH = "must be a simple json path starting with ."
APPROVAL = "api-approved.kubernetes.io"
PROTECTED = ("k8s.io", "kubernetes.io")


def validate_definition(obj: Field) -> None:
    _check_definition(obj, Field(None))


def _check_definition(obj: Field, old: Field) -> None:
    """A CustomResourceDefinition; `old` is its stored state, if there is one."""
    spec, group = obj["spec"], obj["spec"].text("group")
    expected = f"{spec['names'].get('plural') or ''}.{group.value}"
    for name in obj["metadata"].each("name", "generateName") if not old.is_set else ():
        if name and name.value != expected:
            name.invalid('must be spec.names.plural+"."+spec.group')
    group.name(_joined(dns1123_subdomain))
    if group and not dns1123_subdomain(group.value) and "." not in group:
        group.invalid("should be a domain with at least one dot")
    spec["scope"].choice(("Cluster", "Namespaced"))
    _check_versions(spec, old["spec"])
    _check_kind_names(spec["names"])
    _check_conversion(spec["conversion"])
    if spec.get("preserveUnknownFields"):
        spec["preserveUnknownFields"].invalid(
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in "
            "spec.versions[*].schema instead"
        )
    _check_approval(obj, old)
    _check_stored_versions(obj["status"], spec)


def _joined(rule: Rule) -> Rule:
    """The problems that a rule finds in one text."""

    def check(value: str) -> list[str]:
        found = ",".join(rule(value))
        return [found] if found else []

    return check


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


def _check_approval(obj: Field, old: Field) -> None:
    """What had no approval before may go on without."""
    if not is_protected(obj["spec"].get("group") or ""):
        return
    state, reason = approval(obj.value)
    if old.is_set and state == approval(old.value)[0]:
        return
    annotations = obj["metadata"]["annotations"]
    place = annotations.at(f"[{APPROVAL}]", annotations.get(APPROVAL))
    if state == "Missing":
        place.required(reason)
    elif state == "Invalid":
        place.invalid(reason)


def _check_versions(spec: Field, old: Field) -> None:
    versions = spec["versions"]
    seen: set[str] = set()
    for index, version in enumerate(versions):
        name = version.text("name")
        if name.value in seen:
            versions.invalid("must contain unique version names")
        seen.add(name.value)
        name.check(_label)
        if name and not index:  # the first has a place of its own in the internal form
            spec.at("version", name.value).check(_label)
        if _schema_of(version.value) is None:
            version["schema"]["openAPIV3Schema"].required()
        version["deprecationWarning"].problems(_warning_problems(version.value))
    for columns in _places(spec, "additionalPrinterColumns"):
        _check_columns(columns)
    for subresources in _places(spec, "subresources"):
        _check_scale(subresources["scale"])
    if sum(bool(version.get("storage")) for version in versions) != 1:
        versions.invalid("must have exactly one version marked as storage version")
    if any(_schema_of(version.value) is not None for version in versions):
        _check_schemas(spec, old["versions"].value or [])


def _places(spec: Field, field: str) -> Iterator[Field]:
    """What versions say in a field, where they say it. What all share has one place of its own in
    upstream's internal form, and in the paths of errors."""
    found = [version[field] for version in spec["versions"]]
    if found and found[0] and all(each.value == found[0].value for each in found):
        yield spec.at(field, found[0].value)
    else:
        yield from filter(None, found)


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


def _check_schemas(spec: Field, old: list[Object]) -> None:
    """The versions' schemas, and the fields they can be selected by. What all versions share has
    one place of its own in upstream's internal form, and in the paths of errors."""
    from navarch.api.validation.schemas import check_schema, rule_texts  # late: it needs CEL

    before = {each.get("name"): _schema_of(each) for each in old}
    stored = rule_texts([schema for schema in before.values() if schema is not None])
    versions = [*spec["versions"]]
    schemas = [_schema_of(version.value) for version in versions]
    is_shared = all(schema == schemas[0] for schema in schemas)
    for index, (version, schema) in enumerate(zip(versions, schemas, strict=True)):
        if schema is None:
            continue
        if not (is_shared and index):
            place = spec["validation"] if is_shared else version["schema"]
            is_unchanged = before.get(version.get("name")) == schema
            check_schema(place.at("openAPIV3Schema", schema), stored, is_unchanged)
        fields = version["selectableFields"]
        if all(each.get("selectableFields") == fields.value for each in versions):
            fields = spec.at("selectableFields", fields.value if not index else None)
        if fields:
            _check_selectable(fields, schema)


def _check_selectable(fields: Field, schema: Object) -> None:
    from navarch.api.cel.rules import FieldPathProblem, resolve_field_path

    seen: set[str] = set()
    for field in fields:
        path = field["jsonPath"]
        path.present()
        if not path:
            continue
        try:
            found, node = resolve_field_path(path.value, schema, allows_brackets=False)
        except FieldPathProblem as problem:
            path.invalid(f"is an invalid path: {problem}")
            continue
        if found.partition(".")[0] == "metadata":
            path.invalid("must not point to fields in metadata")
        if node.get("type") not in ("string", "boolean", "integer"):
            path.invalid(
                "must point to a field of type string, boolean or integer. Enum string fields and "
                "strings with formats are allowed."
            )
        if found in seen:
            path.duplicate()
        seen.add(found)
    fields.showing(seen).at_most(MAX_SELECTABLE_FIELDS)


def _check_columns(columns: Field) -> None:
    for column in columns:
        column["name"].present()
        for field, choices in COLUMN_CHOICES.items():
            value, detail = column[field], f"must be one of {','.join(choices)}"
            if value and value.value not in choices:
                value.invalid(detail)
            elif not value and field == "type":
                value.required(detail)
        path = column.at("JSONPath", column.get("jsonPath"))
        path.present()
        if path and not path.value.startswith("."):
            path.invalid(SIMPLE_PATH)


def _check_scale(scale: Field) -> None:
    if not scale.is_set:
        return
    for field, prefixes in (
        ("specReplicasPath", (".spec.",)),
        ("statusReplicasPath", (".status.",)),
        ("labelSelectorPath", (".spec.", ".status.")),
    ):
        path = scale[field]
        if not path:
            if field != "labelSelectorPath":
                path.required()
        elif not path.value.startswith("."):
            path.invalid(SIMPLE_PATH)
        elif not path.value.startswith(prefixes):
            what = "either .spec or .status" if prefixes[1:] else prefixes[0].rstrip(".")
            path.invalid(f"should be a json path under {what}")


_label = _joined(names.dns1035_label)


def _check_kind_names(given: Field) -> None:
    for field in given.each("plural", "singular", "kind", "listKind"):
        field.present()
    for field in given.each("plural", "singular"):
        field.check_unless_empty(_label)
    for field in given.each("kind", "listKind"):
        if field and (problems := names.dns1035_label(field.value.lower())):
            same = "may have mixed case, but should otherwise match"
            field.invalid(f"{same}: {','.join(problems)}")
    for texts in given.each("shortNames", "categories"):
        for value in texts:
            value.check(_label)
    if given.get("kind") and given.get("kind") == given.get("listKind"):
        given["listKind"].invalid("kind and listKind may not be the same")


def _check_conversion(conversion: Field) -> None:
    webhook = conversion["webhook"]
    client = conversion.at("webhookClientConfig", webhook.get("clientConfig"))
    reviews = conversion.at("conversionReviewVersions", webhook.get("conversionReviewVersions"))
    conversion["strategy"].choice(("None", "Webhook"))
    if conversion.get("strategy") != "Webhook":
        for field in (client, reviews):
            if field:
                field.forbidden("should not be set when strategy is not set to Webhook")
        return
    if client.is_set:
        check_client(client)
    else:
        client.required("required when strategy is set to Webhook")
    if reviews:
        check_review_versions(reviews)
    else:
        reviews.required()


def _ca_bundle(spec: Field) -> str:
    return spec["conversion"]["webhook"]["clientConfig"].get("caBundle") or ""


def _check_new_bundle(bundle: Field, before: str) -> None:
    """What serves already must not lose its webhook to a bundle that is none; one that was none
    before may stay."""
    if bundle and not is_ca_bundle(bundle.value) and (not before or is_ca_bundle(before)):
        detail = "unable to load root certificates: unable to parse bytes as PEM block"
        bundle.invalid(detail)


def validate_definition_update(obj: Field, old: Field) -> None:
    _check_definition(obj, old)
    spec, before = obj["spec"], old["spec"]
    established = any(
        each.get("type") == "Established" and each.get("status") == "True"
        for each in old["status"]["conditions"]
    )
    if established:
        spec.keeps(before, "scope")
        place = spec["conversion"]["webhookClientConfig"]
        _check_new_bundle(place.at("caBundle", _ca_bundle(spec)), _ca_bundle(before))
        spec["names"].keeps(before["names"], "kind")
    spec["names"].keeps(before["names"], "plural")
    spec.keeps(before, "group")


def _check_stored_versions(status: Field, spec: Field) -> None:
    stored = status["storedVersions"]
    if not stored:
        stored.invalid("must have at least one stored version")
        return
    versions = {each.get("name"): each for each in spec["versions"]}
    for name, version in versions.items():
        if version.get("storage") and name not in stored:
            stored.invalid(f"must have the storage version {name}")
    for each in stored:
        if each.value not in versions:
            each.invalid(
                f"missing from spec.versions; {each.value} was previously a storage version, and "
                "must remain in spec.versions until a storage migration ensures no data remains "
                f"persisted in {each.value} and removes {each.value} from status.storedVersions"
            )


def validate_api_service(obj: Field) -> None:
    spec, name = obj["spec"], obj["metadata"]["name"]
    group, version = spec.text("group"), spec.text("version")
    service, bundle, skips = spec.each("service", "caBundle", "insecureSkipTLSVerify")
    if name.value != f"{version.value}.{group.value}":
        wanted = f'"{version.value}.{group.value}"'
        name.invalid(f'must be `spec.version+"."+spec.group`: {wanted}')
    if not group and version.value != "v1":
        group.required("only v1 may have an empty group and it better be legacy kube")
    group.check_unless_empty(dns1123_subdomain)
    version.check(names.dns1035_label)
    for field, most in (("groupPriorityMinimum", 20000), ("versionPriority", 1000)):
        number = spec.number(field)
        if not 0 < number.value <= most:
            number.invalid(f"must be positive and less than {most}")
    if not service.is_set:
        if bundle:
            shown = bundle.showing(f"{len(base64.b64decode(bundle.value))} bytes")
            shown.invalid("local APIServices may not have a caBundle")
        if skips:
            skips.invalid("local APIServices may not have insecureSkipTLSVerify")
        return
    for part in service.each("namespace", "name"):
        part.present()
    port = service.number("port")
    if problems := names.port_number(port.value):
        port.invalid(f"port is not valid: {', '.join(problems)}")
    if skips and bundle:
        skips.invalid("may not be true if caBundle is present")


def validate_api_service_status(obj: Field) -> None:
    for condition in obj["status"]["conditions"]:
        condition.text("status").optional_choice(("True", "False", "Unknown"))
