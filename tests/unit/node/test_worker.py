"""Whole lives of pods with a runtime and an API in memory, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import Machine, Stage, stage

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.node.cri.values import ExecResult, ImageRecord, PodState
from navarch.node.stopping import signal_number
from navarch.node.volumes.manager import VolumesFailed


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as result:
        yield result


def ready(node: Stage) -> str:
    return next(each.status for each in node.status().conditions if each.type == "Ready")


async def test_from_creation_to_deletion(node: Stage) -> None:
    await node.create(make_pod())
    assert str(node.runtime) == "sandbox default/web#0 ready\n  main#0 running"
    status = node.status()
    assert (status.phase, status.podIP, ready(node)) == ("Running", "10.1.0.1", "True")
    assert status.observedGeneration == 1
    assert status.containerStatuses[0].containerID == "containerd://c2"
    node.api.mark_deleted("web")
    await node.rest()
    assert "web" not in node.api.pods
    assert str(node.runtime) == ""
    last = node.api.statuses[-1].containerStatuses[0].state.terminated
    assert last is not None and last.exitCode == 143
    assert node.events.told == [
        'main Pulled: Container image "busybox:1.36" already present on machine and can be '
        "accessed by the pod",
        "main Created: Container created",
        "main Started: Container started",
        "main Killing: Stopping container main",
    ]
    assert not list((node.options.root_directory / "pods").iterdir())


async def test_a_pod_is_looked_at_only_when_the_runtime_was_touched(node: Stage) -> None:
    await node.create(make_pod())
    assert ready(node) == "True"
    calls = node.runtime.calls
    # Once for its sandbox and once for its container; not before them, and not for its volumes.
    assert calls[calls.index("run_sandbox") :].count("pods") == 2


async def test_a_look_that_is_out_of_date_removes_nothing(
    node: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime is asked while a container is started, and answers when it has been."""
    list_pods, start = node.runtime.pods, node.runtime.start_container
    is_listed, may_answer = asyncio.Event(), asyncio.Event()

    async def slow_start(container_id: str) -> None:
        node.runtime._tell(container_id)
        await is_listed.wait()
        await start(container_id)
        asyncio.get_running_loop().call_later(0.05, may_answer.set)

    async def slow_pods(uid: str = "") -> list[PodState]:
        found = await list_pods(uid)
        if found and found[0].containers and not is_listed.is_set():
            is_listed.set()
            await may_answer.wait()
        return found

    monkeypatch.setattr(node.runtime, "start_container", slow_start)
    monkeypatch.setattr(node.runtime, "pods", slow_pods)
    await node.create(make_pod())
    async with asyncio.timeout(60):
        await may_answer.wait()
    await node.rest()
    assert "remove_container" not in node.runtime.calls
    assert str(node.runtime) == "sandbox default/web#0 ready\n  main#0 running"


async def test_crash_loop(node: Stage) -> None:
    await node.create(make_pod())
    node.runtime.finish("c2", 1)
    await node.rest()
    assert node.runtime.container("main").attempt == 1
    node.runtime.finish(node.runtime.container("main").id, 1)
    await node.rest()
    status = node.status().containerStatuses[0]
    assert status.state.waiting is not None
    assert status.state.waiting.reason == "CrashLoopBackOff"
    assert status.restartCount == 1
    assert status.lastState.terminated is not None
    assert (node.status().phase, ready(node)) == ("Running", "False")
    await node.rest(9.5)
    assert node.runtime.container("main").attempt == 1
    await node.rest(1)
    assert node.runtime.container("main").attempt == 2
    assert node.status().containerStatuses[0].state.running is not None
    await node.rest(5)
    node.runtime.finish(node.runtime.container("main").id, 1)
    await node.rest(19)
    assert node.runtime.container("main").attempt == 2
    await node.rest(2)
    assert node.runtime.container("main").attempt == 3
    uid = node.api.pods["web"].metadata.uid
    text = f"Back-off restarting failed container main in pod web_default({uid})"
    assert node.events.told.count(f"main BackOff: {text}") == 2  # one for each wait
    # Only the newest instance and the one before it are kept.
    assert str(node.runtime).count("main#") == 2
    directory = node.options.root_directory / "pods" / uid / "containers" / "main"
    assert sorted(each.name for each in directory.iterdir()) == ["2.message", "3.message"]


