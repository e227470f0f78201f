"""Which images this agent has pulled, and with whose credentials. Files, so that it outlives it.

An image on a node is there for every pod, also for one that could not have pulled it. So the agent
keeps, for each image that it has pulled, which Secrets or service accounts opened the registry
(KEP-2535). Place and form of the files are upstream's (`image_manager/{pulling,pulled}/sha256-<sum
of the name>`, objects of kubelet.config.k8s.io), so a node can change its agent.

An intent is written before a pull and deleted after it: if the agent is killed in between, the
image counts as pulled, by somebody unknown. A file that cannot be read is told of in the log and
counts the same way, until the next pull writes it anew. No password is in these files, only a hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from navarch.api.times import format_micro_time

from ..cri.values import ImageRecord
from .credentials import Source
from .names import InvalidImageName, without_tag

log = logging.getLogger(__name__)

_API_VERSION = "kubelet.config.k8s.io/v1beta1"
_PREFIX = "sha256-"


class SecretUse(msgspec.Struct, frozen=True, order=True):
    """A Secret that opened the registry, and a hash of what it said then."""

    namespace: str
    name: str
    uid: str
    credentialHash: str = ""


class AccountUse(msgspec.Struct, frozen=True, order=True):
    """A service account whose token opened the registry."""

    namespace: str
    name: str
    uid: str


class PullCredentials(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who may use the image under one name."""

    kubernetesSecrets: tuple[SecretUse, ...] = ()
    kubernetesServiceAccounts: tuple[AccountUse, ...] = ()
    nodePodsAccessible: bool = False
    """It was pulled with nothing, or with the node's own credentials."""

    @property
    def is_empty(self) -> bool:
        return self == PullCredentials()

    def merged(self, new: PullCredentials) -> PullCredentials:
        if self.nodePodsAccessible or new.nodePodsAccessible:
            return PullCredentials(nodePodsAccessible=True)
        secrets = {(use.namespace, use.name, use.uid): use for use in self.kubernetesSecrets}
        secrets |= {(use.namespace, use.name, use.uid): use for use in new.kubernetesSecrets}
        accounts = {*self.kubernetesServiceAccounts, *new.kubernetesServiceAccounts}
        return PullCredentials(tuple(sorted(secrets.values())), tuple(sorted(accounts)))


class PulledRecord(msgspec.Struct, frozen=True):
    """One image: by name without tag, who may use it."""

    imageRef: str
    lastUpdatedTime: str = ""
    credentialMapping: dict[str, PullCredentials] = {}
    apiVersion: str = _API_VERSION
    kind: str = "ImagePulledRecord"


class PullIntent(msgspec.Struct, frozen=True):
    """A pull that is under way, or was when the agent ended."""

    image: str
    apiVersion: str = _API_VERSION
    kind: str = "ImagePullIntent"


S = TypeVar("S", PulledRecord, PullIntent)


def used(source: Source | None, credential_hash: str) -> PullCredentials:
    """What a pull with these credentials proves."""
    if source is None:
        return PullCredentials(nodePodsAccessible=True)
    if source.kind == "Secret":
        use = SecretUse(source.namespace, source.name, source.uid, credential_hash)
        return PullCredentials(kubernetesSecrets=(use,))
    account = AccountUse(source.namespace, source.name, source.uid)
    return PullCredentials(kubernetesServiceAccounts=(account,))


