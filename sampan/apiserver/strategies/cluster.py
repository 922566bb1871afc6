"""Kinds of the cluster itself with rules of their own: namespaces, nodes, secrets, events, volumes, API services."""

from __future__ import annotations

from sampan.apiserver.aggregation import services
from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Object, Strategy, keep
from sampan.kube import errors, validation
from sampan.kube.defaulting.core import METADATA_NAME_LABEL


class NamespaceStrategy(Strategy):
    """`spec.finalizers` holds the namespace until its controller has emptied it and asked `/finalize`."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        finalizers = (obj.get("spec") or {}).get("finalizers") or []
        if "kubernetes" not in finalizers:
            finalizers = [*finalizers, "kubernetes"]
        obj["spec"] = {**(obj.get("spec") or {}), "finalizers": finalizers}
        obj["status"] = {"phase": "Active"}
        # Defaulting could not know a generated name.
        marks = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = marks | {METADATA_NAME_LABEL: obj["metadata"].get("name") or ""}

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        keep(new, old, "spec")
        keep(new, old, "status")

    def may_remove(self, obj: Object) -> bool:
        return not (obj.get("spec") or {}).get("finalizers")

    def begin_delete(self, obj: Object) -> None:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}


class NodeStrategy(Strategy):
    def prepare_create(self, call: Call, obj: Object) -> None:
        # A node registers itself together with its status.
        obj.setdefault("status", {})


class SecretStrategy(Strategy):
    def prepare_create(self, call: Call, obj: Object) -> None:
        merge_string_data(obj)

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        merge_string_data(new)
        if not new.get("type"):
            keep(new, old, "type")


def merge_string_data(secret: Object) -> None:
    """`stringData` is written over `data` and never stored."""
    plain = secret.pop("stringData", None)
    if isinstance(plain, dict) and plain:
        import base64

        data = dict(secret.get("data") or {})
        for key, value in plain.items():
            data[key] = base64.b64encode(str(value).encode()).decode()
        secret["data"] = data


class OrphaningStrategy(Strategy):
    """Kinds old enough that DELETE without a policy leaves the dependents (batch/v1 Jobs, ReplicationControllers)."""

    orphan_by_default = True


class ReturningStrategy(Strategy):
    returns_deleted = True


class EventStrategy(Strategy):
    """One storage under two groups, and events.k8s.io asks more of an event than core does."""

    def validate_create(self, call: Call, obj: Object) -> list[errors.Cause]:
        return validation.validate_create(call.gvk, obj)

    def validate_update(self, call: Call, new: Object, old: Object) -> list[errors.Cause]:
        return validation.validate_update(call.gvk, new, old)


class APIServiceStrategy(Strategy):
    """One without a service is served by this server, and so is available from the start."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        local = (obj.get("spec") or {}).get("service") is None
        obj["status"] = {"conditions": [services.local_condition()]} if local else {}

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        for key in ("annotations", "finalizers"):
            keep(new["metadata"], old["metadata"], key)
