"""The node agent against a real containerd and a real API server in this process."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import running_server
from tests.cluster.node.environment import (
    RuntimeEnvironment,
    containerd,
    enter_network,
    network,
    run,
)

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Event, Namespace, Pod
from navarch.apiserver.options import ServerOptions
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.cluster.composition import EVICTION_HARD
from navarch.node.cri.client import CriRuntime
from navarch.node.cri.values import RuntimeFailure
from navarch.node.main import run_with
from navarch.node.settings import NodeOptions

NODE = "node-1"
Check = Callable[[Pod], bool]


@pytest.fixture(scope="session")
def node_network() -> Iterator[str]:
    """The same for all modules: gRPC's threads, which open its connections, stay where they were
    made, and a probe in another network than theirs would reach nobody."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with network() as name:
        yield name


@pytest.fixture(scope="module")
def runtime_environment(node_network: str) -> Iterator[RuntimeEnvironment]:
    """containerd, and this process in its network: for one module, other tests have their own."""
    # Socket paths are limited to 107 bytes; pytest's own directories are too deep.
    directory = Path(tempfile.mkdtemp(prefix="nvtest-", dir="/tmp"))
    with (
        containerd(directory, node_network, "10.251.7.0/24") as environment,
        open("/proc/self/ns/net") as outside,
    ):
        enter_network(f"/run/netns/{node_network}")
        try:
            yield environment
        finally:
            enter_network(f"/proc/self/fd/{outside.fileno()}")
    shutil.rmtree(directory, ignore_errors=True)


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Waits for what nobody announces: files and the runtime's records."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def text_of(path: str | Path) -> str:
    return Path(path).read_text()


async def written(path: Path, text: str) -> None:
    """Waits for what a container writes: one that runs may not have come to it yet."""

    def found() -> bool:
        return path.exists() and path.read_text() == text

    await eventually(lambda: asyncio.to_thread(found))


@dataclass
class Cluster:
    """One node and its API server."""

    client: Client
    options: NodeOptions
    runtime: CriRuntime
    agent: asyncio.Task[None] | None = None

    def start_agent(self, **changes: Any) -> None:
        self.options = replace(self.options, **changes)
        self.agent = asyncio.create_task(run_with(self.options, self.client, self.runtime))

    async def stop_agent(self) -> None:
        """Like a crash: nothing is told to anybody."""
        assert self.agent is not None
        self.agent.cancel()
        await asyncio.gather(self.agent, return_exceptions=True)

    async def create(self, pod: dict[str, Any]) -> Pod:
        """Creates a pod that is bound to the node already."""
        pod["spec"].setdefault("nodeName", NODE)
        return await self._checked(self.client.dynamic("", "v1", "pods").create(pod))

    async def _checked(self, creation: Awaitable[Any]) -> Pod:
        created = await creation
        return await self.get(created["metadata"]["name"])

    async def get(self, name: str) -> Pod:
        return await self.client.resource(Pod).get(name, "default")

    async def wait(self, name: str, check: Check, seconds: float = 60.0) -> Pod:
        """Waits by watching until the pod is as wanted; shows what it was like if it never is."""
        last: Pod | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    selector = f"metadata.name={name}"
                    async for event in self.client.resource(Pod).watch(
                        "default", field_selector=selector
                    ):
                        if event.type in ("ADDED", "MODIFIED"):
                            last = event.object
                            if check(last):
                                return last
        except TimeoutError:
            events = await self.events(name)
            raise AssertionError(
                f"{name} is {last.status if last else None}\nevents: {events}"
            ) from None

    async def wait_gone(self, name: str, seconds: float = 60.0) -> Pod:
        """Waits until the pod is deleted; returns its last version."""
        async with asyncio.timeout(seconds):
            pods = self.client.resource(Pod)
            async for event in pods.watch("default", field_selector=f"metadata.name={name}"):
                if event.type == "DELETED":
                    return event.object
        raise AssertionError(f"the watch of {name} ended")

    async def delete(self, name: str, grace: int | None = None) -> None:
        await self.client.resource(Pod).delete(name, "default", grace_period=grace)

    def kill(self, container_id: str) -> None:
        """Kills the first process of a container or sandbox."""
        address = self.options.runtime_endpoint.removeprefix("unix://")
        run("ctr", "-a", address, "-n", "k8s.io", "tasks", "kill", "-s", "KILL", container_id)

    async def events(self, name: str) -> list[tuple[str, str]]:
        """Reason and message of the pod's events."""
        found = await self.client.resource(Event).list("default")
        return [
            (each.reason, each.message) for each in found.items if each.involvedObject.name == name
        ]

    async def told(self, name: str, *wanted: tuple[str, str]) -> None:
        """Waits for these events of the pod: they are written beside its status."""

        async def are_there() -> bool:
            return set(wanted) <= set(await self.events(name))

        try:
            await eventually(are_there)
        except TimeoutError:
            raise AssertionError(f"{name}: {await self.events(name)}") from None

    async def logs(self, pod: Pod, container: str, attempt: int = 0) -> str:
        """What a container has printed."""
        meta = pod.metadata
        directory = self.options.pod_logs_directory / f"default_{meta.name}_{meta.uid}"
        lines = (directory / container / f"{attempt}.log").read_text().splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines)

    async def says(self, pod: Pod, container: str, text: str) -> None:
        """Waits until a container that runs has printed exactly this."""
        last = ""
        try:
            async with asyncio.timeout(60):
                while (last := await self.logs(pod, container)) != text:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{container} has printed {last!r}") from None


