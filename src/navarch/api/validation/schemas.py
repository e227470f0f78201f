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
from navarch.api.errors import FieldError
from navarch.api.patch.common import copy_json, json_equal
from navarch.api.schema import structural
from navarch.api.validation.fields import Errors, Field

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


def check_schema(
    field: Field, stored: frozenset[str] = frozenset(), is_unchanged: bool = False
) -> None:
    """A version's schema. `stored` are the expressions of rules that were there before;
    `is_unchanged` when the whole schema was."""
    schema: Schema = field.value
    root = Field(schema, step=field.path)  # with complaints of its own, which come sorted
    is_readable = not any(map(_is_unsupported, _all_nodes(schema)))
    if any(node.get("$schema") for node in _all_nodes(schema)):
        is_readable = False
        root.showing("").invalid("OpenAPIV3Schema 'schema' is not supported")
    if is_readable:
        _check_structure(root, _ROOT)
        root.errors.sort(key=str)
    if is_readable and not root.errors:
        _check_defaults(root, schema)
    if schema.get("nullable"):
        root["nullable"].forbidden("nullable cannot be true at the root")
    walk = _Walk(stored, is_unchanged, is_structural=is_readable and not root.errors)
    walk.visit(_Place(Field(schema, walk.errors, step=field.path)))
    walk.check_total(Field(schema, walk.rule_errors, step=field.path))
    field.errors += root.errors + walk.errors + walk.rule_errors


def _all_nodes(schema: Schema) -> Iterator[Schema]:
    """Every schema inside of one, those under junctors too."""
    yield schema
    for _, inner in (*_children(schema), *_nested(schema)):
        yield from _all_nodes(inner)


def _is_unsupported(schema: Schema) -> bool:
    """What no structural schema can be read from."""
    return any(schema.get(key) for key in _UNSUPPORTED) or isinstance(schema.get("items"), list)


# ---- defaults


def _check_defaults(node: Field, root: Schema) -> None:
    """Defaults must be valid, known to the schema, and keep its rules; those of metadata are
    restricted elsewhere."""
    schema, default = node.value, node["default"]
    if default.is_set:
        value, where = default.value, default.path
        pruned = copy_json(value)
        structural.prune(pruned, schema, is_root=bool(schema.get(EMBEDDED)))
        if not json_equal(pruned, value):
            default.invalid("must not have unknown fields")
        whole = {**schema, EMBEDDED: True} if schema is root else schema
        for inside, embedded in structural.embedded_objects(value, whole):
            below = f"{where}.{inside}" if inside else where
            node.errors += structural.embedded_errors(embedded, below)
        found = [_rooted(error, where) for error in structural.validate(value, schema)]
        tree = compile_tree(schema, schema is root) if not found else None
        if tree is not None:
            for old in (value, None):  # a default can come with an update and without
                found = found or rule_errors(tree, value, old, lambda text: None, where)
        node.errors += found
    for step, inner in _children(schema):
        if not (schema is root and step in _META_STEPS):
            _check_defaults(node.at(step, inner), root)


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


def _check_structure(node: Field, level: str) -> None:
    schema, kind = node.value, node["type"]
    embedded, extra = bool(schema.get(EMBEDDED)), node["additionalProperties"]
    if kind.value == "array" and schema.get("items") is None:
        node["items"].required("must be specified")
    for step, inner in _children(schema):
        _check_structure(node.at(step, inner), _ITEM if step == "items" else _FIELD)
    if extra.is_set and level == _ROOT:
        extra.forbidden("must not be used at the root")
    if schema.get(INT_OR_STRING):
        for other in (PRESERVE, EMBEDDED):
            if schema.get(other):
                node[other].invalid(f"must be false if {INT_OR_STRING} is true")
    _check_value(node)
    if embedded and kind.value != "object":
        _wrong_or_missing(kind, f"must be object if {EMBEDDED} is true")
    elif not kind and not schema.get(INT_OR_STRING) and not schema.get(PRESERVE):
        kind.required(_NOT_EMPTY[level])
    if embedded and extra.is_set:
        extra.forbidden(f"must not be used if {EMBEDDED} is set")
    if level == _ROOT and kind and kind.value != "object":
        kind.invalid("must be object at the root")
    if level == _ROOT or embedded:
        _check_meta(node["properties"], level)
    if embedded and not schema.get(PRESERVE):
        node["properties"].present(f"must not be empty if {EMBEDDED} is true without {PRESERVE}")


def _wrong_or_missing(field: Field, detail: str) -> None:
    if field:
        field.invalid(detail)
    else:
        field.required(detail)


def _check_meta(properties: Field, level: str) -> None:
    """What every object has is implied; metadata can be restricted, not described."""
    for name in ("kind", "apiVersion"):
        inner = properties.get(name)
        if inner is not None and inner.get("type") != "string":
            properties.at(f"[{name}]", inner).text("type").invalid("must be string")
    metadata = properties.at("[metadata]", properties.get("metadata"))
    if not metadata.is_set:
        return
    if metadata.get("type") != "object":
        metadata.text("type").invalid("must be object")
    allowed = {"type", "default", "properties"}
    named = set(metadata.get("properties") or {}) <= {"name", "generateName"}
    if level == _ROOT and not (named and set(metadata.value) <= allowed):
        metadata.forbidden(
            "must not specify anything other than name and generateName, but metadata is "
            "implicitly specified"
        )


