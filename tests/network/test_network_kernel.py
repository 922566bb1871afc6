"""Bridge, services and DNS in the kernel, end to end, in a namespace of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sampan.network.probe import probe

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("network")
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, str(HERE / "network_world.py"), directory],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_attaching_is_repeatable_and_survives_a_restart(seen: dict[str, Any]) -> None:
    assert (
        seen["pods are put back"]
        and seen["same again"]
        and seen["existing"]
        and seen["same after restart"]
    )


def test_a_network_waits_for_the_next_pod(seen: dict[str, Any]) -> None:
    spares = seen["spares"]
    assert all(answer.startswith("A 10.42.7.") for answer in spares.pop("answers"))
    assert spares == {
        "waiting": 2,
        "told": 2,  # the pods', not its own
        "collected after a crash": 2,
        "existing": 2,
        "given": True,
    }


def test_the_inside_of_a_pod(seen: dict[str, Any]) -> None:
    inside = seen["inside"]
    assert inside["up"] == ["eth0", "lo"] and inside["gateway"] == "10.42.7.1"
    assert inside["mtu"] == 1400  # that of the default route
    assert "127.0.0.1" in inside["addresses"]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("node to pod", "A 10.42.7.1"),
        ("pod to pod", "B 10.42.7."),
        ("pod to outside", "FAR 192.0.2.1"),  # masqueraded
        ("hairpin", "A 10.42.7.1"),
        ("bridge made again", "C 10.42.7.1"),
        ("pod to pod over the new bridge", "B 10.42.7."),
        ("dns from pod", "10.43.0.5"),
        ("loopback endpoint from pod", "API"),
        ("loopback endpoint from node", "API"),
        ("loopback is not reachable directly", "ConnectionRefusedError"),
    ],
)
def test_reachability(seen: dict[str, Any], path: str, answer: str) -> None:
    assert seen[path].startswith(answer)


def test_a_pod_sends_in_its_own_name_only(seen: dict[str, Any]) -> None:
    assert seen["frames that arrive"] == ["honest"]
    assert len(seen["frames that arrive unguarded"]) == 10, "without the table all of them do"


@pytest.mark.parametrize(
    "path",
    [
        "cluster ip from node",
        "cluster ip from pod",
        "udp from pod",
        "node port on localhost",
        "node port from pod",
        "node port from outside",
        "taken over",
    ],
)
def test_both_endpoints_answer(seen: dict[str, Any], path: str) -> None:
    assert seen[path] == ["A", "B"]


def test_a_udp_flow_does_not_stick_to_an_endpoint_that_is_gone(seen: dict[str, Any]) -> None:
    assert seen["udp flow of an endpoint that goes"] == ["B", "A"]


def test_endpoints_leave(seen: dict[str, Any]) -> None:
    assert seen["one endpoint left"] == ["A"]
    assert seen["refused"] == ["ConnectionRefusedError"] * 4


def test_affinity(seen: dict[str, Any]) -> None:
    assert seen["affinity"] == 1 and seen["affinity survives another change"]


def test_local_policy_keeps_the_client_address(seen: dict[str, Any]) -> None:
    assert seen["local policy keeps the client"]


def test_pods_go_on_while_the_network_becomes_another(seen: dict[str, Any]) -> None:
    assert seen["moved"] == {
        "new": "10.77.0.2",
        "node to new": "F 10.77.0.1",
        "old to new": "F old",  # routed, in its own name
        "new to old": "A new",
        "old to outside": "FAR 192.0.2.1",
        "new to outside": "FAR 192.0.2.1",
        "remembered": "10.77.0.0/26",
        "configured": "10.42.7.0/24",
        "bridge": ["10.42.7.1/24", "10.77.0.1/26"],
        "bridge without its pods": ["10.42.7.1/24"],
    }


def test_nothing_is_left(seen: dict[str, Any]) -> None:
    assert seen["detached"]
    assert seen["namespaces left"] == [] and seen["tables left"] == []
    assert seen["links left"] == ["lo", "uplink"] and seen["addresses left"] == []


def test_the_probe_finds_what_was_just_used() -> None:
    answers = probe()
    assert all(answer.usable for answer in answers.values()), answers
    assert not [name for name in os.listdir("/sys/class/net") if name.startswith("probe")]
