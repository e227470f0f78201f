"""How fast an API server is: `python -m bench.api [--kubeconfig FILE] [--large]`.

Works in a namespace of its own, which it deletes. The pods it creates name a scheduler that does
not exist, so nothing else happens to them.
"""

from __future__ import annotations

import argparse
import secrets

import msgspec
import uvloop

from bench import load
from bench.report import Row, show
from navarch.api.errors import ApiError
from navarch.client.client import Client
from navarch.client.config import ClientConfig

CONNECTIONS = 32
SECONDS = 4.0
LARGE_PODS = 10_700
LARGE_CONFIG_MAPS = 20_000


def config_map(name: str) -> bytes:
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"key": "x" * 200},
        }
    )


def pod(name: str, padding: int = 0) -> bytes:
    """A pod as a Deployment makes it; `padding` bytes of annotation bring it to a size."""
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"app": "bench", "tier": "backend", "pod-template-hash": "5d4f8c7b9"},
                "annotations": {"bench/padding": "x" * padding} if padding else {},
            },
            "spec": {
                "schedulerName": "nobody",
                "automountServiceAccountToken": False,
                "containers": [
                    {
                        "name": "main",
                        "image": "registry.example/app:1.0",
                        "env": [{"name": f"VARIABLE_{i}", "value": f"value-{i}"} for i in range(8)],
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "resources": {
                            "requests": {"cpu": "100m", "memory": "128Mi"},
                            "limits": {"cpu": "1", "memory": "256Mi"},
                        },
                        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}},
                    }
                ],
            },
        }
    )


class ApiBench:
    """The measurements against one server, in one namespace."""

    def __init__(self, config: ClientConfig, namespace: str) -> None:
        self.target = load.Target.of(config)
        self.base = f"/api/v1/namespaces/{namespace}"

    async def creates(self, resource: str, make: object, count: int = 1_000_000) -> load.Result:
        prefix = secrets.token_hex(4)

        def request(index: int) -> bytes:
            body = make(f"{prefix}-{index}")  # type: ignore[operator]
            return self.target.request("POST", f"{self.base}/{resource}", body)

        seconds = SECONDS if count == 1_000_000 else 600.0
        return await load.run(self.target, CONNECTIONS, request, count=count, seconds=seconds)

    async def repeats(self, path: str, connections: int = CONNECTIONS) -> load.Result:
        request = self.target.request("GET", self.base + path)
        return await load.run(
            self.target, connections, lambda _: request, count=1_000_000, seconds=SECONDS
        )

    async def rows(self) -> list[Row]:
        maps = await self.creates("configmaps", config_map)
        pods = await self.creates("pods", pod, 500)
        first = await self.creates("pods", lambda name: pod("target"), 1)
        assert first.statuses[201] == 1, first.statuses
        gets = await self.repeats("/pods/target")
        lists = await self.repeats("/pods?limit=500")
        more = await self.creates("pods", pod)
        del pods
        return [
            Row("create ConfigMap, 32 connections", maps.rate, "/s", 2 * 2500, 2500),
            Row("create Pod, 32 connections", more.rate, "/s", 2 * 1330, 1330),
            Row("GET pod, 32 connections", gets.rate, "/s", 3 * 3670, 3670),
            Row("LIST 500 pods, 32 connections", lists.rate, "/s", 10 * 81, 81),
        ]

    async def large(self) -> list[Row]:
        """A store of the size of a big cluster's."""
        await self.creates("pods", lambda name: pod(name, 4300), LARGE_PODS)
        await self.creates("configmaps", config_map, LARGE_CONFIG_MAPS)
        one = await load.run(
            self.target,
            1,
            lambda _: self.target.request("GET", f"{self.base}/pods"),
            count=5,
            seconds=60.0,
        )
        size = one.received / max(1, sum(one.statuses.values())) / 1e6
        name = f"LIST of {LARGE_PODS} pods and more, {size:.0f} MB"
        return [Row(name, one.quantile(0.5), "s", 0.1, 0.9)]


async def measure(config: ClientConfig, large: bool = False) -> list[Row]:
    """The figures, from a namespace that is made and deleted for it."""
    namespace = f"bench-{secrets.token_hex(4)}"
    async with Client(config) as client:
        namespaces = client.dynamic("", "v1", "namespaces", namespaced=False)
        await namespaces.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        try:
            await _ensure_account(client, namespace)
            bench = ApiBench(config, namespace)
            rows = await bench.rows()
            return rows + (await bench.large() if large else [])
        finally:
            await namespaces.delete(namespace)


async def _ensure_account(client: Client, namespace: str) -> None:
    """Pods are refused until the namespace has its ServiceAccount; a controller makes it, if one
    runs."""
    account = {"metadata": {"name": "default", "namespace": namespace}}
    try:
        await client.dynamic("", "v1", "serviceaccounts").create(account)
    except ApiError as error:
        if not error.is_already_exists:
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", default="")
    parser.add_argument("--large", action="store_true", help="also with 10 700 pods (a minute)")
    arguments = parser.parse_args()
    config = ClientConfig.load(arguments.kubeconfig)
    show(uvloop.run(measure(config, arguments.large)))


if __name__ == "__main__":
    main()
