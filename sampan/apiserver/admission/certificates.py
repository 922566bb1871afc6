"""CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may decide about signing requests, and for which signer.

RBAC says who may write `/approval` and `/status`; these ask further for the verb `approve` or `sign` on the signer itself
(resource `signers`, by its name or `<domain>/*`), so that who may approve nodes' certificates may not approve an
administrator's. Nobody gets a client certificate of group system:masters, which no authorizer could limit.
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#certificateapproval
"""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call
from sampan.kube import signing_requests
from sampan.kube.signing_requests import API_SERVER_CLIENT, MASTERS, BadRequest

REQUESTS = (f"{signing_requests.GROUP}/certificatesigningrequests",)


class CertificateApproval(Plugin):
    storages = REQUESTS
    subresources = ("approval",)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        signer = (old.get("spec") or {}).get("signerName") or ""
        if not await self.lookup.may_use_signer(call.user, "approve", signer):
            raise call.forbidden(
                f'user not permitted to approve requests with signerName "{signer}"'
            )


class CertificateSigning(Plugin):
    storages = REQUESTS
    subresources = ("status",)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        after, before = new.get("status") or {}, old.get("status") or {}
        if all(
            (after.get(k) or []) == (before.get(k) or []) for k in ("certificate", "conditions")
        ):
            return
        signer = (old.get("spec") or {}).get("signerName") or ""
        if not await self.lookup.may_use_signer(call.user, "sign", signer):
            raise call.forbidden(f'user not permitted to sign requests with signerName "{signer}"')


class CertificateSubjectRestriction(Plugin):
    storages = REQUESTS

    async def validate_create(self, call: Call, obj: Object) -> None:
        spec = obj.get("spec") or {}
        if spec.get("signerName") != API_SERVER_CLIENT:
            return
        name = obj["metadata"].get("name", "")
        try:
            asked = signing_requests.parse(spec.get("request") or "")
        except BadRequest as error:
            raise call.forbidden(f"failed to parse CSR: {error}", name) from error
        if MASTERS in asked.organizations:
            raise call.forbidden(
                f"use of {API_SERVER_CLIENT} signer with system:masters group is not allowed", name
            )
