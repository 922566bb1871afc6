"""What must not get in: roles beyond their rights, tokens that are not what they were, paths that are not what they seem, and
bodies that are larger inside than outside. Every attack has a control beside it that shows the door works for who may."""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from apiserver_harness import ADMIN, CONTENT, Harness, config_map, open_server, pod, service_account
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sampan.apiserver.pki import LEAF_LIFETIME, Leaf, Pair, ensure_pki, issue
from sampan.client.transport import Request, Response, User

RBAC = "/apis/rbac.authorization.k8s.io/v1"
CORE = "/api/v1/namespaces/default"
TREASURE = "buried at the third palm"
ENCODED = base64.b64encode(TREASURE.encode()).decode()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start()
    await service_account(harness)
    for namespace in ("default", "kube-system"):
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "treasure"},
            "stringData": {"map": TREASURE},
        }
        await harness.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    await harness.call("POST", f"{CORE}/configmaps", config_map("public"))
    yield harness
    await harness.server.close()
    await harness.store.close()


# --- roles -----------------------------------------------------------------------------------------------


def user(name: str, *groups: str) -> User:
    return User(name, (*groups, "system:authenticated"))


async def bind(api: Harness, role: str, name: str) -> User:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    }
    await api.call("POST", f"{RBAC}/namespaces/default/rolebindings", binding)
    return user(name)


def grant(role: str) -> dict[str, Any]:
    """A binding of `role` to its writer."""
    return {
        "metadata": {"name": "mine"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "x"}],
    }


