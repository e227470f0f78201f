"""The life of pods on simulated nodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from navarch.api.objects import copy_object, from_object
from navarch.api.types.core_v1 import ContainerStatus, Pod, PodCondition
from navarch.node.admission import Refusal
from navarch.node.simulated.config import Fleet
from navarch.node.simulated.life import (
    Moment,
    Place,
    Remove,
    Step,
    Wait,
    Write,
    next_step,
    refused,
)
from navarch.node.simulated.slim import Slimmer
from navarch.node.simulated.timetable import PREFIX, Span, Timetable, parse_setting

START = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = Place("198.18.0.1", "10.244.0.5")
AT_ONCE = Timetable()


def timetable(**settings: Any) -> Timetable:
    return Timetable(**dict(parse_setting(name, value) for name, value in settings.items()))


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> Pod:
    own = {
        f"{PREFIX}/{key}" if "/" not in key else key: v for key, v in (annotations or {}).items()
    }
    return from_object(
        Pod,
        {
            "metadata": {"name": "p", "namespace": "default", "uid": "u", "annotations": own},
            "spec": {
                "restartPolicy": "Always",
                "nodeName": "n",
                "containers": [{"name": "c", "image": "i"}],
                **spec,
            },
            "status": {"phase": "Pending"},
        },
    )


class Life:
    """A pod, moved on by what the node writes. It goes through the informer's transform each time,
    so nothing may depend on what that leaves out."""

    def __init__(self, pod: Pod, timetable: Timetable = AT_ONCE) -> None:
        self.pod, self.timetable, self.now = pod, timetable, START
        self.booted: datetime | None = None
        self.wrote: datetime | None = None
        self._slimmer = Slimmer(keep_labels=False, is_ours=lambda _: True)

    def step(self, seconds: float = 0.0) -> Step:
        self.now += timedelta(seconds=seconds)
        slim = self._slimmer.pod(copy_object(self.pod))
        plan = Fleet().timetable(slim, "", self.timetable)
        moment = Moment(self.now, self.wrote, self.booted)
        found = next_step(slim, PLACE, plan, moment)
        if isinstance(found, Write):
            self.wrote = self.now
            self.pod = copy_object(self.pod)
            foreign = [c for c in self.pod.status.conditions if c.type == "example.com/ok"]
            self.pod.status = copy_object(found.status)
            self.pod.status.conditions += [
                c for c in foreign if c.type not in {x.type for x in found.status.conditions}
            ]
        return found

    def until(self, **wanted: Any) -> float:
        """Let time pass to whenever something is due until the status is so; the seconds passed."""
        began = self.now
        for _ in range(50):
            status = self.pod.status
            if all(
                getattr(self, name, getattr(status, name, None)) == v for name, v in wanted.items()
            ):
                return (self.now - began).total_seconds()
            found = self.step()
            if isinstance(found, Wait):
                assert found.seconds is not None, f"nothing will happen any more: {status}"
                self.now += timedelta(seconds=found.seconds)
        raise AssertionError(f"never {wanted}: {self.pod.status}")

    def delete(self, grace: int = 30) -> None:
        self.pod.metadata.deletionTimestamp = (self.now + timedelta(seconds=grace)).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
        self.pod.metadata.deletionGracePeriodSeconds = grace

    @property
    def container(self) -> ContainerStatus:
        return self.pod.status.containerStatuses[0]

    def state(self, name: str) -> str:
        """One word on a container's state."""
        status = self.pod.status
        for each in (*status.initContainerStatuses, *status.containerStatuses):
            if each.name == name:
                if each.state.terminated is not None:
                    return f"ended {each.state.terminated.exitCode}"
                waiting = each.state.waiting
                return waiting.reason if waiting is not None else "running"
        return ""

    @property
    def restarts(self) -> int:
        return self.container.restartCount

    @property
    def waiting(self) -> str:
        waiting = self.container.state.waiting
        return waiting.reason if waiting is not None else ""

    @property
    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.pod.status.conditions)

    @property
    def reason(self) -> str:
        return next(c.reason for c in self.pod.status.conditions if c.type == "Ready")


def test_at_once_by_default() -> None:
    life = Life(pod())
    assert isinstance(life.step(), Write)
    status = life.pod.status
    assert (status.phase, status.podIP, status.hostIP) == ("Running", PLACE.pod_ip, PLACE.node_ip)
    assert life.ready and life.container.ready and life.container.started
    assert {c.type: c.status for c in status.conditions} == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }
    assert life.step() == Wait()
    assert life.step(1e6) == Wait()