async def test_a_job_is_done(node: Stage) -> None:
    await node.create(make_pod(restartPolicy="Never"))
    node.runtime.finish("c2", 0)
    await node.rest()
    assert node.status().phase == "Succeeded"
    assert str(node.runtime) == "sandbox default/web#0 stopped\n  main#0 exited 0"
    # Its records stay, for logs, until the pod is deleted.
    node.api.mark_deleted("web")
    await node.rest()
    assert (str(node.runtime), node.api.pods) == ("", {})


async def test_a_pull_that_fails_is_tried_again(node: Stage) -> None:
    await node.create(make_pod({"name": "main", "image": "web:2", "imagePullPolicy": "Always"}))
    waiting = node.status().containerStatuses[0].state.waiting
    assert waiting is not None and waiting.reason == "ErrImagePull"
    await node.rest(3)
    waiting = node.status().containerStatuses[0].state.waiting
    assert waiting is not None
    assert (waiting.reason, waiting.message) == (
        "ImagePullBackOff",
        'Back-off pulling image "web:2": ErrImagePull: web:2: not found',
    )
    node.runtime.registry["web:2"] = ImageRecord("sha256:2", ("web:2",))
    await node.rest(8)
    assert node.status().containerStatuses[0].state.running is not None


async def test_a_sandbox_that_fails_is_tried_again(node: Stage) -> None:
    node.runtime.fail_next("run_sandbox", "no network")
    await node.create(make_pod())
    assert node.events.told == ["FailedCreatePodSandBox: Failed to create pod sandbox: no network"]
    assert node.status().phase == "Pending"
    await node.rest(1.5)
    assert node.status().phase == "Running"


async def test_a_start_that_fails_is_shown(node: Stage) -> None:
    node.runtime.fail_next("create_container", "no such command")
    await node.create(make_pod())
    waiting = node.status().containerStatuses[0].state.waiting
    assert waiting is not None
    assert (waiting.reason, waiting.message) == ("CreateContainerError", "no such command")
    await node.rest(3)
    assert node.status().phase == "Running"


async def test_a_volume_is_waited_for(node: Stage) -> None:
    volumes = [{"name": "config", "configMap": {"name": "later"}}]
    mounts = [{"name": "config", "mountPath": "/config"}]
    await node.create(make_pod({"name": "main", "volumeMounts": mounts}, volumes=volumes))
    assert node.events.told == [
        'FailedMount: MountVolume.SetUp failed for volume "config" : configmap "later" not found'
    ]
    assert str(node.runtime) == "sandbox default/web#0 ready"
    node.objects.add_config_map("later", key="value")
    await node.rest(1)
    assert node.status().phase == "Running"
    mount = node.runtime.configs["c2"].mounts[0]
    assert (mount.container_path, mount.readonly) == ("/config", True)
    assert (Path(mount.host_path) / "key").read_text() == "value"
    # A later change comes with the next refresh.
    node.objects.add_config_map("later", key="newer")
    await node.rest(130)
    assert (Path(mount.host_path) / "key").read_text() == "newer"


