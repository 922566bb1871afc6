"""Bearer tokens that are not service accounts': OpenID Connect against a provider that the test runs, bootstrap Secrets, a file."""

from __future__ import annotations

import asyncio
import http.server
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from apiserver_harness import Harness
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from token_harness import (
    TOKEN_REVIEW,
    bearer,
    closed,
    serving,
    who,
)

from sampan.apiserver.authentication_config import (
    BadAuthenticationConfig,
    parse_config,
    provider_of_flags,
)
from sampan.apiserver.oidc import FETCH_PAUSE, OIDC
from sampan.apiserver.oidc_claims import Mapped, Provider, user_of_claims
from sampan.apiserver.pki import Leaf, Pair, ensure_pki, issue
from sampan.apiserver.security import SecurityConfig
from sampan.apiserver.tokens import InvalidToken
from sampan.client.transport import Request

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def public(name: str, key: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {"kid": name, "use": "sig", **algorithm.to_jwk(key.public_key(), as_dict=True)}


class Issuer:
    """An OpenID provider over TLS: two documents, and a count of how often they were asked for."""

    def __init__(self, directory: Path) -> None:
        from datetime import UTC, datetime

        self.pki = ensure_pki(directory)
        pair = Pair(directory / "issuer.crt", directory / "issuer.key")
        issue(Leaf(pair, "issuer", names=frozenset({"127.0.0.1"})), self.pki.ca, datetime.now(UTC))
        self.keys: dict[str, Any] = {"one": RSA}
        self.asked: list[str] = []
        self.stated = ""
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                documents = {
                    "/.well-known/openid-configuration": {
                        "issuer": issuer.stated,
                        "jwks_uri": f"{issuer.url}/keys",
                    },
                    "/keys": {"keys": [public(name, key) for name, key in issuer.keys.items()]},
                }
                found = documents.get(self.path)
                body = json.dumps(found).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.crt, pair.key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = self.stated = f"https://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def token(
        self, key: Any = RSA, kid: str = "one", algorithm: str = "RS256", **claims: Any
    ) -> str:
        now = int(time.time())
        filled = {"iss": self.url, "aud": "boats", "sub": "alice", "exp": now + 600, **claims}
        filled = {name: value for name, value in filled.items() if value is not None}
        return jwt.encode(filled, key, algorithm, {"kid": kid} if kid else None)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    found = Issuer(tmp_path / "issuer")
    yield found
    found.close()


# --- OpenID Connect --------------------------------------------------------------------------------------


@pytest.fixture
async def api(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Harness]:
    harness = await serving(
        tmp_path,
        oidc_issuer_url=issuer.url,
        oidc_client_id="boats",
        oidc_groups_claim="groups",
        oidc_groups_prefix="oidc:",
        oidc_required_claim=("hd=example.com",),
        oidc_ca_file=issuer.pki.ca.crt,
    )
    yield harness
    await closed(harness)


