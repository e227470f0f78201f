"""Lifecycle hooks: what a container wants done right after its start and right before its stop."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from navarch.api.types.core_v1 import HTTPGetAction, LifecycleHandler, Pod
from navarch.client.clock import Clock

from .cri.runtime import Runtime
from .cri.values import RuntimeFailure
from .events import PodEvents
from .podspec import ContainerSpec, full_name
from .probes.handlers import (
    HOOK_AGENT,
    OUTPUT_LIMIT,
    PLAIN_ANSWER,
    Handlers,
    Target,
    UnknownPort,
    resolve_port,
)

NO_TIMEOUT = 24 * 3600.0
"""A hook has no timeout of its own: postStart may take for ever, preStop ends with the grace."""


class HookFailed(Exception):
    """The hook did not succeed; the text is for the log, the event says only that it failed."""


class Hooks:
    """Runs hooks."""

    def __init__(
        self, runtime: Runtime, handlers: Handlers, events: PodEvents, clock: Clock
    ) -> None:
        self._runtime, self._handlers, self._events = runtime, handlers, events
        self._clock = clock

    async def run(
        self, pod: Pod, spec: ContainerSpec, hook: LifecycleHandler, target: Target
    ) -> None:
        """Runs one hook to its end; raises `HookFailed`. Cancel it to enforce a time limit."""
        where = f'for Container "{spec.name}" in Pod "{full_name(pod)}" failed - error'
        if hook.exec is not None:
            words = " ".join(hook.exec.command)
            problem, output = await self._exec(target, hook.exec.command)
            if problem:
                text = f'{problem}, message: "{output}"'
                raise HookFailed(f"Exec lifecycle hook ([{words}]) {where}: {text}")
        elif hook.httpGet is not None:
            problem = await self._http_get(pod, hook.httpGet, target)
            if problem:
                raise HookFailed(f"HTTP lifecycle hook ({hook.httpGet.path}) {where}: {problem}")
        elif hook.sleep is not None:
            await self._clock.sleep(hook.sleep.seconds)
        else:
            # tcpSocket is a field that was never implemented (upstream: "deprecated").
            raise HookFailed("Cannot run handler: invalid handler")

    async def _exec(self, target: Target, command: Sequence[str]) -> tuple[str, str]:
        """What went wrong, and what the command said."""
        try:
            result = await self._runtime.exec_sync(target.container_id, command, NO_TIMEOUT)
        except RuntimeFailure as failure:
            return failure.message, ""
        output = (result.stdout + result.stderr)[:OUTPUT_LIMIT].decode(errors="replace")
        words = " ".join(command)
        code = result.exit_code
        return (f"command '{words}' exited with {code}: {output}" if code else ""), output

    async def _http_get(self, pod: Pod, action: HTTPGetAction, target: Target) -> str:
        """What went wrong: whoever answers has been told, whatever the answer is."""
        problem = await self._request(action, target)
        if PLAIN_ANSWER not in problem:
            return problem
        # The container speaks plain HTTP: it gets what it understands, but no secrets.
        headers = [each for each in action.httpHeaders if each.name.lower() != "authorization"]
        plain = msgspec.structs.replace(action, scheme="HTTP", httpHeaders=headers)
        if await self._request(plain, target):
            return problem
        host = f"{action.host or target.host}:{resolve_port(action.port, target.container)}"
        text = (
            f"request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
        )
        self._events.pod(pod, "Warning", "LifecycleHTTPFallback", text)
        return ""

    async def _request(self, action: HTTPGetAction, target: Target) -> str:
        try:
            outcome = await self._handlers.http_get(action, target, NO_TIMEOUT, HOOK_AGENT)
        except UnknownPort as problem:
            return str(problem)
        return "" if outcome.success or outcome.answered else outcome.message
