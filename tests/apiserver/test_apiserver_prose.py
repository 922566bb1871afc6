"""What `kubectl explain` has to say: of fields that there are, with references that v3 keeps."""

from __future__ import annotations

import orjson

from sampan.apiserver.openapi import prose
from sampan.kube import schema


def definition(name: str) -> dict:
    raw = schema.raw_definition(prose.PREFIX + name)
    assert raw is not None, name
    return orjson.loads(prose.told(prose.PREFIX + name, raw))


def test_every_sentence_is_told() -> None:
    for name, texts in prose.TEXTS.items():
        known = definition(name)
        told = {field: each.get("description") for field, each in known["properties"].items()}
        told[""] = known.get("description")
        assert {field: told.get(field) for field in texts} == texts, name


def test_every_kind_says_what_its_parts_are() -> None:
    fields = definition("api.storage.v1.StorageClass")["properties"]
    assert fields["kind"]["description"] == prose.ROOT["kind"]
    meta = fields["metadata"]
    assert meta["description"] and meta["allOf"][0]["$ref"].endswith("ObjectMeta")
    assert "description" not in fields["provisioner"]
