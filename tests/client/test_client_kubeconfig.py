"""Kubeconfigs: files, merging, certificates, tokens, exec plug-ins, service accounts."""

import base64
import datetime
import ipaddress
import ssl
import stat
import sys

import pytest
import yaml
from client_api import API, Served, config_map
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sampan.client import kubeconfig
from sampan.client.client import Client
from sampan.client.errors import ConfigError, Unreachable
from sampan.client.http import HTTPTransport
from sampan.client.kubeconfig import Kubeconfig
from sampan.client.resources import CONFIGMAPS
from sampan.kube.errors import ApiError


def issue(subject, issuer=None, *, ca=False):
    """(certificate, key) as PEM; `issuer` is such a pair."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    signer, signer_name = key, name
    if issuer:
        signer = serialization.load_pem_private_key(issuer[1], None)
        signer_name = x509.load_pem_x509_certificate(issuer[0]).subject
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(signer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca, None), True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
    )
    certificate = builder.sign(signer, hashes.SHA256())
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


@pytest.fixture(scope="module")
def pki():
    ca = issue("test-ca", ca=True)
    return {"ca": ca, "server": issue("server", ca), "admin": issue("admin", ca)}


@pytest.fixture
async def secured(pki, tmp_path):
    """The test API over TLS, client certificates required."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=pki["ca"][0].decode())
    context.verify_mode = ssl.CERT_REQUIRED
    chain = tmp_path / "server.pem"
    chain.write_bytes(pki["server"][0] + pki["server"][1])
    context.load_cert_chain(chain)
    served = await Served(API()).start(context)
    served.api.write(config_map("a"))
    yield f"https://127.0.0.1:{served.port}"
    await served.stop()


async def get_one(config):
    client = Client(HTTPTransport(config))
    try:
        return (await client.get(CONFIGMAPS, "a", "default"))["metadata"]["name"]
    finally:
        await client.close()


