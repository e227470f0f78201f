"""Makes sure that an image a pod asks for is there, by its pull policy, with back-off.

Reasons, messages and their order are upstream's (`pkg/kubelet/images/image_manager.go`): they are
what people look for when a pod does not start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from navarch.api.times import format_duration
from navarch.api.types.core_v1 import Pod, Secret
from navarch.client.clock import Clock
from navarch.client.ratelimit import TokenBucket

from ..backoff import BackoffTable
from ..cri.runtime import Images
from ..cri.values import ImageRecord, RuntimeFailure
from ..events import PodEvents
from ..podspec import ContainerSpec
from ..settings import NodeOptions
from . import figures
from .credentials import BrokenCredentials, TrackedCredentials
from .lookup import CredentialSources
from .names import InvalidImageName, parse_image_name, with_default_tag
from .records import PullCredentials, PullRecords, used
from .verification import Policy, allowlist_problem, opens, recorded, requires_verification

log = logging.getLogger(__name__)

BACKOFF_NOTICE_SECONDS = 2.0
"""How long a failed pull is shown as ErrImagePull before the wait for the next one is."""

Tell = Callable[[str, str, str], None]
"""Takes an event's type, reason and message."""

_SPECIAL_FAILURES = {
    "RegistryUnavailable": "the registry is unavailable",
    "SignatureValidationFailed": "the signature validation failed",
}
"""What a runtime may begin its message with; the word becomes the reason."""


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


