"""What simulated pods are said to use reaches whoever asks for metrics."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.scale.test_simulated import client, cluster

from navarch.client import Client

__all__ = ["client"]

PATH = "/apis/metrics.k8s.io/v1beta1"


async def listed(client: Client, what: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(await client.request("GET", f"{PATH}/{what}"))["items"]
    return items


async def test_use_comes_from_flags_and_annotations(client: Client) -> None:
    timetable = {"cpu": "50m", "memory": "1Mi"}
    async with cluster(client, nodes=3, timetable=timetable), asyncio.timeout(60):
        pods = client.dynamic("", "v1", "pods")
        for number in range(6):
            annotations = {"simulated.navarch.dev/cpu": "1"} if number == 0 else {}
            metadata = {"name": f"p{number}", "namespace": "default", "annotations": annotations}
            spec = {"containers": [{"name": "c", "image": "registry.example/i"}]}
            await pods.create({"metadata": metadata, "spec": spec})
        while len(found := await listed(client, "pods")) < 6:  # noqa: ASYNC110 - see below
            # Metrics are not to be watched.
            await asyncio.sleep(0.02)
        uses = {each["metadata"]["name"]: each["containers"][0]["usage"] for each in found}
        assert uses.pop("p0") == {"cpu": "1", "memory": "1Mi"}
        assert set(map(str, uses.values())) == {str({"cpu": "50m", "memory": "1Mi"})}
        nodes = await listed(client, "nodes")
        assert len(nodes) == 3
        memory = {"1Mi": 1, "2Mi": 2, "3Mi": 3, "4Mi": 4, "5Mi": 5, "6Mi": 6, "0": 0}
        assert sum(memory[each["usage"]["memory"]] for each in nodes) == 6
