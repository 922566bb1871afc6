"""NetworkPolicies in a cluster: pods of every kind behind them, by address and through services, and from their first moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from box import image, pod
from cluster import Cluster, wait_for
from conftest import OCI_KINDS
from pieces import running_kinds
from space import Space

pytestmark = pytest.mark.root
Object = dict[str, Any]
OTHER = "network-policies-other"
CLUSTER_DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


def policy(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {}, **spec},
    }


@pytest.fixture(scope="module")
def harbour(space: Space) -> Iterator[Space]:
    """A server of each kind behind `servers`, a `client-KIND` where there is a shell, a `stranger` in another namespace."""
    cluster = space.cluster
    cluster.kubectl("create", "namespace", OTHER)
    cluster.kubectl("wait", "-n", OTHER, "--for=create", "serviceaccount/default", "--timeout=10s")
    for kind in running_kinds():
        made = pod(kind, kind)
        made["metadata"]["labels"] = {"app": "server"}
        made["spec"]["containers"][0] = {
            "name": "box",
            "image": image("hello", kind),
            "ports": [{"name": "web", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1},
        }
        space.apply(made)
    space.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "servers"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "web"}]},
        }
    )
    client = {"labels": {"app": "client"}}
    callers = [kind for kind in OCI_KINDS if kind in running_kinds()]
    for kind in callers:
        space.start(kind, f"client-{kind}", "sleep", metadata=client)
    Space(cluster, OTHER).start("container", "stranger", "sleep", metadata=client)
    for name in (*running_kinds(), *(f"client-{kind}" for kind in callers)):
        space.ready(f"pod/{name}")
    Space(cluster, OTHER).ready("pod/stranger")
    yield space
    cluster.kubectl("delete", "namespace", OTHER, "--wait=false")


def answers(cluster: Cluster, namespace: str, client: str, url: str) -> bool:
    ask = f"timeout 3 wget -qO- {url} || echo nothing"
    said = cluster.kubectl("-n", namespace, "exec", client, "--", "/bin/sh", "-c", ask)
    assert said.startswith("hello from") or "nothing" in said, said
    return said.startswith("hello from")


def servers(space: Space) -> dict[str, str]:
    return {kind: space.read(f"pods/{kind}")["status"]["podIP"] for kind in running_kinds()}


def reached(space: Space, namespace: str, client: str) -> set[str]:
    """The kinds whose server answers."""
    found = servers(space)
    return {
        k for k in found if answers(space.cluster, namespace, client, f"http://{found[k]}:8080/")
    }


def test_who_reaches_pods_of_every_kind(harbour: Space) -> None:
    kinds = set(running_kinds())
    assert (
        reached(harbour, harbour.name, "client-container")
        == kinds
        == reached(harbour, OTHER, "stranger")
    )
    harbour.apply(policy("deny"))
    wait_for(lambda: not reached(harbour, harbour.name, "client-container"), what="everything shut")
    assert not reached(harbour, OTHER, "stranger")
    for kind, address in servers(harbour).items():  # the node's own probes and traffic
        assert harbour.cluster.http(f"http://{address}:8080/").startswith("hello from"), kind
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OTHER}}}]
    allow = policy(
        "others",
        podSelector={"matchLabels": {"app": "server"}},
        ingress=[{"from": peers, "ports": [{"port": "web"}]}],
    )
    harbour.apply(allow)
    wait_for(
        lambda: reached(harbour, OTHER, "stranger") == kinds, what="the other namespace let in"
    )
    assert not reached(harbour, harbour.name, "client-container")
    address = harbour.get("service", "servers")["spec"]["clusterIP"]
    assert answers(harbour.cluster, OTHER, "stranger", f"http://{address}/")
    assert not answers(harbour.cluster, harbour.name, "client-container", f"http://{address}/")
    assert all(
        condition["status"] == "True"
        for kind in kinds
        for condition in harbour.read(f"pods/{kind}")["status"]["conditions"]
    )
    harbour.kubectl("delete", "networkpolicy", "--all")
    wait_for(
        lambda: reached(harbour, harbour.name, "client-container") == kinds, what="everything open"
    )


def test_what_pods_may_call(harbour: Space, oci_kind: str) -> None:
    """By name, as programs do: the usual rule for the cluster's DNS holds though the node answers for it."""
    url, client = "http://servers/", f"client-{oci_kind}"
    clients: Object = {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]}
    assert answers(harbour.cluster, harbour.name, client, url)
    harbour.apply(policy("shut", **clients))
    wait_for(lambda: not answers(harbour.cluster, harbour.name, client, url), what="no calls")
    to_servers = {"to": [{"podSelector": {"matchLabels": {"app": "server"}}}]}
    dns = {"to": [CLUSTER_DNS], "ports": [{"port": 53, "protocol": p} for p in ("UDP", "TCP")]}
    harbour.apply(policy("calls", **clients, egress=[to_servers, dns]))
    wait_for(lambda: answers(harbour.cluster, harbour.name, client, url), what="calls by name")
    harbour.kubectl("delete", "networkpolicy", "--all")


def test_a_pod_is_isolated_before_its_first_container_starts(harbour: Space, oci_kind: str) -> None:
    """The policy is known; a pod that calls at once and ends is refused at once, every time."""
    address = servers(harbour)["wasm"]
    clients: Object = {"podSelector": {"matchLabels": {"app": "hasty"}}, "policyTypes": ["Egress"]}
    harbour.apply(policy("hasty", **clients))
    script = f"timeout 3 wget -qO- http://{address}:8080/ || echo nothing"
    names = [f"hasty-{oci_kind}-{number}" for number in range(3)]
    for name in names:
        hasty = pod(oci_kind, name)
        hasty["metadata"]["labels"] = {"app": "hasty"}
        hasty["spec"]["restartPolicy"] = "Never"
        hasty["spec"]["containers"][0]["command"] = ["/bin/sh", "-c", script]
        hasty["spec"]["containers"][0].pop("args", None)
        harbour.apply(hasty)
    for name in names:
        harbour.phase(name, "Succeeded")
        assert "nothing" in harbour.kubectl("logs", name)
    harbour.kubectl("delete", "networkpolicy", "--all")
