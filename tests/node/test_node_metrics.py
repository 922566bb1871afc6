"""/metrics and /metrics/resource of the node, read by Prometheus' own parser."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from sampan.cri import api_pb2 as pb
from sampan.node.exposition import own_metrics, resource_metrics

MOMENT = 1_800_000_000_500_000_000  # nanoseconds


def stats() -> pb.PodSandboxStats:
    cpu = pb.CpuUsage(timestamp=MOMENT, usage_core_nano_seconds=pb.UInt64Value(value=1_500_000_000))
    memory = pb.MemoryUsage(timestamp=MOMENT, working_set_bytes=pb.UInt64Value(value=4096))
    container = pb.ContainerStats(
        attributes=pb.ContainerAttributes(metadata=pb.ContainerMetadata(name="c")),
        cpu=cpu,
        memory=memory,
    )
    return pb.PodSandboxStats(
        attributes=pb.PodSandboxAttributes(
            metadata=pb.PodSandboxMetadata(name="p", namespace="n", uid="u")
        ),
        linux=pb.LinuxPodSandboxStats(cpu=cpu, memory=memory, containers=[container]),
    )


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_resource_metrics(accept: str) -> None:
    text, kind = resource_metrics([stats()], accept)
    reader = parse_openmetrics if "openmetrics" in kind else parse
    assert kind.startswith(accept.partition(";")[0] or "text/plain")
    samples = {each.name: each for family in reader(text.decode()) for each in family.samples}
    pod = {"namespace": "n", "pod": "p"}
    for name, value, labels in (
        ("container_cpu_usage_seconds_total", 1.5, {"container": "c", **pod}),
        ("container_memory_working_set_bytes", 4096, {"container": "c", **pod}),
        ("pod_cpu_usage_seconds_total", 1.5, pod),
        ("pod_memory_working_set_bytes", 4096, pod),
    ):
        assert (samples[name].value, samples[name].labels) == (value, labels)
        assert float(samples[name].timestamp) == pytest.approx(MOMENT / 1e9)
    assert samples["scrape_error"].value == 0


def test_what_was_never_measured_has_no_time() -> None:
    text, _ = resource_metrics([pb.PodSandboxStats()])
    assert b'pod_memory_working_set_bytes{namespace="",pod=""} 0.0\n' in text


def test_own_metrics() -> None:
    text, _ = own_metrics(3, 5)
    samples = {each.name: each for family in parse(text.decode()) for each in family.samples}
    assert samples["kubelet_running_pods"].value == 3
    assert samples["kubelet_running_containers"].labels == {"container_state": "running"}
    assert samples["kubelet_running_containers"].value == 5
    assert samples["process_resident_memory_bytes"].value > 10_000_000
