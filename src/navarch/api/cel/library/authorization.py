"""`authorizer`: what somebody may do, asked from within an expression.

`authorizer.group('apps').resource('deployments').namespace('n').check('create').allowed()`. The
expression builds up a question and `check` puts it to whoever authorizes; every check is dear
enough that an expression can afford two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from navarch.api import names
from navarch.api.cel.costs import (
    LIST_CREATE,
    STRUCT_CREATE,
    TRAVERSAL,
    CallEstimate,
    Estimate,
    fixed,
)
from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import CostNode, Library, Overload, member, method, overload
from navarch.api.cel.types import BOOL, STRING, CelType, opaque
from navarch.api.cel.values import OpaqueValue

CHECK_COST = 350_000

_PREFIX = "kubernetes.authorization."
AUTHORIZER = opaque(f"{_PREFIX}Authorizer")
PATH_CHECK = opaque(f"{_PREFIX}PathCheck")
GROUP_CHECK = opaque(f"{_PREFIX}GroupCheck")
RESOURCE_CHECK = opaque(f"{_PREFIX}ResourceCheck")
DECISION = opaque(f"{_PREFIX}Decision")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. A question with a path is about that path, any other about a resource."""

    service_account: tuple[str, str] | None = None
    """Namespace and name of who it is about; None for whoever makes the request."""
    path: str = ""
    verb: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    field_selector: str = ""
    label_selector: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    reason: str = ""
    error: str = ""


Authorize = Callable[[Question], Decision]


@dataclass(frozen=True, slots=True)
class _Asked(OpaqueValue):
    """A question in the making; each subclass is one type of the library."""

    authorize: Authorize
    question: Question

    cel_type: ClassVar[CelType] = AUTHORIZER


class AuthorizerValue(_Asked):
    cel_type = AUTHORIZER


class PathCheckValue(_Asked):
    cel_type = PATH_CHECK


class GroupCheckValue(_Asked):
    cel_type = GROUP_CHECK


class ResourceCheckValue(_Asked):
    cel_type = RESOURCE_CHECK


@dataclass(frozen=True, slots=True)
class DecisionValue(OpaqueValue):
    decision: Decision

    cel_type: ClassVar[CelType] = DECISION


def authorizer_value(authorize: Authorize) -> AuthorizerValue:
    """The variable `authorizer`."""
    return AuthorizerValue(authorize, Question())


def resource_check_value(authorize: Authorize, question: Question) -> ResourceCheckValue:
    """The variable `authorizer.requestResource`."""
    return ResourceCheckValue(authorize, question)


def _path(asked: _Asked, path: str) -> PathCheckValue:
    if not path.strip():
        raise EvaluationError("path must not be empty")
    return PathCheckValue(asked.authorize, replace(asked.question, path=path))


def _group(asked: _Asked, group: str) -> GroupCheckValue:
    return GroupCheckValue(asked.authorize, replace(asked.question, group=group))


def _service_account(asked: _Asked, namespace: str, name: str) -> AuthorizerValue:
    if names.dns1123_subdomain(name):
        raise EvaluationError("Invalid service account name")
    if names.dns1123_label(namespace):
        raise EvaluationError("Invalid service account namespace")
    return AuthorizerValue(asked.authorize, Question(service_account=(namespace, name)))


def _resource(asked: _Asked, resource: str) -> ResourceCheckValue:
    if not resource.strip():
        raise EvaluationError("resource must not be empty")
    return ResourceCheckValue(asked.authorize, replace(asked.question, resource=resource))


def _with(field: str) -> Callable[[_Asked, str], ResourceCheckValue]:
    def change(asked: _Asked, value: str) -> ResourceCheckValue:
        changed: dict[str, Any] = {field: value}
        question = replace(asked.question, **changed)
        return ResourceCheckValue(asked.authorize, question)

    return change


def _check(asked: _Asked, verb: str) -> DecisionValue:
    return DecisionValue(asked.authorize(replace(asked.question, verb=verb)))


def _selector_cost(size: Estimate) -> Estimate:
    """A list of requirements, of which the shortest takes two characters."""
    requirements = size.scaled(0.5).scaled(LIST_CREATE + STRUCT_CREATE)
    return fixed(LIST_CREATE).plus(size.scaled(TRAVERSAL)).plus(requirements)


def _actual_selector_cost(arguments: Sequence[Any], result: Any) -> int:
    return _selector_cost(fixed(len(arguments[1]))).max


def _estimate_selector(nodes: Sequence[CostNode]) -> CallEstimate:
    return CallEstimate(_selector_cost(nodes[1].size))


def _check_overload(id: str, asked: CelType) -> Overload:
    return overload(
        id,
        (asked, STRING),
        DECISION,
        _check,
        lambda arguments, result: CHECK_COST,
        lambda nodes: CallEstimate(fixed(CHECK_COST)),
    )


AUTHORIZATION = Library(
    name="kubernetes.authz",
    since=(1, 27),
    functions=(
        method("path", "authorizer_path", (AUTHORIZER, STRING), PATH_CHECK, _path),
        method("group", "authorizer_group", (AUTHORIZER, STRING), GROUP_CHECK, _group),
        method(
            "serviceAccount",
            "authorizer_serviceaccount",
            (AUTHORIZER, STRING, STRING),
            AUTHORIZER,
            _service_account,
        ),
        method("resource", "groupcheck_resource", (GROUP_CHECK, STRING), RESOURCE_CHECK, _resource),
        *(
            method(
                name, f"resourcecheck_{name}", (RESOURCE_CHECK, STRING), RESOURCE_CHECK, _with(name)
            )
            for name in ("subresource", "namespace", "name")
        ),
        member(
            "check",
            _check_overload("pathcheck_check", PATH_CHECK),
            _check_overload("resourcecheck_check", RESOURCE_CHECK),
        ),
        method("allowed", "decision_allowed", (DECISION,), BOOL, lambda d: d.decision.allowed),
        method("errored", "decision_errored", (DECISION,), BOOL, lambda d: bool(d.decision.error)),
        method("reason", "decision_reason", (DECISION,), STRING, lambda d: d.decision.reason),
        method("error", "decision_error", (DECISION,), STRING, lambda d: d.decision.error),
    ),
)

AUTHORIZATION_SELECTORS = Library(
    name="kubernetes.authzSelectors",
    since=(1, 31),
    functions=tuple(
        method(
            name,
            f"authorizer_{name.lower()}",
            (RESOURCE_CHECK, STRING),
            RESOURCE_CHECK,
            _with(field),
            _actual_selector_cost,
            _estimate_selector,
        )
        for name, field in (
            ("fieldSelector", "field_selector"),
            ("labelSelector", "label_selector"),
        )
    ),
)
