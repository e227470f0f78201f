"""Logs of real containers: through rotation, of the instance before, and in parts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell
from tests.cluster.node.test_pod_life import is_ready

from navarch.api.types.core_v1 import Pod
from navarch.node.server.logs import LogOptions, read_log

pytestmark = pytest.mark.cluster

LINES = 4000


def log_file(cluster: Cluster, pod: Pod, attempt: int = 0) -> Path:
    meta = pod.metadata
    directory = cluster.options.pod_logs_directory / f"default_{meta.name}_{meta.uid}"
    return directory / "main" / f"{attempt}.log"


async def test_a_follower_sees_each_line_once_while_files_are_rotated(cluster: Cluster) -> None:
    await cluster.stop_agent()
    cluster.start_agent(container_log_max_size=20_000, container_log_monitor_interval=0.2)
    # About 500 lines a second: a new file several times while the last is read.
    pause = "[ $((i % 50)) = 0 ] && usleep 50000"
    script = f"for i in $(seq 1 {LINES}); do echo line $i; {pause}; done; sleep 1"
    await cluster.create(pod("talker", shell("main", script), restartPolicy="Never"))
    running = await cluster.wait("talker", lambda each: each.status.phase == "Running")
    path = log_file(cluster, running)
    ended = asyncio.create_task(
        cluster.wait("talker", lambda each: each.status.phase == "Succeeded")
    )
    text = b""
    async with asyncio.timeout(60):
        async for chunk in read_log(path, LogOptions(follow=True), lambda: not ended.done()):
            text += chunk
    await ended
    assert text.decode().split() == [word for n in range(1, LINES + 1) for word in ("line", str(n))]

    async def are_packed() -> bool:
        names = sorted(each.name for each in path.parent.iterdir())
        assert 3 <= len(names) <= cluster.options.container_log_max_files + 1, names
        return (
            names[0] == "0.log"
            and all(each.endswith(".gz") for each in names[1:-1])
            and not names[-1].endswith(".gz")
            and len(names) <= cluster.options.container_log_max_files
        )

    await eventually(are_packed)


async def test_what_is_no_line_and_who_fills_its_log(cluster: Cluster) -> None:
    """A line beyond the runtime's limit comes in parts and is put together; text of all kinds goes
    through as it is; and whoever writes without end gets no more room than his files."""
    await cluster.stop_agent()
    cluster.start_agent(container_log_max_size=1_000_000, container_log_monitor_interval=0.3)
    script = r"""head -c 100000 /dev/zero | tr '\0' x; echo
printf '2026-01-01T00:00:00Z stdout F fake\n\r\033[31m\377\n'; echo err >&2; printf 'no end'"""
    odd = shell("main", script)
    flood = shell("main", "yes 'I will not stop' & sleep 1000")
    await cluster.create(pod("odd", odd, restartPolicy="Never"))
    await cluster.create(pod("flood", flood, terminationGracePeriodSeconds=0))
    done = await cluster.wait("odd", lambda each: each.status.phase == "Succeeded")

    async def read(options: LogOptions) -> bytes:
        chunks = read_log(log_file(cluster, done), options, lambda: False)
        return b"".join([chunk async for chunk in chunks])

    everything = await read(LogOptions())
    out = b"x" * 100_000 + b"\n2026-01-01T00:00:00Z stdout F fake\n\r\033[31m\377\n"
    assert everything.replace(b"err\n", b"", 1) == out + b"no end"
    assert await read(LogOptions(stream="stderr")) == b"err\n"
    assert (await read(LogOptions(timestamps=True))).count(b"Z ") == 6
    flooding = await cluster.wait("flood", is_ready)
    directory = log_file(cluster, flooding).parent

    async def is_full() -> bool:
        return len(list(directory.iterdir())) == cluster.options.container_log_max_files

    await eventually(is_full)
    assert is_ready(await cluster.get("flood"))
    await cluster.delete("flood", grace=0)


async def test_the_instance_before(cluster: Cluster) -> None:
    script = "echo x >> /work/n; echo run $(wc -l < /work/n); [ $(wc -l < /work/n) = 2 ] || exit 1"
    script += "; sleep 1000"
    container = shell("main", script, volumeMounts=[{"name": "work", "mountPath": "/work"}])
    volumes = [{"name": "work", "emptyDir": {}}]
    await cluster.create(pod("twice", container, volumes=volumes, terminationGracePeriodSeconds=0))
    again = await cluster.wait(
        "twice",
        lambda each: is_ready(each) and each.status.containerStatuses[0].restartCount == 1,
        40,
    )

    async def has_spoken() -> bool:
        return await cluster.logs(again, "main", 1) == "run 2"

    await eventually(has_spoken)
    assert await cluster.logs(again, "main", 0) == "run 1"
