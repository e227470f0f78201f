"""How fast an API server is: `python -m bench.api [--kubeconfig FILE] [--against FILE] [--large]`.

With `--against`, two servers are measured in turns in one run, so that whatever else the machine
does slows both: the budgets are then multiples of what the other one did. The ids of their
processes (`--pids`, `--against-pids`) add what a request costs them.

Works in a namespace of its own, which it deletes. The pods it creates name a scheduler that does
not exist, so nothing else happens to them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import secrets
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import msgspec
import uvloop

from bench import load
from bench.process import Processes
from bench.report import Row, show
from navarch.api.errors import ApiError
from navarch.client.client import Client
from navarch.client.config import ClientConfig, Pem

CONNECTIONS = 32
SECONDS = 4.0
ROUNDS = 3
"""Of two servers, in turns; each figure is the median."""
UNLIMITED = 1_000_000
WATCHERS = 1000
WATCHED_EVENTS = 50
LARGE_PODS = 10_700
LARGE_CONFIG_MAPS = 20_000
PADDING = 3_000
"""Brings a stored pod to 6.6 kB, so that the large store's pods are 71 MB in all."""


def config_map(name: str, kind: str = "ConfigMap") -> bytes:
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name},
            "data": {"key": "x" * 200},
        }
    )


def secret(name: str) -> bytes:
    return config_map(name, "Secret")


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

    def __init__(self, config: ClientConfig, namespace: str, processes: Processes) -> None:
        self.target = load.Target.of(config)
        self.base = f"/api/v1/namespaces/{namespace}"
        self._processes = processes

    async def prepare(self) -> None:
        """The pods that are read."""
        await self.creates("pods", pod, 500)
        first = await self.creates("pods", lambda name: pod("target"), 1)
        assert first.statuses[201] == 1, first.statuses

    async def creates(
        self,
        resource: str,
        make: Callable[[str], bytes],
        count: int = UNLIMITED,
        connections: int = CONNECTIONS,
    ) -> load.Result:
        prefix = secrets.token_hex(4)

        def request(index: int) -> bytes:
            body = make(f"{prefix}-{index}")
            return self.target.request("POST", f"{self.base}/{resource}", body)

        seconds = SECONDS if count == UNLIMITED else 600.0
        return await self._run(request, connections, count, seconds)

    async def repeats(
        self, path: str, count: int = UNLIMITED, connections: int = CONNECTIONS
    ) -> load.Result:
        request = self.target.request("GET", self.base + path)
        seconds = SECONDS if count == UNLIMITED else 600.0
        return await self._run(lambda _: request, connections, count, seconds)

    async def _run(
        self, make: Callable[[int], bytes], connections: int, count: int, seconds: float
    ) -> load.Result:
        before = self._processes.cpu()
        result = await load.run(self.target, connections, make, count=count, seconds=seconds)
        result.cpu = self._processes.cpu() - before
        return result

    async def fan_out(self) -> list[Row]:
        """Events to many watchers of one resource, of which there is nothing before."""
        request = self.target.request("GET", f"{self.base}/secrets?watch=1")
        async with load.watching(self.target, WATCHERS, request) as watchers:
            await watchers.wait_quiet()
            seen, before = watchers.events, self._processes.cpu()
            began = asyncio.get_running_loop().time()
            for number in range(1, WATCHED_EVENTS + 1):
                # One at a time: a server may end watches that cannot keep up, and all of them
                # are served by this one process.
                await self.creates("secrets", secret, 1, connections=1)
                await watchers.wait_for(seen + number * WATCHERS)
            seconds = asyncio.get_running_loop().time() - began
            expected = WATCHERS * WATCHED_EVENTS
            cpu = self._processes.cpu() - before
        rows = [Row(f"events to {WATCHERS} watchers", expected / seconds, "/s")]
        if cpu:
            rows.append(Row("  CPU of the server for one", cpu / expected * 1e6, "µs"))
        return rows

    async def fill(self) -> list[Row]:
        """A store of the size of a big cluster's."""
        await self.creates("pods", lambda name: pod(name, PADDING), LARGE_PODS)
        await self.creates("configmaps", config_map, LARGE_CONFIG_MAPS)
        return self._memory("memory, large store")

    async def list_all(self) -> list[Row]:
        lists = await self.repeats("/pods", count=7, connections=1)
        number = sum(lists.statuses.values())
        rows = [
            Row(f"LIST all {LARGE_PODS} pods", lists.quantile(0.5), "s", 0.1, 0.9),
            Row("  size of one", lists.received / number / 1e6, "MB"),
        ]
        if lists.cpu:
            rows.append(Row("  CPU of the server for one", lists.cpu / number, "s"))
        return rows + self._memory("memory after these lists")

    def _memory(self, what: str) -> list[Row]:
        if not self._processes:
            return []
        return [Row(what, self._processes.memory(), "MB", 300, 1507)]


