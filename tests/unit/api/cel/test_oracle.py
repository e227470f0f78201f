"""CEL's own C++ implementation as a witness: same verdict and same value for the common core.

Left out is where Kubernetes' dialect differs on purpose: mixed literals, comparisons of different
numbers, constants that fail when compiled, the texts of run-time errors.
"""

from __future__ import annotations

import datetime
import itertools
import math
from typing import Any

import pytest

from navarch.api.cel import types as t
from navarch.api.cel.environment import Environment
from navarch.api.cel.errors import CelError, CompileError
from navarch.api.cel.values import EPOCH, Duration, Timestamp, UInt

cel = pytest.importorskip("cel_expr_python.cel")
optional = pytest.importorskip("cel_expr_python.ext.ext_optional")

ENVIRONMENT = Environment(
    variables={
        "x": t.DYN,
        "n": t.INT,
        "s": t.STRING,
        "l": t.list_of(t.INT),
        "m": t.map_of(t.STRING, t.INT),
    }
)
DATA = {
    "x": {"a": [1, 2, -3], "b": "hey", "c": 1.5, "d": None, "e": True},
    "n": 7,
    "s": "héllo",
    "l": [3, 1, 2],
    "m": {"k": 1, "z": 2},
}

_INTS = ("0", "7", "-3", "9223372036854775807", "-9223372036854775808", "n", "x.a[1]", "size(s)")
_UINTS = ("0u", "5u", "18446744073709551615u")
_DOUBLES = ("0.0", "1.5", "-2.25", "1e300", "x.c")
_STRINGS = ("''", "'a'", "s", "x.b")
_BOOLS = ("true", "false", "x.e", "1/0 == 1", "has(x.q)")
_DURATIONS = ("duration('1h')", "duration('-90s')", "duration('1.5s')")
_TIMES = (
    "timestamp('2024-02-29T23:59:59.123Z')",
    "timestamp('1969-12-31T00:00:00+01:30')",
    "timestamp('0001-01-01T00:00:00Z')",
    "timestamp('9999-12-31T23:59:59Z')",
)
_ACCESSORS = (
    "getFullYear getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes "
    "getSeconds getMilliseconds"
)


def _expressions() -> list[str]:
    """A few hundred expressions: operators over all edge values, and a hand-picked rest."""
    made: list[str] = []
    for operands, operators in (
        (_INTS, "+ - * / % == <"),
        (_UINTS, "+ - * / % >="),
        (_DOUBLES, "+ - * / > !="),
        (_STRINGS, "+ == <="),
        (_BOOLS, "&& || =="),
        (_DURATIONS, "+ - <"),
        (_TIMES, "- >"),
    ):
        for operator in operators.split():
            made += [f"{a} {operator} {b}" for a, b in itertools.product(operands, operands)]
    made += [f"{time} {op} {d}" for time in _TIMES for op in "+-" for d in _DURATIONS]
    made += [f"{time}.{name}()" for time in _TIMES for name in _ACCESSORS.split()]
    made += [f"{time}.getHours('{zone}')" for time in _TIMES[:2] for zone in ("+02:30", "-11:00")]
    made += [f"{a} ? {b} : n" for a in _BOOLS for b in ("1", "l[0]")]
    made += [f"string({a})" for a in (*_INTS, *_UINTS, *_BOOLS, *_DOUBLES, *_STRINGS)]
    return made + OTHERS.strip().splitlines()


