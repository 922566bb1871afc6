"""What a pod may ask for, for each kind of sandbox: environment, volumes, init and sidecar containers, restarts,
probes, hooks and graceful termination. Seen as users see it, through kubectl."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from box import BOX, container, image, pod
from cluster import wait_for
from space import Space


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def volume(name: str, path: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **fields}


def of_field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


# Environment


def test_environment_from_config_maps_secrets_and_the_pod_itself(space: Space, kind: str) -> None:
    space.apply(config_map("env", port="8080", host="quay"), secret("env", password="s3cret"))
    text = space.output(
        kind, f"env-{kind}", "env",
        env=[
            {"name": "PLAIN", "value": "one two"},
            {"name": "EXPANDED", "value": "$(PLAIN)-$(MISSING)-$$(PLAIN)"},
            {"name": "PORT", "valueFrom": {"configMapKeyRef": {"name": "env", "key": "port"}}},
            {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "env", "key": "password"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "x", "optional": True}}},
            of_field("POD", "metadata.name"), of_field("UID", "metadata.uid"),
            of_field("LABEL", "metadata.labels['app']"), of_field("NODE", "spec.nodeName"),
            of_field("IP", "status.podIP"),
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        ],
        envFrom=[{"configMapRef": {"name": "env"}, "prefix": "CM_"}, {"secretRef": {"name": "env"}}],
        resources={"limits": {"cpu": "250m", "memory": "64Mi"}},
    )  # fmt: skip
    entries = dict(line.split("=", 1) for line in text.splitlines())
    live = space.get("pod", f"env-{kind}")
    wanted = {
        "PLAIN": "one two",
        "EXPANDED": "one two-$(MISSING)-$(PLAIN)",
        "PORT": "8080",
        "WORD": "s3cret",
        "POD": f"env-{kind}",
        "UID": live["metadata"]["uid"],
        "LABEL": f"env-{kind}",
        "NODE": "boat",
        "IP": live["status"]["podIP"],
        "CPU": "250",
        "CM_port": "8080",
        "CM_host": "quay",
        "password": "s3cret",
        "KUBERNETES_SERVICE_PORT": "443",
    }
    assert {name: entries.get(name) for name in wanted} == wanted
    assert "NONE" not in entries


# Volumes


def test_volumes_of_every_sort(space: Space, kind: str, tmp_path: Path) -> None:
    (tmp_path / "from-host").write_text("host\n")
    tmp_path.chmod(0o755)
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    space.apply(config_map("files", a="A", b="B"), secret("files", key="K"))
    text = space.output(
        kind, f"volumes-{kind}", "cat",
        "/config/a", "/config/renamed/b", "/secret/key", "/host/from-host", "/down/labels",
        "/all/config-a", "/all/key", "/all/name",
        volumeMounts=[
            volume("config", "/config"), volume("secret", "/secret", readOnly=True),
            volume("host", "/host"), volume("down", "/down"), volume("all", "/all"),
        ],
        spec={"volumes": [
            {"name": "config", "configMap": {"name": "files", "items": [
                {"key": "a", "path": "a"}, {"key": "b", "path": "renamed/b"}]}},
            {"name": "secret", "secret": {"secretName": "files"}},
            {"name": "host", "hostPath": {"path": str(tmp_path), "type": "Directory"}},
            {"name": "down", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "all", "projected": {"sources": [
                {"configMap": {"name": "files", "items": [{"key": "a", "path": "config-a"}]}},
                {"secret": {"name": "files"}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ]}},
        ]},
    )  # fmt: skip
    assert text == f'ABKhost\napp="volumes-{kind}"AKvolumes-{kind}', text


@pytest.mark.root  # see test_exit_codes_and_termination_messages
def test_one_key_of_a_config_map_as_a_file(space: Space, kind: str) -> None:
    space.apply(config_map("one-file", a="A", b="B"))
    text = space.output(
        kind, f"sub-path-{kind}", "cat", "/only/a.txt",
        volumeMounts=[volume("config", "/only/a.txt", subPath="a")],
        spec={"volumes": [{"name": "config", "configMap": {"name": "one-file"}}]},
    )  # fmt: skip
    assert text == "A"


def test_an_empty_dir_is_shared_by_a_pod_and_outlives_its_containers(
    space: Space, kind: str
) -> None:
    share = [volume("share", "/share")]
    text = space.output(
        kind, f"empty-{kind}", "cat", "/share/note",
        volumeMounts=share,
        spec={
            "initContainers": [container(kind, "write", "/share/note", "left here", name="writer", volumeMounts=share)],
            "volumes": [{"name": "share", "emptyDir": {}}],
        },
    )  # fmt: skip
    assert text == "left here\n"


def test_a_mounted_config_map_follows_its_object(space: Space, kind: str) -> None:
    name = f"follow-{kind}"
    space.apply(config_map(name, text="first"))
    space.start(
        kind, name, "follow", "/config/text",
        volumeMounts=[volume("config", "/config")],
        spec={"volumes": [{"name": "config", "configMap": {"name": name}}]},
    )  # fmt: skip
    space.says(name, "first")
    space.apply(config_map(name, text="second"))
    space.says(name, "second")


def test_a_read_only_volume_cannot_be_written(space: Space, kind: str) -> None:
    name = f"read-only-{kind}"
    space.start(
        kind, name, "write", "/share/note", "x",
        volumeMounts=[volume("share", "/share", readOnly=True)],
        spec={"restartPolicy": "Never", "volumes": [{"name": "share", "emptyDir": {}}]},
    )  # fmt: skip
    space.phase(name, "Failed")
    assert "/share/note" in space.kubectl("logs", name)


def test_a_service_account_token_is_projected(space: Space, kind: str) -> None:
    where = "/var/run/secrets/kubernetes.io/serviceaccount"
    text = space.output(
        kind, f"token-{kind}", "cat", f"{where}/namespace", f"{where}/ca.crt", f"{where}/token"
    )
    head, token = text.rsplit("\n", 1)
    assert head.startswith(f"{space.name}-----BEGIN CERTIFICATE-----")
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert claims["sub"] == f"system:serviceaccount:{space.name}:default"
    assert claims["kubernetes.io"]["pod"]["name"] == f"token-{kind}"


# Several containers


def test_init_containers_run_in_order_and_a_sidecar_stays(space: Space, kind: str) -> None:
    name = f"order-{kind}"
    share = {"volumeMounts": [volume("share", "/share")]}
    space.start(
        kind, name, "cat", "/share/one", "/share/two",
        **share,
        spec={
            "restartPolicy": "Never",
            "initContainers": [
                container(kind, "write", "/share/one", "1", name="one", **share),
                container(kind, "sleep", name="sidecar", restartPolicy="Always"),
                container(kind, "write", "/share/two", "2", name="two", **share),
            ],
            "volumes": [{"name": "share", "emptyDir": {}}],
        },
    )  # fmt: skip
    space.phase(name, "Succeeded")
    assert space.kubectl("logs", name, "-c", "box") == "1\n2\n"
    assert space.kubectl("logs", name, "-c", "sidecar").startswith("waiting\n")
    one, sidecar, two = space.get("pod", name)["status"]["initContainerStatuses"]
    assert one["state"]["terminated"]["finishedAt"] <= two["state"]["terminated"]["finishedAt"]
    assert "terminated" in sidecar["state"], "a sidecar ends with its pod"


def test_a_failing_init_container_holds_the_pod(space: Space, kind: str) -> None:
    name = f"init-fails-{kind}"
    space.start(
        kind, name, "sleep", spec={"initContainers": [container(kind, "exit", "3", name="first")]}
    )
    wait_for(
        lambda: "Init:CrashLoopBackOff" in space.kubectl("get", "pod", name),
        what="Init:CrashLoopBackOff",
    )
    assert (
        space.container_status(name, "initContainerStatuses")["lastState"]["terminated"]["exitCode"]
        == 3
    )


# Restarts


def test_restart_policies(space: Space, kind: str) -> None:
    never, failure, always = (f"{word}-{kind}" for word in ("never", "on-failure", "always"))
    space.apply(
        pod(kind, never, "exit", "7", spec={"restartPolicy": "Never"}),
        pod(kind, failure, "exit", "0", spec={"restartPolicy": "OnFailure"}),
        pod(kind, always, "exit", "1", spec={"restartPolicy": "Always"}),
    )
    space.phase(never, "Failed")
    space.phase(failure, "Succeeded")
    ended = space.container_status(never)["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (7, "Error")
    assert space.container_status(failure)["state"]["terminated"]["reason"] == "Completed"
    waiting = space.waiting(always, "CrashLoopBackOff")
    assert waiting["message"].startswith("back-off 10s restarting failed container=box pod=always-")
    assert "CrashLoopBackOff" in space.kubectl("get", "pod", always)
    status = space.container_status(always)
    assert status["restartCount"] >= 1
    assert status["lastState"]["terminated"]["exitCode"] == 1
    assert space.kubectl("logs", always, "--previous") == "leaving with 1\n"
    assert "Back-off restarting failed container box in pod" in space.event(always, "BackOff")


# Probes


def probe(**check: Any) -> dict[str, Any]:
    return {"periodSeconds": 1, "timeoutSeconds": 2, **check}


def serving(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    """A pod of the hello example, which answers HTTP on 8080; with 404 for /missing."""
    made = pod(kind, name, **fields)
    box = made["spec"]["containers"][0]
    box["image"] = image("hello", kind)
    del box["args"]
    return made


def test_readiness_over_http_and_tcp(space: Space, kind: str) -> None:
    well, ill, tcp = (f"{word}-{kind}" for word in ("http-well", "http-ill", "tcp"))
    path = "/" if kind == "wasm" else "/cgi-bin/index.cgi"
    space.apply(
        serving(kind, well, readinessProbe=probe(httpGet={"path": path, "port": 8080})),
        serving(kind, ill, readinessProbe=probe(httpGet={"path": "/missing", "port": 8080})),
        serving(kind, tcp, readinessProbe=probe(tcpSocket={"port": 8080})),
    )
    space.ready(f"pod/{well}")
    space.ready(f"pod/{tcp}")
    space.event(ill, "Unhealthy", "HTTP probe failed with statuscode: 404")
    assert space.kubectl("get", "pod", ill).splitlines()[1].split()[1] == "0/1"


def test_a_failing_liveness_probe_restarts_the_container(space: Space, kind: str) -> None:
    name = f"liveness-{kind}"
    space.start(
        kind, name, "sleep",
        livenessProbe=probe(tcpSocket={"port": 9}, failureThreshold=1),
        spec={"terminationGracePeriodSeconds": 1},
    )  # fmt: skip
    assert "Liveness probe failed" in space.event(name, "Unhealthy")
    wait_for(lambda: space.container_status(name)["restartCount"] >= 1, what="a restart")
    assert "Container box failed liveness probe, will be restarted" in space.event(name, "Killing")


def test_exec_probes(space: Space, kind: str) -> None:
    well, ill = f"exec-well-{kind}", f"exec-ill-{kind}"
    space.apply(
        pod(kind, well, "sleep", readinessProbe=probe(exec={"command": [BOX[kind], "exit", "0"]})),
        pod(kind, ill, "sleep", readinessProbe=probe(exec={"command": [BOX[kind], "exit", "4"]})),
    )
    space.ready(f"pod/{well}")
    space.event(ill, "Unhealthy", "Readiness probe failed: leaving with 4")


HEALTH = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import grpc

def check(request, context):  # grpc.health.v1.HealthCheckResponse{status: SERVING or NOT_SERVING}
    return b"\\x08\\x01" if Path(sys.argv[1]).exists() else b"\\x08\\x02"

handler = grpc.method_handlers_generic_handler(
    "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
)
server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
print(server.add_insecure_port("0.0.0.0:0"), flush=True)
server.start()
server.wait_for_termination()
"""


