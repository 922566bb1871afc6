"""JSON patch, RFC 6902, with the limits and failures of Kubernetes.

Own code rather than the `jsonpatch` library: that one accepts what Kubernetes refuses and words failures its own way,
bounds neither the number of operations nor what `copy` adds up to, and deep-copies with `copy.deepcopy`. Ten thousand
operations at most, and copies may add 3 MiB in all: doubling copies would reach a terabyte in forty operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from sampan.kube.errors import quote, too_large
from sampan.kube.objects import clone
from sampan.kube.patch.failures import does_not_apply, malformed

MAX_OPERATIONS: Final = 10_000
MAX_COPIED_BYTES: Final = 3 * 1024 * 1024

_MISSING: Final = object()


class _Missing(Exception):
    """A pointer leads nowhere."""


def json_patch(obj: dict[str, Any], operations: Any) -> dict[str, Any]:
    """The object after all operations, in order; none is kept when one fails.

    ApiError 400: no list of objects; 413: too many operations; 422: does not apply, a failed `test` included. The
    library of Kubernetes sees an unknown operation or a missing member only while it applies the patch: 422 as well.
    """
    if not isinstance(operations, list):
        raise malformed("json: cannot unmarshal the patch into Go value of type jsonpatch.Patch")
    if len(operations) > MAX_OPERATIONS:
        raise too_large(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        )
    return _Patcher(clone(obj)).run([_checked(item) for item in operations])


def _checked(operation: Any) -> dict[str, Any]:
    """Well-formed by itself: a known operation with the members that it needs (RFC 6902 section 4)."""
    if not isinstance(operation, dict):
        raise malformed(
            "json: cannot unmarshal an operation into Go value of type jsonpatch.Operation"
        )
    name = operation.get("op")
    if not isinstance(name, str) or name not in _OPERATIONS:
        raise does_not_apply(f"Unexpected kind: {name}")
    needed = ("path", "from") if name in ("move", "copy") else ("path",)
    for member in needed:
        pointer = operation.get(member)
        if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
            raise does_not_apply(f"{name} operation: {member} is not a JSON pointer: {pointer!r}")
    if name in ("add", "replace", "test") and "value" not in operation:
        raise does_not_apply(f"{name} operation: value is missing")
    return operation


def _tokens(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _index(items: list[Any], token: str, *, insert: bool) -> int:
    """A list position. `-` is behind the last; negative positions count from the end, as Kubernetes' library allows."""
    limit = len(items) + insert
    if token == "-" and insert:
        return len(items)
    digits = token.removeprefix("-")
    if (
        not digits.isdecimal()
        or not digits.isascii()
        or len(digits) > 9
        or (digits[0] == "0" and digits != "0")
    ):
        raise _Missing(f"invalid array index {quote(token)}")
    position = int(token) + (limit if token.startswith("-") else 0)
    if not 0 <= position < limit:
        raise _Missing(f"Unable to access invalid index: {token}: invalid index referenced")
    return position


def _step(node: Any, token: str) -> Any:
    if isinstance(node, dict):
        if token not in node:
            raise _Missing("missing value")
        return node[token]
    if isinstance(node, list):
        return node[_index(node, token, insert=False)]
    raise _Missing("missing value")


class _Patcher:
    def __init__(self, document: Any) -> None:
        self.document = document
        self.copied = 0

    def run(self, operations: list[dict[str, Any]]) -> dict[str, Any]:
        for operation in operations:
            try:
                _OPERATIONS[operation["op"]](self, operation)
            except _Missing as error:
                text = (
                    f"{operation['op']} operation does not apply: "
                    f"doc is missing path: {quote(operation['path'])}: {error}"
                )
                raise does_not_apply(text) from error
        if not isinstance(self.document, dict):
            raise does_not_apply("the patch leaves no object")
        return self.document

    def find(self, pointer: str) -> Any:
        node = self.document
        for token in _tokens(pointer):
            node = _step(node, token)
        return node

    def holder(self, pointer: str) -> tuple[Any, str]:
        *parents, last = _tokens(pointer)
        node = self.document
        for token in parents:
            node = _step(node, token)
        return node, last

    def put(self, pointer: str, value: Any) -> None:
        if not pointer:
            self.document = value
            return
        node, token = self.holder(pointer)
        if isinstance(node, dict):
            node[token] = value
        elif isinstance(node, list):
            node.insert(_index(node, token, insert=True), value)
        else:
            raise _Missing("missing value")

    def take(self, pointer: str) -> Any:
        if not pointer:
            value, self.document = self.document, None
            return value
        node, token = self.holder(pointer)
        value = _step(node, token)
        if isinstance(node, dict):
            del node[token]
        else:
            del node[_index(node, token, insert=False)]
        return value

    def add(self, operation: dict[str, Any]) -> None:
        self.put(operation["path"], clone(operation["value"]))

    def remove(self, operation: dict[str, Any]) -> None:
        self.take(operation["path"])

    def replace(self, operation: dict[str, Any]) -> None:
        pointer, value = operation["path"], clone(operation["value"])
        if not pointer:
            self.document = value
            return
        node, token = self.holder(pointer)
        _step(node, token)
        node[token if isinstance(node, dict) else _index(node, token, insert=False)] = value

    def move(self, operation: dict[str, Any]) -> None:
        source, target = operation["from"], operation["path"]
        if target.startswith(f"{source}/"):
            raise does_not_apply(f"move operation does not apply: {target} is inside {source}")
        self.put(target, self.take(source))

    def copy(self, operation: dict[str, Any]) -> None:
        packed = orjson.dumps(self.find(operation["from"]))
        self.copied += len(packed)
        if self.copied > MAX_COPIED_BYTES:
            raise does_not_apply(
                "Unable to complete the copy, the accumulated size increase of copy is "
                f"{self.copied}, exceeding the limit {MAX_COPIED_BYTES}"
            )
        self.put(operation["path"], orjson.loads(packed))

    def test(self, operation: dict[str, Any]) -> None:
        path, wanted = operation["path"], operation["value"]
        try:
            found = self.find(path)
        except _Missing:
            found = _MISSING if wanted is not None else None
        if found is _MISSING or not equal(found, wanted):
            raise does_not_apply(f"testing value {path} failed: test failed")


_OPERATIONS: dict[str, Callable[[_Patcher, dict[str, Any]], None]] = {
    "add": _Patcher.add,
    "remove": _Patcher.remove,
    "replace": _Patcher.replace,
    "move": _Patcher.move,
    "copy": _Patcher.copy,
    "test": _Patcher.test,
}


def equal(one: Any, other: Any) -> bool:
    """JSON equality (RFC 6902 section 4.6): numbers by value, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
