"""Environment, arguments, and the CRI configurations made of a pod."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from node_pods import container, make_pod

from sampan.network.resolv import ResolvConf
from sampan.node import containerconfig, environment, resources, sandboxconfig
from sampan.node.config import NodeConfig
from sampan.node.containerconfig import IMAGE_VOLUMES, ImageFacts, MountPoint
from sampan.node.environment import NodeFacts, expand
from sampan.node.errors import ContainerError, SandboxError
from sampan.node.podspec import MAIN, Named

FACTS = NodeFacts(("192.0.2.1",), {"cpu": "2", "memory": "1Gi"})


class Objects:
    def configmap(self, name: str) -> dict[str, Any] | None:
        return {"data": {"wind": "west", "bad=name": "x"}} if name == "weather" else None

    def secret(self, name: str) -> dict[str, Any] | None:
        data = {"key": base64.b64encode(b"gold").decode()}
        return {"data": data} if name == "chest" else None


def env_of(
    *items: dict[str, Any], pod: dict[str, Any] | None = None, **fields: Any
) -> dict[str, str]:
    held = container(env=list(items), **fields)
    return environment.make(
        pod or make_pod(held), held, Objects(), {"S": "svc"}, FACTS, ("10.0.0.7",)
    )


def value_from(kind: str, **ref: Any) -> dict[str, Any]:
    return {"name": "X", "valueFrom": {kind: ref}}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$(A)", "1"),
        ("$(A)$(B)x", "12x"),
        ("$$(A)", "$(A)"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$", "$"),
        ("$$$(A)", "$1"),
        ("no", "no"),
    ],
)
def test_expansion(text: str, wanted: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == wanted


def test_order_expansion_and_services() -> None:
    env = env_of({"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(S)-$(LATER)"})
    assert env == {"A": "1", "B": "1-svc-$(LATER)", "S": "svc"}
    assert env_of({"name": "S", "value": "mine"}) == {"S": "mine"}


@pytest.mark.parametrize(
    ("item", "value"),
    [
        (value_from("configMapKeyRef", name="weather", key="wind"), "west"),
        (value_from("secretKeyRef", name="chest", key="key"), "gold"),
        (value_from("fieldRef", fieldPath="metadata.name"), "boat"),
        (value_from("fieldRef", fieldPath="status.podIP"), "10.0.0.7"),
        (value_from("fieldRef", fieldPath="status.hostIP"), "192.0.2.1"),
        (value_from("fieldRef", fieldPath="metadata.labels['a/b']"), ""),
        (value_from("resourceFieldRef", resource="limits.cpu"), "2"),
        (value_from("resourceFieldRef", resource="limits.memory", divisor="1Mi"), "1024"),
        (value_from("resourceFieldRef", resource="requests.cpu"), "0"),
    ],
)
def test_references(item: dict[str, Any], value: str) -> None:
    assert env_of(item)["X"] == value


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (value_from("configMapKeyRef", name="none", key="k"), 'configmap "none" not found'),
        (
            value_from("configMapKeyRef", name="weather", key="k"),
            "couldn't find key k in ConfigMap harbour/weather",
        ),
        (value_from("secretKeyRef", name="none", key="k"), 'secret "none" not found'),
    ],
)
def test_what_is_missing_is_a_config_error(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ContainerError) as caught:
        env_of(item)
    assert str(caught.value) == message and caught.value.reason == "CreateContainerConfigError"
    item["valueFrom"][next(iter(item["valueFrom"]))]["optional"] = True
    assert "X" not in env_of(item)


def test_env_from_with_prefix_skips_impossible_names() -> None:
    env = env_of(envFrom=[{"prefix": "W_", "configMapRef": {"name": "weather"}}])
    assert env == {"W_wind": "west", "S": "svc"}


def test_service_variables_are_docker_links() -> None:
    service = {
        "metadata": {"name": "my-db", "namespace": "harbour"},
        "spec": {
            "clusterIP": "10.43.0.9",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        },
    }
    other = {**service, "metadata": {"name": "far", "namespace": "sea"}}
    env = environment.service_variables(make_pod(), [service, other])
    assert env["MY_DB_SERVICE_HOST"] == "10.43.0.9" and env["MY_DB_SERVICE_PORT_SQL"] == "5432"
    assert env["MY_DB_PORT_5432_TCP"] == "tcp://10.43.0.9:5432"
    assert not any(name.startswith("FAR") for name in env)
    assert environment.service_variables(make_pod(enableServiceLinks=False), [service]) == {}


def test_a_host_name_that_overrides_all_others(tmp_path: Path) -> None:
    """KEP-4762: it is the only name that the pod has for itself."""
    config = NodeConfig("n1", tmp_path, tmp_path, tmp_path / "s")
    pod = make_pod(hostname="hull", subdomain="fleet", hostnameOverride="a.b")
    assert sandboxconfig.kernel_hostname(pod, config) == "a.b"
    assert sandboxconfig.hosts_file(pod, config, ("10.0.0.7",)).endswith("\n10.0.0.7\ta.b\n")


def test_aliases_follow_the_nodes_own_hosts() -> None:
    pod = make_pod(hostNetwork=True, hostAliases=[{"ip": "10.1.1.1", "hostnames": ["a", "b"]}])
    text = sandboxconfig.host_hosts_file(pod, "127.0.0.1 localhost\n\n")
    assert text.splitlines()[1:] == [
        "127.0.0.1 localhost",
        "",
        "# Entries added by HostAliases.",
        "10.1.1.1\ta\tb",
    ]


def test_a_host_name_that_is_the_dns_name(tmp_path: Path) -> None:
    config = NodeConfig("n1", tmp_path, tmp_path, tmp_path / "s")
    named = {"hostname": "hull", "subdomain": "fleet"}
    assert sandboxconfig.kernel_hostname(make_pod(**named), config) == "hull"
    named["setHostnameAsFQDN"] = True
    full = "hull.fleet.harbour.svc.cluster.local"
    assert sandboxconfig.kernel_hostname(make_pod(**named), config) == full
    named["subdomain"] = "f" * 40
    with pytest.raises(SandboxError, match="64 characters is the max"):
        sandboxconfig.kernel_hostname(make_pod(**named), config)


def test_sandbox_config(tmp_path: Path) -> None:
    config = NodeConfig("n1", tmp_path, tmp_path, tmp_path / "s", cgroup_root="sampan")
    pod = make_pod(container(ports=[{"containerPort": 80, "hostPort": 8080}]))
    made = sandboxconfig.make(pod, 2, config, ResolvConf())
    assert made.metadata.attempt == 2 and made.hostname == "boat"
    assert made.labels["io.kubernetes.pod.uid"] == pod["metadata"]["uid"]
    assert made.port_mappings[0].host_port == 8080
    assert made.linux.cgroup_parent == f"/sampan/kubepods/besteffort/pod{pod['metadata']['uid']}"


def container_config(pod: dict[str, Any], image: ImageFacts = ImageFacts("sha256:1")) -> Any:
    held = pod["spec"]["containers"][0]
    mounts = [
        MountPoint("/host", "/in", True),
        MountPoint("sha256:2", "/data", True, is_image=True, sub_path="a"),
    ]
    return containerconfig.make(pod, Named(MAIN, held), 3, image, {"A": "1"}, mounts, 2**30)


def test_container_config() -> None:
    held = container(
        command=["run", "$(A)"],
        args=["$(B)"],
        resources={"requests": {"cpu": "250m"}, "limits": {"cpu": "1", "memory": "64Mi"}},
        securityContext={"runAsUser": 7, "capabilities": {"drop": ["ALL"]}},
    )
    made = container_config(make_pod(held))
    assert list(made.command) == ["run", "1"] and list(made.args) == ["$(B)"]
    assert made.log_path == "web/3.log" and made.image.image == "sha256:1"
    assert made.annotations["io.kubernetes.container.restartCount"] == "3"
    limits = made.linux.resources
    assert (limits.cpu_shares, limits.cpu_quota, limits.memory_limit_in_bytes) == (
        256,
        100000,
        64 * 2**20,
    )
    assert made.linux.security_context.run_as_user.value == 7
    assert list(made.linux.security_context.capabilities.drop_capabilities) == ["ALL"]
    assert (made.mounts[0].host_path, made.mounts[0].readonly) == ("/host", True)
    image = made.mounts[1]
    assert (image.image.image, image.image_sub_path, image.host_path) == ("sha256:2", "a", "")
    assert made.annotations[IMAGE_VOLUMES] == "sha256:2"  # so that it is not deleted as unused


@pytest.mark.parametrize(
    ("security", "image", "words"),
    [
        ({"runAsNonRoot": True}, ImageFacts("i", uid=0), "image will run as root"),
        ({"runAsNonRoot": True}, ImageFacts("i", username="app"), "non-numeric user (app)"),
        ({"runAsNonRoot": True, "runAsUser": 0}, ImageFacts("i"), "breaks non-root policy"),
    ],
)
def test_run_as_non_root(security: dict[str, Any], image: ImageFacts, words: str) -> None:
    with pytest.raises(ContainerError, match=words.replace("(", r"\(").replace(")", r"\)")):
        container_config(make_pod(container(securityContext=security)), image)
    fine = make_pod(container(securityContext={"runAsNonRoot": True}))
    assert container_config(fine, ImageFacts("i", uid=1000))


@pytest.mark.parametrize(
    ("given", "qos"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service(given: dict[str, Any], qos: str) -> None:
    assert resources.qos_class(make_pod(container(resources=given))) == qos
