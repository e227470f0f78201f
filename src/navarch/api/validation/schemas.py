"""The schemas of custom resource definitions: structural, and their validation rules affordable.

A schema is structural when it says once, outside of all `allOf`/`anyOf`/`oneOf`/`not`, what an
object consists of; only then can objects be pruned and defaulted. Its CEL rules are compiled here
for the first time, and refused when they could cost too much. (KEP-95, KEP-2876)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from navarch.api import regex
from navarch.api.cel.costs import UNBOUNDED
from navarch.api.cel.environment import STORED
from navarch.api.cel.library import NEW
from navarch.api.cel.rule_check import compile_tree, rule_errors
from navarch.api.cel.rules import (
    RULE_LIMIT,
    RULES,
    SCHEMA_LIMIT,
    FieldPathProblem,
    Rule,
    compile_rules,
    cost_problem,
    resolve_field_path,
    shown_entry,
)
from navarch.api.cel.schema import EMBEDDED, INT_OR_STRING, PRESERVE, Schema, declare
from navarch.api.errors import FieldError, forbidden_field, invalid, required
from navarch.api.patch.common import copy_json, json_equal
from navarch.api.schema import structural
from navarch.api.validation.common import Errors

TYPES = ("array", "boolean", "integer", "number", "object", "string")
REASONS = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
_META = ("metadata", "kind", "apiVersion")
_META_STEPS = tuple(f"properties[{name}]" for name in _META)
_LIST, _KEYS, _MAP = "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"
_UNSUPPORTED = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_UNDECLARED = (
    f"Internal error: internal error: failed to construct type information for {RULES} rules: "
    "unable to convert structural schema to CEL declarations"
)
_LINE_BREAK = re.compile(r"[\n\r]")
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]


def rule_texts(schemas: list[Schema]) -> frozenset[str]:
    """All expressions of rules in these schemas: those that are stored may use older libraries."""
    found: set[str] = set()
    for schema in schemas:
        for node in _nodes(schema):
            for entry in node.get(RULES) or ():
                found |= {entry.get("rule") or "", entry.get("messageExpression") or ""}
    return frozenset(found)


def _nodes(schema: Schema) -> Iterator[Schema]:
    yield schema
    for _, inner in _children(schema):
        yield from _nodes(inner)


def _children(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas of an object's parts, with the steps that lead to them."""
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield key, schema[key]
    for name, inner in (schema.get("properties") or {}).items():
        yield f"properties[{name}]", inner


