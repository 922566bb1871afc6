"""Every kind that has no pod template: services, networking, storage, nodes, budgets, node classes."""

# No `from __future__ import annotations` here: it would take the name of `annotations` below.
from typing import Any, Final

from sampan.kube.errors import quote
from sampan.kube.objects import annotations
from sampan.kube.objects import labels as labels_of
from sampan.kube.warnings import labels
from sampan.kube.warnings.addresses import of_cidr, of_ip
from sampan.kube.warnings.pods import of_claim
from sampan.kube.warnings.secrets import of_key_pair

Object = dict[str, Any]

_HINTS: Final = "service.kubernetes.io/topology-aware-hints"
_TOPOLOGY: Final = "service.kubernetes.io/topology-mode"
_INGRESS_CLASS: Final = "kubernetes.io/ingress.class"
_STORAGE_CLASS: Final = "volume.beta.kubernetes.io/storage-class"
_ENDPOINTS_OWNER: Final = "endpoints.kubernetes.io/managed-by"


def _service(new: Object, old: Object | None) -> list[str]:
    spec = new.get("spec") or {}
    get = spec.get
    kind, external = get("type") or "", get("externalIPs") or []
    headless = kind == "ClusterIP" and get("clusterIP") == "None"
    found = []
    if _HINTS in annotations(new):
        found.append(f"annotation {_HINTS} is deprecated, please use {_TOPOLOGY} instead")
    if kind != "ExternalName" and not headless:
        for index, address in enumerate(get("clusterIPs") or ()):
            found += of_ip(f"spec.clusterIPs[{index}]", address)
    if headless:
        if get("loadBalancerIP"):
            found.append("spec.loadBalancerIP is ignored for headless services")
        if external:
            found.append("spec.externalIPs is ignored for headless services")
        if get("sessionAffinity") != "None":
            found.append("spec.SessionAffinity is ignored for headless services")
    for index, address in enumerate(external):
        found += of_ip(f"spec.externalIPs[{index}]", address)
    if external and not headless and kind != "ExternalName":
        found.append(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
        )
    if get("loadBalancerIP"):
        found += of_ip("spec.loadBalancerIP", spec["loadBalancerIP"])
    for index, cidr in enumerate(get("loadBalancerSourceRanges") or ()):
        found += of_cidr(f"spec.loadBalancerSourceRanges[{index}]", cidr)
    if kind == "ExternalName" and external:
        found.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
    if kind != "ExternalName" and get("externalName"):
        found.append('spec.externalName is ignored when spec.type is not "ExternalName"')
    if get("trafficDistribution") == "PreferClose":
        found.append('spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"')
    return found


def _endpoints(new: Object, old: Object | None) -> list[str]:
    if labels_of(new).get(_ENDPOINTS_OWNER) == "endpoint-controller":
        return []
    found: list[str] = []
    for index, subset in enumerate(new.get("subsets") or ()):
        for field in ("addresses", "notReadyAddresses"):
            for at, address in enumerate(subset.get(field) or ()):
                found += of_ip(f"subsets[{index}].{field}[{at}].ip", address.get("ip") or "")
    return found


def _endpoint_slice(new: Object, old: Object | None) -> list[str]:
    found: list[str] = []
    if new.get("addressType") == "FQDN":
        found.append("spec.addressType: FQDN endpoints are deprecated")
    elif new.get("addressType") == "IPv6":
        for index, endpoint in enumerate(new.get("endpoints") or ()):
            for at, address in enumerate(endpoint.get("addresses") or ()):
                found += of_ip(f"endpoints[{index}].addresses[{at}]", address)
    return found


def _ingress(new: Object, old: Object | None) -> list[str]:
    if old is not None or _INGRESS_CLASS not in annotations(new):
        return []
    return [
        f"annotation {quote(_INGRESS_CLASS)} is deprecated, please use 'spec.ingressClassName' instead"
    ]


