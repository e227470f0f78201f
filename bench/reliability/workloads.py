"""Workloads whose controllers are killed: nothing is created twice, nothing deleted too early.

A Deployment, a StatefulSet and a DaemonSet are rolled out again and again while Jobs run, and the
controllers' process lives for seconds only; what its watches tell lags, comes twice and mixed up.
Whoever watches afterwards has the whole history, each object at each of its revisions, and judges:

    ReplicaSet   never more active pods than it was ever told to have
    Deployment   never more replicas asked for than replicas + maxSurge, and never fewer pods ready
                 than replicas - maxUnavailable (upstream's `checkRollingUpdateInvariants`)
    StatefulSet  a pod's successor comes after the pod's containers have ended; pods come in order
    DaemonSet    one pod a node
    Job          never more active pods than `parallelism`; each index, and each of `completions`,
                 is completed once
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from bench.reliability.daemons import (
    CONTROLLERS,
    NEEDED,
    NODES,
    SCHEDULER,
    Daemons,
    daemons,
    kill_again_and_again,
    until,
)
from bench.reliability.figure import Figure
from navarch.client import Client

NAMESPACE = "default"
TRIED = (*NEEDED, "statefulset", "daemonset", "job", "garbagecollector")
SURGE = 0.25
ORDINALS, SIM_NODES, PARALLELISM = 6, 8, 5
Object = dict[str, Any]


def template(app: str, **annotations: str) -> Object:
    container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": "10m"}}}
    return {
        "metadata": {
            "labels": {"app": app},
            "annotations": {f"simulated.navarch.dev/{k}": v for k, v in annotations.items()},
        },
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
    }


def workloads(replicas: int) -> list[tuple[str, Object]]:
    """By plural; each pod takes a while to start and to stop, drawn by its uid."""

    def spec(app: str, **more: Any) -> Object:
        pod = template(app, start="0s-400ms", ready="0s-300ms", stop="0s-400ms")
        return {"selector": {"matchLabels": {"app": app}}, "template": pod, **more}

    return [
        ("deployments", {"metadata": {"name": "web"}, "spec": spec("web", replicas=replicas)}),
        (
            "statefulsets",
            {
                "metadata": {"name": "db"},
                "spec": spec("db", replicas=ORDINALS, serviceName="db"),
            },
        ),
        ("daemonsets", {"metadata": {"name": "log"}, "spec": spec("log")}),
    ]


def job(name: str, completions: int, mode: str) -> Object:
    pod = template(name, run="100ms-600ms")
    pod["spec"]["restartPolicy"] = "Never"
    spec = {"completions": completions, "parallelism": PARALLELISM, "completionMode": mode}
    return {"metadata": {"name": name}, "spec": {**spec, "template": pod}}


def owner(obj: Object) -> Object:
    """The controller, `{}` without one."""
    references = obj["metadata"].get("ownerReferences", ())
    return next((each for each in references if each.get("controller")), {})


def is_active(pod: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and not has_ended(pod)


def has_ended(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@dataclass
class Judge:
    """Is told of every event in the order of revisions."""

    replicas: int
    faults: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    pods: dict[str, Object] = field(default_factory=dict)
    """By uid."""
    created: Counter[str] = field(default_factory=Counter)
    """Pods by the kind of their owner."""
    sets: dict[str, Object] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)
    """How many pods each ReplicaSet was ever told to have."""
    jobs: dict[str, Object] = field(default_factory=dict)
    completed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Uids of pods that succeeded, by Job and index."""
    most: int = 0
    fewest: int | None = None
    """Ready pods of the Deployment, once all have been."""
    left: Object = field(default_factory=dict)
    """The StatefulSet's pods that are gone, as they were at the last, by name."""

    def fault(self, what: str, note: str, count: int = 1) -> None:
        self.faults[what] += count
        self.notes.append(f"{what}: {note}")

    def replica_set(self, kind: str, found: Object) -> None:
        uid = found["metadata"]["uid"]
        if kind == "DELETED":
            self.sets.pop(uid, None)
            return
        self.sets[uid] = found
        self.told[uid] = max(self.told[uid], found["spec"]["replicas"])
        asked = sum(each["spec"]["replicas"] for each in self.sets.values())
        limit = self.replicas + int(self.replicas * SURGE + 0.999)
        if asked > limit:
            self.fault("replicas above the limit", f"{asked} of {limit} asked for")

    def job(self, kind: str, found: Object) -> None:
        self.jobs[found["metadata"]["uid"]] = found

    def pod(self, kind: str, pod: Object) -> None:
        uid, by = pod["metadata"]["uid"], owner(pod)
        is_new = uid not in self.pods
        if kind == "DELETED":
            before = self.pods.pop(uid, pod)
            if by.get("kind") == "StatefulSet":
                self.left[pod["metadata"]["name"]] = before
        else:
            self.pods[uid] = pod
            self.created[by.get("kind", "")] += is_new
        siblings = [each for each in self.pods.values() if owner(each).get("uid") == by.get("uid")]
        {
            "ReplicaSet": self._of_replica_set,
            "StatefulSet": self._of_stateful_set,
            "DaemonSet": self._of_daemon_set,
            "Job": self._of_job,
        }[by["kind"]](pod, siblings, is_new)

    def _of_replica_set(self, pod: Object, siblings: list[Object], is_new: bool) -> None:
        uid = owner(pod)["uid"]
        active = sum(map(is_active, siblings))
        if is_new and active > self.told[uid]:
            above = active - self.told[uid]
            self.fault("pods above the limit", f"{pod['metadata']['name']}: {active}", above)
        web = [p for p in self.pods.values() if p["metadata"]["labels"]["app"] == "web"]
        ready = sum(is_active(each) and is_ready(each) for each in web)
        self.most = max(self.most, sum(map(is_active, web)))
        least = self.replicas - int(self.replicas * SURGE)
        if self.fewest is None:
            self.fewest = ready if ready == self.replicas else None
        elif ready < self.fewest:
            self.fewest = ready
            if ready < least:
                self.fault("too few ready", f"{ready} of {least}")

    def _of_stateful_set(self, pod: Object, siblings: list[Object], is_new: bool) -> None:
        name = pod["metadata"]["name"]
        if not is_new:
            return
        if sum(each["metadata"]["name"] == name for each in siblings) > 1:
            self.fault("twins", name)
        last = self.left.pop(name, None)
        if last is not None and last["spec"].get("nodeName") and not has_ended(last):
            self.fault("twins", f"{name} before its containers had ended")
        below = {p["metadata"]["name"]: p for p in siblings}
        for ordinal in range(int(name.rpartition("-")[2])):
            before = below.get(f"db-{ordinal}")
            if before is None or not is_active(before):
                self.fault("out of order", f"{name} before db-{ordinal}")

    def _of_daemon_set(self, pod: Object, siblings: list[Object], is_new: bool) -> None:
        # One that is deleted and has ended makes room before it is gone.
        there = [p for p in siblings if is_active(p) or not has_ended(p)]
        if is_new and max(Counter(map(_node_of, there)).values(), default=0) > 1:
            self.fault("daemons above one a node", pod["metadata"]["name"])

    def _of_job(self, pod: Object, siblings: list[Object], is_new: bool) -> None:
        spec = self.jobs[owner(pod)["uid"]]["spec"]
        indexes = [each["metadata"]["annotations"].get(INDEX, "") for each in siblings]
        if is_new:
            active = [i for i, each in zip(indexes, siblings, strict=True) if is_active(each)]
            if len(active) > spec["parallelism"]:
                self.fault("pods above parallelism", f"{pod['metadata']['name']}: {len(active)}")
            if spec["completionMode"] == "Indexed" and len({*active}) < len(active):
                self.fault("two pods of an index", pod["metadata"]["name"])
        if pod["status"].get("phase") == "Succeeded":
            name = owner(pod)["name"]
            index = pod["metadata"]["annotations"].get(INDEX, "")
            known = self.completed[f"{name}/{index}"]
            allowed = 1 if index else spec["completions"]
            if pod["metadata"]["uid"] not in known and len(known) >= allowed:
                self.fault("duplicate completions", f"{name} {index}")
            known.add(pod["metadata"]["uid"])


