"""Everything else: access, networking, storage, scheduling, extension of the API itself."""

from __future__ import annotations

from datetime import datetime, timedelta

from sampan.apiserver.tables.model import (
    AGE,
    CREATED,
    DEFAULT,
    NAME,
    NONE,
    UNSET,
    Column,
    Object,
    Printer,
    Value,
    at,
    count,
    human_duration,
    joined,
    number,
    printer,
    selector_text,
    shortened,
)

RBAC = "rbac.authorization.k8s.io"
NETWORKING = "networking.k8s.io"
STORAGE = "storage.k8s.io"
ADMISSION = "admissionregistration.k8s.io"
FLOW = "flowcontrol.apiserver.k8s.io"


# --- access -------------------------------------------------------------------------------------------


def _subjects(kind: str) -> Value:
    def text(binding: Object, _now: datetime) -> str:
        return ", ".join(
            f"{each.get('namespace', '')}/{each['name']}"
            if kind == "ServiceAccount"
            else each["name"]
            for each in binding.get("subjects") or ()
            if each.get("kind") == kind
        )

    return text


BINDING = printer(
    NAME,
    Column("Role", lambda o, _now: f"{at(o, 'roleRef.kind')}/{at(o, 'roleRef.name')}"),
    AGE,
    Column("Users", _subjects("User"), wide=True),
    Column("Groups", _subjects("Group"), wide=True),
    Column("ServiceAccounts", _subjects("ServiceAccount"), wide=True),
)


def _request_state(request: Object, _now: datetime) -> str:
    kinds = {each.get("type") for each in at(request, "status.conditions") or ()}
    text = "Denied" if "Denied" in kinds else "Approved" if "Approved" in kinds else "Pending"
    if "Failed" in kinds:
        text += ",Failed"
    return text + (",Issued" if at(request, "status.certificate") else "")


def _requested_duration(request: Object, _now: datetime) -> str:
    seconds = at(request, "spec.expirationSeconds")
    return NONE if seconds is None else human_duration(timedelta(seconds=seconds))


# --- networking ---------------------------------------------------------------------------------------


def _hosts(ingress: Object, _now: datetime) -> str:
    hosts = [each["host"] for each in at(ingress, "spec.rules") or () if each.get("host")]
    return shortened(list(dict.fromkeys(hosts))) or "*"


def _ingress_address(ingress: Object, _now: datetime) -> str:
    found = at(ingress, "status.loadBalancer.ingress") or ()
    return ",".join(filter(None, (each.get("ip") or each.get("hostname") for each in found)))


def _parameters(obj: Object, _now: datetime) -> str:
    reference = at(obj, "spec.parameters")
    if not reference:
        return NONE
    group = reference.get("apiGroup")
    kind = f"{reference['kind']}.{group}" if group else reference["kind"]
    return f"{kind}/{reference['name']}"


def _parent(address: Object, _now: datetime) -> str:
    parent = at(address, "spec.parentRef") or {}
    parts = (parent.get("resource"), parent.get("group"))
    return "/".join(
        filter(None, (".".join(filter(None, parts)), parent.get("namespace"), parent.get("name")))
    )


# --- storage ------------------------------------------------------------------------------------------


def _modes(driver: Object, _now: datetime) -> str:
    return ",".join(at(driver, "spec.volumeLifecycleModes") or ()) or NONE


def _token_audiences(driver: Object, _now: datetime) -> str:
    requests = at(driver, "spec.tokenRequests") or ()
    return joined((each.get("audience", "") for each in requests), UNSET)


def _flag(path: str, default: bool) -> Value:
    def value(obj: Object, _now: datetime) -> bool:
        found = at(obj, path)
        return default if found is None else bool(found)

    return value


def _provisioner(obj: Object, _now: datetime) -> str:
    return str(obj.get("provisioner") or "")


def _storage_name(obj: Object, _now: datetime) -> str:
    annotations = at(obj, "metadata.annotations") or {}
    default = annotations.get("storageclass.kubernetes.io/is-default-class") == "true"
    return obj["metadata"]["name"] + (" (default)" if default else "")


# --- extension of the API -----------------------------------------------------------------------------


