"""What must be so once everything has come to rest: each check gives what is wrong, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from .world import Object, World

Found = Iterator[str]
CHECKS: list[Callable[[State], Found]] = []
TERMINAL = ("Succeeded", "Failed")
ENDS = ("Complete", "Failed")
TRACKED = "batch.kubernetes.io/job-tracking"


class State:
    """All objects, as the store has them."""

    def __init__(self, world: World) -> None:
        self.all = {
            (each.kind.group, each.kind.plural): world.objects(
                each.kind.plural, each.kind.group, each.kind.version
            )
            for each in world.server.core.catalog
        }
        self.pods = self.of("pods")
        self.limited = {each["metadata"]["namespace"] for each in self.of("resourcequotas")}
        """Namespaces in which pods may be refused."""

    def of(self, resource: str, group: str = "") -> list[Object]:
        return self.all.get((group, resource), [])

    def owned(self, owner: Object, resource: str = "pods", group: str = "") -> list[Object]:
        uid = owner["metadata"]["uid"]
        return [each for each in self.of(resource, group) if controller_uid(each) == uid]

    def has_strangers(self, owner: Object) -> bool:
        """Whether pods that are not a StatefulSet's bear names of its pods, such as one that it let
        go: it can make none in their place."""
        meta = owner["metadata"]
        return any(
            pod["metadata"]["namespace"] == meta["namespace"]
            and pod["metadata"]["name"].rpartition("-")[0] == meta["name"]
            and controller_uid(pod) != meta["uid"]
            for pod in self.pods
        )


def check(function: Callable[[State], Found]) -> Callable[[State], Found]:
    CHECKS.append(function)
    return function


def problems(world: World) -> list[str]:
    """Everything that is wrong."""
    state = State(world)
    return [f"{each.__name__}: {text}" for each in CHECKS for text in each(state)]


# ---- facts about objects


def controller_uid(obj: Object) -> str:
    references = obj["metadata"].get("ownerReferences", ())
    return next((each["uid"] for each in references if each.get("controller")), "")


def title(obj: Object) -> str:
    meta = obj["metadata"]
    return f"{obj['kind']} {meta.get('namespace', '')}/{meta['name']}"


def is_active(pod: Object) -> bool:
    is_over = pod["status"].get("phase") in TERMINAL
    return not is_over and "deletionTimestamp" not in pod["metadata"]


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def has_labels(obj: Object, wanted: dict[str, str]) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())


def condition(obj: Object, name: str) -> bool:
    conditions = obj.get("status", {}).get("conditions", ())
    return any(each["type"] == name and each["status"] == "True" for each in conditions)


def _differences(obj: Object, expected: dict[str, Any]) -> Found:
    for name, value in expected.items():
        told = obj.get("status", {}).get(name, 0)
        if told != value:
            yield f"{title(obj)}: status.{name} is {told}, should be {value}"


def _observed(obj: Object) -> Found:
    yield from _differences(obj, {"observedGeneration": obj["metadata"]["generation"]})


def _counts(pods: list[Object]) -> dict[str, int]:
    return {
        "readyReplicas": sum(map(is_ready, pods)),
        "availableReplicas": sum(map(is_ready, pods)),
    }


def _is_sound(template: Object) -> bool:
    """Whether its pods become ready."""
    annotations = template["metadata"].get("annotations") or {}
    return "simulated.navarch.dev/waiting" not in annotations


def _without_hash(template: Object) -> Object:
    meta = template["metadata"]
    labels = {k: v for k, v in meta["labels"].items() if k != "pod-template-hash"}
    return {**template, "metadata": {**meta, "labels": labels}}


# ---- workloads


@check
def replica_sets(state: State) -> Found:
    both = [*state.of("replicasets", "apps"), *state.of("replicationcontrollers")]
    for each in both:
        active = [pod for pod in state.owned(each) if is_active(pod)]
        wanted = each["spec"].get("replicas", 1)
        is_limited = each["metadata"]["namespace"] in state.limited
        if len(active) > wanted or (len(active) < wanted and not is_limited):
            yield f"{title(each)}: {len(active)} pods, should be {wanted}"
        yield from _observed(each)
        labelled = sum(
            has_labels(p, each["spec"]["template"]["metadata"]["labels"]) for p in active
        )
        yield from _differences(
            each,
            {"replicas": len(active), "fullyLabeledReplicas": labelled, **_counts(active)},
        )
        if condition(each, "ReplicaFailure") != (len(active) < wanted):
            yield f"{title(each)}: ReplicaFailure is {condition(each, 'ReplicaFailure')}"


@check
def adoption(state: State) -> Found:
    """Who is selected is owned, who is not is not. ReplicaSets and ReplicationControllers do not
    look at pods that are over."""
    owners = [
        *(each for name in ("replicasets", "statefulsets", "daemonsets")
          for each in state.of(name, "apps")),
        *state.of("replicationcontrollers"),
    ]  # fmt: skip
    for owner in owners:
        selector = owner["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        for pod in state.pods:
            if pod["metadata"]["namespace"] != owner["metadata"]["namespace"]:
                continue
            is_owned = controller_uid(pod) == owner["metadata"]["uid"]
            is_looked_at = owner["kind"] in ("StatefulSet", "DaemonSet") or is_active(pod)
            if is_owned and is_looked_at and not has_labels(pod, wanted):
                yield f"{title(pod)} was not released by {title(owner)}"
            could_be = owner["kind"] != "StatefulSet" and is_active(pod)
            if not controller_uid(pod) and could_be and has_labels(pod, wanted):
                yield f"{title(pod)} was not adopted by {title(owner)}"


@check
def deployments(state: State) -> Found:
    for each in state.of("deployments", "apps"):
        sets = state.owned(each, "replicasets", "apps")
        spec = each["spec"]
        yield from _observed(each)
        expected = {
            name: sum(one.get("status", {}).get(name, 0) for one in sets)
            for name in ("replicas", "readyReplicas", "availableReplicas")
        }
        template = _without_hash(spec["template"])
        new = [one for one in sets if _without_hash(one["spec"]["template"]) == template]
        expected["updatedReplicas"] = sum(one.get("status", {}).get("replicas", 0) for one in new)
        yield from _differences(each, expected)
        if spec.get("paused"):
            continue
        if len(new) != 1:
            yield f"{title(each)}: {len(new)} ReplicaSets of the present template"
            continue
        yield from _rollout(state, each, new[0], sets)


def _rollout(state: State, each: Object, new: Object, sets: list[Object]) -> Found:
    spec, wanted = each["spec"], each["spec"]["replicas"]
    revision = "deployment.kubernetes.io/revision"
    revisions = [int(one["metadata"]["annotations"][revision]) for one in sets]
    if len({*revisions}) < len(revisions):
        yield f"{title(each)}: a revision twice in {sorted(revisions)}"
    if int(new["metadata"]["annotations"][revision]) != max(revisions):
        yield f"{title(each)}: the present template is not the last revision of {revisions}"
    if each["metadata"]["annotations"].get(revision) != str(max(revisions)):
        yield f"{title(each)}: says another revision than {max(revisions)}"
    total = sum(one["spec"]["replicas"] for one in sets)
    if _is_sound(spec["template"]) and each["metadata"]["namespace"] not in state.limited:
        if new["spec"]["replicas"] != wanted or total != wanted:
            yield f"{title(each)}: {new['spec']['replicas']} new of {total}, should be {wanted}"
        if not condition(each, "Available"):
            yield f"{title(each)}: not Available"
        if not condition(each, "Progressing"):
            yield f"{title(each)}: not Progressing"
        old = [one for one in sets if one is not new]
        if len(old) > spec["revisionHistoryLimit"]:
            yield f"{title(each)}: {len(old)} old ReplicaSets are kept"
    elif total < wanted:
        yield f"{title(each)}: {total} replicas in all, should be {wanted}"


@check
def stateful_sets(state: State) -> Found:
    for each in state.of("statefulsets", "apps"):
        spec, status = each["spec"], each.get("status", {})
        pods = [pod for pod in state.owned(each) if "deletionTimestamp" not in pod["metadata"]]
        yield from _observed(each)
        hashes = Counter(pod["metadata"]["labels"]["controller-revision-hash"] for pod in pods)
        update, current = status.get("updateRevision", ""), status.get("currentRevision", "")
        yield from _differences(
            each,
            {
                "replicas": len(pods),
                **_counts([pod for pod in pods if is_active(pod)]),
                "currentReplicas": hashes[current],
                "updatedReplicas": hashes[update],
            },
        )
        first = spec.get("ordinals", {}).get("start", 0)
        ordinals = {int(pod["metadata"]["name"].rsplit("-", 1)[1]) for pod in pods}
        wanted = {*range(first, first + spec["replicas"])}
        is_held_up = each["metadata"]["namespace"] in state.limited or state.has_strangers(each)
        if all(map(is_ready, pods)) and ordinals != wanted and not is_held_up:
            yield f"{title(each)}: ordinals {sorted(ordinals)}, should be {sorted(wanted)}"
        if ordinals - wanted and all(map(is_ready, pods)):
            yield f"{title(each)}: ordinals {sorted(ordinals)} beyond {sorted(wanted)}"
        yield from _revisions(each, pods, first)


def _revisions(each: Object, pods: list[Object], first: int) -> Found:
    spec, status = each["spec"], each["status"]
    if not _is_sound(spec["template"]) or not all(map(is_ready, pods)):
        return
    if spec["updateStrategy"]["type"] != "RollingUpdate" or len(pods) < spec["replicas"]:
        return
    partition = spec["updateStrategy"]["rollingUpdate"].get("partition", 0)
    for pod in pods:
        ordinal = int(pod["metadata"]["name"].rsplit("-", 1)[1])
        revision = pod["metadata"]["labels"]["controller-revision-hash"]
        if ordinal >= first + partition and revision != status["updateRevision"]:
            yield f"{title(pod)} is not of the update revision {status['updateRevision']}"
    if not partition and status["currentRevision"] != status["updateRevision"]:
        yield f"{title(each)}: the update is not complete"


@check
def daemon_sets(state: State) -> Found:
    for each in state.of("daemonsets", "apps"):
        spec = each["spec"]["template"]["spec"]
        wanted = {
            node["metadata"]["name"]
            for node in state.of("nodes")
            if has_labels(node, spec.get("nodeSelector", {}))
        }
        pods = [pod for pod in state.owned(each) if is_active(pod)]
        on = Counter(pod["spec"].get("nodeName", "") for pod in pods)
        is_rolling = each["spec"]["updateStrategy"]["type"] == "RollingUpdate"
        surge = each["spec"]["updateStrategy"].get("rollingUpdate", {}).get("maxSurge", 0)
        is_limited = each["metadata"]["namespace"] in state.limited
        is_sound = _is_sound(each["spec"]["template"])
        for name in {*wanted, *on}:
            most = 2 if surge and not is_sound else 1
            least = 0 if is_limited else 1
            if name not in wanted and on[name]:
                yield f"{title(each)}: {on[name]} pods on {name!r}, should be none"
            elif name in wanted and not least <= on[name] <= most:
                yield f"{title(each)}: {on[name]} pods on {name!r}"
        yield from _observed(each)
        ready = {pod["spec"].get("nodeName") for pod in pods if is_ready(pod)} & wanted
        yield from _differences(
            each,
            {
                "desiredNumberScheduled": len(wanted),
                "currentNumberScheduled": len(wanted & {*on}),
                "numberMisscheduled": 0,
                "numberReady": len(ready),
                "numberAvailable": len(ready),
            },
        )
        if is_rolling and is_sound and not is_limited:
            yield from _differences(each, {"updatedNumberScheduled": len(wanted)})


@check
def jobs(state: State) -> Found:
    for each in state.of("jobs", "batch"):
        spec, status = each["spec"], each.get("status", {})
        pods = state.owned(each)
        active = [pod for pod in pods if is_active(pod)]
        yield from _differences(each, {"active": len(active), "ready": sum(map(is_ready, active))})
        uncounted = status.get("uncountedTerminatedPods") or {}
        if any(uncounted.values()):
            yield f"{title(each)}: {uncounted} are not counted"
        for pod in pods:
            if not is_active(pod) and TRACKED in pod["metadata"].get("finalizers", ()):
                yield f"{title(pod)} is over and keeps the finalizer of its Job"
        is_over = condition(each, "Complete") or condition(each, "Failed")
        succeeded, completions = status.get("succeeded", 0), spec.get("completions")
        if condition(each, "Complete") and condition(each, "Failed"):
            yield f"{title(each)} is both complete and failed"
        if condition(each, "Complete") and completions is not None and succeeded != completions:
            yield f"{title(each)}: {succeeded} of {completions} completions"
        if is_over or spec.get("suspend"):
            if active:
                yield f"{title(each)}: {len(active)} active pods, should be none"
        elif spec["parallelism"] and each["metadata"]["namespace"] not in state.limited:
            yield f"{title(each)} does not go on: {status}"
        if is_over and "ttlSecondsAfterFinished" in spec:
            yield f"{title(each)} has outlived its time"


@check
def cron_jobs(state: State) -> Found:
    for each in state.of("cronjobs", "batch"):
        owned = state.owned(each, "jobs", "batch")
        running = [
            job for job in owned if not (condition(job, "Complete") or condition(job, "Failed"))
        ]
        told = {one["uid"] for one in each.get("status", {}).get("active", ())}
        if told != {job["metadata"]["uid"] for job in running}:
            yield f"{title(each)}: active is not {[title(job) for job in running]}"
        for name, ended in (("successful", "Complete"), ("failed", "Failed")):
            kept = sum(condition(job, ended) for job in owned)
            if kept > each["spec"][f"{name}JobsHistoryLimit"]:
                yield f"{title(each)}: keeps {kept} {name} Jobs"


# ---- what serves, keeps and limits workloads


@check
def endpoint_slices(state: State) -> Found:
    told: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for each in state.of("endpointslices", "discovery.k8s.io"):
        service = (each["metadata"].get("labels") or {}).get("kubernetes.io/service-name", "")
        rows = told.setdefault((each["metadata"]["namespace"], service), [])
        for endpoint in each.get("endpoints") or ():
            rows += [(ip, endpoint["conditions"]["ready"]) for ip in endpoint["addresses"]]
    for service in state.of("services"):
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        found = told.pop((namespace, name), [])
        selector = service["spec"].get("selector")
        if not selector:
            continue
        expected = [
            (pod["status"]["podIP"], is_ready(pod) and is_active(pod))
            for pod in state.pods
            if pod["metadata"]["namespace"] == namespace
            and has_labels(pod, selector)
            and pod["status"].get("podIP")
            and pod["status"].get("phase") not in TERMINAL
        ]
        if sorted(found) != sorted(expected):
            yield f"{title(service)}: slices say {sorted(found)}, should be {sorted(expected)}"
        yield from _endpoints(state, service, expected)
    for namespace, name in told:
        yield f"slices of a Service {namespace}/{name} that is not there"


def _endpoints(state: State, service: Object, expected: list[tuple[str, bool]]) -> Found:
    meta = service["metadata"]
    for each in state.of("endpoints"):
        if (each["metadata"]["namespace"], each["metadata"]["name"]) == (
            meta["namespace"],
            meta["name"],
        ):
            told = [
                (address["ip"], kind == "addresses")
                for subset in each.get("subsets", ())
                for kind in ("addresses", "notReadyAddresses")
                for address in subset.get(kind, ())
            ]
            if sorted(told) != sorted(expected):
                yield f"{title(each)}: {sorted(told)}, should be {sorted(expected)}"
            return
    yield f"{title(service)} has no Endpoints"


@check
def budgets(state: State) -> Found:
    for each in state.of("poddisruptionbudgets", "policy"):
        labels = each["spec"]["selector"]["matchLabels"]
        pods = [
            pod
            for pod in state.pods
            if pod["metadata"]["namespace"] == each["metadata"]["namespace"]
            and has_labels(pod, labels)
        ]
        # As upstream: not the phase counts here, but readiness.
        healthy = sum(is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods)
        status = each.get("status", {})
        allowed = max(0, healthy - status.get("desiredHealthy", 0))
        if not status.get("expectedPods"):
            allowed = 0
        # A share of pods whose owner has no scale (a DaemonSet) cannot be worked out: nothing is
        # allowed then, and what was counted before stays.
        if any(one.get("reason") == "SyncFailed" for one in status.get("conditions", ())):
            yield from _differences(each, {"disruptionsAllowed": 0})
        else:
            yield from _observed(each)
            wanted = {"currentHealthy": healthy, "disruptionsAllowed": allowed}
            yield from _differences(each, wanted)
        if status.get("disruptedPods"):
            yield f"{title(each)}: disruptedPods {status['disruptedPods']}"


@check
def quotas(state: State) -> Found:
    for each in state.of("resourcequotas"):
        namespace = each["metadata"]["namespace"]
        status = each.get("status", {})
        pods = [
            pod
            for pod in state.pods
            if pod["metadata"]["namespace"] == namespace
            and pod["status"].get("phase") not in TERMINAL
        ]
        maps = [o for o in state.of("configmaps") if o["metadata"]["namespace"] == namespace]
        used = {"pods": str(len(pods)), "count/configmaps": str(len(maps))}
        if status.get("used") != used:
            yield f"{title(each)}: used is {status.get('used')}, should be {used}"
        if status.get("hard") != each["spec"]["hard"]:
            yield f"{title(each)}: hard is {status.get('hard')}"


# ---- everything


@check
def pods(state: State) -> Found:
    nodes = {node["metadata"]["name"] for node in state.of("nodes")}
    for pod in state.pods:
        node = pod["spec"].get("nodeName", "")
        if node and node not in nodes:
            yield f"{title(pod)} is on {node}, which is not there"
        if is_active(pod) and node and not is_ready(pod) and _is_sound(pod):
            yield f"{title(pod)} is not ready: {pod['status']}"
        if is_active(pod) and not node and not pod["spec"].get("nodeSelector"):
            yield f"{title(pod)} is not scheduled"


@check
def leftovers(state: State) -> Found:
    """Nothing is being deleted for ever, and nothing has outlived all its owners."""
    everything = [each for objects in state.all.values() for each in objects]
    uids = {each["metadata"]["uid"] for each in everything}
    for each in everything:
        meta = each["metadata"]
        if "deletionTimestamp" in meta:
            yield f"{title(each)} is still being deleted: {meta.get('finalizers')}"
        owners = meta.get("ownerReferences", ())
        if owners and not any(owner["uid"] in uids for owner in owners):
            yield f"{title(each)} has outlived {[owner['name'] for owner in owners]}"
        elif any(owner["uid"] not in uids for owner in owners):
            yield f"{title(each)} keeps a reference to an owner that is gone"


@check
def nodes(state: State) -> Found:
    for node in state.of("nodes"):
        if node["spec"].get("taints"):
            yield f"{title(node)} is tainted: {node['spec']['taints']}"
        if not condition(node, "Ready"):
            yield f"{title(node)} is not Ready"
