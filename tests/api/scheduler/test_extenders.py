"""Extenders: a local HTTP server that has a say in what the scheduler does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from tests.api.webhook_server import certificates

from navarch.api.types.core_v1 import Binding, ObjectReference, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig
from navarch.scheduler.configuration.files import parse
from navarch.scheduler.main import run_scheduler, settings_of

from .test_binding import add_node, node, pod, when

Reply = Callable[[Any], Any]


@dataclass
class FakeExtender:
    """Answers by verb, and keeps what it was asked."""

    replies: dict[str, Reply]
    asked: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        verb, body = request.match_info["verb"], await request.json()
        self.asked.append((verb, body))
        answer = self.replies[verb](body)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, int):
            return web.Response(status=answer)
        # Not every extender says that it answers in JSON.
        return web.Response(text=json.dumps(answer))

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]


@asynccontextmanager
async def serving(replies: dict[str, Reply], context: Any = None) -> AsyncIterator[FakeExtender]:
    extender = FakeExtender(replies)
    app = web.Application()
    app.router.add_post("/e/{verb}", extender.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    address = runner.addresses[0]
    extender.url = f"{'https' if context else 'http'}://127.0.0.1:{address[1]}/e/"
    try:
        yield extender
    finally:
        await runner.cleanup()


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url)) as client:
        for name in "abc":
            await add_node(client, node(name))
        yield client


@asynccontextmanager
async def scheduling(client: Client, *extenders: dict[str, Any]) -> AsyncIterator[None]:
    document = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "extenders": [*extenders],
    }
    settings = settings_of(parse(yaml.safe_dump(document).encode()))
    task = asyncio.create_task(run_scheduler(client, settings, 1))
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_bound(pod: Pod) -> bool:
    return bool(pod.spec.nodeName)


def says(text: str) -> Callable[[Pod], bool]:
    return lambda pod: any(text in each.message for each in pod.status.conditions)


async def placed(client: Client, wanted: Pod) -> str:
    await client.resource(Pod).create(wanted)
    return (await when(client, wanted.metadata.name, is_bound)).spec.nodeName


async def test_one_that_knows_the_nodes_gets_their_names(client: Client) -> None:
    """And its answer counts in whatever case it is written."""
    async with serving({"filter": lambda body: {"nodenames": ["b"]}}) as extender:
        config = {"urlPrefix": extender.url, "filterVerb": "filter", "nodeCacheCapable": True}
        async with scheduling(client, config):
            assert await placed(client, pod("p")) == "b"
    ((_, body),) = extender.asked
    assert (sorted(body["NodeNames"]), body["Nodes"]) == (["a", "b", "c"], None)
    assert body["Pod"]["metadata"]["name"] == "p"
    assert body["Pod"]["spec"]["containers"][0]["image"] == "busybox"


async def test_others_get_the_nodes(client: Client) -> None:
    def keep_c(body: Any) -> Any:
        items = [each for each in body["Nodes"]["items"] if each["metadata"]["name"] == "c"]
        return {"Nodes": {"items": items}}

    async with serving({"filter": keep_c}) as extender:
        config = {"urlPrefix": extender.url, "filterVerb": "filter"}
        async with scheduling(client, config):
            assert await placed(client, pod("p")) == "c"
    assert extender.asked[0][1]["NodeNames"] is None


async def test_why_nodes_are_out(client: Client) -> None:
    """In the extender's words; what is out for good is not preempted on."""
    answer = {
        "NodeNames": [],
        "FailedNodes": {"a": "no licence", "b": "too far"},
        "FailedAndUnresolvableNodes": {"b": "no licence", "c": "no licence"},
    }
    async with serving({"filter": lambda body: answer}) as extender:
        config = {"urlPrefix": extender.url, "filterVerb": "filter", "nodeCacheCapable": True}
        async with scheduling(client, config):
            await client.resource(Pod).create(pod("p"))
            await when(
                client,
                "p",
                says(
                    "0/3 nodes are available: 3 no licence. no new claims to deallocate, "
                    "preemption: 0/3 nodes are available: 1 No preemption victims found for "
                    "incoming pod, 2 Preemption is not helpful for scheduling."
                ),
            )


async def test_scores_are_added(client: Client) -> None:
    scores = [{"Host": "a", "Score": 1}, {"Host": "c", "Score": 10}]
    async with serving({"prioritize": lambda body: scores}) as extender:
        config = {"urlPrefix": extender.url, "prioritizeVerb": "prioritize", "weight": 5}
        async with scheduling(client, config):
            for number in range(3):
                assert await placed(client, pod(f"p{number}", "1")) == "c"


async def test_scores_of_one_that_fails_do_not_count(client: Client) -> None:
    async with serving({"prioritize": lambda body: 500}) as extender:
        config = {"urlPrefix": extender.url, "prioritizeVerb": "prioritize", "weight": 5}
        async with scheduling(client, config):
            assert await placed(client, pod("p"))
    assert extender.verbs() == ["prioritize"]


async def test_managed_resources(client: Client) -> None:
    """Nodes need not have what the extender alone looks after."""
    async with serving({"filter": lambda body: {"NodeNames": ["b"]}}) as extender:
        managed = [{"name": "x.io/d", "ignoredByScheduler": True}]
        config = {
            "urlPrefix": extender.url,
            "filterVerb": "filter",
            "nodeCacheCapable": True,
            "managedResources": managed,
        }
        async with scheduling(client, config):
            await placed(client, pod("plain"))
            assert extender.asked == []
            wanting = pod("wanting")
            resources = wanting.spec.containers[0].resources
            resources.requests["x.io/d"] = resources.limits["x.io/d"] = "1"
            assert await placed(client, wanting) == "b"
    assert extender.verbs() == ["filter"]


