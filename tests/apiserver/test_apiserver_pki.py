"""The PKI: idempotent, renewed when due, whole after a crash at any write, and quick when nothing is to be done."""

from __future__ import annotations

import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from sampan.apiserver import pki
from sampan.kube.der import read_certificate


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def all_pairs(paths: pki.PKIPaths) -> list[pki.Pair]:
    return [paths.apiserver, paths.admin, paths.node, paths.node_serving, paths.kubelet_client]


def test_modes_and_second_run_changes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    pki.ensure_pki(directory, node_name="n1")
    before = snapshot(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    pki.ensure_pki(directory, node_name="n1")
    assert snapshot(directory) == before


def test_subjects_and_names(tmp_path: Path) -> None:
    paths = pki.ensure_pki(tmp_path, node_name="n1", extra_names=["api.example.com", "10.1.2.3"])
    server = read_certificate(paths.apiserver.crt.read_bytes())
    wanted = {"localhost", "127.0.0.1", "::1", "10.43.0.1", "kubernetes.default.svc.cluster.local"}
    assert wanted | {"api.example.com", "10.1.2.3", "kubernetes"} <= server.names
    admin = read_certificate(paths.admin.crt.read_bytes())
    assert admin.organizations == ("system:masters",)
    node = read_certificate(paths.node.crt.read_bytes())
    assert (node.common_name, node.organizations) == ("system:node:n1", ("system:nodes",))


def test_reader_agrees_with_cryptography(tmp_path: Path) -> None:
    paths = pki.ensure_pki(tmp_path)
    for pair in [paths.ca, *all_pairs(paths)]:
        ours = read_certificate(pair.crt.read_bytes())
        theirs = x509.load_pem_x509_certificate(pair.crt.read_bytes())
        assert ours.not_after == theirs.not_valid_after_utc
        assert ours.not_before == theirs.not_valid_before_utc
        extension = theirs.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        assert ours.key_id == extension.value.digest
        assert ours.authority_key_id == read_certificate(paths.ca.crt.read_bytes()).key_id
        assert (
            theirs.verify_directly_issued_by(
                x509.load_pem_x509_certificate(paths.ca.crt.read_bytes())
            )
            is None
        )


@pytest.mark.parametrize(
    "junk", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_reader_refuses_junk(junk: bytes) -> None:
    with pytest.raises(ValueError):
        read_certificate(junk)


def test_renewal_keeps_keys_and_the_ca(tmp_path: Path) -> None:
    paths = pki.ensure_pki(tmp_path)
    before = snapshot(tmp_path)
    later = datetime.now(UTC) + timedelta(days=300)
    pki.ensure_pki(tmp_path, now=later)
    after = snapshot(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    renewed = [*all_pairs(paths), paths.front_proxy_client]
    assert changed == {pair.crt.name for pair in renewed}


def test_changed_names_renew_one_certificate(tmp_path: Path) -> None:
    pki.ensure_pki(tmp_path)
    before = snapshot(tmp_path)
    pki.ensure_pki(tmp_path, extra_names=["new.example.com"])
    after = snapshot(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"apiserver.crt"}


def test_another_ca_signs_everything_again(tmp_path: Path) -> None:
    paths = pki.ensure_pki(tmp_path)
    before = snapshot(tmp_path)
    paths.ca.crt.unlink()
    paths.ca.key.unlink()
    pki.ensure_pki(tmp_path)
    after = snapshot(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"ca.crt", "ca.key", *(pair.crt.name for pair in all_pairs(paths))}


def test_ca_without_key_is_refused(tmp_path: Path) -> None:
    paths = pki.ensure_pki(tmp_path)
    paths.ca.key.unlink()
    with pytest.raises(pki.PKIError, match=r"ca\.key"):
        pki.ensure_pki(tmp_path)


def test_crash_at_every_write_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    real = pki.write_file
    for survived in range(14):
        directory = tmp_path / str(survived)
        left = survived

        def write(path: Path, data: bytes, mode: int) -> None:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            real(path, data, mode)

        monkeypatch.setattr(pki, "write_file", write)
        try:
            pki.ensure_pki(directory)
        except Crash:
            pass
        monkeypatch.setattr(pki, "write_file", real)
        paths = pki.ensure_pki(directory)
        for pair in all_pairs(paths):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(pair.crt, pair.key)
        assert not [name for name in snapshot(directory) if name.startswith(".")]


def test_existing_files_need_no_cryptography(tmp_path: Path) -> None:
    pki.ensure_pki(tmp_path)
    program = (
        "import sys; from pathlib import Path; from sampan.apiserver.pki import *;"
        f"p = ensure_pki(Path({str(tmp_path)!r}));"
        f"write_admin_kubeconfig(Path({str(tmp_path)!r}) / 'k', 'https://localhost:1', p);"
        "print('cryptography' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "False", result.stderr


def test_kubeconfig(tmp_path: Path) -> None:
    paths = pki.ensure_pki(tmp_path / "pki")
    path = tmp_path / "deep" / "kubeconfig.yaml"
    assert pki.write_admin_kubeconfig(path, "https://127.0.0.1:6443", paths)
    assert not pki.write_admin_kubeconfig(path, "https://127.0.0.1:6443", paths)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = yaml.safe_load(path.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
    assert config["current-context"] == config["contexts"][0]["name"]