async def test_written_and_loaded_over_mutual_tls(secured, pki, tmp_path):
    path = tmp_path / "sub" / "kubeconfig.yaml"
    kubeconfig.write(
        path, server=secured, ca=pki["ca"][0], certificate=pki["admin"][0], key=pki["admin"][1]
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["kubeconfig.yaml"]
    config = kubeconfig.load(path)
    assert config.server == secured
    assert "PRIVATE" not in repr(config)
    assert await get_one(config) == "a"


async def test_untrusted_server(secured, pki):
    admin = {"certificate": pki["admin"][0], "key": pki["admin"][1]}
    with pytest.raises(Unreachable, match="certificate is not trusted"):
        await get_one(Kubeconfig(secured, **admin))
    assert await get_one(Kubeconfig(secured, insecure=True, **admin)) == "a"


def write_yaml(path, *, server="https://h:1", context="c", user=None, namespace=""):
    document = {
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [
            {"name": context, "context": {"cluster": "k", "user": "u", "namespace": namespace}}
        ],
        "current-context": context,
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_relative_files_and_data(tmp_path):
    (tmp_path / "cert.pem").write_bytes(b"CERT")
    key = base64.b64encode(b"KEY").decode()
    user = {"client-certificate": "cert.pem", "client-key-data": key}
    config = kubeconfig.load(write_yaml(tmp_path / "config", user=user))
    assert (config.certificate, config.key) == (b"CERT", b"KEY")


def test_several_files_merge_and_the_first_wins(tmp_path):
    one = write_yaml(tmp_path / "one", server="https://one:1", context="first")
    two = write_yaml(tmp_path / "two", server="https://two:2", context="second", namespace="ns")
    both = [tmp_path / "missing", one, two]
    assert kubeconfig.load(both).server == "https://one:1"
    second = kubeconfig.load(both, "second")
    assert second.namespace == "ns"
    assert second.server == "https://one:1"  # cluster "k" is taken from the first file
    environment = {"KUBECONFIG": f"{one}:{two}", "HOME": "/home/x"}
    assert kubeconfig.search_path(environment) == [one, two]
    assert str(kubeconfig.search_path({"HOME": "/home/x"})[0]) == "/home/x/.kube/config"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusters: [", "not YAML"),
        ("just text", "not a kubeconfig"),
        ("current-context: c", "no entry 'c' in contexts"),
        ("{}", "no current-context"),
        (
            "{current-context: c, contexts: [{name: c, context: {cluster: k}}],"
            " clusters: [{name: k, cluster: {server: 'nonsense'}}]}",
            "not a URL: 'nonsense'",
        ),
        (
            "{current-context: c, contexts: [{name: c, context: {cluster: k}}],"
            " clusters: [{name: k, cluster: {server: 'https://h',"
            " certificate-authority: gone.pem}}]}",
            "gone.pem: No such file",
        ),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        kubeconfig.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: no such file"):
        kubeconfig.load(tmp_path / "nowhere")


async def test_a_token_file_is_read_again_when_it_changes(served, tmp_path):
    served.api.write(config_map("a"))
    token = tmp_path / "token"
    token.write_text("one\n")
    served.api.token = "one"
    client = Client(HTTPTransport(Kubeconfig(served.url, token_file=str(token))))
    await client.get(CONFIGMAPS, "a", "default")
    served.api.token = "two"
    with pytest.raises(ApiError) as refused:
        await client.get(CONFIGMAPS, "a", "default")
    assert refused.value.code == 401
    fresh = tmp_path / "fresh"
    fresh.write_text("two")
    fresh.rename(token)  # as kubelet replaces it
    await client.get(CONFIGMAPS, "a", "default")
    token.unlink()
    await client.get(CONFIGMAPS, "a", "default")  # the last token still serves
    await client.close()


async def test_exec_plugin_runs_once_and_again_when_refused(served, tmp_path):
    served.api.write(config_map("a"))
    count = tmp_path / "count"
    count.write_text("0")
    program = tmp_path / "plugin"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib\n"
        f"path = pathlib.Path({str(count)!r})\n"
        "number = int(path.read_text()) + 1\n"
        "path.write_text(str(number))\n"
        "info = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "assert info['kind'] == 'ExecCredential' and info['spec']['cluster']['server']\n"
        "token = os.environ['PREFIX'] + str(number)\n"
        "print(json.dumps({'kind': 'ExecCredential', 'apiVersion': info['apiVersion'],\n"
        "    'status': {'token': token, 'expirationTimestamp': '2999-01-01T00:00:00Z'}}))\n"
    )
    program.chmod(0o700)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./plugin",
            "env": [{"name": "PREFIX", "value": "t"}],
            "provideClusterInfo": True,
        }
    }
    path = write_yaml(tmp_path / "config", server=served.url, user=user)
    served.api.token = "t1"
    client = Client(HTTPTransport(kubeconfig.load(path)))
    for _ in range(3):
        await client.get(CONFIGMAPS, "a", "default")
    assert count.read_text() == "1"
    served.api.token = "t2"
    await client.get(CONFIGMAPS, "a", "default")
    assert count.read_text() == "2"
    await client.close()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no luck >&2; exit 3", "failed \\(3\\): no luck"),
        ("echo text", "not an ExecCredential"),
    ],
)
async def test_exec_plugin_failures(served, tmp_path, script, said):
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    user = {"exec": {"command": str(program)}}
    path = write_yaml(tmp_path / "config", server=served.url, user=user)
    with pytest.raises(ConfigError, match=said):
        await get_one(kubeconfig.load(path))


async def test_exec_plugin_missing_shows_the_hint(served, tmp_path):
    user = {"exec": {"command": "./absent", "installHint": "install it with: get absent"}}
    path = write_yaml(tmp_path / "config", server=served.url, user=user)
    with pytest.raises(ConfigError, match=r"absent: No such file(.|\n)*get absent"):
        await get_one(kubeconfig.load(path))


def test_in_cluster(tmp_path):
    (tmp_path / "ca.crt").write_bytes(b"CA")
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("ns")
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    config = kubeconfig.in_cluster(environment, tmp_path)
    assert config.server == "https://[fd00::1]:443"
    assert (config.namespace, config.ca) == ("ns", b"CA")
    assert config.token_file == str(tmp_path / "token")
    with pytest.raises(ConfigError, match="not in a pod"):
        kubeconfig.in_cluster({}, tmp_path)


def test_the_python_client_reads_what_we_write(tmp_path):
    import kubernetes

    path = tmp_path / "config"
    kubeconfig.write(path, server="https://127.0.0.1:6443", token="secret", namespace="ns")
    settings = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(path), client_configuration=settings)
    assert settings.host == "https://127.0.0.1:6443"
    assert "Bearer secret" in settings.api_key.values()
    (context,) = kubernetes.config.list_kube_config_contexts(str(path))[0]
    assert context["context"]["namespace"] == "ns"
