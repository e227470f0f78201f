"""Lifecycle hooks: what a container wants done right after its start and right before its stop."""

from __future__ import annotations

import asyncio

from navarch.api.types.core_v1 import LifecycleHandler, Pod

from .cri.runtime import Runtime
from .cri.values import RuntimeFailure
from .podspec import ContainerSpec, full_name
from .probes.handlers import HOOK_AGENT, Handlers, Target, UnknownPort

HTTP_TIMEOUT = 30.0
EXEC_TIMEOUT = 24 * 3600.0
"""A hook has no timeout of its own: postStart may take for ever, preStop ends with the grace."""


class HookFailed(Exception):
    """The hook did not succeed; the text is for the log, the event says only that it failed."""


class Hooks:
    """Runs hooks."""

    def __init__(self, runtime: Runtime, handlers: Handlers) -> None:
        self._runtime, self._handlers = runtime, handlers

    async def run(
        self, pod: Pod, spec: ContainerSpec, hook: LifecycleHandler, target: Target
    ) -> None:
        """Runs one hook to its end; raises `HookFailed`. Cancel it to enforce a time limit."""
        where = f'for Container "{spec.name}" in Pod "{full_name(pod)}" failed'
        if hook.exec is not None:
            try:
                result = await self._runtime.exec_sync(
                    target.container_id, hook.exec.command, EXEC_TIMEOUT
                )
            except RuntimeFailure as failure:
                raise HookFailed(f"Exec lifecycle hook {where}: {failure.message}") from failure
            if result.exit_code != 0:
                output = (result.stdout + result.stderr)[:4096].decode(errors="replace")
                raise HookFailed(
                    f"Exec lifecycle hook ({hook.exec.command}) {where} - error: command exited "
                    f"with {result.exit_code}: , message: {output!r}"
                )
        elif hook.httpGet is not None:
            try:
                outcome = await self._handlers.http_get(
                    hook.httpGet, target, HTTP_TIMEOUT, HOOK_AGENT
                )
            except UnknownPort as problem:
                raise HookFailed(f"HTTP lifecycle hook {where} - error: {problem}") from problem
            if not outcome.success:
                raise HookFailed(f"HTTP lifecycle hook {where} - error: {outcome.message}")
        elif hook.sleep is not None:
            await asyncio.sleep(hook.sleep.seconds)
        else:
            raise HookFailed(f"Cannot run handler: invalid handler {where}")
