"""How functions, macros and whole libraries are declared.

A library is a value: its functions with their overloads, its macros, types and constants, and the
Kubernetes versions it is enabled in. The environment picks the libraries of its version.

    Library(
        name="kubernetes.urls",
        since=(1, 0),
        functions=(
            method("getHost", "url_get_host", (URL,), STRING, lambda u: u.host),
            call("isURL", "is_url", (STRING,), BOOL, is_url, traversal(0)),
        ),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from navarch.api.cel.costs import TRAVERSAL, CallEstimate, Estimate, scaled
from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.types import BOOL, INT, CelType
from navarch.api.cel.values import size_of

if TYPE_CHECKING:
    from navarch.api.cel.ast import Call, Expr
    from navarch.api.cel.macros import MacroContext

Version = tuple[int, int]
"""A Kubernetes version, (major, minor)."""


class CostNode(Protocol):
    """What a static estimator may know about one argument (a receiver is argument 0)."""

    @property
    def type(self) -> CelType: ...
    @property
    def size(self) -> Estimate:
        """How large the value may be; `costs.UNKNOWN` if nothing is declared."""

    @property
    def literal(self) -> Any:
        """The value if the argument is a literal, else `values.MISSING`."""

    def element(self) -> CostNode | None:
        """Any one element, if the argument is a list."""


Implementation = Callable[..., Any]
"""Called with the values (receiver first). Raises EvaluationError; never another exception."""
RuntimeCost = Callable[[Sequence[Any], Any], int]
"""What one call cost, from its arguments (receiver first) and its result."""
Estimator = Callable[[Sequence[CostNode]], CallEstimate]
"""What a call may cost, without the cost of computing its arguments."""


@dataclass(frozen=True, slots=True)
class Overload:
    """One signature of a function.

    `parameters` starts with the receiver for members. At run time an overload is chosen by the
    Python classes of the arguments, so two overloads may not differ in element types alone.
    Without `cost` a call costs 1; without `estimate` it is estimated at 1.
    """

    id: str
    parameters: tuple[CelType, ...]
    result: CelType
    implementation: Implementation
    cost: RuntimeCost | None = None
    estimate: Estimator | None = None
    is_member: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A function name with its overloads; global names may be qualified (`sets.contains`)."""

    name: str
    overloads: tuple[Overload, ...]


@dataclass(frozen=True, slots=True)
class Macro:
    """A call that is rewritten when parsed. `expand` may return None: just a call after all."""

    name: str
    arguments: int
    is_member: bool
    expand: Callable[[MacroContext, Expr | None, list[Expr]], Expr | None]


Check = Callable[["Call"], "tuple[Expr, str] | None"]
"""A compile-time check of one call's literals: the node to point at and what is wrong, or None."""


@dataclass(frozen=True, slots=True)
class Library:
    """A set of declarations and the versions it belongs to (`removed` is the first one without).

    `constants` are names with a fixed type and value; types become names by themselves.
    `literal_checks` maps a function name to the check of its calls. The literal arguments of
    `mixed_literals` may mix types.
    """

    name: str
    since: Version = (1, 0)
    removed: Version | None = None
    functions: tuple[Function, ...] = ()
    macros: tuple[Macro, ...] = ()
    types: tuple[CelType, ...] = ()
    constants: Mapping[str, tuple[CelType, Any]] | None = None
    literal_checks: Mapping[str, Check] | None = None
    mixed_literals: frozenset[str] = frozenset()


def overload(
    id: str,
    parameters: tuple[CelType, ...],
    result: CelType,
    implementation: Implementation,
    cost: RuntimeCost | None = None,
    estimate: Estimator | None = None,
) -> Overload:
    return Overload(id, parameters, result, implementation, cost, estimate)


def function(name: str, *overloads: Overload) -> Function:
    """A function called as `name(...)`."""
    return Function(name, overloads)


def member(name: str, *overloads: Overload) -> Function:
    """A function called as `receiver.name(...)`; parameter 0 of each overload is the receiver."""
    return Function(name, tuple(replace(o, is_member=True) for o in overloads))


def call(
    name: str,
    id: str,
    parameters: tuple[CelType, ...],
    result: CelType,
    implementation: Implementation,
    *costs: Any,
) -> Function:
    """A function called as `name(...)` with one overload only."""
    return function(name, overload(id, parameters, result, implementation, *costs))


def method(
    name: str,
    id: str,
    parameters: tuple[CelType, ...],
    result: CelType,
    implementation: Implementation,
    *costs: Any,
) -> Function:
    """A function called as `receiver.name(...)` with one overload only."""
    return member(name, overload(id, parameters, result, implementation, *costs))


def comparisons(id: str, type_: CelType) -> tuple[Function, ...]:
    """The order of an opaque type, whose values compare as what they wrap does."""

    def compare(left: Any, right: Any) -> Any:
        return (left.value > right.value) - (left.value < right.value)

    pair = (type_, type_)
    return (
        method(
            "isGreaterThan", f"{id}_is_greater_than", pair, BOOL, lambda a, b: compare(a, b) > 0
        ),
        method("isLessThan", f"{id}_is_less_than", pair, BOOL, lambda a, b: compare(a, b) < 0),
        method("compareTo", f"{id}_compare_to", pair, INT, compare),
    )


def succeeds(convert: Callable[..., Any]) -> Callable[..., bool]:
    """Whether a conversion would."""

    def test(*arguments: Any) -> bool:
        try:
            convert(*arguments)
        except EvaluationError:
            return False
        return True

    return test


def traversal(argument: int = 0, factor: float = TRAVERSAL) -> RuntimeCost:
    """The cost of walking over one argument."""
    return lambda arguments, result: scaled(size_of(arguments[argument]), factor)


def estimate_traversal(
    argument: int = 0, factor: float = TRAVERSAL, result_size: bool = False
) -> Estimator:
    """The estimate that belongs to `traversal`; `result_size`: the result is as large as that."""

    def estimate(nodes: Sequence[CostNode]) -> CallEstimate:
        size = nodes[argument].size
        return CallEstimate(size.scaled(factor), size if result_size else None)

    return estimate
