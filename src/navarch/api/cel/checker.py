"""The type checker: gives every node its type and every call its overloads, or reports why not.

Typing is gradual and by unification: type parameters of a signature become variables, fresh for
each call, that are bound by the arguments; `dyn` goes with everything. Errors have upstream's
texts, because they end up in API responses and in the status of policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from navarch.api.cel import types as t
from navarch.api.cel.ast import (
    Call,
    Comprehension,
    Expr,
    Ident,
    ListExpr,
    Literal,
    MapExpr,
    Select,
    qualified_name,
)
from navarch.api.cel.functions import Overload
from navarch.api.cel.parser import Issues
from navarch.api.cel.types import CelType, Kind
from navarch.api.cel.values import type_of

_NULLABLE = frozenset((Kind.OPAQUE, Kind.OBJECT, Kind.DURATION, Kind.TIMESTAMP, Kind.NULL))
_LOOSE = frozenset((Kind.DYN, Kind.ERROR))


class Unifier:
    """The bindings of type variables found so far. A failed attempt leaves no trace."""

    def __init__(self) -> None:
        self._bound: dict[CelType, CelType] = {}
        self._trail: list[tuple[CelType, CelType | None]] = []
        self._fresh = 0

    def variable(self) -> CelType:
        self._fresh += 1
        return CelType(Kind.PARAMETER, f"_var{self._fresh - 1}")

    def assignable(self, pairs: Iterable[tuple[CelType, CelType]]) -> bool:
        """Whether both types of each pair go together; binds variables only if all do."""
        mark = len(self._trail)
        if all(self._match(left, right) for left, right in pairs):
            return True
        while len(self._trail) > mark:
            variable, before = self._trail.pop()
            if before is None:
                del self._bound[variable]
            else:
                self._bound[variable] = before
        return False

    def resolve(self, type_: CelType, *, to_dyn: bool = False) -> CelType:
        """The type with variables replaced by what they are bound to; `to_dyn`: the rest by dyn."""
        while type_.kind is Kind.PARAMETER:
            bound = self._bound.get(type_)
            if bound is None:
                return t.DYN if to_dyn else type_
            type_ = bound
        if not type_.parameters:
            return type_
        resolved = tuple(self.resolve(p, to_dyn=to_dyn) for p in type_.parameters)
        return _with_parameters(type_, resolved)

    def _bind(self, variable: CelType, type_: CelType) -> None:
        self._trail.append((variable, self._bound.get(variable)))
        self._bound[variable] = type_

    def _match(self, left: CelType, right: CelType) -> bool:
        if right.kind is Kind.PARAMETER:
            valid, bound = self._substitute(left, right)
            if valid or bound:
                return valid
        if left.kind is Kind.PARAMETER:
            return self._substitute(right, left)[0]
        if left.kind in _LOOSE or right.kind in _LOOSE:
            return True
        if left.kind is Kind.NULL or right.kind is Kind.NULL:
            return (right if left.kind is Kind.NULL else left).kind in _NULLABLE
        if left.kind is not right.kind:
            return False
        if left.kind is Kind.TYPE:
            return True
        return (
            left.name == right.name
            and len(left.parameters) == len(right.parameters)
            and all(map(self._match, left.parameters, right.parameters))
        )

    def _substitute(self, type_: CelType, variable: CelType) -> tuple[bool, bool]:
        """Whether the variable may stand for the type, and whether it was bound before."""
        if type_ == variable:
            return True, True
        bound = self._bound.get(variable)
        if bound is not None:
            if type_ == bound:
                return True, True
            if not self._match(type_, bound):
                return False, True
            general = _most_general(type_, bound)
            if self._free_of(variable, general):
                self._bind(variable, general)
            return True, True
        if self._free_of(variable, type_):
            self._bind(variable, type_)
            return True, False
        return False, False

    def _free_of(self, variable: CelType, type_: CelType) -> bool:
        if type_ == variable:
            return False
        if type_.kind is Kind.PARAMETER:
            bound = self._bound.get(type_)
            return bound is None or self._free_of(variable, bound)
        return all(self._free_of(variable, p) for p in type_.parameters)


def _with_parameters(type_: CelType, parameters: tuple[CelType, ...]) -> CelType:
    if parameters == type_.parameters:
        return type_
    return CelType(type_.kind, type_.name, parameters, type_.find_field, type_.construct)


def _less_specific(left: CelType, right: CelType) -> bool:
    if left.kind in (Kind.DYN, Kind.PARAMETER):
        return True
    if left.kind is not right.kind:
        return False
    if left.kind is Kind.TYPE:
        return True
    return (
        left.name == right.name
        and len(left.parameters) == len(right.parameters)
        and all(map(_less_specific, left.parameters, right.parameters))
    )


def _most_general(left: CelType, right: CelType) -> CelType:
    return left if _less_specific(left, right) else right


def _unwrap_optional(type_: CelType) -> tuple[CelType, bool]:
    return (type_.parameters[0], True) if type_.is_optional else (type_, False)


def _instantiate(type_: CelType, variables: dict[str, CelType], unifier: Unifier) -> CelType:
    """A type of a signature with its parameters replaced by variables of this one call."""
    if type_.kind is Kind.PARAMETER:
        if type_.name not in variables:
            variables[type_.name] = unifier.variable()
        return variables[type_.name]
    if not type_.parameters:
        return type_
    return _with_parameters(
        type_, tuple(_instantiate(p, variables, unifier) for p in type_.parameters)
    )


class Checker:
    """Checks one tree against the names of an environment."""

    def __init__(
        self,
        issues: Issues,
        idents: Mapping[str, CelType],
        types: Mapping[str, CelType],
        functions: Mapping[str, list[Overload]],
    ) -> None:
        self._issues = issues
        self._idents = idents
        self._types = types
        self._functions = functions
        self._scopes: list[dict[str, CelType]] = []
        self._unifier = Unifier()
        self._checked: dict[int, Expr] = {}

    def check(self, root: Expr) -> None:
        """Annotate the tree. Raises CompileError."""
        self._check(root)
        self._issues.raise_if_any()
        for node in self._checked.values():
            node.type = self._unifier.resolve(node.type, to_dyn=True)

    def _check(self, node: Expr) -> CelType:
        """The type of a node; a node that occurs twice has been checked where it came first."""
        if id(node) not in self._checked:
            self._checked[id(node)] = node
            match node:
                case Literal():
                    node.type = type_of(node.value)
                case Ident():
                    self._check_ident(node)
                case Select():
                    self._check_select(node)
                case Call():
                    self._check_call(node)
                case ListExpr():
                    self._check_list(node)
                case MapExpr(type_name=""):
                    self._check_map(node)
                case MapExpr():
                    self._check_struct(node)
                case Comprehension():
                    self._check_comprehension(node)
        return node.type

    def _fits(self, left: CelType, right: CelType) -> bool:
        return self._unifier.assignable(((left, right),))

    def _lookup(self, name: str) -> tuple[CelType, CelType | None] | None:
        """The type of a name, and the type it names if it is one."""
        if name.startswith("."):
            name = name[1:]
        else:
            for scope in reversed(self._scopes):
                if name in scope:
                    return scope[name], None
        if name in self._idents:
            return self._idents[name], None
        named = self._types.get(name)
        return (t.type_of(named), named) if named is not None else None

    def _undeclared(self, node: Expr, name: str) -> None:
        self._issues.report(node.position, f"undeclared reference to '{name}' (in container '')")

    def _mismatch(self, node: Expr, expected: CelType, found: CelType) -> None:
        self._issues.report(node.position, f"expected type '{expected}' but found '{found}'")

    def _check_ident(self, node: Ident) -> None:
        found = self._lookup(node.name)
        if found is None:
            self._undeclared(node, node.name)
            return
        node.type, named = found
        node.name = node.name.removeprefix(".")
        if named is not None:
            node.constant = named

    def _check_select(self, node: Select) -> None:
        if not node.test_only and (name := qualified_name(node)) and self._lookup(name):
            node.qualified = Ident(node.position, name)
            self._check_ident(node.qualified)
            node.type = node.qualified.type
            return
        result = self._field_type(node, node.operand, node.field, optional=False)
        node.type = t.BOOL if node.test_only else result

    def _field_type(self, node: Expr, operand: Expr, name: str, *, optional: bool) -> CelType:
        type_ = self._unifier.resolve(self._check(operand))
        target, was_optional = _unwrap_optional(type_)
        result = t.DYN
        if target.kind is Kind.MAP:
            result = target.parameters[1]
        elif target.kind is Kind.OBJECT and target.find_field is not None:
            found = target.find_field(name)
            if found is None:
                self._issues.report(node.position, f"undefined field '{name}'")
            result = found or t.ERROR
        elif target.kind is Kind.PARAMETER:
            self._fits(t.DYN, target)
        elif target.kind not in _LOOSE:
            self._issues.report(node.position, f"type '{target}' does not support field selection")
        result = self._unifier.resolve(result)
        return t.optional_of(result) if was_optional or optional else result

    def _check_call(self, node: Call) -> None:
        if node.function == "_?._":
            field = node.args[1]
            assert isinstance(field, Literal)
            self._check(field)
            node.type = self._field_type(node, node.args[0], field.value, optional=True)
            return
        for argument in node.args:
            self._check(argument)
        if node.target is not None:
            prefix = qualified_name(node.target)
            if prefix is not None:
                name = f"{prefix.removeprefix('.')}.{node.function}"
                if name in self._functions:
                    node.function, node.target = name, None
        if node.target is not None:
            self._check(node.target)
        name = node.function.removeprefix(".")
        overloads = self._functions.get(name)
        if overloads is None:
            self._undeclared(node, node.function)
            return
        node.function = name
        self._resolve_overloads(node, overloads)

    def _resolve_overloads(self, node: Call, overloads: list[Overload]) -> None:
        unifier = self._unifier
        arguments = [node.target, *node.args] if node.target is not None else node.args
        types = [argument.type for argument in arguments]
        if node.function in ("_&&_", "_||_"):
            for argument in node.args:
                if not self._fits(argument.type, t.BOOL):
                    self._mismatch(argument, t.BOOL, argument.type)
            node.type, node.overloads = t.BOOL, overloads
            return
        result: CelType | None = None
        for overload in overloads:
            if overload.is_member is not (node.target is not None):
                continue
            if len(overload.parameters) != len(types):
                continue
            variables: dict[str, CelType] = {}
            parameters = [_instantiate(p, variables, unifier) for p in overload.parameters]
            if not unifier.assignable(zip(types, parameters, strict=True)):
                continue
            node.overloads.append(overload)
            own = unifier.resolve(_instantiate(overload.result, variables, unifier))
            if result is None:
                result = own
            elif result.kind is not Kind.DYN and own != result:
                result = t.DYN
        if result is None:
            self._no_overload(node, types)
        else:
            node.type = result

    def _no_overload(self, node: Call, types: list[CelType]) -> None:
        texts = [str(self._unifier.resolve(type_, to_dyn=True)) for type_ in types]
        signature = f"({', '.join(texts)})"
        if node.target is not None:
            signature = f"{texts[0]}.({', '.join(texts[1:])})"
        self._issues.report(
            node.position,
            f"found no matching overload for '{node.function}' applied to '{signature}'",
        )

    def _join(self, node: Expr, before: CelType | None, current: CelType) -> CelType:
        """The type of a literal's elements; mixed ones are dyn, and refused by validation later."""
        if before is None:
            return current
        return _most_general(before, current) if self._fits(before, current) else t.DYN

    def _optional_element(self, node: Expr, optional: bool) -> CelType:
        type_ = self._check(node)
        if optional:
            type_, is_optional = _unwrap_optional(self._unifier.resolve(type_))
            if not is_optional and type_.kind is not Kind.DYN:
                self._mismatch(node, t.optional_of(type_), type_)
        return type_

    def _check_list(self, node: ListExpr) -> None:
        joined: CelType | None = None
        for index, element in enumerate(node.elements):
            type_ = self._optional_element(element, index in node.optional)
            joined = self._join(element, joined, type_)
        node.type = t.list_of(joined or self._unifier.variable())

    def _check_map(self, node: MapExpr) -> None:
        keys: CelType | None = None
        values: CelType | None = None
        for entry in node.entries:
            assert entry.key is not None
            keys = self._join(entry.key, keys, self._check(entry.key))
            type_ = self._optional_element(entry.value, entry.optional)
            values = self._join(entry.value, values, type_)
        node.type = t.map_of(keys or self._unifier.variable(), values or self._unifier.variable())

    def _check_struct(self, node: MapExpr) -> None:
        found = self._lookup(node.type_name)
        if found is None:
            self._undeclared(node, node.type_name)
            return
        found_type, named = found
        if found_type.kind is not Kind.TYPE:
            self._issues.report(node.position, f"'{found_type.name}' is not a type")
        elif named is None or named.kind is not Kind.OBJECT or named.construct is None:
            name = named.name if named is not None else node.type_name
            self._issues.report(node.position, f"'{name}' is not a message type")
        else:
            node.type = named
        for entry in node.entries:
            type_ = self._optional_element(entry.value, entry.optional)
            if node.type.find_field is None:
                continue
            field = node.type.find_field(entry.field)
            if field is None:
                self._issues.report(entry.position, f"undefined field '{entry.field}'")
            elif not self._fits(field, type_):
                self._issues.report(
                    entry.position,
                    f"expected type of field '{entry.field}' is '{field}' "
                    f"but provided type is '{type_}'",
                )

    def _check_comprehension(self, node: Comprehension) -> None:
        self._check(node.range)
        accumulated = self._check(node.init)
        range_type = self._unifier.resolve(node.range.type)
        if range_type.kind is Kind.LIST:
            key, value = t.INT, range_type.parameters[0]
            single = value
        elif range_type.kind is Kind.MAP:
            key, value = range_type.parameters
            single = key
        elif range_type.kind in _LOOSE or range_type.kind is Kind.PARAMETER:
            self._fits(t.DYN, range_type)
            key = value = single = t.DYN
        else:
            self._issues.report(
                node.range.position,
                f"expression of type '{range_type}' cannot be range of a comprehension "
                "(must be list, map, or dynamic)",
            )
            key = value = single = t.ERROR
        if node.variable2:
            names = {node.variable: key, node.variable2: value}
        else:
            names = {node.variable: single}
        self._scopes += [{node.accumulator: accumulated}, names]
        self._assert(node.condition, t.BOOL)
        self._assert(node.step, accumulated)
        self._scopes.pop()
        node.type = self._unifier.resolve(self._check(node.result))
        self._scopes.pop()

    def _assert(self, node: Expr, expected: CelType) -> None:
        found = self._check(node)
        if not self._fits(expected, found):
            self._mismatch(node, expected, found)
