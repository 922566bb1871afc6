"""Reading /metrics as a scraper does."""

from __future__ import annotations

from apiserver_harness import Harness
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse


async def scrape(
    api: Harness, accept: str = "", path: str = "/metrics"
) -> tuple[dict[str, Metric], str]:
    response = await api.send("GET", path, accept=accept)
    text = (await response.read()).decode()
    kind = response.headers["Content-Type"]
    reader = parse_openmetrics if "openmetrics" in kind else parse
    return {family.name: family for family in reader(text)}, kind


def value(family: Metric, name: str = "", /, **labels: str) -> float:
    found = [
        sample.value
        for sample in family.samples
        if sample.name == (name or family.name) and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (family.name, labels, found)
    return float(found[0])
