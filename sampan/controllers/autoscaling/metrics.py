"""What the three metrics APIs say: of containers (metrics.k8s.io), of objects (custom), of the world (external).

All are served by others, or by the API server's own add-on; what is not there is a NoMetric in the words that `kubectl describe hpa`
shows. Values are thousandths.
https://github.com/kubernetes/metrics
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from sampan.client.client import Client
from sampan.controllers.autoscaling.replicas import NoMetric, Sample
from sampan.controllers.discovery import discover
from sampan.kube import selectors
from sampan.kube.errors import ApiError
from sampan.kube.objects import parse_time
from sampan.kube.quantity import parse
from sampan.kube.types import split_api_version

Object = dict[str, Any]
RESOURCE, CUSTOM, EXTERNAL = "metrics.k8s.io", "custom.metrics.k8s.io", "external.metrics.k8s.io"
NAMES = {RESOURCE: "resource", CUSTOM: "custom", EXTERNAL: "external"}
WINDOW = 60.0  # seconds, where a metric does not tell its own


class Metrics:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def resource(
        self, namespace: str, resource: str, selector: str, container: str = ""
    ) -> dict[str, Sample]:
        """Of each pod, or of the one container in it. Pods that lack it are left out."""
        path = f"/apis/{RESOURCE}/v1beta1/namespaces/{namespace}/pods"
        listed = await self._read(RESOURCE, path, {"labelSelector": selector})
        found: dict[str, Sample] = {}
        for item in listed:
            chosen = [
                each
                for each in item.get("containers") or ()
                if not container or each["name"] == container
            ]
            name = item["metadata"]["name"]
            if container and not chosen:
                text = f"container {container} not present in metrics for pod {namespace}/{name}"
                raise NoMetric(text)
            used = [(each.get("usage") or {}).get(resource) for each in chosen]
            if None not in used:
                value = sum(parse(each).milli() for each in used if each is not None)
                found[name] = _sample(item, value, _seconds(item.get("window")))
        if not found:
            raise NoMetric(f"no metrics returned from {NAMES[RESOURCE]} metrics API")
        return found

    async def of_pods(self, namespace: str, metric: Object, selector: str) -> dict[str, Sample]:
        """A custom metric of each pod."""
        path = f"{await self._custom()}/namespaces/{namespace}/pods/*/{quote(metric['name'])}"
        query = {"labelSelector": selector, "metricLabelSelector": _text(metric)}
        listed = await self._read(CUSTOM, path, query)
        return {
            item["describedObject"]["name"]: _sample(
                item, parse(item["value"]).milli(), item.get("windowSeconds") or WINDOW
            )
            for item in listed
        }

    async def of_object(self, namespace: str, metric: Object, described: Object) -> int:
        """A custom metric of one object."""
        kind, name = described["kind"], quote(described["name"])
        base, metric_name = await self._custom(), quote(metric["name"])
        if kind == "Namespace" and not split_api_version(described.get("apiVersion", ""))[0]:
            path = f"{base}/namespaces/{name}/metrics/{metric_name}"
        else:
            resource = await self._resource_name(described)
            path = f"{base}/namespaces/{namespace}/{resource}/{name}/{metric_name}"
        listed = await self._read(CUSTOM, path, {"metricLabelSelector": _text(metric)})
        return parse(listed[0]["value"]).milli()

    async def external(self, namespace: str, metric: Object) -> int:
        """The sum of all series that match."""
        path = f"/apis/{EXTERNAL}/v1beta1/namespaces/{namespace}/{quote(metric['name'])}"
        listed = await self._read(EXTERNAL, path, {"labelSelector": _text(metric)})
        return sum(parse(item["value"]).milli() for item in listed)

    async def _custom(self) -> str:
        """The API's path, in the version that it prefers."""
        missing = f"no {NAMES[CUSTOM]} metrics API ({CUSTOM}) registered"
        try:
            group = (await self.client.raw("GET", f"/apis/{CUSTOM}")).json()
        except ApiError as error:
            text = missing if error.code == 404 else error.message
            raise NoMetric(
                f"unable to fetch metrics from {NAMES[CUSTOM]} metrics API: {text}"
            ) from None
        return f"/apis/{group['preferredVersion']['groupVersion']}"

    async def _resource_name(self, described: Object) -> str:
        """`services`, `ingresses.networking.k8s.io`."""
        group, _ = split_api_version(described.get("apiVersion", ""))
        for each in await discover(self.client):
            if (each.gvr.group, each.kind) == (group, described["kind"]):
                return f"{each.gvr.resource}.{group}" if group else each.gvr.resource
        raise NoMetric(f"unable to map kind {described['kind']!r} of {group!r} to a resource")

    async def _read(self, api: str, path: str, query: dict[str, str]) -> list[Object]:
        try:
            wanted = {name: text for name, text in query.items() if text}
            answer = (await self.client.raw("GET", path, query=wanted)).json()
        except ApiError as error:
            raise NoMetric(
                f"unable to fetch metrics from {NAMES[api]} metrics API: {error.message}"
            ) from None
        items: list[Object] = answer.get("items") or []
        if not items:
            raise NoMetric(f"no metrics returned from {NAMES[api]} metrics API")
        return items


def _text(metric: Object) -> str:
    selector = metric.get("selector")
    return str(selectors.from_object(selector)) if selector else ""


def _sample(item: Object, value: int, window: float) -> Sample:
    return Sample(value, parse_time(item["timestamp"]).timestamp(), window)


def _seconds(text: str | None) -> float:
    """Of a Go duration: `1m0.5s`."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}
    parts = re.findall(r"([\d.]+)(h|ms|m|s|µs|us|ns)", text or "")
    return sum(float(number) * units[unit] for number, unit in parts) if parts else WINDOW
