"""Static pods: run from manifests in a directory of the node (or from a URL) without the API.

The API has a mirror of each for people to look at: deleting it deletes nothing but itself, and it
is made again. A changed manifest is another pod of the same name, which begins when the one before
it has ended (`pkg/kubelet/config`, `pkg/kubelet/pod_workers.go`).
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from navarch.api.errors import ApiError, ignoring, outdated
from navarch.api.types.core_v1 import Pod
from navarch.client.clock import Clock
from navarch.client.informer import Informer

from .agent import NodeAgent
from .inotify import Mask, Watcher
from .manifests import FILE, URL, ManifestProblem, is_mirror_of, mirror_of, seen_at, static_pods
from .podapi import PodApi
from .podspec import is_mirror, pod_key
from .settings import NodeOptions

log = logging.getLogger(__name__)

MAXIMUM_BYTES = 10 << 20
MIRROR_RETRY_SECONDS = 2.0
URL_TIMEOUT_SECONDS = 10.0
_CHANGES = Mask.CLOSE_WRITE | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.DELETE


class ManifestFiles:
    """The manifests of a directory (or the one file)."""

    def __init__(self, path: Path, node_name: str) -> None:
        self.path, self._node_name = path, node_name
        self._known: dict[str, Pod] = {}
        self._told: dict[str, str] = {}

    def read(self, *, keep_broken: bool) -> list[Pod]:
        """The pods there are. A file that has just become unreadable may be half written: with
        `keep_broken` its pod stays until the next look."""
        found: dict[str, Pod] = {}
        for file in self._files():
            name = str(file)
            try:
                with open(file, "rb") as stream:
                    text = stream.read(MAXIMUM_BYTES)
                found[name] = static_pods(text, FILE, name, self._node_name)[0]
                self._told.pop(name, None)
            except FileNotFoundError:
                continue
            except (OSError, ManifestProblem) as problem:
                if self._told.get(name) != str(problem):
                    log.error("could not process manifest file %s: %s", name, problem)
                self._told[name] = str(problem)
                if keep_broken and name in self._known:
                    found[name] = self._known[name]
        self._known = found
        return list(found.values())

    def _files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        try:
            entries = sorted(self.path.iterdir())
        except FileNotFoundError:
            return []
        return [each for each in entries if not each.name.startswith(".") and each.is_file()]


class StaticPods:
    """Keeps the static pods running and their mirrors true."""

    def __init__(
        self, options: NodeOptions, agent: NodeAgent, api: PodApi, pods: Informer[Pod], clock: Clock
    ) -> None:
        self._options, self._agent, self._api, self._pods = options, agent, api, pods
        self._clock = clock
        path = options.manifest_directory
        self._files = ManifestFiles(path, options.node_name) if path is not None else None
        self._wanted: dict[str, dict[str, Pod]] = {FILE: {}, URL: {}}
        self._running: dict[str, Pod] = {}
        self._wake = asyncio.Event()
        agent.on_ended = self._wake.set
        pods.add_handler(
            on_add=self._mirror_changed,
            on_update=lambda old, new: self._mirror_changed(new),
            on_delete=self._mirror_changed,
        )

    def _mirror_changed(self, pod: Pod) -> None:
        if is_mirror(pod):
            self._wake.set()

    async def load(self) -> None:
        """Reads the files for the first time and begins their pods."""
        if self._files is not None:
            self._want(FILE, await asyncio.to_thread(self._files.read, keep_broken=False))
        self._apply()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._files is not None:
                tasks.create_task(self._follow_files(self._files), name="manifest-files")
            if self._options.static_pod_url:
                tasks.create_task(self._follow_url(), name="manifest-url")
            while True:
                self._wake.clear()
                self._apply()
                done = False
                try:
                    done = await self._mirror()
                except ApiError as error:
                    log.warning("mirror pods: %s", error)
                again = None
                if not done:
                    again = self._clock.call_later(MIRROR_RETRY_SECONDS, self._wake.set)
                await self._wake.wait()
                if again is not None:
                    again.cancel()

    # What is wanted

    async def _follow_files(self, files: ManifestFiles) -> None:
        path, period = files.path, self._options.file_check_frequency
        with Watcher() as watcher:
            watched = -1
            while True:
                if watched < 0:
                    try:
                        watched = watcher.add(str(path), _CHANGES)
                    except OSError as error:
                        log.debug("watching %s: %s", path, error)
                changes = await watcher.wait(period)
                if not path.exists():
                    watched = -1
                pods = await asyncio.to_thread(files.read, keep_broken=bool(changes))
                self._want(FILE, pods)

    async def _follow_url(self) -> None:
        last = b""
        failures = 0
        while True:
            try:
                data = await self._get_url()
                if data != last:
                    url = self._options.static_pod_url
                    self._want(URL, static_pods(data, URL, url, self._options.node_name))
                    last = data
                failures = 0
            except (OSError, TimeoutError, ManifestProblem) as problem:
                failures += 1
                if failures <= 3:
                    log.warning("failed to read pods from URL: %s", problem)
            await self._clock.sleep(self._options.http_check_frequency)

    async def _get_url(self) -> bytes:
        import aiohttp

        options = self._options
        given = options.static_pod_url_header.items()
        headers = [(name, value) for name, values in given for value in values]
        limit = aiohttp.ClientTimeout(total=URL_TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.get(options.static_pod_url, headers=headers) as response,
            ):
                data = bytearray()
                while chunk := await response.content.read(MAXIMUM_BYTES - len(data)):
                    data += chunk
                if response.status != 200:
                    raise OSError(f"{options.static_pod_url}: {response.status} {response.reason}")
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
        if len(data) >= MAXIMUM_BYTES:
            raise OSError(f"{options.static_pod_url}: the read limit is reached")
        if not data:
            self._want(URL, [])
            raise OSError(f"zero-length data received from {options.static_pod_url}")
        return bytes(data)

    def _want(self, source: str, pods: list[Pod]) -> None:
        before = self._wanted[source]
        self._wanted[source] = {
            each.metadata.uid: before.get(each.metadata.uid) or seen_at(each, self._clock.now())
            for each in pods
        }
        if self._wanted[source].keys() != before.keys():
            self._wake.set()

    # What is

    def _apply(self) -> None:
        """Ends what is no longer wanted, and begins what is and whose name is free."""
        wanted = {uid: pod for pods in self._wanted.values() for uid, pod in pods.items()}
        for uid in self._running.keys() - wanted.keys():
            self._agent.pod_gone(self._running.pop(uid))
        for uid in wanted.keys() - self._running.keys():
            meta = wanted[uid].metadata
            if self._agent.find(meta.namespace, meta.name) is None:
                self._running[uid] = wanted[uid]
                self._agent.pod_present(wanted[uid])

    async def _mirror(self) -> bool:
        """Makes the mirrors match: one for each static pod, none for others. False if the node is
        not registered yet, which they refer to."""
        node = self._agent.node
        mirrors = {pod_key(pod): pod for pod in self._pods.cache.list() if is_mirror(pod)}
        by_name = {pod_key(pod): pod for pod in self._running.values()}
        for key, mirror in list(mirrors.items()):
            if not is_mirror_of(mirror, by_name.get(key)):
                meta = mirror.metadata
                await self._delete(meta.namespace, meta.name, meta.uid)
                del mirrors[key]
        if node is None:
            return not by_name
        for key, static in by_name.items():
            current = mirrors.get(key)
            if current is None:
                try:
                    current = await self._api.create(mirror_of(static, node.metadata.uid))
                except ApiError as error:
                    if not error.is_already_exists:
                        raise
                    continue
            worker = self._agent.find(static.metadata.namespace, static.metadata.name)
            if worker is not None:
                worker.writer.seen(current)
                worker.wake(runtime_changed=False)
        return True

    async def _delete(self, namespace: str, name: str, uid: str) -> None:
        with ignoring(outdated):
            await self._api.delete(namespace, name, uid, 0)