EVERYTHING = {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
ELSEWHERE = CORE.replace("default", "kube-system")
NOBODY = (
    ("GET", f"{CORE}/secrets", None),
    ("GET", f"{CORE}/secrets/treasure", None),
    ("GET", "/api/v1/secrets?watch=true", None),
    ("GET", "/api/v1/nodes", None),
    ("GET", "/metrics", None),
    ("POST", f"{CORE}/pods", pod("x")),
    ("DELETE", "/api/v1/namespaces/default", None),
    ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": {"user": "x"}}),
    ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "x"}}),
    ("POST", f"{RBAC}/clusterrolebindings", grant("cluster-admin")),
    ("GET", "/api/v1/nodes/boat/proxy/pods", None),
)
VIEW = (
    ("GET", f"{CORE}/secrets", None),
    ("GET", f"{CORE}/secrets/treasure", None),
    ("GET", f"{ELSEWHERE}/configmaps", None),
    ("POST", f"{CORE}/configmaps", config_map("x")),
    ("DELETE", f"{CORE}/configmaps/public", None),
    ("PATCH", f"{CORE}/configmaps/public", {}),
    ("POST", f"{CORE}/pods/x/exec?command=id", None),
    ("GET", f"{CORE}/pods/x/exec?command=id", None),
    ("GET", f"{CORE}/services/x/proxy/", None),
    ("POST", f"{CORE}/serviceaccounts/default/token", {"spec": {}}),
)
EDIT = (
    ("GET", f"{ELSEWHERE}/secrets/treasure", None),
    ("GET", "/api/v1/secrets", None),
    ("POST", f"{RBAC}/namespaces/default/rolebindings", grant("admin")),
    ("POST", f"{RBAC}/namespaces/default/roles", {"metadata": {"name": "x"}, **EVERYTHING}),
    ("POST", f"{CORE}/resourcequotas", {"metadata": {"name": "x"}}),
    ("POST", f"{CORE}/pods/x/binding", {"target": {"name": "boat"}}),
    ("PUT", f"{CORE}/pods/x/status", pod("x")),
    ("DELETE", "/api/v1/namespaces/default", None),
    ("GET", "/api/v1/nodes", None),
)
ADMINISTRATOR = (
    *EDIT[:2],
    ("POST", f"{RBAC}/namespaces/default/rolebindings", grant("cluster-admin")),
    ("POST", f"{RBAC}/namespaces/default/roles", {"metadata": {"name": "x"}, **EVERYTHING}),
    ("POST", f"{RBAC}/namespaces/kube-system/rolebindings", grant("view")),
    ("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "x"}, **EVERYTHING}),
    ("POST", f"{CORE}/resourcequotas", {"metadata": {"name": "x"}}),
    ("POST", "/api/v1/namespaces", {"metadata": {"name": "x"}}),
)
SYSTEM = {
    "system:kube-scheduler": (
        ("GET", f"{CORE}/secrets/treasure", None),
        ("POST", f"{CORE}/pods", pod("x")),
        ("DELETE", "/api/v1/nodes/boat", None),
    ),
    "system:kube-proxy": (
        ("GET", f"{CORE}/secrets/treasure", None),
        ("POST", f"{CORE}/services", {"metadata": {"name": "x"}}),
        ("GET", "/api/v1/pods", None),
    ),
}
ALLOWED = {
    "": "/version",
    "view": f"{CORE}/configmaps/public",
    "edit": f"{CORE}/secrets/treasure",
    "admin": f"{CORE}/secrets/treasure",
    "system:kube-scheduler": "/api/v1/pods",
    "system:kube-proxy": "/api/v1/services",
}


@pytest.mark.parametrize(
    ("role", "attacks"),
    [("", NOBODY), ("view", VIEW), ("edit", EDIT), ("admin", ADMINISTRATOR), *SYSTEM.items()],
)
async def test_each_role_tries_what_it_must_not_do(
    api: Harness, role: str, attacks: tuple[tuple[str, str, Any], ...]
) -> None:
    if role.startswith("system:"):
        who = user(role)
    else:
        who = await bind(api, role, "eve") if role else user("eve")
    assert (await api.send("GET", ALLOWED[role], user=who)).status == 200
    for method, path, body in attacks:
        content = CONTENT["merge"] if method == "PATCH" else "application/json"
        answer = await api.send(method, path, body, user=who, content=content)
        text = await answer.read()
        assert answer.status == 403, (method, path, answer.status, text)
        assert json.loads(text)["reason"] == "Forbidden"
        assert ENCODED.encode() not in text


async def test_nobody_becomes_somebody_else(api: Harness) -> None:
    eve = await bind(api, "edit", "eve")
    for headers in (
        {"impersonate_user": "admin"},
        {"impersonate_user": "eve", "impersonate_group": "system:masters"},
        {"impersonate_user": "system:serviceaccount:kube-system:default"},
        {"impersonate_user": "eve", "impersonate_uid": "0"},
        {"impersonate_user": "eve", "impersonate_extra_scopes": "all"},
        {"impersonate_user": "system:node:boat", "impersonate_group": "system:nodes"},
    ):
        answer = await api.send("GET", f"{CORE}/configmaps", user=eve, **headers)
        assert answer.status == 403, headers
        assert "cannot impersonate resource" in answer.json()["message"]
    robot = {"impersonate_user": "system:serviceaccount:default:default"}
    answer = await api.send("GET", "/api", user=eve, **robot)  # `edit` may, in its namespace
    assert answer.status == 200
    for names in ("x_remote_user", "x_forwarded_user"):
        answer = await api.send("GET", "/api/v1/secrets", user=eve, **{names: "admin"})
        assert answer.status == 403


async def test_approvers_of_one_signer_are_not_those_of_another(api: Harness) -> None:
    role = {
        "metadata": {"name": "approver"},
        "rules": [
            {
                "apiGroups": ["certificates.k8s.io"],
                "resources": [
                    "certificatesigningrequests",
                    "certificatesigningrequests/approval",
                    "certificatesigningrequests/status",
                ],
                "verbs": ["*"],
            },
            {
                "apiGroups": ["certificates.k8s.io"],
                "resources": ["signers"],
                "resourceNames": ["example.com/*"],
                "verbs": ["approve"],
            },
        ],
    }
    await api.call("POST", f"{RBAC}/clusterroles", role)
    binding = grant("approver") | {"metadata": {"name": "approver"}}
    binding["subjects"][0]["name"] = "eve"
    await api.call("POST", f"{RBAC}/clusterrolebindings", binding)
    requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    for name, signer, group, status in (
        ("a", "example.com/mine", "crew", 200),
        ("b", "kubernetes.io/kube-apiserver-client", "crew", 403),
    ):
        made = signing_request(name, signer, group)
        made = await api.call("POST", requests, made, user=user("eve"))
        made["status"] = {
            "conditions": [{"type": "Approved", "status": "True", "reason": "x", "message": ""}]
        }
        answer = await api.call(
            "PUT", f"{requests}/{name}/approval", made, status, user=user("eve")
        )
        if status == 403:
            assert (
                f'not permitted to approve requests with signerName "{signer}"' in answer["message"]
            )
        made = await api.call("GET", f"{requests}/{name}")
        forged = api.server.pki.ca.crt.read_bytes()
        made["status"]["certificate"] = base64.b64encode(forged).decode()
        answer = await api.call("PUT", f"{requests}/{name}/status", made, 403, user=user("eve"))
        assert f'not permitted to sign requests with signerName "{signer}"' in answer["message"]
    masters = signing_request("c", "kubernetes.io/kube-apiserver-client", "system:masters")
    answer = await api.call("POST", requests, masters, 403)
    assert "system:masters group is not allowed" in answer["message"]


def signing_request(name: str, signer: str, group: str) -> dict[str, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, group),
            x509.NameAttribute(NameOID.COMMON_NAME, "eve"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    pem = signed.public_bytes(serialization.Encoding.PEM)
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": signer,
            "usages": ["client auth"],
        },
    }


