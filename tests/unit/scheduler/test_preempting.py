"""Making victims leave, with an API server that refuses."""

from __future__ import annotations

from typing import Any, cast

import pytest

from navarch.api.errors import ApiError
from navarch.client import ControllerContext, FakeClock
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.preempting import Evictor

from .conftest import pod


class FakeApi:
    """Writes down what is asked; `refusal` answers the named verb."""

    def __init__(self, verb: str = "", refusal: int = 0) -> None:
        self.verb, self.refusal = verb, refusal
        self.calls: list[str] = []
        self.told: list[str] = []
        self.clock = FakeClock()

    def resource(self, kind: type) -> FakeApi:
        return self

    async def patch(self, name: str, namespace: str, body: Any, **_: Any) -> None:
        self._call("patch", name)
        assert body["metadata"]["uid"]

    async def delete(self, name: str, namespace: str, *, uid: str) -> None:
        self._call("delete", name)
        assert uid == f"{namespace}-{name}"

    def _call(self, verb: str, name: str) -> None:
        self.calls.append(f"{verb} {name}")
        if verb == self.verb:
            reason = {404: "NotFound", 409: "Conflict"}.get(self.refusal, "InternalError")
            raise ApiError(self.refusal, reason, "no")

    def event(self, obj: Any, kind: str, reason: str, message: str) -> None:
        self.told.append(f"{obj.metadata.name}: {reason}: {message}")

    def evictor(self, *preparing: str) -> Evictor:
        def cancel(info: PodInfo) -> bool:
            return info.name in preparing

        return Evictor(cast("ControllerContext", self), cancel)

    @property
    def client(self) -> FakeApi:
        return self

    def recorder(self, component: str) -> FakeApi:
        assert component == "default-scheduler"
        return self


NOTE = "v: Preempted: Preempted by pod default-new on node n"
OUTCOMES = [
    pytest.param("", 0, ["patch v", "delete v"], True, [NOTE], id="told, then deleted"),
    pytest.param("patch", 500, ["patch v"], False, [], id="never deleted without a word"),
    pytest.param("delete", 500, ["patch v", "delete v"], False, [], id="not deleted"),
    pytest.param("patch", 404, ["patch v"], True, [], id="gone before"),
    pytest.param("delete", 409, ["patch v", "delete v"], True, [], id="another of its name"),
]


@pytest.mark.parametrize(("verb", "refusal", "calls", "is_done", "told"), OUTCOMES)
async def test_a_victim(
    verb: str, refusal: int, calls: list[str], is_done: bool, told: list[str]
) -> None:
    api = FakeApi(verb, refusal)
    assert await api.evictor().evict([pod("v")], pod("new"), "n") is is_done
    assert (api.calls, api.told) == (calls, told)


async def test_who_needs_no_deletion() -> None:
    """A pod on its way out, and one that has not got its node yet."""
    api = FakeApi()
    victims = [pod("leaving", deleting=True), pod("v")]
    assert await api.evictor("v").evict(victims, pod("new"), "n")
    assert (api.calls, api.told) == ([], [f"{NOTE} (in kube-scheduler memory)."])


async def test_one_that_stays_does_not_save_the_others() -> None:
    api = FakeApi("delete", 500)
    assert not await api.evictor().evict([pod("v"), pod("w")], pod("new"), "n")
    assert {"delete v", "delete w"} <= set(api.calls)


@pytest.mark.parametrize("refusal", [0, 404, 500])
async def test_clearing_is_no_condition_for_anything(refusal: int) -> None:
    api = FakeApi("patch", refusal) if refusal else FakeApi()
    await api.evictor().clear([pod("v"), pod("w")])
    assert api.calls == ["patch v", "patch w"]
