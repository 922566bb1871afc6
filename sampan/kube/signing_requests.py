"""CertificateSigningRequests: what they ask for, and which of them Kubernetes' own signers may grant. Pure decisions.

A request is PEM that a stranger wrote; `parse` also checks that it is signed by the key that it is for. The rules and the
wording are those of the built-in signers:
https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sampan.kube import errors

if TYPE_CHECKING:
    from cryptography import x509

GROUP = "certificates.k8s.io"
API_SERVER_CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
LEGACY_UNKNOWN = "kubernetes.io/legacy-unknown"

_PEM_KIND = re.compile(rb"-----BEGIN ([^\n]*?)-----")

NODES = "system:nodes"
NODE_PREFIX = "system:node:"
MASTERS = "system:masters"

CLIENT_AUTH, SERVER_AUTH = "client auth", "server auth"
SIGNATURE, ENCIPHERMENT = "digital signature", "key encipherment"

# Usages of certificates.k8s.io/v1 → keyUsage bits of an x509 builder.
KEY_USAGES: Mapping[str, str] = {
    "signing": "digital_signature",
    SIGNATURE: "digital_signature",
    "content commitment": "content_commitment",
    ENCIPHERMENT: "key_encipherment",
    "key agreement": "key_agreement",
    "data encipherment": "data_encipherment",
    "cert sign": "key_cert_sign",
    "crl sign": "crl_sign",
    "encipher only": "encipher_only",
    "decipher only": "decipher_only",
}
# The others → extendedKeyUsage object identifiers.
EXTENDED_USAGES: Mapping[str, str] = {
    "any": "2.5.29.37.0",
    SERVER_AUTH: "1.3.6.1.5.5.7.3.1",
    CLIENT_AUTH: "1.3.6.1.5.5.7.3.2",
    "code signing": "1.3.6.1.5.5.7.3.3",
    "email protection": "1.3.6.1.5.5.7.3.4",
    "s/mime": "1.3.6.1.5.5.7.3.4",
    "ipsec end system": "1.3.6.1.5.5.7.3.5",
    "ipsec tunnel": "1.3.6.1.5.5.7.3.6",
    "ipsec user": "1.3.6.1.5.5.7.3.7",
    "timestamping": "1.3.6.1.5.5.7.3.8",
    "ocsp signing": "1.3.6.1.5.5.7.3.9",
    "microsoft sgc": "1.3.6.1.4.1.311.10.3.3",
    "netscape sgc": "2.16.840.1.113730.4.1",
}


class BadRequest(ValueError):
    """The text is no certificate request, or not one that its key has signed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks a certificate to say."""

    common_name: str
    organizations: tuple[str, ...]
    dns_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()


def load(encoded: str) -> x509.CertificateSigningRequest:
    """The request out of `spec.request` (base64 of PEM). Raises BadRequest."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadRequest("illegal base64 data") from error
    begin = b"-----BEGIN CERTIFICATE REQUEST-----"
    if pem.count(b"-----BEGIN ") != 1 or begin not in pem:
        raise BadRequest("PEM block type must be CERTIFICATE REQUEST")
    try:
        request = x509.load_pem_x509_csr(pem)
        signed = request.is_signature_valid
    except (ValueError, InvalidSignature, UnsupportedAlgorithm, TypeError) as error:
        raise BadRequest(f"the request cannot be read: {error}") from error
    if not signed:
        raise BadRequest("the request is not signed by its key")
    return request


def check_certificates(encoded: str) -> None:
    """`status.certificate` is base64 of one or more PEM certificates and nothing else. Raises BadRequest."""
    from cryptography import x509

    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadRequest("illegal base64 data") from error
    kinds = [each.decode("utf-8", "replace") for each in _PEM_KIND.findall(pem)]
    if not kinds:
        raise BadRequest("must contain at least one CERTIFICATE PEM block")
    for kind in kinds:
        if kind != "CERTIFICATE":
            shown = errors.quote(kind)
            raise BadRequest(f"only CERTIFICATE PEM blocks are allowed, found {shown}")
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise BadRequest(f"the certificate cannot be read: {error}") from error