class PullRecords:
    """The records of one node. What is read is kept in memory; writes go to disk at once."""

    def __init__(self, root: Path) -> None:
        self._pulling = root / "image_manager" / "pulling"
        self._pulled = root / "image_manager" / "pulled"
        self._records: dict[str, PulledRecord] = {}
        self._garbled: set[str] = set()
        """File names of records that cannot be read."""
        self._intents: dict[str, int] = {}
        """Names being pulled, and by how many at once."""
        self._lock = asyncio.Lock()
        """Files are written one after the other: several pods may pull one image."""

    async def load(self, present: Iterable[ImageRecord]) -> None:
        """Reads the records; images that were being pulled when the agent ended and are there now
        become pulled ones, which nobody is known to have opened."""
        await asyncio.to_thread(self._load, list(present))

    def _load(self, present: list[ImageRecord]) -> None:
        for directory in (self._pulling, self._pulled):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records = {
            record.imageRef: record for record in self._read(self._pulled, PulledRecord)
        }
        names = {intent.image for intent in self._read(self._pulling, PullIntent)}
        for image in present:
            for name in names & {*image.tags, *image.digests, *map(_short, image.tags)}:
                if image.id not in self._records:
                    self._write(self._pulled, image.id, PulledRecord(image.id))
                    self._records[image.id] = PulledRecord(image.id)
                _remove(self._pulling, name)
                names = names - {name}
        self._intents = dict.fromkeys(names, 0)

    def _read(self, directory: Path, kind: type[S]) -> Iterator[S]:
        for path in sorted(directory.iterdir()):
            if path.suffix == ".tmp":
                path.unlink(missing_ok=True)  # a write that was cut short
            if not path.name.startswith(_PREFIX) or path.suffix == ".tmp":
                continue
            try:
                found = msgspec.json.decode(path.read_bytes(), type=kind)
                key = found.imageRef if isinstance(found, PulledRecord) else found.image
                if _file_name(key) != path.name:
                    raise ValueError("it belongs to another image")
            except (msgspec.MsgspecError, ValueError, OSError) as error:
                log.error("record %s is garbled and will be made anew: %s", path, error)
                self._garbled.add(path.name)
                continue
            yield found

    def find(self, image_id: str) -> PulledRecord | None:
        """What is known of an image; a garbled record is one in which nobody is named."""
        if image_id not in self._records and _file_name(image_id) in self._garbled:
            return PulledRecord(image_id)
        return self._records.get(image_id)

    def is_known(self, image: ImageRecord, name: str = "") -> bool:
        """Whether this agent has pulled the image, or tried to by that name."""
        return self.find(image.id) is not None or name in self._intents

    async def begin(self, name: str) -> None:
        """A pull of that name begins; raises `OSError`."""
        self._intents[name] = self._intents.get(name, 0) + 1
        try:
            await self._do(self._write, self._pulling, name, PullIntent(name))
        except BaseException:
            await self._end(name)  # there will be no pull
            raise

    async def failed(self, name: str) -> None:
        await self._end(name)

    async def pulled(
        self, name: str, image_id: str, credentials: PullCredentials, now: datetime
    ) -> None:
        """The pull has ended well. If that cannot be written, the intent stays and tells it."""
        await self.add(name, image_id, credentials, now)
        await self._end(name)

    async def add(
        self, name: str, image_id: str, credentials: PullCredentials, now: datetime
    ) -> None:
        """These credentials open the image under that name, too."""
        known = self.find(image_id) or PulledRecord(image_id)
        key = without_tag(name)
        before = known.credentialMapping.get(key, PullCredentials())
        after = before.merged(credentials)
        if before == after and image_id in self._records:
            return
        mapping = {**known.credentialMapping, **({} if after.is_empty else {key: after})}
        record = PulledRecord(image_id, format_micro_time(now), mapping)
        self._records[image_id] = record
        self._garbled.discard(_file_name(image_id))
        await self._do(self._write, self._pulled, image_id, record)

    async def _end(self, name: str) -> None:
        self._intents[name] = self._intents.get(name, 1) - 1
        if self._intents[name] <= 0:
            del self._intents[name]
            await self._do(_remove, self._pulling, name)

    async def prune(self, present: Collection[str], before: datetime) -> None:
        """Forgets images that are gone, unless they were pulled after `before`."""
        limit = format_micro_time(before)
        gone = [
            key
            for key, record in self._records.items()
            if key not in present and record.lastUpdatedTime < limit
        ]
        for key in gone:
            del self._records[key]
            await self._do(_remove, self._pulled, key)

    async def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        async with self._lock:
            await asyncio.to_thread(action, *arguments)

    def _write(self, directory: Path, key: str, value: Any) -> None:
        path = directory / _file_name(key)
        partial = path.with_name(path.name + ".tmp")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(value))
        os.replace(partial, path)


def _file_name(key: str) -> str:
    return _PREFIX + hashlib.sha256(key.encode()).hexdigest()


def _remove(directory: Path, key: str) -> None:
    (directory / _file_name(key)).unlink(missing_ok=True)


def _short(tag: str) -> str:
    """How a pod may have named what the runtime calls `docker.io/library/web:1`."""
    try:
        without_tag(tag)
    except InvalidImageName:
        return tag
    return tag.removeprefix("docker.io/").removeprefix("library/")