OTHERS = r"""
[1, 2, 3].map(i, i * i)
l.filter(i, i > 1).map(i, i + 1)
l.all(i, i > 0) && l.exists(i, i == 2) && l.exists_one(i, i == 3)
l.exists(i, 1 / (i - 3) == 1)
l.all(i, 1 / (i - 3) == 1)
l.exists_one(i, 1 / (i - 3) == 1)
{'k': 1}.map(k, m[k])
m.filter(k, k == 'z')
x.a.map(i, [i, -i])
x.a + l
[[1], [2, 3]] == [[1], [2, 3]]
{'a': [1, 2]} == {'a': [1, 2]}
dyn(1) == dyn(1.0) && dyn(1u) == dyn(1) && dyn(1) != dyn('1')
dyn([1, 2]) == dyn([1.0, 2.0])
{1: 'a'} == {1: 'b'}
x == x
x.d == null
'k' in m && !('q' in m)
7 in [n] && !(8 in l)
dyn(1.0) in l
m.k + m['z']
m.q
l[3]
l[-1]
x.a.b
has(x.a) && !has(x.q) && has(m.k)
has(x.q.z)
x.?a[?1].orValue(5)
x.?q.z.orValue('no')
m[?'q'].or(m[?'k']).value()
optional.of(3).optMap(v, v * 2).value()
optional.none().hasValue()
optional.ofNonZeroValue(0).hasValue()
[?m[?'q'], 4]
{?'a': m[?'k'], ?'b': m[?'q']}
type(1) == int && type(1u) == uint && type(1.0) == double && type('') == string
type([]) == list && type({}) == map && type(null) == null_type && type(true) == bool
type(type(1)) == type && type(b'') == bytes
type(timestamp(0)) == google.protobuf.Timestamp
int('42') + int(4.9) + int(7u) + int(timestamp(60))
uint('42') + uint(4.9) + uint(7)
double('1.5') + double(2) + double(3u)
bool('true') && !bool('f')
bytes('hé') == b'h\xc3\xa9'
string(b'h\xc3\xa9')
string(timestamp('2024-02-29T12:00:00Z'))
string(duration('90m')) + string(duration('-1h'))
'héllo'.size() + size(b'\xff\x00') + size(l) + size(m)
s.contains('ll') && s.startsWith('hé') && s.endsWith('o') && !s.contains('z')
s.matches('^h.l+o$') && !s.matches('^l')
'\u00e9\U0001F600\x41\101\n' + r'\n' + '''a'b''' + "\"" + '\''
b'\u00e9'
b'\101é' + rb'\101'
0x1F + 0xffu
-0x10 + 1e3
1.5e-3 + .5 + 1E2
-9223372036854775808 + 0
--7 + - 7
!!true || !(!false)
1 in [1] in [true]
1 < 2 == true
1 + 2 * 3 - 4 / 2 % 3
(1 + 2) * 3
true || false && false
true ? 1 : false ? 2 : 3
[1, 2, 3,].size() + {'a': 1,}.size()
// comment
1 // comment
self.x
foo(1)
n.foo()
'a' + 1
1 == '1'
1 + 1.0
[1].all(1, true)
n.all(i, true)
n.x
s.startsWith(1)
size(1)
1 && true
namespace
x.namespace
x.true
1 +
1 + + 2
(1
[1
{1}
{'a': }
f(1,)
1 2
1 = 2
'abc
'\q'
!-n
-!true
@
a.
9223372036854775808
-9223372036854775809
18446744073709551616u
"""


def _plain(value: Any) -> Any:
    """A value of either side in a form in which both agree (the witness has microseconds)."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, UInt) else value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, list):
        return [_plain(element) for element in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(element) for key, element in value.items()}
    if isinstance(value, Timestamp):
        return EPOCH + datetime.timedelta(microseconds=value.nanoseconds // 1000)
    if isinstance(value, Duration):
        return datetime.timedelta(microseconds=value.nanoseconds // 1000)
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=datetime.UTC)
    return value


def _ours(text: str) -> tuple[str, Any]:
    try:
        return "value", _plain(ENVIRONMENT.compile(text).evaluate(DATA).value)
    except CompileError as error:
        return "refused", error
    except CelError:
        return "failed", None


@pytest.fixture(scope="module")
def witness() -> Any:
    kinds = cel.Type
    variables = {
        "x": kinds.DYN,
        "n": kinds.INT,
        "s": kinds.STRING,
        "l": kinds.List(kinds.INT),
        "m": kinds.Map(kinds.STRING, kinds.INT),
    }
    return cel.NewEnv(variables=variables, extensions=[optional.ExtOptional()])


def _theirs(witness: Any, text: str) -> tuple[str, Any]:
    try:
        program = witness.compile(text)
    except Exception as error:
        return "refused", str(error)
    result = program.eval(data=DATA)
    if result.type().name() == "ERROR":
        return "failed", None
    return "value", _plain(result.plain_value())


@pytest.mark.parametrize("text", _expressions())
def test_both_implementations_agree(witness: Any, text: str) -> None:
    ours, theirs = _ours(text), _theirs(witness, text)
    if ours[0] == theirs[0] == "refused":
        return
    assert ours == theirs


SAME_TEXT = [
    "1 == 1.0",
    "'a' + 1",
    "true ? 1 : 'a'",
    "foo(1)",
    "s.foo(n)",
    "size(1)",
    "namespace",
    "x + y",
    "1 = 2",
    "self = 42",
    "1 2",
    "1 +",
    "1 + $",
    "*a",
    "{1}",
    "{",
    "x{",
    "f(1,)",
    "(1",
    "[1",
    "x[1",
    "f()[",
    "x.",
    "TestAllTypes(){}",
    "'abc",
    '"\\xFh"',
    "'\\q'",
    "'''a",
    "9223372036854775808",
    "!-n",
    "-",
    "- ? 1",
    "n.?1",
    "f(1 2)",
    "f(,1)",
    "(1, 2)",
    "x[1 2]",
    "[1 2, 3]",
    "[1,, 2]",
    "[,1]",
    "{'a' 1}",
    "{'a': 1 'b': 2}",
    "{'a': 1, : 2}",
    "T{1: 2}",
    "T{a 1}",
    "T{a: 1,, b: 2}",
    "true ? 1",
    "true ? [1, : 2",
    "\"héllo\" + 'wörld' + 1",
]


@pytest.mark.parametrize("text", SAME_TEXT)
def test_compile_errors_read_the_same(witness: Any, text: str) -> None:
    kind, ours = _ours(text)
    assert kind == "refused"
    first = str(ours).partition("\n")[0]
    with pytest.raises(Exception, match="INVALID_ARGUMENT") as caught:
        witness.compile(text)
    assert first in str(caught.value).replace(r"\u003F", "?")
