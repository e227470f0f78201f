"""Statuses: phases, conditions, container states."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.node.builders import make_pod, record, sandbox, state

from navarch.api.types.core_v1 import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStatus,
    Pod,
    PodCondition,
    PodStatus,
    ResourceRequirements,
)
from navarch.node.cri.values import ContainerRecord, PodState
from navarch.node.cri.values import ContainerState as RecordState
from navarch.node.figures import count_terminations, terminated_containers
from navarch.node.plan import Waiting
from navarch.node.podapi import status_patch
from navarch.node.status import StatusInputs, compute_status

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TWO = ({"name": "a"}, {"name": "b"})


def inputs(*up: ContainerRecord, **changes: Any) -> StatusInputs:
    ids = frozenset(each.id for each in up)
    values: dict[str, Any] = {"now": NOW, "host_ips": ("192.168.49.2",), "ready": ids,
                              "started": ids}  # fmt: skip
    return StatusInputs(**{**values, **changes})


def conditions(status: PodStatus) -> dict[str, str]:
    return {each.type: each.status for each in status.conditions}


def phase_of(pod: Pod, seen: PodState, **changes: Any) -> str:
    running = [each for each in seen.containers if each.running]
    return compute_status(pod, seen, inputs(*running, **changes)).phase


INIT: dict[str, Any] = {"initContainers": [{"name": "i", "image": "x"}]}
two, never, on_failure = make_pod(*TWO), make_pod(*TWO, restartPolicy="Never"), make_pod(
    *TWO, restartPolicy="OnFailure")  # fmt: skip
with_init = make_pod(restartPolicy="Never", **INIT)
init_again = make_pod(**INIT)


@pytest.mark.parametrize(
    ("pod", "seen", "changes", "expected"),
    [
        pytest.param(two, PodState("u-1"), {}, "Pending", id="nothing"),
        pytest.param(two, state(record(two, "a")), {}, "Pending", id="one of two"),
        pytest.param(two, state(record(two, "a"), record(two, "b")), {}, "Running", id="both"),
        pytest.param(two, state(record(two, "a"), record(two, "b", exit_code=1)), {}, "Running",
                     id="one restarts"),
        pytest.param(two, state(record(two, "a", exit_code=0), record(two, "b", exit_code=0)), {},
                     "Running", id="always: both restart"),
        pytest.param(never, state(record(never, "a", exit_code=0), record(never, "b")), {},
                     "Running", id="never: one is done"),
        pytest.param(never, state(record(never, "a", exit_code=0), record(never, "b", exit_code=0)),
                     {}, "Succeeded", id="never: both are done"),
        pytest.param(never, state(record(never, "a", exit_code=0), record(never, "b", exit_code=2)),
                     {}, "Failed", id="never: one has failed"),
        pytest.param(on_failure, state(record(on_failure, "a", exit_code=0),
                                       record(on_failure, "b", exit_code=2)),
                     {}, "Running", id="on failure: one restarts"),
        pytest.param(two, state(record(two, "a", exit_code=0), record(two, "b", exit_code=143)),
                     {"ended": True}, "Failed", id="ended from outside"),
        pytest.param(two, PodState("u-1"), {"ended": True}, "Failed", id="never begun"),
        pytest.param(with_init, state(record(with_init, "i")), {}, "Pending", id="init runs"),
        pytest.param(with_init, state(record(with_init, "i", exit_code=1)), {}, "Failed",
                     id="init has failed for good"),
        pytest.param(init_again, state(record(init_again, "i", exit_code=1)), {}, "Pending",
                     id="init has failed, once more"),
        pytest.param(two, state(record(two, "a"), record(two, "b")),
                     {"failure": ("Evicted", "too much")}, "Failed", id="evicted"),
    ],
)  # fmt: skip
def test_phase(pod: Pod, seen: PodState, changes: dict[str, Any], expected: str) -> None:
    assert phase_of(pod, seen, **changes) == expected


def test_a_terminal_phase_stays() -> None:
    pod = make_pod()
    pod.status.phase, pod.status.reason = "Failed", "Evicted"
    status = compute_status(pod, state(record(pod)), inputs())
    assert (status.phase, status.reason) == ("Failed", "Evicted")


def test_of_a_refused_pod_s_containers_nothing_is_said() -> None:
    """kubectl shows a container's wait in place of the pod's reason."""
    pod = make_pod()
    refused = ("OutOfcpu", "Pod was rejected: too much")
    pod.status = compute_status(pod, state(), inputs(failure=refused, refused=True))
    assert (pod.status.phase, pod.status.reason) == ("Failed", "OutOfcpu")
    assert pod.status.containerStatuses == []
    # An agent that starts anew does not know of the refusal.
    assert compute_status(pod, state(), inputs()) == pod.status


def test_a_running_pod() -> None:
    pod = make_pod()
    up = record(pod, image="docker.io/library/busybox:1.36", image_ref="sha256:1")
    status = compute_status(pod, state(up), inputs(up))
    assert (status.podIP, status.hostIP) == ("10.1.0.1", "192.168.49.2")
    assert [each.ip for each in status.podIPs] == ["10.1.0.1"]
    assert status.startTime == "2026-01-02T00:00:00Z"
    assert conditions(status) == dict.fromkeys(
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"],
        "True",
    )
    shown = status.containerStatuses[0]
    assert (shown.ready, shown.started, shown.restartCount) == (True, True, 0)
    assert shown.containerID == "containerd://main-0"
    assert shown.state.running == ContainerStateRunning(startedAt="1970-01-01T00:01:40Z")


def test_a_crashed_container_waits() -> None:
    pod = make_pod()
    wait = Waiting("CrashLoopBackOff", "back-off 10s")
    status = compute_status(
        pod, state(record(pod, exit_code=2)), inputs(waiting={"main": wait}, messages={
            "main-0": "alas"})
    )  # fmt: skip
    shown = status.containerStatuses[0]
    assert shown.state.waiting is not None and shown.state.waiting.reason == "CrashLoopBackOff"
    ended = shown.lastState.terminated
    assert ended is not None
    assert (ended.exitCode, ended.reason, ended.message) == (2, "Error", "alas")


def test_what_the_runtime_says_of_an_end_comes_first() -> None:
    pod = make_pod()
    failed = replace(record(pod, exit_code=128), reason="StartError", message="no such file")
    for left, told in (("", "no such file"), ("alas", "no such file: alas")):
        status = compute_status(pod, state(failed), inputs(messages={"main-0": left}))
        ended = status.containerStatuses[0].state.terminated
        assert ended is not None and ended.message == told


def test_the_instance_before_is_the_last_state() -> None:
    pod = make_pod()
    up = record(pod, attempt=1)
    status = compute_status(pod, state(record(pod, exit_code=0), up), inputs(up))
    shown = status.containerStatuses[0]
    assert shown.restartCount == 1
    assert shown.lastState.terminated is not None
    assert shown.lastState.terminated.reason == "Completed"


def test_a_lost_container_is_accounted_for() -> None:
    pod = make_pod()
    pod.status.containerStatuses = [
        ContainerStatus(
            name="main",
            restartCount=3,
            containerID="containerd://gone",
            state=ContainerState(running=ContainerStateRunning(startedAt="2026-01-01T00:00:00Z")),
        )
    ]
    status = compute_status(pod, state(), inputs())
    shown = status.containerStatuses[0]
    assert shown.restartCount == 3 and shown.state.waiting is not None
    assert shown.lastState.terminated is not None
    assert shown.lastState.terminated.reason == "ContainerStatusUnknown"
    assert shown.lastState.terminated.exitCode == 137


def test_what_has_ended_stays_known_without_records() -> None:
    pod = make_pod(restartPolicy="Never")
    ended = ContainerStateTerminated(exitCode=0, reason="Completed")
    pod.status.phase = "Succeeded"
    pod.status.containerStatuses = [
        ContainerStatus(name="main", containerID="containerd://x", started=False,
                        state=ContainerState(terminated=ended))
    ]  # fmt: skip
    status = compute_status(pod, PodState("u-1"), inputs(ended=True))
    assert status.containerStatuses[0].state.terminated == ended
    assert status.phase == "Succeeded"


def test_init_messages_name_what_is_missing() -> None:
    both = [{"name": "init1", "image": "x"}, {"name": "init2", "image": "x"}]
    pod = make_pod(initContainers=both)
    status = compute_status(pod, state(record(pod, "init1", exit_code=1)), inputs())
    found = next(each for each in status.conditions if each.type == "Initialized")
    assert (found.status, found.reason, found.message) == (
        "False", "ContainersNotInitialized",
        "containers with incomplete status: [init1 init2]",
    )  # fmt: skip
    for waits in (status.containerStatuses[0], status.initContainerStatuses[1]):
        assert waits.state.waiting is not None
        assert waits.state.waiting.reason == "PodInitializing"


def test_times_of_conditions_change_with_their_status_only() -> None:
    pod = make_pod()
    pod.status.conditions = [
        PodCondition(type="Ready", status="False", lastTransitionTime="2020-01-01T00:00:00Z"),
        PodCondition(type="Initialized", status="True", lastTransitionTime="2020-01-01T00:00:00Z"),
        PodCondition(type="example.com/own", status="True"),
    ]
    up = record(pod)
    status = compute_status(pod, state(up), inputs(up))
    times = {each.type: each.lastTransitionTime for each in status.conditions}
    assert times["Ready"] == "2026-01-02T00:00:00Z"
    assert times["Initialized"] == "2020-01-01T00:00:00Z"
    assert conditions(status)["example.com/own"] == "True"


def test_a_hidden_container_is_being_created() -> None:
    pod = make_pod()
    up = record(pod)
    status = compute_status(pod, state(up), inputs(up, hidden=frozenset([up.id])))
    waiting = status.containerStatuses[0].state.waiting
    assert waiting is not None and waiting.reason == "ContainerCreating"
    assert status.phase == "Pending"


def test_a_restart_shows_the_wait_until_the_container_runs() -> None:
    """A container that exists but has not been started yet is of no interest to anyone."""
    pod = make_pod()
    ended = record(pod, exit_code=1)
    wait = {"main": Waiting("CrashLoopBackOff", "back-off 10s")}
    pod.status = before = compute_status(pod, state(ended), inputs(waiting=wait))
    made = record(pod, attempt=1, state=RecordState.CREATED)
    for seen in (state(ended), state(ended, made)):
        status = compute_status(pod, seen, inputs())
        assert status.containerStatuses == before.containerStatuses
    made = record(pod, state=RecordState.CREATED)
    first = compute_status(make_pod(), state(made), inputs()).containerStatuses[0]
    assert first.state.waiting is not None
    assert (first.state.waiting.reason, first.containerID) == ("ContainerCreating", "")


def test_a_host_network_pod_has_the_node_s_address() -> None:
    pod = make_pod(hostNetwork=True)
    status = compute_status(pod, state(boxes=(sandbox(ready=False),)), inputs())
    assert status.podIP == "192.168.49.2"


def test_the_patch_says_only_what_has_changed() -> None:
    pod = make_pod()
    up = record(pod)
    before = compute_status(pod, state(), inputs())
    assert status_patch("u-1", before, before) is None
    after = compute_status(pod, state(up), inputs(up))
    patch = status_patch("u-1", before, after)
    assert patch is not None and patch["metadata"] == {"uid": "u-1"}
    assert sorted(patch["status"]) == ["conditions", "containerStatuses", "phase"]
    changed = {each["type"] for each in patch["status"]["conditions"]}
    assert changed == {"Ready", "ContainersReady"}
    ready = next(each for each in patch["status"]["conditions"] if each["type"] == "Ready")
    # What is no longer said must be taken away, or a merge would keep it.
    assert ready["reason"] is None and ready["message"] is None


def test_the_patch_replaces_addresses() -> None:
    old = PodStatus(podIP="10.1.0.1")
    new = PodStatus(podIP="10.1.0.2")
    from navarch.api.types.core_v1 import PodIP

    old.podIPs, new.podIPs = [PodIP(ip="10.1.0.1")], [PodIP(ip="10.1.0.2")]
    patch = status_patch("u", old, new)
    assert patch is not None
    assert patch["status"]["podIPs"] == [{"$patch": "replace"}, {"ip": "10.1.0.2"}]


def test_a_pod_shows_what_it_has_while_a_resize_waits() -> None:
    pod = make_pod({"name": "a"}, resources={"requests": {"memory": "10Ki"},
                                             "limits": {"memory": "10Ki"}})  # fmt: skip
    seen = state(record(pod, "a"))
    has = ResourceRequirements(requests={"memory": "30Mi"}, limits={"memory": "30Mi"})
    status = compute_status(pod, seen, inputs(*seen.containers, pod_resources=has))
    assert status.allocatedResources == {"memory": "10Ki"}
    assert status.resources == has
    done = compute_status(pod, seen, inputs(*seen.containers, pod_resources=pod.spec.resources))
    assert done.resources == compute_status(pod, seen, inputs()).resources == pod.spec.resources


def test_ends_of_containers_are_counted_once() -> None:
    pod = make_pod({"name": "a"}, restartPolicy="Never", **INIT)
    counted = terminated_containers.labels("container", "139", "Error")
    before = counted._value.get()
    ended = state(record(pod, "i", exit_code=0), record(pod, "a", exit_code=139))
    status = compute_status(pod, ended, inputs())
    count_terminations(pod.status, status)
    count_terminations(status, compute_status(pod, ended, inputs()))
    assert counted._value.get() == before + 1