# --- tokens ----------------------------------------------------------------------------------------------


async def show(api: Harness, token: str) -> Response:
    headers = {"authorization": f"Bearer {token}"}
    return await api.server.handle(Request("GET", "/api", headers=headers))


async def token(api: Harness, **spec: Any) -> str:
    path = f"{CORE}/serviceaccounts/default/token"
    answer = await api.call("POST", path, {"spec": spec})
    return str(answer["status"]["token"])


def resigned(original: str, key: Any, algorithm: str, **changes: Any) -> str:
    """The same token, changed, and signed by whoever has `key`."""
    claims = jwt.decode(original, options={"verify_signature": False})
    headers = {"kid": jwt.get_unverified_header(original)["kid"]}
    return jwt.encode(claims | changes, key, algorithm, headers)


async def test_tokens_that_are_not_what_they_were(api: Harness) -> None:
    good = await token(api)
    assert (await show(api, good)).status == 200
    header, claims, signature = good.split(".")
    other = (await token(api, audiences=["elsewhere"])).split(".")[1]
    public = api.server.access.signer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    root = {"sub": "system:serviceaccount:kube-system:default"}
    nothing = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    foreign = ec.generate_private_key(ec.SECP256R1())
    for name, bad in {
        "of another audience": await token(api, audiences=["elsewhere"]),
        "re-signed by another key": resigned(good, foreign, "ES256"),
        "re-signed for another account": resigned(good, foreign, "ES256", **root),
        "signed with our public key as a secret": hmac_signed(good, public),
        "unsigned": f"{nothing}.{claims}.",
        "with another's claims": f"{header}.{other}.{signature}",
        "without a signature": f"{header}.{claims}.",
        "cut off": good[:-4],
        "with something behind it": good + "A",
        "with a line in it": good.replace(".", ".\n"),
        "empty in its parts": "..",
        "nonsense": "\x00\xff",
        "very long": "a" * 100_000,
    }.items():
        answer = await show(api, bad)
        assert answer.status == 401, name
        assert answer.json()["message"] == "Unauthorized", name
    for ours in ({"exp": 2**31}, {"aud": ["https://kubernetes.default.svc"]}, root):
        assert (await show(api, resigned(good, foreign, "ES256", **ours))).status == 401