def _service(api: Object, _now: datetime) -> str:
    service = at(api, "spec.service")
    return f"{service['namespace']}/{service['name']}" if service else "Local"


def _available(api: Object, _now: datetime) -> str:
    for each in at(api, "status.conditions") or ():
        if each.get("type") == "Available":
            if each.get("status") == "True":
                return "True"
            return f"{each.get('status')} ({each.get('reason')})"
    return "Unknown"


def _kind_reference(obj: Object, _now: datetime) -> str:
    kind = at(obj, "spec.paramKind")
    return f"{kind['apiVersion']}/{kind['kind']}" if kind else UNSET


def _parameter_reference(obj: Object, _now: datetime) -> str:
    reference = at(obj, "spec.paramRef")
    if not reference:
        return UNSET
    if reference.get("name"):
        namespace = reference.get("namespace")
        return f"{namespace}/{reference['name']}" if namespace else str(reference["name"])
    return selector_text(reference.get("selector"))


def _integer(name: str, path: str) -> Column:
    return Column(name, number(path), "integer")


WEBHOOKS = printer(NAME, Column("Webhooks", count("webhooks"), "integer"), AGE)
PARAM_KIND = Column("ParamKind", _kind_reference)
POLICY_BINDING = printer(
    NAME, Column("PolicyName", "spec.policyName"), Column("ParamRef", _parameter_reference), AGE
)


def _dangling(schema: Object, _now: datetime) -> str:
    for each in at(schema, "status.conditions") or ():
        if each.get("type") == "Dangling":
            return str(each.get("status"))
    return "?"


def _queuing(field: str) -> Value:
    def text(level: Object, _now: datetime) -> str:
        value = at(level, f"spec.limited.limitResponse.queuing.{field}")
        return NONE if value is None else str(value)

    return text


def _shares(level: Object, _now: datetime) -> str:
    for kind in ("limited", "exempt"):
        value = at(level, f"spec.{kind}.nominalConcurrencyShares")
        if value is not None:
            return str(value)
    return NONE


def _claim_state(claim: Object, _now: datetime) -> str:
    states = []
    if at(claim, "metadata.deletionTimestamp"):
        states.append("deleted")
    if at(claim, "status.allocation"):
        states.append("allocated")
        states += ["reserved"] if at(claim, "status.reservedFor") else []
    elif not states:
        states.append("pending")
    return ",".join(states)


def _slice_node(obj: Object, _now: datetime) -> str:
    if at(obj, "spec.allNodes"):
        return "<all>"
    return at(obj, "spec.nodeName") or UNSET


