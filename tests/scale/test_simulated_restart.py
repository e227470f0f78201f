"""Simulated nodes whose process ends and is started again over pods that have settled."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.scale.test_simulated import client as client
from tests.scale.test_simulated import pod, ready, watched
from tests.tasks import running

from navarch.api.types.core_v1 import Container, Pod
from navarch.client import Client, ClientConfig
from navarch.controllers.manager import ManagerOptions, run_controllers
from navarch.node.simulated import SimulatedOptions, run_nodes
from navarch.node.simulated.timetable import EXIT_CODE, PREFIX, RUN_SECONDS

NODES, PODS = 25, 200
PODS_PATH = "/api/v1/pods"
REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)
LABELS = re.compile(r'(\w+)="([^"]*)"')


class Listening(Client):
    """Remembers what was asked, in order, and tells when it has heard of all pods."""

    def __init__(self, config: ClientConfig) -> None:
        super().__init__(config)
        self.asked: list[str] = []
        self.knows_pods = asyncio.Event()

    async def request(self, method: str, path: str, **more: Any) -> bytes:
        self.asked.append(f"{method} {path}")
        answer = await super().request(method, path, **more)
        if path == PODS_PATH:
            self.knows_pods.set()
        return answer


async def writes(client: Client) -> dict[tuple[str, ...], float]:
    """How many the server has served, by verb, resource and subresource."""
    counts: dict[tuple[str, ...], float] = {}
    for labels, count in REQUESTS.findall((await client.request("GET", "/metrics")).decode()):
        told = dict(LABELS.findall(labels))
        if told["verb"] not in ("GET", "LIST", "WATCH", "CONNECT"):
            key = (told["verb"], told["resource"], told["subresource"])
            counts[key] = counts.get(key, 0) + float(count)
    return counts


def bound(name: str, **annotations: str) -> Pod:
    made = pod(name, "10m", **annotations)
    made.spec.nodeName = f"sim-{sum(map(ord, name)) % NODES}"
    return made


def in_all_states() -> list[Pod]:
    """Pods that stay as they are for good, or for longer than the test takes."""
    unready = bound("unready", **{f"{PREFIX}/ready": "3600s"})
    waiting = bound("waiting", **{f"{PREFIX}/waiting": "ImagePullBackOff"})
    hosts = bound("hosts")
    hosts.spec.hostNetwork = True
    prepared = bound("prepared")
    prepared.spec.initContainers = [
        Container(name="first", image="busybox"),
        Container(name="beside", image="busybox", restartPolicy="Always"),
    ]
    done = bound("done", **{RUN_SECONDS: "0"})
    failed = bound("failed", **{RUN_SECONDS: "0", EXIT_CODE: "3"})
    for ended in (done, failed):
        ended.spec.restartPolicy = "Never"
    refused = bound("refused", **{f"{PREFIX}/reject": "OutOfLuck"})
    plain = [bound(f"plain-{number}") for number in range(PODS)]
    return [unready, waiting, hosts, prepared, done, failed, refused, *plain]


def is_settled(found: Pod) -> bool:
    statuses = found.status.containerStatuses
    match found.metadata.name:
        case "unready":
            return any(each.state.running for each in statuses)
        case "waiting":
            return any(
                each.state.waiting and each.state.waiting.reason == "ImagePullBackOff"
                for each in statuses
            )
        case "done" | "failed" | "refused":
            return found.status.phase in ("Succeeded", "Failed")
        case _:
            return ready(found)


async def test_what_has_not_changed_is_not_written_again(client: Client) -> None:
    """Each node says first that it lives, before the pods are looked at, which may take a while;
    and then of no pod anything."""
    options = SimulatedOptions("", nodes=NODES)
    manager = ManagerOptions("", ("nodelifecycle", "nodeipam"), cluster_cidr="10.244.0.0/16")
    async with running(run_controllers(client, manager)):
        async with running(run_nodes(client, options)):
            made = in_all_states()
            await asyncio.gather(*(client.resource(Pod).create(each) for each in made))
            await watched(
                client,
                lambda pods: len(pods) == len(made) and all(map(is_settled, pods.values())),
            )
        before = await writes(client)
        anew = Listening(ClientConfig(client.config.server))
        async with anew, running(run_nodes(anew, options)):
            async with asyncio.timeout(60):
                await anew.knows_pods.wait()
            # Keys are handed out in order: when this one has come, all others have been looked at.
            await client.resource(Pod).create(bound("last"))
            await watched(client, lambda pods: "last" in pods and ready(pods["last"]))
            after = await writes(client)
        first = anew.asked[: anew.asked.index(f"GET {PODS_PATH}")]
    changed = {key: count - before.get(key, 0) for key, count in after.items()}
    assert changed.pop(("PATCH", "leases", "")) >= NODES
    assert {key: count for key, count in changed.items() if count} == {
        ("CREATE", "pods", ""): 1,
        ("PATCH", "pods", "status"): 1,
    }
    assert len({each for each in first if "/leases/sim-" in each}) == NODES
