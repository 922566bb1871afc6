"""Service-account tokens: JSON Web Tokens signed with ES256, with the claims that Kubernetes gives them.

`TokenSigner` holds the cluster's key and makes and checks tokens; whether the account, pod or node that a token is bound
to still exists is asked by `auth.py`, which sees the objects. Issuer discovery is what OpenID Connect Discovery 1.0
and RFC 7517 say of one key. PyJWT signs, and checks signatures; it is imported with the first token, never at start.

Claims: KEP-1205 (bound tokens), KEP-4193 (node binding, jti).
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

ISSUER = "https://kubernetes.default.svc.cluster.local"
LEGACY_ISSUER = "kubernetes/serviceaccount"
LEGACY_CLAIM = "kubernetes.io/serviceaccount/"
USERNAME_PREFIX = "system:serviceaccount:"

ALGORITHM = "ES256"
MINIMUM_SECONDS = 600
MAXIMUM_SECONDS = 1 << 32
DEFAULT_SECONDS = 3600
WARN_AFTER_SECONDS = 3607  # what kubelet asks for; a client should have read the file again by then
EXTENDED_SECONDS = (
    365 * 86400
)  # such a token is kept valid for clients that read the file only once
LEEWAY_SECONDS = 60


class InvalidToken(Exception):
    """The text is not a token that this cluster made, or it is not valid now; says why."""


@dataclass(frozen=True, slots=True)
class Reference:
    name: str
    uid: str = ""

    def as_claim(self) -> dict[str, str]:
        return {"name": self.name, "uid": self.uid}


@dataclass(frozen=True, slots=True)
class ServiceAccountToken:
    """What a verified token says."""

    namespace: str
    service_account: Reference
    audiences: tuple[str, ...]
    expires: int  # seconds since the epoch; 0: never (legacy secret)
    id: str = ""
    pod: Reference | None = None
    secret: Reference | None = None
    node: Reference | None = None
    warn_after: int = 0

    @property
    def username(self) -> str:
        return username(self.namespace, self.service_account.name)

    @property
    def groups(self) -> tuple[str, ...]:
        return groups_of(self.namespace)

    @property
    def extra(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        prefix = "authentication.kubernetes.io/"
        values = {
            "credential-id": f"JTI={self.id}" if self.id else "",
            "node-name": self.node.name if self.node else "",
            "node-uid": self.node.uid if self.node else "",
            "pod-name": self.pod.name if self.pod else "",
            "pod-uid": self.pod.uid if self.pod else "",
        }
        return tuple((prefix + key, (value,)) for key, value in values.items() if value)


def username(namespace: str, name: str) -> str:
    return f"{USERNAME_PREFIX}{namespace}:{name}"


def groups_of(namespace: str) -> tuple[str, ...]:
    return (
        "system:serviceaccounts",
        f"system:serviceaccounts:{namespace}",
        "system:authenticated",
    )


def split_username(user: str) -> tuple[str, str] | None:
    """(namespace, name) of a service account's user name."""
    if not user.startswith(USERNAME_PREFIX):
        return None
    namespace, colon, name = user[len(USERNAME_PREFIX) :].partition(":")
    return (namespace, name) if colon and namespace and name else None


