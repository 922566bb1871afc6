"""Secrets of type kubernetes.io/tls: is the certificate there, and is the key its own? In the words of Go's tls.X509KeyPair."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Any, Final

Object = dict[str, Any]

_BLOCK: Final = re.compile(rb"-----BEGIN ([^\n-]*)-----\r?\n.*?\n-----END \1-----", re.DOTALL)


def of_key_pair(new: Object, old: Object | None) -> list[str]:
    if new.get("type") != "kubernetes.io/tls":
        return []
    data = new.get("data") or {}
    try:
        certificate, key = (b64decode(data.get(name) or "") for name in ("tls.crt", "tls.key"))
    except binascii.Error:
        return []
    text = _problem(certificate, key)
    return [text] if text else []


def _kinds(pem: bytes) -> list[str]:
    return [found[1].decode("latin-1") for found in _BLOCK.finditer(pem)]


def _problem(certificate: bytes, key: bytes) -> str:
    input_, skipped = "certificate input", _kinds(certificate)
    if "CERTIFICATE" not in skipped:
        if not skipped:
            return f"tls: failed to find any PEM data in {input_}"
        if len(skipped) == 1 and skipped[0].endswith("PRIVATE KEY"):
            return (
                f"tls: failed to find certificate PEM data in {input_}, but did find a private key; "
                "PEM inputs may have been switched"
            )
        return (
            f'tls: failed to find "CERTIFICATE" PEM block in {input_} after skipping PEM blocks of the '
            f"following types: [{' '.join(skipped)}]"
        )
    skipped = _kinds(key)
    if not any(_is_private(kind) for kind in skipped):
        if not skipped:
            return "tls: failed to find any PEM data in key input"
        if skipped == ["CERTIFICATE"]:
            return "tls: found a certificate rather than a key in the PEM for the private key"
        return (
            'tls: failed to find PEM block with type ending in "PRIVATE KEY" in key input after skipping PEM '
            f"blocks of the following types: [{' '.join(skipped)}]"
        )
    return _mismatch(_first(certificate, "CERTIFICATE"), _first(key, "PRIVATE KEY"))


def _is_private(kind: str) -> bool:
    return kind == "PRIVATE KEY" or kind.endswith(" PRIVATE KEY")


def _first(pem: bytes, kind: str) -> bytes:
    """The first block of the kind: the leaf comes first, and parameters of a curve may stand before its key."""
    blocks = (each for each in _BLOCK.finditer(pem) if each[1].decode("latin-1").endswith(kind))
    return next(blocks)[0] + b"\n"


def _mismatch(certificate: bytes, key: bytes) -> str:
    # Brought in by the first Secret of this type only.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        public = x509.load_pem_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "x509: malformed certificate"
    try:
        own = load_pem_private_key(key, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "tls: failed to parse private key"
    wanted = own.public_key()
    if type(wanted) is not type(public):
        return "tls: private key type does not match public key type"
    return "" if wanted == public else "tls: private key does not match public key"