def hmac_signed(original: str, secret: bytes) -> str:
    """RFC 8725 §2.1: a verifier that takes the algorithm from the header would take its public key for a secret."""
    import hashlib
    import hmac

    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    signed = header + b"." + original.split(".")[1].encode()
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


async def test_an_expired_token(api: Harness) -> None:
    signer = api.server.access.signer
    good = await token(api, expirationSeconds=600)
    assert (await show(api, good)).status == 200
    signer.clock = lambda: time.time() + 600 + 61
    assert (await show(api, good)).status == 401


async def test_a_stolen_token_ends_with_what_it_is_bound_to(api: Harness) -> None:
    made = await api.call("POST", f"{CORE}/pods", pod("victim"))
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "victim", "uid": made["metadata"]["uid"]}
    stolen = await token(api, boundObjectRef=bound)
    assert (await show(api, stolen)).status == 200
    await api.call("DELETE", f"{CORE}/pods/victim?gracePeriodSeconds=0")
    assert (await show(api, stolen)).status == 401
    await api.call("POST", f"{CORE}/pods", pod("victim"))  # one of the same name is another pod
    assert (await show(api, stolen)).status == 401
    stolen = await token(api)
    await api.call("DELETE", f"{CORE}/serviceaccounts/default")
    assert (await show(api, stolen)).status == 401
    await service_account(api)
    assert (await show(api, stolen)).status == 401


# --- certificates ----------------------------------------------------------------------------------------


