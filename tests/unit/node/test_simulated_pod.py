"""The timetable of pods on simulated nodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from navarch.api.objects import copy_object, from_object
from navarch.api.types.core_v1 import Pod
from navarch.node.simulated import Addresses
from navarch.node.simulated_pod import (
    EXIT_CODE,
    RUN_SECONDS,
    Place,
    Remove,
    Step,
    Timetable,
    Wait,
    Write,
    next_step,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
QUICK = Timetable()
PLACE = Place("198.18.0.1", "10.244.0.5")


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> Pod:
    return from_object(
        Pod,
        {
            "metadata": {"name": "p", "uid": "u", "annotations": annotations or {}},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "c"}], **spec},
            "status": {"phase": "Pending"},
        },
    )


class Life:
    """A pod, moved on by what the node writes."""

    def __init__(self, pod: Pod, timetable: Timetable = QUICK) -> None:
        self.pod, self.timetable, self.now = pod, timetable, START

    def step(self, seconds: float = 0.0) -> Step:
        self.now += timedelta(seconds=seconds)
        found = next_step(self.pod, PLACE, self.timetable, self.now)
        if isinstance(found, Write):
            self.pod = copy_object(self.pod)
            self.pod.status = found.status
        return found

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
    assert life.ready and status.containerStatuses[0].ready
    assert life.step() == Wait()
    assert life.step(1e6) == Wait()


def test_starting_takes_its_time() -> None:
    life = Life(pod(), Timetable(start=5.0))
    life.step()
    assert (life.pod.status.phase, life.ready, life.pod.status.podIP) == ("Pending", False, "")
    assert life.reason == "ContainersNotReady"
    assert life.step(2.0) == Wait(3.0)
    life.step(3.0)
    assert (life.pod.status.phase, life.ready) == ("Running", True)
    assert life.step() == Wait()


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
        ("Always", "2", "Running", 0),
    ],
)
def test_how_it_ends(policy: str, code: str, phase: str, restarts: int) -> None:
    life = Life(pod({RUN_SECONDS: "10", EXIT_CODE: code}, restartPolicy=policy))
    life.step()
    assert life.step(4.0) == (Wait() if policy == "Always" else Wait(6.0))
    life.step(6.0)
    [container] = life.pod.status.containerStatuses
    assert (life.pod.status.phase, container.restartCount) == (phase, restarts)
    if restarts:
        ended = container.lastState.terminated
        assert ended is not None and ended.exitCode == 2
        assert life.step(4.0) == Wait(6.0)
    elif policy != "Always":
        ended = container.state.terminated
        assert ended is not None and ended.exitCode == int(code)
        assert not life.ready
        assert life.step(1e6) == Wait()


def test_the_timetable_ends_pods_that_do_not_restart() -> None:
    life = Life(pod(restartPolicy="Never"), Timetable(run=3.0))
    life.step()
    life.step(3.0)
    assert life.pod.status.phase == "Succeeded"


def test_the_deadline() -> None:
    life = Life(pod(activeDeadlineSeconds=10))
    life.step()
    assert life.step(4.0) == Wait(6.0)
    life.step(6.0)
    assert (life.pod.status.phase, life.pod.status.reason) == ("Failed", "DeadlineExceeded")


@pytest.mark.parametrize(("stop", "wait"), [(0.0, None), (5.0, 5.0), (60.0, 30.0)])
def test_deletion_is_graceful(stop: float, wait: float | None) -> None:
    life = Life(pod(), Timetable(stop=stop))
    life.step()
    life.pod.metadata.deletionTimestamp = "2026-01-01T00:00:30Z"
    life.pod.metadata.deletionGracePeriodSeconds = 30
    if wait is not None:
        assert life.step() == Wait(wait)
    ended = life.step(wait or 0.0)
    assert isinstance(ended, Write) and ended.status.phase == "Failed"
    assert not life.ready
    assert life.step() == Remove()


def test_who_holds_a_pod_sees_how_it_ended() -> None:
    life = Life(pod())
    life.step()
    life.pod.metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
    life.pod.metadata.finalizers = ["batch.kubernetes.io/job-tracking"]
    life.step()
    assert life.pod.status.phase == "Failed"
    assert life.step() == Remove()


def test_readiness_gates() -> None:
    life = Life(pod(readinessGates=[{"conditionType": "example.com/ok"}]))
    life.step()
    assert (life.ready, life.reason) == (False, "ReadinessGatesNotReady")
    gate = copy_object(life.pod).status.conditions[0]
    gate.type, gate.status = "example.com/ok", "True"
    life.pod.status.conditions.append(gate)
    life.step()
    assert life.ready


def test_init_containers_are_through_and_sidecars_run() -> None:
    containers = [{"name": "first"}, {"name": "side", "restartPolicy": "Always"}]
    life = Life(pod(initContainers=containers))
    life.step()
    first, side = life.pod.status.initContainerStatuses
    assert first.state.terminated is not None and first.state.terminated.exitCode == 0
    assert side.state.running is not None
    assert life.step(10.0) == Wait()


def test_a_new_process_goes_on_where_the_last_left_off() -> None:
    life = Life(pod({RUN_SECONDS: "10"}, restartPolicy="Never"))
    life.step()
    again = Life(copy_object(life.pod))
    again.now = START + timedelta(seconds=9)
    assert again.step() == Wait(1.0)


def test_addresses_are_used_again_but_never_twice() -> None:
    addresses = Addresses("10.1.0.0/29")
    assert addresses.of("old", "10.1.0.3") == "10.1.0.3"
    given = [addresses.of(f"p{number}", "") for number in range(5)]
    assert given == ["10.1.0.1", "10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
    assert addresses.of("p1", "") == "10.1.0.2"
    with pytest.raises(RuntimeError, match="no address is left"):
        addresses.of("more", "")
    addresses.release("p0")
    assert addresses.of("more", "") == "10.1.0.1"
