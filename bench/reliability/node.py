"""A node's agent that is killed, and what it leaves behind: on a cluster of its own, as root.

The agent is the process of a real node (kubelet, proxy and name server); its supervisor starts it
again. Half of the kills come at random moments, half in the middle of what the agent says to the
runtime: strace sends SIGKILL at its n-th message to a socket.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.cluster import SLEEP, is_ready, loaded_profile, navarch, spec
from bench.node import Bench
from bench.reliability.figure import Figure
from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import ExecAction, Lifecycle, LifecycleHandler, Pod, Probe
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.config import ClientConfig

AGENT = "node-bench.json"
PATIENCE = 60.0
BATCH = 20


@asynccontextmanager
async def node() -> AsyncIterator[Bench]:
    """A running cluster with one node."""
    with loaded_profile() as home:
        await asyncio.to_thread(navarch, "start")
        async with Client(ClientConfig.from_kubeconfig(home / "kubeconfig")) as client:
            yield Bench(client, home)


@dataclass(frozen=True, slots=True)
class Running:
    """A container and its first process."""

    container: str
    pid: int
    restarts: int


@dataclass
class Story:
    """What was done to a node."""

    kills: int = 0
    between_calls: int = 0
    churned: int = 0
    came_back: list[float] = field(default_factory=list)


async def create(client: Client, name: str, *, with_hooks: bool = False) -> None:
    template = spec(SLEEP)
    container = template.containers[0]
    command = ExecAction(command=["true"])
    container.livenessProbe = Probe(exec=command, periodSeconds=2)
    if with_hooks:
        hook = LifecycleHandler(exec=command)
        container.lifecycle = Lifecycle(postStart=hook, preStop=hook)
    await client.resource(Pod).create(
        Pod(metadata=ObjectMeta(name=name, namespace="default"), spec=template)
    )


async def all_pods(client: Client) -> list[Pod]:
    return (await client.resource(Pod).list("default")).items


def are_ready(count: int, found: list[Pod]) -> bool:
    return len(found) == count and all(map(is_ready, found))


async def until(client: Client, check: Any, seconds: float = 4 * PATIENCE) -> None:
    """Waits until a list of all pods is as wanted."""
    async with asyncio.timeout(seconds):
        while not check(await all_pods(client)):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def first_processes() -> dict[str, int]:
    """By container id, its first process: probes run other commands."""
    found: dict[str, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (entry / "cmdline").read_bytes() == "\0".join((*SLEEP, "")).encode():
                name = (entry / "cgroup").read_text().strip().rpartition("/")[2]
                found[name] = int(entry.name)
    return found


async def look(client: Client) -> dict[str, Running]:
    processes = await asyncio.to_thread(first_processes)
    return {
        pod.metadata.name: Running(name := status.containerID.rpartition("/")[2],
                                   processes.get(name, 0), status.restartCount)
        for pod in await all_pods(client)
        for status in pod.status.containerStatuses
    }  # fmt: skip


async def agent_pid(bench: Bench, but: int = 0) -> int:
    """The agent's process, once there is one (other than the one that was killed)."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                pid = await asyncio.to_thread(bench.pid, AGENT)
            except RuntimeError:
                pid = but
            if pid != but:
                return pid
            await asyncio.sleep(0.02)


