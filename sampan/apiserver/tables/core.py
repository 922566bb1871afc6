"""Core group, pods aside, and events in both their groups."""

from __future__ import annotations

from datetime import datetime

from sampan.apiserver.tables.model import (
    AGE,
    CREATED,
    NAME,
    NONE,
    UNKNOWN,
    UNSET,
    Column,
    Object,
    Printer,
    Value,
    at,
    count,
    joined,
    labels_text,
    printer,
    shortened,
    since,
)

ROLE_PREFIX, ROLE_LABEL = "node-role.kubernetes.io/", "kubernetes.io/role"

ACCESS_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


# --- services and endpoints ---------------------------------------------------------------------------


def _external(service: Object, _now: datetime) -> str:
    spec = service.get("spec") or {}
    addresses = list(spec.get("externalIPs") or ())
    match spec.get("type", "ClusterIP"):
        case "ExternalName":
            return spec.get("externalName") or NONE
        case "LoadBalancer":
            ingress = at(service, "status.loadBalancer.ingress") or ()
            found = [each.get("ip") or each.get("hostname") or "" for each in ingress]
            return joined([*dict.fromkeys(filter(None, found)), *addresses], "<pending>")
    return joined(addresses)


def _ports(service: Object, _now: datetime) -> str:
    def text(port: Object) -> str:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}"

    return joined(text(port) for port in at(service, "spec.ports") or ())


