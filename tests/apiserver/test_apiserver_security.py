"""What must not get in: roles beyond their rights, tokens that are not what they were, paths that are not what they seem, and
bodies that are larger inside than outside. Every attack has a control beside it that shows the door works for who may."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from apiserver_harness import CONTENT, Harness, config_map, pod, service_account
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from security_harness import (
    CORE,
    ENCODED,
    RBAC,
    api,
    bind,
    token,
    user,
)

from sampan.apiserver.pki import LEAF_LIFETIME, Leaf, Pair, ensure_pki, issue
from sampan.client.transport import Request, Response

__all__ = ["api"]


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
