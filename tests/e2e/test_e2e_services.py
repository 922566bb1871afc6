"""Services and names, from the node and from inside pods: ClusterIP, NodePort, affinity, headless, DNS, the API itself."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from box import image, pod
from cluster import AS_ROOT, wait_for
from conftest import OCI_KINDS
from pieces import running_kinds
from space import Space

HOST = [path for path in ("/usr", "/lib", "/lib64") if Path(path).is_dir()]
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def service(name: str, app: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": ports, **spec},
    }


@pytest.fixture(scope="module")
def fleet(space: Space) -> Space:
    """Two pods of each kind behind `fleet`, one of each behind `one-KIND`, and `tools-KIND`, where there is a shell."""
    kinds = running_kinds()
    for kind in kinds:
        for number in range(2):
            made = pod(kind, f"{kind}-{number}")
            made["metadata"]["labels"] = {"app": "fleet", "kind": kind}
            made["spec"]["containers"][0] = {
                "name": "box",
                "image": image("hello", kind),
                "env": [
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
                ],
            }
            space.apply(made)
        space.apply(service(f"one-{kind}", "fleet", selector={"app": "fleet", "kind": kind}))
    space.apply(
        service("fleet", "fleet", type="NodePort"),
        service("sticky", "fleet", sessionAffinity="ClientIP"),
        service("headless", "fleet", clusterIP="None"),
        service("empty", "nobody"),
    )
    if AS_ROOT:
        # busybox' own TLS is too old for the server; with an openssl in reach, its wget uses that.
        host = [{"name": f"h{n}", "hostPath": {"path": path}} for n, path in enumerate(HOST)]
        mounts = [
            {"name": f"h{n}", "mountPath": path, "readOnly": True} for n, path in enumerate(HOST)
        ]
        path = {"name": "PATH", "value": "/bin:/usr/bin"}
        for kind in OCI_KINDS:
            if kind in kinds:
                space.start(
                    kind, f"tools-{kind}", "sleep",
                    env=[path], volumeMounts=mounts, spec={"volumes": host},
                )  # fmt: skip
    for kind in kinds:
        for number in range(2):
            space.ready(f"pod/{kind}-{number}")
        if kind in OCI_KINDS:
            space.ready(f"pod/tools-{kind}")
    return space


def shell(space: Space, kind: str, script: str) -> str:
    return space.kubectl("exec", f"tools-{kind}", "--", "/bin/sh", "-c", script)


def pods(answers: list[str]) -> set[str]:
    return {found[1] for answer in answers if (found := re.search(r"pod (\S+),", answer))}


def test_a_cluster_ip_spreads_over_all_kinds(fleet: Space) -> None:
    address = fleet.get("service", "fleet")["spec"]["clusterIP"]
    everyone = {f"{kind}-{number}" for kind in running_kinds() for number in range(2)}
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.update(pods([fleet.cluster.http(f"http://{address}/")]))
        return seen == everyone

    wait_for(all_seen, what=f"answers of {everyone}")


def test_a_node_port(fleet: Space) -> None:
    port = fleet.get("service", "fleet")["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    (node,) = fleet.get("nodes")["items"]
    address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    wait_for(
        lambda: fleet.cluster.http(f"http://{address}:{port}/").startswith("hello from"),
        what="the node port",
    )


def test_session_affinity(fleet: Space) -> None:
    address = fleet.get("service", "sticky")["spec"]["clusterIP"]
    wait_for(lambda: fleet.cluster.http(f"http://{address}/").startswith("hello"), what="an answer")
    answers = [fleet.cluster.http(f"http://{address}/") for _ in range(12)]
    assert len(pods(answers)) == 1, answers


def test_endpoints_follow_readiness(fleet: Space) -> None:
    fleet.start("wasm", "late", "sleep", metadata={"labels": {"app": "late"}})
    fleet.apply(service("late", "late"))
    fleet.ready("pod/late")
    address = fleet.get("pod", "late")["status"]["podIP"]

    def addresses() -> set[str]:
        items = fleet.get("endpointslices", "-l", "kubernetes.io/service-name=late")["items"]
        return {a for item in items for e in item["endpoints"] or [] for a in e["addresses"]}

    wait_for(lambda: addresses() == {address}, what="the endpoint")
    assert f"{address}:8080" in fleet.kubectl("get", "endpoints", "late")
    fleet.kubectl("delete", "pod", "late")
    wait_for(lambda: addresses() == set(), what="no endpoint")


def test_a_service_without_endpoints_refuses(fleet: Space) -> None:
    address = fleet.get("service", "empty")["spec"]["clusterIP"]
    with pytest.raises(AssertionError, match=r"refused|timed out"):
        fleet.cluster.http(f"http://{address}/", timeout=2)


def test_names_in_a_pod(fleet: Space, oci_kind: str) -> None:
    address = fleet.get("service", "fleet")["spec"]["clusterIP"]
    assert f"search {fleet.name}.svc.cluster.local svc.cluster.local cluster.local" in shell(
        fleet, oci_kind, "cat /etc/resolv.conf"
    )
    for name in ("fleet", f"fleet.{fleet.name}", f"fleet.{fleet.name}.svc.cluster.local"):
        assert shell(fleet, oci_kind, f"wget -qO- http://{name}/").startswith("hello from"), name
    full = f"fleet.{fleet.name}.svc.cluster.local"
    assert f"Address: {address}" in shell(fleet, oci_kind, f"nslookup -type=a {full}.")
    found = shell(fleet, oci_kind, f"nslookup -type=a headless.{fleet.name}.svc.cluster.local.")
    for item in fleet.get("pods", "-l", "app=fleet")["items"]:
        assert f"Address: {item['status']['podIP']}" in found
    nothing = f"nothing.{fleet.name}.svc.cluster.local."
    assert "NXDOMAIN" in shell(fleet, oci_kind, f"nslookup -type=a {nothing} 2>&1 || true")
    srv = shell(fleet, oci_kind, f"nslookup -type=srv _http._tcp.{full}.")
    assert re.search(rf"_http\._tcp\.{full}\s+service = \d+ \d+ 80 {full}", srv), srv
    reverse = shell(
        fleet,
        oci_kind,
        f"nslookup -type=ptr {'.'.join(reversed(address.split('.')))}.in-addr.arpa.",
    )
    assert full in reverse


def test_a_pod_reaches_pods_of_every_kind_and_itself(fleet: Space, oci_kind: str) -> None:
    for item in fleet.get("pods", "-l", "app=fleet")["items"]:
        url = f"http://{item['status']['podIP']}:8080/"
        assert shell(fleet, oci_kind, f"wget -qO- {url}").startswith("hello from"), item
    name = f"tools-{oci_kind}"
    own = fleet.get("pod", name)["status"]["podIP"]
    assert shell(fleet, oci_kind, "hostname -i").strip() == own
    assert shell(fleet, oci_kind, "hostname").strip() == name


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl on the host")
def test_a_pod_calls_the_api_with_its_token(fleet: Space, oci_kind: str) -> None:
    role = f"pods-{oci_kind}"
    fleet.kubectl("create", "role", role, "--verb=list", "--resource=pods")
    fleet.kubectl(
        "create", "rolebinding", role, f"--role={role}", f"--serviceaccount={fleet.name}:default"
    )
    ask = (
        "wget -qO- --no-check-certificate "
        f'--header "Authorization: Bearer $(cat {SERVICE_ACCOUNT}/token)" https://kubernetes.default'
    )
    answer = json.loads(shell(fleet, oci_kind, f"{ask}/api/v1/namespaces/{fleet.name}/pods"))
    assert f"tools-{oci_kind}" in {item["metadata"]["name"] for item in answer["items"]}
    assert "403" in fleet.kubectl_fails(
        "exec", f"tools-{oci_kind}", "--", "/bin/sh", "-c", f"{ask}/api/v1/secrets"
    )
    assert '"gitVersion"' in shell(fleet, oci_kind, f"{ask}:$KUBERNETES_SERVICE_PORT/version")