async def certified(api: Harness, pair: Pair) -> bytes:
    """What the server answers to who shows this certificate; b"" when the handshake fails."""
    context = ssl.create_default_context(cafile=str(api.server.pki.ca.crt))
    context.load_cert_chain(pair.crt, pair.key)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port, ssl=context)
        writer.write(b"GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            return await reader.read()
    except (ssl.SSLError, ConnectionError):
        return b""


async def test_certificates_that_are_not_for_clients_or_not_of_ours(
    api: Harness, tmp_path: Path
) -> None:
    pki, now = api.server.pki, datetime.now(UTC)
    masters = ("system:masters",)
    assert b" 200 " in (await certified(api, pki.admin))[:20]
    foreign = ensure_pki(tmp_path / "foreign")
    assert await certified(api, foreign.admin) == b""  # of another authority, however it is named
    # A serving certificate says who a machine is, not what it may do.
    serving = Pair(tmp_path / "serving.crt", tmp_path / "serving.key")
    issue(Leaf(serving, "boat", masters, frozenset({"localhost"})), pki.ca, now)
    assert await certified(api, serving) == b""
    expired = Pair(tmp_path / "expired.crt", tmp_path / "expired.key")
    issue(Leaf(expired, "root", masters), pki.ca, now - LEAF_LIFETIME - timedelta(days=1))
    assert await certified(api, expired) == b""
    # What one of our own certificates signed is not ours.
    issuer = Pair(tmp_path / "issuer.crt", tmp_path / "issuer.key")
    issuer.crt.write_bytes(pki.admin.crt.read_bytes())
    issuer.key.write_bytes(pki.admin.key.read_bytes())
    derived = Pair(tmp_path / "derived.crt", tmp_path / "derived.key")
    issue(Leaf(derived, "root", masters), issuer, now)
    derived.crt.write_bytes(derived.crt.read_bytes() + issuer.crt.read_bytes())
    assert await certified(api, derived) == b""


# --- paths -----------------------------------------------------------------------------------------------

TRICKS = (
    "/api/v1/namespaces/default/../kube-system/secrets/treasure",
    "/api/v1/namespaces/default/configmaps/../../kube-system/secrets/treasure",
    "/api/v1/namespaces/default/configmaps/../secrets/treasure",
    "/api/v1/namespaces/default%2f..%2fkube-system/secrets/treasure",
    "/api/v1/namespaces/default/configmaps/..%2fsecrets%2ftreasure",
    "/api/v1/namespaces/default/configmaps/%2e%2e/secrets/treasure",
    "/api/v1/namespaces/default%00/secrets/treasure",
    "/api/v1/namespaces/default/secrets/treasure%00",
    "/api/v1/namespaces/default/secrets%2ftreasure",
    "/api/v1/namespaces/default/secrets/treasure/",
    "/api/v1/namespaces/default/secrets/treasure/status",
    "/api/v1/namespaces/default//secrets/treasure",
    "/api/v1//namespaces/default/secrets/treasure",
    "//api/v1/namespaces/default/secrets/treasure",
    "/./api/v1/namespaces/default/secrets/treasure",
    "/API/v1/namespaces/default/secrets/treasure",
    "/api/v1/namespaces/default/SECRETS/treasure",
    "/api/v1/namespaces/default/secrets;x=y/treasure",
    "/api/v1/watch/namespaces/default/secrets/treasure",
    "/api/v1/watch/secrets",
    "/api/v1/proxy/namespaces/default/secrets/treasure",
    "/api/v1/secrets/",
    "/api/v1/secrets?fieldSelector=metadata.name%3Dtreasure",
    "/api/v1/namespaces//secrets/treasure",
    "/api/v1/namespaces/%2a/secrets",
    "/version/../api/v1/namespaces/default/secrets/treasure",
    "/healthz/..;/api/v1/namespaces/default/secrets/treasure",
    "/openapi/v3/../../api/v1/namespaces/default/secrets/treasure",
    "/api/v1/namespaces/default/secrets/treasure?watch=false",
    "/api/v1/namespaces/default/configmaps/public/../../secrets/treasure?as=x",
    "/%61pi/v1/namespaces/default/secrets/treasure",
    "/api/v1/namespaces/default/%73ecrets/treasure",
    "/api/v1/namespaces/%64efault/secrets/treasure",
)


async def raw(api: Harness, wire: bytes) -> bytes:
    """What the server says to these bytes over TLS, without a client certificate."""
    context = ssl.create_default_context(cafile=str(api.server.pki.ca.crt))
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port, ssl=context)
    writer.write(wire)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_paths_are_read_once_and_judged_as_they_are_served(api: Harness) -> None:
    """Whoever may read ConfigMaps only tries every spelling of a Secret; the administrator is the control."""
    await bind(api, "view", "system:serviceaccount:default:default")
    bearer = (await token(api)).encode()
    tail = (
        b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
        + bearer
        + b"\r\n\r\n"
    )
    assert (
        b" 200 "
        in (await raw(api, b"GET /api/v1/namespaces/default/configmaps/public" + tail))[:20]
    )
    for trick in TRICKS:
        for target in (trick, f"https://127.0.0.1{trick}"):
            answer = await raw(api, b"GET " + target.encode() + tail)
            status = int(answer[9:12]) if answer else 400
            assert status in (400, 403, 404, 405), (target, answer[:200])
            assert ENCODED.encode() not in answer, target
    found = await api.send("GET", f"{CORE}/%73ecrets/treasure", user=ADMIN)
    assert ENCODED.encode() in await found.read()


async def test_two_requests_do_not_hide_in_one(api: Harness) -> None:
    """Request smuggling: whatever is ambiguous about a body's length ends the connection."""
    second = b"GET /api/v1/namespaces/default/secrets/treasure HTTP/1.1\r\nHost: x\r\n\r\n"
    start = b"POST /version HTTP/1.1\r\nHost: x\r\n"
    last = second.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    control = await raw(api, start + b"Content-Length: 0\r\n\r\n" + last)
    assert control.count(b"HTTP/1.1 ") == 2  # two plain ones are two
    for head in (
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 0\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length : 5\r\n",
        b"X: y\r\n Content-Length: 5\r\n",
        b"Impersonate-User: a\rImpersonate-Group: system:masters\r\n",
    ):
        answer = await raw(api, start + head + b"\r\n" + last)
        assert ENCODED.encode() not in answer
        assert answer.count(b"HTTP/1.1 ") <= 1, (head, answer)
        assert b" 200 " not in answer[:20]


# --- bodies ----------------------------------------------------------------------------------------------

