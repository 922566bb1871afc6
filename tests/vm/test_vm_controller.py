"""VirtualMachines against the real API server: a test plays the node."""

from __future__ import annotations

import pytest

from sampan.cli import vmdefinition
from sampan.client.resources import (
    CUSTOMRESOURCEDEFINITIONS,
    PERSISTENTVOLUMECLAIMS,
    PODS,
    RUNTIMECLASSES,
    SERVICEACCOUNTS,
    SERVICES,
    VIRTUALMACHINES,
)
from sampan.controllers.virtualmachine import pod_of, status_of
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition

RUNNING = {"containerStatuses": [{"name": "vm", "ready": True, "restartCount": 0, "image": "x", "imageID": "", "state": {"running": {}}}]}  # fmt: skip


def machine(name="boat", **spec):
    return {
        "apiVersion": "sampan.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"image": "app:1", **spec},
    }


async def prepare(world):
    """What a cluster has where microVMs are; whether this brought the kind."""
    await world.client.create(
        RUNTIMECLASSES,
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "microvm"},
            "handler": "microvm",
        },
    )
    await world.until(SERVICEACCOUNTS, lambda found: found)
    return await vmdefinition.install(world.client)


def phase(wanted):
    return lambda found: (found.get("status") or {}).get("phase") == wanted


async def merge(world, patch, name="boat"):
    return await world.client.patch(VIRTUALMACHINES, name, patch, "default")


async def test_a_machine_with_a_size_has_a_disk_that_stays_while_it_is_stopped(world):
    await prepare(world)
    await world.client.create(VIRTUALMACHINES, machine(size="1Gi"))
    pod = await world.get_until(PODS, "boat", lambda pod: True)
    assert pod["metadata"]["annotations"]["sampan.dev/vm-disk-size"] == "1Gi"
    place = pod["metadata"]["annotations"]["sampan.dev/vm-disk"]
    (mount,) = pod["spec"]["containers"][0]["volumeMounts"]
    (volume,) = pod["spec"]["volumes"]
    assert mount == {"name": volume["name"], "mountPath": place}
    assert volume["persistentVolumeClaim"] == {"claimName": "boat-disk"}
    claim = await world.client.get(PERSISTENTVOLUMECLAIMS, "boat-disk", "default")
    assert claim["spec"]["resources"] == {"requests": {"storage": "1Gi"}}
    await merge(world, {"spec": {"running": False}})
    await world.until(PODS, lambda found: not found)
    kept = await world.client.get(PERSISTENTVOLUMECLAIMS, "boat-disk", "default")
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]
    await merge(world, {"spec": {"running": True}})
    await world.get_until(PODS, "boat", lambda pod: True)


async def test_a_machine_is_a_pod_with_its_size_and_its_phase(world):
    assert await prepare(world)
    assert not await vmdefinition.install(world.client)
    made = await world.client.create(VIRTUALMACHINES, machine(cpus=2, memory="512Mi", args=["x"]))
    assert made["spec"]["running"] is True
    await world.get_until(VIRTUALMACHINES, "boat", phase("Pending"))
    pod = await world.get_until(PODS, "boat", lambda pod: True)
    assert pod["spec"]["runtimeClassName"] == "microvm"
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "2",
        "memory": str(448 << 20),
    }
    assert pod["metadata"]["annotations"]["sampan.dev/vm-memory"] == "512Mi"
    await world.set_pod("boat", ip="10.1.2.3", **RUNNING)
    running = await world.get_until(VIRTUALMACHINES, "boat", phase("Running"))
    assert running["status"]["ip"] == "10.1.2.3"
    assert condition(running, "Ready")["status"] == "True"
    assert condition(running, "RestartRequired")["status"] == "False"


async def test_stop_start_and_the_end(world):
    await prepare(world)
    await world.client.create(VIRTUALMACHINES, machine())
    first = await world.get_until(PODS, "boat", lambda pod: True)
    await merge(world, {"spec": {"running": False}})
    await world.gone(PODS, "boat")  # not bound to a node, so it goes at once
    await world.get_until(VIRTUALMACHINES, "boat", phase("Stopped"))
    await merge(world, {"spec": {"running": True}})
    second = await world.get_until(PODS, "boat", lambda pod: True)
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    await world.client.delete(VIRTUALMACHINES, "boat", "default")
    await world.gone(PODS, "boat")


async def test_an_edited_machine_says_that_it_wants_a_restart(world):
    await prepare(world)
    await world.client.create(VIRTUALMACHINES, machine())
    await world.get_until(PODS, "boat", lambda pod: True)
    await merge(world, {"spec": {"cpus": 2}})

    def wants(found):
        return (condition(found, "RestartRequired") or {}).get("status") == "True"

    await world.get_until(VIRTUALMACHINES, "boat", wants)
    pod = await world.client.get(PODS, "boat", "default")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "1"


