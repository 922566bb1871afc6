"""`jsonpatch.escapeKey`: a key as one step of a JSON pointer (RFC 6901 section 3)."""

from __future__ import annotations

from sampan.kube.cel.functions import Library, function
from sampan.kube.cel.types import STRING


def _escape(text: str) -> str:
    return text.replace("~", "~0").replace("/", "~1")


FUNCTIONS: Library = {
    "jsonpatch.escapeKey": [
        function("string_jsonpatch_escapeKey_string", (STRING,), STRING, _escape)
    ]
}
