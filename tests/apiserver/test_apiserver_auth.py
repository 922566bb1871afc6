"""Authentication: certificates, service-account tokens and what ends them, anonymous requests, impersonation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.apiserver import pki
from sampan.apiserver.auth import (
    ANONYMOUS,
    Anonymous,
    Authenticator,
    impersonated,
    take_bearer,
    user_of_certificate,
)
from sampan.apiserver.authz import Authorizer
from sampan.apiserver.rbac import RBACIndex
from sampan.apiserver.reviews import Reviews
from sampan.apiserver.token_request import create_token
from sampan.apiserver.tokens import InvalidToken, TokenSigner
from sampan.client.transport import Request, User
from sampan.kube.errors import ApiError

ADMIN = User("root", ("system:masters", "system:authenticated"))
NOBODY = User("nobody", ("system:authenticated",))


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Entry:
    def __init__(self, obj: dict[str, Any]) -> None:
        self.obj = obj

    def object(self) -> dict[str, Any]:
        return self.obj


class Objects:
    """The watch cache as far as authentication looks into it."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str, str], Entry] = {}

    def put(self, plural: str, namespace: str, name: str, uid: str, **more: Any) -> dict[str, Any]:
        metadata = {"name": name, "uid": uid} | ({"namespace": namespace} if namespace else {})
        obj = {"metadata": metadata | more.pop("metadata", {}), **more}
        self.entries[plural, namespace, name] = Entry(obj)
        return obj

    async def entry(
        self, group: str, version: str, plural: str, namespace: str, name: str
    ) -> Entry | None:
        assert (group, version) == ("", "v1")
        return self.entries.get((plural, namespace, name))


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pki.ensure_pki(tmp_path_factory.mktemp("pki")).service_account_key


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signer(key_file: Path, clock: Clock) -> TokenSigner:
    return TokenSigner(key_file, clock)


@pytest.fixture
def objects() -> Objects:
    found = Objects()
    found.put("serviceaccounts", "a", "robot", "u-robot")
    found.put("pods", "a", "web", "u-web", spec={"serviceAccountName": "robot", "nodeName": "n1"})
    found.put("nodes", "", "n1", "u-n1")
    return found


def account(objects: Objects) -> dict[str, Any]:
    return objects.entries["serviceaccounts", "a", "robot"].obj


# --- certificates -------------------------------------------------------------------------------------


def test_certificate_subject() -> None:
    subject = (
        (("organizationName", "system:nodes"),),
        (("organizationName", "extra"),),
        (("commonName", "system:node:n1"),),
    )
    user = user_of_certificate({"subject": subject})
    assert user == User("system:node:n1", ("system:nodes", "extra", "system:authenticated"))
    assert user_of_certificate({}) is None
    assert user_of_certificate(None) is None


# --- tokens -------------------------------------------------------------------------------------------


def test_claims_are_kubernetes_own(signer: TokenSigner, objects: Objects, clock: Clock) -> None:
    token, expires = signer.make(
        account(objects),
        seconds=3607,
        pod=objects.entries["pods", "a", "web"].obj,
        node=objects.entries["nodes", "", "n1"].obj,
    )
    key = jwt.PyJWK(signer.key_set()["keys"][0])
    claims = jwt.decode(
        token,
        key,
        audience=signer.issuer,
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )
    now = int(clock.now)
    assert claims.pop("jti")
    assert claims == {
        "aud": [signer.issuer],
        "exp": now + 365 * 86400,  # the default mount asks for 3607 s and is given a year
        "iat": now,
        "nbf": now,
        "iss": signer.issuer,
        "sub": "system:serviceaccount:a:robot",
        "kubernetes.io": {
            "namespace": "a",
            "serviceaccount": {"name": "robot", "uid": "u-robot"},
            "pod": {"name": "web", "uid": "u-web"},
            "node": {"name": "n1", "uid": "u-n1"},
            "warnafter": now + 3607,
        },
    }
    assert expires == claims["exp"]
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": signer.key_id}


def test_verification(signer: TokenSigner, objects: Objects, clock: Clock) -> None:
    token, _ = signer.make(account(objects), seconds=600)
    found = signer.verify(token)
    assert found.username == "system:serviceaccount:a:robot"
    assert found.groups == (
        "system:serviceaccounts",
        "system:serviceaccounts:a",
        "system:authenticated",
    )
    with pytest.raises(InvalidToken, match="audiences"):
        signer.verify(token, ["elsewhere"])
    head, body, tail = token.split(".")
    for bad in (f"{head}.{body}.{tail[::-1]}", f"{head}.{body}", "", "a.b.c", f"{head}..{tail}"):
        with pytest.raises(InvalidToken):
            signer.verify(bad)
    clock.now += 700
    with pytest.raises(InvalidToken, match="expired"):
        signer.verify(token)


