"""Pods that turn against their node: what containers may write to, the node reads and handles."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.cluster.node.conftest import Cluster, _cluster, eventually, pod, shell
from tests.cluster.node.environment import RuntimeEnvironment
from tests.cluster.node.test_node_server import PORT, Kubelet, served
from tests.cluster.node.test_pod_life import FOREVER, is_ready
from tests.cluster.node.test_pod_surroundings import create
from tests.cluster.node.test_volume_files import listed, succeeded

from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster

SECRET = "only-the-node-knows"


@pytest.fixture
async def node(runtime_environment: RuntimeEnvironment, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster whose agent does not run yet."""
    async with _cluster(runtime_environment, tmp_path) as cluster:
        yield cluster


def agent_lives(cluster: Cluster) -> bool:
    return cluster.agent is not None and not cluster.agent.done()


def has_ended(each: Pod) -> bool:
    return each.status.phase in ("Succeeded", "Failed")


SPOIL = r"""
if [ -e /work/again ]; then head -n 1 /etc/hosts; wc -l < /etc/hosts; exit; fi
touch /work/again
for f in /etc/hosts /dev/termination-log /etc/resolv.conf /etc/hostname; do
  rm -f $f 2>/dev/null && echo removed $f
  mv $f $f.old 2>/dev/null && echo renamed $f
  ln -sf /etc/shadow $f 2>/dev/null && echo linked $f
  printf '\377\000\033[31m%s' "$(head -c 9000 /dev/zero | tr '\0' x)" > $f
  dd if=/dev/zero of=$f bs=1 count=0 seek=4G 2>/dev/null
done
exit 1
"""


async def test_files_of_the_node_in_a_containers_hands(cluster: Cluster) -> None:
    """They stay files, whatever is written to them, and as large as they may become (sparse, so
    that nobody is evicted), the node reads no more of them than it shows."""
    container = shell("main", SPOIL, volumeMounts=[{"name": "work", "mountPath": "/work"}])
    await cluster.create(pod("spoiler", container, restartPolicy="OnFailure",
                             volumes=[{"name": "work", "emptyDir": {}}]))  # fmt: skip
    done = await cluster.wait("spoiler", succeeded, 40)
    status = done.status.containerStatuses[0]
    assert status.restartCount == 1 and agent_lives(cluster)
    first = status.lastState.terminated
    assert first is not None and first.exitCode == 1
    message = first.message.encode()
    assert message.startswith("\ufffd\0\033[31mxx".encode()) and len(first.message) <= 4096
    head, lines = (await cluster.logs(done, "main", 1)).splitlines()
    assert head == "# Kubernetes-managed hosts file." and int(lines) < 20
    assert await cluster.logs(done, "main") == ""


# Each makes of a log, in its directory, what will mislead somebody who reads it.
REPLACED = {
    "link": "ln -sf {secret} 0.log",
    "pipe": "rm 0.log; mkfifo 0.log",
    "device": "rm 0.log; mknod 0.log c 1 5",
    "directory": "rm 0.log; mkdir 0.log",
    "elsewhere": "cd ..; rm -rf main; ln -s {elsewhere} main",
    "successor": "mv 0.log 0.log.20200101-000000; mkfifo 0.log.20200102-000000; ln -s {secret} 0.log",
}


async def test_logs_that_a_pod_has_replaced(node: Cluster, tmp_path: Path) -> None:
    """A pod that collects logs may often write to them. Through them it gets no file of the node,
    and nobody is kept waiting: `kubectl logs`, the message of an end, the pod's removal."""
    logs, work = node.options.pod_logs_directory, tmp_path / "work"
    (tmp_path / "elsewhere").mkdir()
    work.mkdir()
    for file in ("secret", "elsewhere/0.log", "precious"):
        (tmp_path / file).write_text(f"2026-01-01T00:00:00.000000000Z stdout F {SECRET}\n")
    logs.mkdir()
    places = {"secret": tmp_path / "secret", "elsewhere": tmp_path / "elsewhere"}
    script = "".join(
        f"(cd {logs}/default_{name}_*/main && {change.format_map(places)}) || echo {name} failed\n"
        for name, change in REPLACED.items()
    )
    mounts = {"logs": logs, "work": work}
    volumes = [{"name": name, "hostPath": {"path": str(path)}} for name, path in mounts.items()]
    collector = shell("main", script + "touch /work/changed", volumeMounts=[
        {"name": "logs", "mountPath": str(logs)}, {"name": "work", "mountPath": "/work"}])  # fmt: skip
    waiting = "echo said; while ! [ -e /work/changed ]; do usleep 50000; done; exit 1"
    printer = shell("main", waiting, terminationMessagePolicy="FallbackToLogsOnError",
                    volumeMounts=[{"name": "work", "mountPath": "/work"}])  # fmt: skip
    async with served(node, tmp_path) as kubelet:
        for name in REPLACED:
            await node.create(pod(name, printer, restartPolicy="Never", volumes=volumes))
        for name in REPLACED:
            await node.wait(name, is_ready)
        await node.create(pod("collector", collector, restartPolicy="Never", volumes=volumes))
        done = await node.wait("collector", succeeded)
        assert await node.logs(done, "main") == ""
        for name in REPLACED:
            ended = (await node.wait(name, has_ended)).status.containerStatuses[0].state.terminated
            assert ended is not None and SECRET not in ended.message, name
        async with asyncio.timeout(20):
            for name in REPLACED:
                for query in ("", "?follow=true", "?tailLines=1"):
                    said = await kubelet.get(f"/containerLogs/default/{name}/main{query}", 500)
                    assert said == "failed to open the log file of main", name
        for name in (*REPLACED, "collector"):
            await node.delete(name, 0)

        async def is_clean() -> bool:
            return not any(logs.iterdir())

        await eventually(is_clean, 20)
        assert agent_lives(node)
    assert SECRET in (tmp_path / "secret").read_text()
    assert SECRET in (tmp_path / "elsewhere/0.log").read_text()