@pytest.mark.parametrize("running", [False, True])
async def test_a_node_with_as_many_volumes_as_it_can_have(
    node: Stage, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    text = "Node has reached its volume attachment limit, rejecting pod. unmounted volumes=[v]"

    async def refuse(*_: object, **how: bool) -> Any:
        raise VolumesFailed([], text)

    if running:
        await node.create(make_pod())
    monkeypatch.setattr(node.services.volumes, "prepare", refuse)
    if running:
        await node.rest(120.0)
        assert node.status().phase == "Running", "it has its volumes, whatever others are told"
        return
    await node.create(make_pod())
    status = node.status()
    assert (status.phase, status.reason) == ("Failed", "VolumeAttachmentLimitExceeded")
    assert status.message == f"Pod was rejected: {text}"
    assert f"VolumeAttachmentLimitExceeded: {text}" in node.events.told


async def test_a_node_waits_for_its_storage(node: Stage) -> None:
    node.agent.storage_problems = lambda: ["CSINode is not yet initialized"]
    assert "CSINode is not yet initialized" in node.agent.report().problems


async def test_files_follow_the_labels_at_once(node: Stage) -> None:
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    mounts = [{"name": "info", "mountPath": "/info"}]
    pod = make_pod(
        {"name": "main", "volumeMounts": mounts},
        volumes=[{"name": "info", "downwardAPI": {"items": items}}],
    )
    await node.create(pod)
    path = Path(node.runtime.configs["c2"].mounts[0].host_path) / "labels"
    assert path.read_text() == ""
    changed = copy_object(node.api.pods["web"])
    changed.metadata.labels = {"tier": "front"}
    node.api.put(changed)
    await node.rest()
    assert path.read_text() == 'tier="front"'


async def test_probes_decide(node: Stage) -> None:
    probes = {
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 2},
        "livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 5,
                          "failureThreshold": 2, "initialDelaySeconds": 3},
    }  # fmt: skip
    node.runtime.commands[("ready",)] = ExecResult(1)
    await node.create(make_pod({"name": "main", **probes}))
    assert ready(node) == "False"
    node.runtime.commands[("ready",)] = ExecResult(0)
    await node.rest(2.1)
    assert ready(node) == "True"
    node.runtime.commands[("alive",)] = ExecResult(1, b"ill")
    await node.rest(5)
    assert node.runtime.container("main").attempt == 0
    await node.rest(5)
    assert node.runtime.container("main").attempt == 1
    assert "main Unhealthy: Liveness probe failed: ill" in node.events.told
    assert (
        "main Killing: Container main failed liveness probe, will be restarted" in node.events.told
    )


async def test_a_startup_probe_holds_the_others_back(node: Stage) -> None:
    probes = {
        "startupProbe": {"exec": {"command": ["up"]}, "periodSeconds": 1, "failureThreshold": 30},
        "livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1,
                          "failureThreshold": 1},
    }  # fmt: skip
    node.runtime.commands[("up",)] = ExecResult(1)
    node.runtime.commands[("alive",)] = ExecResult(1)
    await node.create(make_pod({"name": "main", **probes}))
    await node.rest(5)
    status = node.status().containerStatuses[0]
    assert (status.started, status.ready, status.restartCount) == (False, False, 0)
    node.runtime.commands[("alive",)] = ExecResult(0)
    node.runtime.commands[("up",)] = ExecResult(0)
    await node.rest(1.5)
    status = node.status().containerStatuses[0]
    assert (status.started, status.ready) == (True, True)


async def test_the_deadline_ends_a_pod(node: Stage) -> None:
    await node.create(make_pod(activeDeadlineSeconds=10))
    await node.rest(9)
    assert node.status().phase == "Running"
    await node.rest(2)
    assert (node.status().phase, node.status().reason) == ("Failed", "DeadlineExceeded")
    assert "running" not in str(node.runtime)


async def test_an_api_that_is_away_hears_of_it_later(node: Stage) -> None:
    node.api.failures = [ApiError(0, "ConnectionFailed", "away")] * 3
    await node.create(make_pod())
    assert "web" in node.api.pods and node.status().phase == ""
    assert "main#0 running" in str(node.runtime)
    await node.rest(5)
    assert node.status().phase == "Running"


async def test_foreign_conditions_stay(node: Stage) -> None:
    pod = make_pod(readinessGates=[{"conditionType": "example.com/ok"}])
    await node.create(pod)
    assert ready(node) == "False"
    current = node.api.pods["web"]
    from navarch.api.types.core_v1 import PodCondition

    changed = copy_object(current)
    changed.status.conditions.append(PodCondition(type="example.com/ok", status="True"))
    node.api.put(changed)
    await node.rest()
    assert ready(node) == "True"
    assert any(each.type == "example.com/ok" for each in node.status().conditions)


async def test_a_pod_that_does_not_fit_is_refused(node: Stage) -> None:
    await node.create(make_pod({"name": "main", "resources": {"requests": {"cpu": "5"}}}))
    assert (node.status().phase, node.status().reason) == ("Failed", "OutOfcpu")
    assert node.status().containerStatuses == []
    assert str(node.runtime) == ""


async def test_a_changed_image_restarts_the_container(node: Stage) -> None:
    node.runtime.image_table["busybox:2"] = ImageRecord("sha256:b2", ("busybox:2",))
    await node.create(make_pod())
    changed = copy_object(node.api.pods["web"])
    changed.spec.containers[0].image = "busybox:2"
    changed.metadata.generation = 2
    node.api.put(changed)
    await node.rest()
    status = node.status()
    assert status.containerStatuses[0].image == "busybox:2"
    assert (status.containerStatuses[0].restartCount, status.observedGeneration) == (1, 2)


