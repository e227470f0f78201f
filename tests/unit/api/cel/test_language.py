"""The language of CEL: what expressions mean, and what is wrong with those that mean nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navarch.api.cel import types as t
from navarch.api.cel.environment import STORED, Environment, LazyValue, Result
from navarch.api.cel.errors import CelError, CompileError, EvaluationError, ProgramError
from navarch.api.cel.library import base_environment
from navarch.api.cel.macros import BINDINGS
from navarch.api.cel.values import MISSING, Duration, ListValue, ObjectValue, Timestamp, UInt

VARIABLES = {
    "self": t.DYN,
    "n": t.INT,
    "s": t.STRING,
    "l": t.list_of(t.INT),
    "m": t.map_of(t.STRING, t.INT),
    "o": t.object_type("test.Object", {"f": t.STRING, "namespace": t.STRING}),
    "opt": t.optional_of(t.INT),
    "a.b": t.INT,
}
ENVIRONMENT = Environment(variables=VARIABLES)
DATA = {
    "self": {"array": [1, 2, 3, 4, 5], "s": "Pending", "nil": None, "namespace": "ns"},
    "n": 3,
    "s": "abc",
    "l": [1, 2, 3],
    "m": {"k": 1},
    "o": {"f": "x"},
    "a.b": 42,
}

VALUES: list[tuple[str, Any]] = [
    # arithmetic
    ("1 + 2 * 3 == 7 && -7 / 2 == -3 && -7 % 2 == -1", True),
    ("5.0 / 0.0 > 1.0", True),
    ("0.0 / 0.0 != 0.0 / 0.0", True),
    ("int(-3.9)", -3),
    ("-9223372036854775808", -(1 << 63)),
    ("0x1F + -0x1F", 0),
    ("0xFFu + 12U", UInt(267)),
    (".5 + 1e3 + 1.5e-3", 1000.5015),
    ("--n", 3),
    ("- 5", -5),
    ("!!true", True),
    ("1 - -1", 2),
    # comparison across numbers
    ("1 < 1.5 && 2u > 1", True),
    ("dyn(1) == 1.0", True),
    ("dyn('1') == dyn(1)", False),
    ("dyn(1) == dyn(true)", False),
    ("9007199254740993 > 9007199254740992.0", True),
    ("'b' > 'a' && b'b' > b'a' && true > false", True),
    # strings
    (r"'caf\u00e9'.size()", 4),
    ("size(b'é')", 2),
    (r"'\x41\102'", "AB"),
    (r"r'\d' == '\\d'", True),
    (r"'\U0001F600\a\b\f\n\r\t\v\"\'\?\`'", "\U0001f600\a\b\f\n\r\t\v\"'?`"),
    (r"b'\xff\377é'", b"\xff\xff\xc3\xa9"),
    ("\"\"\"a\"b\"\"\" + '''c'd'''", "a\"bc'd"),
    (r"br'\x'", rb"\x"),
    ("'a'.contains('') && 'abc'.startsWith('ab') && 'abc'.endsWith('bc')", True),
    ("'abc'.matches('^a.c$') && matches('xabcx', 'b')", True),
    # conversions
    ("string(3.0)", "3"),
    ("string(1e21) + string(1234567.0) + string(-0.00001)", "1e+211.234567e+06-1e-05"),
    ("string(duration('1h30m'))", "5400s"),
    ("string(timestamp('2024-03-01T00:00:00.500Z'))", "2024-03-01T00:00:00.5Z"),
    ("string(b'caf\\xc3\\xa9')", "café"),
    ("double('1e3') + double(1u)", 1001.0),
    ("double('NaN') != double('NaN') && double('-Inf') < 0.0", True),
    ("uint(5.9)", UInt(5)),
    ("bool('T') && !bool('0')", True),
    ("int(timestamp('1970-01-01T00:01:00+00:00'))", 60),
    ("timestamp(60) == timestamp('1970-01-01T00:01:00Z')", True),
    ("int(duration('1.5us'))", 1500),
    ("bytes('é')", b"\xc3\xa9"),
    (
        "type(1) == int && type(type(1)) == type && type([]) == list && type(null) == null_type",
        True,
    ),
    ("type(timestamp(0)) == google.protobuf.Timestamp", True),
    ("type(duration('1s')) == google.protobuf.Duration", True),
    # aggregates
    ("[1, 2,] + [3]", [1, 2, 3]),
    ("{'a': 1,}.a", 1),
    ("{1: 'a'}[dyn(1.0)] + {1: 'a'}[dyn(1u)]", "aa"),
    ("[1, 2] == [1, 2] && [1, 2] != [2, 1] && {'a': [1]} == {'a': [1]}", True),
    ("[1, 2][dyn(1.0)]", 2),
    ("2 in [1, 2] && !(4 in l) && 'k' in m && !('z' in m)", True),
    ("dyn(1.0) in [1, 2] && !(dyn(true) in [1, 2])", True),
    ("dyn(1) in [dyn('a'), dyn(1.0)]", True),
    # logic that absorbs errors
    ("1/0 == 1 || true", True),
    ("true || 1/0 == 1", True),
    ("false && 1/0 == 1", False),
    ("1/0 == 1 && false", False),
    ("1/0 == 1 || false || n == 3", True),
    ("dyn(1) || true", True),
    ("[0, 1].exists(x, 1/x == 1)", True),
    ("[0, 2].all(x, 1/x == 7)", False),
    ("true ? 1 : 1/0", 1),
    # macros
    ("[1,2,3,4].map(x, x % 2 == 0, x * 10)", [20, 40]),
    ("{'b': 2}.map(k, k)", ["b"]),
    ("[1, 2, 2].exists_one(x, x == 1) && ![2, 2].existsOne(x, x == 2)", True),
    ("{'a': 1, 'b': 2}.filter(k, k > 'a')", ["b"]),
    ("['a','b'].transformList(i, v, string(i) + v)", ["0a", "1b"]),
    ("[3, 4].transformList(i, v, i > 0, v)", [4]),
    ("{'x': 1, 'y': 2}.transformMap(k, v, v > 1, v * 2)", {"y": 4}),
    ("['p', 'q'].transformMapEntry(i, v, {v: i})", {"p": 0, "q": 1}),
    ("[5,6].existsOne(i, v, i + v == 7)", True),
    ("{'a': 1}.all(k, v, k == 'a' && v == 1) && [7].exists(i, v, i == 0)", True),
    ("[[1, 2], [3]].map(x, x.map(y, y * 2))", [[2, 4], [6]]),
    ("[1, 2].map(x, [1, 2].exists(x, x == 2))", [True, True]),
    ("has({'a': 1}.b)", False),
    ("has(self.nil) && has(self.s)", True),
    # optionals
    ("{'a': 1}.?b.orValue(9)", 9),
    ("[1,2][?5].or(optional.of(7)).value()", 7),
    ("optional.ofNonZeroValue('').hasValue()", False),
    ("optional.of(2).optMap(v, v * 3).value()", 6),
    ("optional.of({'a': 1}).optFlatMap(v, v.?b).hasValue()", False),
    ("[4,5].last().value() + [4,5].first().value()", 9),
    ("[?optional.none(), 3].size()", 1),
    ("{?'a': optional.of(3), ?'b': optional.none()}", {"a": 3}),
    ("self.?array[?2].orValue(9)", 3),
    ("self.?nothing.below.too.hasValue()", False),
    ("optional.of({'a': {'b': 1}}).a.b.value()", 1),
    ("optional.unwrap([optional.of(1), optional.none()])", [1]),
    ("[optional.none(), optional.of(2)].unwrapOpt()", [2]),
    ("optional.of(1) == optional.of(1) && optional.none() != optional.of(1)", True),
    ("optional.none().orValue(1)", 1),
    ("has(self.?s.x) || has(self.?q.z)", False),
    # time
    ("duration('90m').getHours()", 1),
    ("duration('90m').getMinutes()", 90),
    ("duration('-1500ms').getSeconds()", -1),
    ("timestamp('2024-03-01T10:20:30Z').getMonth()", 2),
    ("timestamp('2024-03-01T10:20:30Z').getDate()", 1),
    ("timestamp('2024-03-01T10:20:30Z').getDayOfMonth()", 0),
    ("timestamp('2024-03-01T10:20:30Z').getDayOfWeek()", 5),
    ("timestamp('2024-03-01T10:20:30Z').getDayOfYear()", 60),
    ("timestamp('2024-03-01T10:20:30.123456Z').getMilliseconds()", 123),
    ("timestamp('2024-03-01T10:20:30Z').getHours('-05:00')", 5),
    ("timestamp('2024-07-01T10:20:30Z').getHours('America/New_York')", 6),
    (
        "timestamp('2024-03-01T00:00:00Z') - timestamp('2024-02-29T00:00:00Z') == duration('24h')",
        True,
    ),
    ("timestamp(0) + duration('1s') - duration('2s')", Timestamp(-1_000_000_000)),
    ("duration('1h') + duration('-30m')", Duration(1_800_000_000_000)),
    ("string(timestamp('0001-01-01T00:00:00Z'))", "0001-01-01T00:00:00Z"),
    # names
    ("self.namespace + o.f", "nsx"),
    (".n == n", True),
    ("a.b", 42),
    ("[1].map(n, n) == [1]", True),
    ("// a comment\n1 // another", 1),
]


@pytest.mark.parametrize(("text", "expected"), VALUES, ids=[text for text, _ in VALUES])
def test_expressions_have_their_value(text: str, expected: Any) -> None:
    value = ENVIRONMENT.compile(text).evaluate(DATA).value
    assert value == expected
    assert type(value) is type(expected)


RUN_TIME_ERRORS = [
    ("9223372036854775807 + 1 > 0", "integer overflow"),
    ("n - 9223372036854775807 - 9223372036854775807 > 0", "integer overflow"),
    ("(-9223372036854775808) / -1 > 0", "integer overflow"),
    ("(-9223372036854775808) % -1 > 0", "integer overflow"),
    ("-(-9223372036854775808) > 0", "integer overflow"),
    ("0u - 1u == 0u", "unsigned integer overflow"),
    ("5 / 0 == 1", "division by zero"),
    ("5u % 0u == 1u", "modulus by zero"),
    ("int(1e99 * 1.0)", "integer overflow"),
    ("int(double('NaN') + 0.0)", "integer overflow"),
    ("uint(n - 4)", "unsigned integer overflow"),
    ("int(s)", "type conversion error from 'string' to 'int'"),
    ("bool(s)", "type conversion error from 'string' to 'bool'"),
    ("double(s)", "type conversion error from 'string' to 'double'"),
    ("timestamp(s)", "type conversion error from 'string' to 'google.protobuf.Timestamp'"),
    ("duration(s)", "type conversion error from 'string' to 'google.protobuf.Duration'"),
    ("timestamp('9999-12-31T23:59:59Z') + duration('1s') == timestamp(0)", "timestamp overflow"),
    ("{'a': 1}['b'] == 1", "no such key: b"),
    ("self.missing", "no such key: missing"),
    ("self.nil.x", "no such key: x"),
    ("has(self.missing.x)", "no such key: missing"),
    ("o.namespace == ''", "no such key: namespace"),
    ("[1][3] == 1", "index out of bounds: 3"),
    ("[1][-1] == 1", "index out of bounds: -1"),
    ("[1][dyn(0.5)] == 1", "unsupported index value 0.5 in list"),
    ("[1][dyn('a')] == 1", "unsupported index type 'string' in list"),
    ("1/0 == 1 || false", "division by zero"),
    ("1/0 == 1 || 1%0 == 1", "division by zero"),
    ("(1/0 == 1) ? 1 : 2", "division by zero"),
    ("[0, 2].exists(x, 1/x == 1)", "division by zero"),
    ("[0, 1].exists_one(x, 1/x == 1)", "division by zero"),
    ("[0].map(x, 1/x)", "division by zero"),
    ("['q','q'].transformMapEntry(i, v, {v: i})", "insert failed: key q already exists"),
    ("optional.none().value() == 1", "optional.none() dereference"),
    ("1.0 < dyn(0.0/0.0)", "NaN values cannot be ordered"),
    ("dyn(1) + dyn('a')", "no such overload"),
    ("dyn(1).startsWith('a')", "no such overload"),
    ("dyn('a') && true", "no such overload"),
    ("dyn(1) < dyn('a')", "no such overload"),
    ("self.array.map(x, x.startsWith('a'))", "no such overload"),
    ("dyn(1).all(x, true)", "expected iterable type"),
    ("s.matches(s + '(')", "error parsing regexp: missing closing )"),
    ("timestamp(0).getHours('Nowhere/Town')", "unknown time zone Nowhere/Town"),
    ("opt.hasValue()", "no such attribute(s): opt"),
]


@pytest.mark.parametrize(
    ("text", "message"), RUN_TIME_ERRORS, ids=[text for text, _ in RUN_TIME_ERRORS]
)
def test_evaluation_fails_with_the_reason(text: str, message: str) -> None:
    program = ENVIRONMENT.compile(text)
    with pytest.raises(EvaluationError) as caught:
        program.evaluate(DATA)
    assert message in str(caught.value)
    assert caught.value.cost >= 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int('12x') == 12", "type conversion error from 'string' to 'int'"),
        ("uint(-1) == 0u", "unsigned integer overflow"),
        ("true || string(b'\\xff') == ''", "invalid UTF-8 in bytes, cannot convert to string"),
    ],
)
def test_conversions_of_constants_fail_before_running(text: str, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        ENVIRONMENT.compile(text)


_OPENERS = (
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, "
    "BYTES, IDENTIFIER}"
)
COMPILE_ERRORS = [
    ("1 == 1.0", 3, "found no matching overload for '_==_' applied to '(int, double)'"),
    ("'a' == null", 5, "found no matching overload for '_==_' applied to '(string, null)'"),
    (
        "true ? 1 : 'a'",
        6,
        "'_?_:_' applied to '(bool, int, string)'",
    ),
    (
        "s.startsWith(1)",
        13,
        "'startsWith' applied to 'string.(int)'",
    ),
    ("size(1)", 5, "found no matching overload for 'size' applied to '(int)'"),
    (
        "opt + 1 > 0",
        5,
        "'_+_' applied to '(optional_type(int), int)'",
    ),
    ("o == {'f': 'a'}", 3, "'_==_' applied to '(test.Object, map(string, string))'"),
    ("-s == s", 1, "found no matching overload for '-_' applied to '(string)'"),
    ("l['a']", 2, "found no matching overload for '_[_]' applied to '(list(int), string)'"),
    ("1 in m", 3, "found no matching overload for '@in' applied to '(int, map(string, int))'"),
    ("x + 1", 1, "undeclared reference to 'x' (in container '')"),
    ("foo(1)", 4, "undeclared reference to 'foo' (in container '')"),
    ("s.foo()", 6, "undeclared reference to 'foo' (in container '')"),
    ("cel.bind(x, 1, x)", 9, "undeclared reference to 'bind' (in container '')"),
    ("o.z == ''", 2, "undefined field 'z'"),
    ("has(o.z)", 4, "undefined field 'z'"),
    ("n.x", 2, "type 'int' does not support field selection"),
    ("n.?x", 2, "type 'int' does not support field selection"),
    ("1 && true", 1, "expected type 'bool' but found 'int'"),
    ("[1, 'a']", 5, "expected type 'int' but found 'string'"),
    ("{'a': 1, 'b': 'x'}", 15, "expected type 'int' but found 'string'"),
    ("[?1]", 3, "expected type 'optional_type(int)' but found 'int'"),
    ("s.all(x, true)", 1, "expression of type 'string' cannot be range of a comprehension"),
    ("[1].all(x, x)", 12, "expected type 'bool' but found 'int'"),
    ("has(n)", 5, "invalid argument to has() macro"),
    ("[1].all(n.x, true)", 10, "argument must be a simple name"),
    ("[1].map(1, 2)", 9, "argument is not an identifier"),
    ("[1].map(__result__, 2)", 9, "iteration variable overwrites accumulator variable"),
    ("[1,2].all(i, i, true)", 14, "duplicate variable name: i"),
    ("optional.of(1).optMap(1, 2)", 23, "optMap() variable name must be a simple identifier"),
    ("duration('1d') > duration('1h')", 10, "invalid duration argument"),
    ("timestamp('today') > timestamp(0)", 11, "invalid timestamp argument"),
    ("'a'.matches('(')", 13, "invalid matches argument"),
    ("int{a: 1}", 4, "'int' is not a message type"),
    ("n{a: 1}", 2, "'int' is not a type"),
    ("Nothing{}", 8, "undeclared reference to 'Nothing' (in container '')"),
    ("9223372036854775808", 1, "invalid int literal"),
    ("18446744073709551616u", 1, "invalid uint literal"),
    ("namespace", 1, "reserved identifier: namespace"),
    ("while(1)", 1, "reserved identifier: while"),
    ("o.`f`", 3, "unsupported syntax: '`'"),
    (r"'\ud800'", 1, "invalid unicode code point"),
    (r"b'\u0041'", 1, "unable to unescape string"),
    ("self.true", 6, "Syntax error: mismatched input 'true' expecting IDENTIFIER"),
    ("self.in", 6, "Syntax error: no viable alternative at input '.in'"),
    ("self = 42", 6, "Syntax error: token recognition error at: '= '"),
    ("self 42", 6, "Syntax error: extraneous input '42' expecting <EOF>"),
    ("1 +", 4, f"Syntax error: mismatched input '<EOF>' expecting {_OPENERS}"),
    ("", 1, f"Syntax error: mismatched input '<EOF>' expecting {_OPENERS}"),
    ("*1", 1, f"Syntax error: extraneous input '*' expecting {_OPENERS}"),
    ("!-n", 3, "Syntax error: no viable alternative at input '-n'"),
    ("-!true", 2, "Syntax error: no viable alternative at input '-!'"),
    ("size(1 2)", 8, "Syntax error: extraneous input '2' expecting ')'"),
    ("size((1, 2)", 8, "Syntax error: missing ')' at ','"),
    ("[1 2, 3]", 4, "Syntax error: extraneous input '2' expecting {']', ','}"),
    ("{'a' 1}", 6, "Syntax error: missing ':' at '1'"),
    ("[1,", 4, "Syntax error: missing ']' at '<EOF>'"),
    ("self.?1", 7, "Syntax error: mismatched input '1' expecting {IDENTIFIER, ESC_IDENTIFIER}"),
    ("{1}", 3, "Syntax error: mismatched input '}' expecting ':'"),
    ("size(1", 7, "Syntax error: missing ')' at '<EOF>'"),
    ("true ? false ? 1 : 2 : 3", 14, "Syntax error: mismatched input '?' expecting ':'"),
    ("size(1,)", 8, "Syntax error: mismatched input ')' expecting"),
    ("'abc", 1, "Syntax error: token recognition error at: ''abc'"),
    (r"'\q'", 1, r"Syntax error: token recognition error at: ''\q'"),
]


@pytest.mark.parametrize(
    ("text", "column", "message"), COMPILE_ERRORS, ids=[text for text, _, _ in COMPILE_ERRORS]
)
def test_compile_errors_say_what_and_where(text: str, column: int, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        ENVIRONMENT.compile(text)
    assert any(
        issue.line == 1 and issue.column == column and message in issue.message
        for issue in caught.value.issues
    ), str(caught.value)


def test_issues_are_drawn_like_upstream_draws_them() -> None:
    with pytest.raises(CompileError) as caught:
        ENVIRONMENT.compile("n == 1 &&\n\t'é' == n")
    assert str(caught.value) == (
        "ERROR: <input>:2:6: found no matching overload for '_==_' applied to '(string, int)'\n"
        " |  'é' == n\n"
        " | ..．..^"
    )


def test_issues_come_in_the_order_of_their_places() -> None:
    with pytest.raises(CompileError) as caught:
        ENVIRONMENT.compile("x.f(y, z)")
    assert [issue.column for issue in caught.value.issues] == [1, 4, 5, 8]


@pytest.mark.parametrize(
    ("version", "text", "enabled"),
    [
        ((1, 27), "1 < 1.5", False),
        ((1, 28), "1 < 1.5", True),
        ((1, 27), "{'a': 1}.?a", False),
        ((1, 28), "{'a': 1}.?a", True),
        ((1, 28), "'a'.matches('(')", True),
        ((1, 29), "'a'.matches(']')", True),
        ((1, 31), "[1].all(i, v, true)", False),
        ((1, 32), "[1].all(i, v, true)", True),
        (STORED, "[1].all(i, v, true)", True),
    ],
)
def test_versions_decide_what_may_be_written(
    version: tuple[int, int], text: str, enabled: bool
) -> None:
    environment = Environment(version)
    try:
        environment.compile(text)
        compiled = True
    except CompileError:
        compiled = False
    except ProgramError:
        compiled = True  # well typed; the constant pattern is a matter of the program
    assert compiled is enabled


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("'%d'.format(['a'])", 14, "decimal clause can only be used on integers, was given string"),
        ("'%f'.format([1])", 14, "fixed-point clause can only be used on doubles, was given int"),
        ("'%q'.format([1])", 12, 'unrecognized formatting clause "q"'),
        ("'%d %d'.format([1])", 15, "index 1 out of range"),
        ("'%d'.format([1, 2])", 12, "too many arguments supplied to string.format"),
        ("'%s'.format([[ip('::1')]])", 17, "string clause can only be used on strings"),
    ],
)
def test_literal_formats_are_checked(text: str, column: int, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        base_environment().compile(text)
    assert [issue.column for issue in caught.value.issues] == [column]
    assert message in str(caught.value)


_FRAGMENTS = r"""+ - * / % == < && || ! ? : ( ) [ ] { } . , .? [? in true null 1 1u 1.5 'a' b'x'
r'\d' self n s l m o has( size( .map(i, .all(i, .exists_one(i, .optMap(v, optional.none() .orValue(
.sum() duration('1h') timestamp(0) quantity('1') .format([ .split(',') .replace( .matches( .slice(
lists.range( type( dyn( int( string( .value() .transformMap(k,v, .sortBy(e, i v k e 0 -1 ' " @ # $
` é"""
FRAGMENTS = [*_FRAGMENTS.split(), "\ud800"]
ANYTHING: list[Any] = [None, 1, 1.5, "a", True, [None], {"k": None}, [1, "a"], b"x", UInt(3), {}]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(" ".join),
    st.fixed_dictionaries({name: st.sampled_from(ANYTHING) for name in ("self", *"nslmo")}),
)
def test_nonsense_only_raises_errors_of_the_engine(text: str, data: dict[str, Any]) -> None:
    with contextlib.suppress(CelError):
        program = base_environment().extend(variables=VARIABLES).compile(text)
        program.estimate()
        program.evaluate(data)


@pytest.mark.parametrize("anything", ANYTHING, ids=repr)
def test_values_of_wrong_types_are_errors_of_the_expression(anything: Any) -> None:
    for text in [text for text, _ in VALUES] + [text for text, _ in RUN_TIME_ERRORS]:
        with contextlib.suppress(EvaluationError):
            ENVIRONMENT.compile(text).evaluate(dict.fromkeys(VARIABLES, anything))


def test_bindings_are_for_those_who_ask_for_them() -> None:
    environment = ENVIRONMENT.extend(libraries=(BINDINGS,))
    program = environment.compile("cel.bind(x, n + 1, cel.bind(y, x * 2, x + y + y))")
    assert program.evaluate(DATA).value == 20


def test_result_types_can_be_demanded() -> None:
    ENVIRONMENT.compile("n == 1", [t.BOOL])
    with pytest.raises(CompileError, match="must evaluate to bool or string"):
        ENVIRONMENT.compile("n", [t.BOOL, t.STRING])


def test_a_program_knows_its_type_and_its_names() -> None:
    program = ENVIRONMENT.compile("l.map(x, x + n).filter(i, a.b > i)")
    assert program.type == t.list_of(t.INT)
    assert program.names == {"l", "n", "a.b"}


def test_extending_leaves_the_original_alone() -> None:
    extended = ENVIRONMENT.extend(variables={"more": t.STRING})
    assert extended.compile("more + s").evaluate({"more": "x", "s": "y"}).value == "xy"
    with pytest.raises(CompileError, match="undeclared reference to 'more'"):
        ENVIRONMENT.compile("more")


def test_types_with_a_constructor_can_be_written_as_literals() -> None:
    fields = {"a": t.INT, "b": t.list_of(t.STRING)}
    made = t.object_type("T.Sub", fields, construct=lambda given: {"made": given})
    environment = ENVIRONMENT.extend(types=(made,))
    value = environment.compile("T.Sub{a: 1, ?b: optional.none()}").evaluate({}).value
    assert value == {"made": {"a": 1}}
    with pytest.raises(CompileError, match="expected type of field 'a' is 'int' but provided"):
        environment.compile("T.Sub{a: 'x'}")
    with pytest.raises(CompileError, match="undefined field 'z'"):
        environment.compile("T.Sub{z: 'x'}")


class _Point(ObjectValue):
    """An object of a schema, in small."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    @property
    def cel_type(self) -> t.CelType:
        return POINT

    def get(self, name: str) -> Any:
        return self._fields.get(name, MISSING)

    def cel_equals(self, other: Any) -> bool:
        return isinstance(other, _Point) and self._fields == other._fields


POINT = t.object_type("Point", {"x": t.INT, "label": t.STRING})


class _Bag(ListValue):
    """A list whose order does not matter."""

    def cel_equals(self, other: list[Any]) -> bool:
        return sorted(self) == sorted(other)

    def cel_concat(self, other: list[Any]) -> list[Any]:
        return _Bag({*self, *other})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p.x == 1 && has(p.x) && !has(p.label)", True),
        ("p == q && p.?label.orValue('none') == 'none'", True),
        ("type(p) == type(q)", True),
        ("bag == [2, 1]", True),
        ("[2, 1] == bag", False),
        ("(bag + [1, 3]).size() == 3", True),
        ("bag.all(x, x > 0) && 2 in bag", True),
        ("[p, q].exists_one(i, v, v.x == i)", True),
    ],
)
def test_values_of_schemas_bring_their_own_equality(text: str, expected: bool) -> None:
    variables = {"p": POINT, "q": POINT, "bag": t.list_of(t.INT)}
    program = Environment(variables=variables).compile(text)
    data = {"p": _Point({"x": 1}), "q": _Point({"x": 1}), "bag": _Bag([1, 2])}
    assert program.evaluate(data).value is expected


def test_lazy_variables_are_computed_and_charged_once() -> None:
    calls: list[int] = []

    def compute(budget: int) -> Result:
        calls.append(budget)
        return Result(7, 100)

    program = ENVIRONMENT.compile("n + n + n")
    result = program.evaluate({"n": LazyValue(compute)})
    assert result == (21, 105)
    assert len(calls) == 1


def test_lazy_variables_that_fail_fail_every_reader() -> None:
    def compute(budget: int) -> Result:
        raise EvaluationError("broken")

    lazy = LazyValue(compute)
    assert ENVIRONMENT.compile("n == 1 || true").evaluate({"n": lazy}).value is True
    with pytest.raises(EvaluationError, match="broken"):
        ENVIRONMENT.compile("n == 1").evaluate({"n": lazy})


def test_every_error_of_the_engine_is_one_family() -> None:
    for error in (CompileError([]), EvaluationError("x"), ProgramError("y")):
        assert isinstance(error, CelError)