async def kill(pid: int, chance: random.Random, *, between_calls: bool) -> bool:
    """Kills the agent; whether that was in the middle of a conversation with the runtime."""
    if between_calls:
        at = chance.randint(1, 60)
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid)]
        fault = ["-e", "trace=sendmsg", "-e", f"inject=sendmsg:signal=KILL:when={at}"]
        tracer = await asyncio.create_subprocess_exec(
            *strace, *fault, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(10):
                await tracer.wait()
            return True
        except TimeoutError:
            tracer.kill()
            await tracer.wait()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return False


async def churn(client: Client, chance: random.Random, story: Story, over: asyncio.Event) -> None:
    """Pods that come and go all the time, so that the agent always has something under way."""
    while not over.is_set():
        name = f"churn-{story.churned}"
        story.churned += 1
        await create(client, name, with_hooks=True)
        await asyncio.sleep(chance.uniform(0.1, 2.0))
        try:
            await client.resource(Pod).delete(name, "default")
        except ApiError as error:
            if not error.is_not_found:
                raise


async def storm(bench: Bench, pods: int, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kills the agent over and over; what was different afterwards."""
    client, story, over = bench.client, Story(), asyncio.Event()
    for number in range(pods):
        await create(client, f"steady-{number}")
    await until(client, partial(are_ready, pods))
    before = await look(client)
    churning = asyncio.create_task(churn(client, chance, story, over))
    clock = asyncio.get_running_loop().time
    pid = await agent_pid(bench)
    for number in range(kills):
        await asyncio.sleep(chance.uniform(0.0, 4.0))
        story.between_calls += await kill(pid, chance, between_calls=number % 2 == 1)
        began = clock()
        pid = await agent_pid(bench, pid)
        story.came_back.append(clock() - began)
        story.kills += 1
    over.set()
    await churning
    await until(
        client,
        lambda found: (
            {each.metadata.name for each in found} == before.keys() and all(map(is_ready, found))
        ),
    )
    after = await look(client)
    wanted = {each.metadata.uid for each in await all_pods(client)}
    async with bench.runtime() as runtime, asyncio.timeout(PATIENCE):
        while orphans := {state.uid for state in await runtime.pods()} - wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    return {
        "story": story,
        "restarts caused": sum(each.restarts for each in after.values()),
        "other containers": sum(after[x].container != before[x].container for x in before),
        "other processes": sum(after[x].pid != before[x].pid for x in before),
        "orphans": len(orphans),
    }


def traces(bench: Bench) -> dict[str, int]:
    """How many of everything that pods leave behind there are on the node."""
    inside = Path("/proc") / str(bench.pid("containerd.toml"))
    agent = Path("/proc") / str(bench.pid(AGENT))
    devices = (inside / "net/dev").read_text().splitlines()
    pods = bench.node / "kubelet/pods"
    (cgroup,) = re.findall(r'"cgroup_root": ?"([^"]+)"', (bench.node / AGENT).read_text())
    return {
        "mounts": len((inside / "mountinfo").read_text().splitlines()),
        "links": sum(not line.lstrip().startswith(("lo:", "eth0:")) for line in devices),
        "network namespaces": len(list((inside / "root/run/netns").glob("*"))),
        "cgroups": sum(
            name.startswith("pod")
            for tree in Path("/sys/fs/cgroup").iterdir()
            for _, names, _ in os.walk(f"{tree}{cgroup}")
            for name in names
        ),
        "pod directories": len(list(pods.iterdir())) if pods.is_dir() else 0,
        "log directories": len(list((bench.node / "pod-logs").glob("*"))),
        "file descriptors": len(list((agent / "fd").iterdir())),
        "threads": len(list((agent / "task").iterdir())),
    }


async def batches(bench: Bench, pods: int) -> tuple[dict[str, int], float]:
    """Creates and deletes pods, a batch at a time; what there is afterwards, and the agent's
    resident megabytes."""
    for begin in range(0, pods, BATCH):
        names = [f"short-{number}" for number in range(begin, min(begin + BATCH, pods))]
        await asyncio.gather(*(create(bench.client, name, with_hooks=True) for name in names))
        await until(bench.client, partial(are_ready, len(names)))
        await asyncio.gather(
            *(bench.client.resource(Pod).delete(name, "default", grace_period=1) for name in names)
        )
        await until(bench.client, lambda found: not found)
    async with bench.runtime() as runtime, asyncio.timeout(PATIENCE):
        while await runtime.pods():  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    await asyncio.sleep(2)
    bench.__dict__.pop("agent", None)
    return await asyncio.to_thread(traces, bench), bench.resident


async def killed_agent(pods: int, kills: int, seed: int, repeat: str) -> Figure:
    async with node() as bench:
        found = await storm(bench, pods, kills, random.Random(seed))
    story: Story = found.pop("story")
    figure = Figure("21", "a killed agent restarts no container", seed, repeat)
    figure.counts = {
        "pods": pods,
        "kills": story.kills,
        "of them between calls": story.between_calls,
        "pods that came and went": story.churned,
        "slowest process to come back": max(story.came_back, default=0.0),
    }
    figure.faults = found
    return figure


async def leaks(pods: int, seed: int, repeat: str) -> Figure:
    async with node() as bench:
        before, small = await batches(bench, 2 * BATCH)
        after, large = await batches(bench, pods)
    figure = Figure("21", "pods that are gone leave nothing", seed, repeat)
    figure.counts = {
        "pods made and deleted": pods,
        "resident MB before": small,
        "resident MB after": large,
        **after,
    }
    slack = {"file descriptors": 8, "threads": 16}  # pools that fill up
    figure.faults = {
        name: grown
        for name, count in after.items()
        if (grown := max(0, count - before[name] - slack.get(name, 0))) or name not in slack
    }
    figure.faults["MB that memory grew by beyond 10"] = max(0, round(large - small - 10))
    return figure