def _network_policy(new: Object, old: Object | None) -> list[str]:
    spec = new.get("spec") or {}
    found: list[str] = []
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            for at, peer in enumerate(rule.get(peers) or ()):
                if block := peer.get("ipBlock"):
                    where = f"spec.{direction}[{index}].{peers}[{at}].ipBlock"
                    found += of_cidr(f"{where}.cidr", block.get("cidr") or "")
                    for number, part in enumerate(block.get("except") or ()):
                        found += of_cidr(f"{where}.except[{number}]", part)
    return found


def _storage_class_annotation(obj: Object) -> list[str]:
    if _STORAGE_CLASS not in annotations(obj):
        return []
    text = 'deprecated since v1.8; use "storageClassName" attribute instead'
    return [f"metadata.annotations[{_STORAGE_CLASS}]: {text}"]


_OLD_VOLUMES: Final = {
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
}


def _persistent_volume(new: Object, old: Object | None) -> list[str]:
    spec = new.get("spec") or {}
    found = _storage_class_annotation(new)
    if spec.get("persistentVolumeReclaimPolicy") == "Recycle":
        found.append(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, "
            "the recommended approach is to use dynamic provisioning."
        )
    needed = (spec.get("nodeAffinity") or {}).get("required") or {}
    for index, term in enumerate(needed.get("nodeSelectorTerms") or ()):
        found += labels.of_term(term, f"spec.nodeAffinity.required.nodeSelectorTerms[{index}]")
    return [*found, *(f"spec.{key}: {text}" for key, text in _OLD_VOLUMES.items() if key in spec)]


def _claim(new: Object, old: Object | None) -> list[str]:
    return [*_storage_class_annotation(new), *of_claim(new.get("spec") or {}, "spec")]


def _storage_class(new: Object, old: Object | None) -> list[str]:
    found = []
    for index, topology in enumerate(new.get("allowedTopologies") or ()):
        for at, item in enumerate(topology.get("matchLabelExpressions") or ()):
            key, where = item.get("key") or "", f"allowedTopologies[{index}]"
            if key in labels.DEPRECATED:
                text = labels.DEPRECATED[key]
                found.append(f"{where}.matchLabelExpressions[{at}].key: {text}")
    return found


def _csi_driver(new: Object, old: Object | None) -> list[str]:
    spec = new.get("spec") or {}
    if old is not None and (old.get("spec") or {}).get("tokenRequests") == spec.get(
        "tokenRequests"
    ):
        return []
    if not spec.get("tokenRequests") or spec.get("serviceAccountTokenInSecrets") is not None:
        return []
    return [
        "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true "
        "to prevent possible logging of tokens in volume attributes"
    ]


def _node(new: Object, old: Object | None) -> list[str]:
    spec = new.get("spec") or {}
    found = []
    if spec.get("configSource") is not None:
        found.append("spec.configSource: the feature is deprecated since 1.22 and removed in 1.26")
    if spec.get("externalID"):
        found.append("spec.externalID: this field is deprecated, and is unused by Kubernetes")
    cidrs = spec.get("podCIDRs") or []
    for index, cidr in enumerate(cidrs):
        found += of_cidr(f"spec.podCIDRs[{index}]", cidr)
    return found


def _runtime_class(new: Object, old: Object | None) -> list[str]:
    chosen = (new.get("scheduling") or {}).get("nodeSelector") or ()
    return [
        f"scheduling.nodeSelector: {labels.DEPRECATED[key]}"
        for key in chosen
        if key in labels.DEPRECATED
    ]


WARNINGS: Final = {
    ("", "Service"): _service,
    ("", "Endpoints"): _endpoints,
    ("", "Secret"): of_key_pair,
    ("", "Node"): _node,
    ("", "PersistentVolume"): _persistent_volume,
    ("", "PersistentVolumeClaim"): _claim,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
    ("networking.k8s.io", "Ingress"): _ingress,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("node.k8s.io", "RuntimeClass"): _runtime_class,
    ("storage.k8s.io", "CSIDriver"): _csi_driver,
    ("storage.k8s.io", "StorageClass"): _storage_class,
    ("storage.k8s.io", "CSIStorageCapacity"): lambda new, old: labels.of_selector(
        new.get("nodeTopology"), "nodeTopology"
    ),
}
