"""Objects that are right, and the sentence that one is refused with."""

from __future__ import annotations

import copy

from sampan.kube.defaulting import default
from sampan.kube.types import GVK
from sampan.kube.validation import validate_create, validate_update

META = {"name": "web", "namespace": "default"}
CONTAINER = {"name": "a", "image": "x:1"}


def made(group, kind, obj, version="v1"):
    gvk = GVK(group, version, kind)
    obj = {"metadata": dict(META)} | copy.deepcopy(obj)
    default(gvk, obj)
    return gvk, obj


def refused(group, kind, obj, version="v1"):
    gvk, obj = made(group, kind, obj, version)
    return [str(cause) for cause in validate_create(gvk, obj)]


def pod(**spec):
    return {"spec": {"containers": [dict(CONTAINER)]} | spec}


def container(**fields):
    return pod(containers=[CONTAINER | fields])


def deployment(**spec):
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [dict(CONTAINER)]}}
    return {"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template} | spec}


def changed(group, kind, obj, change, version="v1", subresource=""):
    gvk, old = made(group, kind, obj, version)
    assert validate_create(gvk, old) == []
    new = copy.deepcopy(old)
    change(new)
    return [str(cause) for cause in validate_update(gvk, new, old, subresource)]
