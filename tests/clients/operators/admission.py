"""An operator that has a say in what is admitted."""

from __future__ import annotations

import os
from typing import Any

import kopf

GROUP = "example.com"


@kopf.on.login()
def login(**arguments: Any) -> Any:
    return kopf.login_with_kubeconfig(**arguments)


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.admission.managed = "kopf.example.com"
    settings.admission.server = kopf.WebhookServer(
        addr="127.0.0.1",
        host="127.0.0.1",
        certfile=os.environ["WEBHOOK_CERTIFICATE"],
        pkeyfile=os.environ["WEBHOOK_KEY"],
        cafile=os.environ["WEBHOOK_CA"],
    )


@kopf.on.validate(GROUP, "v1", "widgets")
def check(spec: kopf.Spec, warnings: list[str], **_: Any) -> None:
    if spec.get("color") == "beige":
        raise kopf.AdmissionError("beige is not a color", code=422)
    if spec.get("color") == "brown":
        warnings.append("brown is going out of fashion")


@kopf.on.mutate(GROUP, "v1", "widgets", operations={"CREATE"})
def fill_in(spec: kopf.Spec, patch: kopf.Patch, **_: Any) -> None:
    if "size" not in spec:
        patch.spec["size"] = 7
