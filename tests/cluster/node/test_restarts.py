"""Ends and new beginnings of real containers: policies, rules, messages, records."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, pod, shell

from navarch.api.types.core_v1 import ContainerStatus, Pod

pytestmark = pytest.mark.cluster

BLACKBOX = "Container Runtime blackbox test"
MESSAGES = f"{BLACKBOX} on terminated container should report termination message"
SHARED: dict[str, Any] = {"volumes": [{"name": "shared", "emptyDir": {}}]}
MOUNT = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"


def counting(name: str, codes: str, **fields: Any) -> dict[str, Any]:
    """Ends with one code after the other; `up` stays. The count survives in a volume."""
    script = (
        f"echo x >> /shared/{name}; set -- {codes}; shift $(($(wc -l < /shared/{name}) - 1)); "
        f'test "$1" = up && {{ {FOREVER}; }}; exit $1'
    )
    return shell(name, script, **MOUNT, **fields)


def rule(action: str, *values: int) -> list[dict[str, Any]]:
    return [{"action": action, "exitCodes": {"operator": "In", "values": list(values)}}]


def has_ended(each: Pod) -> bool:
    return each.status.phase in ("Succeeded", "Failed")


def counts(each: Pod) -> list[int]:
    status = each.status
    return [one.restartCount for one in (*status.initContainerStatuses, *status.containerStatuses)]


@pytest.mark.conformance(
    f"{BLACKBOX} when starting a container that exits should run with the expected status "
    "[NodeConformance]"
)
async def test_who_begins_again(cluster: Cluster) -> None:
    """Each policy, and rules of containers that overrule it."""
    own = {"restartPolicy": "Never"}
    pods = {
        "always": pod("always", counting("main", "1 1 up"), **SHARED),
        "failure": pod("failure", counting("main", "1 0"), restartPolicy="OnFailure", **SHARED),
        "never": pod("never", counting("main", "1"), restartPolicy="Never", **SHARED),
        "rules": pod(
            "rules",
            counting("main", "42 7", **own, restartPolicyRules=rule("Restart", 42)),
            counting("retried", "3 0", restartPolicy="OnFailure"),
            initContainers=[counting("init", "42 0", **own,
                                     restartPolicyRules=rule("Restart", 42))],
            restartPolicy="Never", **SHARED),
    }  # fmt: skip
    await asyncio.gather(*(cluster.create(each) for each in pods.values()))
    always, failure, never, rules = await asyncio.gather(
        cluster.wait("always", lambda each: counts(each) == [2] and is_ready(each)),
        cluster.wait("failure", has_ended),
        cluster.wait("never", has_ended),
        cluster.wait("rules", has_ended),
    )
    assert always.status.phase == "Running"
    assert (failure.status.phase, counts(failure)) == ("Succeeded", [1])
    assert (never.status.phase, counts(never)) == ("Failed", [0])
    assert (rules.status.phase, counts(rules)) == ("Failed", [1, 1, 1])
    ends = [each.state.terminated for each in rules.status.containerStatuses]
    assert [end.exitCode for end in ends if end is not None] == [7, 0]
    last = rules.status.containerStatuses[0].lastState.terminated
    assert last is not None and last.exitCode == 42


def is_ready(each: Pod) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in each.status.conditions)


async def test_one_exit_restarts_everything_in_place(cluster: Cluster) -> None:
    """Also when the agent is killed in the middle of it."""
    cause = counting("cause", "42 up", restartPolicy="Never",
                     restartPolicyRules=rule("RestartAllContainers", 42))  # fmt: skip
    slow = shell("slow", "trap '' TERM; while :; do sleep 1; done")
    await cluster.create(
        pod("whole", slow, cause, initContainers=[counting("init", "0 0")], restartPolicy="Never",
            **SHARED)
    )  # fmt: skip
    restarting = await cluster.wait("whole", lambda each: condition(each) == "True")
    await cluster.stop_agent()
    cluster.start_agent()
    again = await cluster.wait(
        "whole", lambda each: is_ready(each) and condition(each) == "False", 40
    )
    assert counts(again) == [1, 1, 1]
    assert again.status.podIP == restarting.status.podIP, "it keeps its sandbox"
    ended = again.status.containerStatuses[0].lastState.terminated
    assert ended is not None and (ended.reason, ended.exitCode) == ("RestartingAllContainers", 137)
    told = {each.type: each.status for each in again.status.conditions}
    assert told["Initialized"] == "True" and again.status.phase == "Running"


def condition(each: Pod) -> str:
    found = {one.type: one.status for one in each.status.conditions}
    return found.get("AllContainersRestarting", "")


@pytest.mark.conformance(
    f"{MESSAGES} as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is "
    "set [NodeConformance]",
    f"{MESSAGES} from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is "
    "set [NodeConformance]",
    f"{MESSAGES} from log output if TerminationMessagePolicy FallbackToLogsOnError is set "
    "[NodeConformance]",
    f"{MESSAGES} if TerminationMessagePath is set as non-root user and at a non-default path "
    "[NodeConformance]",
)
async def test_last_words(cluster: Cluster) -> None:
    logs = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    path = "/dev/termination-custom-log"
    long = "head -c 9000 /dev/zero | tr '\\0' x > /dev/termination-log"
    containers = {
        "empty": (shell("empty", "echo -n DONE", **logs), ""),
        "file": (shell("file", "echo -n OK > /dev/termination-log", **logs), "OK"),
        "logs": (shell("logs", "echo -n DONE; exit 1", **logs), "DONE"),
        "nobody": (
            shell("nobody", f"echo -n DONE > {path}", terminationMessagePath=path,
                  securityContext={"runAsUser": 1000}), "DONE"),
        "long": (shell("long", long), "x" * (12 * 1024 // 5)),
    }  # fmt: skip
    await asyncio.gather(
        cluster.create(
            pod("words", *(each for each, _ in containers.values()), restartPolicy="Never")
        ),
        cluster.create(pod("longest", shell("main", long), restartPolicy="Never")),
    )
    said = await cluster.wait("words", has_ended)
    assert messages(said) == [text for _, text in containers.values()]
    longest = await cluster.wait("longest", has_ended)
    assert messages(longest) == ["x" * 4096]


def messages(each: Pod) -> list[str]:
    ends = (one.state.terminated for one in each.status.containerStatuses)
    return [end.message for end in ends if end is not None]


@pytest.mark.conformance(
    "Kubelet when scheduling a busybox command that always fails in a pod should have an "
    "terminated reason [NodeConformance]"
)
async def test_reasons(cluster: Cluster) -> None:
    """Why containers do not run, or no longer."""
    names = {
        "error": shell("error", "exit 3"),
        "missing": {**shell("missing", ""), "command": ["/no/such/program"]},
        "memory": shell("memory", "x=x; while :; do x=$x$x; done",
                        resources={"limits": {"memory": "16Mi"}}),
        "signal": shell("signal", "sh -c 'kill -9 $$$$'; exit $?"),
    }  # fmt: skip
    await asyncio.gather(
        *(
            cluster.create(pod(name, {**each, "name": "main"}, restartPolicy="Never"))
            for name, each in names.items()
        )
    )
    found = {}
    for name in names:
        status = (await cluster.wait(name, has_ended)).status.containerStatuses[0]
        end = status.state.terminated
        assert end is not None and end.startedAt and end.finishedAt
        found[name] = (end.reason, end.exitCode)
    assert found == {
        "error": ("Error", 3),
        "missing": ("StartError", 128),
        "memory": ("OOMKilled", 137),
        "signal": ("Error", 137),
    }


async def test_dead_instances_are_kept_by_one(cluster: Cluster) -> None:
    """The newest and the one before it are there for `logs --previous`, and no more. What counts
    is not forgotten when the agent is killed."""
    await cluster.create(pod("crash", counting("main", "1 1 1"), **SHARED))

    def restarted(times: int) -> Any:
        return lambda each: first(each).restartCount == times

    await cluster.wait("crash", restarted(1))
    await cluster.stop_agent()
    cluster.start_agent()
    waiting = await cluster.wait("crash", restarted(2))
    states = await cluster.runtime.pods()
    attempts = sorted(each.attempt for state in states for each in state.containers)
    assert attempts in ([1, 2], [0, 1, 2])  # the oldest may be on its way out
    last = first(waiting).lastState.terminated
    assert last is not None and last.containerID != first(waiting).containerID


def first(each: Pod) -> ContainerStatus:
    statuses = each.status.containerStatuses
    return statuses[0] if statuses else ContainerStatus()