def test_starting_and_becoming_ready_take_their_time() -> None:
    life = Life(pod(), timetable(start="5s", ready="3s"))
    life.step()
    assert (life.pod.status.phase, life.ready, life.pod.status.podIP) == ("Pending", False, "")
    assert (life.reason, life.waiting) == ("ContainersNotReady", "ContainerCreating")
    assert life.step(2.0) == Wait(3.0)
    life.step(3.0)
    assert (life.pod.status.phase, life.ready, life.container.started) == ("Running", False, True)
    assert life.step() == Wait(3.0)
    life.step(3.0)
    assert life.ready
    assert life.step() == Wait()


def test_a_span_is_never_shorter_than_said() -> None:
    """Although times in statuses are whole seconds."""
    life = Life(pod(), timetable(start="0.5s"))
    life.now += timedelta(milliseconds=900)
    life.step()
    assert life.step() == Wait(0.5)


def test_readiness_comes_and_goes() -> None:
    life = Life(pod({"unready-every": "10s", "unready-for": "5s"}))
    life.step()
    changes = []
    for _ in range(4):
        found = life.step()
        assert isinstance(found, Wait) and found.seconds is not None
        assert isinstance(life.step(found.seconds), Write)
        changes.append((found.seconds, life.ready))
    assert changes == [(10.0, False), (5.0, True), (10.0, False), (5.0, True)]
    assert life.pod.status.phase == "Running"


def test_pods_of_the_host_network_have_the_nodes_address() -> None:
    life = Life(pod(hostNetwork=True))
    life.step()
    assert life.pod.status.podIP == PLACE.node_ip


@pytest.mark.parametrize(
    ("policy", "code", "phase", "restarts"),
    [
        ("Never", "0", "Succeeded", 0),
        ("Never", "2", "Failed", 0),
        ("OnFailure", "0", "Succeeded", 0),
        ("OnFailure", "2", "Running", 1),
        ("Always", "2", "Running", 1),
        ("Always", "0", "Running", 1),
    ],
)
def test_how_it_ends(policy: str, code: str, phase: str, restarts: int) -> None:
    life = Life(pod({"run": "10", "exit-code": code}, restartPolicy=policy))
    life.step()
    assert life.step(4.0) == Wait(6.0)
    life.step(6.0)
    assert (life.pod.status.phase, life.restarts) == (phase, restarts)
    if restarts:
        ended = life.container.lastState.terminated
        assert ended is not None and ended.exitCode == int(code)
        assert life.step(4.0) == Wait(6.0)
        return
    ended = life.container.state.terminated
    assert ended is not None and ended.exitCode == int(code)
    assert ended.reason == ("Error" if int(code) else "Completed")
    assert not life.ready
    assert life.reason == ("PodFailed" if int(code) else "PodCompleted")
    assert life.step(1e6) == Wait()


def test_a_crash_loop_waits_longer_each_time() -> None:
    life = Life(pod({"run": "1s", "exit-code": "137", "reason": "OOMKilled"}))
    life.step()
    waits = []
    for restarts in range(1, 8):
        waits.append(life.until(restarts=restarts))
        ended = life.container.lastState.terminated
        assert ended is not None and (ended.reason, ended.exitCode) == ("OOMKilled", 137)
    assert waits == [1.0, 11.0, 21.0, 41.0, 81.0, 161.0, 301.0]
    life.until(waiting="CrashLoopBackOff")
    waiting = life.container.state.waiting
    assert waiting is not None
    assert waiting.message == "back-off 5m0s restarting failed container=c pod=p_default(u)"
    assert (life.pod.status.phase, life.ready) == ("Running", False)


def test_the_backoff_can_be_shorter() -> None:
    life = Life(pod({"run": "0", "exit-code": "1", "backoff": "1s", "backoff-limit": "2s"}))
    life.step()
    assert [life.until(restarts=n) for n in (1, 2, 3, 4)] == [0.0, 1.0, 2.0, 2.0]


def test_the_timetable_of_all_pods_ends_those_that_do_not_restart_always() -> None:
    default = Timetable(run=Span(3.0, 3.0), run_only_finite=True)
    once, always = Life(pod(restartPolicy="Never"), default), Life(pod(), default)
    for life in (once, always):
        life.step()
        life.step(3.0)
    assert (once.pod.status.phase, always.pod.status.phase) == ("Succeeded", "Running")
    assert always.restarts == 0