@asynccontextmanager
async def _cluster(environment: RuntimeEnvironment, directory: Path) -> AsyncIterator[Cluster]:
    root = environment.directory / directory.name
    root.mkdir(exist_ok=True)
    (root / "resolv.conf").write_text("nameserver 10.0.0.9\nsearch example.test\n")
    options = NodeOptions(
        kubeconfig=root / "unused",
        node_name=NODE,
        node_ip="127.0.0.1",
        runtime_endpoint=f"unix://{environment.socket}",
        root_directory=root / "kubelet",
        pod_logs_directory=root / "logs",
        cluster_dns=("10.96.0.10",),
        resolv_conf=root / "resolv.conf",
        cgroup_root=environment.cgroup_root,
        # As in clusters: the machine's disk may be fuller than upstream's shares of it allow.
        eviction_hard=EVICTION_HARD,
        image_gc_high_threshold_percent=95,
    )
    # Pods are not given a loopback address for the API server.
    server_options = ServerOptions(port=0, advertise_address="192.0.2.1")
    async with (
        running_server(options=server_options) as server,
        Client(ClientConfig(server=server.url)) as client,
        CriRuntime(options.runtime_endpoint) as runtime,
    ):
        await _ensure_namespaces(client)
        cluster = Cluster(client, options, runtime)
        try:
            yield cluster
        finally:
            if cluster.agent is not None:
                await cluster.stop_agent()
            await remove_all_pods(runtime)


async def remove_all_pods(runtime: CriRuntime) -> None:
    """A start that was interrupted a moment ago may keep the runtime busy a little longer."""
    async with asyncio.timeout(60):
        while states := await runtime.pods():
            for sandbox in [each for state in states for each in state.sandboxes]:
                try:
                    await runtime.stop_sandbox(sandbox.id)
                    await runtime.remove_sandbox(sandbox.id)
                except RuntimeFailure:
                    await asyncio.sleep(0.1)


async def _ensure_namespaces(client: Client) -> None:
    for name in ("default", "kube-node-lease"):
        try:
            await client.dynamic("", "v1", "namespaces", namespaced=False).create(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )
        except ApiError as error:
            if not error.is_already_exists:
                raise
    assert await client.resource(Namespace).get("default")


@pytest.fixture
async def cluster(
    runtime_environment: RuntimeEnvironment, tmp_path: Path
) -> AsyncIterator[Cluster]:
    """A cluster whose agent runs."""
    async with _cluster(runtime_environment, tmp_path) as cluster:
        cluster.start_agent()
        yield cluster


def pod(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod of busybox containers."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": list(containers),
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            **spec,
        },
    }


def shell(name: str, script: str, **fields: Any) -> dict[str, Any]:
    """A container that runs a shell script."""
    return {
        "name": name,
        "image": "busybox:1.36",
        "command": ["sh", "-c", script],
        "imagePullPolicy": "IfNotPresent",
        **fields,
    }
