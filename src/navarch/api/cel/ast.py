"""The tree of an expression, made by the parser and annotated by the checker.

Nodes are mutable on purpose: the checker writes `type` and `overloads` into them and turns what it
resolves (qualified names, namespaced functions) into the plain form, so later stages look at one
tree only. A subtree may occur twice (the macros of optionals do that); stages remember what they
have seen instead of walking it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from navarch.api.cel.types import ERROR, CelType
from navarch.api.cel.values import MISSING

if TYPE_CHECKING:
    from navarch.api.cel.functions import Overload


class Expr:
    """A node. `position` is the offset its errors point at; `depth` its height above the leaves."""

    __slots__ = ("depth", "position", "type")

    def __init__(self, position: int, depth: int = 1) -> None:
        self.position = position
        self.depth = depth
        self.type: CelType = ERROR

    def children(self) -> Iterator[Expr]:
        return iter(())


class Literal(Expr):
    """A constant: a value as in `values`."""

    __slots__ = ("value",)

    def __init__(self, position: int, value: Any) -> None:
        super().__init__(position)
        self.value = value


class Ident(Expr):
    """A name; `constant` is its value if it names one (a type), once checked."""

    __slots__ = ("constant", "name")

    def __init__(self, position: int, name: str) -> None:
        super().__init__(position)
        self.name = name
        self.constant: Any = MISSING


class Select(Expr):
    """`operand.field`, or `has(operand.field)` if `test_only`."""

    __slots__ = ("field", "operand", "qualified", "test_only")

    def __init__(self, position: int, operand: Expr, field: str, test_only: bool = False) -> None:
        super().__init__(position, operand.depth + 1)
        self.operand = operand
        self.field = field
        self.test_only = test_only
        self.qualified: Ident | None = None  # set by the checker: the whole chain is one name

    def children(self) -> Iterator[Expr]:
        yield self.operand


class Call(Expr):
    """A function, an operator (`_+_`) or, with a target, a member function.

    `&&` and `||` take any number of arguments: upstream balances them into a tree, which has the
    same results, types and costs.
    """

    __slots__ = ("args", "function", "overloads", "target")

    def __init__(
        self, position: int, function: str, args: list[Expr], target: Expr | None = None
    ) -> None:
        deepest = max((arg.depth for arg in args), default=0)
        super().__init__(position, max(deepest, target.depth if target else 0) + 1)
        self.function = function
        self.args = args
        self.target = target
        self.overloads: list[Overload] = []

    def children(self) -> Iterator[Expr]:
        if self.target is not None:
            yield self.target
        yield from self.args


class ListExpr(Expr):
    """`[a, ?b]`; `optional` holds the indexes of elements that may be left out."""

    __slots__ = ("elements", "optional")

    def __init__(
        self, position: int, elements: list[Expr], optional: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(position, max((e.depth for e in elements), default=0) + 1)
        self.elements = elements
        self.optional = optional

    def children(self) -> Iterator[Expr]:
        return iter(self.elements)


class Entry:
    """`key: value` of a map, or `field: value` of a struct (then `key` is None)."""

    __slots__ = ("field", "key", "optional", "position", "value")

    def __init__(
        self, position: int, key: Expr | None, field: str, value: Expr, optional: bool
    ) -> None:
        self.position = position
        self.key = key
        self.field = field
        self.value = value
        self.optional = optional


class MapExpr(Expr):
    """`{k: v, ?k2: v2}`, or with a type name `T{f: v}`."""

    __slots__ = ("entries", "type_name")

    def __init__(self, position: int, entries: list[Entry], type_name: str = "") -> None:
        depths = [max(e.value.depth, e.key.depth if e.key else 0) for e in entries]
        super().__init__(position, max(depths, default=0) + 1)
        self.entries = entries
        self.type_name = type_name

    def children(self) -> Iterator[Expr]:
        for entry in self.entries:
            if entry.key is not None:
                yield entry.key
            yield entry.value


class Comprehension(Expr):
    """What the macros over lists and maps become: a fold over `range`.

    `accumulator` starts as `init`; while `condition` holds, each element makes it `step`; the value
    is `result`. With a second variable the first one is the index or key.
    """

    __slots__ = (
        "accumulator",
        "condition",
        "init",
        "range",
        "result",
        "step",
        "variable",
        "variable2",
    )

    def __init__(  # the seven parts of a fold belong together
        self,
        position: int,
        range: Expr,
        variable: str,
        variable2: str,
        accumulator: str,
        init: Expr,
        condition: Expr,
        step: Expr,
        result: Expr,
    ) -> None:
        super().__init__(position, max(range.depth, init.depth, step.depth, result.depth) + 1)
        self.range = range
        self.variable = variable
        self.variable2 = variable2
        self.accumulator = accumulator
        self.init = init
        self.condition = condition
        self.step = step
        self.result = result

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
