"""Lifecycle hooks and the end of pods with real containers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, pod, shell

from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster

HOOKS = "Container Lifecycle Hook when create a pod with lifecycle hook should execute {} hook"
FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"


def lifecycle(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(
        *(f"{HOOKS.format(kind)} properly [NodeConformance]" for kind in kinds)
    )


class Listener:
    """An HTTP server that only listens."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.port = 0

    def paths(self) -> list[str]:
        return sorted(head.split(" ")[1] for head in self.heads)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if first == b"\x16":  # a TLS handshake
            writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        else:
            self.heads.append((first + await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    def hook(self, path: str, **fields: Any) -> dict[str, Any]:
        return {"httpGet": {"host": "127.0.0.1", "port": self.port, "path": path, **fields}}


@pytest.fixture
async def listener(cluster: Cluster) -> AsyncIterator[Listener]:
    result = Listener()
    server = await asyncio.start_server(result.serve, "127.0.0.1", 0)
    async with server:
        result.port = server.sockets[0].getsockname()[1]
        yield result


def ended(each: Pod) -> bool:
    return each.status.phase in ("Succeeded", "Failed")


def running(each: Pod) -> bool:
    return each.status.phase == "Running"


@lifecycle("poststart exec", "prestop exec", "poststart http", "prestop http")
@pytest.mark.conformance("PreStop should call prestop when killing a pod")
async def test_hooks(cluster: Cluster, listener: Listener) -> None:
    """An answer of any kind will do for a hook over HTTP; one that speaks no TLS is asked plainly,
    without what the other words are to protect."""
    secret = [{"name": "Authorization", "value": "secret"}, {"name": "X-Said", "value": "yes"}]
    hooked = {
        "exec": {
            "postStart": {"exec": {"command": ["sh", "-c", "echo begun > /shared/said"]}},
            "preStop": {"exec": {"command": ["sh", "-c", "echo over >> /shared/said"]}},
        },
        "http": {"postStart": listener.hook("/begun"), "preStop": listener.hook("over")},
        "https": {"postStart": listener.hook("/tls", scheme="HTTPS", httpHeaders=secret)},
        "sleep": {"postStart": {"sleep": {"seconds": 0}}, "preStop": {"sleep": {"seconds": 1}}},
    }
    script = "trap 'cat /shared/said; exit 0' TERM; while :; do sleep 1 & wait; done"
    mount = [{"name": "shared", "mountPath": "/shared"}]
    containers = [
        shell(name, script if name == "exec" else FOREVER, lifecycle=hooks, volumeMounts=mount)
        for name, hooks in hooked.items()
    ]
    volumes = [{"name": "shared", "emptyDir": {}}]
    await cluster.create(pod("hooked", *containers, volumes=volumes))
    began = await cluster.wait("hooked", running)
    assert listener.paths() == ["/begun", "/tls"]
    plain = next(head.lower() for head in listener.heads if " /tls " in head)
    assert "x-said: yes" in plain and "authorization" not in plain
    assert "user-agent: kube-lifecycle/1.36" in plain
    assert any(reason == "LifecycleHTTPFallback" for reason, _ in await cluster.events("hooked"))
    # Ended by its deadline, it can be looked at afterwards.
    await cluster.client.dynamic("", "v1", "pods").patch(
        "hooked", "default", {"spec": {"activeDeadlineSeconds": 1}}
    )
    last = await cluster.wait("hooked", ended)
    assert last.status.reason == "DeadlineExceeded"
    assert listener.paths() == ["/begun", "/over", "/tls"]
    assert await cluster.logs(began, "exec") == "begun\nover"
    ends = {each.name: each.state.terminated for each in last.status.containerStatuses}
    assert {name: end.exitCode for name, end in ends.items() if end is not None} == {
        "exec": 0, "http": 0, "https": 0, "sleep": 0,
    }  # fmt: skip


async def test_hooks_that_fail(cluster: Cluster) -> None:
    """A failed postStart ends the container with all that an end has: hook, signal, grace."""
    false = {"exec": {"command": ["sh", "-c", "echo no; exit 3"]}}
    mourner = shell("mourner", FOREVER, lifecycle={"postStart": false, "preStop": false})
    nowhere = {"httpGet": {"host": "127.0.0.1", "port": 1, "path": "/"}}
    leaver = shell("leaver", FOREVER, lifecycle={"preStop": nowhere})
    await asyncio.gather(
        cluster.create(pod("mourner", mourner, restartPolicy="Never")),
        cluster.create(pod("leaver", leaver)),
    )
    failed, _ = await asyncio.gather(
        cluster.wait("mourner", ended), cluster.wait("leaver", running)
    )
    end = failed.status.containerStatuses[0].state.terminated
    assert end is not None and failed.status.phase == "Succeeded" and end.exitCode == 0
    pre_stop = ("FailedPreStopHook", "PreStopHook failed")
    await cluster.told(
        "mourner", pre_stop, ("FailedPostStartHook", "PostStartHook failed"),
        ("Killing", "FailedPostStartHook"),
    )  # fmt: skip
    watching = asyncio.create_task(cluster.wait_gone("leaver"))
    await cluster.delete("leaver")
    await watching
    await cluster.told("leaver", pre_stop)


async def test_sidecars_end_last_within_one_grace(cluster: Cluster, tmp_path: Path) -> None:
    """Their hooks run at once, their signals wait, and who takes too long takes it from all."""
    stamp = "touch /shared/{}"
    trap = "trap '{}; exit 0' TERM; while :; do sleep 0.2 & wait; done"
    mount = [{"name": "shared", "mountPath": "/shared"}]

    def sidecar(name: str) -> dict[str, Any]:
        hook = {"preStop": {"exec": {"command": ["sh", "-c", stamp.format("hook-" + name)]}}}
        script = trap.format(stamp.format("end-" + name))
        return shell(name, script, restartPolicy="Always", lifecycle=hook, volumeMounts=mount)

    main = shell("main", trap.format("sleep 1; " + stamp.format("end-main")), volumeMounts=mount)
    init = [sidecar("first"), sidecar("second")]
    volumes = [{"name": "shared", "hostPath": {"path": str(tmp_path)}}]
    await cluster.create(pod("aided", main, initContainers=init, volumes=volumes))
    await cluster.wait("aided", running)
    watching = asyncio.create_task(cluster.wait_gone("aided"))
    await cluster.delete("aided")
    await watching
    with os.scandir(tmp_path) as entries:
        times = {each.name: each.stat().st_mtime_ns for each in entries}
    order = sorted(times, key=lambda name: times[name])
    assert order[2:] == ["end-main", "end-second", "end-first"]
    assert sorted(order[:2]) == ["hook-first", "hook-second"]
