"""Macros: calls that are rewritten into folds while parsing (`all`, `exists`, `map`, ...).

The expansions have upstream's shape step by step, because costs are charged by step. Making them
here, not in the evaluator, keeps checker and estimator ignorant of macros. `MacroContext` makes
nodes that lie where the macro was called; function libraries use it for macros of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from navarch.api.cel.ast import (
    UNUSED,
    Call,
    Comprehension,
    Entry,
    Expr,
    Ident,
    ListExpr,
    Literal,
    MapExpr,
    Select,
)
from navarch.api.cel.functions import Library, Macro, function, overload
from navarch.api.cel.types import map_of, parameter

ACCUMULATOR = "@result"
_FORBIDDEN = (ACCUMULATOR, "__result__")


class MacroError(Exception):
    """The arguments do not suit the macro."""

    def __init__(self, at: Expr, message: str) -> None:
        super().__init__(message)
        self.position = at.position
        self.message = message


@dataclass(frozen=True, slots=True)
class MacroContext:
    """Makes the nodes of one expansion, all at the place of the call."""

    position: int

    def literal(self, value: Any) -> Expr:
        return Literal(self.position, value)

    def ident(self, name: str) -> Expr:
        return Ident(self.position, name)

    def call(self, name: str, *args: Expr) -> Expr:
        return Call(self.position, name, list(args))

    def member_call(self, name: str, target: Expr, *args: Expr) -> Expr:
        return Call(self.position, name, list(args), target)

    def list(self, *elements: Expr) -> Expr:
        return ListExpr(self.position, list(elements))

    def map(self, *entries: Entry) -> Expr:
        return MapExpr(self.position, list(entries))

    def bind(self, name: str, value: Expr, result: Expr) -> Expr:
        """`result` in which `name` stands for `value`, computed at most once."""
        return Comprehension(
            self.position,
            self.list(),
            UNUSED,
            "",
            name,
            value,
            self.literal(False),
            self.ident(name),
            result,
        )

    def fold(self, target: Expr, variables: tuple[str, str], *parts: Expr) -> Expr:
        """A fold over `target`; parts are init, condition, step, result."""
        first, second = variables
        return Comprehension(self.position, target, first, second, ACCUMULATOR, *parts)


Variables = tuple[str, str]
Expander = Callable[[MacroContext, Expr, Variables, list[Expr]], Expr]


def _has(context: MacroContext, target: Expr | None, args: list[Expr]) -> Expr:
    selection = args[0]
    if not isinstance(selection, Select):
        raise MacroError(selection, "invalid argument to has() macro")
    return Select(context.position, selection.operand, selection.field, test_only=True)


def _quantifier(default: bool, operator: str) -> Expander:
    """A fold that ends at the first element which decides."""

    def expand(context: MacroContext, target: Expr, variables: Variables, args: list[Expr]) -> Expr:
        accumulator = context.ident(ACCUMULATOR)
        undecided = accumulator if default else context.call("!_", accumulator)
        return context.fold(
            target,
            variables,
            context.literal(default),
            context.call("@not_strictly_false", undecided),
            context.call(operator, accumulator, args[0]),
            accumulator,
        )

    return expand


_all, _exists = _quantifier(True, "_&&_"), _quantifier(False, "_||_")


def _exists_one(
    context: MacroContext, target: Expr, variables: Variables, args: list[Expr]
) -> Expr:
    accumulator = context.ident(ACCUMULATOR)
    one = context.literal(1)
    return context.fold(
        target,
        variables,
        context.literal(0),
        context.literal(True),
        context.call("_?_:_", args[0], context.call("_+_", accumulator, one), accumulator),
        context.call("_==_", accumulator, one),
    )


def _collect(
    context: MacroContext, target: Expr, variables: Variables, init: Expr, parts: list[Expr]
) -> Expr:
    """A fold whose step is the last part, under the filter before it if there is one."""
    accumulator = context.ident(ACCUMULATOR)
    step = parts[-1]
    if len(parts) == 2:
        step = context.call("_?_:_", parts[0], step, accumulator)
    return context.fold(target, variables, init, context.literal(True), step, accumulator)


def _map(context: MacroContext, target: Expr, variables: Variables, args: list[Expr]) -> Expr:
    grown = context.call("_+_", context.ident(ACCUMULATOR), context.list(args[-1]))
    return _collect(context, target, variables, context.list(), [*args[:-1], grown])


def _filter(context: MacroContext, target: Expr, variables: Variables, args: list[Expr]) -> Expr:
    return _map(context, target, variables, [args[0], Ident(args[1].position, variables[0])])


def _transform_map(
    context: MacroContext, target: Expr, variables: Variables, args: list[Expr]
) -> Expr:
    key = context.ident(variables[0])
    grown = context.call("cel.@mapInsert", context.ident(ACCUMULATOR), key, args[-1])
    return _collect(context, target, variables, context.map(), [*args[:-1], grown])


def _transform_map_entry(
    context: MacroContext, target: Expr, variables: Variables, args: list[Expr]
) -> Expr:
    grown = context.call("cel.@mapInsert", context.ident(ACCUMULATOR), args[-1])
    return _collect(context, target, variables, context.map(), [*args[:-1], grown])


def _variable(argument: Expr, complaint: str) -> str:
    if not isinstance(argument, Ident) or argument.name.startswith("."):
        raise MacroError(argument, complaint)
    if argument.name in _FORBIDDEN:
        raise MacroError(argument, "iteration variable overwrites accumulator variable")
    return argument.name


def _one(name: str, count: int, expand: Expander, complaint: str) -> Macro:
    def run(context: MacroContext, target: Expr | None, args: list[Expr]) -> Expr:
        assert target is not None
        variable = _variable(args[0], complaint)
        rest = [args[1], args[0]] if expand is _filter else args[1:]
        return expand(context, target, (variable, ""), rest)

    return Macro(name, count, True, run)


def _two(name: str, count: int, expand: Expander) -> Macro:
    def run(context: MacroContext, target: Expr | None, args: list[Expr]) -> Expr:
        assert target is not None
        first = _variable(args[0], "argument must be a simple name")
        second = _variable(args[1], "argument must be a simple name")
        if first == second:
            raise MacroError(args[1], f"duplicate variable name: {first}")
        return expand(context, target, (first, second), args[2:])

    return Macro(name, count, True, run)


_NAME, _IDENTIFIER = "argument must be a simple name", "argument is not an identifier"
STANDARD_MACROS = (
    Macro("has", 1, False, _has),
    _one("all", 2, _all, _NAME),
    _one("exists", 2, _exists, _NAME),
    _one("exists_one", 2, _exists_one, _NAME),
    _one("existsOne", 2, _exists_one, _NAME),
    _one("map", 2, _map, _IDENTIFIER),
    _one("map", 3, _map, _IDENTIFIER),
    _one("filter", 2, _filter, _IDENTIFIER),
)


def _optional_map(flat: bool) -> Macro:
    name = "optFlatMap" if flat else "optMap"

    def run(context: MacroContext, target: Expr | None, args: list[Expr]) -> Expr:
        assert target is not None
        if not isinstance(args[0], Ident):
            raise MacroError(args[0], f"{name}() variable name must be a simple identifier")
        value = context.member_call("value", target)
        mapped = context.bind(args[0].name, value, args[1])
        return context.call(
            "_?_:_",
            context.member_call("hasValue", target),
            mapped if flat else context.call("optional.of", mapped),
            context.call("optional.none"),
        )

    return Macro(name, 2, True, run)


OPTIONAL_MACROS = (_optional_map(flat=False), _optional_map(flat=True))


def _sort_by(context: MacroContext, target: Expr | None, args: list[Expr]) -> Expr:
    assert target is not None
    if isinstance(target, (Literal, MapExpr)):
        kinds = "a list, identifier, comprehension, call or select expression"
        raise MacroError(target, f"sortBy can only be applied to {kinds}")
    items = context.ident("@__sortBy_input__")
    keys = _map(context, items, (_variable(args[0], _IDENTIFIER), ""), args[1:])
    ordered = context.member_call("@sortByAssociatedKeys", items, keys)
    return context.bind("@__sortBy_input__", target, ordered)


SORT_BY = Macro("sortBy", 2, True, _sort_by)
"""For the lists library: sorts by calling its member `@sortByAssociatedKeys(list, keys)`."""


def _bind(context: MacroContext, target: Expr | None, args: list[Expr]) -> Expr | None:
    if not isinstance(target, Ident) or target.name != "cel":
        return None
    if not isinstance(args[0], Ident):
        raise MacroError(args[0], "cel.bind() variable names must be simple identifiers")
    return context.bind(args[0].name, args[1], args[2])


BINDINGS = Library("cel.lib.ext.cel.bindings", macros=(Macro("bind", 3, True, _bind),))
"""`cel.bind`; enabled only where a caller adds it (device selectors)."""


def _insert(target: dict[Any, Any], *update: Any) -> dict[Any, Any]:
    raise AssertionError("folds insert into their own map")


_MAP = map_of(parameter("K"), parameter("V"))
TWO_VARIABLE_COMPREHENSIONS = Library(
    "cel.lib.ext.comprev2",
    since=(1, 32),
    macros=(
        _two("all", 3, _all),
        _two("exists", 3, _exists),
        _two("existsOne", 3, _exists_one),
        _two("exists_one", 3, _exists_one),
        _two("transformList", 3, _map),
        _two("transformList", 4, _map),
        _two("transformMap", 3, _transform_map),
        _two("transformMap", 4, _transform_map),
        _two("transformMapEntry", 3, _transform_map_entry),
        _two("transformMapEntry", 4, _transform_map_entry),
    ),
    functions=(
        function(
            "cel.@mapInsert",
            overload(
                "@mapInsert_map_key_value", (_MAP, parameter("K"), parameter("V")), _MAP, _insert
            ),
            overload("@mapInsert_map_map", (_MAP, _MAP), _MAP, _insert),
        ),
    ),
)