def _check_value(node: Field, skips: bool | None = None) -> None:
    """The junctors of a node, and its pattern. `anyOf: [integer, string]` is how int-or-string is
    spelt for others, directly or first of `allOf`."""
    schema, pattern = node.value, node["pattern"]
    first = (schema.get("allOf") or [{}])[0]
    is_either = schema.get("anyOf") == _INT_OR_STRING and skips is not False
    for step, inner in _nested(schema):
        if not (is_either and step.startswith("anyOf")):
            is_first = step == "allOf[0]" and first.get("anyOf") == _INT_OR_STRING and skips is None
            _check_nested(node.at(step, inner), skips=is_first)
    if pattern:
        try:
            regex.compiled(pattern.value)
        except regex.PatternError as error:
            pattern.invalid(f"must be a valid regular expression, but isn't: {error}")


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


def _check_nested(node: Field, skips: bool = False) -> None:
    _check_value(node, skips)
    for step, inner in _children(node.value):
        if step != "additionalProperties":
            _check_nested(node.at(step, inner))
    for key, detail in _FORBIDDEN_NESTED:
        if node.get(key) or (key == "default" and key in node):
            node[key].forbidden(detail)
    if "metadata" in node["properties"]:
        place = node["properties"].at("[metadata]", None)
        place.forbidden("must not be specified in a nested context")


# ---- every node, and its rules


@dataclass(frozen=True, slots=True)
class _Place:
    """A node on the walk. `cardinality` is how often it can occur in one object, None if nothing
    bounds that; `uncorrelatable` the outermost list above that has no old counterpart."""

    node: Field
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
    errors: Errors = field(default_factory=list)
    rule_errors: Errors = field(default_factory=list)
    total: int = 0
    dearest: list[tuple[int, Field]] = field(default_factory=list)

    def visit(self, place: _Place) -> None:
        before, node = len(self.errors), place.node
        self._check(place)
        for step, inner in _children(node.value):
            self.visit(self._child(place, step, inner))
        for step, inner in _nested(node.value):
            self.visit(replace(place, node=node.at(step, inner), has_rules=False, is_root=False))
        for entry in node[RULES]:
            _check_entry(entry, node.value)
        # What is wrong with the schema would only confuse whoever reads about the rules.
        if self.is_structural and before == len(self.errors) and place.has_rules and node[RULES]:
            self._check_rules(place)

    def _child(self, place: _Place, step: str, schema: Schema) -> _Place:
        parent = place.node.value
        uncorrelatable = place.uncorrelatable
        breaks = step == "items" and parent.get(_LIST) != "map"
        if breaks and not uncorrelatable:
            uncorrelatable = place.node.path
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
            place.node.at(step, schema),
            place.has_rules,
            False,
            _times(place.cardinality, parent, step),
            uncorrelatable,
            no_default,
            in_metadata,
        )

    def _check(self, place: _Place) -> None:
        node, schema = place.node, place.node.value
        kind, extra = node["type"], schema.get("additionalProperties")
        if kind:
            kind.optional_choice(TYPES)
        if kind.value == "null":
            kind.forbidden("type cannot be set to null, use nullable as an alternative")
        if "default" in schema and place.no_default is not None:
            node["default"].forbidden(f"must not be set {place.no_default}")
        for key in _UNSUPPORTED:
            if schema.get(key):
                node[key].forbidden(f"{key} is not supported")
        if isinstance(schema.get("items"), list):
            node["items"].forbidden("items must be a schema object and not an array")
        if place.in_metadata and schema.get(EMBEDDED):
            node[EMBEDDED].forbidden("must not be used inside of resource meta")
        if schema.get("uniqueItems"):
            node["uniqueItems"].forbidden(
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            )
        if schema.get("properties") and (extra is False or isinstance(extra, dict)):
            detail = "additionalProperties and properties are mutual exclusive"
            node["additionalProperties"].forbidden(detail)
        if schema.get(PRESERVE) is False:
            node[PRESERVE].invalid("must be true or undefined")
        _check_list_and_map(node)

    def _check_rules(self, place: _Place) -> None:
        schema = place.node.value
        rules = Field(schema, self.rule_errors, step=place.node.path)[RULES]
        declared = declare(schema, is_root=place.is_root)
        if declared is None:
            self.rule_errors.append(FieldError("InternalError", rules.path, _UNDECLARED))
            return
        compiled = compile_rules(
            declared, schema[RULES], lambda text: STORED if text in self.stored else NEW
        )
        for entry, rule in zip(rules, compiled, strict=True):
            self._check_rule(place, entry, rule)

    def _check_rule(self, place: _Place, entry: Field, rule: Rule) -> None:
        times = rule.cardinality if place.cardinality is None else place.cardinality
        cost, shown = min(rule.cost * times, UNBOUNDED), shown_entry(rule.entry)
        text, message = entry.at("rule", shown), entry.at("messageExpression", shown)
        self._charge(text, cost, "estimated rule cost")
        if rule.problem:
            text.invalid(rule.problem)
        if rule.message_problem:
            message.invalid(rule.message_problem)
        elif rule.message is not None:
            self._charge(message, rule.message_cost, "estimated messageExpression cost")
        if rule.uses_old and place.uncorrelatable:
            entry["rule"].invalid(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within "
                f"{place.uncorrelatable}"
            )
        if not rule.uses_old and entry["optionalOldSelf"].is_set:
            entry["optionalOldSelf"].invalid("may not be set if oldSelf is not used in rule")

    def _charge(self, field: Field, cost: int, what: str) -> None:
        if cost > RULE_LIMIT and not self.is_unchanged:
            field.forbidden(cost_problem(what, cost, RULE_LIMIT))
        self.total = min(self.total + cost, UNBOUNDED)
        if cost >= SCHEMA_LIMIT // 100:
            self.dearest.append((cost, field))

    def check_total(self, root: Field) -> None:
        if self.total <= SCHEMA_LIMIT:
            return
        self.dearest.sort(key=lambda each: -each[0])
        for _, dear in self.dearest[:4]:
            dear.forbidden(
                "contributed to estimated rule cost total exceeding cost limit for entire "
                "OpenAPIv3 schema"
            )
        what = f"{RULES} estimated rule cost total for entire OpenAPIv3 schema"
        root.forbidden(cost_problem(what, self.total, SCHEMA_LIMIT))