def parse(encoded: str) -> Asked:
    """Raises BadRequest."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    request = load(encoded)

    def names(kind: x509.ObjectIdentifier) -> tuple[str, ...]:
        return tuple(str(each.value) for each in request.subject.get_attributes_for_oid(kind))

    try:
        extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        alternatives = extension.value
    except x509.ExtensionNotFound:
        alternatives = x509.SubjectAlternativeName([])
    except ValueError as error:
        raise BadRequest(f"the request cannot be read: {error}") from error
    found = alternatives.get_values_for_type
    return Asked(
        common_name=next(iter(names(NameOID.COMMON_NAME)), ""),
        organizations=names(NameOID.ORGANIZATION_NAME),
        dns_names=tuple(found(x509.DNSName)),
        addresses=tuple(str(each) for each in found(x509.IPAddress)),
        emails=tuple(found(x509.RFC822Name)),
        uris=tuple(found(x509.UniformResourceIdentifier)),
    )


# --- what the built-in signers grant: "" or why not ------------------------------------------------------


def refusal(signer: str, asked: Asked, usages: Iterable[str]) -> str:
    """Why the signer must not grant this; "" when it may."""
    rule = _RULES[signer]
    return rule(asked, frozenset(usages))


def _api_server_client(_asked: Asked, usages: frozenset[str]) -> str:
    for usage in sorted(usages - {SIGNATURE, ENCIPHERMENT, CLIENT_AUTH}):
        return f"invalid usage for client certificate: {usage}"
    if CLIENT_AUTH not in usages:
        return f"missing required usage for client certificate: {CLIENT_AUTH}"
    return ""


def _kubelet_client(asked: Asked, usages: frozenset[str]) -> str:
    if asked.organizations != (NODES,):
        return "subject organization is not system:nodes"
    for values, kind in (
        (asked.dns_names, "DNS"),
        (asked.emails, "Email"),
        (asked.addresses, "IP"),
        (asked.uris, "URI"),
    ):
        if values:
            return f"{kind} subjectAltNames are not allowed"
    if not asked.common_name.startswith(NODE_PREFIX):
        return "subject common name does not begin with system:node:"
    return _usages(usages, CLIENT_AUTH)


def _kubelet_serving(asked: Asked, usages: frozenset[str]) -> str:
    if asked.organizations != (NODES,):
        return "subject organization is not system:nodes"
    if not asked.dns_names and not asked.addresses:
        return "DNS or IP subjectAltName is required"
    for values, kind in ((asked.emails, "Email"), (asked.uris, "URI")):
        if values:
            return f"{kind} subjectAltNames are not allowed"
    wrong = _usages(usages, SERVER_AUTH)
    if wrong:
        return wrong
    if not asked.common_name.startswith(NODE_PREFIX):
        return "subject common name does not begin with system:node:"
    return ""


def _usages(usages: frozenset[str], purpose: str) -> str:
    """Key encipherment is for RSA keys only, and may be left out for all."""
    if usages in ({SIGNATURE, purpose}, {SIGNATURE, ENCIPHERMENT, purpose}):
        return ""
    return f"usages did not match [{SIGNATURE} {ENCIPHERMENT} {purpose}]"


_RULES = {
    API_SERVER_CLIENT: _api_server_client,
    KUBELET_CLIENT: _kubelet_client,
    KUBELET_SERVING: _kubelet_serving,
}
SIGNERS = frozenset(_RULES)


# --- conditions ------------------------------------------------------------------------------------------


def state(request: Mapping[str, Any]) -> str:
    """ "Approved", "Denied", "Failed" or "" for one that nobody has decided about."""
    kinds = {
        each.get("type")
        for each in (request.get("status") or {}).get("conditions") or ()
        if each.get("status", "True") == "True"
    }
    return next((kind for kind in ("Denied", "Failed", "Approved") if kind in kinds), "")
