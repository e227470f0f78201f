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
from navarch.api.errors import FieldError, invalid
from navarch.api.validation.common import Errors, Object, indexed, qualified_name

MAX_CONDITIONS = 64


def stored_texts(old: Object | None) -> frozenset[str]:
    """Every text in an object as it was stored, the expressions among them."""
    return frozenset(_texts(old))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _error(path: str, text: str, problem: ExpressionProblem) -> FieldError:
    if problem.is_internal:
        return FieldError("InternalError", path, f"Internal error: {problem}")
    return invalid(path, text, str(problem))


class ExpressionChecks:
    """The expressions of one object, in their order: variables are known to those after them."""

    def __init__(self, errors: Errors, stored: frozenset[str], has_params: bool = False) -> None:
        self._errors = errors
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

    def check(self, path: str, text: str, results: Sequence[CelType], **scope: bool) -> None:
        """An expression that must evaluate to one of the types."""
        try:
            compile_expression(self._environment(text, self._scope(**scope)), text, results)
        except ExpressionProblem as problem:
            self._errors.append(_error(path, text, problem))

    def variable(self, path: str, name: str, text: str) -> None:
        if self._composition is None:
            self._composition = Composition(admission_environment(self._scope(), NEW))
        problem = self._composition.add(name, text, self._environment(text, self._scope()))
        if problem is not None:
            self._errors.append(_error(path, text, problem))

    def conditions(self, path: str, conditions: Sequence[Object] | None) -> None:
        """A list of match conditions, which do not know variables."""
        errors = self._errors
        errors.at_most(path, conditions or (), MAX_CONDITIONS)
        seen: set[str] = set()
        for here, condition in indexed(path, conditions):
            name = condition.get("name") or ""
            text = (condition.get("expression") or "").strip()
            if not text:
                errors.required(f"{here}.expression")
            else:
                self.check(f"{here}.expression", text, (BOOL,))
            errors.name(f"{here}.name", name, qualified_name)
            if name and name in seen:
                errors.duplicate(f"{here}.name", name)
            seen.add(name)
