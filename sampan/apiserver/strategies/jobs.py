"""Jobs: unless the user chooses a selector, the server makes one that no other Job can match."""

from __future__ import annotations

from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Object
from sampan.apiserver.strategies.cluster import OrphaningStrategy

PREFIX = "batch.kubernetes.io/"


class JobStrategy(OrphaningStrategy):
    def prepare_create(self, call: Call, obj: Object) -> None:
        super().prepare_create(call, obj)
        spec = obj.get("spec")
        if not isinstance(spec, dict) or spec.get("manualSelector"):
            return
        metadata = obj["metadata"]
        template = spec.setdefault("template", {})
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        name, uid = metadata.get("name") or "", metadata["uid"]
        # A label that says something else stays, for validation to name it.
        for key, value in (("job-name", name), ("controller-uid", uid)):
            labels.setdefault(key, value)
            labels.setdefault(PREFIX + key, value)
        if not metadata.get("labels"):
            metadata["labels"] = dict(labels)
        selector = spec.get("selector") or {}
        matched = {**(selector.get("matchLabels") or {})}
        matched.setdefault(PREFIX + "controller-uid", uid)
        spec["selector"] = {**selector, "matchLabels": matched}