def _endpoints(obj: Object, _now: datetime) -> str:
    subsets = obj.get("subsets") or ()
    if not subsets:
        return NONE
    found = []
    for subset in subsets:
        addresses = [each.get("ip", "") for each in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        if not ports:
            found += addresses
        for port in ports:
            found += [f"{_host(ip)}:{port.get('port')}" for ip in addresses]
    return shortened(found)


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def _slice_ports(obj: Object, _now: datetime) -> str:
    ports = [str(each.get("port") or each.get("name") or "*") for each in obj.get("ports") or ()]
    return shortened(ports) or UNSET


def _slice_endpoints(obj: Object, _now: datetime) -> str:
    found = [ip for each in obj.get("endpoints") or () for ip in each.get("addresses") or ()]
    return shortened(found) or UNSET


# --- nodes --------------------------------------------------------------------------------------------


def _node_status(node: Object, _now: datetime) -> str:
    found = [
        "Ready" if each.get("status") == "True" else "NotReady"
        for each in at(node, "status.conditions") or ()
        if each.get("type") == "Ready"
    ] or ["Unknown"]
    if at(node, "spec.unschedulable"):
        found.append("SchedulingDisabled")
    return ",".join(found)


def _roles(node: Object, _now: datetime) -> str:
    labels = at(node, "metadata.labels") or {}
    roles = {key[len(ROLE_PREFIX) :] for key in labels if key.startswith(ROLE_PREFIX)}
    roles.add(labels.get(ROLE_LABEL, ""))
    return joined(sorted(filter(None, roles)))


def _address(kind: str) -> Value:
    def text(node: Object, _now: datetime) -> str:
        for each in at(node, "status.addresses") or ():
            if each.get("type") == kind:
                return each.get("address") or NONE
        return NONE

    return text


# --- events -------------------------------------------------------------------------------------------


def _first_seen(event: Object, now: datetime) -> str:
    first = event.get("firstTimestamp") or event.get("deprecatedFirstTimestamp")
    return since(first or event.get("eventTime"), now)


def _last_seen(event: Object, now: datetime) -> str:
    series = at(event, "series.lastObservedTime")
    last = series or event.get("lastTimestamp") or event.get("deprecatedLastTimestamp")
    return since(last, now) if last else _first_seen(event, now)


def _times(event: Object, _now: datetime) -> int:
    return at(event, "series.count") or event.get("count") or event.get("deprecatedCount") or 1


def _about(event: Object) -> Object:
    return event.get("involvedObject") or event.get("regarding") or {}


def _event_object(event: Object, _now: datetime) -> str:
    about = _about(event)
    kind = (about.get("kind") or "").lower()
    return f"{kind}/{about['name']}" if about.get("name") else kind


def _source(event: Object, _now: datetime) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    component = source.get("component") or ""
    component = (
        component or event.get("reportingComponent") or event.get("reportingController") or ""
    )
    host = source.get("host") or event.get("reportingInstance") or ""
    return f"{component}, {host}" if host and component else component


EVENT = printer(
    Column("Last Seen", _last_seen),
    Column("Type", "type"),
    Column("Reason", "reason"),
    Column("Object", _event_object),
    Column("Subobject", lambda obj, _now: _about(obj).get("fieldPath", ""), wide=True),
    Column("Source", _source, wide=True),
    Column("Message", lambda obj, _now: (obj.get("message") or obj.get("note") or "").strip()),
    Column("First Seen", _first_seen, wide=True),
    Column("Count", _times, "integer", wide=True),
    Column("Name", "metadata.name", format="name", wide=True),
)


# --- volumes ------------------------------------------------------------------------------------------


def access_modes(modes: list[str] | None) -> str:
    return ",".join(short for mode, short in ACCESS_MODES.items() if mode in (modes or ()))


def _phase(obj: Object, _now: datetime) -> str:
    if at(obj, "metadata.deletionTimestamp"):
        return "Terminating"
    return at(obj, "status.phase") or ""


def _bound(value: Value) -> Value:
    """Shown once the claim has its volume."""
    return lambda obj, now: value(obj, now) if at(obj, "spec.volumeName") else ""


def _claim(volume: Object, _now: datetime) -> str:
    claim = at(volume, "spec.claimRef")
    return f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""


STORAGE_CLASS = "spec.storageClassName"
ATTRIBUTES_CLASS = Column("VolumeAttributesClass", "spec.volumeAttributesClassName", empty=UNSET)
VOLUME_MODE = Column("VolumeMode", "spec.volumeMode", wide=True, empty=UNSET)
LEGACY_CLASS = "volume.beta.kubernetes.io/storage-class"


def _class(obj: Object, _now: datetime) -> str:
    annotations = at(obj, "metadata.annotations") or {}
    return annotations.get(LEGACY_CLASS) or at(obj, STORAGE_CLASS) or ""


# --- the rest -----------------------------------------------------------------------------------------


def _quota(limits: bool) -> Value:
    def text(quota: Object, _now: datetime) -> str:
        hard = at(quota, "status.hard") or {}
        used = at(quota, "status.used") or {}
        return ", ".join(
            f"{name}: {used.get(name, '0')}/{hard[name]}"
            for name in sorted(hard)
            if name.startswith("limits.") == limits
        )

    return text


def _data(obj: Object, _now: datetime) -> int:
    return len(obj.get("data") or ()) + len(obj.get("binaryData") or ())


def _component(field: str) -> Value:
    def text(obj: Object, _now: datetime) -> str:
        for each in obj.get("conditions") or ():
            if each.get("type") == "Healthy":
                if field == "status":
                    return {"True": "Healthy", "False": "Unhealthy"}.get(each["status"], "Unknown")
                return each.get(field) or ""
        return ""

    return text


PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "Service"): printer(
        NAME,
        Column("Type", "spec.type"),
        Column("Cluster-IP", "spec.clusterIP", empty=NONE),
        Column("External-IP", _external),
        Column("Port(s)", _ports),
        AGE,
        Column("Selector", lambda o, _now: labels_text(at(o, "spec.selector")), wide=True),
    ),
    ("", "Endpoints"): printer(NAME, Column("Endpoints", _endpoints), AGE),
    ("discovery.k8s.io", "EndpointSlice"): printer(
        NAME,
        Column("AddressType", "addressType"),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        AGE,
    ),
    ("", "Node"): printer(
        NAME,
        Column("Status", _node_status),
        Column("Roles", _roles),
        AGE,
        Column("Version", "status.nodeInfo.kubeletVersion"),
        Column("Internal-IP", _address("InternalIP"), wide=True),
        Column("External-IP", _address("ExternalIP"), wide=True),
        Column("OS-Image", "status.nodeInfo.osImage", wide=True, empty=UNKNOWN),
        Column("Kernel-Version", "status.nodeInfo.kernelVersion", wide=True, empty=UNKNOWN),
        Column(
            "Container-Runtime",
            "status.nodeInfo.containerRuntimeVersion",
            wide=True,
            empty=UNKNOWN,
        ),
    ),
    ("", "Event"): EVENT,
    ("events.k8s.io", "Event"): EVENT,
    ("", "Namespace"): printer(NAME, Column("Status", "status.phase"), AGE),
    ("", "Secret"): printer(
        NAME, Column("Type", "type"), Column("Data", count("data"), "integer"), AGE
    ),
    ("", "ConfigMap"): printer(NAME, Column("Data", _data, "integer"), AGE),
    ("", "ServiceAccount"): printer(NAME, Column("Secrets", count("secrets"), "integer"), AGE),
    ("", "PersistentVolume"): printer(
        NAME,
        Column("Capacity", "spec.capacity.storage"),
        Column("Access Modes", lambda o, _now: access_modes(at(o, "spec.accessModes"))),
        Column("Reclaim Policy", "spec.persistentVolumeReclaimPolicy"),
        Column("Status", _phase),
        Column("Claim", _claim),
        Column("StorageClass", _class),
        ATTRIBUTES_CLASS,
        Column("Reason", "status.reason"),
        AGE,
        VOLUME_MODE,
    ),
    ("", "PersistentVolumeClaim"): printer(
        NAME,
        Column("Status", _phase),
        Column("Volume", "spec.volumeName"),
        Column("Capacity", _bound(lambda o, _now: at(o, "status.capacity.storage") or "0")),
        Column("Access Modes", _bound(lambda o, _now: access_modes(at(o, "status.accessModes")))),
        Column("StorageClass", _class),
        ATTRIBUTES_CLASS,
        AGE,
        VOLUME_MODE,
    ),
    ("", "ResourceQuota"): printer(
        NAME, Column("Request", _quota(False)), Column("Limit", _quota(True)), AGE
    ),
    ("", "LimitRange"): CREATED,
    ("", "ComponentStatus"): printer(
        NAME,
        Column("Status", _component("status")),
        Column("Message", _component("message")),
        Column("Error", _component("error")),
    ),
}
