"""What random histories have found, told in a few steps each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import pytest

from .converged import is_ready
from .steps import PREFIX, namespace_made, path_of, put, template_of
from .virtual import run_virtually
from .wire import WireClient
from .world import CONTROLLERS, NODES, running_world


def test_pods_that_become_ready_say_so_once() -> None:
    """A patch that leaves out a condition's reason keeps the old one, which is then wrong, and is
    written again and again by whoever compares."""

    async def story() -> None:
        async with running_world(1) as world:
            pod = {"apiVersion": "v1", "kind": "Pod", **template_of("once", 0)}
            pod["metadata"]["name"] = "once"
            pod["metadata"]["annotations"] = {f"{PREFIX}/ready": "2s", f"{PREFIX}/run": "30s"}
            pod["spec"]["restartPolicy"] = "Never"
            await world.call("POST", path_of("pods", "default"), pod)
            await asyncio.sleep(20)
            (found,) = world.objects("pods")
            assert is_ready(found)
            for condition in found["status"]["conditions"]:
                assert "reason" not in condition, condition
            path = path_of("pods", "default", "once", "status")
            writes = [each for each in world.wire.requests if each.path == path]
            assert Counter(each.who for each in writes)[NODES] <= 3

    run_virtually(story(), 1)


@pytest.mark.parametrize("resource", ["replicasets", "daemonsets", "jobs"])
def test_a_pod_is_made_once_though_the_answer_is_lost(
    resource: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether a request was carried out whose answer is lost: the controllers ask
    for the same pod again, and not for another one."""
    original = WireClient._fault
    lost: list[str] = []

    def fault(self: WireClient, method: str) -> object:
        request = self._wire.requests[-1]
        is_pod = request.path.endswith("/namespaces/one/pods") and method == "POST"
        if is_pod and request.who == CONTROLLERS and len(lost) < 2:
            lost.append(request.path)
            return "after" if len(lost) == 1 else original(self, method)
        return original(self, method)

    monkeypatch.setattr(WireClient, "_fault", fault)
    selector = {"matchLabels": {"app": "some"}}
    specs: Mapping[str, dict[str, object]] = {
        "replicasets": {"replicas": 3, "selector": selector},
        "daemonsets": {"selector": selector},
        "jobs": {"parallelism": 3, "completions": 3},
    }

    async def story() -> None:
        async with running_world(1) as world:
            world.wire.weather.lag = 4.0
            world.wire.weather.slow = "/api/v1/pods"
            # Watches take up a lag when they begin.
            world.kill(CONTROLLERS)
            await asyncio.sleep(20)
            await namespace_made(world, "one")
            template = template_of("some", 0)
            if resource == "jobs":
                template["spec"]["restartPolicy"] = "Never"
            await put(world, resource, "one", "some", {**specs[resource], "template": template})
            await asyncio.sleep(60)
            assert lost
            pods = [pod["metadata"]["name"] for pod in world.objects("pods")]
            deleted = [each for each in world.wire.requests if each.method == "DELETE"]
            assert len(pods) == (4 if resource == "daemonsets" else 3)
            assert not [each for each in deleted if "/pods/" in each.path]

    run_virtually(story(), 1)


@pytest.mark.parametrize("resource", ["replicasets", "statefulsets", "daemonsets"])
def test_pods_become_available_though_others_cannot_be_made(resource: str) -> None:
    """Whoever is refused some pods by a quota asks ever less often, and still looks after those it
    has: upstream's controllers come back when a pod that became ready is to count as available."""
    field = "numberAvailable" if resource == "daemonsets" else "availableReplicas"
    template = template_of("some", 0)
    template["metadata"]["annotations"] = {
        f"{PREFIX}/start": "0s", f"{PREFIX}/ready": "0s",
        f"{PREFIX}/unready-every": "100s", f"{PREFIX}/unready-for": "5s",
    }  # fmt: skip
    spec: dict[str, object] = {
        "selector": {"matchLabels": {"app": "some"}}, "template": template, "minReadySeconds": 3,
    }  # fmt: skip
    if resource != "daemonsets":
        spec["replicas"] = 3
    if resource == "statefulsets":
        spec |= {"serviceName": "some", "podManagementPolicy": "Parallel"}

    async def story() -> None:
        async with running_world(1) as world:
            await namespace_made(world, "one")
            await put(world, "resourcequotas", "one", "few", {"hard": {"pods": "2"}})
            await asyncio.sleep(2)
            await put(world, resource, "one", "some", spec)

            def available() -> int:
                (found,) = world.objects(resource, "apps")
                return int(found["status"].get(field, 0))

            await asyncio.sleep(102)
            assert available() == 0
            await asyncio.sleep(10)
            assert available() == 2

    run_virtually(story(), 1)


def test_a_job_ends_at_its_deadline_though_its_pods_cannot_be_made() -> None:
    """Not when it next asks for them, which is up to a minute later."""
    template = template_of("some", 0)
    template["spec"]["restartPolicy"] = "Never"

    async def story() -> None:
        async with running_world(1) as world:
            await namespace_made(world, "one")
            await put(world, "resourcequotas", "one", "none", {"hard": {"pods": "0"}})
            await asyncio.sleep(2)
            spec = {"template": template, "activeDeadlineSeconds": 100}
            await put(world, "jobs", "one", "some", spec)
            await asyncio.sleep(105)
            (found,) = world.objects("jobs", "batch")
            reasons = [each["reason"] for each in found["status"].get("conditions", ())]
            assert reasons == ["DeadlineExceeded", "DeadlineExceeded"]

    run_virtually(story(), 1)
