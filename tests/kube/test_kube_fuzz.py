"""Nonsense of every kind goes through decoding, defaulting, validation and warnings, and comes out as causes."""

from __future__ import annotations

import copy
import os

import orjson
import pytest
from kube_nonsense import Writer

from sampan.kube import decode, defaulting, schema, validation
from sampan.kube.errors import ApiError, Cause
from sampan.kube.types import GVK
from sampan.kube.warnings import warnings_for

EACH = 2_000 if "SAMPAN_SOAK" in os.environ else 30
KINDS = sorted(
    (key, name) for key, name in schema.kinds().items() if "metadata" in schema.fields(name)
    and not key.endswith("List")
)  # fmt: skip


@pytest.mark.parametrize(("key", "name"), KINDS, ids=[key for key, _ in KINDS])
def test_nonsense_is_told_from_sense(key: str, name: str) -> None:
    group, version, kind = key.split("/")
    gvk = GVK(group, version, kind)
    for seed in range(EACH):
        writer = Writer(seed)
        new = read(writer.object(gvk.api_version, kind, name), gvk)
        if new is None:
            continue
        old, seen = read(writer.changed(new, name), gvk), orjson.dumps(new)
        try:
            well_formed(validation.validate_create(gvk, new))
            assert all(isinstance(each, str) for each in warnings_for(gvk, new, None))
            if old is not None:
                for subresource in (
                    "",
                    "status",
                    *(("resize", "ephemeralcontainers") * (kind == "Pod")),
                ):
                    well_formed(
                        validation.validate_update(gvk, new, copy.deepcopy(old), subresource)
                    )
                warnings_for(gvk, new, old)
        except Exception as error:
            error.add_note(f"seed {seed}: {seen.decode()}")
            raise
        assert orjson.dumps(new) == seen, f"seed {seed}: validation changed the object"


def read(obj: dict[str, object], gvk: GVK) -> dict[str, object] | None:
    """As the server takes it in; None for what it refuses to read."""
    try:
        found, _ = decode.decode(orjson.dumps(obj), "application/json", gvk)
    except ApiError:
        return None
    defaulting.default(gvk, found)
    return found


def well_formed(causes: list[Cause]) -> None:
    for cause in causes:
        assert cause.reason and isinstance(cause.field, str)
        orjson.dumps([cause.message, cause.field])
