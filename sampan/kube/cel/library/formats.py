"""Named formats: `format.dns1123Label().validate(x)` is none, or the list of what is wrong.

https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-format-library
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import NamedTuple

from sampan.kube import names
from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function, method
from sampan.kube.cel.library import urls
from sampan.kube.cel.moments import parse_date, parse_timestamp
from sampan.kube.cel.types import STRING, list_of, opaque, optional_of
from sampan.kube.cel.values import NONE, Opaque, Optional

FORMAT = opaque("kubernetes.NamedFormat")
_UUID = re.compile(
    r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\Z", re.ASCII
)


class Format(NamedTuple):
    name: str
    check: Callable[[str], list[str]]
    pattern_size: int  # what a check costs: characters of the pattern that Kubernetes reckons with


def _parses(parse: Callable[[str], object], message: str) -> Callable[[str], list[str]]:
    def check(text: str) -> list[str]:
        try:
            parse(text)
        except (EvaluationError, ValueError, binascii.Error):
            return [message]
        return []

    return check


def _uri(text: str) -> list[str]:
    try:
        urls.parse(text)
    except EvaluationError as error:
        return [str(error).removeprefix("URL parse error during conversion from string: ")]
    return []


def _uuid(text: str) -> list[str]:
    return [] if _UUID.match(text) else ["does not match the UUID format"]


FORMATS = {
    each.name: each
    for each in (
        Format("dns1123Label", names.dns1123_label, 30),
        Format("dns1123Subdomain", names.dns1123_subdomain, 60),
        Format("dns1035Label", names.dns1035_label, 30),
        Format("qualifiedName", names.qualified_name, 60),
        Format("dns1123LabelPrefix", names.for_prefix(names.dns1123_label), 30),
        Format("dns1123SubdomainPrefix", names.for_prefix(names.dns1123_subdomain), 60),
        Format("dns1035LabelPrefix", names.for_prefix(names.dns1035_label), 30),
        Format("labelValue", names.label_value, 40),
        Format("uri", _uri, 1103),
        Format("uuid", _uuid, 78),
        Format(
            "byte",
            _parses(lambda text: base64.b64decode(text, validate=True), "invalid base64"),
            84,
        ),
        Format("date", _parses(parse_date, "invalid date"), 125),
        Format("datetime", _parses(parse_timestamp, "invalid datetime"), 125),
    )
}


def _constant(found: Format) -> Callable[[], Opaque]:
    value = Opaque(FORMAT, found)
    return lambda: value


def _named(name: str) -> Optional:
    found = FORMATS.get(name)
    return NONE if found is None else Optional(Opaque(FORMAT, found))


def _validate(format_: Opaque, text: str) -> Optional:
    wrong = format_.value.check(text)
    return Optional(wrong) if wrong else NONE


FUNCTIONS: Library = {
    "format.named": [function("format-named", (STRING,), optional_of(FORMAT), _named)],
    "validate": [
        method("format-validate", (FORMAT, STRING), optional_of(list_of(STRING)), _validate)
    ],
    **{
        f"format.{name}": [function(f"format.{name}", (), FORMAT, _constant(found))]
        for name, found in FORMATS.items()
    },
}
