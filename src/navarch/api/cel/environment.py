"""The way into CEL: an environment of names, in which expressions are compiled to programs.

New and stored expressions are compiled in different environments (upstream's environment sets):
what is written today must still run after a rollback by one version, so a library is usable in new
expressions one version after it came, while what is stored already keeps every library there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from navarch.api.cel.costs import Estimate
from navarch.api.cel.functions import Library, Version
from navarch.api.cel.types import CelType

PER_CALL_LIMIT = 1_000_000
"""The cost at which one evaluation is cancelled, whatever budget is left."""
STORED: Version = (1 << 31, 0)
"""The version of stored expressions: newer than everything."""

SizeHint = Callable[[tuple[str, ...], CelType], Estimate | None]
"""How large the value at a path may be, by its schema. A path starts with a variable, then come
field names, `@items` (of a list), `@keys` and `@values` (of a map)."""


@dataclass(frozen=True, slots=True)
class Result:
    """A value and what it cost."""

    value: Any
    cost: int


class Program:
    """A compiled expression: immutable, shareable between threads.

    `source` is its text, `type` its static type, `names` the variables it mentions.
    """

    source: str
    type: CelType
    names: frozenset[str]

    def evaluate(self, variables: Mapping[str, Any], budget: int = PER_CALL_LIMIT) -> Result:
        """Run it. Raises EvaluationError (with attribute `cost`) or CostExceeded.

        The limit is the smaller one of `budget` and PER_CALL_LIMIT. A variable's value may be a
        `LazyValue`, computed and charged when it is first touched.
        """
        raise NotImplementedError

    def estimate(self, size_hint: SizeHint | None = None) -> Estimate:
        """The range of costs over all inputs the declarations allow."""
        raise NotImplementedError


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
        raise NotImplementedError

    def extend(
        self,
        *,
        variables: Mapping[str, CelType] | None = None,
        types: Iterable[CelType] = (),
        libraries: Iterable[Library] = (),
    ) -> Environment:
        """A new environment with more names."""
        raise NotImplementedError

    def compile(self, text: str, results: Sequence[CelType] = ()) -> Program:
        """Parse, check and compile. Raises CompileError.

        The result type is the caller's to judge (`Program.type`), as its message differs by place;
        with `results` a mismatch is the issue `must evaluate to A or B`.
        """
        raise NotImplementedError
