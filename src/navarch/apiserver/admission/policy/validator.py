"""A compiled ValidatingAdmissionPolicy, and what it says of one request with one parameter."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from navarch.api.cel.admission import (
    EVALUATION_BUDGET,
    MAX_MESSAGE_BYTES,
    Composition,
    Scope,
    admission_environment,
)
from navarch.api.cel.environment import Environment
from navarch.api.cel.types import BOOL, NULL, STRING
from navarch.apiserver.admission.expressions import (
    Budget,
    Expression,
    Failed,
    Inputs,
    OutOfBudget,
    Variables,
    compiled,
)
from navarch.apiserver.admission.match_conditions import ConditionsFailed, MatchConditions
from navarch.apiserver.contracts import Object

log = logging.getLogger(__name__)

MAX_AUDIT_BYTES = 10 * 1024


@dataclass(frozen=True, slots=True)
class Denial:
    """A validation that failed or could not be evaluated.

    `index` is its place among the validations. It `is_final` when no validationAction can soften
    it, and `is_ignored` when failurePolicy Ignore lets it pass. `seconds` is what it took."""

    message: str
    reason: str = ""
    index: int = 0
    is_final: bool = False
    is_ignored: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    denials: tuple[Denial, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Validation:
    expression: Expression
    message_expression: Expression | None
    message: str
    reason: str


class CompiledPolicy:
    """What all compiled policies share: their scope, variables and match conditions."""

    def __init__(self, policy: Object) -> None:
        spec = policy["spec"]
        self.spec = spec
        self.fails_open = spec.get("failurePolicy") == "Ignore"
        self.has_params = spec.get("paramKind") is not None
        base = admission_environment(Scope(self.has_params))
        self.conditions = MatchConditions.compile(spec.get("matchConditions"), base)
        self.composition: Composition | None = None
        if spec.get("variables"):
            self.composition = Composition(base)
            for variable in spec["variables"]:
                self.composition.add(variable.get("name") or "", variable.get("expression") or "")

    def environment(self, **scope: bool) -> Environment:
        environment = admission_environment(Scope(self.has_params, **scope))
        if self.composition is not None:
            environment = self.composition.for_scope(environment)
        return environment

    def inputs(self, inputs: Inputs) -> Inputs:
        """The inputs of one evaluation, with variables that are computed at most once in it."""
        if self.composition is None:
            return inputs
        variables = Variables(self.composition)
        variables.inputs = replace(inputs, variables=variables)
        return variables.inputs

    def is_concerned(self, inputs: Inputs) -> bool:
        """Whether the match conditions hold. Raises ConditionsFailed."""
        return self.conditions.matches(replace(inputs, namespace=None))


class Validator(CompiledPolicy):
    """The expressions of a policy."""

    def __init__(self, policy: Object) -> None:
        super().__init__(policy)
        spec, environment = self.spec, self.environment()
        silent = self.environment(has_authorizer=False)
        self._validations = tuple(
            _Validation(
                compiled(environment, each.get("expression") or "", BOOL),
                compiled(silent, each["messageExpression"], STRING)
                if (each.get("messageExpression") or "").strip()
                else None,
                (each.get("message") or "").strip(),
                each.get("reason") or "Invalid",
            )
            for each in spec.get("validations") or ()
        )
        self._annotations = tuple(
            (each.get("key") or "", each.get("valueExpression") or "")
            for each in spec.get("auditAnnotations") or ()
        )
        self._values = tuple(
            compiled(environment, text.strip(), STRING, NULL) for _, text in self._annotations
        )

    def validate(self, inputs: Inputs) -> Verdict:
        """All validations are evaluated; one that fails does not end it."""
        try:
            if not self.is_concerned(inputs):
                return Verdict()
            denials = self._denials(inputs)
            annotations, more = self._audit(inputs)
        except (ConditionsFailed, OutOfBudget) as error:
            return Verdict((Denial(str(error), is_ignored=self.fails_open),))
        return Verdict((*denials, *more), annotations)

    def _denials(self, inputs: Inputs) -> list[Denial]:
        budget = Budget(EVALUATION_BUDGET)
        own = self.inputs(inputs)
        results: list[Any] = []
        times: list[float] = []
        for validation in self._validations:
            started = perf_counter()
            try:
                results.append(validation.expression.evaluate(own, budget))
            except Failed as failure:
                results.append(failure)
            times.append(perf_counter() - started)
        if all(result is True for result in results):
            return []
        messages = self._messages(inputs, budget)
        denials = []
        for index, (validation, result) in enumerate(zip(self._validations, results, strict=True)):
            problem = ""
            if isinstance(result, Failed):
                problem = str(result)
            elif isinstance(messages, OutOfBudget):
                problem = f"failed messageExpression: {messages}"
            if problem:
                denials.append(Denial(problem, "", index, False, self.fails_open, times[index]))
            elif result is not True:
                assert isinstance(messages, list)
                message = messages[index] or validation.message
                message = message or f"failed expression: {validation.expression.source.strip()}"
                denials.append(Denial(message, validation.reason, index, seconds=times[index]))
        return denials

    def _messages(self, inputs: Inputs, budget: Budget) -> list[str] | OutOfBudget:
        """What the message expressions make; "" for what is not fit to be shown."""
        own = self.inputs(replace(inputs, authorize=None))
        messages = []
        for validation in self._validations:
            text: Any = ""
            if validation.message_expression is not None:
                try:
                    text = validation.message_expression.evaluate(own, budget)
                except Failed as failure:
                    log.info("messageExpression: %s", failure)
                except OutOfBudget as error:
                    return error
            text = text.strip() if isinstance(text, str) else ""
            is_fit = len(text.encode()) <= MAX_MESSAGE_BYTES and "\n" not in text
            messages.append(text if is_fit else "")
        return messages

    def _audit(self, inputs: Inputs) -> tuple[tuple[tuple[str, str], ...], list[Denial]]:
        """The audit annotations, and those that failed."""
        if not self._annotations:
            return (), []
        budget, own = Budget(EVALUATION_BUDGET), self.inputs(inputs)
        found: list[tuple[str, str]] = []
        denials: list[Denial] = []
        for (key, _), expression in zip(self._annotations, self._values, strict=True):
            try:
                value = expression.evaluate(own, budget)
            except Failed as failure:
                if not self.fails_open:
                    denials.append(Denial(str(failure), is_final=True))
                continue
            text = value.strip() if isinstance(value, str) else ""
            if text:
                cut = text.encode()[:MAX_AUDIT_BYTES].decode("utf-8", "ignore")
                found.append((key, cut))
        return tuple(found), denials
