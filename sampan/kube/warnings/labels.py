"""Labels of nodes that have a successor, wherever an object selects nodes by them."""

from __future__ import annotations

from typing import Any, Final

from sampan.kube import names

Object = dict[str, Any]

DEPRECATED: Final = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
    "app.kubernetes.io/created-by": "deprecated since v1.9",
    "scheduler.alpha.kubernetes.io/preferAvoidPods": "deprecated since v1.22; use Taints and Tolerations instead",
    "node-role.kubernetes.io/master": 'use "node-role.kubernetes.io/control-plane" instead',
}


def of_term(term: Object, path: str, *, values: bool = False) -> list[str]:
    """A node selector term. `values`: say also which values no label can have."""
    found = []
    for index, item in enumerate(term.get("matchExpressions") or ()):
        key, where = item.get("key") or "", f"{path}.matchExpressions[{index}]"
        if key in DEPRECATED:
            found.append(f"{where}.key: {key} is {DEPRECATED[key]}")
        if values:
            for at, value in enumerate(item.get("values") or ()):
                text = f"{where}.values[{at}]: {value} is invalid, "
                found += [text + reason for reason in names.label_value(value)]
    return found


def of_selector(selector: Object | None, path: str) -> list[str]:
    """A label selector over nodes."""
    selector = selector or {}
    found = of_term(selector, path)
    for key in selector.get("matchLabels") or ():
        if key in DEPRECATED:
            found.append(f"{path}.matchLabels.{key}: {DEPRECATED[key]}")
    return found
