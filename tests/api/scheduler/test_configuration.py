"""The scheduler as it is started: by a configuration, with several profiles, one of several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from navarch.api.component_config import ConfigurationError
from navarch.api.types.coordination_v1 import Lease
from navarch.api.types.core_v1 import Event, Pod
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig
from navarch.scheduler.main import SchedulerOptions, run

from .test_binding import add_node, node, pod, when

MOST = {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}
ONLY_FIT = {
    "multiPoint": {
        "disabled": [
            {"name": name} for name in ("NodeResourcesBalancedAllocation", "ImageLocality")
        ]
    }
}
PROFILES = [
    {"schedulerName": "spreads", "plugins": ONLY_FIT},
    {"schedulerName": "packs", "plugins": ONLY_FIT, "pluginConfig": [MOST]},
]
QUICK = {"leaseDuration": "3s", "renewDeadline": "2s", "retryPeriod": "100ms"}


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url)) as client:
        yield client


def kubeconfig(directory: Path, server: Server) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
        "current-context": "c",
    }
    file = directory / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return str(file)


def configuration(directory: Path, **fields: Any) -> str:
    document = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        **fields,
    }
    file = directory / "scheduler.yaml"
    file.write_text(yaml.safe_dump(document))
    return str(file)


@asynccontextmanager
async def running(options: SchedulerOptions) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(run(options))
    try:
        yield task
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def of(name: str, scheduler: str) -> Pod:
    made = pod(name, "1")
    made.spec.schedulerName = scheduler
    return made


async def bound(client: Client, name: str) -> str:
    return (await when(client, name, lambda pod: bool(pod.spec.nodeName))).spec.nodeName


async def test_profiles_share_the_cluster(
    client: Client, api_server: Server, tmp_path: Path
) -> None:
    """Each schedules its own pods by its own rules, seeing those of the other."""
    for name in "ab":
        await add_node(client, node(name))
    there = of("there", "nobody")
    there.spec.nodeName = "a"
    pods = client.resource(Pod)
    await pods.create(there)
    config = configuration(
        tmp_path,
        profiles=PROFILES,
        leaderElection={"leaderElect": False},
        clientConnection={"kubeconfig": kubeconfig(tmp_path, api_server)},
    )
    async with running(SchedulerOptions(config=config)):
        await pods.create(of("strange", "default-scheduler"))
        await pods.create(of("packed", "packs"))
        assert await bound(client, "packed") == "a"
        for name in ("one", "two"):
            await pods.create(of(name, "spreads"))
            assert await bound(client, name) == "b"
        found = await pods.get("strange", "default")
        assert not found.spec.nodeName and not found.status.conditions
        async with asyncio.timeout(60):
            async for event in client.resource(Event).watch("default"):
                if event.object.involvedObject.name == "packed":
                    assert event.object.reason == "Scheduled"
                    told = event.object
                    assert "packs" in (told.reportingComponent, told.source.component)
                    break


async def lease_held(client: Client, other_than: str = "") -> Lease:
    async with asyncio.timeout(60):
        async for event in client.resource(Lease).watch("kube-system"):
            holder = event.object.spec.holderIdentity or ""
            if holder != other_than:
                return event.object
    raise AssertionError("the watch ended")


async def test_one_of_several_acts(client: Client, api_server: Server, tmp_path: Path) -> None:
    """By upstream's Lease, which it gives up when it is stopped."""
    await add_node(client, node("a"))
    user = kubeconfig(tmp_path, api_server)
    options = SchedulerOptions(user, configuration(tmp_path, leaderElection=QUICK))
    pods = client.resource(Pod)
    async with running(options):
        lease = await lease_held(client)
        assert (lease.metadata.name, lease.spec.leaseDurationSeconds) == ("kube-scheduler", 3)
        await pods.create(pod("first"))
        await bound(client, "first")
    released = await client.resource(Lease).get("kube-scheduler", "kube-system")
    assert not released.spec.holderIdentity
    # Somebody else leads: nothing is done.
    released.spec.holderIdentity = "another"
    released.spec.leaseDurationSeconds = 3
    await client.resource(Lease).update(released)
    await pods.create(pod("second"))
    async with running(options):
        taken = await lease_held(client, other_than="another")
        assert taken.spec.leaseTransitions == (released.spec.leaseTransitions or 0) + 1
        assert await bound(client, "second") == "a"


async def test_options_go_over_the_file(tmp_path: Path) -> None:
    from navarch.scheduler.main import configuration_of

    config = configuration(tmp_path)
    assert configuration_of(SchedulerOptions(config=config)).leaderElection.leaderElect
    told = SchedulerOptions(config=config, leader_elect=False)
    assert not configuration_of(told).leaderElection.leaderElect
    assert not configuration_of(SchedulerOptions()).leaderElection.leaderElect


async def test_what_cannot_be_used_ends_it(tmp_path: Path) -> None:
    config = configuration(tmp_path, parallelism=0)
    with pytest.raises(ConfigurationError, match="parallelism: Invalid value: 0"):
        await run(SchedulerOptions(config=config))
