"""How fast an API server is: `python -m bench.api [--kubeconfig FILE] [--large]`.

Works in a namespace of its own, which it deletes. The pods it creates name a scheduler that does
not exist, so nothing else happens to them.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec
import uvloop

from bench import load
from bench.report import Row, show
from navarch.api.errors import ApiError
from navarch.client.client import Client
from navarch.client.config import ClientConfig

CONNECTIONS = 32
SECONDS = 4.0
UNLIMITED = 1_000_000
LARGE_PODS = 10_700
LARGE_CONFIG_MAPS = 20_000
PADDING = 3_000
"""Brings a stored pod to 6.6 kB, so that the large store's pods are 71 MB in all."""


class Process(Protocol):
    """The server's process, where it can be looked at."""

    def cpu(self) -> float:
        """The seconds of CPU that it has used."""
        ...

    def memory(self) -> float:
        """Megabytes."""
        ...


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

    def __init__(self, config: ClientConfig, namespace: str, process: Process | None) -> None:
        self.target = load.Target.of(config)
        self.base = f"/api/v1/namespaces/{namespace}"
        self._process = process

    async def creates(
        self, resource: str, make: Callable[[str], bytes], count: int = UNLIMITED
    ) -> load.Result:
        prefix = secrets.token_hex(4)

        def request(index: int) -> bytes:
            body = make(f"{prefix}-{index}")
            return self.target.request("POST", f"{self.base}/{resource}", body)

        seconds = SECONDS if count == UNLIMITED else 600.0
        return await self._run(request, CONNECTIONS, count, seconds)

    async def repeats(
        self, path: str, count: int = UNLIMITED, connections: int = CONNECTIONS
    ) -> load.Result:
        request = self.target.request("GET", self.base + path)
        seconds = SECONDS if count == UNLIMITED else 600.0
        return await self._run(lambda _: request, connections, count, seconds)

    async def _run(
        self, make: Callable[[int], bytes], connections: int, count: int, seconds: float
    ) -> load.Result:
        before = self._process.cpu() if self._process else 0.0
        result = await load.run(self.target, connections, make, count=count, seconds=seconds)
        if self._process:
            result.cpu = self._process.cpu() - before
        return result

    async def rows(self) -> list[Row]:
        """Rates, and what a request costs the server."""
        await self.creates("pods", pod, 500)
        first = await self.creates("pods", lambda name: pod("target"), 1)
        assert first.statuses[201] == 1, first.statuses
        gets = await self.repeats("/pods/target")
        lists = await self.repeats("/pods?limit=500")
        maps = await self.creates("configmaps", config_map)
        pods = await self.creates("pods", pod)
        return [
            *_rate("create ConfigMap, 32 connections", maps, 2, 2500),
            *_rate("create Pod, 32 connections", pods, 2, 1330),
            *_rate("GET pod, 32 connections", gets, 3, 3670),
            *_rate("LIST 500 pods, 32 connections", lists, 10, 81),
        ]

    async def large(self) -> list[Row]:
        """A store of the size of a big cluster's."""
        await self.creates("pods", lambda name: pod(name, PADDING), LARGE_PODS)
        await self.creates("configmaps", config_map, LARGE_CONFIG_MAPS)
        rows = []
        if self._process:
            rows.append(Row("memory, large store", self._process.memory(), "MB", 300, 1507))
        lists = await self.repeats("/pods", count=7, connections=1)
        number = sum(lists.statuses.values())
        size = lists.received / number / 1e6
        rows.append(Row(f"LIST all pods, {size:.0f} MB", lists.quantile(0.5), "s", 0.1, 0.9))
        if self._process:
            rows.append(Row("  CPU of the server for one", lists.cpu / number, "s"))
            memory = self._process.memory()
            rows.append(Row("memory after these lists", memory, "MB", 300, 1507))
        return rows


def _rate(what: str, result: load.Result, factor: int, upstream: float) -> list[Row]:
    rows = [Row(what, result.rate, "/s", factor * upstream, upstream)]
    if result.cpu:
        rows.append(Row("  CPU of the server for one", result.cpu_each * 1e6, "µs"))
    return rows


async def measure(
    config: ClientConfig,
    *,
    rates: bool = True,
    large: bool = False,
    process: Process | None = None,
) -> list[Row]:
    """The figures, from a namespace that is made and deleted for it."""
    namespace = f"bench-{secrets.token_hex(4)}"
    async with Client(config) as client:
        namespaces = client.dynamic("", "v1", "namespaces", namespaced=False)
        await namespaces.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        try:
            await _ensure_account(client, namespace)
            bench = ApiBench(config, namespace, process)
            rows = await bench.rows() if rates else []
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
    show(uvloop.run(measure(config, large=arguments.large)))


if __name__ == "__main__":
    main()