def test_a_token_of_another_algorithm_or_key(signer: TokenSigner, objects: Objects) -> None:
    claims = jwt.decode(signer.make(account(objects))[0], options={"verify_signature": False})
    with pytest.raises(InvalidToken):
        signer.verify(jwt.encode(claims, "x" * 32, algorithm="HS256"))
    with pytest.raises(InvalidToken):
        signer.verify(jwt.encode(claims, "", algorithm="none"))
    from cryptography.hazmat.primitives.asymmetric import ec

    stranger = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(InvalidToken, match=r"(?i)signature"):
        signer.verify(jwt.encode(claims, stranger, algorithm="ES256"))


def test_a_public_key_is_no_shared_secret(signer: TokenSigner, objects: Objects) -> None:
    """HS256 with the public key as the secret: the classic confusion of algorithms (RFC 8725 §2.1)."""
    token, _ = signer.make(account(objects))
    _, body, _ = token.split(".")
    public = signer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    mac = hmac.new(public, f"{head}.{body}".encode(), hashlib.sha256).digest()
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    with pytest.raises(InvalidToken):
        signer.verify(forged)


SEGMENT = st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="))
HEADER = st.dictionaries(
    st.sampled_from(["alg", "kid", "crit", "b64", "jwk", "x5c"]),
    st.one_of(st.none(), st.text(max_size=5), st.just("ES256"), st.lists(st.text(max_size=3))),
).map(lambda header: base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("="))


