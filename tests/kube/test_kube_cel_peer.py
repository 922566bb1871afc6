"""The same expressions through Google's C++ implementation and through ours: same values, same refusals.

What the peer lacks (two-variable macros, Kubernetes' libraries, costs) is in `test_kube_cel.py`.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kube import cel
from sampan.kube.cel.values import NONE, Duration, Optional, Timestamp

peer = pytest.importorskip("cel_expr_python.cel")
ext_optional = pytest.importorskip("cel_expr_python.ext.ext_optional")
ext_strings = pytest.importorskip("cel_expr_python.ext.ext_strings")

DATA: dict[str, Any] = {
    "i": 7,
    "n": -3,
    "d": 2.5,
    "s": "hello wörld",
    "b": True,
    "l": [3, 1, 2],
    "w": ["x", "yy", "x"],
    "m": {"a": 1, "b": 2},
    "o": {"spec": {"replicas": 3, "name": "web", "list": [1, "a", None, 2.5]}, "null": None},
}
OURS = {
    "i": cel.INT,
    "n": cel.INT,
    "d": cel.DOUBLE,
    "s": cel.STRING,
    "b": cel.BOOL,
    "l": cel.list_of(cel.INT),
    "w": cel.list_of(cel.STRING),
    "m": cel.map_of(cel.STRING, cel.INT),
    "o": cel.DYN,
}
T = peer.Type
THEIRS = {
    "i": T.INT,
    "n": T.INT,
    "d": T.DOUBLE,
    "s": T.STRING,
    "b": T.BOOL,
    "l": T.List(T.INT),
    "w": T.List(T.STRING),
    "m": T.Map(T.STRING, T.INT),
    "o": T.DYN,
}

EXPRESSIONS = """
1 + 2 * 3 - 4 / 3 % 2
-7 / 2
-7 % 3
7 / -2
1 / 0
5 % 0
1.0 / 0.0
9223372036854775807 + 1
-9223372036854775808
-(-9223372036854775808)
9223372036854775807 * 2
1u - 2u
18446744073709551615u + 1u
0x1F + 0xau == 41u
0x1F
i + n * 2
d * 2.0
i + d
"a" + 'b' + r"\\n" + '''c'''
"\\u00e9\\n\\t\\"" == 'é\\n\\t"'
b"\\xff\\101" == b"\\377A"
i == 7 && d == 2.5
i == 7.0
dyn(i) == 7.0
dyn(i) == 7u
dyn(true) == 1
1 < 2 && 2u <= 2u && 1.5 > 1.0 && "a" < "b" && b"a" < b"b" && false < true
1 < 1.5
1u > -1
dyn(1) < "a"
true || 1 / 0 == 1
1 / 0 == 1 || true
false && 1 / 0 == 1
1 / 0 == 1 && false
1 / 0 == 1 && true
b ? 1 : 2
b ? 1 : "x"
!b
!!b
!i
i ? 1 : 2
size(l) + l.size() + size("wörld") + size(b"\\xff\\xfe") + size(m)
l[0] + l[2]
l[3]
l[-1]
m["a"] + m.b
m.c
m["c"]
has(m.a) && !has(m.c)
has(o.spec.name)
has(o.spec.nothing)
has(o.nothing.name)
has(m)
o.spec.replicas > 2
o.spec.replicas == 3.0
o.spec.name + "x"
o.spec.name > 3
o.spec.list[1] == "a"
o["null"] == null
o.none
1 in l
9 in l
"a" in m
"x" in w
1 in m
l.all(x, x > 0)
l.all(x, x > 1)
l.exists(x, x == 2)
l.exists_one(x, x > 1)
w.exists_one(x, x == "x")
l.map(x, x * 2)
l.map(x, x > 1, x * 2)
l.filter(x, x > 1)
m.all(k, k != "z")
m.map(k, m[k]).exists(v, v == 2)
m.exists(k, m[k] == 2)
l.all(x, l.exists(y, y == x))
[1, 0, 2].all(x, 4 / x > 0)
[0, 1].exists(x, 4 / x == 4)
[0, 2].all(x, 4 / x == 4)
[1, 2] + [3] == [1, 2, 3]
[1, [2]] == [1, [2]]
{"a": 1} == {"a": 1}
{"a": 1, "b": [1]} != {"b": [1], "a": 1}
{1: "a", true: "b", 2u: "c"}[1]
{1: "a", 1: "b"}
{"a": {"b": {"c": 1}}}.a.b.c
[]
{}
[] + [1]
type(1) == int && type(1u) == uint && type(1.0) == double && type("") == string
type(null) == null_type && type([]) == list && type({}) == map && type(b"") == bytes
type(type(1)) == type
type(true) == bool
int("42") + int(2.9) + int(-2.9) + int(3u)
int("x")
int(1e30)
uint(-1)
double("1.5e3")
double("x")
string(1) + string(true) + string(1u) + string("s") + string(b"b")
string(1.5) + "," + string(-0.25)
bytes("é")
string(b"\\xff")
bool("true") && !bool("0")
"abc".startsWith("ab") && "abc".endsWith("bc") && "abc".contains("b")
s.matches("^h.*d$")
"abc".matches("b")
"abc".matches("[")
matches("abc", "z")
s.size()
duration("1h30m") == duration("90m")
duration("-1.5s") < duration("0s")
duration("1h").getMinutes() + duration("90s").getSeconds() + duration("1s").getMilliseconds()
duration("x")
string(duration("1h30m1.5s"))
int(timestamp("2020-02-03T04:05:06Z"))
timestamp("2020-02-03T04:05:06.789Z").getMilliseconds()
timestamp("2020-02-03T04:05:06Z").getFullYear() + timestamp("2020-02-03T04:05:06Z").getMonth()
timestamp("2020-12-31T23:05:06Z").getDayOfYear()
timestamp("2020-02-03T04:05:06Z").getDayOfWeek()
timestamp("2020-02-03T04:05:06Z").getDate() - timestamp("2020-02-03T04:05:06Z").getDayOfMonth()
timestamp("2020-02-03T04:05:06Z").getHours("-08:00")
timestamp("2020-02-03T04:05:06Z").getHours("America/Los_Angeles")
timestamp("2020-02-03T04:05:06+02:00") == timestamp("2020-02-03T02:05:06Z")
timestamp("2020-02-03T04:05:06Z") - timestamp("2020-02-03T04:05:00Z") == duration("6s")
timestamp("2020-02-03T04:05:06Z") + duration("1h") > timestamp("2020-02-03T04:05:06Z")
string(timestamp("2020-02-03T04:05:06.120Z"))
timestamp("2020-13-03T04:05:06Z")
timestamp(0) == timestamp("1970-01-01T00:00:00Z")
optional.of(1).hasValue() && !optional.none().hasValue()
optional.of(1).value() + optional.none().orValue(2)
optional.none().value()
optional.of(1).or(optional.of(2)).value()
optional.ofNonZeroValue(0).hasValue()
m.?a.orValue(9) + m.?z.orValue(9)
m[?"a"].value()
l[?9].hasValue()
o.?spec.?name.orValue("none")
o.?nothing.name.orValue("none")
optional.of(2).optMap(x, x * 2).value()
optional.of(2).optFlatMap(x, optional.of(x * 3)).value()
[?optional.of(1), ?optional.none(), 2]
{?"a": optional.of(1), ?"b": optional.none()}
has(o.?spec.name)
"hello".charAt(1) + "hello".substring(1, 3) + "hello".substring(3)
"hello".charAt(9)
"hello".substring(3, 1)
"hello".indexOf("l") + "hello".lastIndexOf("l") + "hello".indexOf("z")
"hello".indexOf("l", 3)
"a,b,c".split(",")
"a,b,c".split(",", 2)
"abc".split("")
["a", "b"].join("-") + ["a", "b"].join()
"AbC".lowerAscii() + "AbC".upperAscii()
"  x ".trim()
"aXbX".replace("X", "-") + "aXbX".replace("X", "-", 1)
foo
foo(1)
i.foo()
i.foo
s[0]
l.a
l["a"]
[1, 2].all(x)
l.all(1, true)
[1].map(x, y)
(1
1 +
1 1
"abc
]
a.b.c
i = 1
1 == "a"
[1] == ["a"]
if
o.namespace
`a`
o.spec.`name`
"" == ''
1.e
.5 + 1.5e2
i.all(x, true)
null == null
o == null
o.spec != null
1 ? 2 : 3
b && i
[1].exists(x, x)
true ? o.spec.name : 1
type(o.spec) == map
m == {"a": 1.0, "b": 2}
dyn([1, 2]) == [1.0, 2.0]
0.1 + 0.2
1e300 * 1e300
-0.0
"%d %s %.2f".format([i, s, d])
"a" * 2
{"a": 1}.size()
""" + "\n".join(
    f"{left} {op} {right}"
    for op in ("<", "==", "+")
    for left in ("1", "1u", "1.0", "'a'", "true", "[1]", "null")
    for right in ("1", "1u", "1.0", "'a'", "true", "[1]", "null")
)

# Where the two are known to differ, and why.
DIFFERENT = {
    # Kubernetes compares numbers of different types (CrossTypeNumericComparisons).
    "1 < 1.5",
    "1u > -1",
    *(
        f"{left} < {right}"
        for left in ("1", "1u", "1.0")
        for right in ("1", "1u", "1.0")
        if left != right
    ),
    # Kubernetes judges literals when they are written (ValidateRegexLiterals and its like).
    '"abc".matches("[")',
    'duration("x")',
    'timestamp("2020-13-03T04:05:06Z")',
    # Kubernetes wants all items of a literal to be of one type (HomogeneousAggregateLiterals).
    '"%d %s %.2f".format([i, s, d])',
    '{1: "a", true: "b", 2u: "c"}[1]',
    "[1, [2]] == [1, [2]]",
    'm == {"a": 1.0, "b": 2}',
    '{"a": 1, "b": [1]} != {"b": [1], "a": 1}',
    # cel-go, which Kubernetes uses, differs from the C++ implementation.
    'string(duration("1h30m1.5s"))',
    'string(timestamp("2020-02-03T04:05:06.120Z"))',
    'duration("1h").getMinutes() + duration("90s").getSeconds() + duration("1s").getMilliseconds()',
}


def plain(value: Any) -> Any:
    """Either's value in a form that can be compared, with its type."""
    if isinstance(value, Optional):
        return ("optional", plain(value.value) if value is not NONE and value.present else None)
    if isinstance(value, Duration):
        return ("duration", value.nanos // 1000)
    if isinstance(value, Timestamp):
        return ("time", value.nanos // 1000)
    if isinstance(value, datetime.timedelta):
        return ("duration", value // datetime.timedelta(microseconds=1))
    if isinstance(value, datetime.datetime):
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        moment = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return ("time", (moment - epoch) // datetime.timedelta(microseconds=1))
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int):
        return ("int", int(value))
    if isinstance(value, float):
        return ("nan",) if math.isnan(value) else ("double", value)
    if isinstance(value, list):
        return ("list", [plain(each) for each in value])
    if isinstance(value, dict):
        return ("map", sorted((plain(key), plain(each)) for key, each in value.items()))
    return value


_ENV = peer.NewEnv(
    variables=THEIRS, extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings()]
)


def theirs(expression: str) -> tuple[str, Any]:
    try:
        compiled = _ENV.compile(expression)
    except Exception:
        return "compile", None
    try:
        result = compiled.eval(data=DATA)
        if result.type().name() in ("ERROR", "*error*", "error") or result.type() == T.ERROR:
            return "error", None
        return "value", plain(result.plain_value())
    except Exception:
        return "error", None


def ours(expression: str) -> tuple[str, Any]:
    try:
        program = cel.compile(expression, OURS)
    except cel.CompileError:
        return "compile", None
    try:
        return "value", plain(program.evaluate(DATA))
    except cel.EvaluationError:
        return "error", None


@pytest.mark.parametrize(
    "expression",
    [each for each in EXPRESSIONS.strip().split("\n") if each and each not in DIFFERENT],
)
def test_same_as_the_reference(expression: str) -> None:
    expression = expression.replace("\\\\", "\\")
    assert ours(expression) == theirs(expression)


@pytest.mark.parametrize(
    "expression", ["foo", "i + 'a'", "i.foo()", "l[0] + foo(1)", "l[0] == 'x'"]
)
def test_refusals_are_worded_and_pointed_at_as_the_reference_does(expression: str) -> None:
    with pytest.raises(cel.CompileError) as mine:
        cel.compile(expression, OURS)
    with pytest.raises(RuntimeError) as other:
        _ENV.compile(expression)
    assert str(mine.value) in str(other.value)


SYNTAX = [
    "i = 42", "i &  1", "i # 1", "i.", "i.1", "i..a", "(i", "i)", "i i", "1 +", "+ 1", "i ? 1", "[1", "[1 2]",
    "{1", "{1:", "{1:2", "o.f(1", "o.f(1,", '"abc', "'a\\q'", "l[1", "in", "i in", "if", "true.false", "o.in",
    "1..2", "0x", "1a", "a b c", "", "`", "o.{", "Foo{", "Foo{a", "!i !", "i == == b", "i && ", "&& i",
    '"\\u12"', "1u2", ".5.5", "9999999999999999999", 's == "abc\nd"', "i\n+\n* 2", "namespace",
]  # fmt: skip


@pytest.mark.parametrize("expression", SYNTAX)
def test_syntax_errors_are_worded_as_antlr_words_them(expression: str) -> None:
    with pytest.raises(cel.CompileError) as mine:
        cel.compile(expression, OURS)
    with pytest.raises(RuntimeError) as other:
        _ENV.compile(expression)
    first = str(mine.value).split("\n |")[0]
    told = str(other.value).removesuffix(" [INVALID_ARGUMENT]")
    assert first == told.removeprefix("INVALID_ARGUMENT: ").split("\n |")[0]


NUMBERS = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([0, 1, -1, 2, 10, (1 << 63) - 1, -(1 << 63)]),
)


@settings(max_examples=300, deadline=None)
@given(NUMBERS, NUMBERS, st.sampled_from(["+", "-", "*", "/", "%", "<", "<=", "==", "!=", ">"]))
def test_integers_compute_alike(left: int, right: int, op: str) -> None:
    expression = f"({left}) {op} ({right})"
    assert ours(expression) == theirs(expression)


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.sampled_from("+-*/<"))
def test_doubles_compute_alike(left: float, right: float, op: str) -> None:
    if math.isinf(left) or math.isinf(right):
        return
    expression = f"({left!r}) {op} ({right!r})"
    assert ours(expression) == theirs(expression)
