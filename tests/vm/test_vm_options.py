"""What `sampan vm run` makes of its options, and what it says when it cannot."""

from __future__ import annotations

import pytest

from sampan.cli import vmoptions as vm

PLAIN = {
    "name": "", "namespace": "default", "arguments": (), "cpus": 1, "memory": "256m", "size": "", "environment": (),
    "publish": (), "volumes": (), "keys": (), "restart": "Always", "interactive": False, "terminal": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "amount"), [("512m", "512Mi"), ("2G", "2Gi"), ("64MiB", "64Mi"), ("1 gb", "1Gi")]
)
def test_sizes_are_docker_s_and_kubernetes(text, amount):
    assert vm.amount("--memory", text) == amount


@pytest.mark.parametrize("text", ["", "0m", "12", "1.5g", "-1m", "1t"])
def test_a_size_that_is_none_names_its_option(text):
    with pytest.raises(vm.VMError, match="--memory"):
        vm.amount("--memory", text)


def test_ports():
    assert vm.port("30080:80") == {"port": 80, "nodePort": 30080, "protocol": "TCP"}
    assert vm.port("53/udp") == {"port": 53, "nodePort": 0, "protocol": "UDP"}
    with pytest.raises(vm.VMError, match="port-forward pod/NAME 8080:80"):
        vm.port("8080:80")
    with pytest.raises(vm.VMError, match="expected"):
        vm.port("80:http")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("/srv:/data:ro", {"hostPath": {"path": "/srv"}, "mountPath": "/data", "readOnly": True}),
        ("/srv:/data", {"hostPath": {"path": "/srv"}, "mountPath": "/data", "readOnly": False}),
        ("claim:disk:/d", {"persistentVolumeClaim": {"claimName": "disk"}, "mountPath": "/d", "readOnly": False}),
        ("tmp:/scratch", {"emptyDir": {}, "mountPath": "/scratch"}),
        ("configmap:app:/etc/app", {"configMap": {"name": "app"}, "mountPath": "/etc/app", "readOnly": True}),
        ("secret:key:/k", {"secret": {"secretName": "key"}, "mountPath": "/k", "readOnly": True}),
        ("claim:disk:/d:ro", {"persistentVolumeClaim": {"claimName": "disk"}, "mountPath": "/d", "readOnly": True}),
    ],
)  # fmt: skip
def test_volumes(text, source):
    assert vm.volume(3, text) == {"name": "v3", **source}


@pytest.mark.parametrize("text", ["", "data", "tmp:relative", "secret:/k", "/a:b:ro", "/a:/b:rw"])
def test_a_volume_that_is_none(text):
    with pytest.raises(vm.VMError, match="expected"):
        vm.volume(0, text)


@pytest.mark.parametrize(
    ("image", "stem"),
    [("registry.example:5000/a/Web_App:1", "web-app-"), ("123", "vm-123-"), ("x@sha256:00", "x-")],
)
def test_invented_names_are_names(image, stem):
    name = vm.invent(image)
    assert name.startswith(stem) and len(name) == len(stem) + 4


def test_a_machine_of_all_options():
    made = vm.machine(
        "app:1",
        **{
            **PLAIN, "name": "a", "memory": "1g", "size": "2g", "arguments": ["x"], "environment": ["A=b=c"],
            "publish": ["80"], "volumes": ["tmp:/t"], "keys": ["ssh-ed25519 A"], "terminal": True, "interactive": True,
        },
    )  # fmt: skip
    assert made["spec"] == {
        "image": "app:1", "cpus": 1, "memory": "1Gi", "size": "2Gi", "args": ["x"], "restartPolicy": "Always",
        "stdin": True, "tty": True, "env": [{"name": "A", "value": "b=c"}],
        "ports": [{"port": 80, "nodePort": 0, "protocol": "TCP"}], "ssh": {"authorizedKeys": ["ssh-ed25519 A"]},
        "volumes": [{"name": "v0", "mountPath": "/t", "emptyDir": {}}],
    }  # fmt: skip
