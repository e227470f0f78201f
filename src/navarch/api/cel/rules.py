"""The rules of custom resource definitions, `x-kubernetes-validations`, compiled.

A rule stands at a node of the schema and speaks of it as `self`; one that mentions `oldSelf` is
about a change. What a rule may cost at most is estimated from the sizes the schema allows.
(KEP-2876)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from navarch.api.cel.environment import Environment, Program
from navarch.api.cel.errors import CompileError, ProgramError
from navarch.api.cel.functions import Version
from navarch.api.cel.library import base_environment
from navarch.api.cel.schema import MAX_REQUEST, Declared, Schema
from navarch.api.cel.types import BOOL, STRING, optional_of
from navarch.api.errors import go_quoted

RULES = "x-kubernetes-validations"
RULE_LIMIT = 10_000_000
"""What one rule may be estimated to cost, times how often it can apply."""
SCHEMA_LIMIT = 100_000_000
"""What all rules of one version may be estimated to cost together."""

VersionOf = Callable[[str], Version]
"""With which libraries an expression is compiled: it may be new or stored already."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry. Without a program there is a problem, or nothing to do."""

    entry: Schema
    program: Program | None = None
    problem: str = ""
    uses_old: bool = False
    cost: int = 0
    cardinality: int = 1
    """How often the rule can apply in one object, if the schema does not bound it."""
    message: Program | None = None
    message_problem: str = ""
    message_cost: int = 0
    field_path: str = ""

    @property
    def source(self) -> str:
        return str(self.entry.get("rule") or "").strip()

    @property
    def text(self) -> str:
        """What the rule is called in complaints."""
        return str(self.entry.get("message") or "").strip() or self.source


def compile_rules(declared: Declared, entries: list[Schema], version_of: VersionOf) -> list[Rule]:
    """The rules of one node."""
    environments: dict[tuple[Version, bool], Environment] = {}

    def environment(text: str, is_optional: bool) -> Environment:
        version = version_of(text)
        key = version, is_optional
        if key not in environments:
            old = optional_of(declared.type) if is_optional else declared.type
            variables = {"self": declared.type, "oldSelf": old}
            environments[key] = base_environment(version).extend(variables=variables)
        return environments[key]

    return [_compile_rule(declared, entry, environment) for entry in entries]


def _compile_rule(
    declared: Declared, entry: Schema, environment: Callable[[str, bool], Environment]
) -> Rule:
    source = entry.get("rule") or ""
    if not source.strip():
        return Rule(entry)
    is_optional = bool(entry.get("optionalOldSelf"))
    try:
        program = environment(source, is_optional).compile(source)
    except ProgramError as error:
        return Rule(entry, problem=f"program instantiation failed: {error}")
    except CompileError as error:
        return Rule(entry, problem=f"compilation failed: {error}")
    if program.type != BOOL:
        return Rule(entry, problem="cel expression must evaluate to a bool")
    message, problem, message_cost = None, "", 0
    text = entry.get("messageExpression") or ""
    if text:
        try:
            message = environment(text, is_optional).compile(text)
        except ProgramError as error:
            problem = f"messageExpression instantiation failed: {error}"
        except CompileError as error:
            problem = f"messageExpression compilation failed: {error}"
        else:
            if message.type != STRING:
                message, problem = None, "messageExpression must evaluate to a string"
            else:
                message_cost = message.estimate(declared.size_hint).max
    path = entry.get("fieldPath") or ""
    return Rule(
        entry,
        program,
        uses_old="oldSelf" in program.names,
        cost=program.estimate(declared.size_hint).max,
        cardinality=MAX_REQUEST // (declared.min_size + 1),
        message=message,
        message_problem=problem,
        message_cost=message_cost,
        field_path=_normalised(path, declared.schema) if path else "",
    )


# ---- field paths


class FieldPathProblem(ValueError):
    """A path that leads nowhere."""


_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPES |= {"'": "'", "\\": "\\"}


def _tokens(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + 1
        if text[start] == "'":
            while end < len(text) and not (text[end] == "'" and text[end - 1] != "\\"):
                end += 1
            end = min(end + 1, len(text))
        elif text[start] not in ".[]":
            while end < len(text) and text[end] not in ".[]":
                end += 1
        yield text[start:end]
        start = end


def _unquoted(token: str) -> str:
    if len(token) < 2 or token[0] != "'" or token[-1] != "'":
        raise FieldPathProblem(f"expected single quoted string but got {token}")

    def plain(match: re.Match[str]) -> str:
        if match[0][1:] not in _ESCAPES:
            raise FieldPathProblem(f"invalid string literal: invalid escape char {match[0]}")
        return _ESCAPES[match[0][1:]]

    return re.sub(r"\\.", plain, token[1:-1])


def resolve_field_path(
    text: str, schema: Schema, allows_brackets: bool = True
) -> tuple[str, Schema]:
    """A path as error messages spell it, and the schema it leads to. `.name` and `['name']` step
    into properties and map values; there are no indexes. Raises FieldPathProblem."""
    path = ""
    tokens = _tokens(text)
    end = FieldPathProblem("unexpected end of JSON path")
    for token in tokens:
        if token == "[":
            if not allows_brackets:
                raise FieldPathProblem("array notation is not allowed")
            following = next(tokens, None)
            if following is None:
                raise end
            name = _unquoted(following)
            path, schema = _step(path, schema, name)
            closing = next(tokens, None)
            if closing is None:
                raise end
            if closing != "]":
                raise FieldPathProblem(f"expected ] but got {closing}")
        elif token == ".":
            following = next(tokens, None)
            if following is None:
                raise end
            path, schema = _step(path, schema, following)
        else:
            raise FieldPathProblem(f"expected [ or . but got: {token}")
    return path, schema


def _step(path: str, schema: Schema, name: str) -> tuple[str, Schema]:
    properties, extra = schema.get("properties"), schema.get("additionalProperties")
    if properties:
        if name in properties:
            return f"{path}.{name}" if path else name, properties[name]
    elif isinstance(extra, dict):
        return f"{path}[{name}]", extra
    raise FieldPathProblem("does not refer to a valid field")


def _normalised(path: str, schema: Schema) -> str:
    try:
        return resolve_field_path(path, schema)[0]
    except FieldPathProblem:
        return ""


# ---- costs


def cost_problem(what: str, cost: int, limit: int) -> str:
    """How far a cost is beyond its limit, in upstream's words."""
    factor = cost / limit
    shown = (
        "more than 100x" if factor > 100 else f"{factor:f}x" if factor < 1.5 else f"{factor:.1f}x"
    )
    return (
        f"{what} exceeds budget by factor of {shown} (try simplifying the rule, or adding "
        "maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )


def shown_entry(entry: Schema) -> dict[str, Any]:
    """A rule as field errors print it: upstream's internal type, which has no JSON names."""
    return {
        "Rule": entry.get("rule") or "",
        "Message": entry.get("message") or "",
        "MessageExpression": entry.get("messageExpression") or "",
        "Reason": entry.get("reason"),
        "FieldPath": entry.get("fieldPath") or "",
        "OptionalOldSelf": entry.get("optionalOldSelf"),
    }


def message_limit_problem(source: str) -> str:
    return (
        "no further validation rules will be run due to call cost exceeds limit for "
        f"messageExpression: {go_quoted(source)}"
    )