async def test_a_user_of_the_provider(api: Harness, issuer: Issuer) -> None:
    token = issuer.token(groups=["crew", "deck"], hd="example.com", jti="7")
    assert await who(api, token) == {
        "username": f"{issuer.url}#alice",
        "groups": ["oidc:crew", "oidc:deck", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": ["JTI=7"]},
    }
    assert await who(api, token)
    assert len(issuer.asked) == 2  # both documents, once
    spec = {"kind": "TokenReview", "spec": {"token": token}}
    review = await api.call(
        "POST", TOKEN_REVIEW, {**spec, "apiVersion": "authentication.k8s.io/v1"}
    )
    assert review["status"]["authenticated"]
    assert review["status"]["user"]["username"].endswith("#alice")


async def test_what_is_no_token_of_the_provider(api: Harness, issuer: Issuer) -> None:
    good = {"hd": "example.com"}
    now = int(time.time())
    header, claims, _ = issuer.token(**good).split(".")
    for name, token in {
        "expired": issuer.token(exp=now - 60, **good),
        "not yet valid": issuer.token(nbf=now + 600, **good),
        "without an end": issuer.token(exp=None, **good),
        "of another audience": issuer.token(aud="planes", **good),
        "of another issuer": issuer.token(iss="https://127.0.0.1:1", **good),
        "signed by another": issuer.token(OTHER_RSA, **good),
        "of an unknown key": issuer.token(OTHER_RSA, "two", **good),
        "lacking a claim": issuer.token(),
        "of no one": issuer.token(sub="", **good),
        "with groups of no kind": issuer.token(groups={"a": 1}, **good),
        "unsigned": f"{jwt.encode({'iss': issuer.url}, '', 'none')}",
        "signed by nothing": f"{header}.{claims}.",
        "with its public key as secret": issuer.token("x" * 64, algorithm="HS256", **good),
        "by an algorithm that is off": issuer.token(EC, "one", "ES256", **good),
    }.items():
        answer = await bearer(api, token)
        assert answer.status == 401, name
        assert answer.json()["message"] == "Unauthorized"


async def test_rotated_keys_are_found_and_made_up_ones_cost_nothing(issuer: Issuer) -> None:
    moment = time.time()
    provider = provider_of_flags(
        SecurityConfig(
            oidc_issuer_url=issuer.url,
            oidc_client_id="boats",
            oidc_ca_file=issuer.pki.ca.crt,
            oidc_signing_algs="RS256,ES256",
        )
    )
    source = OIDC(provider, lambda: moment)
    users = await asyncio.gather(*(source.user_of(issuer.token(jti=str(n))) for n in range(5)))
    assert all(users) and len(issuer.asked) == 2  # those that came meanwhile waited for the same
    issuer.keys = {"two": EC}
    token = issuer.token(EC, "two", "ES256")
    for number in range(20):
        with pytest.raises(InvalidToken):
            await source.user_of(issuer.token(EC, f"made-up-{number}", "ES256"))
    assert len(issuer.asked) == 2
    moment += FETCH_PAUSE
    user = await source.user_of(token)
    assert user is not None and user.name == f"{issuer.url}#alice"
    with pytest.raises(InvalidToken):  # its key was taken away
        await source.user_of(issuer.token(jti="new"))
    await source.close()


async def test_a_provider_that_is_not_there_or_is_another(issuer: Issuer) -> None:
    authority = issuer.pki.ca.crt.read_text()
    moment = time.time()

    def source(url: str, authority: str) -> OIDC:
        return OIDC(Provider(url, ("boats",), Mapped("sub"), authority=authority), lambda: moment)

    issuer.stated = "https://elsewhere.example"
    for found in (source(issuer.url, authority), source("https://127.0.0.1:1", authority)):
        with pytest.raises(InvalidToken):
            await found.user_of(issuer.token(iss=found.provider.issuer))
    issuer.stated = issuer.url
    untrusted = source(issuer.url, "")
    with pytest.raises(InvalidToken):
        await untrusted.user_of(issuer.token())


def test_email_addresses_are_taken_as_they_are_when_they_are_verified() -> None:
    flags = {"oidc_issuer_url": "https://i.example", "oidc_client_id": "boats"}
    provider = provider_of_flags(SecurityConfig(**flags, oidc_username_claim="email"))
    assert user_of_claims(provider, {"email": "a@b.c", "email_verified": True}).name == "a@b.c"
    with pytest.raises(InvalidToken):
        user_of_claims(provider, {"email": "a@b.c", "email_verified": False})
    plain = provider_of_flags(SecurityConfig(**flags, oidc_username_prefix="-"))
    assert user_of_claims(plain, {"sub": "alice"}).name == "alice"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"oidc_issuer_url": "http://i.example"}, "--oidc-issuer-url"),
        ({"oidc_issuer_url": "https://i.example/?x"}, "--oidc-issuer-url"),
        ({"oidc_signing_algs": "HS256"}, "HS256: not one of"),
        ({"oidc_required_claim": ("x",)}, "must be key=value"),
    ],
)
def test_wrong_flags_are_named(flags: dict[str, Any], said: str) -> None:
    given = {"oidc_issuer_url": "https://i.example", "oidc_client_id": "boats", **flags}
    with pytest.raises(BadAuthenticationConfig) as caught:
        provider_of_flags(SecurityConfig(**given))
    assert said in str(caught.value)