@given(
    st.one_of(
        st.text(max_size=60),
        st.tuples(st.one_of(SEGMENT, HEADER), SEGMENT, SEGMENT).map(".".join),
        st.just(base64.urlsafe_b64encode(b"[" * 30_000).decode() + ".e30.e30"),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_no_token_of_ours_is_invalid(signer: TokenSigner, text: str) -> None:
    with pytest.raises(InvalidToken):
        signer.verify(text)


async def test_a_token_ends_with_what_it_is_bound_to(signer: TokenSigner, objects: Objects) -> None:
    authenticator = Authenticator(signer, objects)
    pod = objects.entries["pods", "a", "web"].obj
    bound, _ = signer.make(account(objects), pod=pod)
    plain, _ = signer.make(account(objects))
    user = await authenticator.user_of_token(bound)
    assert user.uid == "u-robot"
    assert user.extra_map()["authentication.kubernetes.io/pod-name"] == ["web"]
    objects.put("pods", "a", "web", "u-other")
    with pytest.raises(InvalidToken, match="made again"):
        await authenticator.user_of_token(bound)
    await authenticator.user_of_token(plain)
    del objects.entries["serviceaccounts", "a", "robot"]
    with pytest.raises(InvalidToken, match="deleted"):
        await authenticator.user_of_token(plain)


async def test_a_pod_may_use_its_token_while_it_ends(
    signer: TokenSigner, objects: Objects, clock: Clock
) -> None:
    authenticator = Authenticator(signer, objects)
    token, _ = signer.make(
        account(objects), pod=objects.entries["pods", "a", "web"].obj, seconds=6000
    )
    from datetime import UTC, datetime

    deleted = datetime.fromtimestamp(clock.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    objects.put("pods", "a", "web", "u-web", metadata={"deletionTimestamp": deleted})
    await authenticator.user_of_token(token)
    await authenticator.user_of_token(token)
    clock.now += 100  # nothing but time has passed
    with pytest.raises(InvalidToken, match="being deleted"):
        await authenticator.user_of_token(token)


async def test_a_known_token_gives_the_same_user_until_it_ends(
    signer: TokenSigner, objects: Objects, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = Authenticator(signer, objects)
    token, expires = signer.make(account(objects))
    user = await authenticator.user_of_token(token)
    verified: list[str] = []
    verify = TokenSigner.verify

    def counted(self: TokenSigner, text: str, audiences: Any = ()) -> Any:
        verified.append(text)
        return verify(self, text, audiences)

    monkeypatch.setattr(TokenSigner, "verify", counted)
    assert await authenticator.user_of_token(token) is user
    assert not verified
    with pytest.raises(InvalidToken):
        await authenticator.review(token, ("elsewhere",))
    clock.now = expires + 61
    with pytest.raises(InvalidToken, match="expired"):
        await authenticator.user_of_token(token)
    assert len(verified) == 2


async def test_legacy_secret_token(signer: TokenSigner, objects: Objects) -> None:
    authenticator = Authenticator(signer, objects)
    token = signer.make_legacy(account(objects), "robot-token")
    with pytest.raises(InvalidToken):
        await authenticator.user_of_token(token)
    data = {"token": base64.b64encode(token.encode()).decode()}
    objects.put("secrets", "a", "robot-token", "u-secret", data=data)
    user = await authenticator.user_of_token(token)
    assert user.name == "system:serviceaccount:a:robot"
    objects.put("secrets", "a", "robot-token", "u-secret", data={"token": ""})
    with pytest.raises(InvalidToken):
        await authenticator.user_of_token(token)


# --- requests -----------------------------------------------------------------------------------------


async def test_requests(signer: TokenSigner, objects: Objects) -> None:
    authenticator = Authenticator(signer, objects)
    token, _ = signer.make(account(objects))
    named = Request("GET", "/api", headers={"authorization": f"Bearer {token}"})
    assert (await authenticator.authenticate(named)).name == "system:serviceaccount:a:robot"
    assert await authenticator.authenticate(Request("GET", "/readyz/ping")) is ANONYMOUS
    basic = Request("GET", "/api", headers={"authorization": "Basic eDp5"})
    assert await authenticator.authenticate(basic) is ANONYMOUS
    assert await authenticator.authenticate(Request("GET", "/api", user=ADMIN)) is ADMIN
    for path in ("/api", "/readyz"):  # who shows something bad is not let in as nobody
        with pytest.raises(ApiError) as caught:
            headers = {"authorization": "Bearer x"}
            await authenticator.authenticate(Request("GET", path, headers=headers))
        assert (caught.value.code, caught.value.message) == (401, "Unauthorized")


async def test_anonymous_requests_are_a_choice(signer: TokenSigner, objects: Objects) -> None:
    none = Authenticator(signer, objects, (), Anonymous(False))
    with pytest.raises(ApiError):
        await none.authenticate(Request("GET", "/readyz"))
    health = Authenticator(signer, objects, (), Anonymous(True, frozenset({"/readyz"})))
    assert await health.authenticate(Request("GET", "/readyz")) is ANONYMOUS
    with pytest.raises(ApiError):
        await health.authenticate(Request("GET", "/api"))


def test_bearer_in_a_websocket_protocol() -> None:
    hidden = base64.urlsafe_b64encode(b"secret").rstrip(b"=").decode()
    offered = f"base64url.bearer.authorization.k8s.io.{hidden}, v5.channel.k8s.io"
    headers = {"sec-websocket-protocol": offered}
    request = Request("GET", "/x", headers=headers)
    assert take_bearer(request) == "secret"
    assert request.header("sec-websocket-protocol") == "v5.channel.k8s.io"
    assert headers["sec-websocket-protocol"] == offered  # header blocks are shared between requests


# --- impersonation ------------------------------------------------------------------------------------


def test_impersonation() -> None:
    check = Authorizer(RBACIndex())

    def ask(user: User, **headers: str) -> User:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return impersonated(user, Request("GET", "/", headers=named), check)

    assert ask(ADMIN) is ADMIN
    assert ask(ADMIN, impersonate_something="a") is ADMIN  # no header of ours
    found = ask(
        ADMIN,
        impersonate_user="alice",
        impersonate_group="dev\ncn=x,ou=y",
        impersonate_extra_scopes="view",
    )
    assert found.name == "alice"
    assert found.groups == ("dev", "cn=x,ou=y", "system:authenticated")
    assert found.extra_map() == {"scopes": ["view"]}
    robot = ask(ADMIN, impersonate_user="system:serviceaccount:a:robot")
    assert "system:serviceaccounts:a" in robot.groups
    with pytest.raises(ApiError) as caught:
        ask(NOBODY, impersonate_user="alice")
    assert caught.value.code == 403
    assert 'cannot impersonate resource "users"' in caught.value.message
    with pytest.raises(ApiError) as caught:
        ask(ADMIN, impersonate_group="system:masters")
    assert caught.value.code == 400


# --- TokenRequest and reviews -------------------------------------------------------------------------


async def test_token_request(signer: TokenSigner, objects: Objects, clock: Clock) -> None:
    async def ask(user: User = ADMIN, name: str = "robot", **spec: Any) -> dict[str, Any]:
        return await create_token({"spec": spec}, user, "a", name, signer, objects)

    answer = await ask(audiences=["vault"], expirationSeconds=900)
    found = signer.verify(answer["status"]["token"], ["vault"])
    assert found.audiences == ("vault",)
    assert found.expires == int(clock.now) + 900
    assert answer["status"]["expirationTimestamp"] == "2027-01-15T08:15:00Z"
    pod = {"kind": "Pod", "apiVersion": "v1", "name": "web"}
    bound = signer.verify((await ask(boundObjectRef=pod))["status"]["token"])
    assert bound.pod is not None and bound.node is not None
    assert (bound.pod.uid, bound.node.uid) == ("u-web", "u-n1")
    node = User("system:node:n1", ("system:nodes",))
    await ask(node, boundObjectRef=pod)
    other = User("system:node:n2", ("system:nodes",))
    for arguments, code in (
        ({"expirationSeconds": 10}, 422),
        ({"expirationSeconds": 1 << 33}, 422),
        ({"name": "ghost"}, 404),
        ({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "ghost"}}, 404),
        ({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "old"}}, 409),
        ({"boundObjectRef": {"kind": "Service", "apiVersion": "v1", "name": "x"}}, 400),
        ({"user": other, "boundObjectRef": pod}, 403),
        ({"user": node}, 403),
    ):
        with pytest.raises(ApiError) as caught:
            await ask(**arguments)  # type: ignore[arg-type]
        assert caught.value.code == code, arguments


async def test_reviews(signer: TokenSigner, objects: Objects) -> None:
    index = RBACIndex()
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    index.apply("clusterroles", {"metadata": {"name": "r"}, "rules": rules})
    index.apply(
        "clusterrolebindings",
        {
            "metadata": {"name": "b"},
            "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "name": "nobody"}],
        },
    )
    reviews = Reviews(Authorizer(index), Authenticator(signer, objects))

    async def ask(kind: str, user: User = NOBODY, **spec: Any) -> dict[str, Any]:
        return (await reviews.create(kind, {"spec": spec}, user, "a"))["status"]

    pods = {"verb": "get", "resource": "pods", "namespace": "a"}
    assert (await ask("SelfSubjectAccessReview", resourceAttributes=pods))["allowed"]
    other = pods | {"verb": "delete"}
    assert not (await ask("SelfSubjectAccessReview", resourceAttributes=other))["allowed"]
    rules_status = await ask("SelfSubjectRulesReview", namespace="a")
    assert rules_status["resourceRules"] == rules
    who = await ask("SelfSubjectReview")
    assert who["userInfo"] == {"username": "nobody", "groups": ["system:authenticated"]}
    token, _ = signer.make(account(objects))
    review = await ask("TokenReview", token=token)
    assert review["authenticated"]
    assert review["user"]["username"] == "system:serviceaccount:a:robot"
    assert review["audiences"] == [signer.issuer]
    assert not (await ask("TokenReview", token=token, audiences=["x"]))["authenticated"]
    assert not (await ask("TokenReview", token="junk"))["authenticated"]


async def test_subject_access_review(signer: TokenSigner, objects: Objects) -> None:
    reviews = Reviews(Authorizer(RBACIndex()), Authenticator(signer, objects))
    pods = {"verb": "get", "resource": "pods", "namespace": "a"}

    async def ask(kind: str, **spec: Any) -> dict[str, Any]:
        return (await reviews.create(kind, {"spec": spec}, NOBODY, "a"))["status"]

    master = await ask("SubjectAccessReview", groups=["system:masters"], resourceAttributes=pods)
    assert master["allowed"]
    local = await ask("LocalSubjectAccessReview", user="bob", resourceAttributes=pods)
    assert not local["allowed"]
    for kind, spec in (
        ("SubjectAccessReview", {"resourceAttributes": pods}),
        ("SubjectAccessReview", {"user": "bob"}),
        (
            "LocalSubjectAccessReview",
            {"user": "bob", "resourceAttributes": pods | {"namespace": "b"}},
        ),
        (
            "SelfSubjectAccessReview",
            {"resourceAttributes": pods, "nonResourceAttributes": {"path": "/"}},
        ),
    ):
        with pytest.raises(ApiError) as caught:
            await ask(kind, **spec)
        assert caught.value.code == 422
