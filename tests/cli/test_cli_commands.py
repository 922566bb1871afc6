"""What commands say and answer with before any cluster is there: settings, help, images, mistakes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sampan.cli import up
from sampan.cli.apiserver_flags import check
from sampan.cli.app import app
from sampan.cli.config import Config, ConfigError
from sampan.cli.images import open_store

# (module (func (export "_start")) (memory (export "memory") 0))
SMALLEST = bytes.fromhex(
    "0061736d 01000000 01040160 0000 03020100 05030100 00 0713 02 06 5f7374617274 0000 06 6d656d6f7279 0200"
    "0a040102000b"
)
COMMANDS = ("up", "down", "status", "doctor", "version", "server", "node", "runtime", "image build",
            "image load", "image ls", "image rm", "image pull", "image tag", "image push", "image save",
            "image inspect", "image prune")  # fmt: skip

Sampan = Callable[..., Result]


@pytest.fixture
def sampan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sampan:
    """The command line on a data directory of the test's own."""
    monkeypatch.setenv("SAMPAN_DATA_DIR", str(tmp_path / "data"))
    return lambda *arguments: CliRunner().invoke(app, arguments, prog_name="sampan")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "0"], "--port 0"),
        (["--port", "70000"], "--port 70000"),
        (["--port", "7443", "--node-port", "7443"], "--node-port 7443"),
        (["--node-name", "Not a name"], "--node-name"),
        (["--bind-address", "home"], "--bind-address home"),
        (["--cluster-cidr", "10.1.0.0/99"], "--cluster-cidr 10.1.0.0/99"),
        (["--cluster-cidr", "10.1.2.3/16"], "--cluster-cidr 10.1.2.3/16"),
        (["--service-cidr", "10.1.0.0/30"], "--service-cidr 10.1.0.0/30"),
        (["--cluster-cidr", "10.1.0.0/16", "--service-cidr", "10.1.128.0/17"], "overlaps"),
        (["--rootless", "--cluster-cidr", "10.1.0.0/16"], "127.0.0.0/8"),
        (["--max-pods", "0"], "--max-pods 0"),
        (["--anonymous-auth=perhaps"], "--anonymous-auth perhaps: must be true or false"),
        (["--token-auth-file=/no/such"], "--token-auth-file /no/such: no such file"),
        (["--audit-log-path=-"], "--audit-policy-file and --audit-log-path: each needs the other"),
        (["--encryption-provider-config=/dev/null"], "no such file"),
    ],
)
def test_settings_that_cannot_work_are_named(
    sampan: Sampan, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = sampan("up", *arguments)
    assert done.exit_code == 1
    assert said in done.stderr and isinstance(done.exception, SystemExit), done
    assert not (tmp_path / "data").exists()


def test_flags_of_the_api_server_are_kept_and_taken_back(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.csv"
    tokens.write_text("sesame,alice,u1\n")
    data, flags = tmp_path / "data", {"token-auth-file": str(tokens), "anonymous-auth": "false"}
    Config.make(data, apiserver_flags=flags).prepare()
    assert Config.load(data).apiserver_flags == flags
    changed = Config.make(data, apiserver_flags={"token-auth-file": "", "audit-log-maxage": "3"})
    assert changed.apiserver_flags == {"anonymous-auth": "false", "audit-log-maxage": "3"}
    tokens.unlink()
    assert Config.make(data).apiserver_flags == flags  # the node starts whatever the server is told
    with pytest.raises(ConfigError):
        check(Config.make(data))


def test_a_data_directory_too_deep_for_sockets(sampan: Sampan, tmp_path: Path) -> None:
    done = sampan("up", "--data-dir", str(tmp_path / ("x" * 90)))
    assert done.exit_code == 1 and "--data-dir" in done.stderr and "too long" in done.stderr


@pytest.mark.parametrize("command", [["status"], ["down"], ["kubectl", "get", "pods"]])
def test_without_a_cluster_commands_say_how_to_start_one(
    sampan: Sampan, command: list[str]
) -> None:
    done = sampan(*command)
    assert done.exit_code == 1 and "start one: sampan up --data-dir" in done.stderr


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}", '{"run_dir": 1}'])
def test_a_damaged_configuration_is_named(sampan: Sampan, tmp_path: Path, content: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "config.json").write_text(content)
    for command in ("status", "up"):
        done = sampan(command)
        assert done.exit_code == 1 and "config.json cannot be read" in done.stderr, done


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "-t", "x:1", "{context}"],
        ["build", "-t", "x:1", "-f", "{context}/nowhere", "{context}"],
        ["build", "-t", "Not A Name", "-f", "{context}/good", "{context}"],
        ["load", "{context}/junk.tar"],
        ["load", "{context}/app.wasm", "--name", "Not A Name"],
        ["rm", "nobody:1"],
        ["tag", "nobody:1", "somebody:1"],
        ["pull", "127.0.0.1:1/nobody:1"],
        ["pull", "Not A Name"],
    ],
)
def test_image_commands_fail_with_one_sentence(
    sampan: Sampan, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nRUN make\n")
    (tmp_path / "good").write_text("FROM scratch\n")
    (tmp_path / "junk.tar").write_bytes(b"junk")
    (tmp_path / "app.wasm").write_bytes(SMALLEST)
    done = sampan("image", *(word.format(context=tmp_path) for word in arguments))
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done
    assert done.stderr.splitlines()[-1].startswith("sampan: "), done.stderr


def test_images_are_loaded_tagged_listed_and_removed(sampan: Sampan, tmp_path: Path) -> None:
    wasm = tmp_path / "app.wasm"
    wasm.write_bytes(SMALLEST)
    assert sampan("image", "ls").stdout.split() == ["IMAGE", "ID", "PLATFORM", "SIZE", "PINNED"]
    assert sampan("image", "load", str(wasm), "--name", "app:1").exit_code == 0
    assert sampan("image", "tag", "app:1", "app:stable").exit_code == 0
    listed = sampan("image", "ls").stdout
    assert "app:1" in listed and "app:stable" in listed and "wasm" in listed
    assert sampan("image", "rm", "app:1", "nobody:1").exit_code == 1
    listed = sampan("image", "ls").stdout
    assert "app:1" not in listed and "app:stable" in listed


def test_a_setting_that_repeats_is_kept_and_reaches_the_image_store(tmp_path: Path) -> None:
    insecure, names = ("registry.test:5000", "other.test"), ("boat.test",)
    made = Config.make(tmp_path, rootless=True, insecure_registries=insecure, tls_san=names)
    made.prepare()
    assert Config.make(tmp_path, rootless=True, tls_san=None) == made == Config.load(tmp_path)
    assert open_store(tmp_path).registries.insecure == insecure


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(sampan: Sampan, command: str) -> None:
    done = sampan(*command.split(), "--help")
    assert done.exit_code == 0
    assert f"Example: sampan {command}" in " ".join(done.stdout.split()), done.stdout


def test_version_and_a_word_that_is_no_command(sampan: Sampan) -> None:
    done = sampan("version")
    assert re.match(r"sampan \d+\.\d+\.\d+ \(Kubernetes API v1\.\d+", done.stdout), done.stdout
    wrong = sampan("sail")
    assert wrong.exit_code == 2 and "sail" in wrong.stderr


@pytest.mark.parametrize(("foreground", "status"), [(True, 7), (False, 1)])
def test_a_slow_node_ends_no_up_that_is_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreground: bool, status: int
) -> None:
    """A service manager would begin again and again, where etcd comes up later than Sampan for one."""
    silent, told = os.pipe()
    process = subprocess.Popen(["true"])
    monkeypatch.setattr(up, "PATIENCE", 0.01)
    monkeypatch.setattr(up, "check_ports", lambda config: None)
    monkeypatch.setattr(up, "launch", lambda *arguments: (process, silent))
    monkeypatch.setattr(up, "stay", lambda stays: 7 if stays is process else 0)
    config = Config.make(tmp_path / "data", rootless=True)
    try:
        assert up.start(config, foreground=foreground, merge=False) == status
    finally:
        os.close(told)
        process.wait()