Step = Callable[[ApiBench], Awaitable[list[Row]]]


def rate(
    what: str, factor: float, upstream: float, run: Callable[[ApiBench], Awaitable[load.Result]]
) -> Step:
    """A step that measures a rate; `upstream` is what its server once did where nothing is measured
    beside ours."""

    async def step(bench: ApiBench) -> list[Row]:
        result = await run(bench)
        what_each = f"{what}, {CONNECTIONS} connections"
        rows = [Row(what_each, result.rate, "/s", factor * upstream, upstream, factor)]
        if result.cpu:
            rows.append(Row("  CPU of the server for one", result.cpu_each * 1e6, "µs"))
        return rows

    return step


RATES: tuple[Step, ...] = (
    rate("GET pod", 3, 3670, lambda bench: bench.repeats("/pods/target")),
    rate("LIST 500 pods", 10, 81, lambda bench: bench.repeats("/pods?limit=500")),
    rate("create ConfigMap", 2, 2500, lambda bench: bench.creates("configmaps", config_map)),
    rate("create Pod", 2, 1330, lambda bench: bench.creates("pods", pod)),
)


async def measure(
    *sides: tuple[ClientConfig, Processes], rates: bool = True, large: bool = False
) -> list[Row]:
    """The figures of the first server, beside those of the second if there is one."""
    rows: list[Row] = []
    async with contextlib.AsyncExitStack() as stack:
        benches = [await stack.enter_async_context(opened(*side)) for side in sides]
        rounds = ROUNDS if len(benches) > 1 else 1
        if rates:
            for bench in benches:
                await bench.prepare()
            for step in RATES:
                rows += await in_turns(step, benches, rounds)
            rows += await in_turns(ApiBench.fan_out, benches, 1)
        if large:
            rows += await in_turns(ApiBench.fill, benches, 1)
            rows += await in_turns(ApiBench.list_all, benches, rounds)
    return rows


async def in_turns(step: Step, benches: Sequence[ApiBench], rounds: int) -> list[Row]:
    """One step, by each server in turn; of several rounds, the medians."""
    found: list[list[list[Row]]] = [[] for _ in benches]
    for _ in range(rounds):
        for bench, results in zip(benches, found, strict=True):
            results.append(await step(bench))
    ours, *others = [[_median(same) for same in zip(*each, strict=True)] for each in found]
    theirs = {row.what: row for row in others[0]} if others else {}
    return [row.against(theirs[row.what]) if row.what in theirs else row for row in ours]


def _median(rows: Sequence[Row]) -> Row:
    return replace(rows[0], value=statistics.median(row.value for row in rows))


@contextlib.asynccontextmanager
async def opened(config: ClientConfig, processes: Processes) -> AsyncIterator[ApiBench]:
    """A namespace that is made and deleted for the measurements."""
    namespace = f"bench-{secrets.token_hex(4)}"
    async with Client(config) as client:
        namespaces = client.dynamic("", "v1", "namespaces", namespaced=False)
        await namespaces.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        try:
            await _ensure_account(client, namespace)
            yield ApiBench(config, namespace, processes)
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


def add_side(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """The options that name a server."""
    name = f"--{prefix}-" if prefix else "--"
    parser.add_argument(f"--{prefix or 'kubeconfig'}", default="", metavar="KUBECONFIG")
    parser.add_argument(f"{name}token", default="", help="instead of the kubeconfig's user")
    parser.add_argument(f"{name}pids", default="", help="of its processes, with commas between")


def side_of(arguments: argparse.Namespace, prefix: str = "") -> tuple[ClientConfig, Processes]:
    """A server as `add_side`'s options name it."""
    values = vars(arguments)
    name = f"{prefix}_" if prefix else ""
    config = ClientConfig.load(values[prefix or "kubeconfig"])
    if token := values[f"{name}token"]:
        config = replace(config, token=token, token_file="", certificate=Pem(), key=Pem())
    pids = values[f"{name}pids"]
    return config, Processes(tuple(map(int, pids.split(","))) if pids else ())


def allow_connections() -> None:
    """As many open files as the watchers need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * WATCHERS)), hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_side(parser)
    add_side(parser, "against")
    parser.add_argument("--large", action="store_true", help="also with 10 700 pods (a minute)")
    arguments = parser.parse_args()
    allow_connections()
    sides = [side_of(arguments)]
    if arguments.against:
        sides.append(side_of(arguments, "against"))
    show(uvloop.run(measure(*sides, large=arguments.large)))


if __name__ == "__main__":
    main()
