"""Match conditions: the CEL expressions that decide whether a webhook or policy has a say.

All conditions are evaluated: one that is false is enough to be skipped, even if others fail. Else a
failure is up to the failure policy: with Fail the request is refused, with Ignore the webhook or
policy is skipped. (KEP-3716)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from navarch.api.cel.admission import MATCH_CONDITIONS_BUDGET, Scope, admission_environment
from navarch.api.cel.environment import Environment
from navarch.api.cel.types import BOOL
from navarch.apiserver.admission.expressions import (
    Budget,
    Expression,
    Failed,
    Inputs,
    OutOfBudget,
    compiled,
)
from navarch.apiserver.contracts import Object


class ConditionsFailed(Exception):
    """No condition is false, and some could not be evaluated. The text joins what went wrong; the
    caller's failure policy decides what that means."""


@dataclass(frozen=True, slots=True)
class MatchConditions:
    """The compiled conditions of one webhook or policy. Make them once per configuration."""

    names: tuple[str, ...]
    expressions: tuple[Expression, ...]

    @classmethod
    def compile(
        cls, conditions: Sequence[Object] | None, environment: Environment | None = None
    ) -> MatchConditions:
        """From the field `matchConditions`. What does not compile (any more) fails when evaluated.
        A policy with parameters brings its own environment."""
        environment = environment or admission_environment(Scope())
        return cls(
            tuple(str(each.get("name") or "") for each in conditions or ()),
            tuple(
                compiled(environment, str(each.get("expression") or ""), BOOL)
                for each in conditions or ()
            ),
        )

    def matches(self, inputs: Inputs) -> bool:
        """Whether all conditions hold. Raises ConditionsFailed."""
        budget = Budget(MATCH_CONDITIONS_BUDGET)
        problems: list[str] = []
        results: list[object] = []
        for expression in self.expressions:
            try:
                results.append(expression.evaluate(inputs, budget))
            except Failed as failure:
                problems.append(str(failure))
            except OutOfBudget as error:
                raise ConditionsFailed(str(error)) from error
        if any(result is False for result in results):
            return False
        if problems:
            distinct = list(dict.fromkeys(problems))
            text = distinct[0] if len(distinct) == 1 else f"[{', '.join(distinct)}]"
            raise ConditionsFailed(text)
        return True
