"""The names that expressions of admission see: webhooks' match conditions and admission policies.

The object of a request is plain JSON here (`dyn`), so that one policy can look at many kinds;
`request` and `namespaceObject` have declared fields, of which a misspelt one does not compile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from navarch.api.cel.environment import STORED, Environment, Program
from navarch.api.cel.errors import CompileError, ProgramError
from navarch.api.cel.functions import Version
from navarch.api.cel.library import NEW, base_environment
from navarch.api.cel.library.authorization import AUTHORIZER, RESOURCE_CHECK
from navarch.api.cel.library.json_patches import JSON_PATCHES, find_object_type
from navarch.api.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    CelType,
    list_of,
    map_of,
    object_type,
)

MATCH_CONDITIONS_BUDGET = 2_500_000
"""What the match conditions of one webhook or policy may cost together."""
EVALUATION_BUDGET = 10_000_000
"""What the expressions of one policy with one binding and one parameter may cost together."""
OUT_OF_BUDGET = (
    "validation failed due to running out of cost budget, no further validation rules will be run"
)
MAX_MESSAGE_BYTES = 5 * 1024
REQUEST_RESOURCE = "authorizer.requestResource"

_STRINGS = list_of(STRING)
_LABELS = map_of(STRING, STRING)


def _fields(text: str, more: Mapping[str, CelType] | None = None) -> dict[str, CelType]:
    return dict.fromkeys(text.split(), STRING) | dict(more or {})


_GVK = object_type("kubernetes.GroupVersionKind", _fields("group version kind"))
_GVR = object_type("kubernetes.GroupVersionResource", _fields("group version resource"))
_USER = object_type(
    "kubernetes.UserInfo",
    _fields("username uid", {"groups": _STRINGS, "extra": map_of(STRING, _STRINGS)}),
)
REQUEST = object_type(
    "kubernetes.AdmissionRequest",
    _fields(
        "subResource requestSubResource name namespace operation",
        {
            "kind": _GVK,
            "resource": _GVR,
            "requestKind": _GVK,
            "requestResource": _GVR,
            "userInfo": _USER,
            "dryRun": BOOL,
            "options": DYN,
        },
    ),
)
_CONDITION = object_type(
    "kubernetes.NamespaceCondition",
    _fields("status type message reason", {"lastTransitionTime": TIMESTAMP}),
)
_METADATA = object_type(
    "kubernetes.NamespaceMetadata",
    _fields(
        "name generateName namespace UID resourceVersion",
        {
            "labels": _LABELS,
            "annotations": _LABELS,
            "creationTimestamp": TIMESTAMP,
            "deletionTimestamp": TIMESTAMP,
            "deletionGracePeriodSeconds": INT,
            "generation": INT,
            "finalizers": _STRINGS,
        },
    ),
)
NAMESPACE = object_type(
    "kubernetes.Namespace",
    {
        "metadata": _METADATA,
        "spec": object_type("kubernetes.NamespaceSpec", {"finalizers": _STRINGS}),
        "status": object_type(
            "kubernetes.NamespaceStatus", {"conditions": list_of(_CONDITION), "phase": STRING}
        ),
    },
)


class ExpressionProblem(ValueError):
    """An expression cannot be used; the text is what a field error says of it."""

    def __init__(self, text: str, is_internal: bool = False) -> None:
        super().__init__(text)
        self.is_internal = is_internal
        """Upstream calls it an internal error when a well-typed expression makes no program."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which of the names that depend on the place are there."""

    has_params: bool = False
    has_authorizer: bool = True
    has_patch_types: bool = False


@cache
def admission_environment(scope: Scope, version: Version = STORED) -> Environment:
    """The environment of an expression in this scope; its objects are not typed."""
    return typed_environment(scope, version, DYN, DYN)


def typed_environment(
    scope: Scope, version: Version, of_object: CelType, of_params: CelType
) -> Environment:
    """The same with types for what is looked at: how policies are type-checked."""
    variables = {
        "object": of_object,
        "oldObject": of_object,
        "request": REQUEST,
        "namespaceObject": NAMESPACE,
    }
    if scope.has_params:
        variables["params"] = of_params
    if scope.has_authorizer:
        variables |= {"authorizer": AUTHORIZER, REQUEST_RESOURCE: RESOURCE_CHECK}
    environment = base_environment(version).extend(variables=variables)
    if scope.has_patch_types:
        environment = environment.extend(find_type=find_object_type, libraries=(JSON_PATCHES,))
    return environment


def type_text(type: CelType) -> str:
    """A type as messages about results print it."""
    if not type.parameters:
        return type.name
    return f"{type.name}({', '.join(map(type_text, type.parameters))})"


def compile_expression(
    environment: Environment, text: str, results: Sequence[CelType] = ()
) -> Program:
    """A program whose static type is exactly one of `results` (any, if there are none). Raises
    ExpressionProblem."""
    try:
        program = environment.compile(text)
    except ProgramError as error:
        raise ExpressionProblem(f"program instantiation failed: {error}", True) from None
    except CompileError as error:
        raise ExpressionProblem(f"compilation failed: {error}") from None
    if results and program.type not in results:
        names = [type_text(each) for each in results]
        wanted = names[0] if len(names) == 1 else f"one of [{' '.join(names)}]"
        found = type_text(program.type)
        raise ExpressionProblem(f"must evaluate to {wanted} but got {found}")
    return program


def new_or_stored(is_stored: bool) -> Version:
    """The version to compile with: what is stored already may use everything there is."""
    return STORED if is_stored else NEW


class Composition:
    """The named expressions (`variables`) of a policy: each can use those before it, and whatever
    is compiled after them can use them all."""

    def __init__(self, environment: Environment) -> None:
        self._fields: dict[str, CelType] = {}
        self.programs: dict[str, Program | ExpressionProblem] = {}
        self.type = object_type("kubernetes.variables", self._fields)
        self.environment = environment.extend(variables={"variables": self.type})

    def add(
        self, name: str, text: str, environment: Environment | None = None
    ) -> ExpressionProblem | None:
        """Compile a variable; returns what is wrong with it."""
        try:
            program = compile_expression(environment or self.environment, text)
        except ExpressionProblem as problem:
            self.programs[name], self._fields[name] = problem, DYN
            return problem
        self.programs[name], self._fields[name] = program, _kept(program.type)
        return None

    def for_scope(self, environment: Environment) -> Environment:
        """Another scope with the same variables."""
        return environment.extend(variables={"variables": self.type})


_SIMPLE = frozenset((BOOL, BYTES, DOUBLE, DURATION, INT, NULL, STRING, TIMESTAMP, UINT))


def _kept(type: CelType) -> CelType:
    """The type of a variable as later expressions see it: objects and opaque values are dyn."""
    if type in _SIMPLE:
        return type
    if type.name == "list":
        return list_of(_kept(type.parameters[0]))
    if type.name == "map":
        return map_of(_kept(type.parameters[0]), _kept(type.parameters[1]))
    return DYN