async def test_a_pod_of_that_name_is_left_alone_and_named(world):
    await prepare(world)
    stranger = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "boat", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }  # fmt: skip
    stranger = await world.client.create(PODS, stranger)
    await world.client.create(VIRTUALMACHINES, machine())
    found = await world.get_until(
        VIRTUALMACHINES,
        "boat",
        lambda vm: (condition(vm, "Ready") or {}).get("reason") == "CannotStart",
    )
    assert "not this machine's" in condition(found, "Ready")["message"]
    kept = await world.client.get(PODS, "boat", "default")
    assert kept["metadata"]["uid"] == stranger["metadata"]["uid"]


async def test_ports_become_a_service(world):
    await prepare(world)
    ports = [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]
    await world.client.create(VIRTUALMACHINES, machine(ports=ports))
    service = await world.get_until(SERVICES, "boat", lambda found: True)
    assert service["spec"]["type"] == "NodePort"
    assert {p["port"]: p["protocol"] for p in service["spec"]["ports"]} == {80: "TCP", 53: "UDP"}
    assert service["spec"]["ports"][0]["nodePort"] == 30080
    await world.get_until(PODS, "boat", lambda pod: True)
    await world.set_pod("boat", ip="10.1.2.3", **RUNNING)
    running = await world.get_until(VIRTUALMACHINES, "boat", phase("Running"))
    assert condition(running, "Ready")["message"] == ""


async def test_the_kind_may_go_and_come_back(world):
    await prepare(world)
    await world.client.create(VIRTUALMACHINES, machine("one"))
    await world.get_until(PODS, "one", lambda pod: True)
    await world.client.delete(CUSTOMRESOURCEDEFINITIONS, vmdefinition.NAME)
    await world.gone(CUSTOMRESOURCEDEFINITIONS, vmdefinition.NAME, "")
    await vmdefinition.install(world.client)
    await world.client.create(VIRTUALMACHINES, machine("two"))
    await world.get_until(PODS, "two", lambda pod: True)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"cpus": 0}, "spec.cpus"),
        ({"memory": "lots"}, "spec.memory"),
        ({"restartPolicy": "Maybe"}, "spec.restartPolicy"),
        ({"volumes": [{"name": "v", "mountPath": "relative"}]}, "mountPath"),
        ({"ports": [{"port": 80}, {"port": 80}]}, "spec.ports[1]"),
    ],
)
async def test_what_is_wrong_is_named(world, spec, says):
    await vmdefinition.install(world.client)
    with pytest.raises(ApiError) as refused:
        await world.client.create(VIRTUALMACHINES, machine(**spec))
    assert refused.value.code == 422
    assert says in refused.value.message


# Decisions alone

DEFAULTS = {"running": True, "cpus": 1, "memory": "256Mi", "restartPolicy": "Always", "gracePeriodSeconds": 10}  # fmt: skip


def stored(**spec):
    made = machine(**{**DEFAULTS, **spec})
    made["metadata"] |= {"uid": "u", "generation": 3}
    return made


def test_a_volume_keeps_its_source_and_is_mounted_where_it_is_wanted():
    volume = {
        "name": "etc",
        "mountPath": "/etc/app",
        "readOnly": True,
        "configMap": {"name": "app"},
    }
    spec = pod_of(stored(volumes=[volume]))["spec"]
    assert spec["volumes"] == [{"name": "etc", "configMap": {"name": "app"}}]
    assert spec["containers"][0]["volumeMounts"] == [
        {"name": "etc", "mountPath": "/etc/app", "readOnly": True}
    ]


def test_keys_are_words_of_the_shell_whatever_is_in_them():
    key = "ssh-ed25519 AAAA it's; rm -rf /"
    pod = pod_of(stored(ssh={"authorizedKeys": [key]}))
    script = pod["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"][2]
    assert """'ssh-ed25519 AAAA it'"'"'s; rm -rf /'""" in script


def test_an_ended_program_gives_phase_and_exit_code():
    made = stored(restartPolicy="Never")
    pod = pod_of(made)
    pod["status"] = {
        "phase": "Failed",
        "containerStatuses": [{"restartCount": 0, "state": {"terminated": {"exitCode": 7}}}],
    }
    status = status_of(made, pod, "", "2026-01-01T00:00:00Z")
    assert (status["phase"], status["exitCode"], status["observedGeneration"]) == ("Failed", 7, 3)


def test_a_condition_keeps_the_time_of_its_change():
    made = stored()
    made["status"] = status_of(made, None, "", "2026-01-01T00:00:00Z")
    assert status_of(made, None, "", "2027-01-01T00:00:00Z") == made["status"]
