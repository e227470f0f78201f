"""From a checked tree to closures: one Python function for each node, called with a frame.

Costs that are certain once a node runs are summed up when compiling and charged by whoever decides
that it runs: the program, a branch, an iteration of a loop. Only costs that depend on sizes are
computed while running. The limit is looked at wherever work can multiply: in every iteration,
binding and sized operation; all else is bounded by the length of the text.

Upstream charges a step when the node is left and we when it is entered, so both agree on every
evaluation that ends without an error. Names used as a branch or an index are free, as upstream
resolves those without observing them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from navarch.api.cel import operators as ops
from navarch.api.cel import runtime
from navarch.api.cel.ast import Call, Comprehension, Expr, Ident, ListExpr, Literal, MapExpr, Select
from navarch.api.cel.costs import LIST_CREATE, MAP_CREATE, STRUCT_CREATE
from navarch.api.cel.errors import EvaluationError, ProgramError
from navarch.api.cel.runtime import Code, Frame, LazyValue, Run, constant
from navarch.api.cel.types import Kind
from navarch.api.cel.values import INT_MAX, MISSING, Optional, UInt
from navarch.api.regex import PatternError, compiled

_SCALAR = frozenset(
    (Kind.INT, Kind.UINT, Kind.DOUBLE, Kind.BOOL, Kind.NULL, Kind.TIMESTAMP, Kind.DURATION)
)
_OPERATORS: dict[str, Callable[..., Any]] = {
    "_+_": ops.add,
    "_-_": ops.subtract,
    "_*_": ops.multiply,
    "_/_": ops.divide,
    "_%_": ops.modulo,
    "_<_": ops.less,
    "_<=_": ops.less_equals,
    "_>_": ops.greater,
    "_>=_": ops.greater_equals,
    "@in": ops.contained,
    "!_": ops.logical_not,
    "-_": ops.negate,
}
_CONVERSIONS = frozenset(
    ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"]
)
_JOINS = frozenset(("add_list", "add_string", "add_bytes"))
_CERTAIN_COST_ONLY = frozenset(("bytes", "string"))
"""Standard functions that upstream charges 1 unless the checker found exactly one overload."""
_PATTERN_FUNCTIONS = frozenset(("matches", "find", "findAll"))


class _Local(NamedTuple):
    """A variable of a macro and how it is read."""

    name: str
    code: Code


class Compiler:
    """Compiles one tree. `slots` is how many local variables its frames need."""

    def __init__(self) -> None:
        self.slots = 0
        self.names: set[str] = set()
        self._locals: list[_Local] = []
        self._shared: dict[tuple[int, int], Code] = {}

    def compile(self, node: Expr) -> Code:
        """The code of a node. Nodes that occur twice in one scope are compiled once."""
        key = (id(node), len(self._locals))
        if key not in self._shared:
            self._shared[key] = self._compile(node)
        return self._shared[key]

    def _compile(self, node: Expr) -> Code:
        match node:
            case Literal():
                return constant(node.value)
            case Ident() | Select():
                return self._attribute(node)
            case ListExpr():
                return self._list(node)
            case MapExpr():
                return self._map(node)
            case Call():
                return self._call(node)
            case Comprehension():
                return self._comprehension(node)
        raise AssertionError(type(node))

    # Names, selections, indexes: "attributes" in upstream's words.

    def _ident(self, node: Ident) -> Code:
        if node.constant is not MISSING:
            return constant(node.constant)
        name = node.name
        for local in reversed(self._locals):
            if local.name == name:
                return local.code
        self.names.add(name)

        def run(frame: Frame) -> Any:
            try:
                value = frame.variables[name]
            except KeyError:
                raise EvaluationError(f"no such attribute(s): {name}") from None
            return value.resolve(frame) if type(value) is LazyValue else value

        return Code(run, 1)

    def _attribute(self, node: Expr) -> Code:
        """A chain of selections, run by one function."""
        steps: list[tuple[Any, bool]] = []  # (constant key or code, whether optional)
        cost = 0
        test_only = isinstance(node, Select) and node.test_only
        while True:
            if isinstance(node, Select) and node.qualified is None:
                steps.append((node.field, False))
                node = node.operand
            elif isinstance(node, Call) and node.function in ("_[_]", "_[?_]", "_?._"):
                index = self._unobserved(node.args[1])
                key = index if index.constant is MISSING else index.constant
                steps.append((key, node.function != "_[_]"))
                cost += index.cost
                node = node.args[0]
            else:
                break
        if isinstance(node, Select) and node.qualified is not None:
            node = node.qualified
        base = self._ident(node) if isinstance(node, Ident) else self.compile(node)
        if not steps:
            return base
        is_name = isinstance(node, Ident) and base.constant is MISSING
        cost += base.cost + (0 if is_name or self._is_attribute(node) else 1)
        steps.reverse()
        if test_only:
            return self._test(base.run, steps, cost)
        keys = [key for key, optional in steps]
        if all(isinstance(key, str) for key in keys) and not any(o for _, o in steps):
            return Code(runtime.select(base.run, tuple(keys)), cost + len(steps))
        return Code(runtime.walk(base.run, tuple(steps)), cost)

    @staticmethod
    def _is_attribute(node: Expr) -> bool:
        return isinstance(node, Call) and node.function == "_?_:_"

    def _unobserved(self, node: Expr) -> Code:
        """The code of a branch or index, which is not charged for its name itself."""
        code = self.compile(node)
        chained = isinstance(node, Call) and node.function in ("_[_]", "_[?_]", "_?._")
        if isinstance(node, (Ident, Select)) or chained:
            tested = isinstance(node, Select) and node.test_only
            return replace(code, cost=max(code.cost - (0 if tested else 1), 0))
        return code

    def _test(self, base: Run, steps: list[tuple[Any, bool]], cost: int) -> Code:
        """`has()`: costs what the operand costs; only the last step may be missing."""
        *path, (field, _) = steps
        operand = runtime.walk(base, tuple(path)) if path else base

        def run(frame: Frame) -> bool:
            value = operand(frame)
            if type(value) is Optional:
                value = value.value
            return value is not MISSING and ops.lookup(value, field) is not MISSING

        return Code(run, cost)

    # Literals.

    def _list(self, node: ListExpr) -> Code:
        codes = [self.compile(element) for element in node.elements]
        if not node.optional and all(code.constant is not MISSING for code in codes):
            return constant([code.constant for code in codes])
        runs = [code.run for code in codes]
        cost = sum(code.cost for code in codes) + LIST_CREATE
        if not node.optional:
            return Code(lambda frame: [run(frame) for run in runs], cost)
        pairs = [(run, index in node.optional) for index, run in enumerate(runs)]

        def run_optional(frame: Frame) -> list[Any]:
            elements = []
            for run, optional in pairs:
                value = run(frame)
                if optional:
                    if type(value) is not Optional:
                        raise EvaluationError(
                            "cannot initialize optional list element from non-optional value "
                            f"{value}"
                        )
                    if not value.present:
                        continue
                    value = value.value
                elements.append(value)
            return elements

        return Code(run_optional, cost)

    def _map(self, node: MapExpr) -> Code:
        parts: list[tuple[Code, Code, bool]] = []
        for entry in node.entries:
            key = self.compile(entry.key) if entry.key is not None else constant(entry.field)
            parts.append((key, self.compile(entry.value), entry.optional))
        cost = sum(key.cost + value.cost for key, value, _ in parts)
        runs = [(key.run, value.run, optional) for key, value, optional in parts]

        def run(frame: Frame) -> dict[Any, Any]:
            entries: dict[Any, Any] = {}
            for key_run, value_run, optional in runs:
                key = key_run(frame)
                value = value_run(frame)
                if optional:
                    if type(value) is not Optional:
                        raise EvaluationError(
                            f"cannot initialize optional entry '{ops.key_text(key)}' from "
                            f"non-optional value {value}"
                        )
                    if not value.present:
                        entries.pop(key, None)
                        continue
                    value = value.value
                if type(key) not in runtime.KEYS:
                    raise EvaluationError(f"unsupported key type: {runtime.describe(key)}")
                entries[key] = value
            return entries

        if node.type_name:
            construct = node.type.construct
            assert construct is not None
            return Code(lambda frame: construct(run(frame)), cost + STRUCT_CREATE)
        constants = all(
            k.constant is not MISSING and v.constant is not MISSING for k, v, _ in parts
        )
        if constants and not any(entry.optional for entry in node.entries):
            return constant(run(Frame({}, 0, 0, 0)))
        return Code(run, cost + MAP_CREATE)

    # Calls.

    def _call(self, node: Call) -> Code:
        name = node.function
        match name:
            case "_[_]" | "_[?_]" | "_?._":
                return self._attribute(node)
            case "_&&_":
                return self._logical(node, deciding=False)
            case "_||_":
                return self._logical(node, deciding=True)
            case "_?_:_":
                return self._conditional(node)
            case "or" | "orValue" if node.overloads[0].id.startswith("optional_or"):
                return self._optional_or(node)
        operands = [node.target, *node.args] if node.target is not None else node.args
        codes = [self.compile(operand) for operand in operands]
        cost = sum(code.cost for code in codes)
        if name in ("_==_", "_!=_"):
            return self._equality(node, codes, cost)
        if name == "@in":
            folded = self._constant_membership(node, codes)
            if folded is not None:
                return folded
        if name in _PATTERN_FUNCTIONS:
            self._check_pattern(codes[1].constant)
        code = self._charged_call(node, codes, cost)
        if name in _CONVERSIONS and len(codes) == 1 and codes[0].constant is not MISSING:
            try:
                return constant(code.run(Frame({}, INT_MAX, 0, 0)))
            except EvaluationError as error:
                raise ProgramError(str(error)) from None
        return code

    @staticmethod
    def _check_pattern(pattern: Any) -> None:
        if isinstance(pattern, str):
            try:
                compiled(pattern)
            except PatternError as error:
                raise ProgramError(str(error)) from None

    def _charged_call(self, node: Call, codes: list[Code], cost: int) -> Code:
        name = node.function
        runs = [code.run for code in codes]
        certain = len(node.overloads) == 1
        operator = _OPERATORS.get(name)
        if operator is not None:
            charge = node.overloads[0].cost if certain else None
            if charge is not None:
                return Code(runtime.sized(operator, charge, runs), cost)
            if len(runs) == 1:
                only = runs[0]
                return Code(lambda frame: operator(only(frame)), cost + 1)
            if any(overload.id in _JOINS for overload in node.overloads):
                return Code(runtime.join(runs[0], runs[1]), cost + 1)
            run = runtime.binary_run(name, operator, runs[0], runs[1], codes[1].constant)
            return Code(run, cost + 1)
        unpriced = not certain and name in _CERTAIN_COST_ONLY
        costs = [None if unpriced else overload.cost for overload in node.overloads]
        if all(charge is None for charge in costs):
            return Code(runtime.dispatch(name, node.overloads, runs), cost + 1)
        return Code(runtime.charging_dispatch(name, node.overloads, costs, runs), cost)

    def _logical(self, node: Call, deciding: bool) -> Code:
        codes = [self.compile(argument) for argument in node.args]
        first, *others = [code.run for code in codes]
        later = [code.cost for code in codes[1:]]
        if len(others) == 1:
            return Code(runtime.logical_two(first, others[0], later[0], deciding), codes[0].cost)
        terms = list(zip([first, *others], [0, *later], strict=True))
        return Code(runtime.logical_many(terms, deciding), codes[0].cost)

    def _conditional(self, node: Call) -> Code:
        condition = self.compile(node.args[0])
        then, otherwise = map(self._unobserved, node.args[1:])
        return Code(runtime.conditional(condition.run, then, otherwise), condition.cost)

    def _optional_or(self, node: Call) -> Code:
        assert node.target is not None
        left, right = self.compile(node.target), self.compile(node.args[0])
        unwrap = node.function == "orValue"
        return Code(runtime.optional_or(left.run, right, unwrap), left.cost)

    def _equality(self, node: Call, codes: list[Code], cost: int) -> Code:
        wanted = node.function == "_==_"
        if all(argument.type.kind in _SCALAR for argument in node.args):
            return Code(runtime.scalar_equality(codes[0].run, codes[1].run, wanted), cost + 1)
        return Code(runtime.equality(codes[0].run, codes[1].run, wanted), cost)

    def _constant_membership(self, node: Call, codes: list[Code]) -> Code | None:
        """`x in [constants]` becomes a look-up in a set that costs what x costs."""
        elements = codes[1].constant
        if elements is MISSING or [o.id for o in node.overloads] != ["in_list"]:
            return None
        if not elements:
            return constant(False)
        if not {type(element) for element in elements} <= {bool, int, UInt, float, str}:
            return None
        return Code(runtime.membership(codes[0].run, elements), codes[0].cost)

    # Folds.

    def _slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    def _variable(self, name: str) -> int:
        """A new local variable; reading it costs 1."""
        slot = self._slot()
        self._locals.append(_Local(name, Code(lambda frame: frame.slots[slot], 1)))
        return slot

    def _comprehension(self, node: Comprehension) -> Code:
        if node.is_binding:
            return self._binding(node)
        source = self.compile(node.range)
        depth = len(self._locals)
        key_slot = self._variable(node.variable)
        value_slot = self._variable(node.variable2) if node.variable2 else -1
        iterate = runtime.Iteration(source.run, key_slot, value_slot)
        step = node.step
        match node.init:
            case Literal(value=bool()):
                assert isinstance(step, Call)
                # Each element is charged for the loop's condition (2, with a negation 3), for
                # reading the accumulator, and for the predicate.
                deciding = step.function == "_||_"
                overhead = 3 if deciding else 2
                predicate = self.compile(step.args[1])
                run = runtime.quantifier(iterate, predicate, overhead, deciding)
                cost = source.cost + 1
            case Literal():
                assert isinstance(step, Call)
                predicate = self.compile(step.args[0])
                run, cost = runtime.exactly_one(iterate, predicate), source.cost + 2
            case _:
                run, cost = self._collector(iterate, node, step), source.cost + 1
        del self._locals[depth:]
        return Code(run, cost)

    def _collector(self, iterate: runtime.Iteration, node: Comprehension, step: Expr) -> Run:
        """Folds that build a list or a map, possibly under a filter."""
        predicate: Code | None = None
        assert isinstance(step, Call)
        if step.function == "_?_:_":
            predicate = self.compile(step.args[0])
            step = step.args[1]
            assert isinstance(step, Call)
        if isinstance(node.init, ListExpr):
            literal = step.args[1]
            assert isinstance(literal, ListExpr)
            element = self.compile(literal.elements[0])
            own = 0 if element.constant is not MISSING else LIST_CREATE
            return runtime.build_list(iterate, predicate, element.run, element.cost + own + 2)
        parts = [self.compile(argument) for argument in step.args[1:]]
        cost = sum(part.cost for part in parts) + 2
        return runtime.build_map(iterate, predicate, [part.run for part in parts], cost)

    def _binding(self, node: Comprehension) -> Code:
        """A name for a value that is computed and charged when first read."""
        value = self.compile(node.init)
        slot, value_run, value_cost = self._slot(), value.run, value.cost

        def read(frame: Frame) -> Any:
            found = frame.slots[slot]
            if found is MISSING:
                frame.charge(value_cost)
                found = frame.slots[slot] = value_run(frame)
            return found

        self._locals.append(_Local(node.accumulator, Code(read, 1)))
        result = self.compile(node.result)
        self._locals.pop()
        result_run = result.run

        def run(frame: Frame) -> Any:
            frame.slots[slot] = MISSING
            return result_run(frame)

        return Code(run, result.cost)