def test_chances_are_drawn_once() -> None:
    phases = []
    for number in range(200):
        one = pod(
            {"run": "1s", "failure-chance": "0.3", "failure-code": "7"}, restartPolicy="Never"
        )
        one.metadata.uid = f"uid-{number}"
        life = Life(one)
        life.step()
        life.step(1.0)
        again = Life(copy_object(one))
        again.step()
        again.step(1.0)
        assert again.pod.status == life.pod.status
        phases.append(life.pod.status.phase)
    assert 30 < phases.count("Failed") < 90


@pytest.mark.parametrize(
    ("annotations", "wait"), [({}, None), ({"waiting-for": "20s"}, 20.0)], ids=["for ever", "20 s"]
)
def test_images_that_cannot_be_pulled(annotations: dict[str, str], wait: float | None) -> None:
    life = Life(pod({"waiting": "ImagePullBackOff", **annotations}))
    life.step()
    waiting = life.container.state.waiting
    assert waiting is not None
    assert (waiting.reason, waiting.message) == (
        "ImagePullBackOff",
        'Back-off pulling image "i"',
    )
    assert (life.pod.status.phase, life.pod.status.podIP) == ("Pending", PLACE.pod_ip)
    assert life.step() == Wait(wait)
    if wait is not None:
        life.step(wait)
        assert life.ready


def test_single_containers_have_settings_of_their_own() -> None:
    containers = [{"name": "web", "image": "a"}, {"name": "log", "image": "b"}]
    life = Life(
        pod(
            {f"log.{PREFIX}/run": "5s", f"log.{PREFIX}/exit-code": "1", "ready": "1s"},
            containers=containers,
            restartPolicy="Never",
        )
    )
    life.step()
    life.step(5.0)
    assert (life.state("web"), life.state("log")) == ("running", "ended 1")
    assert (life.pod.status.phase, life.ready) == ("Running", False)


def test_the_deadline() -> None:
    life = Life(pod(activeDeadlineSeconds=10))
    # The first step is the last one that anything but time brings about.
    first = life.step()
    assert isinstance(first, Write) and first.then == Wait(10.0)
    assert life.step(4.0) == Wait(6.0)
    life.step(6.0)
    assert (life.pod.status.phase, life.pod.status.reason) == ("Failed", "DeadlineExceeded")


@pytest.mark.parametrize(
    ("stop", "wait", "code"), [(0.0, None, 143), (5.0, 5.0, 143), (60.0, 30.0, 137)]
)
def test_deletion_is_graceful(stop: float, wait: float | None, code: int) -> None:
    life = Life(pod(), timetable(stop=stop))
    life.step()
    life.delete()
    if wait is not None:
        assert life.step() == Wait(wait)
    ended = life.step(wait or 0.0)
    assert isinstance(ended, Write) and ended.status.phase == "Failed"
    assert life.state("c") == f"ended {code}"
    assert not life.ready
    assert life.step() == Remove()


def test_containers_that_handle_the_signal_succeed() -> None:
    life = Life(pod({"stop-exit-code": "0"}, restartPolicy="Never"))
    life.step()
    life.delete()
    life.step()
    assert life.pod.status.phase == "Succeeded"


def test_a_pod_that_never_began_is_removed_all_the_same() -> None:
    life = Life(pod({"waiting": "ImagePullBackOff"}))
    life.step()
    life.delete()
    life.step()
    assert life.pod.status.phase == "Failed"
    assert life.step() == Remove()


def test_who_holds_a_pod_sees_how_it_ended() -> None:
    life = Life(pod())
    life.step()
    life.delete(0)
    life.pod.metadata.finalizers = ["batch.kubernetes.io/job-tracking"]
    life.step()
    assert life.pod.status.phase == "Failed"
    assert life.step() == Remove()


def test_readiness_gates() -> None:
    life = Life(pod(readinessGates=[{"conditionType": "example.com/ok"}]))
    life.step()
    assert (life.ready, life.reason) == (False, "ReadinessGatesNotReady")
    life.pod.status.conditions.append(PodCondition(type="example.com/ok", status="True"))
    life.step()
    assert life.ready


INITS = [
    {"name": "first", "image": "i"},
    {"name": "side", "image": "i", "restartPolicy": "Always"},
    {"name": "second", "image": "i"},
]


def test_init_containers_are_through_at_once_and_sidecars_run() -> None:
    life = Life(pod(initContainers=INITS))
    life.step()
    assert [life.state(name) for name in ("first", "side", "second", "c")] == [
        *("ended 0", "running", "ended 0", "running"),
    ]
    assert life.ready
    assert life.step(10.0) == Wait()