def test_grpc_probes(space: Space, oci_kind: str, tmp_path: Path) -> None:
    """The health service is this test's, on the node; the pod hands on what comes to its port."""
    name, well = f"grpc-{oci_kind}", tmp_path / "well"
    service = space.cluster.popen(sys.executable, "-c", HEALTH, str(well), stdout=-1)
    try:
        assert service.stdout is not None
        port = int(service.stdout.readline())
        node = "node=$(ip route | awk '/^default/ {print $3}')"
        made = pod(
            oci_kind, name,
            command=["/bin/sh", "-c", f"{node}; exec nc -ll -p 9000 -e /bin/nc $node {port}"],
            readinessProbe=probe(grpc={"port": 9000}, failureThreshold=1),
        )  # fmt: skip
        del made["spec"]["containers"][0]["args"]
        space.apply(made)
        message = 'Readiness probe failed: service unhealthy (responded with "NOT_SERVING")'
        space.event(name, "Unhealthy", message)
        well.touch()
        space.ready(f"pod/{name}")
        well.unlink()
        space.kubectl("wait", "--for=condition=Ready=false", f"pod/{name}", "--timeout=20s")
        space.kubectl("delete", "pod", name, "--wait=false")
    finally:
        service.kill()
        service.communicate()


def test_a_startup_probe_holds_the_others_back(space: Space, kind: str) -> None:
    name = f"startup-{kind}"
    share = [volume("share", "/share")]
    space.start(
        kind, name, "sleep",
        volumeMounts=share,
        startupProbe=probe(exec={"command": [BOX[kind], "cat", "/share/started"]}, failureThreshold=60),
        readinessProbe=probe(exec={"command": [BOX[kind], "exit", "0"]}),
        spec={"volumes": [{"name": "share", "emptyDir": {}}]},
    )  # fmt: skip
    space.event(name, "Unhealthy")
    assert space.container_status(name)["started"] is False
    space.kubectl("exec", name, "--", BOX[kind], "write", "/share/started", "yes")
    space.ready(f"pod/{name}")
    assert space.container_status(name)["started"] is True


