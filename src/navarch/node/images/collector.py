"""Removes images nobody uses: when the disk fills, when they are old, when an eviction needs room.

Only images that this agent has pulled are ever removed (`records` knows them), for they can be
pulled again, and those whose every name belongs to a newer image by now. Upstream takes every image
that no container uses; on a machine whose images were loaded from files, that would be work lost
which nobody can bring back. Images the runtime calls pinned, images of containers that still exist
(ended ones as well) and of mounted image volumes stay, and one that came a moment ago is about to
be used.

Thresholds, order and messages are upstream's (`pkg/kubelet/images/image_gc_manager.go`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from navarch.client.batches import together
from navarch.client.clock import Clock

from ..cri.runtime import Images, Runtime
from ..cri.values import ImageRecord, PodState, RuntimeFailure
from ..events import PodEvents
from ..settings import NodeOptions
from . import figures
from .records import PullRecords

log = logging.getLogger(__name__)

PERIOD_SECONDS = 300.0
NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class CollectionPolicy:
    """When images go (KubeletConfiguration's defaults); percentages are of the disk used."""

    high_percent: int = 85
    low_percent: int = 80
    minimum_age: float = 120.0
    maximum_age: float = 0.0
    """0 is for ever."""

    @classmethod
    def of(cls, options: NodeOptions) -> CollectionPolicy:
        return cls(
            options.image_gc_high_threshold_percent,
            options.image_gc_low_threshold_percent,
            options.image_minimum_gc_age,
            options.image_maximum_gc_age,
        )

    @property
    def is_off(self) -> bool:
        return self.high_percent == 100 and not self.maximum_age


@dataclass(slots=True)
class _Seen:
    """What is remembered of an image from one look to the next."""

    first: datetime
    used: datetime = NEVER


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that could go."""

    id: str
    size: int
    first_seen: datetime
    last_used: datetime


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system the images are on."""

    capacity: int
    available: int

    @property
    def percent_used(self) -> int:
        return 100 - int(min(self.available, self.capacity) * 100 / self.capacity)


class CollectionFailed(Exception):
    """Images did not go, or too few of them."""


def used_images(images: Iterable[ImageRecord], states: Iterable[PodState]) -> set[str]:
    """The ids of the images of all containers there are, running or not."""
    names = {name for state in states for each in state.containers for name in (each.image_ref,
             each.image) if name}  # fmt: skip
    return {image.id for image in images if names & {image.id, *image.digests, *image.tags}}


def is_dangling(image: ImageRecord) -> bool:
    """Whether nobody can ask for the image by a name any more: another one was loaded under it."""
    return not image.tags and not image.digests


def in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """What was not used for longest goes first."""
    return sorted(candidates, key=lambda each: (each.last_used, each.first_seen, each.id))


def wanted_bytes(disk: Disk, policy: CollectionPolicy) -> int:
    """How much must go: over the high mark, down to the low one."""
    if disk.percent_used < policy.high_percent:
        return 0
    return disk.capacity * (100 - policy.low_percent) // 100 - disk.available


class ImageCollector:
    """The images of one node. `free` is for whoever needs room on the disk now."""

    def __init__(
        self,
        runtime: Runtime,
        images: Images,
        records: PullRecords,
        events: PodEvents,
        clock: Clock,
        policy: CollectionPolicy = CollectionPolicy(),
    ) -> None:
        self._runtime, self._images, self._records = runtime, images, records
        self._events, self._clock, self._policy = events, clock, policy
        self.in_volumes: Callable[[], set[str]] = set
        """The images that are mounted as volumes."""
        self._seen: dict[str, _Seen] = {}
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Runs until cancelled."""
        began = self._clock.now()
        failed_before = False
        while not self._policy.is_off:
            try:
                await self.collect(began)
                failed_before = False
            except (CollectionFailed, RuntimeFailure, OSError) as failure:
                log.warning("image garbage collection: %s", failure)
                if failed_before:
                    self._events.node("Warning", "ImageGCFailed", str(failure))
                failed_before = True
            await self._clock.sleep(PERIOD_SECONDS)

    async def collect(self, began: datetime) -> None:
        """One round: old images, then as many as the disk wants. `began` is when the agent did:
        it knows nothing of use before that."""
        async with self._lock:
            now = self._clock.now()
            candidates = await self._candidates(now)
            maximum = timedelta(seconds=self._policy.maximum_age)
            if maximum and now - began > maximum:
                old = [each for each in candidates if now - _since(each) > maximum]
                await self._remove(old, "age", now)
                candidates = [each for each in candidates if each not in old]
            disk = await self._disk()
            if disk.capacity == 0:
                text = "invalid capacity 0 on image filesystem"
                self._events.node("Warning", "InvalidDiskCapacity", text)
                raise CollectionFailed(text)
            wanted = wanted_bytes(disk, self._policy)
            if wanted <= 0:
                return
            freed = await self._free(candidates, wanted, now)
            if freed < wanted:
                text = (
                    "Insufficient free disk space on the node's image filesystem "
                    f"({disk.percent_used}% of {format_size(disk.capacity)} used). Failed to free "
                    f"sufficient space by deleting unused images (freed {freed} bytes). Investigate"
                    " disk usage, as it could be used by active images, logs, volumes, or other "
                    "data."
                )
                self._events.node("Warning", "FreeDiskSpaceFailed", text)
                raise CollectionFailed(text)

    async def free(self, wanted: int | None = None) -> int:
        """Removes unused images until so many bytes are free, by default all of them; returns how
        many bytes they took. Raises `CollectionFailed` or `RuntimeFailure`."""
        async with self._lock:
            now = self._clock.now()
            return await self._free(await self._candidates(now), wanted, now)

    async def _candidates(self, now: datetime) -> list[Candidate]:
        images, states = await together(self._images.images(), self._runtime.pods())
        used = used_images(images, states) | self.in_volumes()
        self._seen = {image.id: self._seen.get(image.id) or _Seen(first=now) for image in images}
        for image_id in used & self._seen.keys():
            self._seen[image_id].used = now
        return in_order(
            Candidate(image.id, image.size, seen.first, seen.used)
            for image in images
            if (seen := self._seen[image.id])
            and image.id not in used
            and not image.pinned
            and (self._records.find(image.id) is not None or is_dangling(image))
        )

    async def _free(
        self, candidates: Sequence[Candidate], wanted: int | None, now: datetime
    ) -> int:
        young = timedelta(seconds=self._policy.minimum_age)
        chosen: list[Candidate] = []
        freed = 0
        for each in candidates:
            if wanted is not None and freed >= wanted:
                break
            if each.last_used < now and now - each.first_seen >= young:
                chosen.append(each)
                freed += each.size
        try:
            await self._remove(chosen, "space", now)
        except CollectionFailed as failure:
            amount = "all" if wanted is None else f"{wanted} bytes"
            raise CollectionFailed(f"wanted to free {amount}: {failure}") from failure
        return freed

    async def _remove(self, chosen: Sequence[Candidate], reason: str, now: datetime) -> None:
        """Removes what can be removed of the images there were at `now`; what fails is told in
        the end."""
        problems = []
        for each in chosen:
            log.info("removing image %s (%s)", each.id, format_size(each.size))
            try:
                await self._images.remove_image(each.id)
            except RuntimeFailure as failure:
                problems.append(failure.message)
                continue
            self._seen.pop(each.id, None)
            figures.collected.labels(reason).inc()
        await self._records.prune(self._seen.keys(), now)
        if problems:
            raise CollectionFailed(f"errors in image deletion: {'; '.join(problems)}")

    async def directory(self) -> str:
        """Where the runtime keeps its images; empty if it does not say."""
        return (await self._images.image_filesystem())[0]

    async def _disk(self) -> Disk:
        mount_point = await self.directory()
        if not mount_point:
            return Disk(0, 0)
        state = await asyncio.to_thread(os.statvfs, mount_point)
        return Disk(state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize)


def _since(candidate: Candidate) -> datetime:
    """Since when nobody uses the image, as far as is known."""
    return max(candidate.last_used, candidate.first_seen)


def format_size(size: int) -> str:
    """A size as messages give it."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
