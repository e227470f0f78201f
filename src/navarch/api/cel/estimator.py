"""The static estimate: the range an expression may cost, before it has ever run.

Rules of custom resources are refused when their worst case is too dear, so this number is API
behaviour: it follows upstream's estimator step by step, also where that is coarse. Sizes come from
literals, from what functions say about their results, and from a hint that knows the declared
limits of a schema by path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from navarch.api.cel.ast import Call, Comprehension, Expr, Ident, ListExpr, Literal, MapExpr, Select
from navarch.api.cel.costs import (
    LIST_CREATE,
    MAP_CREATE,
    ONE,
    STRUCT_CREATE,
    UNBOUNDED,
    UNKNOWN,
    ZERO,
    CallEstimate,
    Estimate,
    fixed,
)
from navarch.api.cel.functions import Overload
from navarch.api.cel.types import CelType, Kind
from navarch.api.cel.values import MISSING

Path = tuple[str, ...]
SizeHint = Callable[[Path, CelType], Estimate | None]
_NOTHING_YET = Estimate(UNBOUNDED, 0)
_SINGLE = frozenset((Kind.BOOL, Kind.INT, Kind.UINT, Kind.DOUBLE, Kind.DURATION, Kind.TIMESTAMP))


def _is_single(type_: CelType) -> bool:
    """Whether all values of a type have size 1."""
    if type_.is_optional:
        return _is_single(type_.parameters[0])
    return type_.kind in _SINGLE


@dataclass(frozen=True, slots=True)
class _Entries:
    """The sizes of the keys and values of a list or map."""

    is_list: bool
    key: Estimate
    value: Estimate

    def union(self, other: _Entries) -> _Entries:
        return _Entries(self.is_list, self.key.union(other.key), self.value.union(other.value))


@dataclass(frozen=True, slots=True)
class _Local:
    """What is known of a local variable."""

    path: Path
    size: Estimate | None = None
    entries: _Entries | None = None


@dataclass(frozen=True, slots=True)
class _Node:
    """An argument as estimators of functions see it (`functions.CostNode`)."""

    type: CelType
    path: Path
    hint: SizeHint | None
    known_size: Estimate | None = None
    literal: Any = MISSING

    @property
    def size(self) -> Estimate:
        size = self.known_size
        if size is None and self.hint is not None and self.path:
            size = self.hint(self.path, self.type)
        return UNKNOWN if size is None else size

    def element(self) -> _Node | None:
        if not self.type.parameters:
            return None
        path = (*self.path, "@items") if self.path else ()
        return _Node(self.type.parameters[0], path, self.hint)


@dataclass(slots=True)
class Estimator:
    """Estimates one checked tree."""

    hint: SizeHint | None = None
    _locals: dict[str, list[_Local]] = field(default_factory=dict)
    _paths: dict[int, Path] = field(default_factory=dict)
    _sizes: dict[int, Estimate] = field(default_factory=dict)
    _entries: dict[int, _Entries] = field(default_factory=dict)
    _costs: dict[int, Estimate] = field(default_factory=dict)

    def cost(self, node: Expr) -> Estimate:
        """The cost of a node. Nodes that occur twice cost twice but are looked at once."""
        known = self._costs.get(id(node))
        if known is None:
            known = self._costs[id(node)] = self._cost(node)
        return known

    def _cost(self, node: Expr) -> Estimate:
        match node:
            case Ident():
                local = self._local(node.name)
                self._paths[id(node)] = local.path if local else (node.name,)
                return ONE
            case Select():
                return self._select(node)
            case Call():
                return self._call(node)
            case ListExpr():
                return self._list(node)
            case MapExpr():
                return self._map(node)
            case Comprehension():
                return self._binding(node) if node.is_binding else self._fold(node)
        return ZERO

    def _local(self, name: str) -> _Local | None:
        stack = self._locals.get(name)
        return stack[-1] if stack else None

    def _push(self, name: str, local: _Local) -> None:
        self._locals.setdefault(name, []).append(local)

    def _path(self, node: Expr) -> Path:
        if isinstance(node, Ident) and (local := self._local(node.name)) is not None:
            return local.path
        return self._paths.get(id(node), ())

    def _size(self, node: Expr) -> Estimate | None:
        """How large the value may be, if anything is known."""
        if (known := self._sizes.get(id(node))) is not None:
            return known
        match node:
            case Literal():
                value = node.value
                return fixed(len(value) if isinstance(value, (str, bytes)) else 1)
            case ListExpr():
                return fixed(len(node.elements))
            case MapExpr(type_name=""):
                return fixed(len(node.entries))
        if self.hint is not None and (path := self._path(node)):
            hinted = self.hint(path, node.type)
            if hinted is not None:
                self._sizes[id(node)] = hinted
                return hinted
        if _is_single(node.type):
            return ONE
        local = self._local(node.name) if isinstance(node, Ident) else None
        return local.size if local else None

    def _size_or_unknown(self, node: Expr) -> Estimate:
        size = self._size(node)
        return UNKNOWN if size is None else size

    def _entry_sizes(self, node: Expr) -> _Entries | None:
        found = self._entries.get(id(node))
        if found is None and isinstance(node, Ident) and (local := self._local(node.name)):
            return local.entries
        return found

    def _node(self, node: Expr) -> _Node:
        path = self._path(node)
        if path and path[0] == "@result":
            path = ()
        literal = node.value if isinstance(node, Literal) else MISSING
        return _Node(node.type, path, self.hint, self._size(node), literal)

    def _select(self, node: Select) -> Estimate:
        if node.qualified is not None:
            self._paths[id(node)] = (node.qualified.name,)
            return ONE
        total = self.cost(node.operand)
        if node.test_only:
            return total
        if node.operand.type.kind in (Kind.MAP, Kind.OBJECT, Kind.PARAMETER):
            total = total.plus(ONE)
        self._paths[id(node)] = (*self._path(node.operand), node.field)
        return total

    def _list(self, node: ListExpr) -> Estimate:
        total, size = fixed(LIST_CREATE), _NOTHING_YET if node.elements else ZERO
        for element in node.elements:
            total = total.plus(self.cost(element))
            size = size.union(self._size_or_unknown(element))
        self._entries[id(node)] = _Entries(True, ONE, size)
        return total

    def _map(self, node: MapExpr) -> Estimate:
        if node.type_name:
            total = fixed(STRUCT_CREATE)
            for entry in node.entries:
                total = total.plus(self.cost(entry.value))
            return total
        total = fixed(MAP_CREATE)
        key_size = value_size = _NOTHING_YET if node.entries else ZERO
        for entry in node.entries:
            assert entry.key is not None
            total = total.plus(self.cost(entry.key)).plus(self.cost(entry.value))
            key_size = key_size.union(self._size_or_unknown(entry.key))
            value_size = value_size.union(self._size_or_unknown(entry.value))
        self._entries[id(node)] = _Entries(False, key_size, value_size)
        return total

    def _call(self, node: Call) -> Estimate:
        if node.function == "_?._":
            return self._optional_select(node)
        if node.function == "dyn":
            cost = self.cost(node.args[0]).plus(ONE)
            self._copy_sizes(node, node.args[0])
            return cost
        arguments = [node.target, *node.args] if node.target is not None else node.args
        costs = [self.cost(argument) for argument in arguments]
        if node.function in ("_&&_", "_||_"):
            total = costs[0]
            for cost in costs[1:]:
                total = Estimate(total.min, total.plus(cost).max)
            return total
        if node.function == "_?_:_":
            return self._conditional(node, costs)
        total = ZERO
        for cost in costs:
            total = total.plus(cost)
        nodes = [self._node(argument) for argument in arguments]
        own: Estimate | None = None
        result: Estimate | None = None
        for overload in node.overloads:
            estimate = self._overload(node, overload, nodes)
            own = estimate.cost if own is None else own.union(estimate.cost)
            if estimate.result_size is not None:
                size = estimate.result_size
                result = size if result is None else result.union(size)
            if overload.id in ("index_list", "index_map"):
                entries = self._entry_sizes(node.args[0])
                result = entries.value if entries else None
                step = "@items" if overload.id == "index_list" else "@values"
                self._paths[id(node)] = (*self._path(node.args[0]), step)
            if result is None:
                result = self._size(node)
        if result is not None:
            self._sizes[id(node)] = result
        return total.plus(own or ZERO)

    def _optional_select(self, node: Call) -> Estimate:
        return self.cost(node.args[0]).plus(ONE)

    def _overload(self, node: Call, overload: Overload, nodes: list[_Node]) -> CallEstimate:
        if overload.id in ("add_string", "add_bytes", "add_list"):
            left, right = map(self._entry_sizes, node.args)
            if left is not None and right is not None:
                self._entries[id(node)] = left.union(right)
        if overload.estimate is None:
            return CallEstimate(ONE)
        return overload.estimate(nodes)

    def _conditional(self, node: Call, costs: list[Estimate]) -> Estimate:
        _, then, otherwise = node.args
        size = self._size_or_unknown(then).union(self._size_or_unknown(otherwise))
        self._sizes[id(node)] = size
        left, right = self._entry_sizes(then), self._entry_sizes(otherwise)
        if left is not None and right is not None:
            self._entries[id(node)] = left.union(right)
        return costs[0].plus(costs[1].union(costs[2]))

    def _copy_sizes(self, target: Expr, source: Expr) -> None:
        size, entries = self._size(source), self._entry_sizes(source)
        if size is not None:
            self._sizes[id(target)] = size
        if entries is not None:
            self._entries[id(target)] = entries

    def _fold(self, node: Comprehension) -> Estimate:
        total = self.cost(node.range).plus(self.cost(node.init))
        path = self._path(node.init)
        accumulated = _Local(path, self._size(node.init), self._entry_sizes(node.init))
        self._push(node.accumulator, accumulated)
        entries, path = self._entry_sizes(node.range), self._path(node.range)
        is_list = entries.is_list if entries else node.range.type.kind is Kind.LIST
        key_size, value_size = (entries.key, entries.value) if entries else (None, None)
        key = _Local((*path, "@indices" if is_list else "@keys"), key_size)
        value = _Local((*path, "@items" if is_list else "@values"), value_size)
        if node.variable2:
            self._push(node.variable, key)
            self._push(node.variable2, value)
        else:
            self._push(node.variable, value if is_list else key)
        iteration = self.cost(node.condition).plus(self.cost(node.step))
        self._locals[node.variable].pop()
        if node.variable2:
            self._locals[node.variable2].pop()
        total = total.plus(self.cost(node.result))
        self._locals[node.accumulator].pop()
        count = self._size_or_unknown(node.range)
        total = total.plus(count.times(iteration))
        if isinstance(node.init, Literal):
            self._sizes[id(node)] = ONE
        else:
            self._sizes[id(node)] = count
            if (grown := self._entry_sizes(node.step)) is not None:
                self._entries[id(node)] = grown
        return total

    def _binding(self, node: Comprehension) -> Estimate:
        total = self.cost(node.range).plus(self.cost(node.init))
        init = node.init
        local = _Local(self._path(init), self._size(init), self._entry_sizes(init))
        self._push(node.accumulator, local)
        total = total.plus(self.cost(node.result))
        self._locals[node.accumulator].pop()
        self._copy_sizes(node, node.result)
        return total
