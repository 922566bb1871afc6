"""The configuration of `sampan runtime` by itself: what a file may say, and where CRI is served then."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.cli.config import Config, ConfigError
from sampan.cli.standalone import read


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "runtime.toml"
    path.write_text(text)
    return path


def test_a_file_in_full_is_what_the_runtime_is_told(tmp_path):
    settings = read(
        written(
            tmp_path,
            """
            listen = "unix:///run/there/cri.sock"
            pod_cidr = "10.99.0.0/16"
            insecure_registries = ["registry.lan:5000"]
            kinds = ["container", "wasm"]
            [oci]
            container = "runc"
            gvisor = "/usr/local/bin/runsc"
            """,
        )
    )
    settings["cluster_cidr"] = "127.42.0.0/16"  # as this test may run without root
    config = Config.make(tmp_path / "data", rootless=True, **settings)
    config.prepare()
    for known in (config, Config.load(tmp_path / "data")):
        assert known.cri_socket == Path("/run/there/cri.sock")
        assert known.insecure_registries == ("registry.lan:5000",)
        assert known.runtime_kinds == ("container", "wasm")
        assert known.oci_runtimes == {"container": "runc", "gvisor": "/usr/local/bin/runsc"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("lisen = 'x'", "lisen: unknown"),
        ("kinds = 'wasm'", "kinds: must be a list"),
        ("oci = 3", "oci: must be a table"),
        ("listen = ", "Invalid value"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path, text, wrong):
    with pytest.raises(ConfigError, match=wrong) as caught:
        read(written(tmp_path, text))
    assert "runtime.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ({"cri_listen": "tcp://127.0.0.1:1"}, "--listen"),
        ({"runtime_kinds": ("jail",)}, "jail"),
        ({"oci_runtimes": {"wasm": "runc"}}, "oci.wasm"),
    ],
)
def test_settings_that_cannot_work(tmp_path, setting, wrong):
    with pytest.raises(ConfigError, match=wrong):
        Config.make(tmp_path / "data", rootless=True, **setting)
