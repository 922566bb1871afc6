"""A pod runs as some service account and finds its token, the cluster's CA and its namespace in a volume."""

from __future__ import annotations

import random

import orjson

from sampan.apiserver.admission.plugin import MIRROR_ANNOTATION, Object, Plugin
from sampan.apiserver.call import Call
from sampan.kube import errors, objects

SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class ServiceAccount(Plugin):
    """A pod runs as some service account and finds its token, the cluster's CA and its namespace in a volume."""

    storages = ("core/pods",)

    async def create(self, call: Call, obj: Object) -> None:
        if is_mirror(obj):
            return
        spec = obj.setdefault("spec", {})
        namespace = call.info.namespace
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        entry = await self.lookup.entry("", "v1", "serviceaccounts", namespace, name)
        if entry is None:
            missing = errors.not_found("serviceaccounts", name).message
            text = f"error looking up service account {namespace}/{name}: {missing.replace('serviceaccounts', 'serviceaccount')}"
            raise call.forbidden(text, obj["metadata"].get("name", ""))
        account = entry.object()
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]
        wanted = spec.get("automountServiceAccountToken")
        if wanted is None:
            wanted = account.get("automountServiceAccountToken")
        if wanted is not False:
            mount_token(spec)


def mount_token(spec: Object) -> None:
    """The projected `kube-api-access-xxxxx` volume, mounted where a container has nothing of its own there."""
    containers = [
        each
        for key in ("initContainers", "containers")
        for each in spec.get(key) or ()
        if isinstance(each, dict)
    ]
    without = [
        each
        for each in containers
        if all(mount.get("mountPath") != TOKEN_MOUNT for mount in each.get("volumeMounts") or ())
    ]
    if not without:
        return
    volume = _name_of_volume(spec)
    for container in without:
        mounts = container.setdefault("volumeMounts", [])
        mounts.append({"name": volume, "readOnly": True, "mountPath": TOKEN_MOUNT})
    volumes = spec.setdefault("volumes", [])
    volumes.append({"name": volume, "projected": orjson.loads(_PROJECTED)})


# As bytes: reading it gives each pod a copy of its own.
_PROJECTED = orjson.dumps(
    {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {
                "configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }
            },
            {
                "downwardAPI": {
                    "items": [
                        {
                            "path": "namespace",
                            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                        }
                    ]
                }
            },
        ],
        "defaultMode": 420,
    }
)


def _name_of_volume(spec: Object) -> str:
    """The same for all, so that pods of one template stay equal (see `kube.crowds`), unless this pod has a volume of that name."""
    taken = {each.get("name") for each in spec.get("volumes") or ()}
    name = _VOLUME
    while name in taken:
        name = _random_name()
    return name


def _random_name() -> str:
    return "kube-api-access-" + "".join(random.choices(SUFFIX_ALPHABET, k=5))


_VOLUME = _random_name()


def is_mirror(pod: Object) -> bool:
    return MIRROR_ANNOTATION in objects.annotations(pod)
