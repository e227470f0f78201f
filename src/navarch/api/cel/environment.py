"""The way into CEL: an environment of names, in which expressions are compiled to programs.

New and stored expressions are compiled in different environments (upstream's environment sets):
what is written today must still run after a rollback by one version, so a library is usable in new
expressions one version after it came, while what is stored already keeps every library there is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

from navarch.api.cel.ast import Call, Expr, Ident, ListExpr, MapExpr, Select, walk
from navarch.api.cel.checker import Checker
from navarch.api.cel.compiler import Compiler
from navarch.api.cel.costs import Estimate
from navarch.api.cel.errors import CostExceeded, EvaluationError
from navarch.api.cel.estimator import Estimator, SizeHint
from navarch.api.cel.functions import Check, Library, Macro, Overload, Version
from navarch.api.cel.parser import MAX_DEPTH, Issues, Parser
from navarch.api.cel.runtime import Frame, LazyValue, Run
from navarch.api.cel.standard import CORE_LIBRARIES
from navarch.api.cel.types import CelType, Kind
from navarch.api.cel.values import MISSING

__all__ = ["PER_CALL_LIMIT", "STORED", "Environment", "LazyValue", "Program", "Result", "SizeHint"]
PER_CALL_LIMIT = 1_000_000
"""The cost at which one evaluation is cancelled, whatever budget is left."""
STORED: Version = (1 << 31, 0)
"""The version of stored expressions: newer than everything."""
MAX_FRAMES = 6000
"""The stages recurse, some Python frames for each of the 250 levels an expression may have, that is
more than Python's own 1000. (Its frames lie on the heap, so this takes no stack.)"""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _deeply(call: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a call recurse deeper than other code, whose limit refuses documents that nest deep."""

    @wraps(call)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        before = sys.getrecursionlimit()
        if before >= MAX_FRAMES:
            return call(*args, **kwargs)
        sys.setrecursionlimit(MAX_FRAMES)
        try:
            return call(*args, **kwargs)
        finally:
            sys.setrecursionlimit(before)

    return run


class Result(NamedTuple):
    """A value and what it cost."""

    value: Any
    cost: int


class Program:
    """A compiled expression: immutable, shareable between threads.

    `source` is its text, `type` its static type, `names` the variables it mentions.
    """

    __slots__ = ("_cost", "_root", "_run", "_slots", "names", "source", "type")

    def __init__(self, source: str, root: Expr) -> None:
        compiler = Compiler()
        self.source = source
        self.type = root.type
        self._root = root
        code = compiler.compile(root)
        self._run: Run = code.run
        self._cost = code.cost
        self._slots = compiler.slots
        self.names = frozenset(compiler.names)

    @_deeply
    def evaluate(self, variables: Mapping[str, Any], budget: int = PER_CALL_LIMIT) -> Result:
        """Run it. Raises EvaluationError (with attribute `cost`) or CostExceeded.

        The limit is the smaller one of `budget` and PER_CALL_LIMIT. A variable's value may be a
        `LazyValue`, computed and charged when it is first touched.
        """
        frame = Frame(variables, min(budget, PER_CALL_LIMIT), self._cost, self._slots)
        try:
            value = self._run(frame)
        except EvaluationError as error:
            error.cost = frame.cost
            raise
        except CostExceeded as error:
            error.cost = frame.cost
            raise
        except RecursionError:
            failure = EvaluationError(f"expression recursion limit exceeded: {MAX_DEPTH}")
            failure.cost = frame.cost
            raise failure from None
        if frame.cost > frame.limit:
            raise CostExceeded(frame.cost)
        return Result(value, frame.cost)

    @_deeply
    def estimate(self, size_hint: SizeHint | None = None) -> Estimate:
        """The range of costs over all inputs the declarations allow."""
        return Estimator(size_hint).cost(self._root)


class _FoundTypes(dict[str, CelType]):
    """Types by name, some of which are made when they are asked for."""

    def __init__(self, known: dict[str, CelType], find: Callable[[str], CelType | None]) -> None:
        super().__init__(known)
        self._find = find

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default) or self._find(name)


