"""How owners are, why they have no pods, Services no endpoints and claims no volumes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Event, PersistentVolumeClaim, Pod, Service
from navarch.api.types.storage_v1 import StorageClass
from navarch.cli.why import endpoints
from navarch.cli.why.facts import Owner
from navarch.cli.why.owners import lines_of, standing, why_no_pods
from navarch.cli.why.report import State
from navarch.cli.why.targets import Target, UnknownTypeError, target_of
from navarch.cli.why.words import condensed, duration, exit_code, listed, shortened

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def owner(kind: str, *events: Event, spec: Any = None, **status: Any) -> Owner:
    obj = {"metadata": {"name": "x"}, "spec": spec or {}, "status": status}
    return Owner(kind, "x", obj, events)


def condition(kind: str, status: str, **further: str) -> dict[str, str]:
    return {"type": kind, "status": status, **further}


def event(reason: str, message: str, **further: Any) -> Event:
    document = {"type": "Warning", "reason": reason, "message": message,
                "firstTimestamp": "2026-03-01T11:50:00Z",
                "lastTimestamp": "2026-03-01T11:59:00Z", **further}  # fmt: skip
    return from_object(Event, document)


STUCK = condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="timed out")


@pytest.mark.parametrize(
    ("given", "text", "is_bad"),
    [
        (owner("Deployment", spec={"replicas": 2}, readyReplicas=2, updatedReplicas=2),
         "2 of 2 ready", False),
        (owner("Deployment", spec={"replicas": 2, "paused": True}, readyReplicas=2,
               updatedReplicas=1), "2 of 2 ready, 1 of the newest revision, paused", False),
        (owner("Deployment", spec={"replicas": 1}, updatedReplicas=1, conditions=[STUCK]),
         "0 of 1 ready; rollout stuck (ProgressDeadlineExceeded): timed out", True),
        (owner("StatefulSet", spec={"replicas": 2}, readyReplicas=1),
         "1 of 2 ready; makes pods one after the other, each waits for those before it", True),
        (owner("StatefulSet", spec={"replicas": 2, "podManagementPolicy": "Parallel"}),
         "0 of 2 ready", True),
        (owner("DaemonSet", desiredNumberScheduled=3, numberReady=3, numberMisscheduled=1),
         "3 of 3 nodes ready, 1 where none should be", False),
        (owner("Job", spec={"completions": 3, "suspend": True}, succeeded=1),
         "1 succeeded of 3, 0 active, 0 failed (backoffLimit 6); suspended", True),
        (owner("Job", conditions=[condition("Failed", "True", reason="DeadlineExceeded",
                                            message="too long")]),
         "0 succeeded, 0 active, 0 failed (backoffLimit 6); given up (DeadlineExceeded): too long",
         True),
        (owner("Job", spec={"completions": 4, "backoffLimit": 2**31 - 1,
                            "backoffLimitPerIndex": 1}, succeeded=3, failed=2, failedIndexes="2"),
         "3 succeeded of 4, 0 active, 2 failed (backoffLimitPerIndex 1), failed indexes 2", False),
        (owner("Job", spec={"managedBy": "example.com/queue"}),
         "0 succeeded, 0 active, 0 failed (backoffLimit 6); left to example.com/queue (managedBy)",
         False),
        (owner("CronJob", spec={"schedule": "0 3 * * *", "timeZone": "Europe/Berlin"},
               lastScheduleTime="2026-03-01T11:00:00Z"),
         'schedule "0 3 * * *" in Europe/Berlin, last run 60 min ago', False),
        (owner("HorizontalPodAutoscaler", spec={"maxReplicas": 5}, desiredReplicas=2,
               currentReplicas=2, conditions=[condition(
                   "ScalingActive", "False", reason="FailedGetResourceMetric", message="none")]),
         "wants 2, has 2 (1 to 5); FailedGetResourceMetric: none", True),
        (owner("HorizontalPodAutoscaler", spec={"maxReplicas": 5}, currentReplicas=1),
         "has 1 (1 to 5)", False),
        (owner("PodDisruptionBudget", disruptionsAllowed=1, currentHealthy=3, desiredHealthy=2),
         "3 healthy, 2 needed; allows 1 disruption", False),
        (owner("Database", conditions=[condition("Ready", "False", message="no quorum")]),
         "Ready False no quorum", True),
    ],
)  # fmt: skip
def test_standings(given: Owner, text: str, is_bad: bool) -> None:
    assert given.object is not None
    found = standing(given.kind, given.object, NOW)
    assert (found.text, found.is_bad) == (text, is_bad)


def test_a_complaint_is_told_once_and_an_owner_that_is_gone_is_told() -> None:
    quota = condition("ReplicaFailure", "True", message="exceeded quota")
    chain = (
        owner("Deployment", spec={"replicas": 1}, conditions=[quota], updatedReplicas=1),
        owner("ReplicaSet", event("FailedCreate", "exceeded quota"), conditions=[quota]),
        Owner("Database", "gone", None),
    )
    assert [(line.depth, line.text) for line in lines_of(chain, NOW)] == [
        (0, "Deployment x: 0 of 1 ready; pods cannot be made: exceeded quota"),
        (1, "ReplicaSet x: 0 of 1 there, 0 ready"),
        (2, "Database gone: is gone; what it owned is to be deleted"),
    ]


@pytest.mark.parametrize(
    ("chain", "state", "text"),
    [
        ([owner("Deployment", spec={"replicas": 0})], State.PENDING, "it asks for 0 replicas"),
        ([owner("Deployment", spec={"replicas": 1, "paused": True})], State.PENDING,
         "it is paused"),
        ([owner("CronJob", spec={"suspend": True})], State.PENDING, "CronJob x is suspended"),
        ([owner("CronJob"), owner("Job", spec={"suspend": True})], State.PENDING,
         "Job x is suspended"),
        ([owner("CronJob", spec={"schedule": "@daily"})], State.PENDING, "has not run yet"),
        ([owner("Deployment"), owner("ReplicaSet", event("FailedCreate", "exceeded quota: few"))],
         State.BROKEN, "they cannot be made: exceeded quota: few"),
        ([owner("DaemonSet")], State.PENDING, "no node matches its selector"),
        ([owner("Job", event("FailedCreate", "exceeded quota: few"), conditions=[condition(
            "Failed", "True", reason="DeadlineExceeded", message="too long")])],
         State.BROKEN, "given up (DeadlineExceeded): too long"),
        ([owner("Job", conditions=[condition("Complete", "True")])], State.FINISHED,
         "is complete, its pods are gone"),
        ([Owner("StatefulSet", "x", {"metadata": {"name": "x", "generation": 2}, "spec": {},
                                     "status": {"observedGeneration": 1}})], State.PENDING,
         "are the controllers running?"),
    ],
)  # fmt: skip
def test_why_there_are_no_pods(chain: list[Owner], state: State, text: str) -> None:
    found = why_no_pods(tuple(chain), NOW)
    assert found.state is state and text in found.text
    assert found.text.startswith(f"{chain[0].kind} x ")


def test_an_autoscaler_is_asked_for_what_it_scales() -> None:
    scaler = owner("HorizontalPodAutoscaler")
    found = why_no_pods((scaler, Owner("Deployment", "web", None)), NOW)
    assert found.state is State.BROKEN
    assert found.text == "HorizontalPodAutoscaler x scales nothing: there is no Deployment web"
    found = why_no_pods((scaler, owner("Deployment", spec={"replicas": 0})), NOW)
    assert found.text == "Deployment x has no pods: it asks for 0 replicas"


def service(**spec: Any) -> Service:
    return from_object(Service, {"metadata": {"name": "web"}, "spec": spec})


def pod(ready: str = "True", port: int = 80, name: str = "http") -> Pod:
    ports = [{"name": name, "containerPort": port}]
    return from_object(Pod, {
        "metadata": {"name": "web-0", "labels": {"app": "web", "tier": "front"}},
        "spec": {"containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "conditions": [condition("Ready", ready)]}})  # fmt: skip


WEB, HTTP = {"app": "web"}, [{"port": 80}]


@pytest.mark.parametrize(
    ("given", "pods", "state", "text"),
    [
        (service(selector=WEB, ports=HTTP), [pod()], State.RUNNING, "has 1 endpoint"),
        (service(selector={"app": "wbe"}, ports=HTTP), [pod()], State.BROKEN,
         "its selector app=wbe matches no pod"),
        (service(selector=WEB, ports=HTTP), [pod("False")], State.BROKEN,
         "none of 1 pod is ready (web-0)"),
        (service(selector=WEB, ports=HTTP, publishNotReadyAddresses=True), [pod("False")],
         State.RUNNING, "has 1 endpoint"),
        (service(selector=WEB, ports=[{"port": 80, "targetPort": "web"}]), [pod()], State.BROKEN,
         "port 80 leads to the port named web, which no pod has (http)"),
        (service(selector=WEB, ports=HTTP), [pod(port=8080)], State.BROKEN,
         "port 80 leads to 80, and its pods tell of 8080 only"),
        (service(ports=HTTP), [], State.RUNNING, "has no selector"),
        (service(type="ExternalName", externalName="a.example"), [], State.RUNNING,
         "another name for a.example"),
    ],
)  # fmt: skip
def test_services(given: Service, pods: list[Pod], state: State, text: str) -> None:
    found = endpoints.service(given, pods).verdict
    assert found.state is state and text in found.text


def claim(phase: str = "Pending", meta: Any = None, **spec: Any) -> PersistentVolumeClaim:
    requests = {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"]}
    return from_object(PersistentVolumeClaim, {
        "metadata": {"name": "data", **(meta or {})}, "spec": {**requests, **spec},
        "status": {"phase": phase}})  # fmt: skip


CLASSES = [
    from_object(StorageClass, {"metadata": {"name": name}, "provisioner": provisioner,
                               "volumeBindingMode": mode})
    for name, provisioner, mode in (
        ("late", "example.com/disk", "WaitForFirstConsumer"),
        ("soon", "example.com/disk", "Immediate"),
        ("hand", "kubernetes.io/no-provisioner", "Immediate"),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "state", "text"),
    [
        (claim("Bound", volumeName="pv"), State.RUNNING, "is bound to volume pv"),
        (claim("Lost", volumeName="pv"), State.BROKEN, "has lost its volume pv"),
        (claim(storageClassName="nix"), State.PENDING, "storage class nix does not exist"),
        (claim(storageClassName="late"), State.PENDING, "waits until a pod uses the claim"),
        (claim(storageClassName="soon"), State.PENDING,
         "example.com/disk has not made it: 60 s ago: ProvisioningFailed: no space"),
        (claim(storageClassName="hand"), State.PENDING, "makes no volumes, and no free one fits"),
        (claim(), State.PENDING, "it names no storage class"),
        (claim(storageClassName="", volumeName="pv"), State.PENDING, "it asks for volume pv"),
        (claim(meta={"deletionTimestamp": "2026-03-01T11:00:00Z", "finalizers": ["f"]}),
         State.TERMINATING, "is being deleted: held by finalizers: f"),
    ],
)  # fmt: skip
def test_claims(given: PersistentVolumeClaim, state: State, text: str) -> None:
    events = [event("ProvisioningFailed", "no space")]
    found = endpoints.claim(given, CLASSES, [], events, NOW).verdict
    assert found.state is state and text in found.text


def test_events_are_condensed() -> None:
    inside = {"involvedObject": {"fieldPath": "spec.containers{c}"}}
    found = condensed([
        event("Unhealthy", "Readiness probe failed: 503", count=3, **inside),
        event("Unhealthy", "Liveness probe failed: 500", **inside),
        event("Scheduled", "to n1", lastTimestamp=None, firstTimestamp=None,
              eventTime="2026-03-01T11:40:00.000000Z"),
        event("Unhealthy", "Readiness probe failed: 500", count=2,
              lastTimestamp="2026-03-01T11:59:30Z", **inside),
        event("BackOff", "again", series={"count": 9,
                                          "lastObservedTime": "2026-03-01T11:58:00.000000Z"}),
    ])  # fmt: skip
    assert [(each.reason, each.count, each.message, each.part) for each in found] == [
        ("Scheduled", 1, "to n1", ""),
        ("BackOff", 9, "again", ""),
        ("Unhealthy", 1, "Liveness probe failed: 500", "c"),
        ("Unhealthy", 5, "Readiness probe failed: 500", "c"),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["web-0"], Target("pod", "web-0")),
        (["deploy/web"], Target("deploy", "web")),
        (["Job", "x"], Target("job", "x")),
        (["a/b/c"], None), (["pod/"], None), (["a", "b", "c"], None), (["a/b", "c"], None),
    ],
)  # fmt: skip
def test_targets(words: list[str], expected: Target | None) -> None:
    if expected is not None:
        assert target_of(words) == expected
        return
    with pytest.raises(UnknownTypeError):
        target_of(words)


def test_words() -> None:
    assert [duration(n) for n in (-1, 40, 119, 120, 7300, 200_000)] == [
        "0 s", "40 s", "119 s", "2 min", "2 h", "2 d"]  # fmt: skip
    assert exit_code(143) == "SIGTERM, asked to end"
    assert exit_code(128 + 34).startswith(("SIGRTMIN", "signal"))
    assert exit_code(42) == "the program reports a failure of its own"
    assert listed(["a", "b"], 5) == "a, b and 3 more"
    long = shortened("begin " + "x" * 500 + " the end", 60)
    assert long.startswith("begin") and long.endswith("the end") and len(long) <= 60
    uid = "54daff73-f535-4c21-a285-a01da971f24a"
    assert shortened(f"container c in pod web_default({uid})") == "container c"
