"""Pods with real containers, from creation to deletion."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell

from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster

FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"


def is_ready(pod: Pod) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions)


async def test_a_pod_runs_and_is_deleted(cluster: Cluster) -> None:
    await cluster.create(pod("web", shell("main", f"trap 'exit 0' TERM; echo hello; {FOREVER}")))
    ready = await cluster.wait("web", is_ready)
    assert ready.status.phase == "Running"
    assert ready.status.podIP.startswith("10.251.7.")
    assert ready.status.containerStatuses[0].started is True
    await cluster.says(ready, "main", "hello")
    watching = asyncio.create_task(cluster.wait_gone("web"))
    await cluster.delete("web")
    last = await watching
    ended = last.status.containerStatuses[0].state.terminated
    assert ended is not None and ended.exitCode == 0
    assert last.status.phase == "Succeeded"
    await until_empty(cluster)
    places = [cluster.options.pod_logs_directory, cluster.options.root_directory / "pods"]

    async def are_empty() -> bool:
        return not any([*each.iterdir()] for each in places)

    await eventually(are_empty)


async def until_empty(cluster: Cluster) -> None:
    """The runtime's records go right after the object."""

    async def is_empty() -> bool:
        return not await cluster.runtime.pods()

    await eventually(is_empty)


async def test_init_containers_and_sidecars_start_in_order(cluster: Cluster) -> None:
    sidecar = shell("side", f"date +%s%N > /shared/side; {FOREVER}", restartPolicy="Always",
                    startupProbe={"exec": {"command": ["test", "-e", "/shared/side"]},
                                  "periodSeconds": 1})  # fmt: skip
    volume_mounts = [{"name": "work", "mountPath": "/shared"}]
    init = [
        shell("one", "date +%s%N > /shared/one"),
        sidecar,
        shell("two", "test -e /shared/one -a -e /shared/side && date +%s%N > /shared/two"),
    ]
    main = shell("main", "cd /shared; sort -n one side two; cat one side two", volumeMounts=[])
    for container in (*init, main):
        container["volumeMounts"] = volume_mounts
    await cluster.create(
        pod(
            "ordered",
            main,
            initContainers=init,
            restartPolicy="Never",
            volumes=[{"name": "work", "emptyDir": {}}],
        )
    )
    done = await cluster.wait("ordered", lambda each: each.status.phase == "Succeeded")
    lines = (await cluster.logs(done, "main")).split()
    assert lines[:3] == lines[3:]
    assert done.status.initContainerStatuses[1].state.terminated is not None
    assert [each.ready for each in done.status.initContainerStatuses] == [True, False, True]
    conditions = {each.type: (each.status, each.reason) for each in done.status.conditions}
    assert conditions["Initialized"] == ("True", "PodCompleted")
    assert conditions["Ready"] == ("False", "PodCompleted")


async def test_a_crashing_container_backs_off(cluster: Cluster) -> None:
    await cluster.create(pod("crash", shell("main", "echo run; exit 1")))
    waiting = await cluster.wait(
        "crash",
        lambda each: reason_of(each) == "CrashLoopBackOff",
    )
    status = waiting.status.containerStatuses[0]
    assert status.restartCount == 1
    assert status.state.waiting is not None and status.lastState.terminated is not None
    uid = waiting.metadata.uid
    assert status.state.waiting.message == (
        f"back-off 10s restarting failed container=main pod=crash_default({uid})"
    )
    assert status.lastState.terminated.reason == "Error"
    assert waiting.status.phase == "Running"
    assert await cluster.logs(waiting, "main", 1) == "run"
    await cluster.wait("crash", lambda each: restarts_of(each) == 2)


async def test_a_liveness_probe_restarts(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["cat", "/tmp/healthy"]}, "periodSeconds": 1,
             "failureThreshold": 1, "timeoutSeconds": 20}  # fmt: skip
    script = "touch /tmp/healthy; (sleep 1; rm /tmp/healthy) & " + FOREVER
    await cluster.create(pod("sick", shell("main", script, livenessProbe=probe)))
    restarted = await cluster.wait("sick", lambda each: restarts_of(each) == 1)
    assert restarted.status.containerStatuses[0].lastState.terminated is not None
    await cluster.told(
        "sick", ("Killing", "Container main failed liveness probe, will be restarted")
    )
    told = await cluster.events("sick")
    assert any(
        reason == "Unhealthy" and text.startswith("Liveness probe failed: cat: can't open")
        for reason, text in told
    )


async def test_readiness_follows_an_http_probe(cluster: Cluster) -> None:
    script = "mkdir /www; echo ok > /www/ready; httpd -p 8080 -h /www; " + FOREVER
    probe = {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1,
             "failureThreshold": 1}  # fmt: skip
    container = shell("main", script, readinessProbe=probe,
                      ports=[{"name": "http", "containerPort": 8080}])  # fmt: skip
    await cluster.create(pod("http", container))
    await cluster.wait("http", is_ready)
    state = (await cluster.runtime.pods())[0]
    await cluster.runtime.exec_sync(state.containers[0].id, ["rm", "/www/ready"], 60)
    unready = await cluster.wait("http", lambda each: not is_ready(each))
    assert unready.status.containerStatuses[0].restartCount == 0
    ready = next(each for each in unready.status.conditions if each.type == "Ready")
    assert (ready.reason, ready.message) == (
        "ContainersNotReady",
        "containers with unready status: [main]",
    )


async def test_an_image_that_must_not_be_pulled(cluster: Cluster) -> None:
    container = {"name": "main", "image": "nowhere.test/none:1", "imagePullPolicy": "Never"}
    await cluster.create(pod("imageless", container))
    waiting = await cluster.wait("imageless", lambda each: reason_of(each) == "ErrImageNeverPull")
    state = waiting.status.containerStatuses[0].state.waiting
    assert state is not None
    assert state.message == (
        'Container image "nowhere.test/none:1" is not present with pull policy of Never'
    )