MEMORY = 96 * 1024  # KiB that a hostile body may cost at most: a body's limit is 3 MiB


def laughs(depth: int = 40, width: int = 10) -> bytes:
    lines = ['a0: &a0 ["lol"]']
    for level in range(1, depth):
        inner = ", ".join(f"*a{level - 1}" for _ in range(width))
        lines.append(f"a{level}: &a{level} [{inner}]")
    return "\n".join(lines).encode()


def merged_laughs(depth: int = 40) -> bytes:
    lines = ["a0: &a0 {k0: v}"]
    for level in range(1, depth):
        inner = ", ".join(f"{{k{level}_{n}: *a{level - 1}}}" for n in range(9))
        lines.append(f"a{level}: &a{level}\n  <<: [*a{level - 1}, {inner}]")
    return "\n".join(lines).encode()


NESTED = 1_000_000
HOSTILE: dict[str, tuple[str, bytes]] = {
    "billion laughs": ("application/yaml", laughs()),
    "billion laughs by merge keys": ("application/yaml", merged_laughs()),
    "an anchor of itself": ("application/yaml", b"a: &a [*a, *a]"),
    "deep YAML": ("application/yaml", b"[" * NESTED),
    "deep YAML blocks": ("application/yaml", b"- " * 100_000 + b"x"),
    "deep JSON arrays": ("application/json", b"[" * NESTED + b"]" * NESTED),
    "deep JSON objects": (
        "application/json",
        b'{"a":' * (NESTED // 2) + b"1" + b"}" * (NESTED // 2),
    ),
    "deep JSON in its place": (
        "application/json",
        b'{"metadata":{"name":"x","annotations":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_002,
    ),
    "a number without end": (
        "application/json",
        b'{"metadata":{"name":"x"},"a":' + b"9" * 2_000_000 + b"}",
    ),
    "deep protobuf": (
        "application/vnd.kubernetes.protobuf",
        b"k8s\x00" + b"\x12\xff\xff\x03" * 100_000,
    ),
    "YAML with a Python object": (
        "application/yaml",
        b"a: !!python/object/apply:os.system ['true']",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_bodies_are_refused_at_once_and_cost_little(api: Harness, name: str) -> None:
    content, body = HOSTILE[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    answer = await api.send("POST", f"{CORE}/configmaps", body, content=content)
    assert answer.status in (400, 413, 415, 422), (answer.status, await answer.read())
    assert time.monotonic() - began < 20  # it ends: on a busy machine too
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    assert len(await answer.read()) < 64 * 1024  # and is not thrown back at everyone who reads logs
    assert (await api.send("GET", f"{CORE}/configmaps/public")).status == 200


@pytest.mark.parametrize("kind", CONTENT.values())
async def test_hostile_patches(api: Harness, kind: str) -> None:
    deep = b'{"data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
    copies = json.dumps(
        [{"op": "add", "path": "/metadata/annotations", "value": {"a": "x" * 100}}]
        + [
            {"op": "copy", "from": "/metadata", "path": f"/metadata/annotations/a{n}"}
            for n in range(60)
        ]
    ).encode()
    for body in (deep, b"[" * 500_000, copies):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = await api.send("PATCH", f"{CORE}/configmaps/public", body, content=kind)
        assert answer.status in (400, 413, 415, 422), (answer.status, (await answer.read())[:300])
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    assert (await api.send("GET", f"{CORE}/configmaps/public")).status == 200


async def test_what_is_too_large_is_not_taken_in(api: Harness) -> None:
    bearer = (await token(api)).encode()
    head = (
        b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nAuthorization: Bearer " + bearer + b"\r\n"
    )
    answer = await raw(api, head + b"Content-Length: 99999999999\r\n\r\n")
    assert int(answer[9:12]) in (400, 413)
    answer = await raw(
        api, b"GET /version HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 400_000 + b"\r\n\r\n"
    )
    assert not answer or int(answer[9:12]) in (400, 413, 431)