INDEX = "batch.kubernetes.io/job-completion-index"


def _node_of(pod: Object) -> str:
    """A daemon's node, which it asks for by name before it has been bound."""
    terms = pod["spec"]["affinity"]["nodeAffinity"]
    required = terms["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    name: str = required[0]["matchFields"][0]["values"][0]
    return name


GROUPS = {"pods": "", "replicasets": "apps", "jobs": "batch"}
"""The kinds that are judged."""
PATCHES = {"deployments": "web", "statefulsets": "db", "daemonsets": "log"}


@dataclass
class Story:
    """One run: its cluster's clients, and everything that was told."""

    client: Client
    chance: random.Random
    replicas: int
    told: list[tuple[int, str, str, Object]] = field(default_factory=list)
    rollouts: int = 0
    jobs: list[str] = field(default_factory=list)

    async def follow(self, plural: str) -> None:
        """Writes down every event of a kind. Its history begins before the first object."""
        resource = self.client.dynamic(GROUPS[plural], "v1", plural)
        async for event in resource.watch(NAMESPACE, resource_version="1"):
            revision = int(event.object["metadata"]["resourceVersion"])
            self.told.append((revision, plural, event.type, event.object))
        raise RuntimeError(f"the watch of {plural} ended")

    async def create(self) -> None:
        for plural, body in workloads(self.replicas):
            body["metadata"]["namespace"] = NAMESPACE
            await self.client.dynamic("apps", "v1", plural).create(body)

    async def disturb(self) -> None:
        """Rolls out and creates Jobs until cancelled."""
        while True:
            for mode in ("Indexed", "NonIndexed"):
                name = f"{mode.lower()}-{len(self.jobs)}"
                self.jobs.append(name)
                body = job(name, 3 * PARALLELISM, mode)
                body["metadata"]["namespace"] = NAMESPACE
                await self.client.dynamic("batch", "v1", "jobs").create(body)
            await asyncio.sleep(self.chance.uniform(1.0, 4.0))
            self.rollouts += 1
            annotations = {"turn": str(self.rollouts)}
            patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
            for plural, name in PATCHES.items():
                await self.client.dynamic("apps", "v1", plural).patch(name, NAMESPACE, patch)
            await asyncio.sleep(self.chance.uniform(1.0, 4.0))

    async def is_settled(self) -> bool:
        apps = {
            plural: await self.client.dynamic("apps", "v1", plural).get(name, NAMESPACE)
            for plural, name in PATCHES.items()
        }
        web, db, log = (apps[plural]["status"] for plural in PATCHES)
        jobs = (await self.client.dynamic("batch", "v1", "jobs").list(NAMESPACE)).items
        return (
            all(
                each["status"].get("observedGeneration") == each["metadata"]["generation"]
                for each in apps.values()
            )
            and web.get("replicas") == web.get("updatedReplicas") == self.replicas
            and web.get("availableReplicas") == self.replicas
            and db.get("updatedReplicas") == db.get("readyReplicas") == ORDINALS
            and db.get("currentRevision") == db.get("updateRevision")
            and log.get("updatedNumberScheduled") == log.get("numberReady") == SIM_NODES
            and all(each["status"].get("succeeded") == 3 * PARALLELISM for each in jobs)
            and all("completionTime" in each["status"] for each in jobs)
        )

    def judged(self) -> Judge:
        judge = Judge(self.replicas)
        tell = {"pods": judge.pod, "replicasets": judge.replica_set, "jobs": judge.job}
        for _, plural, kind, found in sorted(self.told, key=lambda each: each[0]):
            tell[plural](kind, found)
        completions = Counter(key.partition("/")[0] for key in judge.completed)
        for name in self.jobs:
            pods = len(judge.completed[f"{name}/"]) or completions[name]
            if pods != 3 * PARALLELISM:
                judge.fault("Jobs miscounted", f"{name}: {pods}")
        return judge


async def run(found: Daemons, replicas: int, kills: int, seed: int) -> tuple[Story, Judge]:
    chance = random.Random(seed)
    names = [f"node-{number}" for number in range(SIM_NODES)]
    found.start("nodes", NODES, {"names": names})
    found.start("scheduler", SCHEDULER)

    def start() -> None:
        options = {"controllers": TRIED}
        found.start("controllers", CONTROLLERS, options, seed=chance.randrange(1 << 30))

    async with found.client() as client:
        story = Story(client, chance, replicas)
        async with asyncio.TaskGroup() as group:
            followers = [group.create_task(story.follow(plural)) for plural in GROUPS]
            await story.create()
            disturbing = group.create_task(story.disturb())
            await kill_again_and_again(found, "controllers", start, chance, kills)
            disturbing.cancel()
            is_settled = await until(story.is_settled)
            for each in followers:
                each.cancel()
        judge = story.judged()
        if not is_settled:
            judge.fault("not settled", found.log("controllers"))
        return story, judge


FAULTS = (
    *("pods above the limit", "replicas above the limit", "too few ready", "twins"),
    *("out of order", "daemons above one a node", "pods above parallelism"),
    *("two pods of an index", "duplicate completions", "Jobs miscounted", "not settled"),
)


async def killed_controllers(replicas: int, kills: int, seed: int, repeat: str) -> Figure:
    with daemons() as found:
        story, judge = await run(found, replicas, kills, seed)
    figure = Figure("23", "killed controllers create nothing twice", seed, repeat)
    figure.counts = {
        "replicas": replicas,
        "kills": found.kills,
        "rollouts": story.rollouts,
        "Jobs": len(story.jobs),
        "events judged": len(story.told),
        **{f"pods by {kind}": count for kind, count in sorted(judge.created.items())},
        "most pods of the Deployment": judge.most,
        "fewest ready": judge.fewest or 0,
    }
    figure.faults = {name: judge.faults[name] for name in FAULTS}
    figure.notes = judge.notes
    return figure
