"""Everything a pod's worker needs, in memory and on virtual time."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.unit.node.fake_runtime import FakeRuntime

from navarch.api.errors import not_found
from navarch.api.objects import Object, copy_object, from_object, to_object
from navarch.api.patch.strategic import apply_strategic_merge_patch
from navarch.api.schema.facts import schema_for
from navarch.api.types.authentication_v1 import TokenRequest
from navarch.api.types.core_v1 import (
    ConfigMap,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    PodStatus,
    Secret,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.node_v1 import RuntimeClass
from navarch.client.clock import FakeClock
from navarch.node.agent import NodeAgent
from navarch.node.cgroups import Cgroups
from navarch.node.cri.snapshots import MountStep
from navarch.node.cri.values import ImageRecord, RuntimeFailure
from navarch.node.hooks import Hooks
from navarch.node.images.collector import ImageCollector
from navarch.node.images.puller import ImagePuller
from navarch.node.images.records import PullRecords
from navarch.node.podspec import ContainerSpec
from navarch.node.probes.handlers import Handlers
from navarch.node.probes.manager import ProbeManager
from navarch.node.resources import NodeResources
from navarch.node.security_context import NodeSecurity
from navarch.node.settings import NodeOptions
from navarch.node.starting import NodeServices
from navarch.node.userns import UserNamespaces
from navarch.node.volumes.files import DownwardPlugin
from navarch.node.volumes.image import ImagePlugin
from navarch.node.volumes.manager import VolumeManager
from navarch.node.volumes.plugin import VolumeHost
from navarch.node.volumes.tokens import PodTokens

GIB = 1 << 30


class FakeSnapshots:
    """Views in memory; they cannot be mounted."""

    def __init__(self) -> None:
        self.views: dict[str, str] = {}
        self.failure: RuntimeFailure | None = None

    async def view(self, key: str, image_id: str) -> list[MountStep]:
        if self.failure is not None:
            raise self.failure
        self.views[key] = image_id
        return [MountStep("bind", "/fake", ("ro", "rbind"))]

    async def remove(self, key: str) -> None:
        self.views.pop(key, None)


@dataclass
class FakeObjects:
    """ConfigMaps and the like, by name."""

    config_maps: dict[str, ConfigMap] = field(default_factory=dict)
    secrets: dict[str, Secret] = field(default_factory=dict)
    runtime_classes: dict[str, RuntimeClass] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)

    def add_config_map(self, name: str, **data: str) -> None:
        self.config_maps[name] = ConfigMap(metadata=ObjectMeta(name=name), data=data)

    def add_secret(self, name: str, **data: str) -> None:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        self.secrets[name] = Secret(metadata=ObjectMeta(name=name), data=encoded)

    async def config_map(
        self, namespace: str, name: str, *, fresh: bool = True
    ) -> ConfigMap | None:
        return self.config_maps.get(name)

    async def secret(self, namespace: str, name: str, *, fresh: bool = True) -> Secret | None:
        return self.secrets.get(name)

    async def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        return None

    async def volume(self, name: str) -> PersistentVolume | None:
        return None

    async def change_claim(
        self, claim: PersistentVolumeClaim, status: Object, *, checked: bool = True
    ) -> PersistentVolumeClaim:
        document = {"status": status}
        facts = schema_for("", "v1", "PersistentVolumeClaim")
        changed = apply_strategic_merge_patch(to_object(claim), document, facts)
        return from_object(PersistentVolumeClaim, changed)

    async def runtime_class(self, name: str) -> RuntimeClass | None:
        return self.runtime_classes.get(name)

    async def node(self, name: str) -> Node | None:
        return self.nodes.get(name)

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest:
        request.status.token = f"token of {account}"
        return request


@dataclass
class FakeEvents:
    told: list[str] = field(default_factory=list)
    of_node: list[str] = field(default_factory=list)

    def pod(
        self,
        pod: Pod,
        kind: str,
        reason: str,
        message: str,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self.told.append(f"{reason}: {message}")

    def node(self, kind: str, reason: str, message: str) -> None:
        self.of_node.append(f"{reason}: {message}")

    def container(
        self, pod: Pod, spec: ContainerSpec, kind: str, reason: str, message: str
    ) -> None:
        self.told.append(f"{spec.name} {reason}: {message}")


class DownwardOnDisk(DownwardPlugin):
    """Unit tests mount nothing."""

    in_memory = False


class FakePodApi:
    """The API's pods: patches are merged the way the strategic merge of a status works."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.statuses: list[PodStatus] = []
        self.on_change: Callable[[Pod], None] = lambda pod: None
        self.on_delete: Callable[[Pod], None] = lambda pod: None
        self.failures: list[Exception] = []
        self._version = 1

    def put(self, pod: Pod) -> None:
        self._version += 1
        pod.metadata.resourceVersion = str(self._version)
        self.pods[pod.metadata.name] = pod
        self.on_change(pod)

    async def patch_status(self, namespace: str, name: str, patch: Object) -> Pod:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        current = self.pods.get(name)
        if current is None:
            raise not_found("pods", "", name)
        document = to_object(current)
        status: dict[str, Any] = document.setdefault("status", {})
        for key, value in patch["status"].items():
            if key == "conditions":
                status[key] = _merged_conditions(status.get(key, []), value)
            elif value is None:
                status.pop(key, None)
            elif isinstance(value, list):
                status[key] = [each for each in value if each != {"$patch": "replace"}]
            elif isinstance(value, dict):
                status[key] = {name: each for name, each in value.items() if name != "$patch"}
            else:
                status[key] = value
        pod = from_object(Pod, document)
        self.statuses.append(pod.status)
        self.put(pod)
        return pod

    async def create(self, pod: Pod) -> Pod:
        self.put(copy_object(pod))
        return pod

    async def delete(self, namespace: str, name: str, uid: str, grace: int) -> None:
        await asyncio.sleep(0)
        pod = self.pods.get(name)
        if pod is None or pod.metadata.uid != uid:
            raise not_found("pods", "", name)
        del self.pods[name]
        self.on_delete(pod)

    def mark_deleted(self, name: str, grace: int = 30) -> None:
        """What the API server does for a graceful deletion."""
        pod = copy_object(self.pods[name])
        pod.metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
        pod.metadata.deletionGracePeriodSeconds = grace
        self.put(pod)


