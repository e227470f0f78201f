"""Reading what is needed from the API: many small requests at once, nothing is written.

Only standard resources are asked for, so any cluster will do. What the user may not read is left
out and named; only the thing that is asked about must be readable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from navarch.api.errors import ApiError
from navarch.api.objects import Object, from_object
from navarch.api.persistent_volumes import claim_name
from navarch.api.selectors import escape_field_value, label_selector_from_object
from navarch.api.types.core_v1 import Event, Node, PersistentVolumeClaim, Pod, Service
from navarch.api.types.meta_v1 import LabelSelector, OwnerReference
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.api.types.storage_v1 import StorageClass
from navarch.cli.why import assembly, endpoints
from navarch.cli.why.facts import Facts, Log, Owner, Part, parts_of
from navarch.cli.why.report import Report
from navarch.cli.why.targets import POD, Target, Typed, path_of_kind, resource_of
from navarch.cli.why.verdicts import rank
from navarch.client import Client, controller_of
from navarch.client.resource import ResourcePath
from navarch.scheduler.explanation import Explanation, explain
from navarch.scheduler.framework import Profile
from navarch.scheduler.podinfo import DEFAULT_SCHEDULER
from navarch.scheduler.snapshot import read_snapshot

T = TypeVar("T")

LONGEST_CHAIN = 8
MOST_LOG_BYTES = 65536
PODS_FOR_SCORES = 20_000
"""Of a cluster with more pods it is not worked out why a pod is well placed: that takes reading
all of them."""
BETWEEN = {
    "ReplicaSet": ResourcePath("apps", "v1", "replicasets", True),
    "Job": ResourcePath("batch", "v1", "jobs", True),
    "Deployment": ResourcePath("apps", "v1", "deployments", True),
    "StatefulSet": ResourcePath("apps", "v1", "statefulsets", True),
    "DaemonSet": ResourcePath("apps", "v1", "daemonsets", True),
}
"""What may stand between an owner and its pods, by kind: items of a list need not say theirs."""
AUTOSCALERS = ResourcePath("autoscaling", "v2", "horizontalpodautoscalers", True)


class NotThereError(Exception):
    """What is asked about does not exist."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Question:
    target: Target
    namespace: str
    tail: int = 5
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    """The profiles of the scheduler that is at work, by name."""
    remarks: tuple[str, ...] = ()