def _check_entry(entry: Field, schema: Schema) -> None:
    """The form of a rule, apart from its expressions."""
    rule, message = entry.text("rule"), entry.text("message")
    expression, target = entry.text("messageExpression"), entry.text("fieldPath")
    if not rule.value.strip():
        rule.required("rule is not specified")
    elif message and not message.value.strip():
        message.invalid("must be non-empty if specified")
    elif _LINE_BREAK.search(message.value.strip()):
        message.invalid("must not contain line breaks")
    elif _LINE_BREAK.search(rule.value.strip()) and not message.value.strip():
        message.required("message must be specified if rule contains line breaks")
    if expression and not expression.value.strip():
        expression.required("messageExpression must be non-empty if specified")
    entry["reason"].optional_choice(REASONS)
    if target and not target.value.strip():
        target.invalid("must be non-empty if specified")
    if _LINE_BREAK.search(target.value):
        target.invalid("must not contain line breaks")
    if target:
        try:
            resolve_field_path(target.value, schema)
        except FieldPathProblem:
            target.invalid("must be a valid path")


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


def _check_list_and_map(node: Field) -> None:
    kind = node["type"]
    for key, choices, wanted in (
        (_MAP, ("atomic", "granular"), "object"),
        (_LIST, ("atomic", "set", "map"), "array"),
    ):
        if node[key].is_set:
            if kind.value != wanted:
                _wrong_or_missing(kind, f"must be {wanted} if {key} is specified")
            node[key].optional_choice(choices)
    list_type, items = node[_LIST], node["items"]
    if node[_KEYS] and list_type.value != "map":
        _wrong_or_missing(list_type, f"must be map if {_KEYS} is non-empty")
    if isinstance(items.value, dict):
        if list_type.value in ("set", "map") and items.get("nullable"):
            items["nullable"].forbidden(f"cannot be nullable when {_LIST} is {list_type.value}")
        if list_type.value == "set" and kind.value == "array":
            inner, default = {"array": (_LIST, "atomic"), "object": (_MAP, None)}.get(
                items.get("type") or "", ("", None)
            )
            if inner and (items.get(inner) or default) != "atomic":
                items[inner].invalid(f"must be atomic as item of a list with {_LIST}=set")
    if list_type.value == "map":
        _check_map_list(node[_KEYS], items)


def _check_map_list(keys: Field, items: Field) -> None:
    keys.present(f"must not be empty if {_LIST} is map")
    if not isinstance(items.value, dict):
        items.required(f"must have a schema if {_LIST} is map")
        return
    if items.get("type") != "object":
        items.text("type").invalid(f"must be object if parent array's {_LIST} is map")
        return
    names: list[str] = keys.value or []
    properties = dict(items["properties"].entries())
    in_keys = f"this property is in {_KEYS}"
    for index, key in enumerate(names):
        if key not in properties:
            keys.invalid("entries must all be names of item properties")
        elif properties[key].get("type") in ("array", "object"):
            detail = f"must be a scalar type if parent array's {_LIST} is map"
            properties[key].at("type", items.get("type")).invalid(detail)
        if key in names[:index]:
            keys.invalid("must not contain duplicate entries")
    for key in names:
        if key not in properties:
            continue
        inner = properties[key]
        if key not in items["required"] and not inner["default"].is_set:
            detail = f"{in_keys}, so it must have a default or be a required property"
            inner["default"].required(detail)
        if inner.get("nullable"):
            inner["nullable"].forbidden(f"{in_keys}, so it cannot be nullable")
