"""What the README and the example's own page tell a newcomer to type does what they say.

The commands are read from the pages and run as they stand, so a page cannot fall behind. `pip`, `up` and `down` are left out:
the cluster is there already, and installing is what `./test` itself begins with.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from cluster import HELLO, ROOT, Cluster, wait_for
from test_e2e_services import pods

ELSEWHERE = ("pip", "sampan up", "sampan down")


def commands(page: Path, heading: str) -> list[str]:
    """The lines of the first indented block below a heading, without what is a remark."""
    text = page.read_text().partition(f"# {heading}")[2]
    block = re.search(r"(?:^    .+\n)+", text, re.MULTILINE)
    assert block is not None, f"{page} shows no commands below {heading!r}"
    lines = [line.partition("  #")[0].strip() for line in block[0].splitlines()]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


def type_in(cluster: Cluster, line: str) -> str:
    words = shlex.split(line)
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    if words[0] == "python":
        return cluster.run(sys.executable, *words[1:], timeout=120).stdout
    assert words[0] == "sampan", line
    return cluster.sampan(*words[1:], timeout=60)


@pytest.mark.parametrize(
    ("page", "heading", "kinds"),
    [
        (ROOT / "README.md", "Use it", {"wasm"}),
        pytest.param(HELLO / "README.md", "hello", {"wasm", "container"}, marks=pytest.mark.root),
    ],
)
def test_the_commands_of_a_page(
    cluster: Cluster, page: Path, heading: str, kinds: set[str]
) -> None:
    try:
        typed = commands(page, heading)
        assert any("kubectl apply" in line for line in typed), typed
        for line in typed:
            type_in(cluster, line)
        for kind in kinds:
            cluster.kubectl(
                "rollout", "status", "-n", "hello", f"deployment/hello-{kind}", "--timeout=30s"
            )
        address = cluster.get("-n", "hello", "service", "hello")["spec"]["clusterIP"]
        seen: set[str] = set()

        def all_answered() -> bool:
            answer = cluster.http(f"http://{address}:8080/")
            seen.add(answer.split()[2].rstrip(","))
            return bool(pods([answer])) and seen == kinds

        wait_for(all_answered, what=f"answers of {kinds}")
    finally:
        cluster.kubectl("delete", "namespace", "hello", "--ignore-not-found", timeout=60)