class Reader:
    def __init__(self, client: Client, question: Question) -> None:
        self._client = client
        self._question = question
        self._namespace = question.namespace
        self._notes: list[str] = [*question.remarks]

    async def report(self) -> Report:
        """Raises NotThereError, UnknownTypeError, ApiError."""
        target = self._question.target
        typed = await resource_of(self._client, target.type)
        found = await self._asked_for(typed, target)
        match typed.kind:
            case "Pod":
                return assembly.pod_report(await self._facts(from_object(Pod, found)))
            case "Service":
                pods = await self._client.resource(Pod).list(self._namespace)
                return endpoints.service(from_object(Service, found), pods.items)
            case "PersistentVolumeClaim":
                return await self._claim(from_object(PersistentVolumeClaim, found))
        return await self._owner(typed, found)

    async def _asked_for(self, typed: Typed, target: Target) -> Object:
        try:
            return await self._get(typed.path, target.name)
        except ApiError as error:
            if not error.is_not_found:
                raise
            what = f"{typed.kind.lower()} {target.name}"
            message = f"{what} is not in namespace {self._namespace}"
            raise NotThereError(message, await self._instead(typed.path, target.name)) from None

    async def _instead(self, path: ResourcePath, name: str) -> str:
        """What may be meant, and what was told of a thing that is gone."""
        client = self._client.metadata(path.group, path.version, path.plural)
        there = await self._allowed(client.list(), "")
        lines = [
            f"Perhaps {typed.plural.removesuffix('s')}/{name} is meant"
            for typed in (BETWEEN.values() if path == POD.path else ())
            if await self._allowed(self._get(typed, name), "") is not None
        ]
        if there is not None:
            same = [e.metadata.namespace for e in there.items if e.metadata.name == name]
            lines += [f"There is one in namespace {each}: add -n {each}" for each in same[:3]]
            mine = [e.metadata.name for e in there.items if e.metadata.namespace == self._namespace]
            stem = name.rsplit("-", 1)[0]
            near = [each for each in mine if each.startswith(stem) or name.startswith(each)]
            lines += [f"Did you mean {each}?" for each in sorted(near)[:3]]
        past = await self._selected_events(f"involvedObject.name={escape_field_value(name)}")
        lines += [f"Last told of it: {each.reason}: {each.message}" for each in past[-2:]]
        return "\n".join(lines) or f"See: kubectl get {path.plural} -A"

    async def _get(self, path: ResourcePath, name: str) -> Object:
        resource = self._client.dynamic(path.group, path.version, path.plural, path.namespaced)
        return await resource.get(name, self._namespace if path.namespaced else "")

    async def _allowed(self, reading: Awaitable[T], what: str) -> T | None:
        """The answer, or None for what is not there, or may not be read (which is noted)."""
        try:
            return await reading
        except ApiError as error:
            if error.status == 403 and what:
                self._notes.append(f"{what}: you may not read them")
            elif error.status not in (403, 404):
                raise
            return None

    async def _facts(self, pod: Pod) -> Facts:
        scheduler = pod.spec.schedulerName or DEFAULT_SCHEDULER
        around, own = await asyncio.gather(
            asyncio.gather(self._node(pod.spec.nodeName), self._owners(pod), self._budgets(pod)),
            asyncio.gather(
                self._events(pod.metadata.uid),
                self._claims(pod),
                self._logs(pod),
                self._explained(pod, scheduler),
            ),
        )
        node, owners, budgets = around
        events, (found, told), logs, (explanation, unexplained) = own
        is_alive = any(scheduler in (e.reportingComponent, e.source.component) for e in events)
        return Facts(
            now=self._client.clock.now(),
            pod=pod,
            events=tuple(events),
            owners=owners,
            budgets=budgets,
            node=node,
            node_known=not any(note.startswith("nodes") for note in self._notes),
            claims=found,
            claim_events=told,
            logs=logs,
            explanation=explanation,
            unexplained=unexplained,
            knows_scheduler=scheduler in self._question.profiles or is_alive,
            notes=tuple(dict.fromkeys(self._notes)),
        )

    async def _node(self, name: str) -> Node | None:
        if not name:
            return None
        return await self._allowed(self._client.resource(Node).get(name), "nodes")

    async def _events(self, uid: str) -> list[Event]:
        return await self._selected_events(f"involvedObject.uid={uid}")

    async def _selected_events(self, selector: str) -> list[Event]:
        listing = self._client.resource(Event).list(self._namespace, field_selector=selector)
        found = await self._allowed(listing, "events")
        items = found.items if found is not None else []
        return sorted(items, key=lambda e: e.lastTimestamp or e.eventTime or "")

    async def _owners(self, pod: Pod) -> tuple[Owner, ...]:
        chain: list[Owner] = []
        reference = controller_of(pod)
        while reference is not None and len(chain) < LONGEST_CHAIN:
            owner = await self._owner_of(reference)
            chain.append(owner)
            reference = _controller(owner.object)
        if chain and chain[-1].object is not None:
            chain += await self._autoscalers(chain[-1])
        return tuple(reversed(chain))

    async def _owner_of(self, reference: OwnerReference) -> Owner:
        path = await path_of_kind(self._client, reference.apiVersion, reference.kind)
        if path is None:
            return Owner(reference.kind, reference.name, None)
        found = await self._allowed(self._get(path, reference.name), path.plural)
        if found is not None and found["metadata"]["uid"] != reference.uid:
            found = None
        events = await self._events(reference.uid)
        return Owner(reference.kind, reference.name, found, tuple(events))

    async def _autoscalers(self, owner: Owner) -> list[Owner]:
        """Those that set the replicas of an owner."""
        found = []
        for each in await self._list(AUTOSCALERS):
            target = each.get("spec", {}).get("scaleTargetRef", {})
            if (target.get("kind"), target.get("name")) == (owner.kind, owner.name):
                events = await self._events(each["metadata"]["uid"])
                name = each["metadata"]["name"]
                found.append(Owner("HorizontalPodAutoscaler", name, each, tuple(events)))
        return found

    async def _list(self, path: ResourcePath) -> list[Object]:
        resource = self._client.dynamic(path.group, path.version, path.plural)
        found = await self._allowed(resource.list(self._namespace), path.plural)
        return found.items if found is not None else []

    async def _budgets(self, pod: Pod) -> tuple[Object, ...]:
        path = ResourcePath("policy", "v1", "poddisruptionbudgets", True)
        found = []
        for each in await self._list(path):
            budget = from_object(PodDisruptionBudget, each)
            selector = budget.spec.selector or LabelSelector()
            if label_selector_from_object(selector).matches(pod.metadata.labels):
                found.append(each)
        return tuple(found)

    async def _claims(
        self, pod: Pod
    ) -> tuple[dict[str, PersistentVolumeClaim | None], dict[str, tuple[Event, ...]]]:
        names = [*filter(None, (claim_name(pod, volume) for volume in pod.spec.volumes))]
        client = self._client.resource(PersistentVolumeClaim)
        found: dict[str, PersistentVolumeClaim | None] = {}
        told = {}
        for name in names:
            claim = await self._allowed(client.get(name, self._namespace), "persistentvolumeclaims")
            if claim is None and any(n.startswith("persistentvolumeclaims") for n in self._notes):
                continue
            found[name] = claim
            if claim is not None and claim.status.phase != "Bound":
                told[name] = tuple(await self._events(claim.metadata.uid))
        return found, told

    async def _logs(self, pod: Pod) -> dict[str, Log]:
        parts = [part for part in parts_of(pod) if _has_last_words(part)]
        if self._question.tail <= 0 or not pod.spec.nodeName:
            return {}
        logs = await asyncio.gather(*(self._log_of(pod, part) for part in parts))
        return {part.spec.name: log for part, log in zip(parts, logs, strict=True)}

    async def _log_of(self, pod: Pod, part: Part) -> Log:
        assert part.status is not None
        runs = part.status.state is not None and part.status.state.running is not None
        try:
            current = await self._log(pod, part, previous=False)
            previous: tuple[str, ...] = ()
            if runs and part.status.restartCount:
                previous = await self._log(pod, part, previous=True)
        except ApiError as error:
            return Log(problem=error.message)
        return Log(current, previous)

    async def _log(self, pod: Pod, part: Part, *, previous: bool) -> tuple[str, ...]:
        query = {
            "container": part.spec.name,
            "tailLines": str(self._question.tail),
            "limitBytes": str(MOST_LOG_BYTES),
            "previous": "true" if previous else "false",
        }
        path = POD.path.path(pod.metadata.namespace, pod.metadata.name, "log")
        try:
            data = await self._client.request("GET", path, query=query)
        except ApiError as error:
            if previous and error.status == 400:
                return ()  # what ran before has been cleaned up
            raise
        return tuple(data.decode(errors="replace").splitlines()[-self._question.tail :])

    async def _explained(self, pod: Pod, scheduler: str) -> tuple[Explanation | None, str]:
        """What the scheduler's rules say, or why that is not known."""
        if pod.status.phase in ("Succeeded", "Failed"):
            return None, ""
        profile = self._question.profiles.get(scheduler)
        if profile is None:
            return None, f"the rules of scheduler {scheduler} are not known here"
        if pod.spec.nodeName and await self._is_large():
            return None, f"not compared with other nodes: over {PODS_FOR_SCORES} pods to read"
        snapshot = await read_snapshot(self._client)
        failure = snapshot.failure()
        if failure is not None:
            return None, f"the rules cannot be worked out: {failure.message}"
        self._notes += [
            f"{path}: you may not read them, and rules about them are left out"
            for path, error in snapshot.unread.items()
            if error.status == 403
        ]
        return explain(pod, snapshot.cluster, snapshot.objects, profile), ""

    async def _is_large(self) -> bool:
        page = await self._allowed(self._client.resource(Pod).list(limit=1), "")
        return page is not None and (page.remaining or 0) > PODS_FOR_SCORES

    async def _owner(self, typed: Typed, found: Object) -> Report:
        """The worst of an owner's pods, or why it has none."""
        meta = found["metadata"]
        events = tuple(await self._events(meta["uid"]))
        owner = Owner(typed.kind, meta["name"], found, events)
        chain, root = [owner], meta["uid"]
        if typed.kind == "HorizontalPodAutoscaler":
            target = await self._scaled(found)
            chain.append(target)
            root = target.object["metadata"]["uid"] if target.object is not None else ""
        pods, between = await self._descendants(root)
        for each in between:
            told = tuple(await self._events(each["metadata"]["uid"]))
            chain.append(Owner(each["kind"], each["metadata"]["name"], each, told))
        if not pods:
            facts = Facts(self._client.clock.now(), Pod())
            return assembly.empty_report(owner, tuple(chain), facts)
        worst = min(pods, key=lambda pod: (rank(pod), pod.metadata.creationTimestamp or ""))
        return assembly.owner_report(owner, tuple(chain), await self._facts(worst), len(pods))

    async def _scaled(self, autoscaler: Object) -> Owner:
        """What an autoscaler sets the replicas of: it owns nothing itself."""
        target = autoscaler["spec"]["scaleTargetRef"]
        kind, name = target["kind"], target["name"]
        path = await path_of_kind(self._client, target.get("apiVersion", ""), kind)
        found = await self._allowed(self._get(path, name), path.plural) if path else None
        events = await self._events(found["metadata"]["uid"]) if found is not None else ()
        return Owner(kind, name, found, tuple(events))

    async def _descendants(self, uid: str) -> tuple[list[Pod], list[Object]]:
        """The pods below an owner, and the newest of what stands in between."""
        pods, lists = await asyncio.gather(
            self._client.resource(Pod).list(self._namespace),
            asyncio.gather(*map(self._list, BETWEEN.values())),
        )
        objects = [
            {"kind": kind, **each}
            for kind, items in zip(BETWEEN, lists, strict=True)
            for each in items
        ]
        family, between = {uid}, []
        for _ in range(LONGEST_CHAIN):
            below = [e for e in objects if _owner_uid(e) in family
                     and e["metadata"]["uid"] not in family]  # fmt: skip
            if not below:
                break
            family |= {each["metadata"]["uid"] for each in below}
            between.append(max(below, key=lambda e: e["metadata"].get("creationTimestamp", "")))
        mine = []
        for pod in pods.items:
            reference = controller_of(pod)
            if reference is not None and reference.uid in family:
                mine.append(pod)
        return mine, between

    async def _claim(self, claim: PersistentVolumeClaim) -> Report:
        classes, pods, events = await asyncio.gather(
            self._allowed(self._client.resource(StorageClass).list(), "storage classes"),
            self._client.resource(Pod).list(self._namespace),
            self._events(claim.metadata.uid),
        )
        there: Sequence[StorageClass] = classes.items if classes is not None else []
        now = self._client.clock.now()
        return endpoints.claim(claim, there, pods.items, events, now)


def _owner_uid(obj: Object) -> str:
    reference = _controller(obj)
    return reference.uid if reference is not None else ""


def _controller(obj: Object | None) -> OwnerReference | None:
    references: list[dict[str, Any]] = (obj or {}).get("metadata", {}).get("ownerReferences", [])
    found = next((each for each in references if each.get("controller")), None)
    return from_object(OwnerReference, found) if found is not None else None


def _has_last_words(part: Part) -> bool:
    """Whether it ever ran, and there is something to explain."""
    status = part.status
    if status is None or status.state is None:
        return False
    ran = status.state.running or status.state.terminated or (
        status.lastState and status.lastState.terminated)  # fmt: skip
    fine = status.state.running is not None and (status.ready or part.is_init)
    ended = status.state.terminated
    went_well = ended is not None and ended.exitCode == 0 and part.is_init
    return bool(ran) and not went_well and (not fine or status.restartCount > 0)
