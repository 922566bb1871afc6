"""Identities through kubectl: tokens, certificates out of signing requests, and what each of them may do."""

from __future__ import annotations

import base64
import http.client
import json
import ssl

import yaml
from cluster import Cluster, wait_for
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def kubeconfig(cluster: Cluster, name: str, user: dict[str, str]) -> str:
    """A kubeconfig of the cluster with other credentials; its path."""
    config = yaml.safe_load((cluster.data / "kubeconfig.yaml").read_text())
    config["users"][0]["user"] = user
    path = cluster.directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return str(path)


def nobody_gets(cluster: Cluster, path: str) -> int:
    """The status of a request without credentials."""
    address = cluster.door()[0]
    context = ssl.create_default_context(cafile=str(cluster.data / "pki" / "ca.crt"))

    def send() -> int:
        connection = http.client.HTTPSConnection(address, context=context, timeout=20)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    status: int = cluster.inside(send)
    return status


def whoami(cluster: Cluster, config: str) -> dict[str, object]:
    text = cluster.kubectl("--kubeconfig", config, "auth", "whoami", "-o", "json")
    found: dict[str, object] = json.loads(text)["status"]["userInfo"]
    return found


def test_create_token(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    token = cluster.kubectl("create", "token", "robot", "-n", namespace, "--duration=20m").strip()
    robot = kubeconfig(cluster, "robot", {"token": token})
    user = whoami(cluster, robot)
    assert user["username"] == f"system:serviceaccount:{namespace}:robot"
    assert f"system:serviceaccounts:{namespace}" in user["groups"]  # type: ignore[operator]
    assert cluster.run(
        "kubectl", "--kubeconfig", robot, "get", "pods", "-n", namespace, check=False
    ).stderr == (
        f'Error from server (Forbidden): pods is forbidden: User "system:serviceaccount:{namespace}:robot" '
        f'cannot list resource "pods" in API group "" in the namespace "{namespace}"\n'
    )
    cluster.kubectl(
        "create", "rolebinding", "see", "-n", namespace, "--clusterrole=view",
        f"--serviceaccount={namespace}:robot",
    )  # fmt: skip
    cluster.kubectl("--kubeconfig", robot, "get", "pods", "-n", namespace)
    elsewhere = cluster.kubectl(
        "create", "token", "robot", "-n", namespace, "--audience=elsewhere"
    ).strip()
    other = kubeconfig(cluster, "other", {"token": elsewhere})
    refused = cluster.run("kubectl", "--kubeconfig", other, "get", "pods", check=False)
    assert "You must be logged in to the server" in refused.stderr
    cluster.kubectl("delete", "serviceaccount", "robot", "-n", namespace)
    refused = cluster.run("kubectl", "--kubeconfig", robot, "get", "pods", check=False)
    assert "You must be logged in to the server" in refused.stderr


def test_certificate_approve(cluster: Cluster) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "crew"),
        x509.NameAttribute(NameOID.COMMON_NAME, "alice"),
    ]
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    pem = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def ask(name: str) -> None:
        cluster.apply(
            {
                "apiVersion": "certificates.k8s.io/v1",
                "kind": "CertificateSigningRequest",
                "metadata": {"name": name},
                "spec": {
                    "request": base64.b64encode(pem).decode(),
                    "signerName": "kubernetes.io/kube-apiserver-client",
                    "expirationSeconds": 86400,
                    "usages": ["client auth"],
                },
            }
        )

    ask("alice")
    assert "Pending" in cluster.kubectl("get", "csr", "alice")
    cluster.kubectl("certificate", "approve", "alice")
    issued = wait_for(
        lambda: cluster.kubectl("get", "csr", "alice", "-o", "jsonpath={.status.certificate}"),
        what="a certificate",
    )
    assert "Approved,Issued" in cluster.kubectl("get", "csr", "alice")
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    credentials = {
        "client-certificate-data": issued,
        "client-key-data": base64.b64encode(private).decode(),
    }
    alice = kubeconfig(cluster, "alice", credentials)
    user = whoami(cluster, alice)
    assert user["username"] == "alice"
    assert user["groups"] == ["crew", "system:authenticated"]
    refused = cluster.run("kubectl", "--kubeconfig", alice, "get", "nodes", check=False)
    assert 'User "alice" cannot list resource "nodes"' in refused.stderr
    cluster.kubectl(
        "create", "clusterrolebinding", "crew-sees", "--clusterrole=view", "--group=crew"
    )
    cluster.kubectl("--kubeconfig", alice, "get", "configmaps")
    cluster.kubectl("delete", "clusterrolebinding", "crew-sees")
    ask("denied")
    cluster.kubectl("certificate", "deny", "denied")
    assert "Denied" in cluster.kubectl("get", "csr", "denied")
    cluster.kubectl("delete", "csr", "alice", "denied")


