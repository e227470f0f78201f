"""The DRA drivers of this node: who has registered, and what becomes of their slices.

Several instances of a driver may be there at once while it is updated; the latest is asked. When
the last is gone, its slices are deleted after half a minute, so that the scheduler gives no devices
away that nobody would prepare. So are all slices of the node when the agent starts: a driver that
is there publishes them again.
Source: KEP-4381; upstream's `pkg/kubelet/cm/dra/plugin`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from navarch.api.errors import ApiError
from navarch.client import Client

from ..cri.values import RuntimeFailure
from ..plugins import PluginRefused
from .health import (
    DEFAULT_SECONDS,
    HEALTHY,
    UNHEALTHY,
    UNKNOWN,
    Health,
    HealthCache,
    Place,
    shortened,
)

if TYPE_CHECKING:
    from ..cri.calls import Calls

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

SERVICES = ("v1.DRAPlugin", "v1beta1.DRAPlugin")
CALL_SECONDS = 45.0
WIPE_SECONDS = 30.0
HEALTH_RETRY_SECONDS = 5.0
LONGEST_WIPE_RETRY_SECONDS = 300.0
_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
_HEALTH = "/v1alpha1.DRAResourceHealth/NodeWatchResources"


class DraProblem(Exception):
    """Why a pod's claims cannot be prepared or given back; upstream's text."""


@dataclass
class DraDriver:
    """One instance of a driver."""

    name: str
    endpoint: str
    service: str
    calls: Calls
    health: asyncio.Task[None] | None = field(default=None, repr=False)

    async def call(self, method: str, request: Message, response: type[M]) -> M:
        """Raises DraProblem."""
        path = f"/k8s.io.kubelet.pkg.apis.dra.{self.service}/{method}"
        try:
            return await self.calls.call(path, request, response)
        except RuntimeFailure as failure:
            raise DraProblem(f"{method}: {failure}") from failure


class DraDrivers:
    """Handles plug-ins of type DRAPlugin."""

    def __init__(self, client: Client, node_name: str) -> None:
        self._client, self._clock, self._node = client, client.clock, node_name
        self._registered: dict[str, list[DraDriver]] = {}
        self._wipes: asyncio.Queue[str] = asyncio.Queue()
        """Names of drivers whose slices are to go once it has been waited; empty: all, at once."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.health = HealthCache()
        self.on_health: Callable[[set[Place]], None] = lambda places: None
        """Called with devices whose health has changed."""

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._wipe(""), name="resource-slices")
                while True:
                    name = await self._wipes.get()
                    tasks.create_task(self._wipe_later(name), name=f"resource-slices {name}")
        finally:
            for task in [*self._tasks]:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def driver(self, name: str) -> DraDriver:
        """Raises DraProblem."""
        found = self._registered.get(name)
        if not found:
            raise DraProblem(f"DRA driver {name} is not registered")
        return found[-1]

    # Registration

    def validate(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        self._service(name, endpoint, versions)

    def _service(self, name: str, endpoint: str, versions: Sequence[str]) -> str:
        where = (
            f"invalid supported gRPC versions of DRA driver plugin {name} at endpoint {endpoint}"
        )
        if not versions:
            raise PluginRefused(
                f"{where}: empty list of supported gRPC services (aka supported versions)"
            )
        for version in versions:
            if version in SERVICES:
                return version
        raise PluginRefused(
            f"{where}: none of services supported by the plugin ({_quoted(versions)}) are "
            f"supported by the kubelet ({_quoted(SERVICES)})"
        )

    async def register(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        from ..cri.calls import Calls  # nodes without drivers do without the protocol

        service = self._service(name, endpoint, versions)
        known = self._registered.setdefault(name, [])
        if any(each.endpoint == endpoint for each in known):
            raise PluginRefused(
                f"endpoint {endpoint} already registered for DRA driver plugin {name}"
            )
        calls = Calls(endpoint, CALL_SECONDS)
        calls.open()
        driver = DraDriver(name, endpoint, service, calls)
        task = asyncio.get_running_loop().create_task(
            self._watch_health(driver), name=f"device health {name}"
        )
        driver.health = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        known.append(driver)

    async def deregister(self, name: str, endpoint: str) -> None:
        known = self._registered.get(name, [])
        for driver in [each for each in known if each.endpoint == endpoint]:
            known.remove(driver)
            if driver.health is not None:
                driver.health.cancel()
            await driver.calls.close()
        if not known and self._registered.pop(name, None) is not None:
            self._wipes.put_nowait(name)

    # Slices

    async def _wipe_later(self, name: str) -> None:
        await self._clock.sleep(WIPE_SECONDS)
        if not self._registered.get(name):
            await self._wipe(name)

    async def _wipe(self, driver: str) -> None:
        """Delete the slices of a driver on this node, or of all drivers."""
        selector = f"spec.nodeName={self._node}" + (f",spec.driver={driver}" if driver else "")
        delay = 1.0
        while True:
            try:
                await self._client.request("DELETE", _SLICES, query={"fieldSelector": selector})
            except ApiError as error:
                if error.is_not_found:
                    return
                log.info("slices of node %s not deleted: %s", self._node, error)
            else:
                return
            await self._clock.sleep(delay)
            delay = min(delay * 2, LONGEST_WIPE_RETRY_SECONDS)

    # Health

    async def _watch_health(self, driver: DraDriver) -> None:
        while True:
            try:
                await self._follow_health(driver)
            except RuntimeFailure as failure:
                if failure.code == "UNIMPLEMENTED":
                    return  # most drivers say nothing about it
                log.info("health of the devices of %s: %s", driver.name, failure)
            finally:
                self._tell(self.health.forget(driver.name))
            await self._clock.sleep(HEALTH_RETRY_SECONDS)

    async def _follow_health(self, driver: DraDriver) -> None:
        from . import drahealth_pb2 as pb

        states = {pb.HEALTHY: HEALTHY, pb.UNHEALTHY: UNHEALTHY}
        stream = driver.calls.stream(
            _HEALTH, pb.NodeWatchResourcesRequest(), pb.NodeWatchResourcesResponse
        )
        async for answer in stream:
            now = self._clock.monotonic()
            told = [
                (
                    (driver.name, each.device.pool_name, each.device.device_name),
                    Health(
                        states.get(each.health, UNKNOWN),
                        shortened(each.message),
                        now + (max(each.health_check_timeout_seconds, 0) or DEFAULT_SECONDS),
                    ),
                )
                for each in answer.devices
            ]
            self._tell(self.health.update(driver.name, told, now))

    def _tell(self, changed: set[Place]) -> None:
        if changed:
            self.on_health(changed)


def _quoted(names: Sequence[str]) -> str:
    return "[" + " ".join(f'"{each}"' for each in names) + "]"