async def hang(body: Any) -> Any:
    await asyncio.sleep(60)


FAILURES = [
    pytest.param(lambda body: 503, "failed filter with extender at URL ", id="status"),
    pytest.param(lambda body: {"Error": "out of ideas"}, "out of ideas", id="error"),
    pytest.param(
        lambda body: {"NodeNames": ["z"]},
        'claims a filtered node "z" which is not found in the input node list',
        id="strange node",
    ),
    pytest.param(hang, "context deadline exceeded", id="no answer"),
]


@pytest.mark.parametrize(("reply", "text"), FAILURES)
async def test_one_that_fails(client: Client, reply: Reply, text: str) -> None:
    """Fails the attempt; or is passed over, and asked last, if it may fail."""
    async with serving({"filter": reply}) as extender:
        config = {
            "urlPrefix": extender.url,
            "filterVerb": "filter",
            "nodeCacheCapable": True,
            "httpTimeout": "200ms",
        }
        async with scheduling(client, config):
            await client.resource(Pod).create(pod("p"))
            found = await when(client, "p", says(text))
            assert found.status.conditions[0].reason == "SchedulerError"
        async with serving({"filter": lambda body: {"NodeNames": ["c"]}}) as other:
            better = {**config, "urlPrefix": other.url}
            async with scheduling(client, {**config, "ignorable": True}, better):
                assert (await when(client, "p", is_bound)).spec.nodeName == "c"
    assert extender.asked[-1][1]["NodeNames"] == ["c"]


async def test_one_binds(client: Client) -> None:
    async def bind(body: Any) -> Any:
        meta = ObjectMeta(name=body["PodName"], namespace=body["PodNamespace"], uid=body["PodUID"])
        binding = Binding(metadata=meta, target=ObjectReference(kind="Node", name=body["Node"]))
        binding.metadata.annotations = {"bound-by": "extender"}
        pods = client.resource(Pod)
        await pods.post_subresource(meta.name, meta.namespace, "binding", binding)
        return {}

    async with serving({"bind": bind}) as extender:
        config = {"urlPrefix": extender.url, "bindVerb": "bind"}
        async with scheduling(client, config):
            await client.resource(Pod).create(pod("p"))
            found = await when(client, "p", is_bound)
    assert found.metadata.annotations["bound-by"] == "extender"


async def test_one_that_does_not_bind(client: Client) -> None:
    replies: list[Any] = [{"Error": "no ink"}, 404]
    async with serving({"bind": lambda body: replies[0]}) as extender:
        config = {"urlPrefix": extender.url, "bindVerb": "bind"}
        async with scheduling(client, config):
            await client.resource(Pod).create(pod("p"))
            await when(client, "p", says("no ink"))
        replies.pop(0)
        async with scheduling(client, {**config, "ignorable": True}):
            await when(client, "p", is_bound)


async def fill(client: Client) -> None:
    for name in "abc":
        low = pod(f"low-{name}", "4")
        low.spec.nodeName = name
        await client.resource(Pod).create(low)


def is_nominated(pod: Pod) -> bool:
    return bool(pod.status.nominatedNodeName)


@pytest.mark.parametrize("is_short", [False, True], ids=["whole pods", "uids"])
async def test_whose_pods_may_go(client: Client, is_short: bool) -> None:
    def only_b(body: Any) -> Any:
        given = body["NodeNameToMetaVictims" if is_short else "NodeNameToVictims"]
        assert sorted(given) == ["a", "b", "c"]
        (victim,) = given["b"]["Pods"]
        uid = victim["UID"] if is_short else victim["metadata"]["uid"]
        return {"NodeNameToMetaVictims": {"b": {"Pods": [{"UID": uid}], "NumPDBViolations": 0}}}

    await fill(client)
    async with serving({"preempt": only_b}) as extender:
        config = {
            "urlPrefix": extender.url,
            "preemptVerb": "preempt",
            "nodeCacheCapable": is_short,
        }
        async with scheduling(client, config):
            high = pod("high", "4")
            high.spec.priority = 5
            await client.resource(Pod).create(high)
            found = await when(client, "high", lambda pod: is_nominated(pod) or is_bound(pod))
            assert found.status.nominatedNodeName == "b"


async def test_nobodys_pods_may_go(client: Client) -> None:
    await fill(client)
    async with serving({"preempt": lambda body: {"NodeNameToMetaVictims": {}}}) as extender:
        config = {"urlPrefix": extender.url, "preemptVerb": "preempt"}
        async with scheduling(client, config):
            high = pod("high", "4")
            high.spec.priority = 5
            await client.resource(Pod).create(high)
            await when(client, "high", says("preemption: no candidate node for preemption"))


async def test_certificates_are_looked_at_if_there_is_an_authority(
    client: Client, tmp_path: Path
) -> None:
    bundle, context = certificates(tmp_path, "127.0.0.1")
    other, _ = certificates(tmp_path, "127.0.0.2")
    async with serving({"filter": lambda body: {"NodeNames": ["a"]}}, context) as extender:
        config = {
            "urlPrefix": extender.url,
            "filterVerb": "filter",
            "nodeCacheCapable": True,
            "enableHTTPS": True,
        }
        async with scheduling(client, config):
            assert await placed(client, pod("open")) == "a"
        async with scheduling(client, {**config, "tlsConfig": {"caData": bundle}}):
            assert await placed(client, pod("known")) == "a"
        async with scheduling(client, {**config, "tlsConfig": {"caData": other}}):
            await client.resource(Pod).create(pod("unknown"))
            await when(client, "unknown", says("certificate verify failed"))
