"""The smaller groups: certificates, coordination, node, scheduling, resource, flow control, extension of the API itself."""

from __future__ import annotations

from sampan.apiserver.resources.model import MODIFY, Resource, Subresource, resource, status

ADMISSION = "admissionregistration.k8s.io"
FLOW = "flowcontrol.apiserver.k8s.io"
API_EXTENSIONS = ("api-extensions",)

RESOURCES: tuple[Resource, ...] = (
    resource(
        "apiregistration.k8s.io",
        "v1",
        "apiservices",
        "APIService",
        namespaced=False,
        categories=API_EXTENSIONS,
        subresources=(status("APIService"),),
        strategy="apiservice",
        unconditional_update=False,
    ),
    resource(
        "certificates.k8s.io",
        "v1",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        namespaced=False,
        short_names=("csr",),
        subresources=(
            Subresource("approval", "CertificateSigningRequest", MODIFY),
            status("CertificateSigningRequest"),
        ),
        strategy="certificatesigningrequest",
        selectable=("spec.signerName",),
    ),
    *(
        resource(
            ADMISSION,
            "v1",
            name,
            kind,
            namespaced=False,
            categories=API_EXTENSIONS,
            generation=True,
            unconditional_update=False,
            subresources=(status(kind),) if name == "validatingadmissionpolicies" else (),
        )
        for name, kind in (
            ("mutatingadmissionpolicies", "MutatingAdmissionPolicy"),
            ("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding"),
            ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
            ("validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
            ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
            ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
        )
    ),
    resource(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        short_names=("crd", "crds"),
        categories=API_EXTENSIONS,
        subresources=(status("CustomResourceDefinition"),),
        strategy="customresourcedefinition",
        generation=True,
        unconditional_update=False,
    ),
    resource(
        "scheduling.k8s.io",
        "v1",
        "priorityclasses",
        "PriorityClass",
        namespaced=False,
        short_names=("pc",),
        generation=True,
    ),
    resource(
        "coordination.k8s.io",
        "v1",
        "leases",
        "Lease",
        create_on_update=True,
        unconditional_update=False,
    ),
    resource(
        "node.k8s.io",
        "v1",
        "runtimeclasses",
        "RuntimeClass",
        namespaced=False,
        create_on_update=True,
        unconditional_update=False,
    ),
    *(
        resource(
            FLOW, "v1", name, kind, namespaced=False, subresources=(status(kind),), generation=True
        )
        for name, kind in (
            ("flowschemas", "FlowSchema"),
            ("prioritylevelconfigurations", "PriorityLevelConfiguration"),
        )
    ),
    resource(
        "resource.k8s.io", "v1", "deviceclasses", "DeviceClass", namespaced=False, generation=True
    ),
    resource(
        "resource.k8s.io",
        "v1",
        "resourceclaims",
        "ResourceClaim",
        subresources=(status("ResourceClaim"),),
    ),
    resource("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate"),
    resource(
        "resource.k8s.io",
        "v1",
        "resourceslices",
        "ResourceSlice",
        namespaced=False,
        generation=True,
        selectable=("spec.driver", "spec.nodeName"),
    ),
)
