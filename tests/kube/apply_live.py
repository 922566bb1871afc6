"""A live object and those who write it, for the laws of server-side apply."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from sampan.kube.apply import fields, managers, operations, types
from sampan.kube.apply.managers import Managed
from sampan.kube.apply.updater import Kind, done
from sampan.kube.types import GVK

Object = dict[str, Any]

VERSION = "example.org/v1"
SCHEMA: Object = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "size": {"type": "integer"},
                "title": {"type": "string"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "whole": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "x-kubernetes-map-type": "atomic",
                },
                "set": {
                    "type": "array",
                    "items": {"type": "string"},
                    "x-kubernetes-list-type": "set",
                },
                "list": {"type": "array", "items": {"type": "string"}},
                "ports": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "port": {"type": "integer"},
                            "protocol": {"type": "string", "default": "TCP"},
                            "name": {"type": "string"},
                        },
                    },
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["port", "protocol"],
                },
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "limit": {"x-kubernetes-int-or-string": True},
            },
        }
    },
}
TYPE = types.of_custom(SCHEMA)
KIND = Kind({VERSION: TYPE}.get, lambda found: found)
DEPLOYMENT = types.of_kind(GVK("apps", "v1", "Deployment"))
POD = types.of_kind(GVK("", "v1", "Pod"))


def no_conversion(obj: Object, version: str) -> Object | None:
    raise AssertionError(f"nothing to convert to {version}")


class Live:
    """An object and its managers, written to in turn."""

    def __init__(self) -> None:
        self.obj: Object = {"apiVersion": VERSION, "kind": "Thing", "metadata": {"name": "x"}}
        self.managed: Managed = {}

    def apply(self, who: str, spec: Object | None, *, force: bool = False, time: str = "t") -> None:
        config: Object = {"apiVersion": VERSION, "kind": "Thing", "metadata": {"name": "x"}}
        if spec is not None:
            config["spec"] = spec
        steps = operations.applied(
            KIND, self.obj, config, dict(self.managed), who, VERSION, "", force, time
        )
        self.obj, self.managed = done(steps, no_conversion)

    def update(self, who: str, spec: Object, subresource: str = "", time: str = "t") -> None:
        new = {**self.obj, "spec": spec}
        steps = operations.updated(
            KIND,
            self.obj,
            new,
            dict(self.managed),
            who,
            VERSION,
            subresource,
            time,
            exists=bool(self.managed),
        )
        self.managed = done(steps, no_conversion)
        self.obj = new

    @property
    def spec(self) -> Object:
        return self.obj.get("spec") or {}

    def owned(self, who: str, operation: str = managers.APPLY) -> set[str]:
        return {
            fields.shown_path(path)
            for manager, owned in self.managed.items()
            if manager.name == who and manager.operation == operation
            for path in fields.paths(owned.fields)
        }


SPECS_NAMES = tuple(SCHEMA["properties"]["spec"]["properties"])

# Values of the type above, small enough to meet often.
WORDS = st.sampled_from("abc")
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(0, 2),
        "title": WORDS,
        "labels": st.dictionaries(WORDS, WORDS, max_size=3),
        "whole": st.dictionaries(WORDS, WORDS, max_size=2),
        "set": st.lists(WORDS, unique=True, max_size=3),
        "list": st.lists(WORDS, max_size=2),
        "ports": st.lists(
            st.fixed_dictionaries({"port": st.integers(1, 3)}, optional={"name": WORDS}),
            unique_by=lambda port: port["port"],
            max_size=3,
        ),
        "any": st.fixed_dictionaries(
            {}, optional={"word": WORDS, "deep": st.dictionaries(WORDS, WORDS, min_size=1)}
        ),
        "limit": st.one_of(st.integers(0, 1), WORDS),
    },
)


# An empty list is owned by nobody, here as in Kubernetes.
FULL = SPECS.map(
    lambda spec: {name: value for name, value in spec.items() if value not in ([], {})}
)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*SPECS_NAMES, "port", "name", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)
