"""The string formats that Kubernetes checks in CRD schemas; any other format is remembered and not checked.

Names and meaning: apiextensions `apiserver/validation/formats.go` and kube-openapi `strfmt`. A dash in a name counts for
nothing (`date-time` is `datetime`).
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from sampan.kube import names

Check = Callable[[str], bool]


def _full(pattern: str, flags: int = 0) -> Check:
    """Compiled when it is first needed (and kept, by `re`): few schemas use more than one or two formats."""
    return lambda text: re.fullmatch(pattern, text, flags) is not None


def _uri(text: str) -> bool:
    """As Go's url.ParseRequestURI: absolute, or a path from the root."""
    if not text or any(char in text for char in " \t\r\n\x7f"):
        return False
    if text.startswith("/"):
        return True
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text)) and bool(parts.scheme)


def _email(text: str) -> bool:
    """One address, with or without a display name (net/mail.ParseAddress)."""
    address = re.fullmatch(r"(?:[^<>]*<)?\s*([^<>@\s]+@[^<>@\s]+)\s*>?", text.strip())
    if address is None or ("<" in text) != (">" in text):
        return False
    local, _, domain = address[1].rpartition("@")
    dot_atom = r"[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*"
    return bool(re.fullmatch(dot_atom, local) or re.fullmatch(r'".*"', local)) and bool(
        re.fullmatch(dot_atom + r"|\[.*\]", domain)
    )


_HOST_LABEL: Final = r"[A-Za-z0-9\u00a1-\uffff](?:[A-Za-z0-9\u00a1-\uffff_-]{0,62})?"


def _hostname(text: str) -> bool:
    if not text or len(text) > 255:
        return False
    return all(
        re.fullmatch(_HOST_LABEL, label) and not label.endswith("-") for label in text.split(".")
    )


def _ipv4(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False


def _ipv6(text: str) -> bool:
    try:
        return "%" not in text and ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _cidr(text: str) -> bool:
    address, slash, length = text.partition("/")
    if not slash or not length.isdecimal() or "%" in address:
        return False
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return True


def _base64(text: str) -> bool:
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        return False
    return bool(text)


def _date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == 10


_MOMENT: Final = r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)"


def _datetime(text: str) -> bool:
    found = re.fullmatch(_MOMENT, text, re.ASCII)
    if found is None:
        return False
    try:
        datetime.fromisoformat(f"{found[1]}T{found[2].replace(':60', ':59')}")
    except ValueError:
        return False
    return True


_GO_DURATION: Final = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|[+-]?0"
_WORDED: Final = (
    r"\s*\d+\s*(?:ns|nanoseconds?|nano|us|µs|microseconds?|micro|ms|milliseconds?|millis?|milli|s|"
    r"secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)\s*"
)


def _duration(text: str) -> bool:
    return bool(re.fullmatch(_GO_DURATION, text) or re.fullmatch(_WORDED, text))


def _luhn(digits: str) -> bool:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_CARD: Final = (
    r"4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|"
    r"3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11}"
)


def _credit_card(text: str) -> bool:
    digits = re.sub(r"[^0-9]+", "", text)
    return bool(re.fullmatch(_CARD, digits)) and _luhn(digits)


def _isbn10(text: str) -> bool:
    plain = re.sub(r"[\s-]+", "", text)
    if not re.fullmatch(r"[0-9]{9}[0-9X]", plain):
        return False
    return sum((10 - i) * (10 if c == "X" else int(c)) for i, c in enumerate(plain)) % 11 == 0


def _isbn13(text: str) -> bool:
    plain = re.sub(r"[\s-]+", "", text)
    if not re.fullmatch(r"[0-9]{13}", plain):
        return False
    return sum(int(c) * (3 if i % 2 else 1) for i, c in enumerate(plain)) % 10 == 0


def _uuid(version: str = "", variant: str = "[0-9a-f]") -> Check:
    third = f"{version}[0-9a-f]{{3}}" if version else "[0-9a-f]{4}"
    return _full(
        rf"[0-9a-f]{{8}}-?[0-9a-f]{{4}}-?{third}-?{variant}[0-9a-f]{{3}}-?[0-9a-f]{{12}}",
        re.IGNORECASE,
    )


_BYTE = r"\s*(?:0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*"

FORMATS: Final[dict[str, Check]] = {
    "bsonobjectid": _full(r"[0-9a-fA-F]{24}"),
    "uri": _uri,
    "email": _email,
    "hostname": _hostname,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "cidr": _cidr,
    "mac": _full(r"(?:[0-9A-Fa-f]{2}([:-]))(?:[0-9A-Fa-f]{2}\1){4}(?:[0-9A-Fa-f]{2}\1){0,2}[0-9A-Fa-f]{2}|"
                 r"(?:[0-9A-Fa-f]{4}\.){2,3}[0-9A-Fa-f]{4}"),
    "uuid": _uuid(),
    "uuid3": _uuid("3"),
    "uuid4": _uuid("4", "[89ab]"),
    "uuid5": _uuid("5", "[89ab]"),
    "isbn": lambda text: _isbn10(text) or _isbn13(text),
    "isbn10": _isbn10,
    "isbn13": _isbn13,
    "creditcard": _credit_card,
    "ssn": _full(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
    "hexcolor": _full(r"#?(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    "rgbcolor": _full(rf"rgb\({_BYTE},{_BYTE},{_BYTE}\)"),
    "byte": _base64,
    "password": lambda text: True,
    "date": _date,
    "duration": _duration,
    "datetime": _datetime,
    "k8sshortname": lambda text: not names.dns1123_label(text),
    "k8slongname": lambda text: not names.dns1123_subdomain(text),
}  # fmt: skip


@lru_cache(maxsize=256)
def check(name: str) -> Check | None:
    """The check of a string format; None for one that Kubernetes does not know."""
    return FORMATS.get(name.replace("-", ""))


def recognized(kind: str, name: str) -> bool:
    """Does the format mean something for this type? Others earn a warning when the definition is written."""
    match kind:
        case "" | "string":
            return check(name) is not None
        case "integer":
            return name in ("int32", "int64")
        case "number":
            return name in ("float", "double")
    return False
