"""The CEL expressions of webhook configurations and admission policies, compiled when written.

What is new may only use what the server's predecessor knew too; what was stored before is compiled
with everything there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from navarch.api.cel.admission import (
    Composition,
    ExpressionProblem,
    Scope,
    admission_environment,
    compile_expression,
    new_or_stored,
)
from navarch.api.cel.environment import Environment
from navarch.api.cel.library import NEW
from navarch.api.cel.types import BOOL, CelType
from navarch.api.errors import FieldError
from navarch.api.validation.common import qualified_name
from navarch.api.validation.fields import Field

MAX_CONDITIONS = 64


def stored_texts(old: Any) -> frozenset[str]:
    """Every text in an object as it was stored, the expressions among them."""
    return frozenset(_texts(old))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _complain(field: Field, problem: ExpressionProblem) -> None:
    if problem.is_internal:
        error = FieldError("InternalError", field.path, f"Internal error: {problem}")
        field.errors.append(error)
    else:
        field.invalid(str(problem))


class ExpressionChecks:
    """The expressions of one object, in their order: variables are known to those after them."""

    def __init__(self, stored: frozenset[str], has_params: bool = False) -> None:
        self._stored = stored
        self._has_params = has_params
        self._composition: Composition | None = None

    def _scope(self, has_authorizer: bool = True, has_patch_types: bool = False) -> Scope:
        return Scope(self._has_params, has_authorizer, has_patch_types)

    def _environment(self, text: str, scope: Scope) -> Environment:
        environment = admission_environment(scope, new_or_stored(text in self._stored))
        if self._composition is not None:
            environment = self._composition.for_scope(environment)
        return environment

    def check(self, field: Field, results: Sequence[CelType], **scope: bool) -> None:
        """An expression that must evaluate to one of the types."""
        text = field.value
        try:
            compile_expression(self._environment(text, self._scope(**scope)), text, results)
        except ExpressionProblem as problem:
            _complain(field, problem)

    def variable(self, name: str, field: Field) -> None:
        if self._composition is None:
            self._composition = Composition(admission_environment(self._scope(), NEW))
        text = field.value
        problem = self._composition.add(name, text, self._environment(text, self._scope()))
        if problem is not None:
            _complain(field, problem)

    def conditions(self, conditions: Field) -> None:
        """A list of match conditions, which do not know variables."""
        conditions.at_most(MAX_CONDITIONS)
        seen: set[str] = set()
        for condition in conditions:
            name, text = condition["name"], condition.text("expression")
            if stripped := text.value.strip():
                self.check(text.showing(stripped), (BOOL,))
            else:
                text.required()
            name.name(qualified_name)
            if name:
                name.once(seen)
