"""A kopf operator on a custom resource with admission webhooks, run by test_e2e_kopf_crd.py with `kopf run`.

kopf serves the webhooks itself, over TLS, and registers them as it starts; the certificate is made by the test.
"""

from __future__ import annotations

import os
from typing import Any

import kopf

GROUP, VERSION, PLURAL = "fleet.example.com", "v1", "boats"


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    certificate, key = os.environ["WEBHOOK_CERTIFICATE"], os.environ["WEBHOOK_KEY"]
    settings.admission.server = kopf.WebhookServer(
        addr="127.0.0.1", port=int(os.environ["WEBHOOK_PORT"]), host="127.0.0.1",
        certfile=certificate, pkeyfile=key, cafile=certificate,
    )  # fmt: skip
    settings.admission.managed = "boats.kopf.dev"


@kopf.on.mutate(GROUP, VERSION, PLURAL)
def paint(spec: kopf.Spec, patch: kopf.Patch, **_: Any) -> None:
    if "colour" not in spec:
        patch.spec["colour"] = "white"


@kopf.on.validate(GROUP, VERSION, PLURAL)
def inspect(spec: kopf.Spec, warnings: list[str], **_: Any) -> None:
    if spec.get("crew", 0) > 12:
        raise kopf.AdmissionError("she would sink", code=400)
    if spec.get("crew", 0) > 8:
        warnings.append("she lies deep")


@kopf.on.create(GROUP, VERSION, PLURAL)
def launch(name: str, spec: kopf.Spec, patch: kopf.Patch, **_: Any) -> None:
    print(f"launched {name} {spec['colour']}", flush=True)
    patch.status["phase"] = "Afloat"


@kopf.on.update(GROUP, VERSION, PLURAL, field="spec.crew")
def muster(name: str, old: Any, new: Any, patch: kopf.Patch, **_: Any) -> None:
    print(f"mustered {name} {old} {new}", flush=True)
    patch.status["mustered"] = new


@kopf.on.delete(GROUP, VERSION, PLURAL)
def scrap(name: str, **_: Any) -> None:
    print(f"scrapped {name}", flush=True)
