"""Whatever a stranger shows as a certificate request, a certificate or a token: it is refused in words, never by accident."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.apiserver.oidc import unverified
from sampan.apiserver.oidc_claims import Mapped, Provider, check_claims, user_of_claims
from sampan.apiserver.tokens import InvalidToken
from sampan.kube import signing_requests
from sampan.kube.der import read_certificate
from sampan.kube.signing_requests import BadRequest

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "boat")])
NAMES = x509.SubjectAlternativeName([x509.DNSName("boat"), x509.RFC822Name("a@b.c")])
REQUEST = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(NAME)
    .add_extension(NAMES, critical=False)
    .sign(KEY, hashes.SHA256())
    .public_bytes(serialization.Encoding.DER)
)
CERTIFICATE = (
    x509.CertificateBuilder()
    .subject_name(NAME)
    .issuer_name(NAME)
    .public_key(KEY.public_key())
    .serial_number(1)
    .not_valid_before(datetime(2025, 1, 1, tzinfo=UTC))
    .not_valid_after(datetime(2035, 1, 1, tzinfo=UTC))
    .add_extension(NAMES, critical=False)
    .sign(KEY, hashes.SHA256())
    .public_bytes(serialization.Encoding.DER)
)


def pem(der: bytes, label: str) -> bytes:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with some changed, cut out or put in."""
    places = st.integers(0, len(original) - 1)
    changes = st.lists(st.tuples(places, st.binary(max_size=3), st.integers(0, 3)), max_size=6)

    def apply(changes: list[tuple[int, bytes, int]]) -> bytes:
        data = bytearray(original)
        for place, put, dropped in changes:
            data[place : place + dropped] = put
        return bytes(data)

    return changes.map(apply)


@settings(max_examples=300, deadline=None)
@given(mutated(REQUEST))
def test_requests(der: bytes) -> None:
    encoded = base64.b64encode(pem(der, "CERTIFICATE REQUEST")).decode()
    try:
        asked = signing_requests.parse(encoded)
    except BadRequest:
        assert der != REQUEST
    else:
        assert asked.common_name or asked.organizations == ()


@given(st.one_of(st.text(), st.binary().map(lambda data: base64.b64encode(data).decode())))
def test_what_is_no_request(text: str) -> None:
    with pytest.raises(BadRequest):
        signing_requests.load(text)


@settings(max_examples=500, deadline=None)
@given(mutated(CERTIFICATE))
def test_certificates(der: bytes) -> None:
    try:
        read_certificate(pem(der, "CERTIFICATE"))
    except ValueError:
        assert der != CERTIFICATE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
PROVIDER = Provider(
    "https://i.example", ("boats",), Mapped("sub"), Mapped("groups"), uid=Mapped("uid")
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("sub", "groups", "uid", "aud", "exp", "nbf", "jti"), JSON)
    )
)
def test_claims(claims: dict[str, object]) -> None:
    try:
        check_claims(PROVIDER, claims, 0.0)
        user = user_of_claims(PROVIDER, claims)
    except InvalidToken:
        return
    assert user.name and user.groups[-1] == "system:authenticated"


@given(st.one_of(st.text(), st.tuples(JSON, JSON).map(repr), st.just("eyJ9.eyJ9.x")))
def test_what_is_no_token(text: str) -> None:
    header, claims = unverified(text)
    assert isinstance(header, dict) and isinstance(claims, dict)
