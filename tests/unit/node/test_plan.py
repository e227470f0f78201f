"""What the plan does in each situation of a pod's life."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.node.builders import make_pod, record, sandbox, state

from navarch.api.types.core_v1 import Pod
from navarch.node.backoff import BackoffTable
from navarch.node.cri.values import ContainerState, PodState
from navarch.node.plan import (
    Action,
    Plan,
    ProbeKind,
    RemoveContainer,
    ResizePod,
    StartContainer,
    StartSandbox,
    StopContainer,
    StopSandbox,
    View,
    backoff_key,
    plan,
)
from navarch.node.podspec import find_container

NOW = 200.0


def view(**changes: Any) -> View:
    return View(**{"now": NOW, "backoff": BackoffTable(), **changes})


def text(action: Action) -> str:
    match action:
        case StartSandbox():
            return f"sandbox#{action.attempt}"
        case StopSandbox():
            return f"stop sandbox {action.id}"
        case StartContainer():
            return f"start {action.spec.name}#{action.attempt}"
        case StopContainer():
            after = f" after {' '.join(action.after)}" if action.after else ""
            return f"stop {action.name}: {action.message}{after}"
        case ResizePod():
            return f"resize {' '.join(spec.name for _, spec in action.containers)}"
        case RemoveContainer():
            return f"remove {action.name}#{action.attempt}"


def actions(result: Plan) -> list[str]:
    return [text(action) for action in result.actions]


TWO = ({"name": "a"}, {"name": "b"})
INIT: dict[str, Any] = {
    "initContainers": [{"name": "i1", "image": "x"}, {"name": "i2", "image": "x"}]
}
SIDECAR: dict[str, Any] = {
    "initContainers": [
        {"name": "s", "image": "x", "restartPolicy": "Always"},
        {"name": "i", "image": "x"},
    ]
}

plain, two = make_pod(), make_pod(*TWO)
never, on_failure = make_pod(restartPolicy="Never"), make_pod(restartPolicy="OnFailure")
with_init, with_sidecar = make_pod(**INIT), make_pod(**SIDECAR)
never_init = make_pod(restartPolicy="Never", **INIT)
never_sidecar = make_pod(restartPolicy="Never", **SIDECAR)


@pytest.mark.parametrize(
    ("pod", "seen", "changes", "expected"),
    [
        pytest.param(plain, PodState("u-1"), {}, ["sandbox#0"], id="nothing there"),
        pytest.param(plain, PodState("u-1"), {"busy": frozenset({""})}, [], id="sandbox under way"),
        pytest.param(
            plain, PodState("u-1"), {"sandbox_retry_at": NOW + 1}, [], id="sandbox has just failed"
        ),
        pytest.param(two, state(), {}, ["start a#0", "start b#0"], id="sandbox is ready"),
        pytest.param(two, state(), {"busy": frozenset({"a"})}, ["start b#0"], id="one under way"),
        pytest.param(
            two, state(), {"retry_at": {"a": NOW + 5}}, ["start b#0"], id="one could not start"
        ),
        pytest.param(two, state(), {"retry_at": {"a": NOW - 1}}, ["start a#0", "start b#0"],
                     id="time to try again"),
        pytest.param(plain, state(record(plain)), {}, [], id="running"),
        pytest.param(plain, state(), {"next_attempts": {"main": 5}}, ["start main#5"],
                     id="the runtime has forgotten, the API has not"),
        pytest.param(plain, state(record(plain, exit_code=0)), {}, ["start main#1"],
                     id="always restarts success"),
        pytest.param(never, state(record(never, exit_code=1)), {}, ["stop sandbox s0"],
                     id="never: done"),
        pytest.param(on_failure, state(record(on_failure, exit_code=1)), {}, ["start main#1"],
                     id="on failure: again"),
        pytest.param(on_failure, state(record(on_failure, exit_code=0)), {}, ["stop sandbox s0"],
                     id="on failure: done"),
        pytest.param(plain, state(record(plain, state=ContainerState.CREATED)), {},
                     ["remove main#0"], id="made but not started"),
        pytest.param(never, state(record(never, exit_code=128)),
                     {"interrupted": frozenset({"main-0"})}, ["remove main#0"],
                     id="the agent was killed while it started it"),
        pytest.param(plain, state(record(plain, state=ContainerState.UNKNOWN)), {},
                     ["start main#1"], id="the runtime has lost track"),
        pytest.param(plain, state(record(plain, annotations={
            "io.kubernetes.container.hash": "other"})), {},
            ["stop main: Container main definition changed, will be restarted"], id="new image"),
        pytest.param(plain, state(record(plain)), {"failed_probes": {"main-0": ProbeKind.LIVENESS}},
                     ["stop main: Container main failed liveness probe, will be restarted"],
                     id="liveness"),
        pytest.param(never, state(record(never)), {"failed_probes": {"main-0": ProbeKind.STARTUP}},
                     ["stop main: Container main failed startup probe"], id="startup, never"),
        pytest.param(with_init, state(), {}, ["start i1#0"], id="first init container"),
        pytest.param(with_init, state(record(with_init, "i1")), {}, [], id="init runs"),
        pytest.param(with_init, state(record(with_init, "i1", exit_code=0)), {}, ["start i2#0"],
                     id="second init container"),
        pytest.param(
            with_init,
            state(record(with_init, "i1", exit_code=0), record(with_init, "i2", exit_code=0)),
            {}, ["start main#0"], id="init is done"),
        pytest.param(with_init, state(record(with_init, "i1", exit_code=1)), {}, ["start i1#1"],
                     id="init has failed, once more"),
        pytest.param(never_init, state(record(never_init, "i1", exit_code=1)), {},
                     ["stop sandbox s0"], id="init has failed for good"),
        pytest.param(with_init, state(record(with_init)), {}, [],
                     id="init records are gone, the app runs"),
        pytest.param(with_sidecar, state(), {}, ["start s#0"], id="sidecar first"),
        pytest.param(with_sidecar, state(record(with_sidecar, "s")),
                     {"is_started": lambda each: False}, [], id="sidecar not started yet"),
        pytest.param(with_sidecar, state(record(with_sidecar, "s")), {}, ["start i#0"],
                     id="sidecar is up"),
        pytest.param(
            with_sidecar,
            state(record(with_sidecar, "i", exit_code=0), record(with_sidecar),
                  record(with_sidecar, "s", exit_code=1)),
            {}, ["start s#1"], id="sidecar restarts beside the app"),
        pytest.param(
            never_sidecar,
            state(record(never_sidecar, "s"), record(never_sidecar, "i", exit_code=0),
                  record(never_sidecar, exit_code=0)),
            {}, ["stop s: Stopping container s"], id="app is done, sidecar goes"),
        pytest.param(plain, state(record(plain), boxes=(sandbox(ready=False),)), {},
                     ["stop sandbox s0"], id="sandbox died under a container"),
        pytest.param(plain, state(record(plain, exit_code=137), boxes=(sandbox(ready=False),)), {},
                     ["sandbox#1"], id="sandbox is replaced"),
        pytest.param(plain, state(record(plain), boxes=(sandbox(ips=()),)), {},
                     ["stop main: Stopping container main"], id="sandbox has lost its network"),
        pytest.param(plain, state(record(plain, exit_code=143), boxes=(sandbox(ips=()),)), {},
                     ["stop sandbox s0"], id="nothing is left in it"),
        pytest.param(make_pod(hostNetwork=True), state(boxes=(sandbox(ips=()),)), {},
                     ["start main#0"], id="the node's network needs no address"),
        pytest.param(plain, state(boxes=(sandbox(1), sandbox())), {}, ["stop sandbox s1"],
                     id="two sandboxes"),
        pytest.param(plain, state(boxes=(sandbox(1, ready=False), sandbox())), {},
                     ["stop sandbox s0"], id="not the newest one"),
        pytest.param(never, state(record(never, exit_code=0), boxes=(sandbox(ready=False),)), {},
                     [], id="sandbox of a done pod is not"),
        pytest.param(
            plain, state(record(plain, exit_code=137), boxes=(sandbox(1), sandbox(ready=False))),
            {}, ["start main#1"], id="container in the new sandbox"),
        pytest.param(
            with_init,
            state(record(with_init, "i1", exit_code=0), record(with_init, "i2", exit_code=0),
                  record(with_init, exit_code=137),
                  boxes=(sandbox(1), sandbox(ready=False))),
            {}, ["start i1#1"], id="init again in the new sandbox"),
        pytest.param(two, state(record(two, "a"), record(two, "b")), {"stopping": True},
                     ["stop b: Stopping container b", "stop a: Stopping container a"],
                     id="deletion"),
        pytest.param(two, state(record(two, "a"), record(two, "b")),
                     {"stopping": True, "busy": frozenset({"a", "b"})}, [], id="deletion goes on"),
        pytest.param(
            with_sidecar, state(record(with_sidecar, "s"), record(with_sidecar)),
            {"stopping": True}, ["stop main: Stopping container main",
                                 "stop s: Stopping container s after main"],
            id="apps before sidecars"),
        pytest.param(two, state(boxes=(sandbox(1), sandbox())), {"stopping": True},
                     ["stop sandbox s1"], id="one after the other"),
        pytest.param(two, state(record(two, "a", exit_code=0)), {"stopping": True},
                     ["stop sandbox s0"], id="only the sandbox is left"),
        pytest.param(
            plain, state(*(record(plain, attempt=each, exit_code=1) for each in range(3)),
                         record(plain, attempt=3)),
            {}, ["remove main#1"], id="old instances go, one at a time"),
    ],
)  # fmt: skip
def test_plan(pod: Pod, seen: PodState, changes: dict[str, Any], expected: list[str]) -> None:
    assert actions(plan(pod, seen, view(**changes))) == expected


def test_the_end_is_over_only_when_nothing_is_left() -> None:
    running = plan(plain, state(record(plain)), view(stopping=True))
    assert not running.over and not running.finished
    stopped = state(record(plain, exit_code=0), boxes=(sandbox(ready=False),))
    assert plan(plain, stopped, view(stopping=True)).over


def test_a_crash_loop_waits_longer_each_time() -> None:
    spec = find_container(plain, "main")
    assert spec is not None
    table = BackoffTable()
    key = backoff_key(plain, spec)
    crashed = record(plain, exit_code=1, finished_at=int(NOW * 1e9))
    first = plan(plain, state(crashed), view(backoff=table))
    assert actions(first) == ["start main#1"]
    table.advance(key, NOW, NOW)
    waits = plan(plain, state(crashed), view(backoff=table, now=NOW + 3))
    assert actions(waits) == [] and waits.wake_at == NOW + 10
    assert waits.waiting["main"].message == (
        "back-off 10s restarting failed container=main pod=web_default(u-1)"
    )
    table.advance(key, NOW, NOW + 10)
    assert table.seconds(key) == 20


def test_ephemeral_containers_run_once() -> None:
    pod = make_pod(ephemeralContainers=[{"name": "debug", "image": "x"}])
    assert actions(plan(pod, state(record(pod)), view())) == ["start debug#0"]
    ended = state(record(pod), record(pod, "debug", exit_code=1))
    assert actions(plan(pod, ended, view())) == []
    half = state(record(pod), record(pod, "debug", state=ContainerState.CREATED))
    assert actions(plan(pod, half, view())) == ["remove debug#0"]


def test_a_container_that_was_stopped_for_a_new_one_comes_again_whatever_the_policy() -> None:
    ended = record(never, exit_code=0)
    assert plan(never, state(ended), view()).finished
    again = plan(never, state(ended), view(replaced=frozenset({ended.id})))
    assert actions(again) == ["start main#1"]


RULES = [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]
restarting = make_pod(
    {"name": "a", "restartPolicy": "Never", "restartPolicyRules": RULES},
    {"name": "b"},
    restartPolicy="Never",
    **SIDECAR,
)


@pytest.mark.parametrize(
    ("seen", "busy", "expected"),
    [
        pytest.param(["s", "i=0", "a=42", "b"], "", ["stop b: killing", "remove i#0",
                     "stop s: killing"], id="everything else goes first"),
        pytest.param(["s", "a=42", "b=137"], "s", ["remove b#0"], id="what has ended is removed"),
        pytest.param(["a=42", "b=137"], "b", [], id="the cause waits for the last"),
        pytest.param(["a=42"], "", ["remove a#0"], id="the cause goes last"),
        pytest.param([], "", ["start s#0"], id="and all begins anew"),
    ],
)  # fmt: skip
def test_one_exit_may_restart_the_whole_pod(
    seen: list[str], busy: str, expected: list[str]
) -> None:
    records = []
    for word in seen:
        name, _, code = word.partition("=")
        records.append(record(restarting, name, exit_code=int(code) if code else None))
    result = plan(restarting, state(*records), view(busy=frozenset({busy} if busy else ())))
    assert actions(result) == expected
