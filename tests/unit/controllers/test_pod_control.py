"""Pods are made once, though nobody knows what became of a request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from navarch.api.errors import ApiError, already_exists
from navarch.api.types.apps_v1 import ReplicaSet
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.client import Client, EventRecorder
from navarch.client.client import ApiConnectionError
from navarch.controllers.pods import PodControl

OWNER = ReplicaSet(metadata=ObjectMeta(name="web", namespace="a", uid="u"))
LOST, EXISTS = ApiConnectionError("the connection broke"), already_exists("pods", "", "web-x")


def pod_of(uid: str) -> Pod:
    owner = OwnerReference(kind="ReplicaSet", name="web", uid=uid, controller=True)
    return Pod(metadata=ObjectMeta(name="web-x", namespace="a", ownerReferences=[owner]))


MINE, FOREIGN = pod_of("u"), pod_of("v")


@pytest.mark.parametrize(
    ("creates", "gets", "outcome"),
    [
        pytest.param([MINE], [], MINE, id="made"),
        pytest.param([LOST, MINE], [], MINE, id="made at the second time"),
        pytest.param([LOST, EXISTS], [MINE], MINE, id="made at the first time"),
        pytest.param([LOST, EXISTS], [LOST, LOST, MINE], MINE, id="found after a while"),
        pytest.param([LOST, EXISTS], [FOREIGN], 409, id="another's"),
        pytest.param([EXISTS], [], 409, id="not asked for before"),
        pytest.param([LOST] * 4, [], 0, id="no answer at all"),
        pytest.param([LOST, EXISTS], [LOST] * 4, 0, id="not to be found out"),
    ],
)
async def test_a_pod_is_asked_for_again(
    creates: list[Pod | ApiError], gets: list[Pod | ApiError], outcome: Pod | int
) -> None:
    names: set[str] = set()
    answers = {"create": [*creates], "get": [*gets]}

    def answer(what: str) -> Pod:
        given = answers[what].pop(0)
        if isinstance(given, ApiError):
            raise given
        return given

    async def create(pod: Pod) -> Pod:
        names.add(pod.metadata.name)
        return answer("create")

    async def get(name: str, namespace: str) -> Pod:
        return answer("get")

    resource = SimpleNamespace(create=create, get=get)
    client: Any = SimpleNamespace(resource=lambda kind: resource)
    recorder: Any = SimpleNamespace(event=lambda *_: None)
    control = PodControl(cast("Client", client), cast("EventRecorder", recorder))
    asked = Pod(metadata=ObjectMeta(generateName="web-", namespace="a"))
    if isinstance(outcome, Pod):
        assert await control.create(asked, OWNER) is outcome
    else:
        with pytest.raises(ApiError) as failed:
            await control.create(asked, OWNER)
        assert failed.value.status == outcome
    assert len(names) == 1
    assert answers == {"create": [], "get": []}