@dataclass(slots=True)
class TokenSigner:
    """Makes and verifies tokens. `clock` gives seconds since the epoch."""

    key_file: Path
    clock: Callable[[], float]
    issuer: str = ISSUER
    audiences: tuple[str, ...] = ()  # of the API server; empty: the issuer
    longest: int = 0  # seconds that a token may live; 0: what the API allows
    _key: ec.EllipticCurvePrivateKey | None = field(default=None, init=False)
    _key_id: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.audiences = self.audiences or (self.issuer, "https://kubernetes.default.svc")

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        if self._key is None:
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import ec

            key = serialization.load_pem_private_key(self.key_file.read_bytes(), password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
                raise ValueError(f"{self.key_file}: a P-256 private key is needed")
            self._key = key
        return self._key

    @property
    def key_id(self) -> str:
        """Hash of the public key, as kube-apiserver derives it."""
        if not self._key_id:
            from cryptography.hazmat.primitives import serialization

            der = self.key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            digest = base64.urlsafe_b64encode(hashlib.sha256(der).digest())
            self._key_id = digest.rstrip(b"=").decode()
        return self._key_id

    def make(
        self,
        service_account: Mapping[str, Any],
        *,
        audiences: Iterable[str] = (),
        seconds: int = DEFAULT_SECONDS,
        pod: Mapping[str, Any] | None = None,
        secret: Mapping[str, Any] | None = None,
        node: Mapping[str, Any] | None = None,
    ) -> tuple[str, int]:
        """A token for the account (an object), bound to the given objects; the token and its `exp`."""
        now = int(self.clock())
        lifetime = seconds
        extended = pod is not None and seconds == WARN_AFTER_SECONDS
        wanted = list(audiences) or list(self.audiences[:1])
        if extended and set(wanted) <= set(self.audiences):
            lifetime = min(EXTENDED_SECONDS, self.longest or EXTENDED_SECONDS)
        metadata = service_account["metadata"]
        private: dict[str, Any] = {
            "namespace": metadata["namespace"],
            "serviceaccount": _reference(service_account).as_claim(),
        }
        for kind, bound in (("node", node), ("pod", pod), ("secret", secret)):
            if bound is not None:
                private[kind] = _reference(bound).as_claim()
        if lifetime != seconds:
            private["warnafter"] = now + seconds
        claims = {
            "aud": wanted,
            "exp": now + lifetime,
            "iat": now,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": dict(sorted(private.items())),
            "nbf": now,
            "sub": username(metadata["namespace"], metadata["name"]),
        }
        return self._sign(claims), now + lifetime

    def make_legacy(self, service_account: Mapping[str, Any], secret_name: str) -> str:
        """The token of a Secret of type kubernetes.io/service-account-token: it has no end but the Secret's."""
        metadata = service_account["metadata"]
        return self._sign(
            {
                "iss": LEGACY_ISSUER,
                LEGACY_CLAIM + "namespace": metadata["namespace"],
                LEGACY_CLAIM + "secret.name": secret_name,
                LEGACY_CLAIM + "service-account.name": metadata["name"],
                LEGACY_CLAIM + "service-account.uid": metadata.get("uid", ""),
                "sub": username(metadata["namespace"], metadata["name"]),
            }
        )

    def _sign(self, claims: dict[str, Any]) -> str:
        import jwt

        header = {"typ": None, "kid": self.key_id}  # kube-apiserver's tokens have no type
        return jwt.encode(claims, self.key, ALGORITHM, header)

    def verify(self, token: str, audiences: Iterable[str] = ()) -> ServiceAccountToken:
        """The token's content when it is ours and valid now for one of `audiences` (the API server's when empty).

        Raises InvalidToken. Whether what it is bound to still exists is for the caller to ask.
        """
        claims = self._verified_claims(token)
        if claims.get("iss") not in (self.issuer, LEGACY_ISSUER):
            raise InvalidToken("token was issued by another issuer")
        try:
            if claims["iss"] == LEGACY_ISSUER:
                found = _legacy(claims, self.audiences)
            else:
                found = _modern(claims)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidToken(f"claims are malformed: {error!r}") from error
        now = self.clock()
        if found.expires and now > found.expires + LEEWAY_SECONDS:
            raise InvalidToken("token has expired")
        if now < claims.get("nbf", 0) - LEEWAY_SECONDS:
            raise InvalidToken("token is not valid yet")
        accepted = set(audiences) or set(self.audiences)
        if not accepted & set(found.audiences):
            raise InvalidToken(f"token audiences {list(found.audiences)} are not accepted here")
        return found

    def _verified_claims(self, token: str) -> dict[str, Any]:
        """The claims of a well-formed token with our signature; what they say is checked by `verify`, on our clock."""
        import jwt

        try:
            return jwt.decode(
                token,
                self.key.public_key(),
                algorithms=[ALGORITHM],  # whatever the header says: RFC 8725 §3.1
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                    "verify_iss": False,
                },
            )
        except (jwt.InvalidTokenError, RecursionError) as error:  # a header of nested brackets
            raise InvalidToken(str(error)) from error

    def openid_configuration(self, address: str) -> dict[str, Any]:
        """`/.well-known/openid-configuration`; `address` is where clients reach this API server."""
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{address}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    def key_set(self) -> dict[str, Any]:
        """`/openid/v1/jwks`: the public key, RFC 7517."""
        from jwt.algorithms import ECAlgorithm

        key = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{"use": "sig", "kid": self.key_id, "alg": ALGORITHM, **key}]}


def _reference(obj: Mapping[str, Any]) -> Reference:
    return Reference(obj["metadata"]["name"], obj["metadata"].get("uid", ""))


def _claimed(private: dict[str, Any], kind: str) -> Reference | None:
    claim = private.get(kind)
    return Reference(claim["name"], claim.get("uid", "")) if claim else None


def _modern(claims: dict[str, Any]) -> ServiceAccountToken:
    private = claims["kubernetes.io"]
    audience = claims["aud"]
    account = _claimed(private, "serviceaccount")
    if account is None:
        raise ValueError("no service account")
    found = ServiceAccountToken(
        namespace=private["namespace"],
        service_account=account,
        audiences=(audience,) if isinstance(audience, str) else tuple(audience),
        expires=int(claims["exp"]),
        id=claims.get("jti", ""),
        pod=_claimed(private, "pod"),
        secret=_claimed(private, "secret"),
        node=_claimed(private, "node"),
        warn_after=int(private.get("warnafter", 0)),
    )
    if claims["sub"] != found.username:
        raise ValueError("subject and service account disagree")
    return found


def _legacy(claims: dict[str, Any], audiences: tuple[str, ...]) -> ServiceAccountToken:
    def claim(name: str) -> str:
        value = claims[LEGACY_CLAIM + name]
        if not isinstance(value, str) or not value:
            raise ValueError(f"claim {LEGACY_CLAIM}{name} is empty")
        return value

    return ServiceAccountToken(
        namespace=claim("namespace"),
        service_account=Reference(claim("service-account.name"), claim("service-account.uid")),
        audiences=audiences,
        expires=0,
        secret=Reference(claim("secret.name")),
    )