# Hooks and the end


def test_lifecycle_hooks(space: Space, kind: str, tmp_path: Path) -> None:
    name = f"hooks-{kind}"
    tmp_path.chmod(0o777)
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)

    def note(file: str) -> dict[str, Any]:
        return {"exec": {"command": [BOX[kind], "write", f"/host/{file}", "done"]}}

    space.start(
        kind, name, "sleep",
        lifecycle={"postStart": note("started"), "preStop": note("stopping")},
        volumeMounts=[volume("host", "/host")],
        spec={"volumes": [{"name": "host", "hostPath": {"path": str(tmp_path)}}]},
    )  # fmt: skip
    space.ready(f"pod/{name}")
    assert (tmp_path / "started").read_text() == "done\n"
    assert not (tmp_path / "stopping").exists()
    space.kubectl("delete", "pod", name)
    assert (tmp_path / "stopping").read_text() == "done\n"


def test_a_failing_post_start_hook_kills_the_container(space: Space, kind: str) -> None:
    name = f"hook-fails-{kind}"
    hook = {"postStart": {"exec": {"command": [BOX[kind], "exit", "9"]}}}
    space.start(kind, name, "sleep", lifecycle=hook)
    assert "leaving with 9" in space.event(name, "FailedPostStartHook")
    space.waiting(name, "CrashLoopBackOff", "PostStartHookError")


