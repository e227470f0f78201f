"""The CEL rules of custom resources at work: `x-kubernetes-validations` of every write.

Rules run after the rest of the schema has been checked, from the root down. All of them share one
budget. On an update an error in a part that is as it was before becomes a warning: a rule that came
after the object must not forbid its other changes (KEP-4008). Rules about the change itself
(`oldSelf`) run only where the old value is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from navarch.api.cel.admission import EVALUATION_BUDGET, MAX_MESSAGE_BYTES, OUT_OF_BUDGET
from navarch.api.cel.environment import STORED
from navarch.api.cel.errors import CostExceeded, EvaluationError, NoSuchOverload
from navarch.api.cel.rules import RULES, Rule, compile_rules, message_limit_problem
from navarch.api.cel.schema import Schema, declare, value_of, with_metadata
from navarch.api.cel.values import NONE, Optional
from navarch.api.errors import FieldError, forbidden_field, invalid, render_value, required
from navarch.api.patch.common import json_equal
from navarch.api.schema.structural import child_path

log = logging.getLogger(__name__)

_MAP_KEYS = "x-kubernetes-list-map-keys"
_BLOCKING = frozenset(
    (
        "FieldValueRequired",
        "FieldValueNotSupported",
        "FieldValueTooLong",
        "FieldValueTooMany",
        "FieldValueTypeInvalid",
    )
)
NOT_CHECKED = (
    "some validation rules were not checked because the object was invalid; correct the existing "
    "errors to complete validation"
)


@dataclass(slots=True)
class Node:
    """A node of a schema that has rules, or has them below."""

    schema: Schema
    rules: list[Rule]
    element: Node | None = None
    """Of list items or map values."""
    properties: dict[str, Node] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return str(self.schema.get("type") or "")


def compile_tree(schema: Schema, is_root: bool = True) -> Node | None:
    """The rules of a schema, None if there are none. What is stored compiles with everything."""
    entries = schema.get(RULES) or []
    items, extra = schema.get("items"), schema.get("additionalProperties")
    below = next((each for each in (items, extra) if isinstance(each, dict)), None)
    element = compile_tree(below, False) if below is not None else None
    properties = {
        name: found
        for name, inner in (schema.get("properties") or {}).items()
        if (found := compile_tree(inner, False)) is not None
    }
    if not (entries or element or properties):
        return None
    rules: list[Rule] = []
    if entries:
        declared = declare(schema, is_root=is_root)
        if declared is not None:
            rules = compile_rules(declared, entries, lambda text: STORED)
    return Node(with_metadata(schema) if is_root else schema, rules, element, properties)


def is_blocking(error: FieldError) -> bool:
    """Whether an object with this error is not worth asking about its rules."""
    return error.reason in _BLOCKING


def rule_errors(
    tree: Node, obj: Any, old: Any, warn: Callable[[str], None], path: str = ""
) -> list[FieldError]:
    """What the rules say of an object that its schema found fault with at most in passing."""
    run = _Run(warn)
    pair = _Pair(obj, old, tree.schema) if old is not None else None
    run.node(tree, _Spot(path, obj, old, pair, None))
    return run.errors


class _Stop(Exception):
    """The budget is used up: no further rule runs."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A value and the old one it comes from."""

    new: Any
    old: Any
    schema: Schema

    def is_unchanged(self) -> bool:
        return _is_unchanged(self.new, self.old, self.schema)

    def key(self, name: str) -> _Pair | None:
        if not isinstance(self.new, dict) or not isinstance(self.old, dict):
            return None
        inner = _schema_of_key(self.schema, name)
        if inner is None or name not in self.old:
            return None
        return _Pair(self.new[name], self.old[name], inner)

    def item(self, item: Any) -> _Pair | None:
        items = self.schema.get("items")
        before = _old_item(self.schema, self.old, item)
        if before is None or not isinstance(items, dict):
            return None
        return _Pair(item, before, items)


def _schema_of_key(schema: Schema, name: str) -> Schema | None:
    inner = (schema.get("properties") or {}).get(name)
    if inner is None and isinstance(schema.get("additionalProperties"), dict):
        inner = schema["additionalProperties"]
    return inner


