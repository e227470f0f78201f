"""An operator that uses most of what kopf has. What it sees goes into the object's status, where
the tests read it."""

from __future__ import annotations

from typing import Any

import kopf

GROUP = "example.com"


@kopf.on.login()
def login(**arguments: Any) -> Any:
    return kopf.login_with_kubeconfig(**arguments)


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.level = 20
    settings.watching.server_timeout = 2
    settings.watching.reconnect_backoff = 0.05
    settings.execution.max_workers = 4


@kopf.on.create(GROUP, "v1", "widgets")
def created(spec: kopf.Spec, patch: kopf.Patch, body: kopf.Body, **_: Any) -> dict[str, Any]:
    kopf.info(body, reason="Made", message="a widget was made")
    patch.status["size"] = spec.get("size", 0)
    return {"color": spec.get("color", "none")}


@kopf.on.create(GROUP, "v1", "widgets", labels={"trouble": "yes"}, backoff=0.2)
def troubled(retry: int, **_: Any) -> str:
    if retry < 2:
        raise kopf.TemporaryError("not yet", delay=0.2)
    return f"after {retry} retries"


@kopf.on.update(GROUP, "v1", "widgets", field="spec.color")
def repainted(old: Any, new: Any, **_: Any) -> str:
    return f"{old} to {new}"


@kopf.on.delete(GROUP, "v1", "widgets", annotations={"keep": kopf.ABSENT})
async def deleted(name: str, logger: Any, **_: Any) -> None:
    """The finalizer holds the object until this has succeeded."""
    logger.info(f"{name} was cleaned up")


@kopf.timer(GROUP, "v1", "widgets", interval=0.2, labels={"timer": "yes"})
def tick(status: kopf.Status, patch: kopf.Patch, **_: Any) -> None:
    patch.status["ticks"] = status.get("ticks", 0) + 1


@kopf.daemon(GROUP, "v1", "widgets", labels={"daemon": "yes"}, cancellation_timeout=2)
async def watchful(stopped: Any, logger: Any, **_: Any) -> None:
    logger.info("the daemon has begun")
    try:
        while not stopped:
            await stopped.wait(1)
    finally:
        logger.info("the daemon has ended")


@kopf.index("configmaps", labels={"indexed": "yes"})
def contents(name: str, body: kopf.Body, **_: Any) -> dict[str, Any]:
    return {name: dict(body.get("data", {}))}


@kopf.on.event("configmaps", labels={"indexed": "yes"})
def looked(name: str, event: Any, logger: Any, **others: Any) -> None:
    found = [dict(each) for each in others["contents"].get(name, [])]
    logger.info(f"{event['type']} {name} {found}")
