"""The cluster's authority as a signer of requests: certificates for `CertificateSigningRequest`s that were approved.

What may be signed is decided before (`kube/signing_requests.py`); here the certificate is made: subject, names and key of the
request, usages of its spec, and a life no longer than asked, than the authority's own, and than a year.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sampan.apiserver.pki import BACKDATE, LEAF_LIFETIME, Pair
from sampan.kube import signing_requests
from sampan.kube.signing_requests import EXTENDED_USAGES, KEY_USAGES

SHORTEST = timedelta(minutes=10)  # twice what certificates are dated back


def sign(
    ca: Pair,
    encoded: str,
    usages: Iterable[str],
    seconds: int | None = None,
    now: datetime | None = None,
) -> str:
    """A certificate for `spec.request`, as `status.certificate` has it (base64 of PEM). Raises BadRequest."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    moment = now or datetime.now(UTC)
    request = signing_requests.load(encoded)
    authority = x509.load_pem_x509_certificate(ca.crt.read_bytes())
    key = serialization.load_pem_private_key(ca.key.read_bytes(), password=None)
    assert isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey))
    wanted = timedelta(seconds=seconds) if seconds else LEAF_LIFETIME
    lifetime = max(SHORTEST, min(wanted, LEAF_LIFETIME))
    public = request.public_key()
    usages = list(usages)
    granted = {KEY_USAGES[usage] for usage in usages if usage in KEY_USAGES}
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(authority.subject)
        .public_key(public)  # type: ignore[arg-type]  # any kind of key that could sign its request
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - BACKDATE)
        .not_valid_after(min(moment + lifetime, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    if granted:
        builder = builder.add_extension(_key_usage(granted), critical=True)
    purposes = dict.fromkeys(EXTENDED_USAGES[each] for each in usages if each in EXTENDED_USAGES)
    if purposes:
        identifiers = [x509.ObjectIdentifier(each) for each in purposes]
        builder = builder.add_extension(x509.ExtendedKeyUsage(identifiers), critical=False)
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        pass
    else:
        builder = builder.add_extension(names.value, critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return base64.b64encode(pem).decode()


def _key_usage(granted: set[str]):  # type: ignore[no-untyped-def]  # x509.KeyUsage, imported lazily
    from cryptography import x509

    bits = dict.fromkeys(KEY_USAGES.values(), False) | dict.fromkeys(granted, True)
    if not bits["key_agreement"]:  # RFC 5280 §4.2.1.3: undefined without it
        bits["encipher_only"] = bits["decipher_only"] = False
    return x509.KeyUsage(**bits)
