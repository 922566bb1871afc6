"""The official Python client, unmodified: typed API, watch, dynamic client, exec over WebSocket, leader election's lease."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from box import BOX
from cluster import Cluster, wait_for
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.stream import stream
from space import Space


@pytest.fixture(scope="module")
def inside(cluster: Cluster) -> Callable[[Callable[[], Any]], Any]:
    return cluster.inside


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[client.ApiClient]:
    made = config.new_client_from_config(str(cluster.data / "kubeconfig.yaml"))
    yield made
    made.close()


Inside = Callable[[Callable[[], Any]], Any]


def deployment(name: str, replicas: int) -> client.V1Deployment:
    labels = {"app": name}
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name=name),
        spec=client.V1DeploymentSpec(
            replicas=replicas,
            selector=client.V1LabelSelector(match_labels=labels),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels=labels),
                spec=client.V1PodSpec(
                    runtime_class_name="wasm",
                    termination_grace_period_seconds=0,
                    containers=[client.V1Container(name="box", image="box:wasm", args=["sleep"])],
                ),
            ),
        ),
    )


def test_core_objects(api: client.ApiClient, space: Space, inside: Inside) -> None:
    def work() -> None:
        core = client.CoreV1Api(api)
        assert client.VersionApi(api).get_code().minor == "36"
        assert [node.metadata.name for node in core.list_node().items] == ["boat"]
        made = core.create_namespaced_config_map(
            space.name,
            client.V1ConfigMap(metadata=client.V1ObjectMeta(name="typed"), data={"a": "b"}),
        )
        made.data["c"] = "d"
        changed = core.replace_namespaced_config_map("typed", space.name, made)
        assert changed.data == {"a": "b", "c": "d"}
        patched = core.patch_namespaced_config_map("typed", space.name, {"data": {"a": None}})
        assert patched.data == {"c": "d"}
        made.data["c"] = "stale"
        with pytest.raises(client.ApiException) as caught:
            core.replace_namespaced_config_map("typed", space.name, made)
        assert caught.value.status == 409
        secret = core.create_namespaced_secret(
            space.name,
            client.V1Secret(metadata=client.V1ObjectMeta(name="typed"), string_data={"a": "b"}),
        )
        assert base64.b64decode(secret.data["a"]) == b"b"
        page = core.list_namespaced_config_map(space.name, limit=1)
        assert page.metadata._continue and page.metadata.remaining_item_count >= 1
        core.delete_namespaced_config_map("typed", space.name)
        with pytest.raises(client.ApiException) as caught:
            core.read_namespaced_config_map("typed", space.name)
        assert caught.value.status == 404
        review = client.AuthorizationV1Api(api).create_self_subject_access_review(
            client.V1SelfSubjectAccessReview(
                spec=client.V1SelfSubjectAccessReviewSpec(
                    resource_attributes=client.V1ResourceAttributes(verb="get", resource="pods")
                )
            )
        )
        assert review.status.allowed

    inside(work)


def test_a_deployment_watched_scaled_and_deleted(
    api: client.ApiClient, space: Space, inside: Inside
) -> None:
    def work() -> None:
        apps = client.AppsV1Api(api)
        apps.create_namespaced_deployment(space.name, deployment("typed", 2))
        ready = watch.Watch()
        for event in ready.stream(
            apps.list_namespaced_deployment,
            space.name,
            field_selector="metadata.name=typed",
            timeout_seconds=30,
        ):
            if event["object"].status.ready_replicas == 2:
                ready.stop()
        assert event["object"].status.ready_replicas == 2
        scale = apps.read_namespaced_deployment_scale("typed", space.name)
        scale.spec.replicas = 1
        apps.replace_namespaced_deployment_scale("typed", space.name, scale)
        core = client.CoreV1Api(api)
        wait_for(
            lambda: (
                len(core.list_namespaced_pod(space.name, label_selector="app=typed").items) == 1
            ),
            what="one pod",
        )
        apps.delete_namespaced_deployment("typed", space.name, propagation_policy="Foreground")
        wait_for(
            lambda: not core.list_namespaced_pod(space.name, label_selector="app=typed").items,
            what="no pods",
        )

    inside(work)


def test_a_watch_resumes_where_it_was(api: client.ApiClient, space: Space, inside: Inside) -> None:
    def work() -> None:
        core = client.CoreV1Api(api)
        begin = core.list_namespaced_config_map(space.name).metadata.resource_version
        for number in range(5):
            core.create_namespaced_config_map(
                space.name, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"seen-{number}"))
            )
        seen: list[str] = []
        for _ in range(2):
            watching = watch.Watch()
            watching.resource_version = begin
            for event in watching.stream(
                core.list_namespaced_config_map,
                space.name,
                resource_version=begin,
                timeout_seconds=20,
            ):
                seen.append(event["object"].metadata.name)
                begin = event["object"].metadata.resource_version
                if len(seen) in (2, 5):
                    watching.stop()
        assert seen == [f"seen-{number}" for number in range(5)]

    inside(work)


@pytest.mark.parametrize("tty", [False, True])
def test_exec_over_web_socket(
    api: client.ApiClient, space: Space, kind: str, inside: Inside, tty: bool
) -> None:
    name = f"exec-{kind}-{str(tty).lower()}"
    space.start(kind, name, "sleep")
    space.ready(f"pod/{name}")

    def work() -> None:
        # A client of its own: `stream` replaces the client's way of sending while it runs.
        core = client.CoreV1Api(client.ApiClient(api.configuration))
        assert (
            stream(
                core.connect_get_namespaced_pod_exec, name, space.name,
                command=[BOX[kind], "echo", "hello"], stdin=False, stdout=True, stderr=True, tty=False,
            )
            == "hello\n"
        )  # fmt: skip
        session = stream(
            core.connect_get_namespaced_pod_exec, name, space.name,
            command=[BOX[kind], "upper"], stdin=True, stdout=True, stderr=True, tty=tty, _preload_content=False,
        )  # fmt: skip
        session.write_stdin("ahoy\n")
        shown = ""
        deadline = time.monotonic() + 20
        while "AHOY" not in shown and time.monotonic() < deadline and session.is_open():
            session.update(timeout=1)
            shown += session.read_stdout(timeout=1) if session.peek_stdout() else ""
            if not tty and not shown:
                session.write_stdin("x" * 4096 + "\n")  # a pipe's reader buffers
        assert "AHOY" in shown
        session.close()
        ended = stream(
            core.connect_get_namespaced_pod_exec, name, space.name,
            command=[BOX[kind], "exit", "5"], stdin=False, stdout=True, stderr=True, tty=False, _preload_content=False,
        )  # fmt: skip
        ended.run_forever(timeout=20)
        assert ended.returncode == 5

    inside(work)


def test_logs(api: client.ApiClient, space: Space, inside: Inside) -> None:
    space.start("wasm", "logged", "lines", "3")
    space.ready("pod/logged")
    space.says("logged", "line 3")

    def work() -> None:
        core = client.CoreV1Api(api)
        assert core.read_namespaced_pod_log("logged", space.name) == "line 1\nline 2\nline 3\n"
        lines = watch.Watch().stream(
            core.read_namespaced_pod_log, "logged", space.name, tail_lines=2
        )
        assert [next(lines), next(lines)] == ["line 2", "line 3"]

    inside(work)


def test_the_dynamic_client_on_built_in_kinds(
    api: client.ApiClient, space: Space, inside: Inside
) -> None:
    def work() -> None:
        anything = dynamic.DynamicClient(api)
        deployments = anything.resources.get(api_version="apps/v1", kind="Deployment")
        made = deployments.create(
            api.sanitize_for_serialization(deployment("dynamic", 0))
            | {"apiVersion": "apps/v1", "kind": "Deployment"},
            namespace=space.name,
        )
        assert made.spec.replicas == 0
        patched = deployments.patch(
            {"metadata": {"name": "dynamic", "labels": {"a": "b"}}}, namespace=space.name,
            content_type="application/merge-patch+json",
        )  # fmt: skip
        assert patched.metadata.labels.a == "b"
        names = [
            item.metadata.name
            for item in deployments.get(namespace=space.name, label_selector="a=b").items
        ]
        assert names == ["dynamic"]
        leases = anything.resources.get(api_version="coordination.k8s.io/v1", kind="Lease")
        assert "boat" in [
            item.metadata.name for item in leases.get(namespace="kube-node-lease").items
        ]
        deployments.delete(name="dynamic", namespace=space.name)
        with pytest.raises(dynamic.exceptions.NotFoundError):
            anything.resources.get(api_version="apps/v1", kind="Deployment").get(
                name="dynamic", namespace=space.name
            )

    inside(work)


def test_create_from_a_manifest(api: client.ApiClient, space: Space, inside: Inside) -> None:
    manifest = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "from-dict"}, "spec": {"ports": [{"port": 80}]},
    }  # fmt: skip
    inside(lambda: utils.create_from_dict(api, manifest, namespace=space.name))
    assert space.get("service", "from-dict")["spec"]["clusterIP"].startswith("10.43.")


def test_without_a_certificate_nobody_comes_in(api: client.ApiClient, inside: Inside) -> None:
    stranger = client.Configuration()
    stranger.host, stranger.ssl_ca_cert = api.configuration.host, api.configuration.ssl_ca_cert
    stranger.retries = urllib3.Retry(0)

    def work() -> None:
        with pytest.raises(client.ApiException) as caught:
            client.CoreV1Api(client.ApiClient(stranger)).list_namespaced_secret("default")
        assert caught.value.status in (401, 403)

    inside(work)