def test_can_i(cluster: Cluster, namespace: str) -> None:
    assert cluster.kubectl("auth", "can-i", "*", "*").strip() == "yes"
    cluster.kubectl(
        "create", "rolebinding", "e", "-n", namespace, "--clusterrole=edit", "--user=bob"
    )
    listed = cluster.kubectl("auth", "can-i", "--list", "--as=bob", "-n", namespace)
    rows = {line.split()[0]: line for line in listed.splitlines() if line.strip()}
    assert "create" in rows["deployments.apps"] and "[get list watch]" in rows["pods/log"]
    assert "selfsubjectreviews.authentication.k8s.io" in rows
    for what, where, answer in (
        (("create", "deployments.apps"), namespace, "yes"),
        (("create", "deployments.apps"), "default", "no"),
        (("create", "rolebindings.rbac.authorization.k8s.io"), namespace, "no"),
        (("get", "/version"), "", "yes"),
        (("get", "/metrics"), "", "no"),
    ):
        scope = ("-n", where) if where else ()
        done = cluster.run("kubectl", "auth", "can-i", *what, "--as=bob", *scope, check=False)
        assert done.stdout.strip() == answer, what
    text = cluster.kubectl("auth", "whoami", "--as=bob", "--as-group=crew", "--as-uid=7")
    assert all(word in text for word in ("bob", "crew", "system:authenticated", "7"))


def test_only_who_holds_a_right_passes_it_on(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl(
        "create", "rolebinding", "a", "-n", namespace, "--clusterrole=admin", "--user=eve"
    )
    refused = cluster.kubectl_fails(
        "create", "rolebinding", "b", "-n", namespace, "--clusterrole=cluster-admin",
        "--user=eve", "--as=eve",
    )  # fmt: skip
    assert "is attempting to grant RBAC permissions not currently held" in refused
    refused = cluster.kubectl_fails(
        "create", "role", "c", "-n", namespace, "--verb=impersonate", "--resource=users", "--as=eve"
    )
    assert "is attempting to grant RBAC permissions not currently held" in refused
    cluster.kubectl(
        "create", "rolebinding", "d", "-n", namespace, "--clusterrole=view", "--user=mallory",
        "--as=eve",
    )  # fmt: skip


def sealing(*names: str) -> str:
    """An EncryptionConfiguration whose first key writes."""
    keys = [
        {"name": name, "secret": base64.b64encode(name[-1].encode() * 32).decode()}
        for name in names
    ]
    providers = [{"aesgcm": {"keys": keys}}]
    return yaml.safe_dump(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": providers}],
        }
    )


def test_flags_of_the_api_server() -> None:
    """One cluster with all of it: static tokens, an audit log, secrets sealed on disk with a key that is changed."""
    boat = Cluster(rootless=True)
    files = boat.directory
    (files / "tokens.csv").write_text("sesame,alice,u1,crew\n")
    (files / "audit.yaml").write_text(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, users: [alice]}]\n"
    )
    (files / "encryption.yaml").write_text(sealing("k1"))

    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in (boat.data / "store").iterdir())

    try:
        boat.start(
            f"--token-auth-file={files}/tokens.csv",
            f"--audit-policy-file={files}/audit.yaml",
            f"--audit-log-path={files}/audit.log",
            f"--encryption-provider-config={files}/encryption.yaml",
            "--anonymous-auth=false",
        )
        alice = kubeconfig(boat, "alice", {"token": "sesame"})
        assert whoami(boat, alice)["groups"] == ["crew", "system:authenticated"]
        assert nobody_gets(boat, "/version") == 401
        boat.kubectl("create", "secret", "generic", "s", "--from-literal=word=opensesame")
        word = base64.b64encode(b"opensesame")
        assert b"k8s:enc:aesgcm:v1:k1:" in on_disk() and word not in on_disk()
        lines = wait_for(lambda: (files / "audit.log").read_text().splitlines(), what="events")
        assert {json.loads(line)["user"]["username"] for line in lines} == {"alice"}
        # A new key: it writes, and the old one reads. The flags are remembered.
        boat.sampan("down", timeout=120)
        (files / "encryption.yaml").write_text(sealing("k2", "k1"))
        boat.start()
        secrets = boat.kubectl("get", "secrets", "-A", "-o", "json")
        boat.kubectl("replace", "-f", "-", stdin=secrets)
        assert b"k8s:enc:aesgcm:v1:k2:" in on_disk() and word not in on_disk()
        assert boat.get("secret", "s")["data"]["word"] == word.decode()
        assert whoami(boat, alice)["username"] == "alice"
    finally:
        boat.stop()
        boat.remove()