def test_sigterm_comes_first_and_sigkill_after_the_grace_period(
    space: Space, oci_kind: str
) -> None:
    names = polite, deaf = f"polite-{oci_kind}", f"deaf-{oci_kind}"
    space.apply(pod(oci_kind, polite, "sleep"), pod(oci_kind, deaf, "deaf"))
    for name in names:
        space.ready(f"pod/{name}")
    watch = space.cluster.popen("kubectl", "-n", space.name, "logs", "-f", polite, stdout=-1)
    assert watch.stdout is not None
    assert watch.stdout.readline() == "waiting\n", "it asks while the pod is there"
    assert "deleted" in space.kubectl("delete", "pod", *names, "--grace-period=2")
    output, _ = watch.communicate(timeout=20)
    assert "asked to stop" in output
    assert space.kubectl("get", "pods", "-l", f"app in ({polite}, {deaf})", "-o", "name") == ""


def test_force_deletion_is_immediate(space: Space, kind: str) -> None:
    name = f"forced-{kind}"
    space.start(kind, name, "deaf", spec={"terminationGracePeriodSeconds": 3600})
    space.ready(f"pod/{name}")
    space.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    assert "NotFound" in space.kubectl_fails("get", "pod", name)


@pytest.mark.root  # a single file is mounted, which a WASI guest without a mount namespace cannot have
def test_exit_codes_and_termination_messages(space: Space, kind: str) -> None:
    name = f"message-{kind}"
    space.start(
        kind,
        name,
        "write",
        "/dev/termination-log",
        "the tide is out",
        spec={"restartPolicy": "Never"},
    )
    space.phase(name, "Succeeded")
    assert space.container_status(name)["state"]["terminated"]["message"] == "the tide is out\n"


def test_an_active_deadline_fails_the_pod(space: Space, kind: str) -> None:
    name = f"deadline-{kind}"
    space.start(
        kind, name, "sleep", spec={"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 1}
    )
    space.phase(name, "Failed")
    assert space.get("pod", name)["status"]["reason"] == "DeadlineExceeded"
