"""Probes of real containers: all kinds at the same time, on one node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell
from tests.cluster.node.test_pod_life import FOREVER, is_ready

from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
HEALTH = {"exec": {"command": ["cat", "/tmp/health"]}}
SERVE = "mkdir -p /www; echo ok > /www/healthz; httpd -p 8080 -h /www"
LONG = f"sleep 98{os.getpid()}"  # like no other process of the machine
NOT_SERVING = 'service unhealthy (responded with "NOT_SERVING")'
QUICK = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20}


def restarts(pod: Pod) -> int:
    return sum(each.restartCount for each in pod.status.containerStatuses)


def has_restarted(pod: Pod) -> bool:
    return restarts(pod) > 0


def is_well_again(pod: Pod) -> bool:
    return has_restarted(pod) and is_ready(pod)


def kept(pod: Pod) -> bool:
    assert not has_restarted(pod), pod.status
    return is_ready(pod)


async def is_told(cluster: Cluster, name: str, text: str) -> bool:
    return ("Unhealthy", f"Liveness probe failed: {text}") in await cluster.events(name)


def probing(name: str) -> str:
    return f"Probing container {name} liveness probe [NodeConformance]"


@contextmanager
def health_service(answers: Mapping[str, bytes]) -> Iterator[int]:
    """The port of a gRPC health service; what it says of each name can change. In threads, and not
    in the loop of the node that asks: gRPC answers late where tests before had loops of theirs."""

    def check(request: bytes, context: Any) -> bytes:
        return answers[request[2:].decode()]

    server = grpc.server(ThreadPoolExecutor(2))
    method = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", method)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


def examined(name: str, script: str, probe: dict[str, Any], *, is_ill: bool) -> Object:
    """A pod with a liveness probe."""
    readiness = {"readinessProbe": {**HEALTH, **QUICK}} if "exec" in probe else {}
    container = shell(
        "main",
        f"{script}; {FOREVER}",
        livenessProbe={
            **probe,
            "periodSeconds": 1,
            # A busy machine may cost a well container one probe, but not three.
            "failureThreshold": 1 if is_ill else 3,
            "initialDelaySeconds": 1,
            "timeoutSeconds": 20,
        },
        volumeMounts=[{"name": "shared", "mountPath": "/shared"}],
        **readiness,
    )
    return pod(
        name,
        container,
        volumes=[{"name": "shared", "emptyDir": {}}],
        hostNetwork="grpc" in probe,
        terminationGracePeriodSeconds=1,
    )


@pytest.mark.conformance(
    *(
        probing(f'{verb} with a {kind}')
        for kind in ('exec "cat /tmp/health"', "/healthz http", "GRPC")
        for verb in ("should be restarted", "should *not* be restarted")
    ),
    probing("should *not* be restarted with a tcp:8080"),
)  # fmt: skip
async def test_liveness(cluster: Cluster) -> None:
    """Half of the containers fall ill after a while, and only these are restarted."""
    status = {"well": b"\x08\x01", "ill": b"\x08\x01"}
    http = {"httpGet": {"path": "/healthz", "port": 8080}}
    probes: dict[str, tuple[str, Object, str]] = {
        "exec": ("echo ok > /tmp/health", HEALTH, "rm /tmp/health"),
        "http": (SERVE, http, "rm /www/healthz"),
        "tcp": (SERVE, {"tcpSocket": {"port": 8080}}, ""),
        "grpc": ("true", {"grpc": {}}, "true"),
    }
    ill = [f"{name}-ill" for name, (_, _, ruin) in probes.items() if ruin]
    well = [f"{name}-well" for name in probes]
    with health_service(status) as port:
        for name, (setup, probe, ruin) in probes.items():
            # Only the first instance falls ill.
            fall = f"{setup}; [ -e /shared/been ] || {{ touch /shared/been; sleep 2; {ruin}; }}"
            for service in ("well", "ill") if ruin else ("well",):
                is_ill = service == "ill"
                action = {"grpc": {"port": port, "service": service}} if name == "grpc" else probe
                made = examined(
                    f"{name}-{service}", fall if is_ill else setup, action, is_ill=is_ill
                )
                await cluster.create(made)
        await asyncio.gather(*(cluster.wait(name, kept) for name in well))
        status["ill"] = b"\x08\x02"
        # Not by its restarts: a probe that times out on a busy machine makes one as well.
        await eventually(partial(is_told, cluster, "grpc-ill", NOT_SERVING))
        status["ill"] = b"\x08\x01"
        again = await asyncio.gather(*(cluster.wait(name, is_well_again, 90) for name in ill))
        for name in well:
            assert not has_restarted(await cluster.get(name)), await cluster.events(name)
    for each in again:
        ended = each.status.containerStatuses[0].lastState.terminated
        assert ended is not None and ended.exitCode in (0, 137, 143)
        killing = "Container main failed liveness probe, will be restarted"
        await cluster.told(each.metadata.name, ("Killing", killing))
    texts = {
        "exec-ill": "cat: can't open '/tmp/health': No such file or directory\n",
        "http-ill": "HTTP probe failed with statuscode: 404",
        "grpc-ill": NOT_SERVING,
    }
    for name, text in texts.items():
        assert await is_told(cluster, name, text), await cluster.events(name)


@pytest.mark.conformance(
    "Probing container with readiness probe should not be ready before initial delay and never"
    " restart [NodeConformance]",
    "Probing container with readiness probe that fails should never be ready and never restart"
    " [NodeConformance]",
    "Probing container should have monotonically increasing restart count [NodeConformance]",
)
async def test_readiness_and_startup(cluster: Cluster) -> None:
    late = shell("main", FOREVER, readinessProbe={"exec": {"command": ["true"]},
                                                  "initialDelaySeconds": 3})  # fmt: skip
    never = shell("main", FOREVER, readinessProbe={**HEALTH, **QUICK},
                  livenessProbe={"exec": {"command": ["true"]}, **QUICK})  # fmt: skip
    # Liveness would kill it at once; the startup probe holds it back until it is up.
    asked = "cat /tmp/health || { touch /tmp/asked; exit 1; }"
    up = "until [ -e /tmp/asked ]; do usleep 50000; done; echo ok > /tmp/health"
    slow = shell("main", f"{up}; {FOREVER}",
                 startupProbe={"exec": {"command": ["sh", "-c", asked]}, **QUICK,
                               "failureThreshold": 30},
                 livenessProbe={**HEALTH, **QUICK})  # fmt: skip
    # It hangs, and whatever it has started goes with it.
    hangs = shell("main", "trap '' TERM; while :; do sleep 1; done", livenessProbe={
        "exec": {"command": ["sh", "-c", LONG]}, **QUICK, "timeoutSeconds": 1,
        "terminationGracePeriodSeconds": 1})  # fmt: skip
    side = shell("side", f"sleep 2; echo ok > /tmp/health; {FOREVER}", restartPolicy="Always",
                 readinessProbe={**HEALTH, **QUICK})  # fmt: skip
    await cluster.stop_agent()
    cluster.start_agent(crash_loop_back_off_max_container_restart_period=1.0)
    await cluster.create(pod("late", late))
    await cluster.create(pod("never", never))
    await cluster.create(pod("slow", slow))
    await cluster.create(pod("hangs", hangs, terminationGracePeriodSeconds=600))
    await cluster.create(pod("sided", shell("main", FOREVER), initContainers=[side]))
    counts: list[int] = []

    def is_twice_restarted(pod: Pod) -> bool:
        counts.append(restarts(pod))
        return counts[-1] >= 2

    endless = asyncio.create_task(cluster.wait("hangs", is_twice_restarted, 120))
    ready = await cluster.wait("late", kept)
    running = ready.status.containerStatuses[0].state.running
    assert running is not None
    became = next(each for each in ready.status.conditions if each.type == "Ready")
    waited = parse_time(became.lastTransitionTime or "") - parse_time(running.startedAt or "")
    assert waited.total_seconds() + 1 >= 3 and waited.total_seconds() < 30
    await cluster.wait("slow", kept)
    text = "Startup probe failed: cat: can't open '/tmp/health': No such file or directory\n"
    await cluster.told("slow", ("Unhealthy", text))
    told = await cluster.events("slow")
    assert not any(text.startswith("Liveness probe failed") for _, text in told)
    sided = await cluster.wait("sided", is_ready)
    assert sided.status.initContainerStatuses[0].ready
    await endless
    assert counts == sorted(counts) and set(counts) == {0, 1, 2}
    text = f'Liveness probe failed: command timed out: "sh -c {LONG}" timed out after 1s'
    await cluster.told("hangs", ("Unhealthy", text))
    refused = await cluster.get("never")
    assert not is_ready(refused)
    assert restarts(refused) == 0
    hanging = processes(LONG)  # perhaps the next instance is being asked already

    async def have_ended() -> bool:
        return not hanging & processes(LONG)

    await eventually(have_ended)  # a probe that takes too long is killed


def processes(command: str) -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if " ".join(words).strip() == command:
            found.add(path.parent.name)
    return found