PRINTERS: dict[tuple[str, str], Printer] = {
    (RBAC, "Role"): CREATED,
    (RBAC, "ClusterRole"): CREATED,
    (RBAC, "RoleBinding"): BINDING,
    (RBAC, "ClusterRoleBinding"): BINDING,
    ("certificates.k8s.io", "CertificateSigningRequest"): printer(
        NAME,
        AGE,
        Column("SignerName", "spec.signerName"),
        Column("Requestor", "spec.username"),
        Column("RequestedDuration", _requested_duration),
        Column("Condition", _request_state),
    ),
    (NETWORKING, "Ingress"): printer(
        NAME,
        Column("Class", "spec.ingressClassName", empty=NONE),
        Column("Hosts", _hosts),
        Column("Address", _ingress_address),
        Column("Ports", lambda o, _now: "80, 443" if at(o, "spec.tls") else "80"),
        AGE,
    ),
    (NETWORKING, "IngressClass"): printer(
        NAME, Column("Controller", "spec.controller"), Column("Parameters", _parameters), AGE
    ),
    (NETWORKING, "NetworkPolicy"): printer(
        NAME,
        Column("Pod-Selector", lambda o, _now: selector_text(at(o, "spec.podSelector"))),
        AGE,
    ),
    (NETWORKING, "ServiceCIDR"): printer(
        NAME, Column("CIDRs", lambda o, _now: ",".join(at(o, "spec.cidrs") or ())), AGE
    ),
    (NETWORKING, "IPAddress"): printer(NAME, Column("ParentRef", _parent), AGE),
    (STORAGE, "StorageClass"): printer(
        Column("Name", _storage_name, format="name"),
        Column("Provisioner", _provisioner),
        Column("ReclaimPolicy", "reclaimPolicy", empty="Delete"),
        Column("VolumeBindingMode", "volumeBindingMode", empty=UNSET),
        Column("AllowVolumeExpansion", _flag("allowVolumeExpansion", False), "boolean"),
        AGE,
    ),
    (STORAGE, "VolumeAttachment"): printer(
        NAME,
        Column("Attacher", "spec.attacher"),
        Column("PV", "spec.source.persistentVolumeName"),
        Column("Node", "spec.nodeName"),
        Column("Attached", _flag("status.attached", False), "boolean"),
        AGE,
    ),
    (STORAGE, "CSINode"): printer(NAME, Column("Drivers", count("spec.drivers"), "integer"), AGE),
    (STORAGE, "CSIDriver"): printer(
        NAME,
        Column("AttachRequired", _flag("spec.attachRequired", True), "boolean"),
        Column("PodInfoOnMount", _flag("spec.podInfoOnMount", False), "boolean"),
        Column("StorageCapacity", _flag("spec.storageCapacity", False), "boolean"),
        Column("TokenRequests", _token_audiences),
        Column("RequiresRepublish", _flag("spec.requiresRepublish", False), "boolean"),
        Column("Modes", _modes),
        AGE,
    ),
    (STORAGE, "CSIStorageCapacity"): printer(
        NAME, Column("StorageClassName", "storageClassName"), Column("Capacity", "capacity")
    ),
    (STORAGE, "VolumeAttributesClass"): printer(NAME, Column("DriverName", "driverName"), AGE),
    ("coordination.k8s.io", "Lease"): printer(NAME, Column("Holder", "spec.holderIdentity"), AGE),
    ("node.k8s.io", "RuntimeClass"): printer(NAME, Column("Handler", "handler"), AGE),
    ("scheduling.k8s.io", "PriorityClass"): printer(
        NAME,
        _integer("Value", "value"),
        Column("Global-Default", _flag("globalDefault", False), "boolean"),
        AGE,
        Column("PreemptionPolicy", "preemptionPolicy"),
    ),
    ("resource.k8s.io", "ResourceClaim"): printer(NAME, Column("State", _claim_state), AGE),
    ("resource.k8s.io", "ResourceClaimTemplate"): DEFAULT,
    ("resource.k8s.io", "DeviceClass"): DEFAULT,
    ("resource.k8s.io", "ResourceSlice"): printer(
        NAME,
        Column("Node", _slice_node),
        Column("Driver", "spec.driver"),
        Column("Pool", "spec.pool.name"),
        AGE,
    ),
    (FLOW, "FlowSchema"): printer(
        NAME,
        Column("PriorityLevel", "spec.priorityLevelConfiguration.name"),
        _integer("MatchingPrecedence", "spec.matchingPrecedence"),
        Column("DistinguisherMethod", "spec.distinguisherMethod.type", empty=NONE),
        AGE,
        Column("MissingPL", _dangling),
    ),
    (FLOW, "PriorityLevelConfiguration"): printer(
        NAME,
        Column("Type", "spec.type"),
        Column("NominalConcurrencyShares", _shares),
        Column("Queues", _queuing("queues")),
        Column("HandSize", _queuing("handSize")),
        Column("QueueLengthLimit", _queuing("queueLengthLimit")),
        AGE,
    ),
    (ADMISSION, "ValidatingWebhookConfiguration"): WEBHOOKS,
    (ADMISSION, "MutatingWebhookConfiguration"): WEBHOOKS,
    (ADMISSION, "ValidatingAdmissionPolicy"): printer(
        NAME, Column("Validations", count("spec.validations"), "integer"), PARAM_KIND, AGE
    ),
    (ADMISSION, "ValidatingAdmissionPolicyBinding"): POLICY_BINDING,
    (ADMISSION, "MutatingAdmissionPolicy"): printer(
        NAME, Column("Mutations", count("spec.mutations"), "integer"), PARAM_KIND, AGE
    ),
    (ADMISSION, "MutatingAdmissionPolicyBinding"): POLICY_BINDING,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): CREATED,
    ("apiregistration.k8s.io", "APIService"): printer(
        NAME, Column("Service", _service), Column("Available", _available), AGE
    ),
}
