"""CNI: the user's plugins attach the pods; what is wrong with a configuration is said, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.network import cni
from sampan.network.errors import CNIError

HERE = Path(__file__).parent
PLUGINS = next((path for path in cni.PLUGINS if (path / "bridge").exists()), None)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
@pytest.mark.skipif(PLUGINS is None, reason="containernetworking-plugins is not installed")
def test_pods_by_plugins(tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    # The plugins' own state belongs to the host: here it gets a place of the test's.
    script = 'mkdir -p /var/lib/cni && mount -t tmpfs none /var/lib/cni && ip link set lo up && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--net", "--mount", "sh", "-c", script, "sh"),
            *(sys.executable, str(HERE / "network_cni_world.py"), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["without a configuration"].startswith("no CNI configuration in ")
    assert seen["addresses"] == ["10.77.0.2", "10.77.0.3"]
    assert seen["same again"] and seen["existing"]
    assert seen["heard"] == "ahoy"
    assert "CNI plugin no-such-plugin of harbour is not in" in seen["a missing plugin"]
    assert seen["owners"] == ["b" * 64]
    assert seen["left"] == {"owners": [], "namespaces": [], "addresses": [], "links": []}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"name":"x"}', '{"name":"","plugins":[{"type":"a"}]}',
             '{"name":"x","plugins":[{"type":"../a"}]}', '{"name":"x","plugins":[{}]}'],
)  # fmt: skip
def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "1.conflist").write_text(text)
    with pytest.raises(CNIError, match=r"1\.conflist"):
        cni.find_configuration(tmp_path)


def test_one_plugin_is_a_list_of_one(tmp_path: Path) -> None:
    assert cni.find_configuration(tmp_path) is None
    assert cni.find_configuration(tmp_path / "none") is None
    (tmp_path / "9.conf").write_text('{"name":"x","type":"ptp","cniVersion":"0.4.0"}')
    plan = cni.find_configuration(tmp_path)
    assert plan is not None and plan.version == "0.4.0"
    assert [each["type"] for each in plan.plugins] == ["ptp"]


def test_podmans_own_network_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "87-podman-bridge.conflist").write_text(
        '{"name":"podman","plugins":[{"type":"bridge"}]}'
    )
    assert cni.find_configuration(tmp_path) is None
    (tmp_path / "90-boats.conf").write_text('{"name":"boats","type":"ptp"}')
    plan = cni.find_configuration(tmp_path)
    assert plan is not None and plan.name == "boats"


def test_addresses_of_old_and_new_results() -> None:
    assert cni.addresses_of({"ips": [{"address": "fd00::2/64"}, {"address": "10.0.0.2/24"}]}) == (
        "10.0.0.2",
        "fd00::2",
    )
    assert cni.addresses_of({"ip4": {"ip": "10.0.0.2/24"}}) == ("10.0.0.2",)
