"""The STATUS, READY and RESTARTS of pods in every state people meet."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.apiserver.tables.pods import pod_cells, pod_conditions

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
Object = dict[str, Any]


def container(name: str = "c", *, ready: bool = False, restarts: int = 0, **state: Any) -> Object:
    status: Object = {"name": name, "ready": ready, "restartCount": restarts}
    last = state.pop("last", None)
    if last:
        status["lastState"] = {"terminated": {"finishedAt": last, "exitCode": 1}}
    if "started" in state:
        status["started"] = state.pop("started")
    return status | {"state": state}


def pod(
    status: Object, *, init: list[Object] | None = None, names: str = "c", **extra: Any
) -> Object:
    spec: Object = {"containers": [{"name": name} for name in names]}
    if init:
        spec["initContainers"] = init
    metadata: Object = {"name": "p", "creationTimestamp": "2026-01-02T11:55:00Z"}
    metadata |= extra.pop("metadata", {})
    return {"metadata": metadata, "spec": spec | extra, "status": status}


RUNNING: Object = {"running": {"startedAt": "2026-01-02T11:56:00Z"}}
READY = [{"type": "Ready", "status": "True"}]
SIDECAR = {"name": "s", "restartPolicy": "Always"}
INIT = {"name": "i"}


@pytest.mark.parametrize(
    ("given", "ready", "status", "restarts"),
    [
        pytest.param(pod({"phase": "Pending"}), "0/1", "Pending", "0", id="pending"),
        pytest.param(
            pod(
                {
                    "phase": "Pending",
                    "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}],
                }
            ),
            "0/1",
            "SchedulingGated",
            "0",
            id="gated",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Running",
                    "conditions": READY,
                    "containerStatuses": [container(ready=True, **RUNNING)],
                }
            ),
            "1/1",
            "Running",
            "0",
            id="running",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Running",
                    "containerStatuses": [
                        container(
                            restarts=3,
                            last="2026-01-02T11:55:00Z",
                            waiting={"reason": "CrashLoopBackOff"},
                        )
                    ],
                }
            ),
            "0/1",
            "CrashLoopBackOff",
            "3 (5m ago)",
            id="crash loop",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Succeeded",
                    "containerStatuses": [
                        container(terminated={"exitCode": 0, "reason": "Completed"})
                    ],
                }
            ),
            "0/1",
            "Completed",
            "0",
            id="completed",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Failed",
                    "containerStatuses": [container(terminated={"exitCode": 3})],
                }
            ),
            "0/1",
            "ExitCode:3",
            "0",
            id="exit code",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Failed",
                    "containerStatuses": [container(terminated={"exitCode": 137, "signal": 9})],
                }
            ),
            "0/1",
            "Signal:9",
            "0",
            id="signal",
        ),
        pytest.param(
            pod({"phase": "Failed", "reason": "Evicted"}), "0/1", "Evicted", "0", id="evicted"
        ),
        pytest.param(
            pod(
                {
                    "phase": "Running",
                    "conditions": READY,
                    "containerStatuses": [
                        container("a", terminated={"exitCode": 0, "reason": "Completed"}),
                        container("b", ready=True, **RUNNING),
                    ],
                },
                names="ab",
            ),
            "1/2",
            "Running",
            "0",
            id="one container is through",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Running",
                    "containerStatuses": [
                        container("a", terminated={"exitCode": 0, "reason": "Completed"}),
                        container("b", ready=True, **RUNNING),
                    ],
                },
                names="ab",
            ),
            "1/2",
            "NotReady",
            "0",
            id="one container is through, the pod not ready",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Failed",
                    "containerStatuses": [
                        container("a", terminated={"exitCode": 0, "reason": "Completed"}),
                        container("b", terminated={"exitCode": 1, "reason": "Error"}),
                    ],
                },
                names="ab",
            ),
            "0/2",
            "Error",
            "0",
            id="a failure behind a success",
        ),
        pytest.param(
            pod(
                {"phase": "Pending", "initContainerStatuses": [container("i", **RUNNING)]},
                init=[INIT, {"name": "j"}],
            ),
            "0/1",
            "Init:0/2",
            "0",
            id="first init container runs",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Pending",
                    "initContainerStatuses": [
                        container("i", terminated={"exitCode": 0}),
                        container("j", waiting={"reason": "PodInitializing"}),
                    ],
                },
                init=[INIT, {"name": "j"}],
            ),
            "0/1",
            "Init:1/2",
            "0",
            id="second init container waits",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Pending",
                    "initContainerStatuses": [
                        container(
                            "i",
                            restarts=2,
                            last="2026-01-02T11:59:50Z",
                            waiting={"reason": "CrashLoopBackOff"},
                        )
                    ],
                },
                init=[INIT],
            ),
            "0/1",
            "Init:CrashLoopBackOff",
            "2 (10s ago)",
            id="init container crashes",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Failed",
                    "initContainerStatuses": [container("i", terminated={"exitCode": 2})],
                },
                init=[INIT],
            ),
            "0/1",
            "Init:ExitCode:2",
            "0",
            id="init container failed",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Running",
                    "conditions": READY,
                    "initContainerStatuses": [
                        container("s", ready=True, started=True, restarts=1, **RUNNING)
                    ],
                    "containerStatuses": [container(ready=True, **RUNNING)],
                },
                init=[SIDECAR],
            ),
            "2/2",
            "Running",
            "1",
            id="sidecar counts",
        ),
        pytest.param(
            pod(
                {
                    "phase": "Running",
                    "initContainerStatuses": [
                        container("i", restarts=4, terminated={"exitCode": 0})
                    ],
                    "containerStatuses": [container(ready=True, **RUNNING)],
                },
                init=[INIT],
            ),
            "1/1",
            "Running",
            "0",
            id="restarts of plain init containers are forgotten",
        ),
        pytest.param(
            pod({"phase": "Running"}, metadata={"deletionTimestamp": "2026-01-02T12:00:30Z"}),
            "0/1",
            "Terminating",
            "0",
            id="terminating",
        ),
        pytest.param(
            pod(
                {"phase": "Running", "reason": "NodeLost"},
                metadata={"deletionTimestamp": "2026-01-02T12:00:30Z"},
            ),
            "0/1",
            "Unknown",
            "0",
            id="node lost",
        ),
        pytest.param(
            pod({"phase": "Succeeded"}, metadata={"deletionTimestamp": "2026-01-02T12:00:30Z"}),
            "0/1",
            "Succeeded",
            "0",
            id="deleted after its end",
        ),
    ],
)
def test_status(given: Object, ready: str, status: str, restarts: str) -> None:
    assert pod_cells(given, NOW)[:5] == ["p", ready, status, restarts, "5m"]


def test_wide_cells() -> None:
    assert pod_cells(pod({}), NOW)[5:] == ["<none>"] * 4
    placed = pod(
        {
            "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
            "nominatedNodeName": "n2",
            "conditions": [{"type": "x/a", "status": "True"}],
        },
        nodeName="n1",
        readinessGates=[{"conditionType": "x/a"}, {"conditionType": "x/b"}],
    )
    assert pod_cells(placed, NOW)[5:] == ["10.0.0.7", "n1", "n2", "1/2"]


def test_rows_of_ended_pods_say_so() -> None:
    assert pod_conditions(pod({"phase": "Running"})) == []
    (condition,) = pod_conditions(pod({"phase": "Failed"}))
    assert (condition["type"], condition["reason"]) == ("Completed", "Failed")
