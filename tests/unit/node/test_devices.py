"""Device plug-ins: registration, counts, who gets which device, and what is kept in a file."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.device_plugin import RESOURCE, device_plugin
from tests.unit.node.builders import make_pod

from navarch.api.types.core_v1 import Pod
from navarch.client.clock import FakeClock
from navarch.node.cri import runtime_pb2
from navarch.node.devices import deviceplugin_pb2 as pb
from navarch.node.devices import manager as device_manager
from navarch.node.devices import podresources_pb2 as resources
from navarch.node.devices.manager import DeviceManager, DeviceProblem
from navarch.node.devices.records import (
    ANNOTATION,
    Allocation,
    Checkpoint,
    GarbledCheckpoint,
    Owner,
    decode,
    encode,
    give,
    merged,
    read,
)
from navarch.node.devices.serving import DeviceServer


@dataclass
class Node:
    """A device manager with its sockets."""

    root: Path
    clock: FakeClock = field(default_factory=FakeClock)
    pods: list[Pod] = field(default_factory=list)

    def manager(self) -> DeviceManager:
        manager = DeviceManager(self.root / "device-plugins", self.clock, lambda: self.pods)
        manager.load()
        return manager

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[DeviceManager]:
        manager = self.manager()
        server = DeviceServer(manager, None, lambda: self.pods, self.root / "pods")
        task = asyncio.create_task(server.run())
        try:
            # Sockets that lie there when it starts are of the time before.
            await until((self.root / "pods/kubelet.sock").is_socket)
            yield manager
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def node() -> Iterator[Node]:
    # Paths of sockets are short; pytest's directories are not.
    root = Path(tempfile.mkdtemp(prefix="nv-", dir="/tmp"))
    try:
        yield Node(root)
    finally:
        shutil.rmtree(root)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def wanting(uid: str = "u1", init: int = 0, **containers: int) -> Pod:
    def container(name: str, count: int) -> dict[str, Any]:
        return {"name": name, "resources": {"limits": {RESOURCE: str(count)}}}

    spec = {"initContainers": [container("init", init)]} if init else {}
    return make_pod(
        *(container(name, count) for name, count in containers.items()),
        metadata={"uid": uid, "name": uid},
        **spec,
    )


async def test_devices_are_counted_given_and_returned(node: Node) -> None:
    async with (
        node.serving() as manager,
        device_plugin(manager.directory, prefers=["b"], pre_start=True) as plugin,
    ):
        changes: list[dict[str, tuple[int, int]]] = []
        manager.on_change = lambda: changes.append(manager.counts())
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        first, second = wanting("u1", main=1), wanting("u2", main=1)
        node.pods = [first, second]
        assert await manager.admit(first) is None and await manager.admit(second) is None
        assert plugin.calls == [("Allocate", ["b"]), ("Allocate", ["a"])]
        assert manager.devices_of("u1", "main") == {RESOURCE: {"b": (0,)}}
        given = await manager.for_container(first, first.spec.containers[0])
        assert plugin.calls[-1] == ("PreStartContainer", ["b"])
        config = runtime_pb2.ContainerConfig()
        config.envs.add(key="OWN", value=b"1")
        give(config, given)
        assert [(each.key, each.value) for each in config.envs] == [
            ("OWN", b"1"),
            ("GADGETS", b"b"),
        ]
        assert [each.container_path for each in config.devices] == ["/dev/gadget-b"]
        assert config.mounts[0].readonly and config.annotations["vendor.example/gadgets"] == "yes"
        # None are left, until a pod is over.
        third = wanting("u3", main=1)
        refusal = await manager.admit(third)
        assert refusal is not None and (refusal.reason, refusal.message) == (
            "UnexpectedAdmissionError",
            f"Allocate failed due to requested number of devices unavailable for {RESOURCE}. "
            "Requested: 1, Available: 0, which is unexpected",
        )
        node.pods = [second]
        assert await manager.admit(third) is None
        assert manager.devices_of("u3", "main") == {RESOURCE: {"b": (0,)}}
        assert manager.allocatable() == {RESOURCE: 2}


async def test_health(node: Node) -> None:
    async with node.serving() as manager, device_plugin(manager.directory) as plugin:
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        pod = wanting(main=1)
        assert await manager.admit(pod) is None
        told: list[set[str]] = []
        manager.on_health = told.append
        await plugin.change(a="Unhealthy")
        await until(lambda: manager.counts() == {RESOURCE: (2, 1)})
        assert told == [{"u1"}] and manager.health(pod, "main") == {RESOURCE: {"a": False}}
        refusal = await manager.admit(pod)
        assert refusal is not None and "previously allocated devices are no longer" in (
            refusal.message
        )
        await plugin.stop()
        await until(lambda: manager.counts() == {RESOURCE: (2, 0)})
        refusal = await manager.admit(wanting("u2", main=1))
        assert refusal is not None and "no healthy devices present; cannot" in refusal.message
        await node.clock.advance(299)
        assert manager.counts() == {RESOURCE: (2, 0)}
        await node.clock.advance(2)
        assert manager.counts() == {RESOURCE: (0, 0)}


async def test_init_containers_pass_their_devices_on(node: Node) -> None:
    async with node.serving() as manager, device_plugin(manager.directory) as plugin:
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        pod = wanting(init=2, one=1, two=1)
        assert await manager.admit(pod) is None
        assert [ids for _, ids in plugin.calls] == [["a", "b"], ["a"], ["b"]]


async def test_news_of_several_plugins_are_written_one_after_the_other(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, crowd = threading.Lock(), threading.Event()
    written = []

    def write(path: Path, blob: bytes) -> None:
        if not at_work.acquire(blocking=False):
            crowd.set()
            return
        crowd.wait(0.05)  # whoever is not kept waiting comes now
        at_work.release()
        written.append(path)

    monkeypatch.setattr(device_manager, "write_durably", write)
    manager = node.manager()
    await asyncio.gather(*(manager._save() for _ in range(3)))
    assert len(written) == 3


async def test_a_restart_keeps_what_was_given(node: Node) -> None:
    pod = wanting(main=1)
    node.pods = [pod]
    async with node.serving() as manager, device_plugin(manager.directory) as plugin:
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        assert await manager.admit(pod) is None
    async with node.serving() as manager, device_plugin(manager.directory) as plugin:
        # The plug-in is not back yet: the resource counts as none, running containers do not mind.
        assert manager.counts() == {RESOURCE: (0, 0)} and manager.offers(RESOURCE)
        assert manager.allocatable() == {RESOURCE: 1}
        with pytest.raises(DeviceProblem, match="endpoint not found in cache"):
            await manager.for_container(pod, pod.spec.containers[0])
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        assert await manager.admit(wanting("u2", main=1)) is None
        assert plugin.calls == [("Allocate", ["b"])]
        assert manager.devices_of("u1", "main") == {RESOURCE: {"a": (0,)}}


async def test_a_lost_file_is_made_anew(node: Node) -> None:
    """From what the containers themselves say: no device is given away twice."""
    pod = wanting(init=1, main=1)
    node.pods = [pod]
    async with node.serving() as manager, device_plugin(manager.directory) as plugin:
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        assert await manager.admit(pod) is None
        config = runtime_pb2.ContainerConfig()
        give(config, await manager.for_container(pod, pod.spec.containers[0]))
    file = node.root / "device-plugins/kubelet_internal_checkpoint"
    file.write_bytes(file.read_bytes()[:-9])
    async with node.serving() as manager, device_plugin(manager.directory) as plugin:
        manager.adopt("u1", "main", config.annotations[ANNOTATION])
        manager.adopt("u1", "main", "garbage")
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        node.pods = [pod]
        assert await manager.admit(wanting("u2", main=1)) is None
        assert plugin.calls == [("Allocate", ["b"])]
        given = await manager.for_container(pod, pod.spec.containers[0])
        assert given.variables == {"GADGETS": "a"} and plugin.calls[-1] == ("Allocate", ["a"])


@pytest.mark.parametrize(
    ("version", "resource", "complaint"),
    [
        ("v1", RESOURCE, 'requested API version "v1" is not supported by kubelet. Supported '
                         'version is ["v1beta1"]'),
        ("v1beta1", "cpu", 'the ResourceName "cpu" is invalid'),
    ],
)  # fmt: skip
async def test_bad_registrations(node: Node, version: str, resource: str, complaint: str) -> None:
    async with node.serving() as manager, device_plugin(manager.directory) as plugin:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plugin.register(version, resource)
        assert caught.value.details() == complaint


async def test_a_plugin_that_fails(node: Node) -> None:
    async with (
        node.serving() as manager,
        device_plugin(manager.directory, fails="no power") as plugin,
    ):
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        refusal = await manager.admit(wanting(main=1))
        assert refusal is not None and refusal.message == (
            "Allocate failed due to rpc error: code = Internal desc = no power, which is unexpected"
        )
        plugin.fails = ""
        assert await manager.admit(wanting("u2", main=2)) is None


async def test_who_has_what(node: Node) -> None:
    pod = wanting(main=1)
    node.pods = [pod]
    async with node.serving() as manager, device_plugin(manager.directory) as plugin:
        await plugin.register()
        await until(lambda: manager.counts() == {RESOURCE: (2, 2)})
        assert await manager.admit(pod) is None
        async with grpc.aio.insecure_channel(f"unix:{node.root}/pods/kubelet.sock") as channel:

            async def ask(method: str, request: Any, response: Any) -> Any:
                call = channel.unary_unary(
                    f"/v1.PodResourcesLister/{method}",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=response.FromString,
                )
                return await call(request, timeout=10)

            listed = await ask(
                "List", resources.ListPodResourcesRequest(), resources.ListPodResourcesResponse
            )
            (entry,) = listed.pod_resources
            (device,) = entry.containers[0].devices
            assert (entry.name, device.resource_name, list(device.device_ids)) == (
                "u1", RESOURCE, ["a"],
            )  # fmt: skip
            assert [each.ID for each in device.topology.nodes] == [0]
            one = resources.GetPodResourcesRequest(pod_name="u1", pod_namespace="default")
            got = await ask("Get", one, resources.GetPodResourcesResponse)
            assert got.pod_resources == entry
            whole = await ask(
                "GetAllocatableResources",
                resources.AllocatableResourcesRequest(),
                resources.AllocatableResourcesResponse,
            )
            assert len(whole.devices) == 2
            with pytest.raises(grpc.aio.AioRpcError, match="pod x in namespace y not found"):
                one = resources.GetPodResourcesRequest(pod_name="x", pod_namespace="y")
                await ask("Get", one, resources.GetPodResourcesResponse)


# The file

RESPONSE = pb.ContainerAllocateResponse(envs={"A": "1"}).SerializeToString()
STORED = Checkpoint(
    {
        Owner("u1", "main", RESOURCE): Allocation({"a": (0, 1), "b": ()}, RESPONSE),
        Owner("u2", "main", RESOURCE): Allocation({"c": (1,)}, b""),
    },
    [RESOURCE],
)


def test_the_checkpoint_comes_back() -> None:
    assert decode(encode(STORED, {RESOURCE: ["a"]})) == STORED


@pytest.mark.parametrize("position", [0, 20, 60, -3])
def test_a_garbled_checkpoint_is_found(position: int, tmp_path: Path) -> None:
    blob = bytearray(encode(STORED, {}))
    blob[position] ^= 0x04
    file = tmp_path / "kubelet_internal_checkpoint"
    for damaged in (bytes(blob), blob[: len(blob) // 2], b"", b"null", b"\0" * 40):
        with pytest.raises(GarbledCheckpoint):
            decode(bytes(damaged))
        file.write_bytes(damaged)
        assert read(file) == Checkpoint()


def test_two_plugins_that_disagree() -> None:
    answers = {
        text: Allocation(
            {}, pb.ContainerAllocateResponse(envs={"A": text, text: text}).SerializeToString()
        )
        for text in ("one", "two")
    }
    assert merged(answers).variables == {"A": "one", "one": "one", "two": "two"}
