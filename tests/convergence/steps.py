"""What happens to a cluster: steps as values, drawn from a seed, and how each is taken.

Names come from small pools, so that steps meet each other: an owner is made anew under the name of
one that is being deleted, a scale comes in the middle of a rollout, a node dies under a Job. A step
that cannot be taken (there is no such object) does nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .world import NODE_NAMES, PROCESSES, Object, World

NAMESPACES = ("one", "two")
POLICIES = ("Background", "Foreground", "Orphan")
PREFIX = "simulated.navarch.dev"
RELEASED = "released"
"""The label `app` of a pod that was taken from its owner."""
BROKEN = 4
"""Every fourth version of a template never becomes ready."""

GROUPS = {
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "statefulsets": "apis/apps/v1",
    "daemonsets": "apis/apps/v1",
    "jobs": "apis/batch/v1",
    "cronjobs": "apis/batch/v1",
    "poddisruptionbudgets": "apis/policy/v1",
}
KINDS = {
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "replicationcontrollers": "ReplicationController",
    "statefulsets": "StatefulSet",
    "daemonsets": "DaemonSet",
    "jobs": "Job",
    "cronjobs": "CronJob",
    "services": "Service",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "resourcequotas": "ResourceQuota",
    "configmaps": "ConfigMap",
    "pods": "Pod",
}
SCALED = ("deployments", "replicasets", "replicationcontrollers", "statefulsets")
TEMPLATED = (*SCALED, "daemonsets")
APPS: dict[str, tuple[str, ...]] = {
    "deployments": ("web", "api"),
    "replicasets": ("cache",),
    "replicationcontrollers": ("old",),
    "statefulsets": ("db", "queue"),
    "daemonsets": ("agent",),
    "jobs": ("batch", "sum"),
    "cronjobs": ("tick",),
}
"""By resource, the names of objects; pods carry their owner's name as the label `app`."""
NAMES = tuple(name for resource in TEMPLATED for name in APPS[resource])


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens, and how long until the next."""

    action: str
    arguments: tuple[Any, ...] = ()
    wait: float = 0.0

    async def take(self, world: World) -> None:
        await ACTIONS[self.action](world, *self.arguments)
        await asyncio.sleep(self.wait)


def path_of(resource: str, namespace: str, name: str = "", subresource: str = "") -> str:
    root = f"/{GROUPS.get(resource, 'api/v1')}/namespaces/{namespace}/{resource}"
    return "/".join(filter(None, [root, name, subresource]))


def template_of(name: str, version: int, **annotations: str) -> Object:
    """A pod template; the version makes it another one."""
    settings = {f"{PREFIX}/{key.replace('_', '-')}": each for key, each in annotations.items()}
    if version % BROKEN == BROKEN - 1:
        settings[f"{PREFIX}/waiting"] = "ImagePullBackOff"
    requests = {"cpu": "100m", "memory": "64Mi"}
    container = {
        "name": "main",
        "image": f"registry.example/{name}:{version}",
        "resources": {"requests": requests},
    }
    return {
        "metadata": {"labels": {"app": name}, "annotations": settings},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
    }


# ---- actions


async def put(world: World, resource: str, namespace: str, name: str, spec: Object) -> None:
    kind = KINDS[resource]
    root = GROUPS.get(resource, "api/v1")
    body: Object = {
        "apiVersion": root.removeprefix("apis/").removeprefix("api/"),
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    await world.call("POST", path_of(resource, namespace), body)


async def change(world: World, resource: str, namespace: str, name: str, spec: Object) -> None:
    """A merge patch of the spec."""
    await world.call("PATCH", path_of(resource, namespace, name), {"spec": spec})


async def delete(
    world: World, resource: str, namespace: str, name: str, policy: str, grace: int | None = None
) -> None:
    options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    await world.call("DELETE", path_of(resource, namespace, name), options)


def _nth_pod(world: World, number: int) -> Object | None:
    pods = [pod for pod in world.objects("pods") if pod["metadata"]["namespace"] in NAMESPACES]
    pods.sort(key=lambda pod: (pod["metadata"]["namespace"], pod["metadata"]["name"]))
    return pods[number % len(pods)] if pods else None


async def touch_pod(world: World, number: int, how: str) -> None:
    """Something befalls a pod by hand."""
    pod = _nth_pod(world, number)
    if pod is None:
        return
    meta = pod["metadata"]
    path = path_of("pods", meta["namespace"], meta["name"])
    match how:
        case "delete":
            await world.call("DELETE", path)
        case "force":
            await world.call("DELETE", f"{path}?gracePeriodSeconds=0")
        case "release":
            await world.call("PATCH", path, {"metadata": {"labels": {"app": RELEASED}}})
        case "fail":
            status = {"status": {"phase": "Failed", "reason": "ByHand"}}
            await world.call("PATCH", f"{path}/status", status)
        case "evict":
            await evict(world, meta["namespace"], meta["name"])
        case "label":
            await world.call("PATCH", path, {"metadata": {"labels": {"seen": str(number)}}})
        case _:
            raise ValueError(how)


async def evict(world: World, namespace: str, name: str) -> bool:
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    answer = await world.call("POST", path_of("pods", namespace, name, "eviction"), body)
    return answer is not None


async def evict_all(world: World, namespace: str, app: str) -> None:
    """Ask to evict every pod of an application at once."""
    pods = [
        pod["metadata"]["name"]
        for pod in world.objects("pods")
        if pod["metadata"]["namespace"] == namespace
        and pod["metadata"].get("labels", {}).get("app") == app
    ]
    await asyncio.gather(*(evict(world, namespace, name) for name in pods))


async def orphan(world: World, namespace: str, app: str, number: int) -> None:
    """A pod made by hand that somebody might adopt."""
    pod = {"apiVersion": "v1", "kind": "Pod", **template_of(app, 0)}
    pod["metadata"]["name"] = f"{app}-by-hand-{number}"
    await world.call("POST", path_of("pods", namespace), pod)


async def own(world: World, namespace: str, name: str, owners: Sequence[tuple[str, str]]) -> None:
    """A ConfigMap that belongs to those of the owners that are there."""
    references: list[Object] = []
    for resource, owner in owners:
        found = await world.call("GET", path_of(resource, namespace, owner))
        if found is not None:
            references.append(
                {
                    "apiVersion": found["apiVersion"],
                    "kind": found["kind"],
                    "name": owner,
                    "uid": found["metadata"]["uid"],
                    "blockOwnerDeletion": len(references) == 0,
                }
            )
    metadata = {"name": name, "ownerReferences": references}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    await world.call("POST", path_of("configmaps", namespace), body)


async def hold(world: World, resource: str, namespace: str, name: str) -> None:
    """Keep an object from going away."""
    body = {"metadata": {"finalizers": ["tests/hold"]}}
    await world.call("PATCH", path_of(resource, namespace, name), body)


async def namespace_made(world: World, name: str) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await world.call("POST", "/api/v1/namespaces", body)


async def namespace_deleted(world: World, name: str) -> None:
    await world.call("DELETE", f"/api/v1/namespaces/{name}")


async def node(world: World, name: str, how: str) -> None:
    """Something befalls a node."""
    path = f"/api/v1/nodes/{name}"
    taints = {
        "taint": [{"key": "out", "effect": "NoExecute"}],
        "full": [{"key": "full", "effect": "NoSchedule"}],
    }
    match how:
        case "delete":
            await world.call("DELETE", path)
        case "cordon" | "uncordon":
            await world.call("PATCH", path, {"spec": {"unschedulable": how == "cordon" or None}})
        case "taint" | "full":
            await world.call("PATCH", path, {"spec": {"taints": taints[how]}})
        case "dead" | "hung" | "restore":
            fault = None if how == "restore" else how
            annotations = {f"{PREFIX}/fault": fault}
            await world.call("PATCH", path, {"metadata": {"annotations": annotations}})
        case "label" | "unlabel":
            labels = {"disk": "ssd" if how == "label" else None}
            await world.call("PATCH", path, {"metadata": {"labels": labels}})
        case _:
            raise ValueError(how)


async def kill(world: World, process: str, after: int) -> None:
    world.kill(process, after)


async def cut(world: World) -> None:
    """Every connection breaks."""
    for process in world.processes.values():
        if process.client is not None:
            process.client.cut()


async def forget(world: World) -> None:
    """Watches that are resumed from before now are answered with 410."""
    core = world.server.core
    await core.store.compact(core.hub.revision)
    for cache in core.hub.caches():
        cache.trim(float("inf"))


async def weather(world: World, failures: float, cuts: float, lag: float, repeats: float) -> None:
    present = world.wire.weather
    present.failures, present.cuts, present.lag, present.repeats = failures, cuts, lag, repeats


async def heal(world: World) -> None:
    """Nodes work again, the network does, and what would never end does."""
    world.wire.weather.clear_up()
    world.kill("nodes")  # nodes that were deleted come back with their process
    for found in world.objects("nodes"):
        path = f"/api/v1/nodes/{found['metadata']['name']}"
        annotations = {f"{PREFIX}/fault": None}
        body = {
            "metadata": {"annotations": annotations},
            "spec": {"unschedulable": None, "taints": None},
        }
        await world.call("PATCH", path, body)
    for found in world.objects("cronjobs", "batch"):
        meta = found["metadata"]
        await change(world, "cronjobs", meta["namespace"], meta["name"], {"suspend": True})


ACTIONS: dict[str, Callable[..., Awaitable[None]]] = {
    action.__name__: action
    for action in (
        put,
        change,
        delete,
        touch_pod,
        evict_all,
        orphan,
        own,
        hold,
        namespace_made,
        namespace_deleted,
        node,
        kill,
        cut,
        forget,
        weather,
        heal,
    )
}


# ---- drawing


def draw_spec(rng: random.Random, resource: str, name: str) -> Object:
    """The spec of a new object."""
    return DRAWN[resource](rng, name)


def _selector(name: str) -> Object:
    return {"matchLabels": {"app": name}}


def _version(rng: random.Random) -> int:
    return rng.choice((0, 0, 1, 1, 2, 3, 4, 5))


def _amount(rng: random.Random) -> int | str:
    return rng.choice((1, 1, 2, "25%", "50%"))


def _deployment(rng: random.Random, name: str) -> Object:
    spec: Object = {
        "replicas": rng.randint(0, 7),
        "selector": _selector(name),
        "template": template_of(name, _version(rng)),
        "revisionHistoryLimit": rng.randint(0, 3),
        "progressDeadlineSeconds": rng.choice((30, 120)),
        "minReadySeconds": rng.choice((0, 0, 3)),
        "strategy": {"type": "Recreate"},
    }
    if spec["minReadySeconds"] >= spec["progressDeadlineSeconds"]:
        del spec["progressDeadlineSeconds"]
    if rng.random() < 0.75:
        surge = {"maxSurge": _amount(rng), "maxUnavailable": rng.choice((0, 1, "50%"))}
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": surge}
    return spec


def _replicaset(rng: random.Random, name: str) -> Object:
    return {
        "replicas": rng.randint(0, 6),
        "selector": _selector(name),
        "template": template_of(name, 0),
        "minReadySeconds": rng.choice((0, 3)),
    }


def _controller(rng: random.Random, name: str) -> Object:
    return {**_replicaset(rng, name), "selector": {"app": name}}


def _statefulset(rng: random.Random, name: str) -> Object:
    update: Object = {"type": "OnDelete"}
    if rng.random() < 0.8:
        rolling: Object = {"partition": rng.choice((0, 0, 0, 1, 3))}
        if rng.random() < 0.3:
            rolling["maxUnavailable"] = rng.choice((1, 2, "50%"))
        update = {"type": "RollingUpdate", "rollingUpdate": rolling}
    return {
        "replicas": rng.randint(0, 5),
        "serviceName": name,
        "selector": _selector(name),
        "template": template_of(name, _version(rng)),
        "podManagementPolicy": rng.choice(("OrderedReady", "Parallel")),
        "updateStrategy": update,
        "ordinals": {"start": rng.choice((0, 0, 2))},
        "revisionHistoryLimit": rng.randint(1, 3),
        "minReadySeconds": rng.choice((0, 0, 3)),
    }


def _daemonset(rng: random.Random, name: str) -> Object:
    update: Object = {"type": "OnDelete"}
    if rng.random() < 0.8:
        rolling: Object = {"maxUnavailable": rng.choice((1, 2, "50%"))}
        if rng.random() < 0.5:
            rolling = {"maxSurge": rng.choice((1, "50%")), "maxUnavailable": 0}
        update = {"type": "RollingUpdate", "rollingUpdate": rolling}
    template = template_of(name, _version(rng))
    if rng.random() < 0.3:
        template["spec"]["nodeSelector"] = {"disk": "ssd"}
    return {"selector": _selector(name), "template": template, "updateStrategy": update}


def _job(rng: random.Random, name: str) -> Object:
    chance = rng.choice(("0", "0", "0.2", "0.5"))
    template = template_of(name, 0, run="1s-20s", failure_chance=chance, failure_code="3")
    template["spec"]["restartPolicy"] = rng.choice(("Never", "Never", "OnFailure"))
    is_indexed = rng.random() < 0.5
    spec: Object = {
        "template": template,
        "parallelism": rng.randint(0, 4),
        "completions": rng.randint(1, 8),
        "completionMode": "Indexed" if is_indexed else "NonIndexed",
        "backoffLimit": rng.choice((0, 2, 6)),
        "suspend": rng.random() < 0.2,
    }
    if not is_indexed and rng.random() < 0.2:
        del spec["completions"]
        spec["parallelism"] = rng.randint(1, 4)
    if rng.random() < 0.2:
        spec["activeDeadlineSeconds"] = rng.choice((5, 60))
    if rng.random() < 0.2:
        spec["ttlSecondsAfterFinished"] = rng.choice((0, 20))
    if template["spec"]["restartPolicy"] == "Never":
        if is_indexed and rng.random() < 0.3:
            del spec["backoffLimit"]
            spec |= {"backoffLimitPerIndex": rng.randint(0, 2), "maxFailedIndexes": 5}
        if rng.random() < 0.3:
            codes = {"operator": "In", "values": [3]}
            action = rng.choice(("FailJob", "Ignore", "Count"))
            spec["podFailurePolicy"] = {"rules": [{"action": action, "onExitCodes": codes}]}
    if rng.random() < 0.3 or "podFailurePolicy" in spec:
        spec["podReplacementPolicy"] = "Failed"
    return spec


def _cronjob(rng: random.Random, name: str) -> Object:
    template = template_of(name, 0, run=rng.choice(("1s-20s", "50s-100s")))
    template["spec"]["restartPolicy"] = "Never"
    return {
        "schedule": "* * * * *",
        "concurrencyPolicy": rng.choice(("Allow", "Forbid", "Replace")),
        "successfulJobsHistoryLimit": rng.randint(0, 2),
        "startingDeadlineSeconds": rng.choice((15, 200)),
        "jobTemplate": {"spec": {"template": template, "completions": rng.randint(1, 2)}},
    }


DRAWN: dict[str, Callable[[random.Random, str], Object]] = {
    "deployments": _deployment,
    "replicasets": _replicaset,
    "replicationcontrollers": _controller,
    "statefulsets": _statefulset,
    "daemonsets": _daemonset,
    "jobs": _job,
    "cronjobs": _cronjob,
}


def _edit(rng: random.Random, resource: str, name: str) -> Object:
    """A change of the spec of an object that is there."""
    if resource in SCALED and rng.random() < 0.5:
        return {"replicas": rng.randint(0, 7)}
    if resource == "jobs":
        return rng.choice([{"suspend": rng.random() < 0.4}, {"parallelism": rng.randint(0, 5)}])
    if resource == "cronjobs":
        return {"suspend": rng.random() < 0.5}
    spec = draw_spec(rng, resource, name)
    if resource == "deployments" and rng.random() < 0.25:
        return {"paused": rng.random() < 0.4}
    if rng.random() < 0.7:
        return {"template": spec["template"]}
    for fixed in ("selector", "serviceName", "podManagementPolicy", "template"):
        spec.pop(fixed, None)
    return spec


def _workload_step(rng: random.Random) -> tuple[str, tuple[Any, ...]]:
    resource = rng.choice(
        (*SCALED, "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs")
    )
    name = rng.choice(APPS[resource])
    namespace = rng.choice((*NAMESPACES, NAMESPACES[0]))
    chance = rng.random()
    if chance < 0.45:
        return "put", (resource, namespace, name, draw_spec(rng, resource, name))
    if chance < 0.85:
        return "change", (resource, namespace, name, _edit(rng, resource, name))
    return "delete", (resource, namespace, name, rng.choice(POLICIES))


def _other_step(rng: random.Random) -> tuple[str, tuple[Any, ...]]:
    namespace, app = rng.choice(NAMESPACES), rng.choice(NAMES)
    match rng.randint(0, 8):
        case 0:
            spec: Object = {"selector": {"app": app}, "ports": [{"port": 80}]}
            return "put", ("services", namespace, rng.choice(("front", "back")), spec)
        case 1:
            return "change", ("services", namespace, "front", {"selector": {"app": app}})
        case 2:
            limit = rng.choice(({"minAvailable": _amount(rng)}, {"maxUnavailable": _amount(rng)}))
            spec = {"selector": _selector(app), **limit}
            return "put", ("poddisruptionbudgets", namespace, f"keep-{app}", spec)
        case 3:
            return "evict_all", (namespace, app)
        case 4:
            spec = {"hard": {"pods": str(rng.randint(3, 14)), "count/configmaps": "20"}}
            verb = rng.choice(("put", "change"))
            return verb, ("resourcequotas", "two", "limit", spec)
        case 5:
            return "orphan", (namespace, app, rng.randint(0, 3))
        case 6:
            owners = [(kind, rng.choice(APPS[kind])) for kind in rng.sample(TEMPLATED, 2)]
            return "own", (namespace, f"note-{rng.randint(0, 4)}", owners)
        case 7:
            resource = rng.choice(("services", "poddisruptionbudgets", "resourcequotas"))
            name = {"services": "front", "resourcequotas": "limit"}.get(resource, f"keep-{app}")
            return "delete", (resource, namespace, name, "Background")
        case _:
            verb = rng.choice(("namespace_made", "namespace_made", "namespace_deleted"))
            return verb, ("two",)


POD_TOUCHES = ("delete", "delete", "force", "release", "fail", "evict", "label")
NODE_TOUCHES = (
    *("cordon", "uncordon", "taint", "full", "dead", "hung"),
    *("restore", "restore", "label", "label", "unlabel", "delete"),
)


def _fault_step(rng: random.Random) -> tuple[str, tuple[Any, ...]]:
    chance = rng.random()
    if chance < 0.5:
        return "kill", (rng.choice((*PROCESSES, "controllers")), rng.randint(0, 40))
    if chance < 0.65:
        return "cut", ()
    if chance < 0.72:
        return "forget", ()
    return "weather", _weather(rng)


def _weather(rng: random.Random) -> tuple[float, ...]:
    return (
        rng.choice((0.0, 0.02, 0.1, 0.25)),
        rng.choice((0.0, 0.0, 0.02, 0.1)),
        rng.choice((0.0, 0.5, 4.0)),
        rng.choice((0.0, 0.5)),
    )


def draw(seed: int, length: int = 60) -> list[Step]:
    """A script. It begins with something to work on and ends with the faults mended."""
    rng = random.Random(seed)
    steps = [Step("namespace_made", (name,)) for name in NAMESPACES]
    steps.append(Step("weather", _weather(rng)))
    for _ in range(length):
        action, arguments = rng.choices(
            (
                _workload_step,
                _other_step,
                _fault_step,
                lambda rng: ("touch_pod", (rng.randint(0, 99), rng.choice(POD_TOUCHES))),
                lambda rng: ("node", (rng.choice(NODE_NAMES), rng.choice(NODE_TOUCHES))),
            ),
            (50, 15, 15, 10, 10),
        )[0](rng)
        wait = rng.choice((0.0, 0.0, 0.05, 0.5, 2.0, 6.0, 15.0, 40.0))
        steps.append(Step(action, arguments, wait))
    return [*steps, Step("heal")]
