"""Values that fit the schema of a kind, for property tests."""

from hypothesis import strategies as st

from sampan.kube import schema

_SCALARS = {
    "string": st.sampled_from(["", "a", "Always", "10.0.0.1", "/x", "Int32", "web-1"]),
    "integer": st.integers(-1, 5),
    "boolean": st.booleans(),
    "number": st.just(1.5),
}
_SPECIAL = {
    schema.QUANTITY: st.sampled_from(["0", "1", "100m", "1Gi", "-1"]),
    schema.INT_OR_STRING: st.sampled_from([0, 1, "25%", "0%", "http"]),
    schema.TIME: st.just("2026-01-01T00:00:00Z"),
    schema.MICRO_TIME: st.just("2026-01-01T00:00:00.000000Z"),
}
MAX_DEPTH = 7


def of_node(node, depth):
    if name := node.get("$ref"):
        if name in _SPECIAL:
            return _SPECIAL[name]
        properties = schema.fields(name)
        if not properties or depth > MAX_DEPTH:
            return st.just({})
        chosen = st.lists(st.sampled_from(sorted(properties)), max_size=4, unique=True)
        return chosen.flatmap(
            lambda fields: st.fixed_dictionaries(
                {field: of_node(properties[field], depth + 1) for field in fields}
            )
        )
    kind = node.get("type")
    if kind == "array":
        return st.lists(of_node(node["items"], depth + 1), max_size=2)
    if kind == "object":
        inner = node.get("additionalProperties") or {}
        return st.dictionaries(
            st.sampled_from(["a", "cpu", "storage"]), of_node(inner, depth + 1), max_size=2
        )
    if node.get("format") == "byte":
        return st.just("aGk=")
    return _SCALARS.get(kind, st.just({}))


def fitting(key):
    """Objects of the kind `group/version/Kind`, with a spec more often than by chance."""
    name = schema.kinds()[key]
    properties = schema.fields(name)
    fields = {
        field: of_node(properties[field], 1)
        for field in ("metadata", "spec")
        if field in properties
    }
    return st.one_of(of_node({"$ref": name}, 0), st.fixed_dictionaries(fields))
