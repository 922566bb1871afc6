"""What was wrong when it was stored may stay, as in Kubernetes v1.36.2; what an update makes worse may not."""

from __future__ import annotations

from typing import Any, Final

import pytest
from kube_tables import Object, changed, defaulted, gvk_of

from sampan.kube import validation

STORED: Final[Object] = {"resourceVersion": "1", "uid": "u", "namespace": "default", "name": "a"}
SERVICE: Final[Object] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": STORED,
    "spec": {
        "type": "LoadBalancer",
        "ports": [{"port": 80}],
        "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1"],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    },
}
POD: Final[Object] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": STORED,
    "spec": {
        "containers": [{"name": "c", "image": "x"}],
        "initContainers": [{"name": "i", "image": "x"}],
        "schedulingGates": [{"name": "g"}],
    },
}
INGRESS: Final[Object] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "Ingress",
    "metadata": STORED,
    "spec": {
        "defaultBackend": {"service": {"name": "1-a", "port": {"number": 80}}},
        "tls": [{"secretName": "s"}],
    },
}
SLICE: Final[Object] = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceSlice",
    "metadata": {"resourceVersion": "1", "uid": "u", "name": "a"},
    "spec": {
        "driver": "d.example",
        "nodeName": "n",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "x", "taints": [{"key": "k", "effect": "NoSchedule"}]}],
    },
}
AFFINITY = (
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    "[0].matchExpressions"
)


def among(value: str) -> list[Object]:
    return [{"key": "k", "operator": "In", "values": [value]}]


@pytest.mark.parametrize(
    ("base", "path", "old", "same", "worse"),
    [
        # Addresses: the very same, wherever it stood.
        (SERVICE, "spec.externalIPs", ["1.2.3.04"], ["5.6.7.8", "1.2.3.04"], ["1.2.3.05"]),
        (
            SERVICE,
            "spec.loadBalancerSourceRanges",
            ["010.0.0.0/8"],
            ["010.0.0.0/8"],
            ["011.0.0.0/8"],
        ),
        # Values of labels: any, once one is wrong.
        (POD, AFFINITY, among("-1"), among("-1"), None),
        (POD, AFFINITY, among("1"), among("1"), among("-1")),
        (INGRESS, "spec.tls[0].secretName", "not valid", "nor this", None),
        (INGRESS, "spec.tls[0].secretName", "valid", "too", "not valid"),
        # Effects of taints: those of the same taint.
        (SLICE, "spec.devices[0].taints[0].effect", "Odd", "Odd", "Other"),
        (
            POD,
            "spec.initContainers[0].resizePolicy",
            [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
            [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
            None,
        ),
    ],
)
def test_kept(base: Object, path: str, old: Any, same: Any, worse: Any) -> None:
    stored = defaulted(changed(base, {path: old}))

    def causes(value: Any) -> list[str]:
        new = defaulted(changed(base, {path: value, "metadata.labels[b]": "c"}))
        return [cause.field for cause in validation.validate_update(gvk_of(base), new, stored)]

    assert causes(same) == []
    if worse is not None:
        assert causes(worse)
