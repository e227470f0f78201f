"""One case for each cause: what is said of a pod, and in what order causes are asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Event, Node, PersistentVolumeClaim, Pod
from navarch.cli.why.assembly import owner_report, pod_report
from navarch.cli.why.facts import Facts, Log, Owner
from navarch.cli.why.report import State
from navarch.cli.why.verdicts import rank, verdict
from navarch.scheduler.explanation import Explanation, Ranked, RuledOut

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return format_time(NOW - timedelta(seconds=seconds))


def pod_of(
    status: dict[str, Any] | None = None,
    *,
    meta: dict[str, Any] | None = None,
    container: dict[str, Any] | None = None,
    **spec: Any,
) -> Pod:
    main = {"name": "main", "image": "registry.example/app:9", **(container or {})}
    document = {
        "metadata": {"name": "web-0", "namespace": "default", "uid": "u",
                     "creationTimestamp": ago(60), **(meta or {})},
        "spec": {"nodeName": "n1", "containers": [main], **spec},
        "status": {"phase": "Pending", **(status or {})},
    }  # fmt: skip
    return from_object(Pod, document)


def waiting(reason: str, message: str = "", **further: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "main", "state": state, **further}]}


def ended(code: int, seconds: float = 10, **further: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "finishedAt": ago(seconds), **further}}


def crashing(wait: str, code: int, **end: Any) -> dict[str, Any]:
    text = f"back-off {wait} restarting failed container=main pod=web-0_default(u)"
    return waiting("CrashLoopBackOff", text, restartCount=4, lastState=ended(code, **end))


def event(reason: str, message: str, count: int = 1, seconds: float = 5, **further: Any) -> Event:
    document = {
        "type": "Normal" if reason in ("Pulling", "Killing", "Preempted") else "Warning",
        "reason": reason, "message": message, "count": count,
        "firstTimestamp": ago(seconds + 30), "lastTimestamp": ago(seconds),
        "involvedObject": {"fieldPath": "spec.containers{main}"}, **further,
    }  # fmt: skip
    return from_object(Event, document)


def node_of(ready: str = "True") -> Node:
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": ago(300),
                 "message": "the runtime is down"}  # fmt: skip
    return from_object(Node, {"metadata": {"name": "n1"}, "status": {"conditions": [condition]}})


def facts(pod: Pod, *events: Event, **further: Any) -> Facts:
    return Facts(NOW, pod, tuple(events), **{"node": node_of(), **further})


def rule(nodes: int, reason: str, detail: str = "", remedy: str = "") -> RuledOut:
    return RuledOut("NodeResourcesFit", reason, detail, nodes, ("n1",), True, remedy)


RUNNING = {"name": "main", "state": {"running": {"startedAt": ago(50)}}}
CONDITION = {"type": "Ready", "status": "False", "lastTransitionTime": ago(40)}
CPU = rule(2, "Insufficient cpu", "short by 1: asks 3, most free is 2 of 4 on n1", "ask for less")
UNPLACED = {"nodeName": ""}
TAINT = rule(1, "node(s) had untolerated taint(s)", "taint k=v:NoSchedule is not tolerated")


@pytest.mark.parametrize(
    ("given", "state", "text"),
    [
        pytest.param(
            facts(pod_of(waiting("ImagePullBackOff", "Back-off pulling image")),
                  event("Pulling", "Pulling image", 4),
                  event("Failed", 'Failed to pull image "registry.example/app:9": manifest unknown',
                        4),
                  event("Failed", "Error: ImagePullBackOff", 9, 1)),
            State.BROKEN,
            "is not running: its image registry.example/app:9 cannot be pulled (no such image or "
            "tag), tried 4 times, next try in about 75 s",
            id="an image that does not exist",
        ),
        pytest.param(
            facts(pod_of(waiting("ErrImagePull", "pull access denied, unauthorized"))),
            State.BROKEN,
            "cannot be pulled (the registry refuses access)",
            id="an image that nobody may have",
        ),
        pytest.param(
            facts(pod_of(waiting("ErrImageNeverPull", "..."))),
            State.BROKEN,
            "is not on the node, and imagePullPolicy is Never",
            id="an image that may not be pulled",
        ),
        pytest.param(
            facts(pod_of(waiting("CreateContainerConfigError", 'configmap "settings" not found'))),
            State.BROKEN,
            'container main cannot be started: configmap "settings" not found',
            id="a config map that is missing",
        ),
        pytest.param(
            facts(pod_of(crashing("40s", 1), container={"command": ["serve"]}),
                  logs={"main": Log(("starting", "no database at db:5432", ""))}),
            State.BROKEN,
            "container main ended with exit code 1 (the program reports a failure of its own), "
            "restarted 4 times, next start in 30 s; its last words: no database at db:5432",
            id="a crash loop",
        ),
        pytest.param(
            facts(pod_of(crashing("5m0s", 127, seconds=400), container={"command": ["serv"]})),
            State.BROKEN,
            "exit code 127 (command not found), restarted 4 times, next start now",
            id="a command that is not there",
        ),
        pytest.param(
            facts(pod_of(crashing("10s", 137, reason="OOMKilled"),
                         container={"resources": {"limits": {"memory": "64Mi"}}})),
            State.BROKEN,
            "exit code 137, killed for using more memory than its limit of 64Mi",
            id="out of memory",
        ),
        pytest.param(
            facts(pod_of(crashing("10s", 137)),
                  event("Killing", "Container main failed liveness probe, will be restarted")),
            State.BROKEN,
            "exit code 137 (SIGKILL, killed because its liveness probe failed)",
            id="killed for its liveness probe",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running", **crashing("10s", 3, message="bad flag: -x\n")})),
            State.BROKEN,
            "its last words: bad flag: -x",
            id="a termination message goes before the log",
        ),
        pytest.param(
            facts(pod_of(waiting("ContainerCreating")),
                  event("FailedMount", 'MountVolume.SetUp failed for volume "s" : secret "keys" '
                        "not found", 6)),
            State.BROKEN,
            'a volume cannot be mounted: MountVolume.SetUp failed for volume "s" : secret "keys" '
            "not found",
            id="a volume that cannot be mounted",
        ),
        pytest.param(
            facts(pod_of(waiting("ContainerCreating")),
                  event("FailedCreatePodSandBox", "no more addresses")),
            State.BROKEN,
            "its network or sandbox cannot be set up: no more addresses",
            id="no sandbox",
        ),
        pytest.param(
            facts(pod_of(waiting("ContainerCreating")), event("Pulling", "Pulling image")),
            State.PENDING,
            "its image is being pulled for 5 s",
            id="a pull under way",
        ),
        pytest.param(
            facts(pod_of()), State.PENDING, "node n1 has not taken it up yet", id="not taken up"
        ),
        pytest.param(
            facts(pod_of(
                {"initContainerStatuses": [{**RUNNING, "name": "wait"}],
                 **waiting("PodInitializing"), "startTime": ago(50)},
                initContainers=[{"name": "wait"}])),
            State.PENDING,
            "init container wait has not ended, it runs for 50 s",
            id="an init container that waits",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running", "containerStatuses": [RUNNING],
                          "conditions": [CONDITION]}, container={"readinessProbe": {}}),
                  event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: "
                        "503", 12)),
            State.NOT_READY,
            "runs but is not ready: the readiness probe of container main fails (12 times, last "
            "5 s ago): HTTP probe failed with statuscode: 503",
            id="a probe that fails",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running", "containerStatuses": [{**RUNNING, "ready": True}],
                          "conditions": [CONDITION]},
                         readinessGates=[{"conditionType": "example.com/lb"}])),
            State.NOT_READY,
            "its readiness gate example.com/lb is not set",
            id="a readiness gate",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running", "containerStatuses": [{**RUNNING, "ready": True}],
                          "conditions": [CONDITION]}), node=node_of("Unknown")),
            State.BROKEN,
            "cannot be relied upon: its node n1 does not answer for 5 min",
            id="a node that is dead",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running"}), node=None),
            State.BROKEN,
            "its node n1 does not exist (any more)",
            id="a node that is gone",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running", "conditions": [{**CONDITION, "status": "True"}],
                          "containerStatuses": [{**RUNNING, "ready": True}]}),
                  node=None, node_known=False),
            State.RUNNING,
            "runs on n1 and is ready for 40 s",
            id="a node that may not be read",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running", "conditions": [{**CONDITION, "status": "True"}],
                          "containerStatuses": [{**RUNNING, "ready": True, "restartCount": 2,
                                                 "lastState": ended(137, 90, reason="OOMKilled")}]
                          })),
            State.RUNNING,
            "is ready for 40 s; restarted 2 times, last 90 s ago (main: OOMKilled)",
            id="fine, but it was not always",
        ),
        pytest.param(
            facts(pod_of({"phase": "Succeeded",
                          "containerStatuses": [{"name": "main", "state": ended(0, 600)}]})),
            State.FINISHED,
            "has done its work and ended well 10 min ago",
            id="done",
        ),
        pytest.param(
            facts(pod_of({"phase": "Failed", "reason": "Evicted",
                          "message": "The node was low on resource: memory."})),
            State.BROKEN,
            "has failed: Evicted: The node was low on resource: memory.",
            id="evicted",
        ),
        pytest.param(
            facts(pod_of({"phase": "Failed",
                          "containerStatuses": [{"name": "main", "state": ended(
                              128, message="no such file")}]}, restartPolicy="Never")),
            State.BROKEN,
            "ended with exit code 128 (wrong exit status, or the container could not be started): "
            "no such file; restartPolicy Never",
            id="failed for good",
        ),
        pytest.param(
            facts(pod_of(UNPLACED, schedulingGates=[{"name": "example.com/ok"}], nodeName="")),
            State.PENDING,
            "it waits at 1 scheduling gate (example.com/ok)",
            id="gates",
        ),
        pytest.param(
            facts(pod_of(nodeName="", schedulerName="special"), knows_scheduler=False),
            State.PENDING,
            "it asks for scheduler special, and no such scheduler answers",
            id="a scheduler that is not there",
        ),
        pytest.param(
            facts(pod_of(nodeName=""), explanation=Explanation(0)),
            State.PENDING,
            "there are no nodes",
            id="no nodes",
        ),
        pytest.param(
            facts(pod_of(nodeName=""), explanation=Explanation(2, ruled_out=(CPU,))),
            State.PENDING,
            "none of 2 nodes can take it: cpu short by 1: asks 3, most free is 2 of 4 on n1",
            id="one rule",
        ),
        pytest.param(
            facts(pod_of(nodeName=""), explanation=Explanation(4, ruled_out=(TAINT, CPU, TAINT))),
            State.PENDING,
            "none of 4 nodes can take it: 2 nodes: cpu short by 1: asks 3, most free is 2 of 4 on "
            "n1; 1 node: taint k=v:NoSchedule is not tolerated; and 1 further reason",
            id="several rules, that of most nodes first",
        ),
        pytest.param(
            facts(pod_of(nodeName=""), explanation=Explanation(9, ruled_out=(
                RuledOut("DynamicResources", "", "all taken", 1, ("n1",), False),
                RuledOut("DynamicResources", "", "no devices", 8, ("n2",), False)))),
            State.PENDING,
            "none of 9 nodes can take it: 1 node: all taken; 8 nodes: no devices",
            id="devices that are there first",
        ),
        pytest.param(
            facts(pod_of({"nominatedNodeName": "n1"}, nodeName=""),
                  explanation=Explanation(2, ruled_out=(CPU,))),
            State.PENDING,
            "room is being made for it on n1",
            id="preemption under way",
        ),
        pytest.param(
            facts(pod_of(nodeName=""), explanation=Explanation(2, 1)),
            State.PENDING,
            "1 node could take it now, but default-scheduler has not looked at it in 60 s",
            id="a scheduler that sleeps",
        ),
        pytest.param(
            facts(pod_of({"conditions": [{"type": "PodScheduled", "status": "False",
                                          "reason": "Unschedulable", "message": "0/2"}]},
                         nodeName=""), explanation=Explanation(2, 1)),
            State.PENDING,
            "1 node could take it now, the scheduler will soon try it (again)",
            id="about to be tried",
        ),
        pytest.param(
            facts(pod_of(nodeName=""), claims={"data": None},
                  explanation=Explanation(2, rejection='persistentvolumeclaim "data" not found')),
            State.PENDING,
            "its claim data does not exist",
            id="a claim that is missing",
        ),
        pytest.param(
            facts(pod_of(nodeName=""),
                  claims={"data": from_object(PersistentVolumeClaim, {
                      "spec": {"storageClassName": "fast"}, "status": {"phase": "Pending"}})},
                  claim_events={"data": (event("ProvisioningFailed", "no space"),)},
                  explanation=Explanation(2, rejection="pod has unbound immediate "
                                          "PersistentVolumeClaims")),
            State.PENDING,
            "its claim data has no volume (class fast): no space",
            id="a claim that is not bound",
        ),
        pytest.param(
            facts(pod_of({"nominatedNodeName": "n2"}, nodeName=""),
                  claims={"data": from_object(PersistentVolumeClaim, {
                      "metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n2"}},
                      "status": {"phase": "Pending"}})},
                  claim_events={"data": (event("ExternalProvisioning", "waiting"),)},
                  explanation=Explanation(2, 1)),
            State.PENDING,
            "it will be on node n2 once the volume of its claim data is made: waiting",
            id="a volume that is being made",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running"}, meta={
                "deletionTimestamp": ago(-20), "deletionGracePeriodSeconds": 30})),
            State.TERMINATING,
            "is being deleted (asked 10 s ago): it has 20 s left of its grace period of 30 s",
            id="grace",
        ),
        pytest.param(
            facts(pod_of({"phase": "Running"}, meta={
                "deletionTimestamp": ago(100), "deletionGracePeriodSeconds": 30}),
                node=node_of("Unknown")),
            State.TERMINATING,
            "its node n1 does not answer for 5 min, so nobody can say that its containers have "
            "ended",
            id="deleted on a dead node",
        ),
        pytest.param(
            facts(pod_of(meta={"deletionTimestamp": ago(100), "finalizers": ["example.com/f"]})),
            State.TERMINATING,
            "held by finalizers: example.com/f",
            id="a finalizer",
        ),
        pytest.param(
            facts(pod_of({"containerStatuses": [RUNNING]}, meta={"deletionTimestamp": ago(100)})),
            State.TERMINATING,
            "its grace period is over, and still running: main",
            id="a container that does not end",
        ),
    ],
)  # fmt: skip
def test_causes(given: Facts, state: State, text: str) -> None:
    found = verdict(given)
    assert text in found.text
    assert found.text.startswith("pod web-0 ")
    assert found.state is state
    # The whole report can be told of every cause, in every form.
    report = pod_report(given)
    assert report.text(80, colour=False).startswith("pod web-0 ")
    assert report.json()


NO_TEMPLATE = (
    'PodResourceClaim d: resource claim template "one": '
    'resourceclaimtemplate.resource.k8s.io "one" not found'
)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (facts(pod_of(crashing("1s", 127), container={"command": ["serv", "-x"]})),
         "check the command, which is: serv -x"),
        (facts(pod_of(waiting("CreateContainerConfigError", 'secret "k" not found'))),
         "create the secret (kubectl create secret generic k …), or make the reference optional"),
        (facts(pod_of(nodeName=""), explanation=Explanation(2, ruled_out=(CPU,))), "ask for less"),
        (facts(pod_of(waiting("ContainerCreating")),
               event("FailedMount", 'configmap "c" not found')),
         "create the configmap c, or correct its name in the pod"),
        (facts(pod_of(nodeName=""), event("FailedResourceClaimCreation", NO_TEMPLATE),
               explanation=Explanation(2, rejection='pod "x": ResourceClaim not created yet')),
         "create the resourceclaimtemplate one, or correct its name in the pod"),
        (facts(pod_of(nodeName=""), explanation=Explanation(
            2, rejection='resourceclaim.resource.k8s.io "gpu" not found')),
         "create the resourceclaim gpu, or correct its name in the pod"),
        (facts(pod_of({"phase": "Running"}), node=None),
         "delete the pod, or bring the node (back): kubectl get nodes"),
    ],
)  # fmt: skip
def test_remedies(given: Facts, remedy: str) -> None:
    assert remedy in verdict(given).remedies


@pytest.mark.parametrize(
    ("limits", "remedy"),
    [({"memory": "64Mi"}, "raise resources.limits.memory"), ({}, "ask for it in requests.memory")],
)
def test_a_limit_is_to_be_raised_only_where_there_is_one(
    limits: dict[str, str], remedy: str
) -> None:
    killed = pod_of(
        crashing("10s", 137, reason="OOMKilled"), container={"resources": {"limits": limits}}
    )
    assert verdict(facts(killed)).remedies == (f"{remedy}, or let the program use less",)


def test_the_worst_pod_comes_first() -> None:
    fine = {"phase": "Running", "conditions": [{**CONDITION, "status": "True"}]}
    pods = [
        pod_of(waiting("CrashLoopBackOff")),
        pod_of(nodeName=""),
        pod_of({"phase": "Running", "conditions": [CONDITION]}),
        pod_of(meta={"deletionTimestamp": ago(1)}),
        pod_of({"phase": "Failed"}),
        pod_of(fine),
        pod_of({"phase": "Succeeded"}),
    ]
    assert [rank(pod) for pod in pods] == sorted({rank(pod) for pod in pods})


def deployment(**status: Any) -> Owner:
    return Owner("Deployment", "web", {
        "metadata": {"name": "web"}, "spec": {"replicas": 3}, "status": status})  # fmt: skip


def test_an_owner_and_its_worst_pod_are_two_sentences() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
            "message": "It has timed out."}  # fmt: skip
    lacking = deployment(updatedReplicas=3, conditions=[late])
    text = owner_report(lacking, (lacking,), facts(pod_of({"phase": "Pending"})), 1).verdict.text
    assert "It has timed out. Pod web-0 " in text


def test_an_owner_whose_pods_are_fine_may_still_lack_some() -> None:
    good = {"phase": "Running", "conditions": [{**CONDITION, "status": "True"}]}
    given = facts(pod_of(good))
    quota = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: few"}
    lacking = deployment(readyReplicas=1, updatedReplicas=3, conditions=[quota])
    found = owner_report(lacking, (lacking,), given, 1).verdict
    assert found.state is State.BROKEN
    assert found.text == (
        "Deployment web has too few pods: they cannot be made: exceeded quota: few"
    )
    whole = deployment(readyReplicas=3, updatedReplicas=3)
    assert owner_report(whole, (whole,), given, 3).verdict.text == "Deployment web: 3 of 3 ready"
    broken = owner_report(lacking, (lacking,), facts(pod_of(waiting("CrashLoopBackOff"))), 2)
    assert "Pod web-0 is not running" in broken.verdict.text
    assert "raise the quota" in broken.verdict.remedies[0]


def test_the_screen() -> None:
    ranking = (Ranked("n1", 30, {"NodeResourcesFit": 30}), Ranked("n2", 20, {"ImageLocality": 20}))
    quota = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    owner = Owner("ReplicaSet", "web", {
        "metadata": {"name": "web"}, "spec": {"replicas": 2},
        "status": {"replicas": 1, "conditions": [quota]}})  # fmt: skip
    given = facts(
        pod_of(crashing("40s", 3)),
        event("Scheduled", "Successfully assigned default/web-0 to n1", 1, 50,
              type="Normal", involvedObject={}),
        event("BackOff", "Back-off restarting", 3),
        owners=(owner,),
        logs={"main": Log(("one\x1b[31m", "GET /" + "x" * 200, "no database"))},
        explanation=Explanation(3, 2, ruled_out=(TAINT,), ranking=ranking),
        notes=("nodes: you may not read them",),
    )  # fmt: skip
    text = pod_report(given).text(72, colour=False)
    assert max(map(len, text.splitlines())) <= 72
    assert text == SCREEN
    assert "\x1b" not in text.replace("\\x1b", "")
    assert pod_report(given).text(72, colour=True).startswith("\x1b[1;31mpod web-0 is not running")


SCREEN = """\
pod web-0 is not running: container main ended with exit code 3 (the
  program reports a failure of its own), restarted 4 times, next start
  in 30 s; its last words: no database

OWNERS
  ReplicaSet web: 1 of 2 there, 0 ready; pods cannot be made: exceeded
    quota

PLACEMENT
  on n1: chosen by default-scheduler
  as things are now it is number 1 of 2 nodes that could take it (3 in
    all)
    n1 30: NodeResourcesFit 30
    n2 20: ImageLocality 20
  1 node: taint k=v:NoSchedule is not tolerated [n1] (NodeResourcesFit)

NODE AND EVENTS
  n1: Ready for 5 min
  50 s ago: Scheduled: Successfully assigned default/web-0 to n1
  5 s ago: 3 times since 35 s ago, BackOff [main]: Back-off restarting

CONTAINERS
  container main (registry.example/app:9): waits: CrashLoopBackOff,
    back-off 40s restarting failed container=main pod=web-0_default(u);
    restarted 4 times
    before: ended 10 s ago: exit code 3 (the program reports a failure
      of its own)
    log, last 3 lines:
      one\\x1b[31m
      GET /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
      no database

NOT LOOKED AT
  nodes: you may not read them"""