def restarts_of(pod: Pod) -> int:
    return sum(status.restartCount for status in pod.status.containerStatuses)


def reason_of(pod: Pod) -> str:
    if not pod.status.containerStatuses:
        return ""
    waiting = pod.status.containerStatuses[0].state.waiting
    return waiting.reason if waiting is not None else ""


async def test_an_image_that_cannot_be_pulled(cluster: Cluster) -> None:
    container = {"name": "main", "image": "127.0.0.1:1/none:1", "imagePullPolicy": "IfNotPresent"}
    await cluster.create(pod("unpullable", container))
    await cluster.wait("unpullable", lambda each: reason_of(each) == "ErrImagePull")
    waiting = await cluster.wait("unpullable", lambda each: reason_of(each) == "ImagePullBackOff")
    state = waiting.status.containerStatuses[0].state.waiting
    assert state is not None
    assert state.message.startswith('Back-off pulling image "127.0.0.1:1/none:1": ErrImagePull: ')


async def test_hooks_run_and_grace_is_kept(cluster: Cluster, tmp_path: Path) -> None:
    lifecycle = {
        "postStart": {"exec": {"command": ["touch", "/out/started"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "sleep 1; date +%s > /out/stopping"]}},
    }
    script = "trap 'date +%s > /out/term; exit 0' TERM; while :; do sleep 1 & wait; done"
    container = shell("main", script, lifecycle=lifecycle,
                      volumeMounts=[{"name": "out", "mountPath": "/out"}])  # fmt: skip
    await cluster.create(
        pod("hooked", container, volumes=[{"name": "out", "hostPath": {"path": str(tmp_path)}}])
    )
    await cluster.wait("hooked", is_ready)
    assert (tmp_path / "started").exists()
    watching = asyncio.create_task(cluster.wait_gone("hooked"))
    await cluster.delete("hooked")
    await watching
    assert int((tmp_path / "stopping").read_text()) <= int((tmp_path / "term").read_text())


async def test_who_does_not_stop_is_killed(cluster: Cluster) -> None:
    await cluster.create(
        pod(
            "stubborn",
            shell("main", "trap '' TERM; while :; do sleep 1; done"),
            terminationGracePeriodSeconds=2,
        )
    )
    await cluster.wait("stubborn", is_ready)
    watching = asyncio.create_task(cluster.wait_gone("stubborn"))
    begun = time.monotonic()
    await cluster.delete("stubborn")
    last = await watching
    assert 1.5 < time.monotonic() - begun < 25
    ended = last.status.containerStatuses[0].state.terminated
    assert ended is not None and ended.exitCode == 137
    assert last.status.phase == "Failed"


async def test_containers_outlive_the_agent(cluster: Cluster) -> None:
    script = "echo begun; " + FOREVER
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    await cluster.create(pod("steady", shell("main", script, readinessProbe=probe)))
    before = await cluster.wait("steady", is_ready)
    for _ in range(3):
        await cluster.stop_agent()
        cluster.start_agent()
        await cluster.wait("steady", is_ready)
    await cluster.client.dynamic("", "v1", "pods").patch(
        "steady", "default", {"metadata": {"labels": {"seen": "yes"}}}
    )
    after = await cluster.wait("steady", lambda each: "seen" in each.metadata.labels)
    assert (
        after.status.containerStatuses[0].containerID
        == before.status.containerStatuses[0].containerID
    )
    assert after.status.containerStatuses[0].restartCount == 0
    ready = [each for each in after.status.conditions if each.type == "Ready"]
    assert (
        ready[0].lastTransitionTime
        == next(
            each for each in before.status.conditions if each.type == "Ready"
        ).lastTransitionTime
    )


async def test_a_pod_deleted_while_the_agent_is_away_is_cleaned_up(cluster: Cluster) -> None:
    await cluster.create(pod("orphan", shell("main", FOREVER)))
    await cluster.wait("orphan", is_ready)
    await cluster.stop_agent()
    await cluster.delete("orphan", grace=0)
    cluster.start_agent()
    await until_empty(cluster)


async def test_a_dead_sandbox_is_replaced(cluster: Cluster) -> None:
    await cluster.create(pod("phoenix", shell("main", FOREVER)))
    before = await cluster.wait("phoenix", is_ready)
    state = (await cluster.runtime.pods())[0]
    assert state.sandbox is not None
    cluster.kill(state.sandbox.id)
    after = await cluster.wait(
        "phoenix",
        lambda each: is_ready(each) and each.status.podIP != before.status.podIP,
    )
    assert after.status.containerStatuses[0].restartCount == 1


async def test_a_pod_that_does_not_fit_is_refused(cluster: Cluster) -> None:
    container = shell("main", FOREVER, resources={"requests": {"cpu": "1000"}})
    await cluster.create(pod("giant", container))
    failed = await cluster.wait("giant", lambda each: each.status.phase == "Failed")
    assert failed.status.reason == "OutOfcpu"
    assert failed.status.message.startswith(
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: 0"
    )


async def test_a_container_is_stopped_with_its_own_signal(cluster: Cluster) -> None:
    script = "trap 'echo got it; exit 7' USR1; while :; do sleep 1 & wait; done"
    container = shell("main", script, lifecycle={"stopSignal": "SIGUSR1"})
    await cluster.create(pod("signalled", container, os={"name": "linux"}))
    await cluster.wait("signalled", is_ready)
    watching = asyncio.create_task(cluster.wait_gone("signalled"))
    await cluster.delete("signalled")
    ended = (await watching).status.containerStatuses[0].state.terminated
    assert ended is not None and ended.exitCode == 7