class Environment:
    """Names and their types, functions and macros. Making one is dear, extending one is cheap."""

    def __init__(
        self,
        version: Version = STORED,
        *,
        variables: Mapping[str, CelType] | None = None,
        types: Iterable[CelType] = (),
        libraries: Iterable[Library] = (),
    ) -> None:
        self.version = version
        self._idents: dict[str, CelType] = {}
        self._types: dict[str, CelType] = {}
        self._functions: dict[str, list[Overload]] = {}
        self._macros: dict[tuple[str, int, bool], Macro] = {}
        self._checks: dict[str, Check] = {}
        self._mixed: frozenset[str] = frozenset()
        self._constants: dict[str, Any] = {}
        self._find_type: Callable[[str], CelType | None] | None = None
        self._add(variables, types, (*CORE_LIBRARIES, *libraries))

    def extend(
        self,
        *,
        variables: Mapping[str, CelType] | None = None,
        types: Iterable[CelType] = (),
        libraries: Iterable[Library] = (),
        find_type: Callable[[str], CelType | None] | None = None,
    ) -> Environment:
        """A new environment with more names. `find_type` knows types that cannot be listed."""
        copy = object.__new__(Environment)
        copy._find_type = find_type or self._find_type
        copy.version = self.version
        copy._idents = dict(self._idents)
        copy._types = dict(self._types)
        copy._functions = dict(self._functions)
        copy._macros = dict(self._macros)
        copy._checks = dict(self._checks)
        copy._mixed = self._mixed
        copy._constants = dict(self._constants)
        copy._add(variables, types, libraries)
        return copy

    def _add(
        self,
        variables: Mapping[str, CelType] | None,
        types: Iterable[CelType],
        libraries: Iterable[Library],
    ) -> None:
        self._idents |= variables or {}
        self._types |= {type_.name: type_ for type_ in types}
        for library in libraries:
            if self.version < library.since or (
                library.removed is not None and self.version >= library.removed
            ):
                continue
            self._types |= {type_.name: type_ for type_ in library.types}
            self._macros |= {(m.name, m.arguments, m.is_member): m for m in library.macros}
            self._checks |= library.literal_checks or {}
            self._mixed |= library.mixed_literals
            for name, (type_, value) in (library.constants or {}).items():
                self._idents[name] = type_
                self._constants[name] = value
            for function in library.functions:
                known = self._functions.get(function.name, [])
                ids = {overload.id for overload in function.overloads}
                # A later version of a library replaces the overloads it declares again.
                kept = [overload for overload in known if overload.id not in ids]
                self._functions[function.name] = [*kept, *function.overloads]

    @_deeply
    def compile(self, text: str, results: Sequence[CelType] = ()) -> Program:
        """Parse, check and compile. Raises CompileError or ProgramError.

        The result type is the caller's to judge (`Program.type`), as its message differs by place;
        with `results` a mismatch is the issue `must evaluate to A or B`.
        """
        try:
            return self._compile(text, results)
        except RecursionError:
            issues = Issues(text)
            issues.report(-1, f"expression recursion limit exceeded: {MAX_DEPTH}")
            issues.raise_if_any()
            raise

    def _compile(self, text: str, results: Sequence[CelType]) -> Program:
        optionals = ("optMap", 2, True) in self._macros
        parser = Parser(text, self._macros, optionals=optionals)
        root = parser.parse()
        issues = parser.issues
        types = self._types
        if self._find_type is not None:
            types = _FoundTypes(types, self._find_type)
        Checker(issues, self._idents, types, self._functions).check(root)
        self._check_literals(root, issues)
        if results and root.type not in results:
            wanted = " or ".join(map(str, results))
            issues.report(root.position, f"must evaluate to {wanted}")
        issues.raise_if_any()
        if self._constants:
            _fix_constants(root, self._constants)
        return Program(text, root)

    def _check_literals(self, root: Expr, issues: Issues) -> None:
        """What types cannot say: literal patterns, times and durations, and unmixed aggregates."""
        exempt: set[int] = set()
        for node in walk(root):
            if isinstance(node, Call):
                if node.function in self._mixed:
                    for argument in node.args:
                        exempt.update(map(id, walk(argument)))
                check = self._checks.get(node.function)
                if check is not None and (found := check(node)) is not None:
                    issues.report(found[0].position, found[1])
        for node in walk(root):
            if id(node) in exempt:
                continue
            if isinstance(node, ListExpr):
                items = [(e, i in node.optional) for i, e in enumerate(node.elements)]
                _require_same(items, issues, first_only=True)
            elif isinstance(node, MapExpr) and not node.type_name:
                keys = [(e.key, False) for e in node.entries if e.key is not None]
                _require_same(keys, issues)
                _require_same([(e.value, e.optional) for e in node.entries], issues)


def _require_same(
    items: Sequence[tuple[Expr, bool]], issues: Issues, *, first_only: bool = False
) -> None:
    """Report elements whose type is not the first one's; dyn counts as a type of its own."""
    expected: CelType | None = None
    for node, optional in items:
        type_ = node.type.parameters[0] if optional and node.type.is_optional else node.type
        if expected is None:
            expected = type_
        elif not _equivalent(expected, type_):
            message = f"expected type '{expected}' but found '{type_}'"
            issues.report(node.position, message)
            if first_only:
                return


def _equivalent(left: CelType, right: CelType) -> bool:
    if left.kind is Kind.PARAMETER or right.kind is Kind.PARAMETER:
        return left.kind is right.kind
    return (
        left.name == right.name
        and len(left.parameters) == len(right.parameters)
        and all(map(_equivalent, left.parameters, right.parameters))
    )


def _fix_constants(root: Expr, constants: Mapping[str, Any]) -> None:
    """Write the values of an environment's constants into the names that mean them."""
    for node in walk(root):
        ident = node.qualified if isinstance(node, Select) else node
        if isinstance(ident, Ident) and ident.constant is MISSING and ident.name in constants:
            ident.constant = constants[ident.name]