def _old_item(schema: Schema, old: Any, item: Any) -> Any:
    """The old item with the same keys, in a list that has keys."""
    if schema.get("x-kubernetes-list-type") != "map" or not isinstance(old, list):
        return None
    key = _key_of(schema, item)
    return next((each for each in old if _key_of(schema, each) == key), None)


def _key_of(schema: Schema, item: Any) -> list[Any]:
    keys = schema.get(_MAP_KEYS) or ()
    return [item.get(key) if isinstance(item, dict) else item for key in keys]


def _is_unchanged(new: Any, old: Any, schema: Schema) -> bool:
    """Equal as the schema sees it: the order of a list with keys does not count."""
    if isinstance(new, list) and isinstance(old, list):
        if len(new) != len(old):
            return False
        if schema.get("x-kubernetes-list-type") != "map":
            return bool(json_equal(new, old))
        items = schema.get("items") or {}
        return all(
            (before := _old_item(schema, old, each)) is not None
            and _is_unchanged(each, before, items)
            for each in new
        )
    if isinstance(new, dict) and isinstance(old, dict):
        return new.keys() == old.keys() and all(
            _is_unchanged(value, old[name], _schema_of_key(schema, name) or {})
            for name, value in new.items()
        )
    return bool(json_equal(new, old))


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where rules run: a value, the old one a rule may see, and those that decide whether it is
    unchanged: its own pair, else that of the nearest ancestor that has one."""

    path: str
    obj: Any
    old: Any
    pair: _Pair | None
    parent_pair: _Pair | None

    def is_unchanged(self) -> bool:
        pair = self.pair or self.parent_pair
        return pair is not None and pair.is_unchanged()

    def below(self, path: str, obj: Any, old: Any, pair: _Pair | None) -> _Spot:
        if self.pair is None:
            return _Spot(path, obj, old, None, self.parent_pair)
        return _Spot(path, obj, old, pair, self.pair)


class _Run:
    """One pass over one object."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.errors: list[FieldError] = []
        self._warn = warn
        self._left = EVALUATION_BUDGET

    def node(self, node: Node, spot: _Spot) -> None:
        with suppress(_Stop):
            self._visit(node, spot)

    def _visit(self, node: Node, spot: _Spot) -> None:
        if spot.obj is None:
            return
        if node.rules:
            self._check(node, spot)
        if isinstance(spot.obj, list):
            if node.element is not None:
                self._visit_items(node.element, node.schema, spot)
        elif isinstance(spot.obj, dict):
            old = spot.old if isinstance(spot.old, dict) else {}
            for name, value in spot.obj.items():
                own = node.properties.get(name)
                if own is not None:
                    path = child_path(spot.path, name)
                elif node.element is not None and name not in node.schema.get("properties", ()):
                    own, path = node.element, f"{spot.path}[{name}]"
                else:
                    continue
                is_named = not spot.path and name in ("apiVersion", "kind")
                pair = None if spot.pair is None or is_named else spot.pair.key(name)
                below = spot.below(path, value, old.get(name), pair)
                self._visit(own, _Spot(path, value, None, None, None) if is_named else below)

    def _visit_items(self, element: Node, schema: Schema, spot: _Spot) -> None:
        for index, item in enumerate(spot.obj):
            pair = None if spot.pair is None else spot.pair.item(item)
            old = _old_item(schema, spot.old, item)
            self._visit(element, spot.below(f"{spot.path}[{index}]", item, old, pair))

    def _check(self, node: Node, spot: _Spot) -> None:
        path = spot.path or "<nil>"
        try:
            variables = {"self": value_of(spot.obj, node.schema)}
            old = MISSING_OLD if spot.old is None else value_of(spot.old, node.schema)
        except EvaluationError as error:
            self.errors.append(invalid(path, node.type, str(error)))
            return
        for rule in node.rules:
            if rule.problem:
                detail = f"rule compile error: {rule.problem}"
                self.errors.append(invalid(path, node.type, detail))
            elif rule.program is not None:
                is_optional = bool(rule.entry.get("optionalOldSelf"))
                if is_optional:
                    variables["oldSelf"] = NONE if old is MISSING_OLD else Optional(old)
                elif old is not MISSING_OLD:
                    variables["oldSelf"] = old
                elif rule.uses_old:
                    continue
                else:
                    variables.pop("oldSelf", None)
                self._run(node, rule, spot, variables)

    def _run(self, node: Node, rule: Rule, spot: _Spot, variables: dict[str, Any]) -> None:
        assert rule.program is not None
        path = spot.path or "<nil>"
        problem: EvaluationError | CostExceeded | None = None
        value, cost = None, 0
        try:
            value, cost = rule.program.evaluate(variables)
        except (EvaluationError, CostExceeded) as error:
            problem, cost = error, error.cost
        if cost > self._left:
            self.errors.append(invalid(path, node.type, OUT_OF_BUDGET))
            raise _Stop
        self._left -= cost
        if isinstance(problem, CostExceeded):
            detail = (
                f"'{problem}': no further validation rules will be run due to call cost exceeds "
                f"limit for rule: {rule.text}"
            )
            self.errors.append(invalid(path, node.type, detail))
            raise _Stop
        if isinstance(problem, NoSuchOverload):
            detail = (
                f"'{problem}': call arguments did not match a supported operator, function or "
                f"macro signature for rule: {rule.text}"
            )
            self.errors.append(invalid(path, node.type, detail))
        elif problem is not None:
            detail = f"{problem} evaluating rule: {rule.text}"
            self.errors.append(invalid(path, node.type, detail))
        elif value is not True:
            self._fail(node, rule, spot, variables)

    def _fail(self, node: Node, rule: Rule, spot: _Spot, variables: dict[str, Any]) -> None:
        path = spot.path or "<nil>"
        if rule.field_path:
            path = child_path(spot.path, rule.field_path)
        try:
            detail = self._message(rule, self._plain(variables))
        except _Unaffordable as error:
            self._report(rule, spot, invalid(path, node.type, str(error)))
            raise _Stop from None
        if not detail:
            message = str(rule.entry.get("message") or "").strip()
            detail = message or f"failed rule: {rule.source}"
        shown = spot.obj if node.type not in ("object", "array") else _OMITTED
        reason = str(rule.entry.get("reason") or "FieldValueInvalid")
        self._report(rule, spot, _complaint(reason, path, shown, detail))

    @staticmethod
    def _plain(variables: dict[str, Any]) -> dict[str, Any]:
        """Messages get the old value as it is even where it is declared optional: asked for as an
        optional it fails, as it does upstream, and the plain message stands."""
        old = variables.get("oldSelf")
        if not isinstance(old, Optional):
            return variables
        kept = {"self": variables["self"]}
        return {**kept, "oldSelf": old.value} if old.present else kept

    def _message(self, rule: Rule, variables: dict[str, Any]) -> str:
        """The message an expression makes, "" if it makes none that is fit to be shown."""
        if rule.message is None:
            return ""
        source = str(rule.entry["messageExpression"])
        problem: EvaluationError | CostExceeded | None = None
        value, cost = None, 0
        try:
            value, cost = rule.message.evaluate(variables)
        except (EvaluationError, CostExceeded) as error:
            problem, cost = error, error.cost
        if cost > self._left:
            raise _Unaffordable(
                "messageExpression evaluation failed due to running out of cost budget, no further "
                "validation rules will be run"
            )
        if isinstance(problem, CostExceeded):
            raise _Unaffordable(message_limit_problem(source))
        self._left -= cost
        text = value.strip() if isinstance(value, str) else ""
        if (
            problem is not None
            or not text
            or "\n" in text
            or len(text.encode()) > MAX_MESSAGE_BYTES
        ):
            log.info("messageExpression %r gave no message: %s", source, problem or "not usable")
            return ""
        return text

    def _report(self, rule: Rule, spot: _Spot, error: FieldError) -> None:
        if not rule.uses_old and spot.is_unchanged():
            self._warn(str(error))
        else:
            self.errors.append(error)


class _Unaffordable(Exception):
    """The message costs more than there is left."""


_OMITTED = object()
MISSING_OLD = object()


def _complaint(reason: str, path: str, value: Any, detail: str) -> FieldError:
    if reason == "FieldValueForbidden":
        return forbidden_field(path, detail)
    if reason == "FieldValueRequired":
        return required(path, detail)
    shown = "" if value is _OMITTED else f": {render_value(value)}"
    if reason == "FieldValueDuplicate":
        return FieldError(reason, path, f"Duplicate value{shown}")
    return FieldError("FieldValueInvalid", path, f"Invalid value{shown}: {detail}")
