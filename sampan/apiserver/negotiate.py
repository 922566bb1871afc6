"""Content negotiation: which form of an answer a client asked for, and whether a body's type can be read.

Kubernetes clients list several types in Accept, best first (`application/json;as=Table;v=v1;g=meta.k8s.io,application/json`);
the best that we speak wins. We speak JSON, YAML for single answers, and the two meta.k8s.io forms Table and
PartialObjectMetadata(List). Protobuf is read, since kubectl's typed commands send it, and never written: clients that accept it
accept JSON as well.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from sampan.kube import errors
from sampan.kube.errors import ApiError

JSON = "application/json"
YAML = "application/yaml"
YAML_TYPES = (YAML, "text/yaml")
PROTOBUF = "application/vnd.kubernetes.protobuf"


class Form(NamedTuple):
    """`kind`: "" for the object itself, "Table", "PartialObjectMetadata" or "PartialObjectMetadataList"."""

    kind: str = ""
    version: str = "v1"
    media_type: str = JSON

    @property
    def partial(self) -> bool:
        return self.kind.startswith("PartialObjectMetadata")


PLAIN = Form()
_FORMS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")


@lru_cache(maxsize=512)
def accepted(header: str) -> Form:
    """The form that the Accept header asks for. Raises ApiError 406 when we speak none of its types."""
    if not header or header in (JSON, "*/*"):
        return PLAIN
    for media_type, values in _clauses(header):
        if media_type in YAML_TYPES:
            found = Form(media_type=YAML)
        elif media_type in (JSON, "*/*", "application/*"):
            found = PLAIN
        else:
            continue
        kind = values.get("as", "")
        if not kind:
            if values.get("g"):
                continue
            return found
        if kind in _FORMS and values.get("g", "meta.k8s.io") == "meta.k8s.io":
            version = values.get("v", "v1")
            if version in ("v1", "v1beta1"):
                return Form(kind, version, found.media_type)
    raise speaks_only(JSON, YAML)


def speaks_only(*types: str) -> ApiError:
    """406: what could be answered instead, as Kubernetes words it."""
    return errors.not_acceptable("only the following media types are accepted: " + ", ".join(types))


def _clauses(header: str) -> list[tuple[str, dict[str, str]]]:
    """Media types with their parameters, the client's favourite first (RFC 9110 §12.5.1); q=0 is a refusal."""
    found = []
    for clause in header.split(","):
        media_type, *parameters = (part.strip() for part in clause.split(";"))
        values = dict(part.split("=", 1) for part in parameters if "=" in part)
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 1.0
        if quality > 0:
            found.append((quality, media_type.lower(), values))
    found.sort(key=lambda each: -each[0])
    return [(media_type, values) for _, media_type, values in found]


def media_type(content_type: str) -> str:
    """The bare media type, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def readable(content_type: str, *, protobuf: bool = True) -> str:
    """The body's media type when we can decode it. Raises ApiError 415."""
    found = media_type(content_type) or JSON
    if found in (JSON, *YAML_TYPES, "application/x-yaml") or (protobuf and found == PROTOBUF):
        return found
    raise unreadable(JSON, YAML, *((PROTOBUF,) if protobuf else ()))


def unreadable(*types: str) -> ApiError:
    """415: what could be read instead, as Kubernetes words it."""
    return errors.unsupported_media_type(
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(types)
    )
