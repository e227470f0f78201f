"""Pulling images: policies, reasons, messages, back-off, credentials, who may use what is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from tests.unit.node.builders import make_pod
from tests.unit.node.fake_runtime import FakeRuntime
from tests.unit.node.images.test_credentials import docker_config

from navarch.api.types.core_v1 import Pod, Secret
from navarch.client.clock import FakeClock
from navarch.node.cri.values import Credentials, ImageRecord, RuntimeFailure
from navarch.node.images.puller import (
    FoundImage,
    ImageProblem,
    ImagePuller,
    PullRules,
    Wish,
)
from navarch.node.images.records import PullRecords
from navarch.node.images.verification import Policy

WEB = "r.example/web:1"
RULES = PullRules()


@dataclass
class Told:
    """The events, as text."""

    events: list[str] = field(default_factory=list)

    def pod(
        self, pod: Pod, kind: str, reason: str, message: str, annotations: object = None
    ) -> None:
        self.events.append(f"{kind} {reason}: {message}")

    def node(self, kind: str, reason: str, message: str) -> None:
        self.events.append(f"node {kind} {reason}: {message}")

    def container(self, pod: Pod, spec: object, kind: str, reason: str, message: str) -> None:
        self.pod(pod, kind, reason, message)


@dataclass
class Registry(FakeRuntime):
    """A runtime whose registry asks for passwords and can be held up."""

    passwords: dict[str, str] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0
    pulled_by: list[str] = field(default_factory=list)

    async def reached(self, pulls: int) -> None:
        """Waits until so many pulls are under way; records are written in threads."""
        async with asyncio.timeout(60):
            while self.at_once < pulls:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def pull(self, reference: str, credentials: Credentials | None) -> str:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.gate.wait()
            wanted = self.passwords.get(reference)
            self.pulled_by.append(credentials.username if credentials else "")
            if wanted is not None and (credentials is None or credentials.password != wanted):
                who = credentials.username if credentials else "nobody"
                raise RuntimeFailure(
                    f"rpc error: code = Unknown desc = {who}: authorization failed",
                    code="UNKNOWN",
                    details=f"{who}: authorization failed",
                )
            return await super().pull(reference, credentials)
        finally:
            self.at_once -= 1


@dataclass
class Node:
    """A puller with everything around it."""

    puller: ImagePuller
    runtime: Registry
    records: PullRecords
    told: Told
    clock: FakeClock

    async def get(
        self, image: str = WEB, policy: str = "IfNotPresent", *, uid: str = "u-1",
        secrets: tuple[Secret, ...] = (),
    ) -> FoundImage:  # fmt: skip
        pod = make_pod(metadata={"uid": uid})
        tell = lambda kind, reason, text: self.told.pod(pod, kind, reason, text)  # noqa: E731
        return await self.puller.get(Wish(pod, image, policy, secrets, tell))

    async def problem(self, image: str = WEB, policy: str = "IfNotPresent", **more: object) -> str:
        with pytest.raises(ImageProblem) as caught:
            await self.get(image, policy, **more)  # type: ignore[arg-type]
        return f"{caught.value.reason} | {caught.value.message} | {caught.value.retry_in:g}"


@asynccontextmanager
async def node(directory: Path, rules: PullRules = RULES) -> AsyncIterator[Node]:
    clock, told = FakeClock(), Told()
    runtime = Registry(registry={WEB: ImageRecord("sha256:1", (WEB,), size=123)})
    runtime.gate.set()
    records = PullRecords(directory)
    await records.load([])
    yield Node(ImagePuller(runtime, records, told, clock, rules), runtime, records, told, clock)


def counted(policy: str, present: str, pulled: str) -> float:
    """How many wishes took that course."""
    labels = {"pull_policy": policy, "present_locally": present, "pull_required": pulled}
    name = "kubelet_image_manager_ensure_image_requests_total"
    return REGISTRY.get_sample_value(name, labels) or 0.0


COURSES = [
    ("ifnotpresent", "false", "true"),
    ("ifnotpresent", "true", "false"),
    ("never", "true", "false"),
    ("always", "unknown", "true"),
]


async def test_a_pull_and_what_is_told_of_it(tmp_path: Path) -> None:
    before = [counted(*course) for course in COURSES]
    async with node(tmp_path) as here:
        found = await here.get()
        assert found.record.id == "sha256:1"
        await here.get()
        await here.get(policy="Never")
        await here.get(policy="Always")
        assert here.runtime.calls.count("pull") == 2
        assert [counted(*course) for course in COURSES] == [each + 1 for each in before]
        present = (
            f'Normal Pulled: Container image "{WEB}" already present on machine and can be '
            "accessed by the pod"
        )
        pulled = [
            f'Normal Pulling: Pulling image "{WEB}"',
            f'Normal Pulled: Successfully pulled image "{WEB}" in 0s (0s including waiting). '
            "Image size: 123 bytes.",
        ]
        assert here.told.events == [*pulled, present, present, *pulled]


async def test_an_absent_image_that_must_not_be_pulled(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        text = f'Container image "{WEB}" is not present with pull policy of Never'
        assert await here.problem(policy="Never") == f"ErrImageNeverPull | {text} | 10"
        assert here.told.events == [f"Warning ErrImageNeverPull: {text}"]


async def test_a_name_that_is_none(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        text = await here.problem("bad//name")
        assert text.startswith(
            'InvalidImageName | Failed to apply default image tag "bad//name": couldn\'t parse '
            'image name "bad//name": invalid reference format'
        )
        assert here.told.events[0].startswith("Warning InspectFailed: Failed to apply default")


async def test_back_off_by_image_and_pod(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        del here.runtime.registry[WEB]
        error = "ErrImagePull | r.example/web:1: not found | 2"
        waits = []
        for seconds in (10, 20, 40, 80, 160, 300, 300):
            assert await here.problem() == error
            await here.clock.advance(2)
            assert (await here.problem()).startswith(
                f'ImagePullBackOff | Back-off pulling image "{WEB}": ErrImagePull: {WEB}: not found'
            )
            waits.append((await here.problem()).rpartition(" ")[2])
            await here.clock.advance(seconds - 2)
        assert waits == ["8", "18", "38", "78", "158", "298", "298"]
        assert f'Normal BackOff: Back-off pulling image "{WEB}"' in here.told.events
        # Another pod need not wait, nor does this one after it is forgotten.
        assert await here.problem() == error
        assert await here.problem(uid="u-2") == error
        here.puller.forget("u-1")
        assert await here.problem() == error
        here.runtime.registry[WEB] = ImageRecord("sha256:1", (WEB,))
        here.puller.forget("u-1")
        await here.get()


@pytest.mark.parametrize(
    ("message", "code", "expected"),
    [
        (
            "RegistryUnavailable: no route",
            "UNKNOWN",
            f"RegistryUnavailable | image pull failed for {WEB} because the registry is "
            "unavailable: no route | 2",
        ),
        (
            "SignatureValidationFailed: who?",
            "UNKNOWN",
            f"SignatureValidationFailed | image pull failed for {WEB} because the signature "
            "validation failed: who? | 2",
        ),
        ("boom", "INTERNAL", "ErrImagePull | rpc error: code = Internal desc = boom | 2"),
    ],
)
async def test_reasons_of_failures(tmp_path: Path, message: str, code: str, expected: str) -> None:
    async with node(tmp_path) as here:
        name = code.title()
        failure = RuntimeFailure(
            f"rpc error: code = {name} desc = {message}", code=code, details=message
        )
        here.runtime._failures["pull"] = [failure]
        assert await here.problem() == expected


async def test_every_set_of_credentials_is_tried(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.runtime.passwords[WEB] = "right"
        wrong = docker_config({"r.example": {"username": "ann", "password": "wrong"}}, "a")
        other = docker_config({"r.example": {"username": "bob", "password": "no"}}, "b")
        right = docker_config({"r.example": {"username": "cid", "password": "right"}}, "c")
        text = await here.problem(secrets=(wrong, other))
        assert text == ("ErrImagePull | [ann: authorization failed, bob: authorization failed] | 2")
        await here.get(secrets=(wrong, right), uid="u-2")
        assert here.runtime.pulled_by == ["ann", "bob", "ann", "cid"]


async def test_an_image_pulled_with_a_secret_is_not_for_everybody(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.runtime.passwords[WEB] = "right"
        right = docker_config({"r.example": {"username": "cid", "password": "right"}}, "c")
        wrong = docker_config({"r.example": {"username": "dan", "password": "wrong"}}, "d")
        await here.get(secrets=(right,))
        await here.get(secrets=(right,), uid="u-2")
        assert here.runtime.pulled_by == ["cid"]
        # Without it, or with a wrong one, the registry decides.
        assert (await here.problem(uid="u-3")).startswith("ErrImagePull")
        assert (await here.problem(uid="u-4", secrets=(wrong,))).startswith("ErrImagePull")
        # And nothing is to be learnt from the policy Never.
        here.told.events.clear()
        text = f'Container image "{WEB}" is not present with pull policy of Never'
        assert await here.problem(policy="Never", uid="u-5") == f"ErrImageNeverPull | {text} | 10"
        # Once it is open to all, all have it.
        del here.runtime.passwords[WEB]
        await here.get(uid="u-6")
        pulls = len(here.runtime.pulled_by)
        await here.get(policy="Never", uid="u-7")
        assert len(here.runtime.pulled_by) == pulls


async def test_images_that_were_loaded_are_for_everybody_unless_verified(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.runtime.image_table[WEB] = here.runtime.registry.pop(WEB)
        await here.get()
    async with node(tmp_path, PullRules(policy=Policy.ALWAYS)) as here:
        here.runtime.image_table[WEB] = here.runtime.registry.pop(WEB)
        assert (await here.problem()).startswith("ErrImagePull")


async def test_a_broken_secret_is_told_of(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        broken = docker_config({"r.example": {"auth": "%"}})
        assert await here.problem(secrets=(broken,)) == (
            "ErrImagePull | secret default/pull: illegal base64 data in an auth field | 10"
        )
        assert here.runtime.pulled_by == []


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (2, 2), (0, 4)])
async def test_how_many_pulls_at_once(tmp_path: Path, at_once: int, most: int) -> None:
    async with node(tmp_path, PullRules(at_once=at_once)) as here:
        here.runtime.gate.clear()
        pulls = [asyncio.create_task(here.get(uid=f"u-{number}")) for number in range(4)]
        await here.runtime.reached(most)
        await here.clock.advance(1.5)
        here.runtime.gate.set()
        await asyncio.gather(*pulls)
        assert here.runtime.most_at_once == most
        assert any("in 1.5s (1.5s including waiting)" in each for each in here.told.events)
        if at_once == 1:
            assert any("in 0s (1.5s including waiting)" in each for each in here.told.events)


async def test_how_many_pulls_in_a_second(tmp_path: Path) -> None:
    async with node(tmp_path, PullRules(qps=1, burst=2)) as here:
        await here.get(policy="Always")
        await here.get(policy="Always")
        text = await here.problem(policy="Always")
        assert text == "ErrImagePull | pull QPS exceeded | 2"
        await here.clock.advance(11)
        await here.get(policy="Always")


async def test_a_pull_that_is_given_up_leaves_no_intent(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.runtime.gate.clear()
        pull = asyncio.create_task(here.get())
        await here.runtime.reached(1)
        assert len(list((tmp_path / "image_manager" / "pulling").iterdir())) == 1
        pull.cancel()
        await asyncio.gather(pull, return_exceptions=True)
        assert list((tmp_path / "image_manager" / "pulling").iterdir()) == []
        here.runtime.gate.set()
        await here.get()
