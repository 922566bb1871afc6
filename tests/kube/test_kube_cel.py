"""CEL: what Kubernetes adds to the language, schemas as types, and bounds on what an expression may cost."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kube import cel
from sampan.kube.cel.library.authorizer import AUTHORIZER, Decision, Question, authorizer
from sampan.kube.cel.names import escape, unescape
from sampan.kube.cel.types import DynamicObject

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "replicas": {"type": "integer"},
        "ratio": {"type": "number"},
        "start": {"type": "string", "format": "date-time"},
        "day": {"type": "string", "format": "date"},
        "wait": {"type": "string", "format": "duration"},
        "data": {"type": "string", "format": "byte"},
        "a-b.c/d": {"type": "string"},
        "namespace": {"type": "string"},
        "port": {"x-kubernetes-int-or-string": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "unknown": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "rules": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "value": {"type": "integer"}},
            },
        },
    },
}
VALUE: dict[str, Any] = {
    "apiVersion": "x/v1",
    "kind": "X",
    "metadata": {"name": "n", "namespace": "hidden"},
    "replicas": 3,
    "ratio": 1,
    "start": "2024-02-29T12:00:00.5Z",
    "day": "2024-02-29",
    "wait": "90s",
    "data": "aGk=",
    "a-b.c/d": "escaped",
    "namespace": "here",
    "port": "50%",
    "labels": {"app": "web", "x/y": "z"},
    "set": ["a", "b"],
    "rules": [{"name": "a", "value": 1}, {"name": "b", "value": 2}],
}


def value(expression: str, variables: dict[str, Any] | None = None, **bindings: Any) -> Any:
    return cel.compile(expression, variables or {}).evaluate(bindings)


@pytest.mark.parametrize(
    "expression",
    [
        "self.replicas == 3 && self.metadata.name == 'n' && self.kind == 'X'",
        "self.ratio == 1.0 && type(self.ratio) == double",
        "self.start.getFullYear() == 2024 && self.start > timestamp('2024-01-01T00:00:00Z')",
        "self.day == timestamp('2024-02-29T00:00:00Z')",
        "self.wait == duration('1m30s')",
        "self.data == b'hi'",
        "self.a__dash__b__dot__c__slash__d == 'escaped' && self.__namespace__ == 'here'",
        "type(self.port) == string ? self.port.endsWith('%') : self.port == 80",
        "self.labels['x/y'] == 'z' && self.labels.all(k, size(k) > 0) && 'app' in self.labels",
        "self.set == ['b', 'a'] && self.set + ['a', 'c'] == ['c', 'b', 'a']",
        "self.rules == old.rules && self.set == old.set && size(self.rules + old.rules) == 2",
        "!has(self.unknown) && has(self.labels.app) && !has(self.labels.none)",
        "self.?labels.?none.orValue('x') == 'x'",
    ],
)
def test_values_of_a_schema(expression: str) -> None:
    of_schema = cel.from_schema(SCHEMA, root=True)
    program = cel.compile(expression, {"self": of_schema, "old": of_schema}, result="bool")
    turned = {**VALUE, "rules": VALUE["rules"][::-1], "set": VALUE["set"][::-1]}
    assert program.evaluate({"self": VALUE, "old": turned}) is True


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("self.none", "ERROR: <input>:1:5: undefined field 'none'\n | self.none\n | ....^"),
        ("self.metadata.namespace", "undefined field 'namespace'"),
        ("self.unknown.x", "undefined field 'x'"),
        (
            "self.replicas == 'a'",
            "found no matching overload for '_==_' applied to '(int, string)'",
        ),
        ("self.replicas", "must evaluate to bool"),
        ("has(self)", "invalid argument to has() macro"),
        ("self.labels.all(1, true)", "argument must be a simple name"),
        ("self.replicas ==", "Syntax error: mismatched input '<EOF>'"),
        ("self.start > timestamp('x')", "invalid timestamp argument"),
        ("'a'.matches('[')", "invalid matches argument"),
    ],
)
def test_faults_are_found_when_written(expression: str, message: str) -> None:
    with pytest.raises(cel.CompileError) as raised:
        cel.compile(expression, {"self": cel.from_schema(SCHEMA, root=True)}, result="bool")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "expression",
    [
        # lists
        "[1, 2, 2].isSorted() && ![2, 1].isSorted() && ['a', 'b'].isSorted()",
        "[1, 2].sum() == 3 && [1.5].sum() == 1.5 && [duration('1m')].sum() == duration('60s')",
        "[3, 1].min() == 1 && ['a', 'b'].max() == 'b'",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && ['a'].indexOf('b') == -1",
        "[3, 1, 2].sort() == [1, 2, 3] && ['bb', 'a'].sortBy(x, size(x)) == ['a', 'bb']",
        "[1, 1, 2].distinct() == [1, 2] && [1, 2].reverse() == [2, 1] && lists.range(2) == [0, 1]",
        "[1, 2, 3].slice(1, 3) == [2, 3] && [[1], [2]].flatten() == [1, 2]",
        "[1].first().value() == 1 && ![1].slice(0, 0).last().hasValue()",
        # two variables
        "[1, 2].all(i, v, v == i + 1) && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[1, 2].transformList(i, v, i * v) == [0, 2] && [1, 2].transformList(i, v, i > 0, v) == [2]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "{'a': 'x'}.transformMapEntry(k, v, {v: k}) == {'x': 'a'}",
        "[1, 2].existsOne(i, v, v == 2)",
        # regex
        "'abc 123'.find('[0-9]+') == '123' && 'abc'.find('[0-9]') == ''",
        "'1 a 2'.findAll('[0-9]') == ['1', '2'] && '1 2'.findAll('[0-9]', 1) == ['1']",
        # url
        "url('https://u@h.example:80/a%20b?x=1&x=2#f').getHost() == 'u@h.example:80' || true",
        "url('https://h:80/p').getPort() == '80' && url('https://h/p').getScheme() == 'https'",
        "url('https://[::1]:80/p').getHostname() == '::1'",
        "url('/a b').getEscapedPath() == '/a%20b' || isURL('/a') && !isURL('a') && !isURL('../a')",
        "url('https://h/?k=a&k=b').getQuery() == {'k': ['a', 'b']}",
        # quantity
        "isQuantity('1.3Gi') && !isQuantity('1.3Gigs') && quantity('50k').asInteger() == 50000",
        "quantity('50k').sub(20) == quantity('49980') && quantity('1k').add('1' == '1' ? 1 : 2) == quantity('1001')",
        "quantity('200M').compareTo(quantity('0.2G')) == 0 && sign(quantity('-1')) == quantity('-2').sign()",
        "quantity('50.703k').asApproximateFloat() == 50703.0 && !quantity('0.5').isInteger()",
        "quantity('150Mi').isGreaterThan(quantity('100Mi')) && quantity('1').isLessThan(quantity('2'))",
        # ip, cidr
        "ip('::1').family() == 6 && ip('127.0.0.1').isLoopback() && isIP('10.0.0.1') && !isIP('10.0.0.01')",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "ip('0.0.0.0').isUnspecified() && ip('224.0.0.1').isLinkLocalMulticast()",
        "ip('169.254.169.254').isLinkLocalUnicast() && ip('192.168.0.1').isGlobalUnicast()",
        "!ip('255.255.255.255').isGlobalUnicast() && string(ip('10.0.0.1')) == '10.0.0.1'",
        "!isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR('10.0.0.0/8')",
        "cidr('10.0.0.0/8').containsIP(ip('10.1.1.1')) && cidr('10.0.0.1/8').ip() == ip('10.0.0.1')",
        "isCIDR('::/0') && !isCIDR('10.0.0.0/33') && string(cidr('10.0.0.0/8')) == '10.0.0.0/8'",
        # format
        "!format.dns1123Label().validate('web-1').hasValue()",
        "format.dns1123Label().validate('Web').value().size() == 1",
        "format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000') == optional.none()",
        "!format.named('nothing').hasValue() && format.byte().validate('!').hasValue()",
        "format.date().validate('2021-01-01') == optional.none() && format.uri().validate('x').hasValue()",
        # semver
        "semver('1.0.0-alpha.1').isLessThan(semver('1.0.0')) && semver('v1.0', true) == semver('1.0.0')",
        "semver('1.2.3').minor() == 2 && !isSemver('1.2') && isSemver('1.2.3-rc.1+b')",
        "semver('1.2.3').compareTo(semver('1.10.0')) == -1",
        # sets, strings, json patch
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2])",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'%s %s'.format(['a', 'b']) == 'a b' && '%d%%'.format([5]) == '5%' && '%.1f'.format([1.25]) == '1.2'",
        "'%x %X %o %b'.format([255, 255, 8, 5]) == 'ff FF 10 101' && '%e'.format([1.5]) == '1.500000e+00'",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ],
)
def test_kubernetes_libraries(expression: str) -> None:
    assert value(expression) is True


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("quantity('x').isInteger()", "quantities must match the regular expression"),
        ("quantity('0.5').asInteger() == 1", "cannot convert value to integer"),
        ("ip('x').family() == 4", 'IP Address "x" parse error'),
        ("url('x').getHost() == ''", "invalid URI for request"),
        ("[].min() == 1", "min called on empty list"),
        ("{'a': 1}['b'] == 1", "no such key: b"),
        ("[1][5] == 1", "index out of bounds: 5"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("'a'.matches(dyn('['))", "error parsing regexp"),
        ("dyn(1) + 'a' == 'a'", "no such overload"),
    ],
)
def test_what_has_no_answer(expression: str, message: str) -> None:
    program = cel.compile(expression, {})
    with pytest.raises(cel.EvaluationError, match=message.replace("(", r"\(").replace(")", r"\)")):
        program.evaluate({})


def test_authorizer_asks_what_was_built() -> None:
    asked: list[Question] = []

    def check(question: Question) -> Decision:
        asked.append(question)
        return Decision(question.verb == "get", "because")

    source = (
        "authorizer.group('apps').resource('deployments').subresource('scale').namespace('n').name('x')"
        ".labelSelector('a=b').check('get').allowed() && "
        "!authorizer.serviceAccount('ns', 'sa').path('/healthz').check('post').allowed()"
    )
    assert value(source, {"authorizer": AUTHORIZER}, authorizer=authorizer(check)) is True
    assert asked[0] == Question(
        group="apps",
        resource="deployments",
        subresource="scale",
        namespace="n",
        name="x",
        label_selector="a=b",
        verb="get",
    )
    with pytest.raises(cel.BudgetExceeded):
        value(
            "[1, 2, 3].all(x, authorizer.path('/x').check('get').allowed())",
            {"authorizer": AUTHORIZER},
            authorizer=authorizer(check),
        )
    assert asked[1] == Question(account=("ns", "sa"), path="/healthz", verb="post")


def test_objects_are_built_by_type_name() -> None:
    def objects(name: str) -> cel.Type | None:
        return DynamicObject(name) if name.split(".", maxsplit=1)[0] == "Object" else None

    source = "Object{spec: Object.spec{replicas: n, ?paused: optional.none()}}"
    program = cel.compile(source, {"n": cel.INT}, objects=objects)
    assert str(program.type) == "Object"
    assert cel.to_json(program.evaluate({"n": 2})) == {"spec": {"replicas": 2}}
    with pytest.raises(cel.CompileError, match="undeclared reference to 'Other'"):
        cel.compile("Other{}", {}, objects=objects)


def test_dotted_variables_and_shadowing() -> None:
    declared = {"a.b": cel.INT, "a": cel.map_of(cel.STRING, cel.INT)}
    assert value("a.b == 1 && a.c == 2", declared, a={"c": 2}, **{"a.b": 1}) is True
    assert value("[{'b': 5}].all(a, a.b == 5)", declared) is True


# Bounds

HEAVY = [
    "l.all(a, l.all(b, l.all(c, a + b + c >= 0)))",
    "l.map(a, l.map(b, l))",
    "l.map(x, s + s + s + s)",
    "l.map(x, s.replace('', s))",
    "[l.map(x, s)].map(x, x.join(s))",
    "l.map(x, '%s%s'.format([s, s]))",
    "l.all(x, !s.matches('(a|b)*c(d|e)*f'))",
    "l.all(x, l.all(y, l == l))",
    "l.map(x, l.map(y, l + l + l))",
    "lists.range(999999).map(x, lists.range(999999))",
    "l.map(x, l.map(y, l.map(z, s.split(''))))",
    "l.all(x, s.contains(s))",
    "l.map(x, l).flatten().map(x, l).flatten().map(x, l).flatten()",
    "l.map(x, s.findAll('.'))",
]


@pytest.mark.parametrize("expression", HEAVY)
def test_budget_bounds_time_and_memory(expression: str) -> None:
    program = cel.compile(expression, {"l": cel.list_of(cel.INT), "s": cel.STRING})
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(cel.BudgetExceeded):
        program.evaluate({"l": list(range(1000)), "s": "ab" * 100_000})
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) * 1024 < 200 << 20
    assert after.ru_utime - before.ru_utime < 20  # a bound at all: it takes a second at most


def test_budget_is_shared_and_runs_out() -> None:
    program = cel.compile("l.all(x, x >= 0)", {"l": cel.list_of(cel.INT)})
    budget = cel.Budget(total=5_000)
    items = list(range(500))
    assert program.evaluate({"l": items}, budget) is True
    assert 0 < budget.left < 4_000
    with pytest.raises(cel.BudgetExceeded):
        for _ in range(5):
            program.evaluate({"l": items}, budget)
    assert budget.left == 0


def test_budget_is_not_absorbed_by_or() -> None:
    program = cel.compile("l.all(a, l.all(b, l.all(c, true))) || true", {"l": cel.list_of(cel.INT)})
    with pytest.raises(cel.BudgetExceeded):
        program.evaluate({"l": list(range(500))})


def test_patterns_take_linear_time() -> None:
    started = time.process_time()
    assert value("s.matches('^(a+)+$')", {"s": cel.STRING}, s="a" * 50_000 + "!") is False
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "source",
    [
        "(" * 5000,
        "[" * 5000,
        "1" + "+1" * 5000,
        "a" + ".a" * 5000,
        "a" + "[0]" * 5000,
        "{" * 3000,
        "true ? " * 5000,
        "x.map(x, " * 2000,
        "'" * 99_999,
        "a" * 200_000,
    ],
)
def test_deep_nesting_is_refused(source: str) -> None:
    with pytest.raises(cel.CompileError):
        cel.compile(source, {"a": cel.DYN, "x": cel.DYN})


def test_long_chains_of_and_are_not_deep() -> None:
    assert value(" && ".join(["true"] * 2000)) is True


ATOMS = st.sampled_from(
    [
        "1",
        "1u",
        "2.5",
        "'a'",
        "b'a'",
        "true",
        "null",
        "[]",
        "{}",
        "x",
        "d",
        "d.a",
        "l",
        "m",
        "size(d)",
        *[
            "duration('1s')",
            "timestamp(0)",
            "quantity('1')",
            "ip('::1')",
            "optional.of(d)",
            "type(d)",
        ],
    ]
)
GROWN = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(
            inner,
            st.sampled_from(["+", "-", "*", "/", "%", "<", "<=", "==", "!=", "&&", "||", "in"]),
            inner,
        ).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})"),
        st.tuples(inner, inner).map(lambda p: f"{p[0]}[{p[1]}]"),
        st.tuples(inner, inner).map(lambda p: f"[{p[0]}, dyn({p[1]})]"),
        st.tuples(inner, inner).map(lambda p: f"{{{p[0]}: {p[1]}}}"),
        st.tuples(
            inner,
            st.sampled_from(["all", "exists", "map", "filter", "exists_one", "sortBy"]),
            inner,
        ).map(lambda p: f"{p[0]}.{p[1]}(x, {p[2]})"),
        st.tuples(
            inner,
            st.sampled_from(
                ["size", "sum", "min", "sort", "distinct", "reverse", "string", "trim"]
            ),
        ).map(lambda p: f"{p[0]}.{p[1]}()"),
        inner.map(lambda each: f"string({each})"),
        inner.map(lambda each: f"'%s'.format([{each}])"),
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
DECLARED = {
    "x": cel.DYN,
    "d": cel.DYN,
    "l": cel.list_of(cel.DYN),
    "m": cel.map_of(cel.STRING, cel.DYN),
}


@settings(max_examples=400, deadline=None)
@given(
    GROWN, JSON, st.lists(JSON, max_size=3), st.dictionaries(st.text(max_size=3), JSON, max_size=3)
)
def test_any_expression_on_any_input_ends_well(
    source: str, d: Any, items: Any, entries: Any
) -> None:
    try:
        cel.compile(source, DECLARED).evaluate({"x": d, "d": d, "l": items, "m": entries})
    except cel.CelError:
        pass


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="ab1.,()[]{}?:!&|=<>+-*/%'\"\\ \n`_ux", max_size=30))
def test_any_text_compiles_or_is_refused(source: str) -> None:
    try:
        cel.compile(source, DECLARED)
    except cel.CompileError as error:
        assert str(error)


@given(st.text(alphabet="abc_-./", min_size=1, max_size=12))
def test_escaped_names_come_back(name: str) -> None:
    escaped = escape(name)
    assert escaped is not None
    assert unescape(escaped) == name
