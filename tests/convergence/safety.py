"""What must never be, at no moment of a history: watched write by write, without delay.

A controller acts on what it has seen, which is a little behind; so limits that the user has moved
hold as they were at any time within `WINDOW`, and what others took away in that time is not laid to
its charge.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from navarch.api.intstr import scaled_value
from navarch.apiserver.hub.entry import Entry

from .converged import condition, controller_uid, has_labels, is_active, is_ready, title
from .steps import RELEASED
from .world import CONTROLLERS, Object, World

WINDOW = 15.0
"""Longer than anybody is behind."""

WATCHED = (
    ("", "pods"),
    ("", "configmaps"),
    ("", "resourcequotas"),
    ("", "replicationcontrollers"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("apps", "daemonsets"),
    ("batch", "jobs"),
    ("policy", "poddisruptionbudgets"),
)


@dataclass(slots=True)
class Known:
    """A pod, and what has been seen of it."""

    pod: Object
    since: float
    is_adopted: bool
    """It was made without the owner that it has."""
    ready_until: float = -1.0
    """When it was ready last."""


@dataclass(slots=True)
class Owner:
    """An object, and how it was within the window."""

    present: Object
    past: deque[tuple[float, Object]] = field(default_factory=deque)
    """When each former state ended."""
    pods_made: int = 0

    def states(self, now: float) -> list[Object]:
        while self.past and self.past[0][0] < now - WINDOW:
            self.past.popleft()
        return [self.present, *(state for _, state in self.past)]


class Safety:
    """Follows a world; `broken` says what should not have been."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken: list[str] = []
        self._pods: dict[str, Known] = {}
        self._owners: dict[str, Owner] = {}
        self._losses: list[tuple[float, Object]] = []
        """Ready pods that somebody other than the controllers took away, and when."""
        for group, plural in WATCHED:
            resource = world.server.core.catalog.get(group, "v1", plural)

            def changed(old: Entry | None, new: Entry | None, resource: Any = resource) -> None:
                was = resource.decode(old) if old is not None else None
                now = resource.decode(new) if new is not None else None
                self._changed(was, now)

            resource.cache.add_listener(changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        kind = (new or old or {})["kind"]
        if kind == "Pod":
            found = self._pod(old, new)
        elif kind == "ConfigMap":
            found = self._collected(old) if old is not None and new is None else iter(())
        else:
            found = self._owner(old, new)
        self.broken += [f"at {self.world.now:.2f}: {each}" for each in found]

    def _owner(self, old: Object | None, new: Object | None) -> Iterator[str]:
        if new is None:
            assert old is not None
            # Its pods may still be deleted in its name.
            return
        uid = new["metadata"]["uid"]
        known = self._owners.setdefault(uid, Owner(new))
        if old is not None:
            known.past.append((self.world.now, known.present))
            known.present = new
            if new["kind"] == "Job":
                yield from _job_went_back(known, old, new)

    def _states(self, uid: str) -> list[Object]:
        known = self._owners.get(uid)
        return known.states(self.world.now) if known is not None else []

    # ---- pods

    def _pod(self, old: Object | None, new: Object | None) -> Iterator[str]:
        if new is None:
            assert old is not None
            known = self._pods.pop(old["metadata"]["uid"], None)
            if known is not None and is_active(old):
                yield from self._lost(old)
            return
        uid, now = new["metadata"]["uid"], self.world.now
        known = self._pods.get(uid)
        if known is None:
            self._pods[uid] = Known(new, now, is_adopted=not controller_uid(new))
            if controller_uid(new):
                yield from self._made(new)
            return
        before, known.pod = known.pod, new
        if controller_uid(new) != controller_uid(before):
            known.is_adopted = True
        bound, binding = before["spec"].get("nodeName"), new["spec"].get("nodeName")
        if bound and binding != bound:
            yield f"{title(new)} went from {bound} to {binding}"
        if is_ready(before):
            known.ready_until = now
        if is_active(before) and not is_active(new):
            yield from self._lost(before)
        elif is_ready(before) and not is_ready(new):
            self._losses.append((now, before))

    def _own(self, uid: str) -> list[Known]:
        return [each for each in self._pods.values() if controller_uid(each.pod) == uid]

    def _counted(self, uid: str) -> int:
        """Active pods that an owner has made itself, and that it has no reason to let go."""
        return sum(
            is_active(each.pod)
            and not each.is_adopted
            and each.pod["metadata"].get("labels", {}).get("app") != RELEASED
            for each in self._own(uid)
        )

    def _made(self, pod: Object) -> Iterator[str]:
        """Somebody made a pod: not one too many?"""
        uid = controller_uid(pod)
        states = self._states(uid)
        if not states:
            yield f"{title(pod)} was made for an owner that was never there"
            return
        self._owners[uid].pods_made += 1
        yield from self._within_quota(pod)
        weather = self.world.wire.weather
        if weather.failures and (weather.lag or weather.cuts):
            # A controller that was not told what became of its request, and is not shown it either,
            # asks for one pod too many, as upstream's does.
            return
        match states[0]["kind"]:
            case "ReplicaSet" | "ReplicationController":
                most = max(state["spec"].get("replicas", 1) for state in states)
                if self._counted(uid) > most:
                    yield f"{title(states[0])}: {self._counted(uid)} pods, never more than {most}"
                yield from self._made_for_deployment(pod, states[0])
            case "Job":
                most = max(state["spec"].get("parallelism", 1) for state in states)
                if self._counted(uid) > most:
                    yield f"{title(states[0])}: {self._counted(uid)} pods, never more than {most}"
            case "StatefulSet":
                yield from self._in_order(pod, states)
            case "DaemonSet":
                yield from self._alone(pod, states)

    def _deployment_pods(self, uid: str) -> list[Known]:
        sets = [key for key, owner in self._owners.items() if controller_uid(owner.present) == uid]
        return [known for key in sets for known in self._own(key)]

    def _made_for_deployment(self, pod: Object, replica_set: Object) -> Iterator[str]:
        uid = controller_uid(replica_set)
        states = self._states(uid)
        if not states:
            return
        pods = [each for each in self._deployment_pods(uid) if not each.is_adopted]
        kinds = {state["spec"]["strategy"]["type"] for state in states}
        if kinds == {"Recreate"}:
            for other in pods:
                is_other = controller_uid(other.pod) != controller_uid(pod)
                is_over = other.pod["status"].get("phase") in ("Succeeded", "Failed")
                is_known = self.world.now - other.since > WINDOW
                if is_other and is_known and not is_over:
                    yield f"{title(pod)} was made beside {title(other.pod)}, which is of old"
        elif kinds == {"RollingUpdate"}:
            # What users scale down, the controller takes away before it makes anything.
            most = max(_most(state) for state in states)
            count = sum(is_active(each.pod) for each in pods)
            if count > most:
                yield f"{title(states[0])}: {count} pods, never more than {most}"

    def _in_order(self, pod: Object, states: list[Object]) -> Iterator[str]:
        if states[0]["spec"]["podManagementPolicy"] != "OrderedReady":
            return
        first = max(state["spec"].get("ordinals", {}).get("start", 0) for state in states)
        ordinal = _ordinal(pod)
        owned = {_ordinal(each.pod): each for each in self._own(controller_uid(pod))}
        for earlier in range(first, ordinal):
            known = owned.get(earlier)
            was_ready = known is not None and (
                is_ready(known.pod) or known.ready_until >= self.world.now - WINDOW
            )
            went = any(
                when >= self.world.now - WINDOW
                and lost["metadata"]["name"] == f"{states[0]['metadata']['name']}-{earlier}"
                for when, lost in self._losses
            )
            if not was_ready and not went:
                yield f"{title(pod)} was made before number {earlier} was ready"

    def _alone(self, pod: Object, states: list[Object]) -> Iterator[str]:
        node = _target(pod)
        surges = [
            state["spec"]["updateStrategy"].get("rollingUpdate", {}).get("maxSurge", 0)
            for state in states
        ]
        others = [
            each.pod
            for each in self._own(controller_uid(pod))
            if each.pod is not pod
            and is_active(each.pod)
            and _target(each.pod) == node
            and not each.is_adopted
            and self.world.now - each.since > WINDOW
        ]
        if len(others) > (1 if any(surges) else 0):
            yield f"{title(pod)} was made for {node}, where {[title(o) for o in others]} ran"

    def _within_quota(self, pod: Object) -> Iterator[str]:
        # What is used is counted anew from what the controller sees: as upstream, a limit can only
        # be trusted as far as that is up to date.
        if self.world.wire.weather.lag:
            return
        namespace = pod["metadata"]["namespace"]
        for owner in self._owners.values():
            meta = owner.present["metadata"]
            if owner.present["kind"] != "ResourceQuota" or meta["namespace"] != namespace:
                continue
            if self.world.server.core.lookup.get("resourcequotas", namespace, "limit") is None:
                continue
            hard = [
                int(state["status"]["hard"]["pods"])
                for state in owner.states(self.world.now)
                if state.get("status", {}).get("hard")
            ]
            count = sum(
                each.pod["metadata"]["namespace"] == namespace
                and each.pod["status"].get("phase") not in ("Succeeded", "Failed")
                for each in self._pods.values()
            )
            if len(hard) == len(owner.states(self.world.now)) and count > max(hard):
                yield f"{title(owner.present)}: {count} pods, never more than {max(hard)}"

    # ---- what is taken away

    def _lost(self, pod: Object) -> Iterator[str]:
        """A pod that was at work is being deleted, is gone, or has ended."""
        if not is_ready(pod):
            return
        asked = self._who_deleted(pod)
        if asked != CONTROLLERS or self._is_driven_out(pod):
            self._losses.append((self.world.now, pod))
            if asked == "eviction":
                yield from self._within_budget(pod)
            return
        replica_set = self._owners.get(controller_uid(pod))
        if replica_set is None or replica_set.present["kind"] != "ReplicaSet":
            return
        uid = controller_uid(replica_set.present)
        states = self._states(uid)
        if not states or not self._lives(states[0]) or not self._lives(replica_set.present):
            return
        if {state["spec"]["strategy"]["type"] for state in states} != {"RollingUpdate"}:
            return
        least = min(_least(state) for state in states)
        pods = self._deployment_pods(uid)
        left = sum(is_ready(each.pod) and is_active(each.pod) for each in pods)
        uids = {known.pod["metadata"]["uid"] for known in pods}
        since = self.world.now - WINDOW
        others = sum(when >= since and lost["metadata"]["uid"] in uids | self._gone_of(uid)
                     for when, lost in self._losses)  # fmt: skip
        if left + others < least:
            yield f"{title(states[0])}: {left} available, never fewer than {least}"

    def _is_driven_out(self, pod: Object) -> bool:
        """Whether its node is gone or tolerates it no longer."""
        node = self.world.server.core.lookup.get("nodes", "", pod["spec"].get("nodeName", ""))
        if node is None:
            return True
        return any(taint["effect"] == "NoExecute" for taint in node["spec"].get("taints", ()))

    def _gone_of(self, deployment: str) -> set[str]:
        """Pods of a deployment that were lost and are not there any more."""
        return {
            lost["metadata"]["uid"]
            for _, lost in self._losses
            if (owner := self._owners.get(controller_uid(lost))) is not None
            and controller_uid(owner.present) == deployment
        }

    def _lives(self, obj: Object) -> bool:
        resource = {"Deployment": "deployments", "ReplicaSet": "replicasets"}[obj["kind"]]
        meta = obj["metadata"]
        found = self.world.server.core.catalog.get("apps", "v1", resource).cache.get(
            meta["namespace"], meta["name"]
        )
        return found is not None and "deletionTimestamp" not in meta

    def _who_deleted(self, pod: Object) -> str:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        for request in reversed(self.world.wire.requests):
            if request.at < self.world.now - 0.5:
                break
            if request.path == path and request.method == "DELETE":
                return request.who
            if request.path == f"{path}/eviction":
                return "eviction"
        return ""

    def _within_budget(self, pod: Object) -> Iterator[str]:
        since = self.world.now - WINDOW
        for owner in self._owners.values():
            budget = owner.present
            if budget["kind"] != "PodDisruptionBudget":
                continue
            labels = budget["spec"]["selector"]["matchLabels"]
            namespace = budget["metadata"]["namespace"]
            states = owner.states(self.world.now)
            if (
                pod["metadata"]["namespace"] != namespace
                or not has_labels(pod, labels)
                or any("desiredHealthy" not in state.get("status", {}) for state in states)
                or self.world.server.core.lookup.get(
                    "poddisruptionbudgets", namespace, budget["metadata"]["name"]
                )
                is None
            ):
                continue
            least = min(state["status"]["desiredHealthy"] for state in states)
            left = sum(
                is_ready(each.pod)
                and is_active(each.pod)
                and each.pod["metadata"]["namespace"] == namespace
                and has_labels(each.pod, labels)
                for each in self._pods.values()
            )
            taken = sum(
                when >= since and has_labels(lost, labels) and self._who_deleted(lost) != "eviction"
                for when, lost in self._losses
            )
            if left + taken < least:
                yield f"{title(pod)} was evicted: {left} healthy, never fewer than {least}"

    def _collected(self, obj: Object) -> Iterator[str]:
        """A ConfigMap is gone: no owner may be alive."""
        meta = obj["metadata"]
        lookup = self.world.server.core.lookup
        namespace = lookup.get("namespaces", "", meta["namespace"])
        if namespace is None or "deletionTimestamp" in namespace["metadata"]:
            return
        for reference in meta.get("ownerReferences", ()):
            known = self._owners.get(reference["uid"])
            if known is None or "deletionTimestamp" in known.present["metadata"]:
                continue
            plural = reference["kind"].lower() + "s"
            group = reference["apiVersion"].rpartition("/")[0].partition("/")[0]
            cache = self.world.server.core.catalog.get(group, "v1", plural).cache
            if cache.get(meta["namespace"], reference["name"]) is not None:
                yield f"{title(obj)} was deleted though {reference['name']} lives"


def _job_went_back(known: Owner, old: Object, new: Object) -> Iterator[str]:
    was, now = old.get("status", {}), new.get("status", {})
    for name in ("succeeded", "failed"):
        if now.get(name, 0) < was.get(name, 0):
            yield f"{title(new)}: {name} went from {was[name]} to {now.get(name, 0)}"
    for name in ("Complete", "Failed"):
        if condition(old, name) and not condition(new, name):
            yield f"{title(new)} is no longer {name}"
    counted = now.get("succeeded", 0) + now.get("failed", 0)
    if counted > known.pods_made:
        yield f"{title(new)}: {counted} ends of {known.pods_made} pods"


def _rolling(deployment: Object) -> tuple[int, int]:
    """The most above and the most below the wanted number."""
    spec = deployment["spec"]
    if "rollingUpdate" not in spec["strategy"]:
        return 0, spec["replicas"]
    rolling, replicas = spec["strategy"]["rollingUpdate"], spec["replicas"]
    surge = scaled_value(rolling["maxSurge"], replicas, round_up=True)
    below = scaled_value(rolling["maxUnavailable"], replicas, round_up=False)
    return surge, min(replicas, below or int(not surge))


def _most(deployment: Object) -> int:
    return int(deployment["spec"]["replicas"]) + _rolling(deployment)[0]


def _least(deployment: Object) -> int:
    return int(deployment["spec"]["replicas"]) - _rolling(deployment)[1]


def _ordinal(pod: Object) -> int:
    text = pod["metadata"]["name"].rpartition("-")[2]
    return int(text) if text.isdecimal() else -1


def _target(pod: Object) -> str:
    """The node that a DaemonSet's pod is for."""
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in required.get("nodeSelectorTerms", ()):
        for each in term.get("matchFields", ()):
            return str(each["values"][0])
    return str(pod["spec"].get("nodeName", ""))
