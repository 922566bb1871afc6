"""kubectl, command by command: what its users type, and what they expect to read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from box import container
from cluster import Cluster, wait_for
from space import Space


def deployment(name: str, kind: str = "wasm", replicas: int = 1, **template: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "runtimeClassName": kind,
                    "terminationGracePeriodSeconds": 0,
                    "containers": [container(kind, "sleep")],
                    **template,
                },
            },
        },
    }


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": data,
    }  # fmt: skip


@pytest.fixture(scope="module")
def harbour(space: Space) -> Space:
    """A Deployment `harbour` of two pods, rolled out; tests that change it use their own."""
    space.apply(deployment("harbour", replicas=2))
    space.kubectl("rollout", "status", "deployment/harbour", "--timeout=30s")
    return space


# The server


def test_version_and_cluster_info(cluster: Cluster) -> None:
    version = json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]
    assert (version["major"], version["minor"]) == ("1", "36")
    assert "Kubernetes control plane" in cluster.kubectl("cluster-info")


def test_api_resources_and_versions(cluster: Cluster) -> None:
    rows: dict[str, list[str]] = {}
    for line in cluster.kubectl("api-resources").splitlines()[1:]:
        rows.setdefault(line.split()[0], line.split())  # metrics.k8s.io has pods and nodes, too
    assert rows["pods"][1:] == ["po", "v1", "true", "Pod"]
    assert rows["deployments"][1:] == ["deploy", "apps/v1", "true", "Deployment"]
    assert {"networkpolicies", "cronjobs", "storageclasses", "customresourcedefinitions"} <= set(
        rows
    )
    groups = cluster.kubectl(
        "api-resources", "--api-group=apps", "--namespaced=true", "-o", "name"
    ).split()
    assert "daemonsets.apps" in groups and len(groups) == 5
    assert "rbac.authorization.k8s.io/v1" in cluster.kubectl("api-versions").split()


def test_explain(cluster: Cluster) -> None:
    text = cluster.kubectl("explain", "deployment.spec.strategy.rollingUpdate")
    assert re.search(r"GROUP:\s+apps", text) and "maxSurge\t<IntOrString>" in text
    assert "containers\t<[]Container> -required-" in cluster.kubectl(
        "explain", "pod.spec", "--recursive"
    )
    assert "does not exist" in cluster.kubectl_fails("explain", "pod.spec.sails")


def test_auth(cluster: Cluster, space: Space) -> None:
    assert cluster.kubectl("auth", "can-i", "create", "pods") == "yes\n"
    who = f"--as=system:serviceaccount:{space.name}:default"
    done = cluster.run(
        "kubectl", "auth", "can-i", "list", "secrets", who, "-n", space.name, check=False
    )
    assert (done.returncode, done.stdout) == (1, "no\n")
    space.kubectl("create", "role", "reader", "--verb=get,list", "--resource=secrets")
    space.kubectl(
        "create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={space.name}:default"
    )
    assert space.kubectl("auth", "can-i", "list", "secrets", who) == "yes\n"
    assert re.search(
        r"secrets\s+\[\]\s+\[\]\s+\[get list\]", space.kubectl("auth", "can-i", "--list", who)
    )
    assert "system:masters" in cluster.kubectl("auth", "whoami")
    message = space.kubectl_fails("get", "pods", who)
    assert (
        f'User "system:serviceaccount:{space.name}:default" cannot list resource "pods" in API group ""'
        in message
    )


# Write


def test_create_of_many_sorts(space: Space) -> None:
    for command in (
        "configmap made --from-literal=a=b",
        "secret generic made --from-literal=a=b",
        "serviceaccount made",
        "deployment made --image=box:wasm --replicas=0",
        "service clusterip made --tcp=80:8080",
        "job made --image=box:wasm",
        "cronjob made --image=box:wasm --schedule=0_0_*_*_*",
        "ingress made --rule=example.org/*=made:80",
        "quota made --hard=pods=50",
        "poddisruptionbudget made --selector=app=made --min-available=1",
    ):
        words = [word.replace("_", " ") for word in command.split()]
        assert "created" in space.kubectl("create", *words), command
    assert 'configmaps "made" already exists' in space.kubectl_fails("create", "configmap", "made")
    token = space.kubectl("create", "token", "made", "--duration=10m")
    assert token.count(".") == 2
    assert "generated-" in space.kubectl(
        "create", "-f", "-", "-o", "name",
        stdin=json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "generated-"}}),
    )  # fmt: skip
    assert (
        space.kubectl("run", "ran", "--image=box:wasm", "--restart=Never", "--", "echo", "x")
        == "pod/ran created\n"
    )


def test_apply_says_what_changed(space: Space) -> None:
    assert space.apply(config_map("applied", a="1", b="2")) == "configmap/applied created\n"
    assert space.apply(config_map("applied", a="1", b="2")) == "configmap/applied unchanged\n"
    assert space.apply(config_map("applied", a="3")) == "configmap/applied configured\n"
    assert space.get("configmap", "applied")["data"] == {"a": "3"}, (
        "what a manifest no longer names is removed"
    )


def test_dry_run_leaves_nothing(space: Space) -> None:
    text = json.dumps(config_map("dry-run", a="1"))
    said = space.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
    assert said == "configmap/dry-run created (server dry run)\n"
    assert "NotFound" in space.kubectl_fails("get", "configmap", "dry-run")


def test_diff(space: Space) -> None:
    space.apply(config_map("different", a="1"))
    done = space.cluster.run(
        "kubectl", "-n", space.name, "diff", "-f", "-",
        stdin=json.dumps(config_map("different", a="2")), check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert '-  a: "1"' in done.stdout and '+  a: "2"' in done.stdout
    assert space.kubectl("diff", "-f", "-", stdin=json.dumps(config_map("different", a="1"))) == ""


def test_edit(space: Space, tmp_path: Path) -> None:
    space.apply(config_map("edited", a="before"))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/a: before/a: after/" "$1"\n')
    editor.chmod(0o755)
    command = ["kubectl", "-n", space.name, "edit", "configmap/edited"]
    space.cluster.run("env", f"EDITOR={editor}", *command)
    assert space.get("configmap", "edited")["data"] == {"a": "after"}
    done = space.cluster.run("env", f"EDITOR={editor}", *command)
    assert "Edit cancelled, no changes made" in done.stderr + done.stdout


def test_label_and_annotate(space: Space) -> None:
    space.apply(config_map("marked", labels={"keep": "me"}))
    space.kubectl("label", "configmap/marked", "tide=high", "keep-")
    assert space.get("configmap", "marked")["metadata"]["labels"] == {"tide": "high"}
    assert "already has a value" in space.kubectl_fails("label", "configmap/marked", "tide=low")
    space.kubectl("label", "--overwrite", "configmap/marked", "tide=low")
    space.kubectl("annotate", "configmap/marked", "example.org/note=some words")
    meta = space.get("configmap", "marked")["metadata"]
    assert (meta["labels"], meta["annotations"]["example.org/note"]) == (
        {"tide": "low"},
        "some words",
    )


@pytest.mark.parametrize(
    ("how", "patch", "images"),
    [
        (
            "strategic",
            '{"spec":{"template":{"spec":{"containers":[{"name":"two","image":"new"}]}}}}',
            {"one": "box:wasm", "two": "new"},
        ),
        (
            "merge",
            '{"spec":{"template":{"spec":{"containers":[{"name":"two","image":"new"}]}}}}',
            {"two": "new"},
        ),
        (
            "json",
            '[{"op":"replace","path":"/spec/template/spec/containers/1/image","value":"new"}]',
            {"one": "box:wasm", "two": "new"},
        ),
    ],
)
def test_patch(space: Space, how: str, patch: str, images: dict[str, str]) -> None:
    made = deployment(f"patched-{how}", replicas=0)
    pod_spec = made["spec"]["template"]["spec"]
    pod_spec["containers"] = [container("wasm", name=name) for name in ("one", "two")]
    space.apply(made)
    space.kubectl("patch", "deployment", f"patched-{how}", "--type", how, "-p", patch)
    live = space.get("deployment", f"patched-{how}")["spec"]["template"]["spec"]["containers"]
    assert {c["name"]: c["image"] for c in live} == images


def test_patch_of_a_subresource_and_replace(space: Space) -> None:
    space.apply(deployment("sub", replicas=0))
    space.kubectl(
        "patch",
        "deployment",
        "sub",
        "--subresource=scale",
        "--type=merge",
        "-p",
        '{"spec":{"replicas":1}}',
    )
    live = space.get("deployment", "sub")
    assert live["spec"]["replicas"] == 1
    stale = {**live, "metadata": {**live["metadata"], "resourceVersion": "1"}}
    message = space.kubectl_fails("replace", "-f", "-", stdin=json.dumps(stale))
    assert "(Conflict)" in message and "the object has been modified" in message


# Read


def test_get_in_every_format(harbour: Space) -> None:
    plain = harbour.kubectl("get", "pods", "-l", "app=harbour").splitlines()
    assert plain[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [line.split()[1:4] for line in plain[1:]] == [["1/1", "Running", "0"]] * 2
    wide = harbour.kubectl("get", "pods", "-o", "wide", "-l", "app=harbour").splitlines()
    assert wide[0].split()[5:] == ["IP", "NODE", "NOMINATED", "NODE", "READINESS", "GATES"]
    assert wide[1].split()[6] == "boat"
    rows = harbour.kubectl("get", "deploy,rs", "-o", "wide").splitlines()
    assert any(
        re.match(r"deployment.apps/harbour\s+2/2\s+2\s+2\s+\S+\s+box\s+box:wasm\s+app=harbour", row)
        for row in rows
    )
    names = harbour.kubectl("get", "pods", "-o", "name", "-l", "app=harbour").split()
    path = '{range .items[*]}pod/{.metadata.name} {.status.podIP}{"\\n"}{end}'
    lines = harbour.kubectl(
        "get", "pods", "-l", "app=harbour", "-o", f"jsonpath={path}"
    ).splitlines()
    assert [line.split()[0] for line in lines] == names
    assert "kind: Deployment" in harbour.kubectl("get", "deployment", "harbour", "-o", "yaml")
    columns = harbour.kubectl(
        "get",
        "pods",
        "-l",
        "app=harbour",
        "-o",
        "custom-columns=N:.metadata.name,I:.spec.containers[*].image",
    )
    assert columns.splitlines()[1].split()[1] == "box:wasm"
    template = "{{range .items}}{{.kind}} {{end}}"
    assert (
        harbour.kubectl("get", "deployment", "-l", "app=harbour", "-o", f"go-template={template}")
        == "Deployment "
    )
    assert (
        harbour.kubectl("get", "pods", "--show-labels", "-l", "app=harbour").count(
            "pod-template-hash="
        )
        == 2
    )
    ordered = harbour.kubectl(
        "get", "pods", "--sort-by=.metadata.name", "-l", "app=harbour", "-o", "name"
    ).split()
    assert ordered == sorted(names)


def test_get_selects(harbour: Space) -> None:
    space = harbour
    assert len(space.get("pods", "-l", "app in (harbour),app!=other")["items"]) == 2
    assert space.get("pods", "-l", "!app,!run,!job-name")["items"] == []
    some = space.get("pods", "-l", "app=harbour")["items"][0]["metadata"]["name"]
    found = space.get(
        "pods", f"--field-selector=metadata.name={some},status.phase=Running,spec.nodeName=boat"
    )
    assert [item["metadata"]["name"] for item in found["items"]] == [some]
    everywhere = space.cluster.kubectl("get", "pods", "-A", "-l", "app=harbour").splitlines()
    assert everywhere[0].split()[0] == "NAMESPACE" and everywhere[1].split()[0] == space.name
    assert len(space.get("pods", "--chunk-size=1", "-l", "app=harbour")["items"]) == 2
    assert "field label not supported" in space.kubectl_fails(
        "get", "pods", "--field-selector=spec.sail=1"
    )
    assert "NotFound" in space.kubectl_fails("get", "pods", "nobody")
    assert "the server doesn't have a resource type" in space.kubectl_fails("get", "sampans")


def test_get_watch_sees_a_pod_live(space: Space) -> None:
    watch = space.cluster.popen(
        "kubectl", "-n", space.name, "get", "configmaps", "-w", "--watch-only", "--output-watch-events",
        "-l", "watched", stdout=-1,
    )  # fmt: skip
    try:
        assert watch.stdout is not None
        labels = {"watched": "yes"}
        # The watch may begin after the first object is made, which it then reports as ADDED too.
        space.apply(config_map("watched", labels=labels))
        watch.stdout.readline()
        assert watch.stdout.readline().split()[:2] == ["ADDED", "watched"]
        space.apply(config_map("watched", labels=labels, a="1"))
        assert watch.stdout.readline().split()[:2] == ["MODIFIED", "watched"]
        space.kubectl("delete", "configmap", "watched")
        assert watch.stdout.readline().split()[:2] == ["DELETED", "watched"]
    finally:
        watch.kill()
        watch.communicate()


def test_describe(harbour: Space) -> None:
    name = harbour.get("pods", "-l", "app=harbour")["items"][0]["metadata"]["name"]
    text = harbour.kubectl("describe", "pod", name)
    assert re.search(r"Status:\s+Running", text) and re.search(
        r"Controlled By:\s+ReplicaSet/harbour-", text
    )
    for reason in ("Scheduled", "Pulled", "Created", "Started"):
        assert re.search(rf"Normal\s+{reason}\s", text), text
    assert re.search(r"Successfully assigned kubectl/harbour-\S+ to boat", text)
    text = harbour.kubectl("describe", "deployment", "harbour")
    assert "2 desired | 2 updated | 2 total | 2 available | 0 unavailable" in text
    assert "Scaled up replica set harbour-" in text
    text = harbour.kubectl("describe", "node", "boat")
    assert re.search(r"Ready\s+True", text) and "harbour-" in text
    assert "Endpoints:" in harbour.cluster.kubectl("describe", "service", "kubernetes")


def test_events(harbour: Space) -> None:
    name = harbour.get("pods", "-l", "app=harbour")["items"][0]["metadata"]["name"]
    text = harbour.kubectl("events", "--for", f"pod/{name}")
    assert text.splitlines()[0].split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert "Scheduled" in text and "Started" in text
    assert "ScalingReplicaSet" in harbour.kubectl("get", "events", "--sort-by=.lastTimestamp")


# Deployments


def test_scale(space: Space) -> None:
    space.apply(deployment("scaled"))
    space.kubectl("scale", "deployment/scaled", "--replicas=3")
    space.kubectl("rollout", "status", "deployment/scaled", "--timeout=30s")
    assert space.get("deployment", "scaled")["status"]["readyReplicas"] == 3
    message = space.kubectl_fails(
        "scale", "deployment/scaled", "--current-replicas=9", "--replicas=1"
    )
    assert "Expected replicas to be 9, was 3" in message
    space.kubectl("scale", "deployment/scaled", "--replicas=0")
    space.kubectl("wait", "--for=delete", "pod", "-l", "app=scaled", "--timeout=30s")
    assert "replicas" in space.kubectl_fails("scale", "deployment/scaled")


def test_rollout(space: Space) -> None:
    name = "deployment/rolled"
    space.apply(deployment("rolled"))
    assert "successfully rolled out" in space.kubectl("rollout", "status", name, "--timeout=30s")
    space.kubectl("set", "env", name, "TIDE=high")
    space.kubectl("annotate", name, "kubernetes.io/change-cause=the tide came")
    space.kubectl("rollout", "status", name, "--timeout=30s")
    history = space.kubectl("rollout", "history", name)
    assert re.search(r"^1\s+<none>\n2\s+the tide came$", history, re.M), history
    assert re.search(r"TIDE:\s+high", space.kubectl("rollout", "history", name, "--revision=2"))
    space.kubectl("rollout", "undo", name)
    space.kubectl("rollout", "status", name, "--timeout=30s")
    template = space.get("deployment", "rolled")["spec"]["template"]["spec"]
    assert "env" not in template["containers"][0]
    space.kubectl("rollout", "undo", name, "--to-revision=2")
    space.kubectl("rollout", "status", name, "--timeout=30s")
    space.kubectl("rollout", "restart", name)
    space.kubectl("rollout", "status", name, "--timeout=30s")
    live = space.get("deployment", "rolled")
    assert (
        "kubectl.kubernetes.io/restartedAt" in live["spec"]["template"]["metadata"]["annotations"]
    )
    assert live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "5"
    space.kubectl("rollout", "pause", name)
    space.kubectl("set", "image", name, "box=box:none")
    wait_for(
        lambda: (
            space.get("deployment", "rolled")["status"]["observedGeneration"]
            == space.get("deployment", "rolled")["metadata"]["generation"]
        ),
        what="the paused change seen",
    )
    assert len(space.get("rs", "-l", "app=rolled")["items"]) == 3, (
        "a paused Deployment makes no ReplicaSet"
    )
    space.kubectl("set", "image", name, "box=box:wasm")
    space.kubectl("rollout", "resume", name)
    space.kubectl("rollout", "status", name, "--timeout=30s")


def test_expose_autoscale_and_set(space: Space) -> None:
    space.apply(deployment("exposed", replicas=0))
    space.kubectl("expose", "deployment", "exposed", "--port=80", "--target-port=8080")
    assert space.get("service", "exposed")["spec"]["selector"] == {"app": "exposed"}
    space.kubectl("autoscale", "deployment", "exposed", "--min=1", "--max=3")
    assert space.get("hpa", "exposed")["spec"]["maxReplicas"] == 3
    space.kubectl("set", "resources", "deployment/exposed", "--limits=cpu=100m")
    space.kubectl("set", "serviceaccount", "deployment/exposed", "default")
    spec = space.get("deployment", "exposed")["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"] == {"limits": {"cpu": "100m"}}
    assert spec["serviceAccountName"] == "default"


# Ends


def test_wait(space: Space) -> None:
    space.apply(config_map("awaited"))
    waiting = space.cluster.popen(
        "kubectl", "-n", space.name, "wait", "--for=jsonpath={.data.ready}=yes", "configmap/awaited",
        "--timeout=20s", stdout=-1,
    )  # fmt: skip
    space.apply(config_map("awaited", ready="yes"))
    output, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, output) == (0, "configmap/awaited condition met\n")
    message = space.kubectl_fails(
        "wait", "--for=jsonpath={.data.ready}=no", "configmap/awaited", "--timeout=1s"
    )
    assert "timed out waiting for the condition" in message


def test_delete(space: Space) -> None:
    for number in range(3):
        space.apply(config_map(f"old-{number}", labels={"age": "old"}))
    said = space.kubectl("delete", "configmap", "-l", "age=old")
    assert said.count("deleted") == 3
    assert "NotFound" in space.kubectl_fails("delete", "configmap", "old-0")
    assert space.kubectl("delete", "configmap", "old-0", "--ignore-not-found") == ""


def test_delete_cascades_as_asked(space: Space) -> None:
    space.apply(deployment("parent"), deployment("orphaner"))
    space.kubectl("rollout", "status", "deployment/parent", "--timeout=30s")
    space.kubectl("rollout", "status", "deployment/orphaner", "--timeout=30s")
    space.kubectl("delete", "deployment", "parent", "--cascade=foreground")
    assert space.kubectl("get", "rs,pods", "-l", "app=parent", "-o", "name") == ""
    space.kubectl("delete", "deployment", "orphaner", "--cascade=orphan")
    (left,) = space.get("rs", "-l", "app=orphaner")["items"]
    assert "ownerReferences" not in left["metadata"]
    space.kubectl("delete", "rs", "-l", "app=orphaner")
    space.kubectl("wait", "--for=delete", "pods", "-l", "app=orphaner", "--timeout=20s")


def test_delete_of_a_namespace_takes_all_that_is_in_it(cluster: Cluster) -> None:
    cluster.kubectl("create", "namespace", "doomed")
    doomed = Space(cluster, "doomed")
    doomed.apply(deployment("inside"), config_map("inside"))
    doomed.kubectl("rollout", "status", "deployment/inside", "--timeout=30s")
    cluster.kubectl("delete", "namespace", "doomed", "--timeout=40s")
    assert doomed.kubectl("get", "all,configmaps", "-o", "name") == ""


def test_cordon_drain_and_taint(cluster: Cluster, harbour: Space) -> None:
    space = harbour
    cluster.kubectl("cordon", "boat")
    try:
        assert "SchedulingDisabled" in cluster.kubectl("get", "node", "boat")
        space.start("wasm", "ashore", "sleep")
        message = space.event("ashore", "FailedScheduling")
        assert message.startswith("0/1 nodes are available: 1 node(s) were unschedulable.")
        drained = cluster.kubectl(
            "drain", "boat", "--dry-run=server", "--ignore-daemonsets", "--force", "--delete-emptydir-data",
            "--pod-selector=app=harbour",
        )  # fmt: skip
        assert drained.count("harbour-") >= 2
    finally:
        cluster.kubectl("uncordon", "boat")
    space.ready("pod/ashore")
    cluster.kubectl("taint", "node", "boat", "deck=wet:NoSchedule")
    try:
        space.start("wasm", "dry", "sleep")
        assert "1 node(s) had untolerated taint" in space.event("dry", "FailedScheduling")
    finally:
        cluster.kubectl("taint", "node", "boat", "deck-")
    space.ready("pod/dry")


def test_raw_and_proxy(cluster: Cluster) -> None:
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
    proxy = cluster.popen("kubectl", "proxy", "--port=0", stdout=-1)
    try:
        assert proxy.stdout is not None
        address = proxy.stdout.readline().split()[-1]
        assert '"kind": "NodeList"' in cluster.http(f"http://{address}/api/v1/nodes").replace(
            '":"', '": "'
        )
    finally:
        proxy.kill()
        proxy.communicate()


def test_kustomize(space: Space, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(
        "namePrefix: pre-\nconfigMapGenerator:\n- name: made\n  literals: [a=b]\n"
    )
    assert "configmap/pre-made-" in space.kubectl("apply", "-k", os.fspath(tmp_path))
