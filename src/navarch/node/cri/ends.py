"""How the agent hears of ends: containerd's own events where there are any, CRI's elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from . import containerd_pb2 as containerd
from . import runtime_pb2 as pb
from .calls import Calls
from .values import RuntimeFailure

_EVENTS = "/runtime.v1.RuntimeService/GetContainerEvents"
_SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
CONTAINERD_NAMESPACE = (("containerd-namespace", "k8s.io"),)
"""Where containerd's CRI part keeps its containers, for calls that go past it."""


class Ends:
    """Tells of containers and sandboxes that are over."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def events(self) -> AsyncIterator[str]:
        """containerd's own event stream where there is one, CRI's (optional) stream elsewhere."""
        try:
            async for container_id in self._from_containerd():
                yield container_id
        except RuntimeFailure as failure:
            if failure.code != "UNIMPLEMENTED":
                raise
        stream = self._calls.stream(_EVENTS, pb.GetEventsRequest(), pb.ContainerEventResponse)
        async for event in stream:
            if event.container_event_type == pb.CONTAINER_STOPPED_EVENT:
                yield event.container_id

    async def _from_containerd(self) -> AsyncIterator[str]:
        request = containerd.SubscribeRequest(filters=['topic=="/tasks/exit"'])
        pending: set[asyncio.Task[str]] = set()
        ready: asyncio.Queue[str] = asyncio.Queue()

        async def receive() -> None:
            stream = self._calls.stream(
                _SUBSCRIBE, request, containerd.Envelope, CONTAINERD_NAMESPACE
            )
            async for envelope in stream:
                event = containerd.TaskEvent.FromString(envelope.event.value)
                if event.id not in ("", event.container_id):
                    continue  # a process that was run in a container beside its first one
                task = asyncio.create_task(self._settled(event.container_id), name="cri-settled")
                pending.add(task)
                task.add_done_callback(pending.discard)
                task.add_done_callback(lambda done: _hand_over(done, ready))

        receiver = asyncio.create_task(receive(), name="cri-events")
        getter = asyncio.create_task(ready.get(), name="cri-event")
        try:
            while True:
                await asyncio.wait({getter, receiver}, return_when=asyncio.FIRST_COMPLETED)
                if not getter.done():
                    receiver.result()
                    return
                container_id = getter.result()
                getter = asyncio.create_task(ready.get(), name="cri-event")
                yield container_id
        finally:
            for task in (receiver, getter, *pending):
                task.cancel()

    async def _settled(self, container_id: str) -> str:
        """Waits until CRI shows the end that containerd's event has told of.

        Both learn of an exit from the same event; CRI then deletes the task, which takes some tens
        of milliseconds, before it says so.
        """
        delay = 0.004
        while delay < 3.0:
            if await self.is_over(container_id):
                break
            await asyncio.sleep(delay)
            delay *= 1.5
        return container_id

    async def is_over(self, container_id: str) -> bool:
        try:
            response = await self._calls.ask(
                pb.ContainerStatusRequest(container_id=container_id), pb.ContainerStatusResponse
            )
            return response.status.state != pb.CONTAINER_RUNNING
        except RuntimeFailure:
            pass
        try:
            sandbox = await self._calls.ask(
                pb.PodSandboxStatusRequest(pod_sandbox_id=container_id), pb.PodSandboxStatusResponse
            )
            return sandbox.status.state == pb.SANDBOX_NOTREADY
        except RuntimeFailure:
            return True


def _hand_over(task: asyncio.Task[str], ready: asyncio.Queue[str]) -> None:
    if not task.cancelled():
        ready.put_nowait(task.result())
