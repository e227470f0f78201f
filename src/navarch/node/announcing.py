"""Telling the node's enforcement of NetworkPolicies of a new pod, before its containers start.

Policies hold from a pod's first packet on: "every pod that a policy selects is isolated before any
of its containers starts" (KEP-2079 and the NetworkPolicy API's own words). Enforcement is another
component and may be another process. It learns a pod's address here, at a socket of the node, and
answers when the pod's rules are in force. While it is away, pods do not start.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from navarch.api.types.core_v1 import Pod
from navarch.client.clock import Clock

from .cri.values import SandboxRecord

SECONDS = 10.0
RETRY_SECONDS = 0.05


class NotAnnounced(Exception):
    """Nobody has said that the pod's rules are in force."""


class Announcer:
    """One pod's. Without a socket nobody enforces policies here, and nobody is waited for."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._told = ""
        """The sandbox whose address is known."""

    async def announce(self, pod: Pod, sandbox: SandboxRecord, seconds: float = SECONDS) -> None:
        """Returns when the sandbox's address may be used. Raises NotAnnounced."""
        if self._path is None or pod.spec.hostNetwork or self._told == sandbox.id:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._ask(self._path, _words(pod, sandbox))
        except (TimeoutError, OSError) as error:
            text = "the node's network policies are not in force yet"
            raise NotAnnounced(text) from error
        self._told = sandbox.id

    async def _ask(self, path: Path, words: bytes) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(path)
            except (FileNotFoundError, ConnectionRefusedError):
                # It begins as we do, and may need a moment longer.
                await self._clock.sleep(RETRY_SECONDS)
                continue
            try:
                writer.write(words)
                if await reader.readline() == b"ok\n":
                    return
            except ConnectionError:
                pass
            finally:
                writer.close()
            await self._clock.sleep(RETRY_SECONDS)


def _words(pod: Pod, sandbox: SandboxRecord) -> bytes:
    lasting = [each for each in pod.spec.initContainers if each.restartPolicy == "Always"]
    ports = [
        ((port.protocol or "TCP").lower(), port.name, port.containerPort)
        for container in (*pod.spec.containers, *lasting)
        for port in container.ports
        if port.name
    ]
    claim = {
        "namespace": pod.metadata.namespace,
        "name": pod.metadata.name,
        "uid": pod.metadata.uid,
        "addresses": sandbox.ips,
        "labels": pod.metadata.labels,
        "ports": ports,
    }
    return json.dumps(claim).encode() + b"\n"
