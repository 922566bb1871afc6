"""DaemonSets: the server counts how often the template changed.

The count was the field `spec.templateGeneration` of extensions/v1beta1. In apps/v1 it is an annotation, which is the
server's alone: what clients write there is heeded at creation only.
"""

from __future__ import annotations

from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Object, Strategy
from sampan.kube import objects

GENERATION = "deprecated.daemonset.template.generation"


class DaemonSetStrategy(Strategy):
    def prepare_create(self, call: Call, obj: Object) -> None:
        super().prepare_create(call, obj)
        _note(obj, max(_generation(obj), 1))

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_update(call, new, old)
        _note(new, _generation(old) + (_template(new) != _template(old)))

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        _note(new, _generation(old))


def _template(daemon: Object) -> Object | None:
    return (daemon.get("spec") or {}).get("template")


def _generation(daemon: Object) -> int:
    """0 when there is no number."""
    try:
        return int(objects.annotations(daemon).get(GENERATION) or 0)
    except ValueError:
        return 0


def _note(daemon: Object, generation: int) -> None:
    metadata = daemon["metadata"]
    metadata["annotations"] = {**objects.annotations(daemon), GENERATION: str(generation)}