async def test_authentication_configuration(tmp_path: Path, issuer: Issuer) -> None:
    path = tmp_path / "authentication.yaml"
    document: dict[str, Any] = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": True, "conditions": [{"path": "/readyz"}]},
        "jwt": [
            {
                "issuer": {
                    "url": issuer.url,
                    "audiences": ["boats", "ships"],
                    "audienceMatchPolicy": "MatchAny",
                    "certificateAuthority": issuer.pki.ca.crt.read_text(),
                },
                "claimValidationRules": [{"claim": "hd", "requiredValue": "example.com"}],
                "claimMappings": {
                    "username": {"claim": "name", "prefix": "o:"},
                    "groups": {"claim": "roles", "prefix": ""},
                    "uid": {"claim": "sub"},
                },
            }
        ],
    }
    path.write_text(yaml.safe_dump(document))
    api = await serving(tmp_path, authentication_config=path)
    token = issuer.token(aud=["ships"], name="alice", roles="captain", sub="u1", hd="example.com")
    assert await who(api, token) == {
        "username": "o:alice",
        "uid": "u1",
        "groups": ["captain", "system:authenticated"],
    }
    for where, status in (("/readyz", 200), ("/version", 401), ("/api", 401)):
        assert (await api.server.handle(Request("GET", where))).status == status
    await closed(api)


def configuration(**provider: Any) -> dict[str, Any]:
    username = {"expression": "'o:' + claims.name"}
    filled = {
        "issuer": {"url": "https://i.example", "audiences": ["boats"]},
        "claimMappings": {"username": username},
        **provider,
    }
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "jwt": [filled],
    }


async def test_expressions_over_claims(tmp_path: Path, issuer: Issuer) -> None:
    document = configuration(
        issuer={
            "url": issuer.url,
            "audiences": ["boats"],
            "certificateAuthority": issuer.pki.ca.crt.read_text(),
        },
        claimValidationRules=[
            {"expression": "claims.exp - claims.iat <= 3600", "message": "too long a life"}
        ],
        userValidationRules=[
            {"expression": "!user.username.startsWith('system:')", "message": "reserved"}
        ],
        claimMappings={
            "username": {"expression": "claims.?name.orValue(claims.sub)"},
            "groups": {"expression": "claims.roles.filter(r, r != 'none').map(r, 'o:' + r)"},
            "uid": {"expression": "claims.sub"},
            "extra": [{"key": "example.com/tenant", "valueExpression": "claims.tenant"}],
        },
    )
    path = tmp_path / "authentication.yaml"
    path.write_text(yaml.safe_dump(document))
    api = await serving(tmp_path, authentication_config=path)
    now = int(time.time())
    claims = {"roles": ["captain", "none"], "tenant": ["t1", ""], "iat": now}
    assert await who(api, issuer.token(**claims)) == {
        "username": "alice",
        "uid": "alice",
        "groups": ["o:captain", "system:authenticated"],
        "extra": {"example.com/tenant": ["t1"]},
    }
    for name, bad in {
        "lives too long": {**claims, "exp": now + 7200},
        "a reserved name": {**claims, "name": "system:masters"},
        "a name that is a number": {**claims, "name": 7},
        "groups that are none": {**claims, "roles": 7},
        "a claim that is not there": {**claims, "tenant": None},
    }.items():
        assert (await bearer(api, issuer.token(**bad))).status == 401, name
    await closed(api)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"claimMappings": {"username": {"expression": "claims."}}}, "username.expression"),
        ({"claimMappings": {"username": {"expression": "1 + 1"}}}, "username.expression"),
        ({"claimMappings": {"username": {"expression": "claims.email"}}}, "email_verified"),
        ({"claimMappings": {"username": {"claim": "a", "expression": "claims.b"}}}, "both"),
        ({"claimMappings": {}}, "username: Required value"),
        ({"issuer": {"url": "http://i.example", "audiences": ["a"]}}, "must be an https URL"),
        ({"issuer": {"url": "https://i.example", "audiences": ["a", "b"]}}, "MatchAny"),
        ({"claimValidationRules": [{}]}, "claim or expression is required"),
        ({"userValidationRules": [{"expression": "user.username"}]}, "userValidationRules[0]"),
        (
            {
                "claimMappings": {
                    "username": {"claim": "sub"},
                    "extra": [{"key": "kubernetes.io/x", "valueExpression": "claims.x"}],
                }
            },
            "outside of kubernetes.io",
        ),
    ],
)
def test_a_wrong_authentication_configuration_says_where(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadAuthenticationConfig) as caught:
        parse_config(configuration(**given))
    assert said in str(caught.value)
