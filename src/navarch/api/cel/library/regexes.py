"""`find` and `findAll`: Kubernetes' regular expressions. Their cost is that of `matches`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from navarch.api import regex
from navarch.api.cel.costs import REGEX, TRAVERSAL, CallEstimate, Estimate, fixed, scaled
from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import CostNode, Library, member, method, overload
from navarch.api.cel.types import INT, STRING, list_of


def _guarded(run: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        text, pattern, *limit = arguments
        try:
            return run(pattern, text, *limit)
        except regex.PatternError as error:
            raise EvaluationError(f"Illegal regex: {error}") from None

    return call


def _cost(arguments: Sequence[Any], result: Any) -> int:
    """One more than the length of the text: an empty text costs as well. Patterns are guessed to
    have an expression every four characters."""
    text = scaled(len(arguments[0]) + 1, TRAVERSAL)
    return text * scaled(len(arguments[1]), REGEX)


def _estimate(nodes: Sequence[CostNode]) -> CallEstimate:
    text = nodes[0].size.plus(fixed(1)).scaled(TRAVERSAL)
    cost = text.times(nodes[1].size.scaled(REGEX))
    return CallEstimate(cost, Estimate(0, nodes[0].size.max))


_COSTS = (_cost, _estimate)
_FIND_ALL = _guarded(regex.find_all)

REGEXES = Library(
    name="kubernetes.regex",
    functions=(
        method(
            "find", "string_find_string", (STRING, STRING), STRING, _guarded(regex.find), *_COSTS
        ),
        member(
            "findAll",
            overload(
                "string_find_all_string", (STRING, STRING), list_of(STRING), _FIND_ALL, *_COSTS
            ),
            overload(
                "string_find_all_string_int",
                (STRING, STRING, INT),
                list_of(STRING),
                _FIND_ALL,
                *_COSTS,
            ),
        ),
    ),
)
