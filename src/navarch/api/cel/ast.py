"""The tree of an expression, made by the parser and annotated by the checker.

Nodes are mutable on purpose: the checker writes `type` and `overloads` into them and turns what it
resolves (qualified names, namespaced functions) into the plain form, so later stages look at one
tree only. A subtree may occur twice (the macros of optionals do that); stages remember what they
have seen instead of walking it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from navarch.api.cel.types import ERROR, CelType
from navarch.api.cel.values import MISSING

if TYPE_CHECKING:
    from navarch.api.cel.functions import Overload


@dataclass(slots=True, eq=False)
class Expr:
    """A node. `position` is the offset its errors point at; `depth` its height above the leaves."""

    position: int
    depth: int = field(init=False)
    type: CelType = field(default=ERROR, init=False)

    def __post_init__(self) -> None:
        self.depth = 1 + max((child.depth for child in self.children()), default=0)

    def children(self) -> Iterator[Expr]:
        return iter(())


@dataclass(slots=True, eq=False)
class Literal(Expr):
    """A constant: a value as in `values`."""

    value: Any


@dataclass(slots=True, eq=False)
class Ident(Expr):
    """A name; `constant` is its value if it names one (a type), once checked."""

    name: str
    constant: Any = MISSING


@dataclass(slots=True, eq=False)
class Select(Expr):
    """`operand.field`, or `has(operand.field)` if `test_only`."""

    operand: Expr
    field: str
    test_only: bool = False
    qualified: Ident | None = None
    """Set by the checker: the whole chain is one name."""

    def children(self) -> Iterator[Expr]:
        yield self.operand


@dataclass(slots=True, eq=False)
class Call(Expr):
    """A function, an operator (`_+_`) or, with a target, a member function.

    `&&` and `||` take any number of arguments: upstream balances them into a tree, which has the
    same results, types and costs.
    """

    function: str
    args: list[Expr]
    target: Expr | None = None
    overloads: list[Overload] = field(default_factory=list)

    def children(self) -> Iterator[Expr]:
        if self.target is not None:
            yield self.target
        yield from self.args


@dataclass(slots=True, eq=False)
class ListExpr(Expr):
    """`[a, ?b]`; `optional` holds the indexes of elements that may be left out."""

    elements: list[Expr]
    optional: frozenset[int] = frozenset()

    def children(self) -> Iterator[Expr]:
        return iter(self.elements)


@dataclass(slots=True, eq=False)
class Entry:
    """`key: value` of a map, or `field: value` of a struct (then `key` is None)."""

    position: int
    key: Expr | None
    field: str
    value: Expr
    optional: bool


@dataclass(slots=True, eq=False)
class MapExpr(Expr):
    """`{k: v, ?k2: v2}`, or with a type name `T{f: v}`."""

    entries: list[Entry]
    type_name: str = ""

    def children(self) -> Iterator[Expr]:
        for entry in self.entries:
            if entry.key is not None:
                yield entry.key
            yield entry.value


@dataclass(slots=True, eq=False)
class Comprehension(Expr):
    """What the macros over lists and maps become: a fold over `range`.

    `accumulator` starts as `init`; while `condition` holds, each element makes it `step`; the value
    is `result`. With a second variable the first one is the index or key.
    """

    range: Expr
    variable: str
    variable2: str
    accumulator: str
    init: Expr
    condition: Expr
    step: Expr
    result: Expr

    def __post_init__(self) -> None:  # the condition is the macro's, not of the expression's depth
        parts = (self.range, self.init, self.step, self.result)
        self.depth = 1 + max(part.depth for part in parts)

    @property
    def is_binding(self) -> bool:
        """Whether this is `cel.bind`: no loop, a name for a value that is computed when used."""
        return self.variable == UNUSED

    def children(self) -> Iterator[Expr]:
        yield from (self.range, self.init, self.condition, self.step, self.result)


UNUSED = "#unused"


def walk(root: Expr) -> Iterator[Expr]:
    """Every node, once each, parents before children."""
    seen: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            stack.extend(node.children())


def qualified_name(expr: Expr) -> str | None:
    """`a.b.c` if the expression is nothing but a chain of names."""
    parts: list[str] = []
    while isinstance(expr, Select) and not expr.test_only:
        parts.append(expr.field)
        expr = expr.operand
    if not isinstance(expr, Ident):
        return None
    return ".".join([expr.name, *reversed(parts)])