async def test_deletion_interrupts_a_pull(node: Stage) -> None:
    await node.create(make_pod({"name": "main", "image": "web:2"}))
    node.api.mark_deleted("web")
    await node.rest()
    assert (str(node.runtime), node.api.pods) == ("", {})


async def test_a_hook_that_fails_ends_the_container(node: Stage) -> None:
    hook = {"postStart": {"exec": {"command": ["hook"]}}}
    node.runtime.commands[("hook",)] = ExecResult(1)
    await node.create(make_pod({"name": "main", "lifecycle": hook}, restartPolicy="Never"))
    assert "main FailedPostStartHook: PostStartHook failed" in node.events.told
    assert node.status().phase == "Failed"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"hostUsers": False}, "user namespaces"),
        ({"runtimeClassName": "kata"}, 'runtimeclass.node.k8s.io "kata" not found'),
    ],
)
async def test_what_the_node_cannot_do_is_named(node: Stage, spec: Any, text: str) -> None:
    await node.create(make_pod(**spec))
    assert node.events.told[0].startswith("FailedCreatePodSandBox: ")
    assert text in node.events.told[0]
    assert node.status().phase == "Pending" and str(node.runtime) == ""


async def test_the_stop_signal_is_the_pod_s(node: Stage) -> None:
    lifecycle = {"stopSignal": "SIGUSR1"}
    await node.create(make_pod({"name": "main", "lifecycle": lifecycle}))
    node.api.mark_deleted("web")
    await node.rest()
    last = node.api.statuses[-1].containerStatuses[0].state.terminated
    assert last is not None and last.exitCode == 128 + 10


@pytest.mark.parametrize(
    ("name", "number"),
    [("", 0), ("SIGTERM", 15), ("SIGRTMIN+3", 37), ("SIGRTMAX-2", 62), ("NONSENSE", 0)],
)
def test_signals(name: str, number: int) -> None:
    assert signal_number(name) == number


async def test_an_exit_restarts_the_whole_pod(node: Stage) -> None:
    rules = [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]
    await node.create(
        make_pod(
            {"name": "main"},
            {"name": "cause", "restartPolicy": "Never", "restartPolicyRules": rules},
            initContainers=[{"name": "init", "image": "busybox:1.36"}],
            restartPolicy="Never",
        )
    )
    node.runtime.finish(node.runtime.container("init").id)
    await node.rest()
    seen = len(node.api.statuses)
    node.runtime.finish(node.runtime.container("cause").id, 42)
    await node.rest()
    node.runtime.finish(node.runtime.container("init").id)
    await node.rest()
    assert sorted(str(node.runtime).splitlines()) == [
        "  cause#1 running", "  init#1 exited 0", "  main#1 running", "sandbox default/web#0 ready",
    ]  # fmt: skip
    status = node.status()
    everyone = (*status.initContainerStatuses, *status.containerStatuses)
    assert [each.restartCount for each in everyone] == [1, 1, 1]
    ended = status.containerStatuses[0].lastState.terminated
    assert ended is not None and (ended.reason, ended.exitCode) == ("RestartingAllContainers", 137)
    assert {each.phase for each in node.api.statuses[seen:]} == {"Running"}
    told = [
        each.status
        for status in node.api.statuses[seen:]
        for each in status.conditions
        if each.type == "AllContainersRestarting"
    ]
    assert "True" in told and told[-1] == "False"
    conditions = (each for status in node.api.statuses[seen:] for each in status.conditions)
    assert not any(each.type == "Initialized" and each.status == "False" for each in conditions)


