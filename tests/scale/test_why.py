"""`navarch why` of pods on simulated nodes: what keeps them from a node, read through the API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.scale.test_simulated import AllowEverything, Nobody
from tests.tasks import running

from navarch.api.objects import from_object
from navarch.api.types.apps_v1 import Deployment
from navarch.api.types.autoscaling_v2 import HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec
from navarch.api.types.core_v1 import Namespace, Node, Pod, PodCondition
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.apiserver.contracts import Attributes, Decision
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.security import Security
from navarch.apiserver.server import Server
from navarch.cli.why.reading import NotThereError, Question, Reader
from navarch.cli.why.report import Report, State
from navarch.cli.why.targets import UnknownTypeError, target_of
from navarch.client import Client, ClientConfig
from navarch.controllers.manager import ManagerOptions, run_controllers
from navarch.node.simulated import SimulatedOptions, run_nodes
from navarch.scheduler.main import run_scheduler
from navarch.scheduler.profiles import default_profile
from navarch.scheduler.scheduler import Settings
from navarch.store.memory import open_memory_store

PROFILES = {"default-scheduler": default_profile()}
NODES = """
apiVersion: navarch.dev/v1alpha1
kind: SimulatedNodes
nodes:
- {name: small, count: 4, capacity: {cpu: 4, memory: 8Gi}, zones: [a, b]}
- {name: gpu, count: 2, capacity: {cpu: 8, memory: 8Gi}, taints: ["dedicated=gpu:NoSchedule"]}
"""


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    server = Server(
        ServerOptions(port=0), open_memory_store(), Security(Nobody(), AllowEverything())
    )
    await server.start()
    try:
        async with Client(ClientConfig(server.url)) as client:
            await client.resource(Namespace).create(Namespace(metadata=ObjectMeta(name="shop")))
            yield client
    finally:
        await server.stop()


async def asked(client: Client, *words: str, namespace: str = "shop") -> Report:
    question = Question(target_of([*words]), namespace, profiles=PROFILES)
    return await Reader(client, question).report()


def pod(name: str, *, requests: dict[str, str] | None = None, **spec: Any) -> Pod:
    container = {"name": "c", "image": "i", "resources": {"requests": requests or {}}}
    meta = {"name": name, "namespace": "shop", "labels": {"app": name}}
    return from_object(Pod, {"metadata": meta, "spec": {"containers": [container], **spec}})


async def settled(client: Client, name: str) -> Pod:
    """The pod once the scheduler has spoken."""
    async with asyncio.timeout(60):
        async for event in client.resource(Pod).watch(
            "shop", field_selector=f"metadata.name={name}"
        ):
            conditions = {each.type: each for each in event.object.status.conditions}
            told = conditions.get("PodScheduled")
            phase = event.object.status.phase
            if told is not None and (told.status == "False" or phase == "Running"):
                return event.object
    raise AssertionError("the watch ended")


async def test_what_keeps_pods_from_nodes(client: Client, tmp_path: Any) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text(NODES)
    async with running(
        run_controllers(client, ManagerOptions("", ("nodelifecycle",))),
        run_scheduler(client, Settings(), 1),
        run_nodes(client, SimulatedOptions("", config=str(file))),
    ):
        async with asyncio.timeout(60):
            there = set()
            async for event in client.resource(Node).watch():
                there.add(event.object.metadata.name)
                if len(there) == 6:
                    break
        spread = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                  "whenUnsatisfiable": "DoNotSchedule", "minDomains": 3,
                  "labelSelector": {"matchExpressions": [
                      {"key": "app", "operator": "In", "values": ["fine", "spread"]}]}}  # fmt: skip
        pods = {
            "fine": pod("fine", nodeSelector={"topology.kubernetes.io/zone": "a"}),
            "cpu": pod("cpu", requests={"cpu": "20"}),
            "label": pod("label", nodeSelector={"disk": "ssd"}),
            "gated": pod("gated", schedulingGates=[{"name": "example.com/ok"}]),
            "claim": pod("claim", volumes=[
                {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]),
            "spread": pod("spread", topologySpreadConstraints=[spread],
                          nodeSelector={"topology.kubernetes.io/zone": "a"}),
            "special": pod("special", schedulerName="special"),
        }  # fmt: skip
        expected = {
            "fine": "runs on small-",
            "cpu": "none of 6 nodes can take it: 4 nodes: cpu asks 20, more than these have in "
            "all (at most 4, small-0); 2 nodes: taint dedicated=gpu:NoSchedule",
            "label": "4 nodes: wants disk=ssd (has no such label); 2 nodes: taint dedicated=gpu",
            "gated": "it waits at 1 scheduling gate (example.com/ok)",
            "claim": "its claim data does not exist",
            "spread": "topology.kubernetes.io/zone=a has 1 such pod(s), the fewest is 0 "
            "(only 1 of minDomains 3 exist), maxSkew 1",
            "special": "it asks for scheduler special, and no such scheduler answers",
        }
        for name, each in pods.items():
            await client.resource(Pod).create(each)
            if name != "special":
                await settled(client, name)
        for name, text in expected.items():
            report = await asked(client, name)
            assert text in report.verdict.text, name
            own = await client.resource(Pod).get(name, "shop")
            told = next((c for c in own.status.conditions if c.type == "PodScheduled"), None)
            if told is not None and told.reason == "Unschedulable":
                # The scheduler itself and the explanation count the same nodes.
                assert report.data["placement"]["message"] == told.message
        with pytest.raises(NotThereError) as caught:
            await asked(client, "fine", namespace="default")
        assert "namespace shop" in caught.value.advice
        for word in ("nothing/x", "nodes/x"):
            with pytest.raises(UnknownTypeError):
                await asked(client, word)
        with pytest.raises(NotThereError):
            await asked(client, "a=b,c\\")


async def test_of_an_autoscaler_that_is_told_what_it_scales(client: Client) -> None:
    scaler = HorizontalPodAutoscaler(
        metadata=ObjectMeta(name="web", namespace="shop"),
        spec=from_object(HorizontalPodAutoscalerSpec, {"maxReplicas": 2, "scaleTargetRef": {
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "front"}}),
    )  # fmt: skip
    await client.resource(HorizontalPodAutoscaler).create(scaler)
    report = await asked(client, "hpa/web")
    assert "scales nothing: there is no Deployment front" in report.verdict.text
    body = {
        "metadata": {"name": "front", "namespace": "shop"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    }  # fmt: skip
    front = await client.resource(Deployment).create(from_object(Deployment, body))
    report = await asked(client, "hpa/web")
    assert "Deployment front has no pods: it asks for 0 replicas" in report.verdict.text
    owner = OwnerReference(
        apiVersion="apps/v1", kind="Deployment", name="front", uid=front.metadata.uid,
        controller=True,
    )  # fmt: skip
    mine = pod("front-1")
    mine.metadata.ownerReferences = [owner]
    await client.resource(Pod).create(mine)
    report = await asked(client, "hpa/web")
    assert "Pod front-1 is not running" in report.verdict.text


class OwnNamespaceOnly:
    """Lets everybody do everything in namespaces, and nothing beyond them."""

    is_strict = False

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        is_beyond = attributes.info.is_resource and not attributes.info.namespace
        return (Decision.DENY if self.is_strict and is_beyond else Decision.ALLOW), ""


async def test_without_rights_beyond_the_namespace() -> None:
    rights = OwnNamespaceOnly()
    server = Server(ServerOptions(port=0), open_memory_store(), Security(Nobody(), rights))
    await server.start()
    try:
        async with Client(ClientConfig(server.url)) as client:
            await client.resource(Namespace).create(Namespace(metadata=ObjectMeta(name="shop")))
            created = await client.resource(Pod).create(pod("mine"))
            message = "0/3 nodes are available: 3 Insufficient cpu."
            created.status.conditions.append(
                PodCondition(
                    type="PodScheduled", status="False", reason="Unschedulable", message=message
                )
            )
            await client.resource(Pod).update_status(created)
            rights.is_strict = True
            report = await asked(client, "mine")
    finally:
        await server.stop()
    assert report.verdict.text == f"pod mine is not running: {message}"
    text = report.text(200, colour=False)
    assert "the rules cannot be worked out: nodes is forbidden" in text


async def test_it_takes_a_moment_with_thousands_of_nodes(client: Client) -> None:
    nodes, pods = client.resource(Node), client.resource(Pod)

    def node(number: int) -> Node:
        return from_object(Node, {
            "metadata": {"name": f"n{number}"},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}] if number % 2 else []},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}})  # fmt: skip

    await asyncio.gather(*(nodes.create(node(number)) for number in range(2000)))
    await pods.create(pod("big", requests={"cpu": "3"}))
    began = time.monotonic()
    report = await asked(client, "big")
    seconds = time.monotonic() - began
    assert report.verdict.state is State.PENDING
    assert "none of 2000 nodes can take it: 1000 nodes: " in report.verdict.text
    assert len(report.text(100, colour=False).splitlines()) < 40
    assert seconds < 20  # under one on a quiet machine, the server's part included
