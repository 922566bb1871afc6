"""Reads what start-up must know of an X.509 certificate: subject, names, validity, and whose key signed it.

`cryptography` takes longer to import than all the rest of the API server needs to start, and it is only needed to *make*
certificates. Deciding that the existing ones are still good takes a walk over DER (X.690) that fits on a page.
Nothing here verifies a signature: TLS does that.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

SEQUENCE, SET, BOOLEAN, OCTETS, OID = 0x30, 0x31, 0x01, 0x04, 0x06
UTC_TIME = 0x17
EXTENSIONS = 0xA3  # [3] of TBSCertificate, RFC 5280 §4.1
DNS_NAME, IP_NAME, KEY_IDENTIFIER = 0x82, 0x87, 0x80

COMMON_NAME, ORGANIZATION = b"\x55\x04\x03", b"\x55\x04\x0a"
SUBJECT_KEY, ALTERNATIVE_NAME, AUTHORITY_KEY = b"\x55\x1d\x0e", b"\x55\x1d\x11", b"\x55\x1d\x23"


@dataclass(frozen=True, slots=True)
class Certificate:
    common_name: str
    organizations: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    names: frozenset[str]  # DNS names and IP addresses of the subjectAltName extension
    key_id: bytes  # of its own key, b"" when it does not say
    authority_key_id: bytes  # of the key that signed it


def read_certificate(pem: bytes) -> Certificate:
    """The first certificate of a PEM file. Raises ValueError on anything that is not one."""
    try:
        return _read(_first_block(pem))
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError(f"not a certificate: {error!r}") from error


def _first_block(pem: bytes) -> bytes:
    _, begin, rest = pem.partition(b"-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition(b"-----END CERTIFICATE-----")
    if not begin or not end:
        raise ValueError("no PEM certificate found")
    return base64.b64decode(b"".join(body.split()), validate=True)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each element laid one after the other in `data`."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("truncated DER")
        yield tag, data[at : at + length]
        at += length


def _read(der: bytes) -> Certificate:
    _, certificate = next(_elements(der))
    _, body = next(_elements(certificate))
    parts = list(_elements(body))
    if parts[0][0] == 0xA0:  # version is explicit in every v3 certificate
        parts = parts[1:]
    _serial, _algorithm, _issuer, validity, subject, _key, *rest = parts
    not_before, not_after = (_time(*element) for element in _elements(validity[1]))
    attributes = list(_attributes(subject[1]))
    extensions = next((dict(_extensions(v)) for tag, v in rest if tag == EXTENSIONS), {})
    return Certificate(
        common_name=next((value for kind, value in attributes if kind == COMMON_NAME), ""),
        organizations=tuple(value for kind, value in attributes if kind == ORGANIZATION),
        not_before=not_before,
        not_after=not_after,
        names=frozenset(_names(extensions.get(ALTERNATIVE_NAME, b""))),
        key_id=next((v for _, v in _elements(extensions.get(SUBJECT_KEY, b""))), b""),
        authority_key_id=_authority(extensions.get(AUTHORITY_KEY, b"")),
    )


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if (
        tag == UTC_TIME
    ):  # two-digit years: 50 and above are of the last century, RFC 5280 §4.1.2.5.1
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _attributes(name: bytes) -> Iterator[tuple[bytes, str]]:
    for _, relative in _elements(name):
        for _, attribute in _elements(relative):
            (_, kind), (_, value) = _elements(attribute)
            yield kind, value.decode()


def _extensions(wrapped: bytes) -> Iterator[tuple[bytes, bytes]]:
    _, sequence = next(_elements(wrapped))
    for _, extension in _elements(sequence):
        parts = [part for part in _elements(extension) if part[0] != BOOLEAN]
        yield parts[0][1], parts[1][1]


def _names(extension: bytes) -> Iterator[str]:
    for _, sequence in _elements(extension):
        for tag, value in _elements(sequence):
            if tag == DNS_NAME:
                yield value.decode("ascii")
            elif tag == IP_NAME:
                yield str(ip_address(value))


def _authority(extension: bytes) -> bytes:
    for _, sequence in _elements(extension):
        for tag, value in _elements(sequence):
            if tag == KEY_IDENTIFIER:
                return value
    return b""
