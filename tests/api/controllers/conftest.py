"""Controllers against the API server of this process; the test itself plays the kubelet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from tests.api.conftest import Api

from navarch.api.errors import ApiError
from navarch.api.times import format_time
from navarch.api.types.core_v1 import (
    Container,
    ContainerState,
    ContainerStateTerminated,
    ContainerStatus,
    Namespace,
    Node,
    Pod,
    PodCondition,
    PodSpec,
    PodTemplateSpec,
    ServiceAccount,
)
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig, Informer, InformerFactory
from navarch.controllers import job_pods
from navarch.controllers.manager import ManagerOptions, run_controllers

T = TypeVar("T")
NODE = "n1"


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url)) as client:
        yield client


def client_as(server: Server, user: str, groups: str = "") -> Client:
    """A client of a secured server, as that user."""
    headers = {"Test-User": user, "Test-Groups": groups}
    return Client(ClientConfig(server.url, impersonate=headers))


async def make_namespace(client: Client, name: str) -> None:
    """A namespace in which pods may be made: the controller of accounts has seen it."""
    await client.resource(Namespace).create(Namespace(metadata=ObjectMeta(name=name)))

    async def has_account() -> ServiceAccount:
        return await client.resource(ServiceAccount).get("default", name)

    await eventually(has_account, "the default account")


@asynccontextmanager
async def running(client: Client, *names: str, **settings: Any) -> AsyncIterator[None]:
    """These controllers at work; what ends them by itself fails the test."""
    options = ManagerOptions(kubeconfig="", controllers=names, **settings)
    task = asyncio.create_task(run_controllers(client, options))
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(
    check: Callable[[], Awaitable[T | None]], what: str = "", seconds: float = 60.0
) -> T:
    """What `check` answers as soon as that is true. An AssertionError inside means not yet."""
    last: object = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if result := await check():
                        return result
                    last = result
                except (AssertionError, LookupError, ApiError) as error:
                    last = error
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what or check} did not come true; last: {last!r}") from None


class Kubelet:
    """Marks pods as running and ready as soon as they appear, and takes deleted ones away; a pod
    whose image is `broken` never gets ready. With `manual` pods start only on request."""

    def __init__(self, client: Client, *, manual: bool = False) -> None:
        self.client = client
        self.manual = manual
        self.pods = client.resource(Pod)
        self.informers = InformerFactory(client)
        self.informer: Informer[Pod] = self.informers.informer(Pod)
        self.informer.add_handler(self._seen, lambda _, pod: self._seen(pod))
        self.seen: set[str] = set()
        """The uids of all pods there ever were."""
        self.most = 0
        """The largest number of living pods seen at once."""
        self.least_ready = 10**6
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Kubelet:
        await self.informers.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.informers.stop()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _seen(self, pod: Pod) -> None:
        self.seen.add(pod.metadata.uid)
        living = [p for p in self.informer.cache.list() if p.status.phase in ("Pending", "Running")]
        self.most = max(self.most, len([p for p in living if not p.metadata.deletionTimestamp]))
        if pod.metadata.deletionTimestamp and not pod.metadata.finalizers:
            self._do(self._remove(pod))
        elif pod.metadata.deletionTimestamp:
            if pod.status.phase not in ("Failed", "Succeeded"):
                self._do(self.finish(pod, "Failed", 137))
        elif pod.status.phase == "Pending" and not self.manual:
            broken = any(c.image == "broken" for c in pod.spec.containers)
            self._do(self.start(pod, ready=not broken))

    def _do(self, work: Awaitable[object]) -> None:
        async def guarded() -> None:
            try:
                await work
            except ApiError as error:
                if not (error.is_not_found or error.is_conflict):
                    raise

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remove(self, pod: Pod) -> None:
        meta = pod.metadata
        await self.pods.delete(meta.name, meta.namespace, uid=meta.uid, grace_period=0)

    async def start(self, pod: Pod, ready: bool = True) -> None:
        await self._status(pod, "Running", "True" if ready else "False")

    async def finish(self, pod: Pod, phase: str = "Succeeded", code: int = 0) -> None:
        terminated = ContainerStateTerminated(
            exitCode=code, finishedAt=format_time(self.client.clock.now())
        )
        await self._status(pod, phase, "False", ContainerState(terminated=terminated))

    async def _status(
        self, pod: Pod, phase: str, ready: str, state: ContainerState | None = None
    ) -> None:
        meta = pod.metadata
        fresh = await self.pods.get(meta.name, meta.namespace)
        if fresh.metadata.uid != meta.uid:
            return
        now = format_time(self.client.clock.now())
        fresh.status.phase = phase
        fresh.status.startTime = fresh.status.startTime or now
        others = [c for c in fresh.status.conditions if c.type != "Ready"]
        condition = PodCondition(type="Ready", status=ready, lastTransitionTime=now)
        fresh.status.conditions = [*others, condition]
        fresh.status.containerStatuses = [
            ContainerStatus(name=c.name, image=c.image, state=state or ContainerState())
            for c in pod.spec.containers
        ]
        await self.pods.update_status(fresh)


def template(labels: dict[str, str], image: str = "good", policy: str = "") -> PodTemplateSpec:
    return PodTemplateSpec(
        metadata=ObjectMeta(labels=labels),
        spec=PodSpec(
            containers=[Container(name="main", image=image)],
            terminationGracePeriodSeconds=1,
            restartPolicy=policy or "Always",
        ),
    )


def selector(labels: dict[str, str]) -> LabelSelector:
    return LabelSelector(matchLabels=labels)


def pod(name: str, labels: dict[str, str] | None = None, node: str = NODE) -> Pod:
    made = template(labels or {})
    made.spec.nodeName = node
    metadata = ObjectMeta(name=name, namespace="default", labels=labels or {})
    return Pod(metadata=metadata, spec=made.spec)


async def add_node(client: Client, name: str = NODE) -> Node:
    return await client.resource(Node).create(Node(metadata=ObjectMeta(name=name)))


@pytest.fixture
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_pods, "FIRST_BACKOFF_SECONDS", 0.2)


QUICK = {
    "horizontal_pod_autoscaler_sync_period": "100ms",
    "horizontal_pod_autoscaler_cpu_initialization_period": "0s",
    "horizontal_pod_autoscaler_downscale_stabilization": "0s",
}


@pytest.fixture
async def cluster(api: Api, client: Client) -> AsyncIterator[Api]:
    """ReplicaSets and autoscalers at work, and a node that pods can be written on."""
    (await api.post("/api/v1/nodes", {"metadata": {"name": "sim"}})).ok(201)
    info = {"nodeInfo": {"containerRuntimeVersion": "simulated://1"}}
    (await api.patch("/api/v1/nodes/sim/status", {"status": info})).ok()
    names = ("horizontalpodautoscaling", "replicaset")
    async with Kubelet(client), running(client, *names, **QUICK):
        yield api
