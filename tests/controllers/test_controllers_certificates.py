"""Signing requests from the asking to the certificate; bootstrap tokens that end; cluster roles that sum up others."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sampan.apiserver.signing import sign
from sampan.client.client import Client
from sampan.client.inprocess import InProcess
from sampan.client.resources import (
    CERTIFICATESIGNINGREQUESTS,
    CLUSTERROLEBINDINGS,
    CLUSTERROLES,
    CONFIGMAPS,
    NODES,
    SECRETS,
)
from sampan.client.transport import User
from sampan.kube.errors import ApiError
from sampan.kube.signing_requests import (
    API_SERVER_CLIENT,
    KUBELET_CLIENT,
    KUBELET_SERVING,
    Asked,
    refusal,
)

if TYPE_CHECKING:
    from conftest import World

CLIENT_USAGES = ["digital signature", "client auth"]
SERVING_USAGES = ["digital signature", "server auth"]
Object = dict[str, Any]


def request_for(
    name: str, *organizations: str, names: tuple[str, ...] = (), addresses: tuple[str, ...] = ()
) -> str:
    """`spec.request`: base64 of a PEM request with a key of its own."""
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    alternatives = [
        *map(x509.DNSName, names),
        *(x509.IPAddress(ip_address(each)) for each in addresses),
    ]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return base64.b64encode(signed.public_bytes(serialization.Encoding.PEM)).decode()


def signing_request(name: str, signer: str, request: str, usages: list[str], **spec: Any) -> Object:
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": request, "signerName": signer, "usages": usages, **spec},
    }


@pytest.fixture
async def signing(idle: World) -> AsyncIterator[World]:
    await idle.start(sign=partial(sign, idle.server.pki.ca))
    yield idle


def acting(world: World, name: str, *groups: str) -> Client:
    return Client(InProcess(world.server, User(name, (*groups, "system:authenticated"))))


async def approve(world: World, name: str) -> None:
    request = await world.client.get(CERTIFICATESIGNINGREQUESTS, name)
    decision = {"type": "Approved", "status": "True", "reason": "Test", "message": "by hand"}
    request["status"] = {"conditions": [decision]}
    await world.client.update(CERTIFICATESIGNINGREQUESTS, request, subresource="approval")


async def issued(world: World, name: str) -> x509.Certificate:
    def certificate(items: list[Object]) -> Any:
        return [
            o["status"]["certificate"]
            for o in items
            if o["metadata"]["name"] == name and (o.get("status") or {}).get("certificate")
        ]

    (found,) = await world.until(CERTIFICATESIGNINGREQUESTS, certificate, "*")
    return x509.load_pem_x509_certificate(base64.b64decode(found))


async def failed(world: World, name: str) -> str:
    def message(items: list[Object]) -> Any:
        return next(
            (
                c["message"]
                for o in items
                if o["metadata"]["name"] == name
                for c in (o.get("status") or {}).get("conditions") or ()
                if c["type"] == "Failed"
            ),
            None,
        )

    return str(await world.until(CERTIFICATESIGNINGREQUESTS, message, "*"))


async def test_approved_is_signed_and_good_for_a_client(signing: World) -> None:
    made = signing_request(
        "alice",
        API_SERVER_CLIENT,
        request_for("alice", "crew"),
        CLIENT_USAGES,
        expirationSeconds=3600,
    )
    stored = await signing.client.create(CERTIFICATESIGNINGREQUESTS, made)
    assert stored["spec"]["username"] == "admin"  # who asked is the server's to say
    await approve(signing, "alice")
    certificate = await issued(signing, "alice")
    authority = x509.load_pem_x509_certificate(signing.server.pki.ca.crt.read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert certificate.subject.rfc4514_string() == "CN=alice,O=crew"
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(minutes=55) < left <= timedelta(hours=1)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical and not limits.value.ca


async def test_what_a_signer_must_not_grant_fails_with_its_reason(signing: World) -> None:
    wrong = request_for("system:node:boat", "crew")
    made = signing_request("wrong", KUBELET_CLIENT, wrong, CLIENT_USAGES)
    await signing.client.create(CERTIFICATESIGNINGREQUESTS, made)
    await approve(signing, "wrong")
    assert await failed(signing, "wrong") == "subject organization is not system:nodes"
    made = signing_request(
        "server", API_SERVER_CLIENT, request_for("x"), [*SERVING_USAGES, "client auth"]
    )
    await signing.client.create(CERTIFICATESIGNINGREQUESTS, made)
    await approve(signing, "server")
    assert await failed(signing, "server") == "invalid usage for client certificate: server auth"


async def test_a_node_renews_itself_and_nobody_else(signing: World) -> None:
    node = acting(signing, "system:node:boat", "system:nodes")
    mine = request_for("system:node:boat", "system:nodes")
    made = signing_request("mine", KUBELET_CLIENT, mine, CLIENT_USAGES)
    await node.create(CERTIFICATESIGNINGREQUESTS, made)
    assert (await issued(signing, "mine")).subject.rfc4514_string() == (
        "CN=system:node:boat,O=system:nodes"
    )
    other = request_for("system:node:raft", "system:nodes")
    await node.create(
        CERTIFICATESIGNINGREQUESTS,
        signing_request("other", KUBELET_CLIENT, other, CLIENT_USAGES),
    )
    # What comes after it is decided; it is not.
    await node.create(
        CERTIFICATESIGNINGREQUESTS,
        signing_request(
            "again",
            KUBELET_CLIENT,
            request_for("system:node:boat", "system:nodes"),
            CLIENT_USAGES,
        ),
    )
    await issued(signing, "again")
    assert not (await signing.client.get(CERTIFICATESIGNINGREQUESTS, "other"))["status"]


async def test_a_new_node_comes_in_by_a_bootstrap_token_s_group(signing: World) -> None:
    rights = {
        "node-bootstrap": "system:node-bootstrapper",
        "node-approve": "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
    }
    for name, role in rights.items():
        await signing.client.create(
            CLUSTERROLEBINDINGS,
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": role,
                },
                "subjects": [
                    {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "Group",
                        "name": "system:bootstrappers",
                    }
                ],
            },
        )
    new = acting(signing, "system:bootstrap:abcdef", "system:bootstrappers")
    made = signing_request(
        "raft", KUBELET_CLIENT, request_for("system:node:raft", "system:nodes"), CLIENT_USAGES
    )
    await new.create(CERTIFICATESIGNINGREQUESTS, made)
    await issued(signing, "raft")


async def test_a_serving_certificate_is_for_the_node_s_own_names(signing: World) -> None:
    await signing.node("boat")
    await signing.node("raft")
    status = {
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.7"},
                {"type": "Hostname", "address": "raft"},  # claimed, and another node's
            ]
        }
    }
    await signing.client.patch(NODES, "boat", status, subresource="status")
    node = acting(signing, "system:node:boat", "system:nodes")
    for name, names, addresses in (
        ("theft", ("raft",), ()),
        ("unknown", ("boat",), ("192.0.2.8",)),
        ("good", ("boat",), ("192.0.2.7",)),
    ):
        request = request_for("system:node:boat", "system:nodes", names=names, addresses=addresses)
        made = signing_request(name, KUBELET_SERVING, request, SERVING_USAGES)
        await node.create(CERTIFICATESIGNINGREQUESTS, made)
    certificate = await issued(signing, "good")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["boat"]
    for name in ("theft", "unknown"):
        assert not (await signing.client.get(CERTIFICATESIGNINGREQUESTS, name))["status"]


async def test_old_requests_are_cleaned_away(idle: World) -> None:
    for name in ("pending", "denied"):
        made = signing_request(name, "example.com/any", request_for("x"), ["client auth"])
        await idle.client.create(CERTIFICATESIGNINGREQUESTS, made)
    request = await idle.client.get(CERTIFICATESIGNINGREQUESTS, "denied")
    request["status"] = {"conditions": [{"type": "Denied", "status": "True", "reason": "No"}]}
    await idle.client.update(CERTIFICATESIGNINGREQUESTS, request, subresource="approval")
    idle.clock.shift = 3700
    await idle.start()
    await idle.gone(CERTIFICATESIGNINGREQUESTS, "denied", "*")
    assert await idle.client.get(CERTIFICATESIGNINGREQUESTS, "pending")


async def test_requests_are_checked_when_they_are_made(idle: World) -> None:
    good = request_for("alice")
    broken = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()
    for request, signer, usages, said in (
        (broken, "example.com/x", ["client auth"], "PEM block type must be CERTIFICATE REQUEST"),
        (good, "kubernetes.io/legacy-unknown", ["client auth"], "not allowed via this API version"),
        (good, "example.com/x", ["world peace"], 'Unsupported value: "world peace"'),
        (good, "example.com/x", ["any", "any"], "Duplicate value"),
    ):
        with pytest.raises(ApiError) as caught:
            made = signing_request("x", signer, request, usages)
            await idle.client.create(CERTIFICATESIGNINGREQUESTS, made)
        assert caught.value.code == 422 and said in caught.value.message


async def test_a_certificate_is_written_once_and_is_one(signing: World) -> None:
    made = signing_request("x", "example.com/x", request_for("x"), ["client auth"])
    request = await signing.client.create(CERTIFICATESIGNINGREQUESTS, made)
    good = base64.b64encode(signing.server.pki.ca.crt.read_bytes()).decode()
    for certificate, said in (
        (base64.b64encode(b"paper").decode(), "must contain at least one CERTIFICATE PEM block"),
        (base64.b64encode(signing.server.pki.ca.key.read_bytes()).decode(), "only CERTIFICATE"),
        (good, ""),
        (base64.b64encode(signing.server.pki.admin.crt.read_bytes()).decode(), "may not modify"),
    ):
        request["status"] = {"certificate": certificate}
        try:
            request = await signing.client.update(
                CERTIFICATESIGNINGREQUESTS, request, subresource="status"
            )
            assert not said
        except ApiError as error:
            assert error.code == 422 and said and said in error.message


def test_rules_of_the_signers() -> None:
    node = Asked("system:node:boat", ("system:nodes",))
    assert refusal(KUBELET_CLIENT, node, CLIENT_USAGES) == ""
    assert refusal(KUBELET_CLIENT, node, [*CLIENT_USAGES, "key encipherment"]) == ""
    named = Asked("system:node:boat", ("system:nodes",), ("boat",))
    assert refusal(KUBELET_CLIENT, named, CLIENT_USAGES) == "DNS subjectAltNames are not allowed"
    assert refusal(KUBELET_SERVING, named, SERVING_USAGES) == ""
    assert refusal(KUBELET_SERVING, node, SERVING_USAGES) == "DNS or IP subjectAltName is required"
    person = Asked("boat", ("system:nodes",), ("boat",))
    assert "does not begin with system:node:" in refusal(KUBELET_SERVING, person, SERVING_USAGES)
    assert "usages did not match" in refusal(KUBELET_SERVING, named, CLIENT_USAGES)
    both = Asked("system:node:boat", ("system:nodes", "system:masters"))
    assert (
        refusal(KUBELET_CLIENT, both, CLIENT_USAGES) == "subject organization is not system:nodes"
    )


# --- bootstrap tokens ------------------------------------------------------------------------------------


def bootstrap_token(identifier: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"bootstrap-token-{identifier}", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": identifier,
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-signing": "true",
            **data,
        },
    }


async def test_an_expired_bootstrap_token_is_deleted(idle: World) -> None:
    moment = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    await idle.client.create(SECRETS, bootstrap_token("abcdef", expiration=moment))
    await idle.client.create(SECRETS, bootstrap_token("fedcba"))
    idle.clock.shift = 3700
    await idle.start()
    await idle.gone(SECRETS, "bootstrap-token-abcdef", "kube-system")
    assert await idle.client.get(SECRETS, "bootstrap-token-fedcba", "kube-system")


async def test_cluster_info_is_signed_with_each_token(world: World) -> None:
    info = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": "kind: Config\n"},
    }
    await world.client.create(CONFIGMAPS, info)
    await world.client.create(SECRETS, bootstrap_token("abcdef"))

    def signature(items: list[Object]) -> Any:
        return [o["data"]["jws-kubeconfig-abcdef"] for o in items if len(o["data"]) == 2]

    (found,) = await world.until(CONFIGMAPS, signature, "kube-public")
    header, payload, digest = found.split(".")
    assert payload == ""
    signed = (
        f"{header}.{base64.urlsafe_b64encode(b'kind: Config' + bytes([10])).decode().rstrip('=')}"
    )
    wanted = hmac.new(b"0123456789abcdef", signed.encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(digest + "=") == wanted
    await world.client.delete(SECRETS, "bootstrap-token-abcdef", "kube-system")
    await world.until(
        CONFIGMAPS,
        lambda items: [o for o in items if list(o.get("data", ())) == ["kubeconfig"]],
        "kube-public",
    )


# --- aggregation -----------------------------------------------------------------------------------------


def chart_role(name: str, resource: str, **labels: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels},
        "rules": [{"apiGroups": ["example.com"], "resources": [resource], "verbs": ["get"]}],
    }


def shows(resource: str, wanted: bool = True) -> Any:
    def edit(items: list[Object]) -> Any:
        (rules,) = [o["rules"] for o in items if o["metadata"]["name"] == "edit"]
        return any(resource in (rule.get("resources") or ()) for rule in rules) is wanted

    return edit


async def test_a_chart_extends_edit(world: World) -> None:
    label = {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}
    await world.client.create(CLUSTERROLES, chart_role("sails", "sails", **label))
    await world.until(CLUSTERROLES, shows("sails"), "*")
    await world.until(  # and what edit may, admin may
        CLUSTERROLES,
        lambda items: any(
            "sails" in (rule.get("resources") or ())
            for o in items
            if o["metadata"]["name"] == "admin"
            for rule in o["rules"]
        ),
        "*",
    )
    role = await world.client.get(CLUSTERROLES, "edit")
    role["rules"].append({"apiGroups": ["*"], "resources": ["written"], "verbs": ["*"]})
    await world.client.update(CLUSTERROLES, role)
    await world.until(CLUSTERROLES, shows("written", False), "*")
    await world.client.delete(CLUSTERROLES, "sails")
    await world.until(CLUSTERROLES, shows("sails", False), "*")
