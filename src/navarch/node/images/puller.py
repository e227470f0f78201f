"""Makes sure that a container's image is there, by its pull policy, with back-off.

Reasons and messages are upstream's (`pkg/kubelet/images/image_manager.go`): they are what people
look for when a pod does not start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from navarch.api.types.core_v1 import Pod, Secret
from navarch.client.clock import Clock

from ..backoff import BackoffTable
from ..cri.runtime import Images
from ..cri.values import Credentials, ImageRecord, RuntimeFailure
from ..events import PodEvents
from ..podspec import ContainerSpec
from .credentials import credentials_for
from .names import InvalidImageName, parse_image_name, with_default_tag

PARALLEL_PULLS = 5
BACKOFF_NOTICE_SECONDS = 2.0
"""How long a failed pull is shown as ErrImagePull before the wait for the next one is."""


class ImageProblem(Exception):
    """The image is not there: the container waits with `reason`. `retry_in` says how long."""

    def __init__(self, reason: str, message: str, retry_in: float) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message, self.retry_in = reason, message, retry_in


@dataclass(frozen=True, slots=True)
class FoundImage:
    """The image as the runtime has it, and the reference the pod used, completed."""

    record: ImageRecord
    reference: str


class ImagePuller:
    """Pulls images for all pods of this node, a few at a time."""

    def __init__(self, images: Images, events: PodEvents, clock: Clock) -> None:
        self._images, self._events, self._clock = images, events, clock
        self._backoff = BackoffTable()
        self._failures: dict[str, tuple[float, str]] = {}
        self._slots = asyncio.Semaphore(PARALLEL_PULLS)

    async def ensure(self, pod: Pod, spec: ContainerSpec, secrets: Sequence[Secret]) -> FoundImage:
        """The image for the container, pulled if need be; raises `ImageProblem`."""
        image = spec.container.image
        try:
            reference = with_default_tag(image)
        except InvalidImageName as problem:
            text = f'Failed to apply default image tag "{image}": {problem}'
            self._events.container(pod, spec, "Warning", "InspectFailed", text)
            raise ImageProblem("InvalidImageName", text, 60.0) from problem
        policy = spec.container.imagePullPolicy or "IfNotPresent"
        if policy != "Always":
            record = await self._find(pod, spec, reference)
            if record is not None:
                text = (
                    f'Container image "{image}" already present on machine and can be accessed'
                    " by the pod"
                )
                self._events.container(pod, spec, "Normal", "Pulled", text)
                return FoundImage(record, reference)
            if policy == "Never":
                text = f'Container image "{image}" is not present with pull policy of Never'
                self._events.container(pod, spec, "Warning", "ErrImageNeverPull", text)
                raise ImageProblem("ErrImageNeverPull", text, 10.0)
        return await self._pull(pod, spec, reference, secrets)

    def forget(self, pod_uid: str) -> None:
        prefix = f"{pod_uid}_"
        self._backoff.forget(prefix)
        for key in [key for key in self._failures if key.startswith(prefix)]:
            del self._failures[key]

    async def _find(self, pod: Pod, spec: ContainerSpec, reference: str) -> ImageRecord | None:
        try:
            return await self._images.image(reference)
        except RuntimeFailure as failure:
            text = f'Failed to inspect image "": {failure.message}'
            self._events.container(pod, spec, "Warning", "InspectFailed", text)
            raise ImageProblem("ImageInspectError", text, 10.0) from failure

    async def _pull(
        self, pod: Pod, spec: ContainerSpec, reference: str, secrets: Sequence[Secret]
    ) -> FoundImage:
        image = spec.container.image
        key = f"{pod.metadata.uid}_{image}"
        self._raise_if_waiting(pod, spec, key)
        self._events.container(pod, spec, "Normal", "Pulling", f'Pulling image "{image}"')
        queued = self._clock.monotonic()
        try:
            async with self._slots:
                begun = self._clock.monotonic()
                await self._pull_with(reference, secrets)
            record = await self._images.image(reference)
        except RuntimeFailure as failure:
            text = f'failed to pull and unpack image "{reference}": {failure.message}'
            text = failure.message or text
            self._events.container(
                pod, spec, "Warning", "Failed", f'Failed to pull image "{image}": {text}'
            )
            self._events.container(pod, spec, "Warning", "Failed", "Error: ErrImagePull")
            now = self._clock.now().timestamp()
            self._backoff.advance(key, now, now)
            self._failures[key] = (now, text)
            raise ImageProblem("ErrImagePull", text, BACKOFF_NOTICE_SECONDS) from failure
        if record is None:
            raise ImageProblem("ErrImagePull", f'image "{image}" is gone again', 10.0)
        ended = self._clock.monotonic()
        self._failures.pop(key, None)
        text = (
            f'Successfully pulled image "{image}" in {_milliseconds(ended - begun)} '
            f"({_milliseconds(ended - queued)} including waiting). "
            f"Image size: {record.size} bytes."
        )
        self._events.container(pod, spec, "Normal", "Pulled", text)
        return FoundImage(record, reference)

    def _raise_if_waiting(self, pod: Pod, spec: ContainerSpec, key: str) -> None:
        failure = self._failures.get(key)
        if failure is None:
            return
        failed_at, text = failure
        remaining = self._backoff.remaining(key, failed_at, self._clock.now().timestamp())
        if remaining > 0:
            message = f'Back-off pulling image "{spec.container.image}"'
            self._events.container(pod, spec, "Normal", "BackOff", message)
            self._events.container(pod, spec, "Warning", "Failed", "Error: ImagePullBackOff")
            raise ImageProblem("ImagePullBackOff", f"{message}: ErrImagePull: {text}", remaining)

    async def _pull_with(self, reference: str, secrets: Sequence[Secret]) -> None:
        """Tries each matching set of credentials; the last failure is the one that is told."""
        candidates: list[Credentials | None] = [
            *credentials_for(parse_image_name(reference), secrets)
        ]
        last: RuntimeFailure | None = None
        for credentials in candidates or [None]:
            try:
                await self._images.pull(reference, credentials)
                return
            except RuntimeFailure as failure:
                last = failure
        assert last is not None
        raise last


def _milliseconds(seconds: float) -> str:
    """A duration to the millisecond, as Go prints it."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
