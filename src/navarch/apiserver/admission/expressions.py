"""CEL at work in admission: what expressions see of a request, and what came of them.

Match conditions of webhooks and policies, and the expressions of policies, all run here. What an
expression does not mention is not made: most policies look at `object` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from navarch.api.cel.admission import (
    OUT_OF_BUDGET,
    REQUEST_RESOURCE,
    Composition,
    ExpressionProblem,
    compile_expression,
)
from navarch.api.cel.environment import Environment, Program
from navarch.api.cel.errors import CelError, CostExceeded, EvaluationError
from navarch.api.cel.library.authorization import (
    Authorize,
    Decision,
    Question,
    authorizer_value,
    resource_check_value,
)
from navarch.api.cel.types import CelType
from navarch.api.cel.values import MISSING, ObjectValue
from navarch.apiserver.admission.matching import Subject
from navarch.apiserver.contracts import (
    AdmissionRequest,
    Attributes,
    Authorizer,
    Object,
    RequestInfo,
    UserInfo,
)
from navarch.apiserver.contracts import Decision as Verdict

_KEPT_OF_NAMESPACE = frozenset(
    (
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
    )
)


class OutOfBudget(Exception):
    """The expressions of one evaluation have cost more than they may together."""

    def __init__(self) -> None:
        super().__init__(OUT_OF_BUDGET)


@dataclass(slots=True)
class Budget:
    """What is left to be spent."""

    left: int

    def spend(self, cost: int) -> None:
        """Raises OutOfBudget."""
        if cost > self.left:
            raise OutOfBudget
        self.left -= cost


def asking(authorizer: Authorizer, user: UserInfo) -> Authorize:
    """Answers the questions of one request, each of them once."""
    known: dict[Question, Decision] = {}

    def authorize(question: Question) -> Decision:
        if question not in known:
            decision, reason = authorizer.authorize(_attributes(user, question))
            known[question] = Decision(decision is Verdict.ALLOW, reason)
        return known[question]

    return authorize


def _attributes(user: UserInfo, question: Question) -> Attributes:
    if question.service_account is not None:
        namespace, name = question.service_account
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        user = UserInfo(f"system:serviceaccount:{namespace}:{name}", groups=groups)
    if question.path:
        return Attributes(user, RequestInfo(False, question.path, question.verb))
    info = RequestInfo(
        True,
        "",
        question.verb,
        question.group,
        "*",
        question.resource,
        question.subresource,
        question.namespace,
        question.name,
    )
    return Attributes(user, info, question.field_selector, question.label_selector)


@dataclass(frozen=True, eq=False)
class Inputs(Mapping[str, Any]):
    """The variables of one request. `asked` is the request as it was made, `seen` as the rule that
    matched names it; the objects are in the version of the latter."""

    request: AdmissionRequest
    asked: Subject
    seen: Subject
    obj: Object | None
    old: Object | None
    authorize: Authorize | None = None
    namespace: Object | None = None
    params: Object | None = None
    variables: Variables | None = None

    def __getitem__(self, name: str) -> Any:
        value = _GETTERS[name](self)
        if value is MISSING:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(_GETTERS)

    def __len__(self) -> int:
        return len(_GETTERS)

    @cached_property
    def request_value(self) -> Object:
        asked, seen = self.asked, self.seen
        value: Object = {
            "kind": dict(zip(("group", "version", "kind"), seen.kind, strict=True)),
            "resource": dict(zip(("group", "version", "resource"), seen.place, strict=True)),
            "requestKind": dict(zip(("group", "version", "kind"), asked.kind, strict=True)),
            "requestResource": dict(
                zip(("group", "version", "resource"), asked.place, strict=True)
            ),
            "operation": asked.operation,
            "userInfo": self.request.user.to_object(),
            "dryRun": self.request.dry_run,
            "options": self.request.options or None,
        }
        for name, text in (
            ("subResource", seen.subresource),
            ("requestSubResource", asked.subresource),
            ("name", asked.name),
            ("namespace", asked.namespace),
        ):
            if text:
                value[name] = text
        return value

    @cached_property
    def namespace_value(self) -> Object | None:
        if self.namespace is None:
            return None
        metadata = self.namespace["metadata"]
        kept = {name: metadata[name] for name in metadata if name in _KEPT_OF_NAMESPACE}
        shown = {name: self.namespace.get(name) or {} for name in ("spec", "status")}
        return {"metadata": kept, **shown}

    def authorizer(self) -> Any:
        return MISSING if self.authorize is None else authorizer_value(self.authorize)

    def request_resource(self) -> Any:
        if self.authorize is None:
            return MISSING
        asked = self.asked
        question = Question(
            group=asked.group,
            resource=asked.resource,
            subresource=asked.subresource,
            namespace=asked.namespace,
            name=asked.name,
        )
        return resource_check_value(self.authorize, question)


_GETTERS: dict[str, Callable[[Inputs], Any]] = {
    "object": lambda inputs: inputs.obj,
    "oldObject": lambda inputs: inputs.old,
    "request": lambda inputs: inputs.request_value,
    "namespaceObject": lambda inputs: inputs.namespace_value,
    "params": lambda inputs: inputs.params,
    "authorizer": lambda inputs: inputs.authorizer(),
    REQUEST_RESOURCE: lambda inputs: inputs.request_resource(),
    "variables": lambda inputs: inputs.variables,
}


class Variables(ObjectValue):
    """The variables of a policy: each is computed when it is first asked for. What that costs is
    counted apart, to be charged to the budget after the expression that asked."""

    def __init__(self, composition: Composition) -> None:
        self._composition = composition
        self._known: dict[str, Any] = {}
        self.cost = 0
        self.inputs: Inputs | None = None

    @property
    def cel_type(self) -> CelType:
        return self._composition.type

    def get(self, name: str) -> Any:
        program = self._composition.programs.get(name)
        if program is None:
            return MISSING
        if name not in self._known:
            self._known[name] = self._compute(name, program)
        value = self._known[name]
        if isinstance(value, EvaluationError):
            raise value
        return value

    def _compute(self, name: str, program: Program | ExpressionProblem) -> Any:
        if isinstance(program, ExpressionProblem):
            return EvaluationError(f'composited variable "{name}" fails to compile: {program}')
        assert self.inputs is not None
        try:
            result = program.evaluate(self.inputs)
        except CelError as error:
            self.cost += getattr(error, "cost", 0)
            return EvaluationError(f'composited variable "{name}" fails to evaluate: {error}')
        self.cost += result.cost
        return result.value

    def cel_equals(self, other: Any) -> bool:
        return self is other

    def take_cost(self) -> int:
        cost, self.cost = self.cost, 0
        return cost


class Failed(Exception):
    """An expression could not be evaluated; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression, or what is wrong with it."""

    source: str
    program: Program | ExpressionProblem

    def evaluate(self, inputs: Inputs, budget: Budget) -> Any:
        """Its value. Raises Failed, OutOfBudget."""
        if isinstance(self.program, ExpressionProblem):
            raise Failed(f"compilation error: {self.program}")
        problem: CelError | None = None
        value, cost = None, 0
        try:
            result = self.program.evaluate(inputs)
            value, cost = result.value, result.cost
        except (EvaluationError, CostExceeded) as error:
            problem, cost = error, getattr(error, "cost", 0)
        if inputs.variables is not None:
            budget.spend(inputs.variables.take_cost())
        budget.spend(cost)
        if problem is not None:
            raise Failed(f"expression '{self.source}' resulted in error: {problem}") from problem
        return value


def compiled(environment: Environment, source: str, *results: CelType) -> Expression:
    """An expression that must evaluate to one of the types; what is wrong with it is kept."""
    try:
        return Expression(source, compile_expression(environment, source, results))
    except ExpressionProblem as problem:
        return Expression(source, problem)
