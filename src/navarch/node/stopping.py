"""Stops containers: the preStop hook and the stop signal within the grace period, then SIGKILL."""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from navarch.api.types.core_v1 import Pod
from navarch.client.clock import timeout

from .hooks import HookFailed
from .plan import StopContainer
from .podspec import MINIMUM_GRACE_SECONDS, ContainerSpec
from .probes.handlers import Target
from .starting import NodeServices

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StopOrder:
    """How a container is to be stopped."""

    deadline: float
    """When (monotonic) the grace period is over."""
    with_hook: bool = True
    """False if the hook has been begun before, by a stop with a longer grace period."""
    host: str = ""
    """The pod's address, for hooks over HTTP."""
    turn: Callable[[], Awaitable[None]] | None = None
    """Returns when the containers that must end before this one have ended."""


def signal_number(name: str) -> int:
    """The number of a signal such as `SIGUSR1` or `SIGRTMIN+3`; 0 for none."""
    base, plus, offset = name.partition("+")
    if not plus:
        base, minus, offset = name.partition("-")
        offset = f"-{offset}" if minus else "0"
    known = {each.name: each.value for each in signal.Signals}
    return known[base] + int(offset) if base in known else 0


class Stopper:
    """Stops containers."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services

    async def stop(
        self, pod: Pod, spec: ContainerSpec | None, action: StopContainer, order: StopOrder
    ) -> None:
        """Returns when the container is over. `spec` is None if the pod no longer names it."""
        clock = self._services.clock
        if spec is not None and order.with_hook:
            self._services.events.container(pod, spec, "Normal", "Killing", action.message)
            if order.deadline > clock.monotonic():
                await self._pre_stop(pod, spec, action, order)
        remaining = order.deadline - clock.monotonic()
        if order.turn is not None and remaining > 0:
            try:
                async with timeout(clock, remaining):
                    await order.turn()
            except TimeoutError:
                log.info("%s is stopped without having had its turn", action.name)
        # Whatever the hook has used up: a process gets a moment to notice the signal.
        remaining = order.deadline - clock.monotonic()
        lifecycle = spec.container.lifecycle if spec is not None else None
        name = lifecycle.stopSignal if lifecycle is not None else None
        await self._services.runtime.stop_container(
            action.id, max(remaining, MINIMUM_GRACE_SECONDS), signal_number(name or "")
        )

    async def _pre_stop(
        self, pod: Pod, spec: ContainerSpec, action: StopContainer, order: StopOrder
    ) -> None:
        lifecycle = spec.container.lifecycle
        if lifecycle is None or lifecycle.preStop is None:
            return
        target, clock = Target(spec.container, action.id, order.host), self._services.clock
        try:
            async with timeout(clock, order.deadline - clock.monotonic()):
                await self._services.hooks.run(pod, spec, lifecycle.preStop, target)
        except TimeoutError:
            log.info("preStop hook of %s outlasts the grace period", spec.name)
        except HookFailed as failure:
            log.warning("%s", failure)
            self._services.events.container(
                pod, spec, "Warning", "FailedPreStopHook", "PreStopHook failed"
            )
