"""An application on a real node while the rest of the cluster is away, as root.

Its traffic (see `traffic.py`) is made in the network of a pod, so it goes through the proxy's rules
in the kernel and through the node's name server. First the proxy is killed over and over, then the
whole control plane is frozen, then killed, so that the node is alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.cluster.node.environment import enter_network

from bench.cluster import PROFILE, SLEEP, navarch, spec
from bench.node import Bench
from bench.reliability import traffic
from bench.reliability.daemons import until
from bench.reliability.figure import Figure
from bench.reliability.lost import Loss, figure_of, lose
from bench.reliability.node import (
    PATIENCE,
    agent_pid,
    all_pods,
    are_ready,
    look,
    node,
)
from bench.reliability.node import until as pods_until
from navarch.api.errors import ApiError
from navarch.api.objects import to_object
from navarch.api.types.coordination_v1 import Lease
from navarch.api.types.core_v1 import (
    HostPathVolumeSource,
    Node,
    Pod,
    Service,
    ServicePort,
    ServiceSpec,
    Volume,
    VolumeMount,
)
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client

APP = ("chroot", "/host", sys.executable, traffic.__file__, "serve")
"""In a container with the machine's files: the image has no server with room for enough."""
COPIES = 2
NAME = "web.default.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class App:
    """A Service with two pods behind it, and the process of a third pod that uses it."""

    address: str
    nameserver: str
    user: int

    def turned_away(self) -> int:
        """How many new connections the application's pods had no room for, since they began."""
        return sum(map(listen_drops, servers()))


def listen_drops(pid: int) -> int:
    """Of all sockets in the network of a process, as the kernel counts them."""
    names, values = Path(f"/proc/{pid}/net/netstat").read_text().splitlines()[:2]
    return int(dict(zip(names.split(), values.split(), strict=True))["ListenDrops"])


def servers() -> list[int]:
    """The application's processes."""
    words = "\0".join((*APP[2:], "")).encode()
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (entry / "cmdline").read_bytes() == words:
                found.append(int(entry.name))
    return found


async def deploy(bench: Bench) -> App:
    client = bench.client
    for number in range(COPIES):
        meta = ObjectMeta(name=f"web-{number}", namespace="default", labels={"app": "web"})
        template = spec(APP)
        template.volumes = [Volume(name="host", hostPath=HostPathVolumeSource(path="/"))]
        template.containers[0].volumeMounts = [VolumeMount(name="host", mountPath="/host")]
        await client.resource(Pod).create(Pod(metadata=meta, spec=template))
    meta = ObjectMeta(name="user", namespace="default")
    await client.resource(Pod).create(Pod(metadata=meta, spec=spec(SLEEP)))
    ports = [ServicePort(name="web", port=80), ServicePort(name="echo", port=7)]
    service = await client.resource(Service).create(
        Service(
            metadata=ObjectMeta(name="web", namespace="default"),
            spec=ServiceSpec(selector={"app": "web"}, ports=ports),
        )
    )
    await pods_until(client, partial(are_ready, COPIES + 1))

    async def is_known() -> bool:
        slices = (await client.resource(EndpointSlice).list("default")).items
        return sum(len(s.endpoints) for s in slices if s.metadata.name.startswith("web")) == COPIES

    assert await until(is_known)
    user = (await look(client))["user"].pid
    app = App(service.spec.clusterIP, nameserver_of(user), user)
    await asyncio.sleep(2)  # the proxy gathers changes for a second
    return app


def nameserver_of(pid: int) -> str:
    words = Path(f"/proc/{pid}/root/etc/resolv.conf").read_text().split()
    return words[words.index("nameserver") + 1]


