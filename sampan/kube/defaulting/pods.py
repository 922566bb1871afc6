"""Defaults of pods and of the pod templates inside workloads.

A Pod gets more than a template: requests from limits, `enableServiceLinks` and host ports are settled only when the pod
itself is made, so that a template shows what its author wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from sampan.kube import podresources
from sampan.kube.crowds import Crowd
from sampan.kube.defaulting.fill import Object, each, empty, sub, unset

FILE_MODE: Final = 420  # 0644
TOKEN_SECONDS: Final = 3600

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HOOKS = ("postStart", "preStop")


def pull_policy(image: str) -> str:
    """Always for `latest`, said or implied; a digest or any other tag never changes, so IfNotPresent."""
    name, at, _ = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "Always" if (tag == "latest" or (not tag and not at)) else "IfNotPresent"


def default_pod(pod: Object) -> None:
    """Pods of one template get the same defaults: copying the answer costs less than finding it again."""
    pod["spec"] = orjson.loads(_of_crowd(sub(pod, "spec")))
    sub(pod, "status")


def _of_pod(spec: Object) -> bytes:
    default_spec(spec)
    unset(spec, enableServiceLinks=True)
    host = spec.get("hostNetwork")
    for field in ("containers", "initContainers"):
        for container in each(spec, field):
            resources = container.get("resources")
            if resources:
                _requests_from_limits(resources)
            if host:
                for port in each(container, "ports"):
                    if not port.get("hostPort"):
                        port["hostPort"] = port.get("containerPort", 0)
    if pod_resources := spec.get("resources"):
        _pod_resources(spec, pod_resources)
    return orjson.dumps(spec)


_of_crowd: Final = Crowd(_of_pod)


def default_template(holder: Object) -> None:
    """The `template` of a workload's spec; one that is missing is defaulted too, then found to have no containers."""
    template = sub(holder, "template")
    sub(template, "metadata")
    default_spec(sub(template, "spec"))


def default_spec(spec: Object) -> None:
    """What a Pod and a template have in common."""
    for field in ("containers", "initContainers"):
        for container in each(spec, field):
            _container(container)
    for container in each(spec, "ephemeralContainers"):
        _container(container)
    for volume in each(spec, "volumes"):
        _volume(volume)
    if not spec.get("restartPolicy"):
        spec["restartPolicy"] = "Always"
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = 30
    if not spec.get("dnsPolicy"):
        spec["dnsPolicy"] = "ClusterFirst"
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        # The old name of the field is kept equal to the new one, for clients that still read it.
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    if spec.get("securityContext") is None:
        spec["securityContext"] = {}
    spec.pop("schedulingGroup", None)  # KEP-4671, off as well
    if not spec.get("schedulerName"):
        spec["schedulerName"] = "default-scheduler"


def _container(container: Object) -> None:
    for port in each(container, "ports"):
        if not port.get("protocol"):
            port["protocol"] = "TCP"
    for variable in each(container, "env"):
        if (source := variable.get("valueFrom")) is not None:
            _field_ref(source)
            if (file := source.get("fileKeyRef")) is not None:
                unset(file, optional=False)
    if container.get("resources") is None:
        container["resources"] = {}
    for field in _PROBES:
        if (probe := container.get(field)) is not None:
            _probe(probe)
    if lifecycle := container.get("lifecycle"):
        for hook in _HOOKS:
            _http_get(lifecycle.get(hook))
    if not container.get("terminationMessagePath"):
        container["terminationMessagePath"] = "/dev/termination-log"
    if not container.get("terminationMessagePolicy"):
        container["terminationMessagePolicy"] = "File"
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy(container.get("image") or "")


def _probe(probe: Object) -> None:
    _http_get(probe)
    if (grpc := probe.get("grpc")) is not None:
        unset(grpc, service="")
    empty(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)


def _http_get(handler: Object | None) -> None:
    if handler and (get := handler.get("httpGet")) is not None:
        empty(get, path="/", scheme="HTTP")


def _field_ref(holder: Object) -> None:
    if (ref := holder.get("fieldRef")) is not None:
        empty(ref, apiVersion="v1")


def _requests_from_limits(resources: Object) -> None:
    if limits := resources.get("limits"):
        requests = sub(resources, "requests")
        for name, amount in limits.items():
            requests.setdefault(name, amount)


def _pod_resources(spec: Object, resources: Object) -> None:
    """Of the whole pod (KEP-2837): what it does not say follows from its containers, then from its limits."""
    requests, limits = dict(resources.get("requests") or {}), dict(resources.get("limits") or {})
    if not requests and not limits:
        return
    for name, amount in podresources.of_containers(spec, "limits").items():
        if name.startswith(podresources.HUGE_PAGES) and name not in requests:
            limits.setdefault(name, str(amount))
    if limits:
        resources["limits"] = limits
        for name, amount in podresources.of_containers(spec, "requests").items():
            if name in ("cpu", "memory"):
                requests.setdefault(name, str(amount))
        for name, limit in limits.items():
            if podresources.is_for_pods(name):
                requests.setdefault(name, limit)
    if requests:
        resources["requests"] = requests


# --- volumes ----------------------------------------------------------------------------------------


def _items(source: Object) -> None:
    for item in each(source, "items"):
        _field_ref(item)


def _downward(source: Object) -> None:
    unset(source, defaultMode=FILE_MODE)
    _items(source)


# Behind feature gates that are off in v1.36: the API server drops them (KEP-3257, KEP-4317).
_NOT_YET: Final = ("clusterTrustBundle", "podCertificate")


def _projected(source: Object) -> None:
    unset(source, defaultMode=FILE_MODE)
    for projection in each(source, "sources"):
        for field in _NOT_YET:
            projection.pop(field, None)
        if (token := projection.get("serviceAccountToken")) is not None:
            unset(token, expirationSeconds=TOKEN_SECONDS)
        if downward := projection.get("downwardAPI"):
            _items(downward)


def _ephemeral(source: Object) -> None:
    if template := source.get("volumeClaimTemplate"):
        unset(sub(template, "spec"), volumeMode="Filesystem")


def _image(source: Object) -> None:
    empty(source, pullPolicy=pull_policy(source.get("reference") or ""))


def _filled(how: Callable[..., None], **defaults: Any) -> Callable[[Object], None]:
    return lambda source: how(source, **defaults)


# Also the sources of persistent volumes.
VOLUME_SOURCES: dict[str, Callable[[Object], None]] = {
    "secret": _filled(unset, defaultMode=FILE_MODE),
    "configMap": _filled(unset, defaultMode=FILE_MODE),
    "downwardAPI": _downward,
    "projected": _projected,
    "hostPath": _filled(unset, type=""),
    "ephemeral": _ephemeral,
    "image": _image,
    "iscsi": _filled(empty, iscsiInterface="default"),
    "rbd": _filled(empty, pool="rbd", user="admin", keyring="/etc/ceph/keyring"),
    "azureDisk": _filled(
        unset, cachingMode="ReadWrite", kind="Shared", fsType="ext4", readOnly=False
    ),
    "scaleIO": _filled(empty, storageMode="ThinProvisioned", fsType="xfs"),
}


def _volume(volume: Object) -> None:
    sources = 0
    for field, source in volume.items():
        if field == "name":
            continue
        sources += 1
        if (fill := VOLUME_SOURCES.get(field)) is not None:
            fill(source)
    if not sources:
        volume["emptyDir"] = {}
