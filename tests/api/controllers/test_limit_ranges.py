"""What containers are given that do not say what they want, and what they may want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import secured_server

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import (
    LimitRange,
    LimitRangeItem,
    LimitRangeSpec,
    Pod,
    ResourceRequirements,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client

from .conftest import client_as, make_namespace, pod, running

SPACE = "limited"


def amounts(cpu: str = "", memory: str = "", storage: str = "") -> dict[str, str]:
    given = {"cpu": cpu, "memory": memory, "ephemeral-storage": storage}
    return {name: amount for name, amount in given.items() if amount}


DEFAULTS = {
    "requests": amounts("100m", "200Mi", "200Gi"),
    "limits": amounts("500m", "500Mi", "500Gi"),
}


@pytest.mark.conformance(
    "LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied."
)
async def test_limits_by_default(tmp_path: Path) -> None:
    async with (
        secured_server(tmp_path) as server,
        client_as(server, "root", "system:masters") as client,
        running(client, "serviceaccount"),
    ):
        await make_namespace(client, SPACE)
        await _story(client)


async def _story(client: Client) -> None:
    ranges, pods = client.resource(LimitRange), client.resource(Pod)
    least, most = amounts("50m", "100Mi", "100Gi"), amounts("500m", "500Mi", "500Gi")
    item = LimitRangeItem(
        type="Container",
        min=least,
        max=most,
        default=DEFAULTS["limits"],
        defaultRequest=DEFAULTS["requests"],
    )
    spec = LimitRangeSpec(limits=[item])

    async def made(name: str, **resources: Any) -> dict[str, Any]:
        wanted = pod(name)
        wanted.metadata.namespace = SPACE
        wanted.spec.containers[0].resources = ResourceRequirements(**resources)
        found = (await pods.create(wanted)).spec.containers[0].resources
        return {"requests": found.requests, "limits": found.limits}

    async def refusal(status: int, **resources: Any) -> str:
        with pytest.raises(ApiError) as caught:
            await made("refused", **resources)
        assert caught.value.status == status
        return caught.value.message

    written = await ranges.create(
        LimitRange(metadata=ObjectMeta(name="limit-range", namespace=SPACE), spec=spec)
    )
    assert await made("none") == DEFAULTS
    partial = amounts(memory="150Mi", storage="150Gi")
    assert await made("some", requests=partial, limits=amounts("300m")) == {
        "requests": {**partial, "cpu": "300m"},
        "limits": {**most, "cpu": "300m"},
    }
    small, large = amounts("10m", "50Mi", "50Gi"), amounts("600m", "600Mi", "600Gi")
    assert "minimum cpu usage per Container is 50m" in await refusal(403, requests=small)
    assert "maximum cpu usage per Container is 500m" in await refusal(403, limits=large)
    text = "must be less than or equal to cpu limit of 500m"
    assert text in await refusal(422, requests=large), "of what limits are by default"
    written.spec.limits[0].min = amounts("9m", "49Mi", "49Gi")
    await ranges.update(written)
    assert (await made("small", requests=small))["requests"] == small
    await refusal(422, requests=large)
    await ranges.delete("limit-range", SPACE)
    assert (await made("large", requests=large))["requests"] == large