async def test_a_sidecar_ends_after_the_containers_it_serves(
    node: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = {"preStop": {"exec": {"command": ["bye"]}}}
    sidecar = {"name": "side", "image": "busybox:1.36", "restartPolicy": "Always"}
    await node.create(
        make_pod(
            {"name": "main"},
            initContainers=[{**sidecar, "lifecycle": hook}, {**sidecar, "name": "late"}],
        )
    )
    stop, told = node.runtime.stop_container, []

    async def slow_stop(container_id: str, timeout: float, stop_signal: int = 0) -> None:
        name = next(name for name in ("main", "side", "late")
                    if node.runtime.container(name).id == container_id)  # fmt: skip
        told.append(f"{name} has {timeout:g} s")
        await node.clock.sleep(4)
        await stop(container_id, timeout, stop_signal)

    monkeypatch.setattr(node.runtime, "stop_container", slow_stop)
    node.api.mark_deleted("web")
    await node.rest()
    assert told == ["main has 30 s"]
    assert "exec_sync" in node.runtime.calls, "the sidecar's hook does not wait"
    for _ in range(3):
        await node.rest(4)
    assert told[1:] == ["late has 26 s", "side has 22 s"]


async def test_an_end_before_the_first_look_is_over_is_not_missed(
    node: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime's answer is on its way when the container that it tells of for the first time
    ends: the event names a container that nobody knows yet."""
    list_pods = node.runtime.pods

    async def late(uid: str = "") -> list[PodState]:
        states = await list_pods(uid)
        for record in [each for state in states for each in state.containers if each.running]:
            node.runtime.finish(record.id)
            for _ in range(5):
                await asyncio.sleep(0)
        return states

    monkeypatch.setattr(node.runtime, "pods", late)
    await node.create(make_pod(restartPolicy="Never"))
    assert node.status().phase == "Succeeded"


async def test_a_fault_does_not_bring_a_deleted_pod_back(
    node: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await node.create(make_pod())
    started = node.runtime.calls.count("start_container")
    release, faults = node.services.volumes.release, iter([ZeroDivisionError("oops")])

    async def broken(uid: str) -> None:
        for fault in faults:
            raise fault
        await release(uid)

    monkeypatch.setattr(node.services.volumes, "release", broken)
    pod = node.api.pods["web"]
    await node.api.delete("default", "web", pod.metadata.uid, 0)
    await node.rest()
    assert "ZeroDivisionError: oops" in caplog.text
    await node.rest(6)
    assert (str(node.runtime), node.agent.workers()) == ("", [])
    assert node.runtime.calls.count("start_container") == started


async def test_a_pod_that_was_lost_meanwhile_gets_its_hook(tmp_path: Path) -> None:
    machine = Machine()
    hook = {"preStop": {"exec": {"command": ["bye"]}}}
    async with stage(tmp_path, machine) as node:
        await node.create(make_pod({"name": "main", "image": "busybox:1.36", "lifecycle": hook}))
    machine.api.pods.clear()
    machine.runtime.calls.clear()
    async with stage(tmp_path, machine) as node:
        await node.rest()
        assert str(node.runtime) == ""
    told = [each for each in machine.runtime.calls if each in ("exec_sync", "stop_container")]
    assert told == ["exec_sync", "stop_container"]


async def test_a_sandbox_without_its_network_is_replaced(node: Stage) -> None:
    await node.create(make_pod())
    boxes = node.runtime._sandboxes
    boxes["s1"] = replace(boxes["s1"], ips=())
    node.runtime._tell("s1")
    await node.rest(12)
    assert str(node.runtime).splitlines()[-2:] == [
        "sandbox default/web#1 ready",
        "  main#1 running",
    ]
    hosts = (node.options.root_directory / "pods").glob("*/etc-hosts")
    assert [node.status().podIP in each.read_text() for each in hosts] == [True]


async def test_the_hosts_file_has_the_new_address_and_no_other(node: Stage) -> None:
    """An address may be the beginning of the one before it."""
    pod = make_pod()
    await node.create(pod)
    file = node.options.root_directory / "pods" / pod.metadata.uid / "etc-hosts"
    file.write_text(file.read_text().replace("10.1.0.1\t", "10.1.0.12\t"))
    node.runtime.finish("c2", 1)
    await node.rest()
    assert "10.1.0.1\tweb" in file.read_text()


async def test_a_worker_ends_though_a_clean_up_fails_in_the_same_moment(
    node: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.create(make_pod())
    (worker,) = node.agent.workers()
    begun = asyncio.Event()

    async def pods(uid: str = "") -> list[PodState]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the disk is full")

    monkeypatch.setattr(node.runtime, "pods", pods)
    worker.wake()
    await begun.wait()
    (task,) = [each.task for each in node.agent._pods.values()]
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