@dataclass(frozen=True, slots=True)
class PullRules:
    """How many pulls there may be at once and in a second, and whom images that were pulled before
    are given to (KubeletConfiguration's defaults)."""

    at_once: int = 1
    """0 is no limit."""
    qps: float = 5
    burst: int = 10
    policy: Policy = Policy.NEVER_PRELOADED
    allowlist: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: NodeOptions) -> PullRules:
        """Raises ValueError for an allowlist that upstream would refuse."""
        allowlist = options.preloaded_images_verification_allowlist
        if found := [problem for each in allowlist if (problem := allowlist_problem(each))]:
            raise ValueError(f"preloadedImagesVerificationAllowlist: {found[0]}")
        return cls(
            at_once=1 if options.serialize_image_pulls else options.max_parallel_image_pulls or 0,
            qps=options.registry_pull_qps,
            burst=options.registry_burst,
            policy=Policy(options.image_pull_credentials_verification_policy),
            allowlist=allowlist,
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """An image a pod wants, for a container or for a volume."""

    pod: Pod
    image: str
    policy: str
    secrets: Sequence[Secret]
    tell: Tell

    @property
    def key(self) -> str:
        return f"{self.pod.metadata.uid}_{self.image}"


@dataclass(slots=True)
class _Course:
    """What a wish has come to, for the figures; None is not known."""

    is_present: bool | None = None
    is_pulled: bool | None = None


def _told(value: bool | None) -> str:
    return "unknown" if value is None else str(value).lower()


class ImagePuller:
    """Pulls images for all pods of this node."""

    def __init__(
        self,
        images: Images,
        records: PullRecords,
        events: PodEvents,
        clock: Clock,
        rules: PullRules = PullRules(),
        sources: CredentialSources | None = None,
    ) -> None:
        self._images, self._records, self._events, self._clock = images, records, events, clock
        self._rules, self._sources = rules, sources or CredentialSources()
        self._backoff = BackoffTable()
        self._failures: dict[str, tuple[float, str]] = {}
        self._slots = asyncio.Semaphore(rules.at_once or 1 << 30)
        self._rate = TokenBucket(rules.qps, rules.burst) if rules.qps > 0 else None

    async def ensure(self, pod: Pod, spec: ContainerSpec, secrets: Sequence[Secret]) -> FoundImage:
        """The image for the container, pulled if need be; raises `ImageProblem`."""
        policy = spec.container.imagePullPolicy or "IfNotPresent"
        tell = partial(self._events.container, pod, spec)
        try:
            return await self.get(Wish(pod, spec.container.image, policy, secrets, tell))
        except ImageProblem as problem:
            tell("Warning", "Failed", f"Error: {problem.reason}")
            raise

    async def get(self, wish: Wish) -> FoundImage:
        """The image, pulled if need be; raises `ImageProblem`."""
        course = _Course()
        try:
            return await self._get(wish, course)
        finally:
            figures.requests.labels(
                wish.policy.lower(), _told(course.is_present), _told(course.is_pulled)
            ).inc()

    async def _get(self, wish: Wish, course: _Course) -> FoundImage:
        try:
            reference = with_default_tag(wish.image)
        except InvalidImageName as problem:
            text = f'Failed to apply default image tag "{wish.image}": {problem}'
            wish.tell("Warning", "InspectFailed", text)
            raise ImageProblem("InvalidImageName", text, 60.0) from problem
        offered: list[TrackedCredentials] | None = None
        if wish.policy != "Always":
            record = await self._find(wish, reference)
            course.is_present = record is not None
            if record is not None:
                known = self._known_credentials(wish, record)
                if not known.nodePodsAccessible and not known.is_empty:
                    offered = await self._offered(wish, reference)
                if await self._may_use(wish, record, known, offered or []):
                    text = (
                        f'Container image "{wish.image}" already present on machine and can be '
                        "accessed by the pod"
                    )
                    wish.tell("Normal", "Pulled", text)
                    course.is_pulled = False
                    return FoundImage(record, reference)
                course.is_pulled = True
            if wish.policy == "Never":
                # The same words whether it is absent or not for this pod: a pod shall not learn
                # which images others have.
                text = f'Container image "{wish.image}" is not present with pull policy of Never'
                wish.tell("Warning", "ErrImageNeverPull", text)
                raise ImageProblem("ErrImageNeverPull", text, 10.0)
        course.is_pulled = True
        return await self._pull(wish, reference, offered)

    def forget(self, pod_uid: str) -> None:
        prefix = f"{pod_uid}_"
        self._backoff.forget(prefix)
        for key in [key for key in self._failures if key.startswith(prefix)]:
            del self._failures[key]

    async def _find(self, wish: Wish, reference: str) -> ImageRecord | None:
        try:
            return await self._images.image(reference)
        except RuntimeFailure as failure:
            text = f'Failed to inspect image "": {failure.message}'
            wish.tell("Warning", "InspectFailed", text)
            raise ImageProblem("ImageInspectError", text, 10.0) from failure

    # Whether the pod may use an image that is there

    def _known_credentials(self, wish: Wish, record: ImageRecord) -> PullCredentials:
        """What has opened the image before; open to all where nobody is asked."""
        policy, allowlist = self._rules.policy, self._rules.allowlist
        is_known = self._records.is_known(record, wish.image)
        if not requires_verification(policy, allowlist, wish.image, is_known):
            return PullCredentials(nodePodsAccessible=True)
        return recorded(self._records.find(record.id), wish.image)

    async def _may_use(
        self,
        wish: Wish,
        record: ImageRecord,
        known: PullCredentials,
        offered: Sequence[TrackedCredentials],
    ) -> bool:
        if known.nodePodsAccessible:
            return True
        may, news = opens(known, offered)
        if not news.is_empty:
            try:
                await self._records.add(wish.image, record.id, news, self._clock.now())
            except OSError as error:
                log.warning("record of image %s: %s", wish.image, error)
        return may

    async def _offered(self, wish: Wish, reference: str) -> list[TrackedCredentials]:
        """What the pod can show the registry."""
        try:
            return await self._sources.lookup(wish.pod, parse_image_name(reference), wish.secrets)
        except BrokenCredentials as error:
            text = f'Failed to pull image "{wish.image}": {error}'
            wish.tell("Warning", "Failed", text)
            raise ImageProblem("ErrImagePull", str(error), 10.0) from error

    # Pulling

    async def _pull(
        self, wish: Wish, reference: str, offered: list[TrackedCredentials] | None
    ) -> FoundImage:
        self._raise_if_waiting(wish)
        if offered is None:
            offered = await self._offered(wish, reference)
        wish.tell("Normal", "Pulling", f'Pulling image "{wish.image}"')
        queued = self._clock.monotonic()
        try:
            async with self._slots:
                begun = self._clock.monotonic()
                record = await self._recorded_pull(wish, reference, offered)
        except (RuntimeFailure, OSError) as failure:
            raise self._failed(wish, failure) from failure
        ended = self._clock.monotonic()
        self._failures.pop(wish.key, None)
        text = (
            f'Successfully pulled image "{wish.image}" in {_in_milliseconds(ended - begun)} '
            f"({_in_milliseconds(ended - queued)} including waiting). "
            f"Image size: {record.size} bytes."
        )
        wish.tell("Normal", "Pulled", text)
        figures.pull_seconds.labels(figures.size_label(record.size)).observe(ended - queued)
        return FoundImage(record, reference)

    async def _recorded_pull(
        self, wish: Wish, reference: str, offered: Sequence[TrackedCredentials]
    ) -> ImageRecord:
        if self._rate is not None and not self._rate.take(self._clock.monotonic()):
            raise RuntimeFailure("pull QPS exceeded")
        await self._records.begin(wish.image)
        try:
            winner = await self._pull_with(reference, offered)
            record = await self._images.image(reference)
            if record is None:
                raise RuntimeFailure(f'image "{wish.image}" is gone again')
        except BaseException:
            await self._records.failed(wish.image)
            raise
        proof = used(winner.source, winner.hash) if winner else used(None, "")
        await self._records.pulled(wish.image, record.id, proof, self._clock.now())
        return record

    async def _pull_with(
        self, reference: str, offered: Sequence[TrackedCredentials]
    ) -> TrackedCredentials | None:
        """Tries each set of credentials; all their failures are told. Returns the one that did."""
        if not offered:
            await self._images.pull(reference, None)
            return None
        failures: list[RuntimeFailure] = []
        for each in offered:
            try:
                await self._images.pull(reference, each.credentials)
                return each
            except RuntimeFailure as failure:
                failures.append(failure)
        texts = list(dict.fromkeys(_pull_text(failure) for failure in failures))
        text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        raise RuntimeFailure(text, code=failures[-1].code)

    def _failed(self, wish: Wish, failure: RuntimeFailure | OSError) -> ImageProblem:
        text = _pull_text(failure) if isinstance(failure, RuntimeFailure) else str(failure)
        wish.tell("Warning", "Failed", f'Failed to pull image "{wish.image}": {text}')
        reason = "ErrImagePull"
        for word, meaning in _SPECIAL_FAILURES.items():
            if text.startswith(word):
                reason = word
                rest = text.removeprefix(word)
                text = f"image pull failed for {wish.image} because {meaning}{rest}"
        now = self._clock.now().timestamp()
        self._backoff.advance(wish.key, now, now)
        self._failures[wish.key] = (now, f"{reason}: {text}")
        return ImageProblem(reason, text, BACKOFF_NOTICE_SECONDS)

    def _raise_if_waiting(self, wish: Wish) -> None:
        failure = self._failures.get(wish.key)
        if failure is None:
            return
        failed_at, text = failure
        remaining = self._backoff.remaining(wish.key, failed_at, self._clock.now().timestamp())
        if remaining > 0:
            message = f'Back-off pulling image "{wish.image}"'
            wish.tell("Normal", "BackOff", message)
            raise ImageProblem("ImagePullBackOff", f"{message}: {text}", remaining)


def _pull_text(failure: RuntimeFailure) -> str:
    """The runtime's words; the code before them goes where it says nothing ("Unknown")."""
    if failure.code == "UNKNOWN" and isinstance(failure.details, str):
        return failure.details
    return failure.message


def _in_milliseconds(seconds: float) -> str:
    """A duration cut to the millisecond."""
    return format_duration(int(seconds * 1000) / 1000)
