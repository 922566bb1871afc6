"""policy/v1."""

from __future__ import annotations

from sampan.apiserver.resources.model import Resource, resource, status

RESOURCES: tuple[Resource, ...] = (
    resource(
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        short_names=("pdb",),
        subresources=(status("PodDisruptionBudget"),),
        generation=True,
        unconditional_update=False,
    ),
)
