"""The expressions of policies, checked against the types of what they will look at.

When a policy runs, objects are plain JSON and everything can be asked of them. This check is for
the author: it compiles each expression once more for each kind the policy names, with that kind's
types, and says what would fail. What it says is a warning in the policy's status, never an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from navarch.api.cel import types as t
from navarch.api.cel.admission import Composition, Scope, typed_environment
from navarch.api.cel.environment import STORED, Environment
from navarch.api.cel.errors import CompileError, ProgramError
from navarch.api.cel.schema import Schema, declare, escape, unescape
from navarch.api.cel.types import CelType
from navarch.api.schema.facts import Shape, TypeFacts

_SCALARS = {
    "string": t.STRING,
    "boolean": t.BOOL,
    "int32": t.INT,
    "int64": t.INT,
    "double": t.DOUBLE,
    "bytes": t.BYTES,
    "quantity": t.STRING,
    "int-or-string": t.DYN,
    "time": t.TIMESTAMP,
    "micro-time": t.TIMESTAMP,
}


def type_of_facts(facts: TypeFacts) -> CelType | None:
    """The type of a built-in; None for free JSON, of which nothing can be said."""
    if facts.shape is Shape.SCALAR:
        return _SCALARS[facts.scalar]
    if facts.shape is Shape.STRUCT:

        def find(name: str) -> CelType | None:
            own = unescape(name)
            field = facts.fields.get(own)
            is_named = escape(own) is not None
            return type_of_facts(field.type) if field is not None and is_named else None

        return t.object_type(facts.name, find)
    if facts.shape is Shape.ANY:
        return t.object_type("object", {}) if facts.scalar == "object" else None
    item = type_of_facts(facts.item) if facts.item is not None else None
    if item is None:
        return None
    return t.list_of(item) if facts.shape is Shape.LIST else t.map_of(t.STRING, item)


def type_of_schema(schema: Schema, kind: str) -> CelType | None:
    """The type of a custom resource."""
    declared = declare(schema, is_root=True, name=kind)
    return declared.type if declared is not None else None


@dataclass(frozen=True, slots=True)
class CheckedKind:
    """A kind a policy is checked for."""

    group: str
    version: str
    kind: str
    type: CelType

    def __str__(self) -> str:
        return f"{self.group}/{self.version}, Kind={self.kind}"


@dataclass(frozen=True, slots=True)
class TypeWarning:
    """What would fail: where the expression stands, and a paragraph for each kind."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """The expressions of a ValidatingAdmissionPolicy, as far as they are checked."""

    variables: Sequence[tuple[str, str]]
    validations: Sequence[tuple[str, str]]
    """Each with its message expression, "" if it has none."""
    has_params: bool = False


def check_policy(
    policy: Checked, kinds: Sequence[CheckedKind], params: CelType | None
) -> list[TypeWarning]:
    """What is wrong, in the order of the policy. `params` is None where their type is not known."""
    scope = Scope(policy.has_params)
    environments: list[tuple[CheckedKind, Environment]] = []
    for kind in kinds:
        composition = Composition(typed_environment(scope, STORED, kind.type, params or t.DYN))
        for name, text in policy.variables:
            composition.add(name, text)
        environments.append((kind, composition.environment))
    warnings = []
    for index, (expression, message) in enumerate(policy.validations):
        for field, text in (("expression", expression), ("messageExpression", message)):
            found = _problems(environments, text) if text else ""
            if found:
                warnings.append(TypeWarning(f"spec.validations[{index}].{field}", found))
    return warnings


def _problems(environments: Sequence[tuple[CheckedKind, Environment]], text: str) -> str:
    problems = []
    for kind, environment in environments:
        try:
            environment.compile(text)
        except ProgramError:
            continue  # well typed; upstream compiles no program here
        except CompileError as error:
            problems.append(f"{kind}: {error}\n")
    return "\n".join(problems)
