"""New pods, as this node's kubelet announces them before it starts their containers.

The kubelet has a pod's address first; the API has it later, with the pod's status. In between only
the announcement says whose the address is. It is kept in a file as well, because the agent may be
killed just then: when it is back, the pod runs, and the API still knows of no address.

    kubelet ── {"namespace": …, "name": …, "uid": …, "addresses": […], …}\\n ──> policy.sock
            <── ok\\n ── when the rules are in the kernel
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from navarch.api.types.core_v1 import Pod
from navarch.network.policy.model import MIRROR, Key, PodFacts, canonical, facts_of, identity

log = logging.getLogger("navarch.network.policy")
LONGEST = 1 << 20


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """That a pod has these addresses."""

    namespace: str
    name: str
    uid: str
    addresses: tuple[str, ...]
    labels: dict[str, str] = {}
    ports: tuple[tuple[str, str, int], ...] = ()
    """Protocol, name and number."""

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)


class Book:
    """What the API and the kubelet say of pods, brought together."""

    def __init__(self, node: str, directory: Path | None = None) -> None:
        self._node, self._directory = node, directory
        self._pods: dict[Key, Pod] = {}
        self._claims: dict[Key, Claim] = {}
        self._order: dict[Key, int] = {}
        for claim in self._read():
            self._take(claim)

    def _read(self) -> Iterable[Claim]:
        if self._directory is None:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in sorted(self._directory.glob("*.json"), key=os.path.getmtime):
            try:
                yield msgspec.json.decode(file.read_bytes(), type=Claim)
            except msgspec.MsgspecError:
                # Written when the machine went down: its pods went as well.
                file.unlink()

    def _take(self, claim: Claim) -> None:
        self._claims[claim.key] = claim
        self._order[claim.key] = max(self._order.values(), default=0) + 1

    def _file(self, claim: Claim) -> Path | None:
        return self._directory and self._directory / f"{claim.uid.replace('/', '-')}.json"

    def claim(self, claim: Claim) -> set[Key]:
        """Take an announcement; returns the pods of which something else is known now. Whoever was
        announced with its address before has gone, even if nobody has told."""
        taken = set(claim.addresses)
        others = {key for key, each in self._claims.items() if taken & set(each.addresses)}
        for key in {claim.key} | others:
            self._drop(key)
        self._take(claim)
        if (file := self._file(claim)) is not None:
            new = file.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(claim))
            new.rename(file)
        return {claim.key} | others

    def _drop(self, key: Key) -> None:
        claim = self._claims.pop(key, None)
        self._order.pop(key, None)
        if claim is not None and (file := self._file(claim)) is not None:
            file.unlink(missing_ok=True)

    def put(self, pod: Pod) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        self._pods[key] = pod
        claim = self._claims.get(key)
        if claim is None or not _is_same(claim, pod):
            return
        published = tuple(canonical(each.ip) for each in pod.status.podIPs)
        if published == claim.addresses or pod.status.phase in ("Succeeded", "Failed"):
            self._drop(key)

    def remove(self, pod: Pod) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        self._pods.pop(key, None)
        claim = self._claims.get(key)
        if claim is not None and _is_same(claim, pod):
            self._drop(key)

    def known(self) -> set[Key]:
        return self._pods.keys() | self._claims.keys()

    def facts(self, key: Key) -> PodFacts | None:
        """What is known of a pod: labels as the API has them, the address as the kubelet said."""
        pod, claim = self._pods.get(key), self._claims.get(key)
        if claim is None:
            return facts_of(pod, self._node) if pod is not None else None
        labels = claim.labels
        if pod is not None and _is_same(claim, pod):
            labels = pod.metadata.labels
        return PodFacts(
            key=key,
            who=identity(claim.namespace, labels),
            addresses=claim.addresses,
            is_local=True,
            ports=frozenset(claim.ports),
            since=(self._order[key], ""),
        )


def _is_same(claim: Claim, pod: Pod) -> bool:
    """A static pod's object in the API has an uid of its own."""
    return claim.uid == pod.metadata.uid or MIRROR in pod.metadata.annotations


async def serve(path: Path, admit: Callable[[Claim], Awaitable[None]]) -> None:
    """Take announcements at a socket until cancelled."""
    waiting: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            claim = msgspec.json.decode(await reader.readline(), type=Claim)
            addresses = tuple(filter(None, map(canonical, claim.addresses)))
            await admit(msgspec.structs.replace(claim, addresses=addresses))
            writer.write(b"ok\n")
            await writer.drain()
        except (msgspec.MsgspecError, ValueError, OSError) as error:
            log.warning("an announcement of a pod failed: %s", error)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(answer(reader, writer), name="announced pod")
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    server = await asyncio.start_unix_server(accept, sock=_socket(path), limit=LONGEST)
    try:
        await asyncio.Event().wait()
    finally:
        # An announcement may wait for rules that the kernel does not take: nobody waits for it.
        server.close()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _socket(path: Path) -> socket.socket:
    """Bound at the path and for its owner alone: its mode is set before it listens. (The process'
    umask would be that of the kubelet's files, too, which are made in other threads.)"""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        bound.close()
        raise
    return bound
