"""What is asked of a node, a pod or a service for log, exec, attach, port-forward and proxy: pure decisions."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.apiserver import backends, proxylinks
from sampan.client.transport import Request
from sampan.kube.errors import ApiError


def pod(*containers: str, init: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    spec = {
        "containers": [{"name": name, "image": "x"} for name in containers],
        "initContainers": [{"name": name, "image": "x"} for name in init],
    }
    return {"metadata": {"name": "web", "namespace": "a"}, "spec": spec | more}


@pytest.mark.parametrize(
    ("given", "wanted", "outcome"),
    [
        (pod("one"), "", "one"),
        (pod("one", "two"), "two", "two"),
        (pod("one", init=("i",)), "i", "i"),
        (
            pod("one", "two"),
            "",
            "a container name must be specified for pod web, choose one of: [one two]",
        ),
        (
            pod("one", "two", init=("i",)),
            "",
            "a container name must be specified for pod web, choose one of: [one two] "
            "or one of the init containers: [i]",
        ),
        (pod("one"), "two", "container two is not valid for pod web"),
    ],
)
def test_container(given: dict[str, Any], wanted: str, outcome: str) -> None:
    try:
        assert backends.container_of(given, wanted) == outcome
    except ApiError as error:
        assert (error.code, error.message) == (400, outcome)


@pytest.mark.parametrize(
    ("query", "outcome"),
    [
        ([], ""),
        (
            [("follow", "true"), ("previous", "false"), ("tailLines", "5"), ("timestamps", "1")],
            "follow=true&timestamps=true&tailLines=5",
        ),
        ([("sinceTime", "2026-01-01T00:00:00Z")], "sinceTime=2026-01-01T00%3A00%3A00Z"),
        ([("tailLines", "-1")], 422),
        ([("limitBytes", "0")], 422),
        ([("tailLines", "x")], 400),
        ([("sinceTime", "yesterday")], 400),
        ([("sinceTime", "2026-01-01T00:00:00Z"), ("sinceSeconds", "5")], 422),
    ],
)
def test_log_options(query: list[tuple[str, str]], outcome: str | int) -> None:
    try:
        path, found = backends.log_path(pod("one"), Request("GET", "/", query))
    except ApiError as error:
        assert error.code == outcome
    else:
        assert path == "/containerLogs/a/web/one"
        assert found == outcome


def test_stream_paths() -> None:
    query = [
        ("stdin", "true"),
        ("stdout", "true"),
        ("tty", "true"),
        ("command", "sh"),
        ("command", "-c x"),
    ]
    found = backends.stream_path("exec", pod("one"), Request("GET", "/", query))
    assert found == ("/exec/a/web/one", "input=1&output=1&tty=1&command=sh&command=-c+x")
    ports = Request("GET", "/", [("ports", "80,81"), ("ports", "82")])
    assert backends.stream_path("portforward", pod("one"), ports) == (
        "/portForward/a/web",
        "port=80&port=81&port=82",
    )
    for bad in ([("command", "sh")], [("stdout", "true")]):
        with pytest.raises(ApiError) as caught:
            backends.stream_path("exec", pod("one"), Request("GET", "/", bad))
        assert caught.value.code == 400


def test_service_targets() -> None:
    service = {
        "metadata": {"name": "web"},
        "spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 90}]},
    }
    pieces = [
        {
            "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": False}},
            ],
        }
    ]

    def targets(port: str, given: list[dict[str, Any]] = pieces) -> list[str]:
        found = backends.service_targets(service, given, "", port, "/x", "")
        return [target.url for target in found]

    assert targets("http") == ["http://10.0.0.1:8080/x"]
    assert targets("90") == ["http://10.0.0.1:9090/x"]
    for port, given in (("http", []), ("nothing", pieces)):
        with pytest.raises(ApiError) as caught:
            targets(port, given)
        assert caught.value.code == 503


PREFIX = "/api/v1/namespaces/default/pods/one/proxy"


@pytest.mark.parametrize(
    ("link", "outcome"),
    [
        ("/rewriteme", f"{PREFIX}/rewriteme"),
        ("/a/?q=1#x", f"{PREFIX}/a/?q=1#x"),
        ("http://10.0.0.1:80/a", f"{PREFIX}/a"),
        (f"{PREFIX}/a", f"{PREFIX}/a"),
        ("a/b", "a/b"),
        ("https://elsewhere.example/a", "https://elsewhere.example/a"),
        ("mailto:a@b", "mailto:a@b"),
        ("http://[/a", "http://[/a"),
    ],
)
def test_links_of_what_is_proxied(link: str, outcome: str) -> None:
    assert proxylinks.moved(link, PREFIX, "10.0.0.1:80") == outcome
