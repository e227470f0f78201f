"""The CSI drivers of this node: who has registered, and what their CSIDriver objects say.

A driver is there from its registration (`node.plugins`) to the end of its socket. CSIDriver objects
are followed only from the moment the first driver or volume asks for them, so a node without CSI
pays nothing.
Source: upstream's `pkg/volume/csi/csi_plugin.go` and `csi_node_updater.go`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from navarch.api.errors import ApiError
from navarch.api.types.storage_v1 import CSIDriver as CSIDriverObject
from navarch.client.client import Client
from navarch.client.informer import Informer

from ..cri.values import RuntimeFailure
from ..plugins import PluginRefused
from .csi_node import CsiNodeObject, NodeInfoProblem
from .plugin import VolumeProblem

if TYPE_CHECKING:
    from .csi_client import CsiDriver

log = logging.getLogger(__name__)

_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)")


def highest_version(versions: Sequence[str]) -> tuple[int, ...]:
    """The newest version of CSI a driver speaks that we speak too. Raises ValueError."""
    found = [
        tuple(int(part) for part in match[1].split("."))
        for match in map(_VERSION.match, versions)
        if match is not None
    ]
    newest = max((each for each in found if each[0] <= 1), default=None)
    if newest is None:
        raise ValueError(
            "could not find a highest supported version from versions "
            f"([{' '.join(versions)}]) reported by this plugin"
        )
    if newest[0] != 1:
        text = ".".join(map(str, newest))
        raise ValueError(f"highest supported version reported by plugin is {text}, must be v1.x")
    return newest


class CsiDrivers:
    """Handles plug-ins of type CSIPlugin; everything of CSI on this node asks here for a driver."""

    def __init__(self, client: Client, node_name: str) -> None:
        self._client, self._clock = client, client.clock
        self._node = CsiNodeObject(client, node_name)
        self._registered: dict[str, CsiDriver] = {}
        self._objects: Informer[CSIDriverObject] = Informer(client.resource(CSIDriverObject))
        self.problems: tuple[str, ...] = ("CSINode is not yet initialized",)
        """Why the node is not ready for pods, as far as storage goes."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when `problems` has changed."""
        self._needed, self._changed = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._initialize(), name="csi-node")
            await self._needed.wait()
            changed = self._changed.set
            self._objects.add_handler(
                lambda new: changed(), lambda old, new: changed(), lambda old: changed()
            )
            tasks.create_task(self._objects.run(), name="csi-drivers")
            await self._keep_counts()

    async def _initialize(self) -> None:
        await self._node.initialize()
        self.problems = ()
        self.on_change()

    def driver(self, name: str) -> CsiDriver:
        """The driver that has registered by this name. Raises VolumeProblem."""
        found = self._registered.get(name)
        if found is None:
            raise VolumeProblem(
                f"driver name {name} not found in the list of registered CSI drivers"
            )
        return found

    async def object(self, name: str) -> CSIDriverObject | None:
        """The CSIDriver object; drivers need not have one."""
        self._needed.set()
        await self._objects.wait_synced()
        return self._objects.cache.get(name)

    # Registration

    def validate(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        self._check(name, versions)

    def _check(self, name: str, versions: Sequence[str]) -> tuple[int, ...]:
        if not versions:
            raise PluginRefused(
                f'kubernetes.io/csi: validation failed for CSI driver "{name}". Plugin returned an '
                "empty list for supported versions"
            )
        try:
            version = highest_version(versions)
        except ValueError as error:
            raise PluginRefused(
                f'kubernetes.io/csi: validation failed for CSI driver "{name}". None of the '
                f"versions specified {list(versions)} are supported. err={error}"
            ) from error
        known = self._registered.get(name)
        if known is not None and known.version >= version:
            raise PluginRefused(
                f'kubernetes.io/csi: validation failed for CSI driver "{name}". Another driver with'
                " the same name is already registered with a higher supported version: "
                f'"{".".join(map(str, known.version))}"'
            )
        return version

    async def register(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        from .csi_client import CsiDriver  # nodes without drivers do without the protocol

        driver = CsiDriver(name, endpoint, self._check(name, versions))
        self._needed.set()
        try:
            await self._node.install(name, await driver.info())
        except (RuntimeFailure, ApiError, NodeInfoProblem) as failure:
            await driver.close()
            raise PluginRefused(str(failure)) from failure
        self._registered[name] = driver
        self._changed.set()

    async def deregister(self, name: str, endpoint: str) -> None:
        driver = self._registered.get(name)
        if driver is None or driver.endpoint != endpoint:
            return
        # Not closed: calls under way end by themselves, and then the channel does.
        del self._registered[name]
        self._changed.set()
        try:
            await self._node.uninstall(name)
        except (ApiError, NodeInfoProblem) as failure:
            log.warning("CSI driver %s: %s", name, failure)

    async def refresh(self, name: str) -> None:
        """Asks a driver anew how many volumes it can attach here (KEP-4876)."""
        driver = self._registered.get(name)
        if driver is None:
            return
        try:
            await self._node.update(name, await driver.info())
        except (RuntimeFailure, ApiError) as failure:
            log.warning("CSI driver %s: %s", name, failure)

    def is_counted_again(self, name: str) -> bool:
        """Whether the number of volumes that the driver can attach here may change (KEP-4876)."""
        return bool(self._period(name))

    async def _keep_counts(self) -> None:
        """Asks each driver whose object wants it every so many seconds for its count."""
        asked: dict[str, float] = {}
        while True:
            self._changed.clear()
            now = self._clock.monotonic()
            periods = {name: self._period(name) for name in self._registered}
            asked = {name: asked.get(name, now) for name, period in periods.items() if period}
            due = [name for name, at in asked.items() if now >= at + periods[name]]
            for name in due:
                asked[name] = now
                await self.refresh(name)
            waits = [at + periods[name] - now for name, at in asked.items()]
            timer = self._clock.call_later(min(waits), self._changed.set) if waits else None
            await self._changed.wait()
            if timer is not None:
                timer.cancel()

    def _period(self, name: str) -> int:
        found = self._objects.cache.get(name)
        return (found.spec.nodeAllocatableUpdatePeriodSeconds or 0) if found is not None else 0
