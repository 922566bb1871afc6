"""Bootstrap tokens: deleted when they expire, and made into signatures of what a joining machine reads first.

`kube-public/cluster-info` holds a kubeconfig without credentials. For every token with `usage-bootstrap-signing` it carries a
detached JWS (RFC 7515, HS256 with the token's secret), by which a machine that knows the token can trust the authority in it
before it trusts the server. https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import orjson

from sampan.client.resources import CONFIGMAPS, SECRETS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.kube.objects import is_deleting, parse_time

TYPE = "bootstrap.kubernetes.io/token"
ONLY_TOKENS = f"type={TYPE}"
NAMESPACE = "kube-system"
INFO = Key("kube-public", "cluster-info")
ONLY_INFO = f"metadata.name={INFO.name}"
SIGNATURE = "jws-kubeconfig-"


def field(secret: Object, name: str) -> str:
    value = (secret.get("data") or {}).get(name) or ""
    return base64.b64decode(value).decode(errors="replace")


def expiry(secret: Object) -> float | None:
    """Seconds since the epoch; None for a token that does not expire. One that cannot be read has."""
    text = field(secret, "expiration")
    if not text:
        return None
    try:
        return parse_time(text).timestamp()
    except ValueError:
        return 0.0


class TokenCleaner(Controller):
    name = "token-cleaner"
    watches = (Watch(SECRETS, fields=ONLY_TOKENS),)
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.secrets = self.informer(SECRETS, ONLY_TOKENS)

    async def reconcile(self, key: Key) -> Requeue | None:
        secret = self.secrets.get(*key)
        if secret is None or key.namespace != NAMESPACE:
            return None
        moment = expiry(secret)
        if moment is None:
            return None
        left = moment - self.clock()
        if left > 0:
            return Requeue(left)
        await self.client.delete(SECRETS, key.name, NAMESPACE, uid=secret["metadata"]["uid"])
        return None


class BootstrapSigner(Controller):
    name = "bootstrap-signer"
    watches = (
        Watch(CONFIGMAPS, fields=ONLY_INFO, keys=lambda self, _: (INFO,)),
        Watch(SECRETS, fields=ONLY_TOKENS, keys=lambda self, _: (INFO,)),
    )
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.secrets = self.informer(SECRETS, ONLY_TOKENS)
        self.infos = self.informer(CONFIGMAPS, ONLY_INFO)

    async def reconcile(self, key: Key) -> Requeue | None:
        info = self.infos.get(*key)
        if info is None or is_deleting(info):
            return None
        data = info.get("data") or {}
        signed = {k: v for k, v in data.items() if not k.startswith(SIGNATURE)}
        content = data.get("kubeconfig")
        if content:
            signed |= {
                SIGNATURE + identifier: signature(content, identifier, secret)
                for identifier, secret in self.signing_tokens()
            }
        if signed != data:
            await self.client.update(CONFIGMAPS, {**info, "data": signed})
        return None

    def signing_tokens(self) -> list[tuple[str, str]]:
        found = []
        for secret in self.secrets.list(NAMESPACE):
            if field(secret, "usage-bootstrap-signing") != "true" or is_deleting(secret):
                continue
            moment = expiry(secret)
            if moment is None or moment > self.clock():
                found.append((field(secret, "token-id"), field(secret, "token-secret")))
        return sorted(pair for pair in found if all(pair))


def signature(content: str, identifier: str, secret: str) -> str:
    """A JWS without its payload (RFC 7515 appendix F)."""
    header = encode(orjson.dumps({"alg": "HS256", "kid": identifier}))
    signed = header + b"." + encode(content.encode())
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (header + b".." + encode(digest)).decode()


def encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