@asynccontextmanager
async def using(app: App, *options: str) -> AsyncIterator[dict[str, Any]]:
    """Traffic meanwhile; afterwards what came of it."""
    found: dict[str, Any] = {}
    inside = ["nsenter", f"--net=/proc/{app.user}/ns/net", sys.executable, traffic.__file__]
    process = await asyncio.create_subprocess_exec(
        *inside, app.address, *options, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()  # it has begun
        yield found
    finally:
        process.terminate()
        output, _ = await process.communicate()
        found.update(json.loads(output))


def measured(figure: Figure, found: dict[str, Any]) -> Figure:
    """With what the traffic tells of itself."""
    figure.counts["seconds the asking process was late"] = found["late"]
    figure.counts["the servers"] = found["servers late"]
    figure.starved = found["counts"].get("starved", 0)
    figure.notes = found["notes"]
    return figure


async def is_served(app: App) -> bool:
    """By name: the name server has come back, too."""
    async with using(app, "--name", NAME, "--nameserver", app.nameserver, "--rate", "10") as found:
        await asyncio.sleep(0.5)
    return not any(found["counts"].get(each) for each in ("failed requests", "starved"))


async def expose(client: Client, name: str) -> str:
    """Another Service in front of the application; its address."""
    meta = ObjectMeta(name=name, namespace="default")
    wanted = ServiceSpec(selector={"app": "web"}, ports=[ServicePort(port=traffic.WEB)])
    return (
        await client.resource(Service).create(Service(metadata=meta, spec=wanted))
    ).spec.clusterIP


async def reached(app: App, address: str) -> float:
    """When the user's connections to a Service begin to succeed, in seconds since the boot."""

    def ask() -> float:
        enter_network(f"/proc/{app.user}/ns/net")
        given_up = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection((address, traffic.WEB), 0.5).close()
                return time.clock_gettime(time.CLOCK_BOOTTIME)
            except OSError:
                assert time.monotonic() < given_up, f"nobody answers at {address}"
            time.sleep(0.005)

    with ThreadPoolExecutor(1) as alone:  # its thread stays in that network
        return await asyncio.get_running_loop().run_in_executor(alone, ask)


def start_of(pid: int) -> float:
    """When a process began, in seconds since the boot."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


async def sign_of_life(client: Client) -> str:
    """When the node was last heard of."""
    lease = await client.resource(Lease).get(PROFILE, "kube-node-lease")
    return lease.spec.renewTime or ""


async def kill_proxy(bench: Bench, app: App, kills: int, seed: int, repeat: str) -> Figure:
    """The agent's process is kubelet, proxy and name server in one. Requests are by address: the
    name server is away for a moment, too.

    Each life lasts until the node has been heard of, and a moment more. A node that is not heard of
    for 50 seconds is lost, whatever the reason, and its pods rightly get no new connections; on a
    busy machine lives of a few seconds and the supervisor's pauses between them would come to that.

    While it is dead a Service is made: how soon it can be used tells how soon the proxy heals.
    """
    chance, back, heard, healed = random.Random(seed), list[float](), list[float](), list[float]()
    clock, turned_away = asyncio.get_running_loop().time, app.turned_away()
    async with using(app, "--rate", "100", "--held", "20") as found:
        await asyncio.sleep(1)
        pid = await agent_pid(bench)
        for number in range(kills):
            last = await sign_of_life(bench.client)
            os.kill(pid, signal.SIGKILL)
            began = clock()
            address = await expose(bench.client, f"late-{number}")
            pid = await agent_pid(bench, pid)
            back.append(clock() - began)
            healed.append(await reached(app, address) - start_of(pid))

            async def is_heard(last: str = last) -> bool:
                return await sign_of_life(bench.client) != last

            assert await until(is_heard, pause=0.05)
            heard.append(clock() - began - back[-1])
            await bench.client.resource(Service).delete(f"late-{number}", "default")
            await asyncio.sleep(chance.uniform(0.0, 4.0))
        await asyncio.sleep(1)
    counts = found["counts"]
    figure = Figure("24", "connections outlive a killed proxy", seed, repeat)
    figure.counts = {
        "kills": kills,
        "held connections": counts.get("held", 0),
        "echoes": counts.get("echoes", 0),
        "new connections": counts["requests"],
        "turned away by full servers": app.turned_away() - turned_away,
        "slowest second": found["slowest"],
        "slowest process to come back": max(back),
        "median of its change in force then": statistics.median(healed),
        "slowest change in force": max(healed),
        "slowest to be heard of": max(heard),
    }
    figure.faults = {
        "drops": counts.get("drops", 0),
        "failed requests": counts.get("failed requests", 0),
    }
    return measured(figure, found)


async def leave_alone(bench: Bench, app: App, seconds: float, seed: int, repeat: str) -> Figure:
    """Half of the time API server, controllers and scheduler are frozen, half of it dead."""
    before = {pod.metadata.uid: restarts(pod) for pod in await all_pods(bench.client)}
    supervisor, *plane = (
        bench.pid(name) for name in ("supervisor.json", "apiserver.json", "controllers.json")
    )
    options = ["--name", NAME, "--nameserver", app.nameserver, "--rate", "100", "--held", "20"]
    clock, turned_away = asyncio.get_running_loop().time, app.turned_away()
    try:
        # Nobody starts again what will be dead.
        os.kill(supervisor, signal.SIGSTOP)
        async with using(app, *options) as found:
            for pid in plane:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds / 2)
            for pid in plane:
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(seconds / 2)
            os.kill(supervisor, signal.SIGCONT)
            began = clock()
            is_back = await until(partial(is_well, bench.client))
            back = clock() - began
            await asyncio.sleep(2)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    after = {pod.metadata.uid: restarts(pod) for pod in await all_pods(bench.client)}
    counts = found["counts"]
    figure = Figure("25", "the node goes on alone", seed, repeat)
    figure.counts = {
        "seconds without a control plane": seconds,
        "requests": counts["requests"],
        "turned away by full servers": app.turned_away() - turned_away,
        "requests a second": counts["requests"] / found["seconds"],
        "slowest second": found["slowest"],
        "echoes of held connections": counts.get("echoes", 0),
        "seconds until all was back": back,
    }
    figure.faults = {
        "failed requests": counts.get("failed requests", 0),
        "drops": counts.get("drops", 0),
        "pods or containers changed": int(before != after),
        "not back": int(not is_back),
    }
    return measured(figure, found)


async def lose_endpoint(bench: Bench, app: App, seed: int, repeat: str) -> Figure:
    """One of the two pods is deleted at once, in the middle of what is said to it: who speaks with
    it is told, and does not wait for nobody; who speaks with the other does not notice."""
    async with using(app, "--rate", "100", "--held", "20") as found:
        await asyncio.sleep(1)
        await bench.client.resource(Pod).delete("web-0", "default", grace_period=0)
        await asyncio.sleep(traffic.SECONDS + 1)
    counts, silence = found["counts"], found["silence"]
    figure = Figure("24", "who speaks with an endpoint that goes is told", seed, repeat)
    figure.counts = {
        "held connections": counts.get("held", 0),
        "of them ended": counts.get("drops", 0),
        "new connections": counts["requests"],
        "of them refused": counts.get("failed requests", 0) - silence.get("failed requests", 0),
        "slowest second": found["slowest"],
    }
    figure.faults = {
        "held ones left waiting": silence.get("drops", 0),
        "new ones left waiting": silence.get("failed requests", 0),
        "all held ones ended": int(counts.get("drops", 0) == counts["held"]),
        "none ended": int(not counts.get("drops", 0)),
    }
    return measured(figure, found)


def restarts(pod: Pod) -> int:
    return sum(status.restartCount for status in pod.status.containerStatuses)


async def is_well(client: Client) -> bool:
    """The API answers, and the node is Ready by a heartbeat of its own."""
    try:
        nodes = (await client.resource(Node).list()).items
    except ApiError:
        return False
    return all(
        any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)
        and not node.spec.taints
        for node in nodes
    )


async def alone(kills: int, seconds: float, seed: int, repeat: str) -> list[Figure]:
    async with node() as bench:
        app = await deploy(bench)
        killed = await kill_proxy(bench, app, kills, seed, repeat)
        assert await until(partial(is_well, bench.client))
        assert await until(partial(is_served, app))
        left = await leave_alone(bench, app, seconds, seed, repeat)
        return [killed, left, await lose_endpoint(bench, app, seed, repeat)]


TWIN = ("sleep", "1000042")


def processes() -> int:
    """Of the pod that there may be but one of, on any node."""
    found = 0
    for entry in Path("/proc").iterdir():
        try:
            found += (entry / "cmdline").read_bytes() == "\0".join((*TWIN, "")).encode()
        except OSError:
            continue
    return found


def long_lived(name: str) -> dict[str, Any]:
    """Pods that are not gone before their node has said so: with no grace at all they would be."""
    template = spec(TWIN if name == "db" else SLEEP)
    template.terminationGracePeriodSeconds = 1
    found: dict[str, Any] = to_object(template)
    return found


async def lost_node(tolerance: int, seed: int, repeat: str) -> Figure:
    """Two real nodes, of which the second one's agent is stopped."""
    async with node() as bench:
        await asyncio.to_thread(navarch, "start", "--nodes", "2")
        await asyncio.to_thread(navarch, "image", "load", str(bench.home / "bench.tar"))
        names = {each.metadata.name for each in (await bench.client.resource(Node).list()).items}
        (victim,) = names - {PROFILE}
        agent = bench.pid(f"node-{victim}.json")
        loss = Loss(
            bench.client,
            victim,
            lambda: os.kill(agent, signal.SIGSTOP),
            lambda: os.kill(agent, signal.SIGCONT),
            tolerance,
            long_lived,
            processes,
        )
        return figure_of(await lose(loss), tolerance, seed, repeat)