def _nested(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas under logical junctors."""
    for key in _JUNCTORS:
        for index, inner in enumerate(schema.get(key) or ()):
            yield f"{key}[{index}]", inner
    if isinstance(schema.get("not"), dict):
        yield "not", schema["not"]


def validate_schema(
    schema: Schema, path: str, stored: frozenset[str] = frozenset(), is_unchanged: bool = False
) -> list[FieldError]:
    """A version's schema. `stored` are the expressions of rules that were there before;
    `is_unchanged` when the whole schema was."""
    errors = Errors()
    is_readable = not any(map(_is_unsupported, _all_nodes(schema)))
    if any(node.get("$schema") for node in _all_nodes(schema)):
        is_readable = False
        errors.invalid(path, "", "OpenAPIV3Schema 'schema' is not supported")
    if is_readable:
        errors = Errors(sorted(_structural_errors(schema, path, "root"), key=str))
    if is_readable and not errors:
        errors = _default_errors(schema, path, schema)
    if schema.get("nullable"):
        errors.forbidden(f"{path}.nullable", "nullable cannot be true at the root")
    walk = _Walk(stored, is_unchanged, is_structural=is_readable and not errors)
    walk.visit(_Place(schema, path))
    return errors + walk.errors + walk.rule_errors + walk.total_errors(path)


def _all_nodes(schema: Schema) -> Iterator[Schema]:
    """Every schema inside of one, those under junctors too."""
    yield schema
    for _, inner in (*_children(schema), *_nested(schema)):
        yield from _all_nodes(inner)


def _is_unsupported(schema: Schema) -> bool:
    """What no structural schema can be read from."""
    return any(schema.get(key) for key in _UNSUPPORTED) or isinstance(schema.get("items"), list)


# ---- defaults


def _default_errors(schema: Schema, path: str, root: Schema) -> Errors:
    """Defaults must be valid, known to the schema, and keep its rules; those of metadata are
    restricted elsewhere."""
    errors = Errors()
    value = schema.get("default")
    if value is not None:
        where = f"{path}.default"
        pruned = copy_json(value)
        structural.prune(pruned, schema, is_root=bool(schema.get(EMBEDDED)))
        if not json_equal(pruned, value):
            errors.invalid(where, value, "must not have unknown fields")
        whole = {**schema, EMBEDDED: True} if schema is root else schema
        for inside, embedded in structural.embedded_objects(value, whole):
            below = f"{where}.{inside}" if inside else where
            errors += structural.embedded_errors(embedded, below)
        found = [_rooted(error, where) for error in structural.validate(value, schema)]
        tree = compile_tree(schema, schema is root) if not found else None
        if tree is not None:
            for old in (value, None):  # a default can come with an update and without
                found = found or rule_errors(tree, value, old, lambda text: None, where)
        errors += found
    for step, inner in _children(schema):
        if not (schema is root and step in _META_STEPS):
            errors += _default_errors(inner, f"{path}.{step}", root)
    return errors


def _rooted(error: FieldError, where: str) -> FieldError:
    """An error about a part of a default, told from the root. Upstream names no field before "in
    body" when there is none, but keeps the space."""
    if error.field in ("", "<nil>"):
        return replace(error, field=where, message=error.message.replace(": in b", ":  in b", 1))
    return replace(error, field=f"{where}.{error.field}")


# ---- structural schemas

_ROOT, _ITEM, _FIELD = "root", "item", "field"
_NOT_EMPTY = {
    _ROOT: "must not be empty at the root",
    _ITEM: "must not be empty for specified array items",
    _FIELD: "must not be empty for specified object fields",
}


def _structural_errors(schema: Schema, path: str, level: str) -> Errors:
    errors = Errors()
    kind, embedded = schema.get("type") or "", bool(schema.get(EMBEDDED))
    if kind == "array" and schema.get("items") is None:
        errors.required(f"{path}.items", "must be specified")
    for step, inner in _children(schema):
        errors += _structural_errors(inner, f"{path}.{step}", _ITEM if step == "items" else _FIELD)
    extra = schema.get("additionalProperties")
    if extra is not None and level == _ROOT:
        errors.forbidden(f"{path}.additionalProperties", "must not be used at the root")
    if schema.get(INT_OR_STRING):
        for other in (PRESERVE, EMBEDDED):
            if schema.get(other):
                errors.invalid(f"{path}.{other}", True, f"must be false if {INT_OR_STRING} is true")
    errors += _value_errors(schema, path)
    if embedded and kind != "object":
        detail = f"must be object if {EMBEDDED} is true"
        where = f"{path}.type"
        errors.append(invalid(where, kind, detail) if kind else required(where, detail))
    elif not kind and not schema.get(INT_OR_STRING) and not schema.get(PRESERVE):
        errors.required(f"{path}.type", _NOT_EMPTY[level])
    if embedded and extra is not None:
        errors.forbidden(f"{path}.additionalProperties", f"must not be used if {EMBEDDED} is set")
    if level == _ROOT and kind and kind != "object":
        errors.invalid(f"{path}.type", kind, "must be object at the root")
    if level == _ROOT or embedded:
        errors += _meta_errors(schema, path, level)
    if embedded and not schema.get(PRESERVE) and not schema.get("properties"):
        detail = f"must not be empty if {EMBEDDED} is true without {PRESERVE}"
        errors.required(f"{path}.properties", detail)
    return errors


def _meta_errors(schema: Schema, path: str, level: str) -> Errors:
    """What every object has is implied; metadata can be restricted, not described."""
    errors = Errors()
    properties = schema.get("properties") or {}
    for name in ("kind", "apiVersion"):
        if name in properties and properties[name].get("type") != "string":
            where = f"{path}.properties[{name}].type"
            errors.invalid(where, properties[name].get("type") or "", "must be string")
    metadata = properties.get("metadata")
    if metadata is None:
        return errors
    here = f"{path}.properties[metadata]"
    if metadata.get("type") != "object":
        errors.invalid(f"{here}.type", metadata.get("type") or "", "must be object")
    allowed = {"type", "default", "properties"}
    named = set(metadata.get("properties") or {}) <= {"name", "generateName"}
    if level == _ROOT and not (named and set(metadata) <= allowed):
        detail = (
            "must not specify anything other than name and generateName, but metadata is "
            "implicitly specified"
        )
        errors.forbidden(here, detail)
    return errors


def _value_errors(schema: Schema, path: str, skips: bool | None = None) -> Errors:
    """The junctors of a node, and its pattern. `anyOf: [integer, string]` is how int-or-string is
    spelt for others, directly or first of `allOf`."""
    errors = Errors()
    first = (schema.get("allOf") or [{}])[0]
    for step, inner in _nested(schema):
        if (
            step.startswith("anyOf")
            and schema.get("anyOf") == _INT_OR_STRING
            and skips is not False
        ):
            continue
        is_first = step == "allOf[0]" and first.get("anyOf") == _INT_OR_STRING and skips is None
        errors += _nested_errors(inner, f"{path}.{step}", skips=is_first)
    pattern = schema.get("pattern")
    if pattern:
        try:
            regex.compiled(pattern)
        except regex.PatternError as error:
            detail = f"must be a valid regular expression, but isn't: {error}"
            errors.invalid(f"{path}.pattern", pattern, detail)
    return errors


_FORBIDDEN_NESTED = (
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    (PRESERVE, "must be false to be structural"),
    (EMBEDDED, "must be false to be structural"),
    (INT_OR_STRING, "must be false to be structural"),
    (_KEYS, "must be empty to be structural"),
    (_LIST, "must be undefined to be structural"),
    (_MAP, "must be undefined to be structural"),
    (RULES, "must be empty to be structural"),
)


def _nested_errors(schema: Schema, path: str, skips: bool = False) -> Errors:
    errors = _value_errors(schema, path, skips)
    for step, inner in _children(schema):
        if step != "additionalProperties":
            errors += _nested_errors(inner, f"{path}.{step}")
    for key, detail in _FORBIDDEN_NESTED:
        if schema.get(key) or (key == "default" and key in schema):
            errors.forbidden(f"{path}.{key}", detail)
    if "metadata" in (schema.get("properties") or {}):
        detail = "must not be specified in a nested context"
        errors.forbidden(f"{path}.properties[metadata]", detail)
    return errors


# ---- every node, and its rules


@dataclass(frozen=True, slots=True)
class _Place:
    """A node on the walk. `cardinality` is how often it can occur in one object, None if nothing
    bounds that; `uncorrelatable` the outermost list above that has no old counterpart."""

    schema: Schema
    path: str
    has_rules: bool = True
    """Not under junctors, where no rule can stand."""
    is_root: bool = True
    cardinality: int | None = 1
    uncorrelatable: str = ""
    no_default: str | None = None
    in_metadata: bool = False


@dataclass(slots=True)
class _Walk:
    stored: frozenset[str]
    is_unchanged: bool
    is_structural: bool
    errors: Errors = field(default_factory=Errors)
    rule_errors: Errors = field(default_factory=Errors)
    total: int = 0
    dearest: list[tuple[int, str]] = field(default_factory=list)

    def visit(self, place: _Place) -> None:
        before = len(self.errors)
        self._check(place)
        for step, inner in _children(place.schema):
            self.visit(self._child(place, step, inner))
        for step, inner in _nested(place.schema):
            below = replace(place, schema=inner, path=f"{place.path}.{step}", has_rules=False)
            self.visit(replace(below, is_root=False))
        for index, entry in enumerate(place.schema.get(RULES) or ()):
            self._check_entry(place, f"{place.path}.{RULES}[{index}]", entry)
        # What is wrong with the schema would only confuse whoever reads about the rules.
        if self.is_structural and before == len(self.errors) and place.schema.get(RULES):
            self._check_rules(place)

    def _child(self, place: _Place, step: str, schema: Schema) -> _Place:
        parent = place.schema
        uncorrelatable = place.uncorrelatable
        breaks = step == "items" and parent.get(_LIST) != "map"
        if breaks and not uncorrelatable:
            uncorrelatable = place.path
        no_default, in_metadata = place.no_default, place.in_metadata
        name = step.removeprefix("properties[").removesuffix("]")
        if step == "additionalProperties" and in_metadata:
            no_default = "inside additionalProperties applying to object metadata"
        if step.startswith("properties[") and name in _META:
            if place.is_root or parent.get(EMBEDDED):
                in_metadata = True
            if place.is_root:
                no_default = f"in top-level {name}"
        return _Place(
            schema,
            f"{place.path}.{step}",
            place.has_rules,
            False,
            _times(place.cardinality, parent, step),
            uncorrelatable,
            no_default,
            in_metadata,
        )

    def _check(self, place: _Place) -> None:
        schema, path, errors = place.schema, place.path, self.errors
        kind = schema.get("type") or ""
        if kind and kind not in TYPES:
            errors.not_supported(f"{path}.type", kind, TYPES)
        if kind == "null":
            detail = "type cannot be set to null, use nullable as an alternative"
            errors.forbidden(f"{path}.type", detail)
        if "default" in schema and place.no_default is not None:
            errors.forbidden(f"{path}.default", f"must not be set {place.no_default}")
        for key in _UNSUPPORTED:
            if schema.get(key):
                errors.forbidden(f"{path}.{key}", f"{key} is not supported")
        if isinstance(schema.get("items"), list):
            errors.forbidden(f"{path}.items", "items must be a schema object and not an array")
        if place.in_metadata and schema.get(EMBEDDED):
            errors.forbidden(f"{path}.{EMBEDDED}", "must not be used inside of resource meta")
        if schema.get("uniqueItems"):
            detail = (
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            )
            errors.forbidden(f"{path}.uniqueItems", detail)
        extra = schema.get("additionalProperties")
        if schema.get("properties") and (extra is False or isinstance(extra, dict)):
            detail = "additionalProperties and properties are mutual exclusive"
            errors.forbidden(f"{path}.additionalProperties", detail)
        if schema.get(PRESERVE) is False:
            errors.invalid(f"{path}.{PRESERVE}", False, "must be true or undefined")
        _check_list_and_map(errors, schema, path)

    def _check_entry(self, place: _Place, path: str, entry: Schema) -> None:
        """The form of a rule, apart from its expressions."""
        rule, message = entry.get("rule") or "", entry.get("message") or ""
        if not rule.strip():
            self.errors.required(f"{path}.rule", "rule is not specified")
        elif message and not message.strip():
            self.errors.invalid(f"{path}.message", message, "must be non-empty if specified")
        elif _LINE_BREAK.search(message.strip()):
            self.errors.invalid(f"{path}.message", message, "must not contain line breaks")
        elif _LINE_BREAK.search(rule.strip()) and not message.strip():
            detail = "message must be specified if rule contains line breaks"
            self.errors.required(f"{path}.message", detail)
        expression = entry.get("messageExpression") or ""
        if expression and not expression.strip():
            detail = "messageExpression must be non-empty if specified"
            self.errors.required(f"{path}.messageExpression", detail)
        reason, target = entry.get("reason"), entry.get("fieldPath") or ""
        if reason is not None and reason not in REASONS:
            self.errors.not_supported(f"{path}.reason", reason, REASONS)
        problems = []
        if target and not target.strip():
            problems.append("must be non-empty if specified")
        if _LINE_BREAK.search(target):
            problems.append("must not contain line breaks")
        if target:
            try:
                resolve_field_path(target, place.schema)
            except FieldPathProblem:
                problems.append("must be a valid path")
        self.errors += [invalid(f"{path}.fieldPath", target, each) for each in problems]

    def _check_rules(self, place: _Place) -> None:
        if not place.has_rules:
            return
        declared = declare(place.schema, is_root=place.is_root)
        if declared is None:
            where = f"{place.path}.{RULES}"
            self.rule_errors.append(FieldError("InternalError", where, _UNDECLARED))
            return
        rules = compile_rules(
            declared, place.schema[RULES], lambda text: STORED if text in self.stored else NEW
        )
        for index, rule in enumerate(rules):
            self._check_rule(place, f"{place.path}.{RULES}[{index}]", rule)

    def _check_rule(self, place: _Place, path: str, rule: Rule) -> None:
        times = rule.cardinality if place.cardinality is None else place.cardinality
        cost = min(rule.cost * times, UNBOUNDED)
        errors, entry = self.rule_errors, shown_entry(rule.entry)
        self._charge(f"{path}.rule", cost, "estimated rule cost")
        if rule.problem:
            errors.invalid(f"{path}.rule", entry, rule.problem)
        if rule.message_problem:
            errors.invalid(f"{path}.messageExpression", entry, rule.message_problem)
        elif rule.message is not None:
            what = "estimated messageExpression cost"
            self._charge(f"{path}.messageExpression", rule.message_cost, what)
        if rule.uses_old and place.uncorrelatable:
            detail = (
                "oldSelf cannot be used on the uncorrelatable portion of the schema within "
                f"{place.uncorrelatable}"
            )
            errors.invalid(f"{path}.rule", rule.entry["rule"], detail)
        optional = rule.entry.get("optionalOldSelf")
        if not rule.uses_old and optional is not None:
            detail = "may not be set if oldSelf is not used in rule"
            errors.invalid(f"{path}.optionalOldSelf", optional, detail)

    def _charge(self, path: str, cost: int, what: str) -> None:
        if cost > RULE_LIMIT and not self.is_unchanged:
            self.rule_errors.forbidden(path, cost_problem(what, cost, RULE_LIMIT))
        self.total = min(self.total + cost, UNBOUNDED)
        if cost >= SCHEMA_LIMIT // 100:
            self.dearest.append((cost, path))

    def total_errors(self, path: str) -> list[FieldError]:
        if self.total <= SCHEMA_LIMIT:
            return []
        self.dearest.sort(key=lambda each: -each[0])
        detail = (
            "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 "
            "schema"
        )
        errors = Errors(forbidden_field(where, detail) for _, where in self.dearest[:4])
        what = f"{RULES} estimated rule cost total for entire OpenAPIv3 schema"
        errors.forbidden(path, cost_problem(what, self.total, SCHEMA_LIMIT))
        return errors


def _times(cardinality: int | None, parent: Schema, step: str) -> int | None:
    """How often a part can occur, given how often the whole can."""
    if cardinality is None:
        return None
    most: int | None = 1
    if parent.get("type") == "array":
        most = parent.get("maxItems")
    elif parent.get("type") == "object" and parent.get("additionalProperties") is not None:
        most = parent.get("maxProperties")
    return None if most is None else min(cardinality * max(most, 0), UNBOUNDED)


def _check_list_and_map(errors: Errors, schema: Schema, path: str) -> None:
    kind = schema.get("type") or ""
    for key, choices, wanted in (
        (_MAP, ("atomic", "granular"), "object"),
        (_LIST, ("atomic", "set", "map"), "array"),
    ):
        value = schema.get(key)
        if value is None:
            continue
        if kind != wanted:
            detail, where = f"must be {wanted} if {key} is specified", f"{path}.type"
            errors.append(invalid(where, kind, detail) if kind else required(where, detail))
        if value not in choices:
            errors.not_supported(f"{path}.{key}", value, choices)
    list_type, keys, items = schema.get(_LIST), schema.get(_KEYS) or [], schema.get("items")
    if keys and list_type != "map":
        detail, where = f"must be map if {_KEYS} is non-empty", f"{path}.{_LIST}"
        errors.append(invalid(where, list_type, detail) if list_type else required(where, detail))
    if list_type in ("set", "map") and isinstance(items, dict) and items.get("nullable"):
        detail = f"cannot be nullable when {_LIST} is {list_type}"
        errors.forbidden(f"{path}.items.nullable", detail)
    if list_type == "set" and kind == "array" and isinstance(items, dict):
        inner, default = {"array": (_LIST, "atomic"), "object": (_MAP, None)}.get(
            items.get("type") or "", ("", None)
        )
        if inner and (items.get(inner) or default) != "atomic":
            detail = f"must be atomic as item of a list with {_LIST}=set"
            errors.invalid(f"{path}.items.{inner}", items.get(inner), detail)
    if list_type == "map":
        _check_map_list(errors, schema, path)


def _check_map_list(errors: Errors, schema: Schema, path: str) -> None:
    keys, items = schema.get(_KEYS) or [], schema.get("items")
    errors.present(f"{path}.{_KEYS}", keys, f"must not be empty if {_LIST} is map")
    if not isinstance(items, dict):
        errors.required(f"{path}.items", f"must have a schema if {_LIST} is map")
        return
    if items.get("type") != "object":
        detail = f"must be object if parent array's {_LIST} is map"
        errors.invalid(f"{path}.items.type", items.get("type") or "", detail)
        return
    properties = items.get("properties") or {}
    in_keys = f"this property is in {_KEYS}"
    for index, key in enumerate(keys):
        inner = properties.get(key)
        if inner is None:
            errors.invalid(f"{path}.{_KEYS}", keys, "entries must all be names of item properties")
        elif inner.get("type") in ("array", "object"):
            detail = f"must be a scalar type if parent array's {_LIST} is map"
            errors.invalid(f"{path}.items.properties[{key}].type", items["type"], detail)
        if key in keys[:index]:
            errors.invalid(f"{path}.{_KEYS}", keys, "must not contain duplicate entries")
    for key in keys:
        here, inner = f"{path}.items.properties[{key}]", properties.get(key)
        if inner is None:
            continue
        if key not in (items.get("required") or ()) and inner.get("default") is None:
            detail = f"{in_keys}, so it must have a default or be a required property"
            errors.required(f"{here}.default", detail)
        if inner.get("nullable"):
            errors.forbidden(f"{here}.nullable", f"{in_keys}, so it cannot be nullable")