def test_init_containers_run_one_after_the_other() -> None:
    own = {f"{name}.{PREFIX}/run": "10s" for name in ("first", "second")}
    life = Life(pod(own, initContainers=INITS))
    story = []
    for seconds in (0.0, 10.0, 10.0):
        life.step(seconds)
        story.append([life.state(name) for name in ("first", "side", "second", "c")])
        if life.pod.status.phase == "Pending":
            [initialized] = [c for c in life.pod.status.conditions if c.type == "Initialized"]
            assert initialized.status == "False"
    creating = "PodInitializing"
    assert story == [
        ["running", creating, creating, creating],
        ["ended 0", "running", "running", creating],
        ["ended 0", "running", "ended 0", "running"],
    ]
    assert life.pod.status.phase == "Running"


@pytest.mark.parametrize(("policy", "phase"), [("Never", "Failed"), ("Always", "Pending")])
def test_init_containers_that_fail(policy: str, phase: str) -> None:
    own = {f"first.{PREFIX}/exit-code": "3"}
    life = Life(pod(own, initContainers=INITS[:1], restartPolicy=policy))
    life.step()
    assert (life.pod.status.phase, life.state("c")) == (phase, "PodInitializing")
    if policy == "Always":
        assert life.pod.status.initContainerStatuses[0].restartCount == 1
        assert life.state("first") == "CrashLoopBackOff"


def test_sidecars_end_after_the_others() -> None:
    sidecars = [{"name": name, "image": "i", "restartPolicy": "Always"} for name in ("one", "two")]
    life = Life(
        pod({"run": "5s", "stop": "2s"}, initContainers=sidecars, restartPolicy="Never"),
    )
    life.timetable = timetable()
    life.pod.metadata.annotations |= {f"{n}.{PREFIX}/stop": "2s" for n in ("one", "two")}
    life.step()
    story = []
    for seconds in (5.0, 2.0, 2.0):
        life.step(seconds)
        story.append((*map(life.state, ("c", "two", "one")), life.pod.status.phase))
    assert story == [
        ("ended 0", "running", "running", "Running"),
        ("ended 0", "ended 143", "running", "Running"),
        ("ended 0", "ended 143", "ended 143", "Succeeded"),
    ]


def test_a_resize_is_accepted() -> None:
    life = Life(pod())
    life.step()
    life.pod.metadata.generation = 2
    life.pod.spec.containers[0].resources.requests = {"cpu": "2"}
    assert isinstance(life.step(), Write)
    assert life.container.allocatedResources == {"cpu": "2"}
    assert life.pod.status.observedGeneration == 2
    assert life.step() == Wait()


def test_restart_rules_of_a_container() -> None:
    rule = {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}
    container = {"name": "c", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [rule]}
    for code, phase, restarts in (("42", "Running", 1), ("1", "Failed", 0)):
        life = Life(
            pod({"run": "5s", "exit-code": code}, containers=[container], restartPolicy="Never")
        )
        life.step()
        life.step(5.0)
        assert (life.pod.status.phase, life.restarts) == (phase, restarts)


def test_a_new_process_goes_on_where_the_last_left_off() -> None:
    life = Life(pod({"run": "10"}, restartPolicy="Never"))
    life.step()
    again = Life(copy_object(life.pod))
    again.now = START + timedelta(seconds=9)
    assert again.step() == Wait(1.0)


@pytest.mark.parametrize(
    ("policy", "phase", "restarts"), [("Always", "Running", 1), ("Never", "Failed", 0)]
)
def test_power_is_lost_and_comes_back(policy: str, phase: str, restarts: int) -> None:
    own = {f"first.{PREFIX}/run": "10s"}
    life = Life(pod(own, initContainers=INITS[:1], restartPolicy=policy))
    life.until(phase="Running")
    life.now += timedelta(seconds=100)
    life.booted = life.now
    life.step()
    if policy == "Always":
        # From the first init container on.
        assert (life.state("first"), life.state("c")) == ("running", "PodInitializing")
        life.until(ready=True)
    assert (life.pod.status.phase, life.restarts) == (phase, restarts)
    ended = life.container.lastState.terminated or life.container.state.terminated
    assert ended is not None and (ended.exitCode, ended.reason) == (255, "Unknown")
    assert life.step() == Wait()


def test_refused_pods_have_no_containers() -> None:
    refusal = Refusal("OutOfcpu", "Node didn't have enough resource: cpu")
    write = refused(pod(), PLACE, refusal, START)
    assert isinstance(write, Write)
    status = write.status
    assert (status.phase, status.reason, status.containerStatuses) == ("Failed", "OutOfcpu", [])
    assert status.message == "Pod was rejected: Node didn't have enough resource: cpu"
