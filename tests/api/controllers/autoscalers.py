"""What the tests of autoscalers have in common: a ReplicaSet whose pods say what they use, and the
autoscaler over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.api.conftest import Api

from navarch.api.types.core_v1 import Event
from navarch.client import Client, Object

from .conftest import eventually

HPAS = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
SETS = "/apis/apps/v1/namespaces/default/replicasets"
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
CPU = "simulated.navarch.dev/cpu"
MEMORY = "simulated.navarch.dev/memory"


async def make_set(
    api: Api, replicas: int = 1, name: str = "web", requests: Any = None, **use: str
) -> None:
    """Pods that request a tenth of a core and use what `cpu` and `memory` say."""
    labels = {"app": name}
    keys = {"cpu": CPU, "memory": MEMORY}
    annotations = {keys[key]: value for key, value in use.items()}
    resources = {"requests": {"cpu": "100m"} if requests is None else requests}
    container = {"name": "main", "image": "registry.example/i", "resources": resources}
    template = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"nodeName": "sim", "containers": [container], "terminationGracePeriodSeconds": 0},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    (await api.post(SETS, {"metadata": {"name": name}, "spec": spec})).ok(201)


async def make_hpa(api: Api, *metrics: Object, name: str = "hpa", **spec: Any) -> None:
    target = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web"}
    body = {"scaleTargetRef": target, "maxReplicas": 4, "metrics": list(metrics), **spec}
    (await api.post(HPAS, {"metadata": {"name": name}, "spec": body})).ok(201)


def resource(name: str, container: str = "", **target: Any) -> Object:
    kind = "Utilization" if "averageUtilization" in target else "AverageValue"
    source: Object = {"name": name, "target": {"type": kind, **target}}
    if container:
        return {
            "type": "ContainerResource",
            "containerResource": {**source, "container": container},
        }
    return {"type": "Resource", "resource": source}


async def until(api: Api, check: Callable[[Object], Any], name: str = "hpa") -> Object:
    """The autoscaler's status, once it is as wanted."""

    async def is_so() -> Object:
        status: Object = (await api.get(f"{HPAS}/{name}")).ok().get("status") or {}
        assert check(status), status
        return status

    return await eventually(is_so, "the status")


def conditions(status: Object) -> dict[str, tuple[str, str, str]]:
    return {
        each["type"]: (each["status"], each["reason"], each["message"])
        for each in status.get("conditions") or ()
    }


def says(kind: str, status: str, reason: str) -> Callable[[Object], bool]:
    return lambda found: conditions(found).get(kind, ())[:2] == (status, reason)


async def event(client: Client, reason: str) -> str:
    """The message of the first event of that reason."""

    async def found() -> str:
        events = await client.resource(Event).list("default")
        return next((each.message for each in events.items if each.reason == reason), "")

    return await eventually(found, f"an event {reason}")


async def replicas(api: Api) -> int:
    return int((await api.get(f"{SETS}/web")).ok()["spec"]["replicas"])
