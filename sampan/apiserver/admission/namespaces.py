"""Nothing is made in a namespace that is not there or is going; the first namespaces stay."""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call
from sampan.kube import errors, objects

PROTECTED_NAMESPACES = ("default", "kube-system", "kube-public")


class NamespaceLifecycle(Plugin):
    """Nothing is made in a namespace that is not there or is going; the first namespaces stay."""

    async def create(self, call: Call, obj: Object) -> None:
        if not call.resource.namespaced:
            return
        namespace = call.info.namespace
        entry = await self.lookup.entry("", "v1", "namespaces", "", namespace)
        if entry is None:
            raise errors.not_found("namespaces", namespace)
        if b'"deletionTimestamp":' in entry.data and objects.is_deleting(entry.object()):
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            error = call.forbidden(message, obj["metadata"].get("name", ""))
            error.details["causes"] = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            raise error

    async def delete(self, call: Call, obj: Object) -> None:
        if call.resource.storage == "core/namespaces" and call.info.name in PROTECTED_NAMESPACES:
            raise call.forbidden("this namespace may not be deleted")
