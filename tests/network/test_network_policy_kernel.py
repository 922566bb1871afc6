"""NetworkPolicies in the kernel: nine pods on a bridge, in a namespace of the test's own; who reaches whom."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from network_policy_world import NAMES

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]
REFUSED = "ConnectionRefusedError"
UNREACHABLE = "OSError"  # No route to host
X = ["x/a", "x/b", "x/c"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("policies")
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, str(HERE / "network_policy_world.py"), directory],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def pairs(sources: Iterable[str], targets: Iterable[str]) -> list[str]:
    """A pod always reaches itself."""
    return sorted(f"{s} {t}" for s in sources for t in targets if s != t)


def test_nothing_is_isolated_without_a_policy(seen: dict[str, Any]) -> None:
    assert seen["no policy"] == [] == seen["open again"] and seen["table gone"]


def test_default_deny_is_for_the_namespace_and_the_direction(seen: dict[str, Any]) -> None:
    assert seen["deny ingress"] == pairs(NAMES, X)
    assert seen["deny egress"] == pairs(X, NAMES)
    assert seen["egress outside"] == REFUSED == seen["egress to the node"]


def test_the_node_always_reaches_its_pods(seen: dict[str, Any]) -> None:
    assert seen["from the node"] == "x/a" == seen["service from the node"]


def test_policies_add_up(seen: dict[str, Any]) -> None:
    assert seen["policies add up"] == [[], ["x/a y/a"]] and seen["egress outside again"] == "far"


def test_selectors_of_pods_and_namespaces(seen: dict[str, Any]) -> None:
    others = [name for name in NAMES if name[0] != "y" and name != "x/b"]
    assert seen["or"] == pairs(others, ["x/a"])
    assert seen["and"] == pairs([n for n in NAMES if n != "y/b"], ["x/a"])


def test_changed_labels_change_who_gets_through(seen: dict[str, Any]) -> None:
    expected = pairs([n for n in NAMES if n not in ("y/b", "y/c")], ["x/a"])
    assert seen["label of a pod"] == expected
    expected = pairs([n for n in NAMES if n not in ("y/b", "z/b")], ["x/a"])
    assert seen["label of a namespace"] == expected


def test_blocks_with_exceptions(seen: dict[str, Any]) -> None:
    assert seen["block"] == ["y/a x/a"]


@pytest.mark.parametrize(
    ("case", "pair"),
    [("named port", "y/a x/a"), ("named port of others", "x/a y/a"), ("port range", "y/a x/a")],
)
def test_ports(seen: dict[str, Any], case: str, pair: str) -> None:
    assert seen[case] == [[pair], []]


def test_protocols(seen: dict[str, Any]) -> None:
    assert seen["udp"] == ["x/a", "y/a x/a"]
    assert seen["no udp"] == UNREACHABLE


def test_services_lead_to_the_pod_that_the_policy_sees(seen: dict[str, Any]) -> None:
    assert seen["service"] == {"x/a": "x/a", "x/b": "x/a", "y/b": UNREACHABLE}
    assert seen["node port from outside"] == UNREACHABLE
    assert seen["egress to a service"] == ["x/a", ["z/a x/b"]]


def test_an_open_connection_goes_on(seen: dict[str, Any]) -> None:
    assert seen["an open connection goes on"] == "still here"


def test_ipv6_is_no_way_around(seen: dict[str, Any]) -> None:
    assert seen["ipv6"] == "" and seen["ipv6 without policies"] == "six"