def _merged_conditions(old: list[Object], changes: list[Object]) -> list[Object]:
    merged = {each["type"]: each for each in old}
    for change in changes:
        if change.get("$patch") == "delete":
            merged.pop(change["type"], None)
            continue
        both = {**merged.get(change["type"], {}), **change}
        merged[change["type"]] = {key: value for key, value in both.items() if value is not None}
    return list(merged.values())


@dataclass
class Stage:
    """An agent with everything around it."""

    agent: NodeAgent
    services: NodeServices
    runtime: FakeRuntime
    api: FakePodApi
    objects: FakeObjects
    events: FakeEvents
    clock: FakeClock
    options: NodeOptions

    async def create(self, pod: Pod) -> None:
        self.api.put(pod)
        await self.rest()

    async def rest(self, seconds: float = 0.0) -> None:
        """Lets everything that can happen now (or within `seconds`) happen."""
        for _ in range(3):
            await self.clock.advance(seconds)
            await asyncio.sleep(0.01)
            seconds = 0.0
        await self.clock.advance(0)

    def status(self, name: str = "web") -> PodStatus:
        return self.api.pods[name].status


async def _at_once(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """No virtual clock can foresee the end of a thread."""
    await asyncio.sleep(0)
    return function(*args, **keywords)


class Machine:
    """What outlives an agent: the runtime, the API, time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.runtime = FakeRuntime(now=lambda: int(self.clock.now().timestamp() * 1e9))
        self.runtime.image_table["busybox:1.36"] = ImageRecord("sha256:bb", ("busybox:1.36",))
        self.api, self.objects, self.events = FakePodApi(), FakeObjects(), FakeEvents()


def _as_it_is(part: Any) -> Any:
    return part


@asynccontextmanager
async def stage(
    directory: Path, machine: Machine | None = None, through: Callable[[Any], Any] = _as_it_is
) -> AsyncIterator[Stage]:
    """An agent that runs. What it does to the runtime, the API and the disk goes `through`."""
    with mock.patch("asyncio.to_thread", through(_at_once)):
        async with _stage(directory, machine or Machine(), through) as result:
            yield result


@asynccontextmanager
async def _stage(
    directory: Path, machine: Machine, through: Callable[[Any], Any]
) -> AsyncIterator[Stage]:
    clock, objects, events = machine.clock, machine.objects, machine.events
    runtime, api = through(machine.runtime), through(machine.api)
    options = NodeOptions(
        kubeconfig=directory / "unused",
        node_name="node-1",
        root_directory=directory / "kubelet",
        pod_logs_directory=directory / "logs",
        resolv_conf=directory / "resolv.conf",
        cluster_dns=("10.96.0.10",),
    )
    resources = NodeResources(4000, 8 * GIB, 100 * GIB)
    handlers = Handlers(runtime)
    (directory / "cgroup").mkdir(parents=True, exist_ok=True)
    records = PullRecords(options.root_directory)
    await records.load([])
    host = VolumeHost(options.root_directory, objects, resources, clock, events, "node-1")
    volumes = VolumeManager(host)
    volumes.add(DownwardOnDisk(host, PodTokens(objects, clock)))
    puller = ImagePuller(runtime, records, events, clock)
    image_volumes = ImagePlugin(host, runtime, FakeSnapshots(), puller)
    volumes.add(image_volumes)
    services = NodeServices(
        options=options,
        image_volumes=image_volumes,
        runtime=runtime,
        puller=puller,
        collector=ImageCollector(runtime, runtime, records, events, clock),
        volumes=volumes,
        cgroups=Cgroups("", directory / "cgroup"),
        hooks=Hooks(runtime, handlers, events, clock),
        users=UserNamespaces(
            options.root_directory / "pods", options.user_namespaces_ids_per_pod, options.max_pods
        ),
        security=NodeSecurity(),
        objects=objects,
        events=events,
        clock=clock,
        node=resources,
        host_ips=("192.168.49.2",),
        services=lambda: (),
        sandbox_slots=asyncio.Semaphore(4),
    )
    agent = NodeAgent(services, api, ProbeManager(handlers, events, clock))
    machine.api.on_change, machine.api.on_delete = agent.pod_present, agent.pod_gone
    await agent.prepare()
    agent.begin_all(machine.api.pods.values())
    task = asyncio.create_task(agent.run())
    result = Stage(agent, services, machine.runtime, machine.api, objects, events, clock, options)
    try:
        yield result
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
