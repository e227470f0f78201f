"""What expressions cost, by estimate and really: upstream's numbers, as rules hang on them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from navarch.api.cel import types as t
from navarch.api.cel.costs import UNBOUNDED, Estimate, scaled
from navarch.api.cel.environment import PER_CALL_LIMIT, Environment
from navarch.api.cel.errors import CelError, CompileError, CostExceeded, EvaluationError
from navarch.api.cel.library import base_environment
from navarch.api.cel.macros import BINDINGS

SELF = t.object_type(
    "Self",
    {
        "array": t.list_of(t.INT),
        "s": t.STRING,
        "n": t.INT,
        "b": t.BOOL,
        "names": t.list_of(t.STRING),
        "m": t.map_of(t.STRING, t.INT),
    },
)
ENVIRONMENT = Environment(variables={"self": SELF, "x": t.DYN, "y": t.DYN}, libraries=(BINDINGS,))
DATA: dict[str, Any] = {
    "self": {
        "array": [1, 2, 3, 4, 5, 6, 7, 8],
        "s": "Pending",
        "n": 3,
        "b": True,
        "names": ["a" * 25, "b" * 5],
        "m": {"k": 1, "l": 2},
    },
    "x": {"s": "x" * 100, "n": 1},
    "y": {"s": "y" * 40},
}


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("true", 0),
        ("self.n", 2),
        ("self.n > 1", 3),
        ("2 in self.array", 10),
        ("self.array.all(e, e > 0)", 43),
        ("self.array.all(e, e > 1)", 10),
        ("self.array.all(e, e < 8)", 43),
        ("!self.array.exists(e, e < 0)", 52),
        ("self.array.exists(e, e == 1)", 12),
        ("size(self.array) == 8", 4),
        ("has(self.array)", 1),
        ("self.s == 'Pending'", 3),
        ("self.s in ['a', 'b']", 2),
        ("[1, 2, 3].size() == 3", 2),
        ("{'a': 1}.a == 1", 3),
        ("[self.n, 1].size() == 2", 14),
        ("{'a': self.n}.size() == 1", 34),
        ("self.array.exists_one(e, e == 3)", 2 + 8 * 2 + 2 + 2),
        ("self.array.map(e, e + 1).size() == 8", 2 + 8 * (2 + 12) + 1 + 2),
        ("self.array.filter(e, e > 6).size() == 2", 2 + 8 * 2 + 2 * 13 + 1 + 2),
        ("self.b && self.n > 0", 5),
        ("self.b || self.n > 0", 2),
        ("self.b ? self.n : self.array.size()", 2 + 1),
        ("self.b ? self.array.size() : self.n", 2 + 3),
        ("self.names[0] == self.names[1]", 3 + 3 + 1),
        ("self.names[0].startsWith('aa')", 3 + 3),
        ("self.names[0].contains('aa')", 3 + 3 * 1),
        ("self.names[0].matches('^[a-z]+$')", 3 + 3 * 2),
        ("self.names[0] + self.names[1] == ''", 3 + 3 + 3 + 0),
        ("self.names[0] < self.names[1]", 3 + 3 + 1),
        ("x.s + y.s == ''", 2 + 2 + 1 + 0),
        ("x.s < y.s", 5),
        ("x.s == y.s", 2 + 2 + 4),
        ("string(self.n) == '3'", 2 + 1 + 1),
        ("int('3') == 3", 1),
        ("type(self.n) == int", 2 + 1 + 1),
        ("dyn(self.n) == 3", 2 + 1 + 1),
        ("self.?n.orValue(1) == 3", 2 + 1),
        ("optional.of(self.n).hasValue()", 4),
        ("cel.bind(v, self.n + 1, v + v)", 3 + 1 + 2),
        ("cel.bind(v, self.n + 1, true)", 0),
        ("self.m.all(k, v, v > 0)", 2 + 2 * 5 + 1),
        ("self.m[self.s] == 1 || true", 2 + 1 + 1),
        ("bytes(self.names[0]).size() == 25", 3 + 3 + 2),
        ("matches(self.s, 'P') && self.s.size() > 0", 2 + 1 + 4),
    ],
)
def test_what_running_costs(text: str, cost: int) -> None:
    program = ENVIRONMENT.compile(text)
    try:
        assert program.evaluate(DATA).cost == cost
    except EvaluationError as error:
        assert error.cost == cost


def _hint(path: tuple[str, ...], type_: t.CelType) -> Estimate | None:
    """Declared sizes: `array` at most 7, `names` at most 10 of length at most 30."""
    assert path, "nothing is declared of what has no path"
    limits = {
        ("self", "array"): 7,
        ("self", "names"): 10,
        ("self", "names", "@items"): 30,
        ("self", "s"): 25,
        ("self", "m"): 4,
        ("self", "m", "@keys"): 5,
    }
    return Estimate(0, limits[path]) if path in limits else None


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("self.array.all(x, true)", 3, 2 + 1 + 7 * 3),
        ("self.names.all(x, self.names.all(y, true))", 3, 2 + 1 + 10 * (3 + 2 + 1 + 10 * 3)),
        ("self.array.exists(x, x > 0)", 3, 2 + 1 + 7 * 6),
        ("self.array.exists_one(x, x > 0)", 4, 2 + 2 + 7 * (2 + 2)),
        ("self.array.map(x, x + 1).size() > 0", 2 + 10 + 1 + 2, 15 + 7 * (2 + 12)),
        ("self.array.filter(x, x > 0).size() > 0", 15, 15 + 7 * (2 + 13)),
        ("self.s.contains('abc')", 2, 2 + 3),
        ("self.s.startsWith('abc')", 3, 3),
        ("self.s.matches('^[a-z]+$')", 2 + 1 * 2, 2 + 3 * 2),
        ("self.s == 'Pending'", 3, 3),
        ("self.s == self.names[0]", 2 + 3 + 1, 2 + 3 + 3),
        ("self.s + self.names[0] == ''", 5, 2 + 3 + 6),
        ("3 in self.array", 2, 9),
        ("self.b && self.n > 1", 2, 5),
        ("self.b || self.n > 1", 2, 5),
        ("self.b ? self.n : self.array.size()", 4, 5),
        ("has(self.s)", 1, 1),
        ("[1, 2, 3].all(x, x > 0)", 10 + 1 + 3 * 3, 10 + 1 + 3 * 5),
        ("{'a': self.n}.size() == 1", 34, 34),
        ("dyn(self.n) == 3", 4, 4),
        ("self.m.all(k, k == 'abcde')", 3, 2 + 1 + 4 * 5),
        ("cel.bind(v, self.array, v.all(x, true) && v.all(x, true))", 14, 58),
        ("self.names.map(n, n + n).all(n, n.contains(n))", 14, 213 + 1 + 10 * 41),
        ("optional.of(self.n).hasValue()", 4, 4),
        ("self.?s.orValue('') == ''", 3, 3),
    ],
)
def test_what_running_may_cost(text: str, least: int, most: int) -> None:
    assert ENVIRONMENT.compile(text).estimate(_hint) == (least, most)


def test_unknown_sizes_are_unbounded() -> None:
    assert ENVIRONMENT.compile("x.all(y, true)").estimate().max == UNBOUNDED
    assert ENVIRONMENT.compile("self.array.all(y, self.n > 0)").estimate().max == UNBOUNDED


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [(0, 0.1, 0), (1, 0.1, 1), (10, 0.1, 1), (11, 0.1, 2), (UNBOUNDED, 2.0, UNBOUNDED)],
)
def test_factors_round_up_and_stick(size: int, factor: float, expected: int) -> None:
    assert scaled(size, factor) == expected


def test_the_estimate_is_never_below_the_cost() -> None:
    def fits(path: tuple[str, ...], type_: t.CelType) -> Estimate | None:
        return Estimate(0, 100) if type_.kind in (t.Kind.STRING, t.Kind.LIST, t.Kind.MAP) else None

    for text in (
        "self.array.map(e, e * 2).filter(e, e > 4).exists_one(e, e == 6)",
        "self.names.all(a, self.names.exists(b, a.contains(b) || b.matches(a)))",
        "self.names.map(a, a + a + a).all(a, a.size() > 1 ? a.startsWith('a') : true)",
        "self.m.transformList(k, v, k + string(v)).all(e, e in self.names)",
        "[self.s, 'a'].exists(e, e == self.s) && {'a': self.s}.a != 'x'",
    ):
        program = ENVIRONMENT.compile(text)
        assert program.estimate(fits).max >= program.evaluate(DATA).cost


# ---- hostile expressions end by limits, and soon


def _seconds(text: str, data: dict[str, Any]) -> float:
    start = time.process_time()
    with contextlib.suppress(CelError):
        ENVIRONMENT.compile(text).evaluate(data)
    return time.process_time() - start


HUGE: dict[str, Any] = {
    "x": list(range(3000)),
    "y": "a" * 100_000,
    "self": {"array": list(range(100_000)), "names": ["a" * 1000] * 1000, "s": "ab" * 500_000},
}


@pytest.mark.parametrize(
    "text",
    [
        "x.all(a, x.all(b, x.all(c, x.all(d, true))))",
        "!x.exists(a, x.exists(b, x.exists(c, a + b + c < 0)))",
        "x.map(a, x.map(b, x.map(c, c)))",
        "x.filter(a, x.filter(b, b in x).size() > 0)",
        "x.transformMap(i, v, x.transformList(j, w, w))",
        "self.names.map(a, self.names.map(b, a + b)).size()",
        "self.names.exists(a, self.names.exists(b, a + 'x' == b))",
        "x.exists(a, self.s.contains('b' + self.s))",
        "self.names.all(n, self.names.all(m, n.matches('(a+)+$') && !m.matches('(a|a)*b')))",
        "x.map(a, self.array + self.array)",
    ],
)
def test_multiplying_work_is_cancelled(text: str) -> None:
    program = ENVIRONMENT.compile(text)
    start = time.process_time()
    with pytest.raises(CostExceeded, match="operation cancelled: actual cost limit exceeded") as e:
        program.evaluate(HUGE)
    assert e.value.cost > PER_CALL_LIMIT or "self.array" in text  # which is too much memory
    assert time.process_time() - start < 20


def test_doubling_lists_and_strings_does_not_eat_the_memory() -> None:
    doubled = "optional.of(x)" + ".optMap(v, v + v)" * 60
    with pytest.raises(CostExceeded):
        ENVIRONMENT.compile(doubled).evaluate({"x": [1]})
    with pytest.raises(CostExceeded):
        ENVIRONMENT.compile(doubled.replace("x)", "string(x))")).evaluate({"x": "a"})


@pytest.mark.parametrize(
    "text",
    [
        "x.map(a, y + y)",
        "x.map(a, self.s.replace('', y))",
        "self.s.replace('', self.s)",
        "x.map(a, self.s).join(self.s)",
        "x.map(a, self.array).flatten()",
        "x.map(a, lists.range(100000)).size()",
    ],
)
def test_results_that_outgrow_their_price_are_refused(text: str) -> None:
    environment = base_environment().extend(variables={"x": t.DYN, "y": t.DYN, "self": SELF})
    with pytest.raises(CostExceeded):
        environment.compile(text).evaluate(HUGE)


def test_nested_sharing_cannot_make_comparison_endless() -> None:
    text = "v == v"
    for _ in range(40):
        text = f"cel.bind(v, [v, v], {text})"
    with pytest.raises(CostExceeded):
        ENVIRONMENT.compile(f"cel.bind(v, [x], {text})").evaluate({"x": 1})


def test_a_chain_of_optional_macros_is_compiled_in_linear_time() -> None:
    assert _seconds("optional.of(1)" + ".optMap(v, v + 1)" * 80, {}) < 20


@pytest.mark.parametrize(
    "pattern", ["(a*)*b", "(a|aa)+$", "(.*)(.*)(.*)(.*)[^a]", "((a{0,30}){0,30})b"]
)
def test_no_pattern_is_catastrophic(pattern: str) -> None:
    assert _seconds(f"y.matches('{pattern}')", HUGE) < 20


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_001,
        "(" * 300 + "1" + ")" * 300,
        "[" * 300 + "]" * 300,
        "{1:" * 300 + "1" + "}" * 300,
        "1" + "+1" * 300,
        "x" + ".a" * 300,
        "x" + "[0]" * 300,
        "size(" * 300 + "x" + ")" * 300,
        "x.all(a, " * 260 + "true" + ")" * 260,
        "-(" * 300 + "1" + ")" * 300,
        "true ? " * 300 + "1",
    ],
    ids=lambda text: text[:20],
)
def test_deep_and_long_texts_are_refused(text: str) -> None:
    with pytest.raises(CompileError):
        ENVIRONMENT.compile(text)


def test_refusals_name_the_limit() -> None:
    with pytest.raises(CompileError, match="expression recursion limit exceeded: 250"):
        ENVIRONMENT.compile("(" * 300 + "1" + ")" * 300)
    with pytest.raises(
        CompileError, match="expression code point size exceeds limit: size: 100001"
    ):
        ENVIRONMENT.compile(" " * 100_001)
    with pytest.raises(CompileError) as caught:
        ENVIRONMENT.compile("$" * 300)
    assert str(caught.value).endswith("more errors were truncated")


@pytest.mark.parametrize(
    "text",
    [
        " && ".join(["true"] * 12_000),
        " || ".join(["x == 'a'"] * 5_000),
        "x in [" + ", ".join(map(str, range(15_000))) + "]",
        "{" + ", ".join(f"'{n}': {n}" for n in range(5_000)) + "}.size() > 0",
        "true ? 1 : " * 240 + "1",
        "[" * 200 + "]" * 200,
        "x.all(a, " * 100 + "true" + ")" * 100,
    ],
    ids=lambda text: text[:20],
)
def test_wide_texts_are_fine(text: str) -> None:
    start = time.process_time()
    program = ENVIRONMENT.compile(text)
    program.evaluate({"x": [1]})
    program.estimate()
    assert time.process_time() - start < 20


def test_a_smaller_budget_is_a_smaller_limit() -> None:
    program = ENVIRONMENT.compile("self.array.all(e, e > 0)")
    assert program.evaluate(DATA, budget=43).value is True
    with pytest.raises(CostExceeded):
        program.evaluate(DATA, budget=42)


def test_cancellation_cannot_be_absorbed() -> None:
    program = ENVIRONMENT.compile("x.all(a, x.all(b, x.all(c, true))) || true")
    with pytest.raises(CostExceeded):
        program.evaluate({"x": list(range(200))})
