"""What goes wrong must be seen where users look: the STATUS column, the container's state, the events in `describe`.

And the node stays well: after all of it, another pod starts at once.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from box import BOX, container, pod
from cluster import wait_for
from conftest import OCI_KINDS, skip_unless_it_runs
from differences import documented
from pieces import KINDS
from space import Space


def status_column(space: Space, name: str, *wanted: str) -> str:
    """The STATUS that `kubectl get pod` shows, once it is one of `wanted`."""

    def shown() -> str:
        column = space.kubectl("get", "pod", name, "--no-headers").split()[2]
        assert column in wanted, column
        return column

    return str(wait_for(shown, what=f"STATUS of {name} in {wanted}"))


def test_an_image_that_does_not_exist(space: Space, kind: str) -> None:
    name = f"no-image-{kind}"
    made = pod(kind, name)
    image = "127.0.0.1:1/none/such:1.0"  # nobody listens there
    made["spec"]["containers"][0]["image"] = image
    space.apply(made)
    status_column(space, name, "ErrImagePull", "ImagePullBackOff")
    assert space.event(name, "Pulling") == f'Pulling image "{image}"'
    space.event(name, "Failed", f'Failed to pull image "{image}":')
    space.event(name, "Failed", "Error: ErrImagePull")
    waiting = space.waiting(name, "ImagePullBackOff")
    assert waiting["message"].startswith(f'Back-off pulling image "{image}"')
    assert space.event(name, "BackOff").startswith(f'Back-off pulling image "{image}"')
    text = space.kubectl("describe", "pod", name)
    assert re.search(r"Reason:\s+(ImagePullBackOff|ErrImagePull)", text)
    assert re.search(r"Warning\s+Failed\s.*Error: ErrImagePull", text), text


def test_an_image_that_may_not_be_pulled(space: Space, kind: str) -> None:
    name = f"never-pull-{kind}"
    made = pod(kind, name)
    made["spec"]["containers"][0] |= {"image": "none/such:1.0", "imagePullPolicy": "Never"}
    space.apply(made)
    waiting = space.waiting(name, "ErrImageNeverPull")
    assert (
        waiting["message"]
        == 'Container image "none/such:1.0" is not present with pull policy of Never'
    )
    status_column(space, name, "ErrImageNeverPull")


def test_an_image_name_that_is_none(space: Space) -> None:
    made = pod("wasm", "bad-name")
    made["spec"]["containers"][0]["image"] = "Not An Image"
    space.apply(made)
    status_column(space, "bad-name", "InvalidImageName")
    assert 'Failed to apply default image tag "Not An Image"' in space.event(
        "bad-name", "InspectFailed"
    )


def test_a_program_that_traps(space: Space, kind: str) -> None:
    name = f"traps-{kind}"
    space.start(kind, name, "trap")
    status_column(space, name, "CrashLoopBackOff")
    ended = space.container_status(name)["lastState"]["terminated"]
    assert ended["reason"] == "Error" and ended["exitCode"] >= 128
    assert "about to trap" in space.kubectl("logs", name, "--previous")
    if kind == "wasm":
        seen = space.kubectl("logs", name, "--previous") + ended.get("message", "")
        assert "unreachable" in seen, "a trap says which"


def test_a_program_that_spins_can_be_killed(space: Space, kind: str) -> None:
    name = f"spins-{kind}"
    space.start(kind, name, "spin", resources={"limits": {"cpu": "200m"}})
    space.says(name, "spinning")
    assert space.kubectl("exec", name, "--", BOX[kind], "echo", "beside") == "beside\n"
    other = f"beside-{kind}"
    assert space.output(kind, other, "echo", "well") == "well\n"
    space.kubectl("delete", "pod", name, "--grace-period=1")
    assert "NotFound" in space.kubectl_fails("get", "pod", name)


@pytest.mark.parametrize(
    ("command", "restarts"), [("/no/such/program", "Always"), ("/no/such/program", "Never")]
)
def test_a_container_that_cannot_start(
    space: Space, kind: str, command: str, restarts: str
) -> None:
    name = f"no-start-{restarts.lower()}-{kind}"
    made = pod(kind, name, spec={"restartPolicy": restarts})
    made["spec"]["containers"][0]["command"] = [command]
    space.apply(made)
    failed = space.event(name, "Failed")
    assert failed.startswith("Error: "), failed
    assert command in failed
    if restarts == "Always":
        status_column(space, name, "RunContainerError", "CreateContainerError", "CrashLoopBackOff")
    else:
        status_column(space, name, "ContainerCannotRun", "CreateContainerError", "Error")
    assert command in space.kubectl("describe", "pod", name)


def test_a_missing_key_or_object(space: Space, kind: str) -> None:
    space.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "some"}, "data": {"a": "b"}}
    )
    key, absent, secret = (f"missing-{what}-{kind}" for what in ("key", "map", "secret"))

    def needs(**source: Any) -> dict[str, Any]:
        return {"env": [{"name": "X", "valueFrom": source}]}

    space.apply(
        pod(kind, key, "sleep", **needs(configMapKeyRef={"name": "some", "key": "none"})),
        pod(kind, absent, "sleep", **needs(configMapKeyRef={"name": "none", "key": "a"})),
        pod(kind, secret, "sleep", envFrom=[{"secretRef": {"name": "none"}}]),
    )
    waiting = space.waiting(key, "CreateContainerConfigError")
    assert waiting["message"] == f"couldn't find key none in ConfigMap {space.name}/some"
    assert (
        space.waiting(absent, "CreateContainerConfigError")["message"]
        == 'configmap "none" not found'
    )
    assert (
        space.waiting(secret, "CreateContainerConfigError")["message"] == 'secret "none" not found'
    )
    status_column(space, key, "CreateContainerConfigError")
    assert space.event(absent, "Failed") == 'Error: configmap "none" not found'
    # Making it good is enough.
    space.kubectl("patch", "configmap", "some", "--type=merge", "-p", '{"data":{"none":"now"}}')
    space.ready(f"pod/{key}")
    space.kubectl("patch", "configmap", "some", "--type=merge", "-p", '{"data":{"none":null}}')


def test_a_volume_that_cannot_be_mounted(space: Space, kind: str) -> None:
    name = f"no-volume-{kind}"
    space.start(
        kind, name, "sleep",
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
        spec={"volumes": [{"name": "data", "configMap": {"name": "not-there"}}]},
    )  # fmt: skip
    message = space.event(name, "FailedMount")
    assert message == 'MountVolume.SetUp failed for volume "data" : configmap "not-there" not found'
    status_column(space, name, "ContainerCreating")
    space.kubectl("create", "configmap", "not-there")
    space.ready(f"pod/{name}")
    space.kubectl("delete", "configmap", "not-there")


def test_pods_that_fit_nowhere(space: Space) -> None:
    space.apply(
        pod("wasm", "too-big", "sleep", resources={"requests": {"cpu": "1000"}}),
        pod("wasm", "nowhere", "sleep", spec={"nodeSelector": {"deck": "gold"}}),
        pod("wasm", "port-one", "sleep", ports=[{"containerPort": 1, "hostPort": 31999}]),
    )
    message = space.event("too-big", "FailedScheduling")
    assert message.startswith("0/1 nodes are available: 1 Insufficient cpu."), message
    message = space.event("nowhere", "FailedScheduling")
    assert message.startswith(
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    ), message
    status_column(space, "too-big", "Pending")
    (condition,) = [
        c
        for c in space.get("pod", "too-big")["status"]["conditions"]
        if c["type"] == "PodScheduled"
    ]
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    space.ready("pod/port-one")
    space.apply(pod("wasm", "port-two", "sleep", ports=[{"containerPort": 1, "hostPort": 31999}]))
    message = space.event("port-two", "FailedScheduling")
    assert "1 node(s) didn't have free ports for the requested pod ports." in message
    space.kubectl("delete", "pod", "port-one")
    space.ready("pod/port-two")


def test_a_runtime_class_that_does_not_exist(space: Space) -> None:
    made = pod("wasm", "classless", "sleep")
    made["spec"]["runtimeClassName"] = "barge"
    message = space.kubectl_fails("apply", "-f", "-", stdin=json.dumps(made))
    assert "(Forbidden)" in message and 'RuntimeClass "barge" not found' in message


def test_out_of_memory(space: Space, oci_kind: str) -> None:
    name = f"glutton-{oci_kind}"
    made = pod(
        oci_kind,
        name,
        resources={"limits": {"memory": "16Mi"}},
        spec={"restartPolicy": "Never"},
    )
    made["spec"]["containers"][0]["command"] = ["/bin/sh", "-c", "x=a; while :; do x=$x$x; done"]
    space.apply(made)
    space.phase(name, "Failed")
    ended = space.container_status(name)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    status_column(space, name, "OOMKilled")


REFUSED = {
    "host-network": ({"hostNetwork": True}, "host's namespaces", "hostNetwork: a microVM has a kernel of its own"),
    "host-pids": ({"hostPID": True}, "host's namespaces", "hostPID: a microVM has a kernel of its own"),
    "host-ipc": ({"hostIPC": True}, "host's namespaces", "hostIPC: a microVM has a kernel of its own"),
    "host-users": ({"hostUsers": False}, "user namespaces", "pods of the kind microvm have no user namespaces"),
}  # fmt: skip


@pytest.mark.root
def test_what_a_microvm_cannot_have_is_said(space: Space) -> None:
    """The differences that docs/sandboxes.md lists are refused in words, where a container has them."""
    skip_unless_it_runs("microvm")
    volume = {"name": "socket", "hostPath": {"path": str(space.cluster.data / "run" / "cri.sock")}}
    mount = {"name": "socket", "mountPath": "/host.sock"}
    space.apply(
        *(pod("microvm", name, "sleep", spec=spec) for name, (spec, _, _) in REFUSED.items()),
        pod("microvm", "socket", "sleep", volumeMounts=[mount], spec={"volumes": [volume]}),
    )
    for name, (_, row, words) in REFUSED.items():
        assert documented(row)
        space.event(name, "FailedCreatePodSandBox", words)
    assert documented("special files of the host")
    space.event("socket", "Failed", "is a device or socket of the host: a microVM has none")
    space.kubectl("delete", "pod", *REFUSED, "socket", "--grace-period=1")


def test_a_failing_deployment_says_why(space: Space) -> None:
    labels = {"app": "stuck"}
    space.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "stuck"},
            "spec": {
                "progressDeadlineSeconds": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "runtimeClassName": "wasm",
                        "nodeSelector": {"deck": "gold"},
                        "containers": [container("wasm", "sleep")],
                    },
                },
            },
        }
    )
    message = space.kubectl_fails("rollout", "status", "deployment/stuck", "--timeout=30s")
    assert 'error: deployment "stuck" exceeded its progress deadline' in message
    assert "ProgressDeadlineExceeded" in space.kubectl("describe", "deployment", "stuck")


def test_the_node_is_well_after_all_this(space: Space, kind: str) -> None:
    assert re.match(r"boat\s+Ready\s", space.cluster.kubectl("get", "node", "boat", "--no-headers"))
    assert space.output(kind, f"last-{kind}", "echo", "well") == "well\n"
    assert all(part["restarts"] == 0 for part in space.cluster.status()["parts"].values())


@pytest.mark.root
def test_who_fills_the_disk_past_his_limit_is_evicted(space: Space) -> None:
    """By a volume, by his own layer, by his log, by directories too deep to be counted by recursion; who keeps to it stays.
    The directories are the host's in any kind, so a machine need not dig them."""
    volume = {"name": "hold", "emptyDir": {"sizeLimit": "4Mi"}}
    mounts = [{"name": "hold", "mountPath": "/hold"}]
    own = {"limits": {"ephemeral-storage": "4Mi"}}
    deep = "p=$(printf 'd/%.0s' $(seq 1100)); mkdir -p $p; cd $p; head -c 8m /dev/zero >f"
    attempts: dict[str, tuple[dict[str, Any], str, str]] = {
        "hold": ({"volumeMounts": mounts}, "dd if=/dev/zero of=/hold/f bs=1M count=8",
                 'Usage of EmptyDir volume "hold" exceeds the limit "4Mi". '),
        "deep": ({"volumeMounts": mounts}, f"cd /hold; {deep}",
                 'Usage of EmptyDir volume "hold" exceeds the limit "4Mi". '),
        "layer": ({"resources": own}, "head -c 8m /dev/zero >/f",
                  "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "),
        "log": ({"resources": own}, "yes | head -c 8m",
                "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "),
        "modest": ({"volumeMounts": mounts, "resources": own}, "head -c 1m /dev/zero >/hold/f", ""),
    }  # fmt: skip
    pods, expected = [], {}
    for name, (fields, script, message) in attempts.items():
        command = {"command": ["sh", "-c", f"{script}; sleep 1000"]}
        spec = {"volumes": [volume]} if "volumeMounts" in fields else {}
        for kind in set(KINDS) & set(OCI_KINDS):
            if kind == "microvm" and name in ("deep", "modest"):
                continue
            expected[f"fills-{name}-{kind}"] = message
            pods.append(pod(kind, f"fills-{name}-{kind}", **command, **fields, spec=spec))
    space.apply(*pods)
    for name, message in expected.items():

        def evicted(name: str = name) -> tuple[str, str]:
            status = space.read(f"pods/{name}")["status"]
            assert status["phase"] == "Failed", status
            return status["reason"], status["message"]

        if message:
            assert wait_for(evicted, 60, f"the end of {name}") == ("Evicted", message)
            assert space.event(name, "Evicted") == message
    assert space.read("pods/fills-modest-container")["status"]["phase"] == "Running"
    gone = ("--grace-period=0", "--force", "--wait=false")
    space.kubectl("delete", "pod", *expected, *gone)
