"""What clients do with pods that run: they change, list and watch them, and take them away."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell
from tests.cluster.node.environment import RuntimeEnvironment, import_image
from tests.cluster.node.test_pod_life import FOREVER, is_ready
from tests.images.busybox import busybox_files

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Pod
from navarch.client.resource import PatchType
from navarch.node.images.oci import ImageConfig, ImageFile, build_image

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
CONTAINERS = "Containers should"
GENERATION = "Pods Extended (pod generation) Pod Generation"


@pytest.fixture(scope="module")
def tester(
    runtime_environment: RuntimeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """An image that by itself prints what it was called with, and then stays."""
    script = b'#!/bin/sh\necho "[$0${*:+ }$*]"; test "$1" = stay && exec sleep 1000; :\n'
    files = {name: ImageFile(script, mode=0o755) for name in ("tester", "tester-2")}
    target: Path = tmp_path_factory.mktemp("images") / "tester.tar"
    config = ImageConfig(entrypoint=["/tester"], cmd=["stay"])
    name = "docker.io/library/tester:1"
    import_image(
        runtime_environment, build_image(target, name, config, files={**busybox_files(), **files})
    )
    return name


@pytest.mark.conformance(
    f"{CONTAINERS} use the image defaults if command and args are blank [NodeConformance]",
    f"{CONTAINERS} be able to override the image's default arguments (container cmd) "
    "[NodeConformance]",
    f"{CONTAINERS} be able to override the image's default command (container entrypoint) "
    "[NodeConformance]",
    f"{CONTAINERS} be able to override the image's default command and arguments [NodeConformance]",
)
async def test_commands_of_images(cluster: Cluster, tester: str) -> None:
    cases: dict[str, tuple[Object, str]] = {
        "defaults": ({}, "[/tester stay]"),
        "arguments": ({"args": ["a", "b c"]}, "[/tester a b c]"),
        "command": ({"command": ["/tester-2"]}, "[/tester-2]"),
        "both": ({"command": ["/tester-2", "x"], "args": ["y"]}, "[/tester-2 x y]"),
    }
    base = {"image": tester, "imagePullPolicy": "Never"}
    containers = [{"name": name, **base, **fields} for name, (fields, _) in cases.items()]
    await cluster.create(pod("commands", *containers, restartPolicy="Never"))

    def has_ended(each: Pod) -> bool:
        states = {one.name: one.state for one in each.status.containerStatuses}
        defaults = states.pop("defaults", None)
        stays = defaults is not None and defaults.running is not None
        return stays and all(state.terminated is not None for state in states.values())

    done = await cluster.wait("commands", has_ended)
    said = {name: await cluster.logs(done, name) for name in cases}
    assert said == {name: text for name, (_, text) in cases.items()}


async def update(
    cluster: Cluster, name: str, change: Callable[[Object], None], subresource: str = ""
) -> Object:
    """Reads, changes and writes, again if somebody else has written meanwhile."""
    pods = cluster.client.dynamic("", "v1", "pods")
    while True:
        current = await pods.get(name, "default")
        change(current)
        try:
            return await pods.update(current, subresource=subresource)
        except ApiError as error:
            if not error.is_conflict:
                raise


async def names(cluster: Cluster, selector: str) -> list[str]:
    found = await cluster.client.resource(Pod).list("default", label_selector=selector)
    return [each.metadata.name for each in found.items]


def labelled(document: Object, **labels: str) -> Object:
    document["metadata"]["labels"] = labels
    return document


@pytest.mark.conformance(
    "Pods should be submitted and removed [NodeConformance]",
    "Pods should be updated [NodeConformance]",
    "Pods should get a host IP [NodeConformance]",
    "Pods should allow activeDeadlineSeconds to be updated [NodeConformance]",
    "Kubelet when scheduling a busybox command that always fails in a pod should be possible to "
    "delete [NodeConformance]",
)
async def test_pods_come_and_go(cluster: Cluster) -> None:
    assert await names(cluster, "time=1") == []
    watching = asyncio.create_task(story(cluster, "time=1"))
    false = {**shell("main", ""), "command": ["/bin/false"]}
    await cluster.create(pod("failing", false, restartPolicy="Never"))
    await cluster.create(labelled(pod("late", shell("main", FOREVER)), time="2"))
    await cluster.create(labelled(pod("submitted", shell("main", FOREVER)), time="1"))
    assert await names(cluster, "time=1") == ["submitted"]
    found = await cluster.wait("submitted", is_ready)
    assert ipaddress.ip_address(found.status.hostIP)
    assert [each.ip for each in found.status.hostIPs] == [found.status.hostIP]
    assert [each.ip for each in found.status.podIPs] == [found.status.podIP]
    await cluster.wait("late", is_ready)
    await update(cluster, "late", lambda each: each["metadata"]["labels"].update(time="3"))
    assert (await names(cluster, "time=2"), await names(cluster, "time=3")) == ([], ["late"])
    await update(cluster, "late", lambda each: each["spec"].update(activeDeadlineSeconds=1))
    await cluster.delete("submitted", grace=30)
    kinds, last = await asyncio.wait_for(watching, 60)
    assert (kinds[0], kinds[-1], {*kinds[1:-1]}) == ("ADDED", "DELETED", {"MODIFIED"})
    assert last.metadata.deletionTimestamp and last.metadata.deletionGracePeriodSeconds == 30
    assert await names(cluster, "time=1") == []
    ended = await cluster.wait("late", lambda each: each.status.phase == "Failed")
    assert (ended.status.reason, ended.status.message) == (
        "DeadlineExceeded", "Pod was active on the node longer than the specified deadline",
    )  # fmt: skip
    await cluster.wait("failing", lambda each: each.status.phase == "Failed")
    await cluster.delete("failing")

    async def is_gone() -> bool:
        found = await cluster.client.resource(Pod).list("default")
        return all(each.metadata.name != "failing" for each in found.items)

    await eventually(is_gone)


async def story(cluster: Cluster, selector: str) -> tuple[list[str], Pod]:
    """What a watcher from the beginning sees of a pod: the events, and the pod at its end."""
    kinds: list[str] = []
    pods = cluster.client.resource(Pod)
    begin = (await pods.list("default")).resource_version
    while True:
        async for event in pods.watch("default", label_selector=selector, resource_version=begin):
            kinds.append(event.type)
            if event.type == "DELETED":
                return kinds, event.object


@pytest.mark.conformance(
    "Pods should run through the lifecycle of Pods and PodStatus",
    "Pods should patch a pod status",
    "Pods should delete a collection of pods",
)
async def test_a_pod_and_its_status_are_changed(cluster: Cluster, tester: str) -> None:
    pods = cluster.client.dynamic("", "v1", "pods")
    await cluster.create(labelled(pod("patched", shell("main", FOREVER)), static="true"))
    for number in range(3):
        one = pod(f"one-{number}", shell("main", FOREVER), restartPolicy="Never")
        await cluster.create(labelled(one, type="one"))
    before = await cluster.wait("patched", is_ready)
    await pods.patch(
        "patched", "default",
        {"metadata": {"labels": {"test": "patched"}},
         "spec": {"containers": [{"name": "main", "image": tester}]}},
        patch_type=PatchType.STRATEGIC,
    )  # fmt: skip
    found = await cluster.get("patched")
    assert found.metadata.labels == {"static": "true", "test": "patched"}
    assert found.spec.containers[0].image == tester
    assert int(before.metadata.resourceVersion) < int(found.metadata.resourceVersion)

    def runs_the_other(each: Pod) -> bool:
        status = each.status.containerStatuses[0]
        return is_ready(each) and (status.image, status.restartCount) == (tester, 1)

    await cluster.wait("patched", runs_the_other)

    def make_unready(each: Object) -> None:
        conditions = [one for one in each["status"]["conditions"]
                      if one["type"] in ("Ready", "ContainersReady")]  # fmt: skip
        assert [one["status"] for one in conditions] == ["True", "True"]
        for one in conditions:
            one["status"] = "False"

    answer = await update(cluster, "patched", make_unready, "status")
    states = {each["type"]: each["status"] for each in answer["status"]["conditions"]}
    assert (states["Ready"], states["ContainersReady"]) == ("False", "False")
    await cluster.wait("patched", is_ready)  # the node knows better
    status = {"message": "Patched by a test", "reason": "Test"}
    answer = await pods.patch(
        "patched", "default",
        {"metadata": {"annotations": {"patchedstatus": "true"}}, "status": status},
        subresource="status",
    )  # fmt: skip
    assert answer["status"].items() >= status.items()
    watching = asyncio.create_task(cluster.wait_gone("patched"))
    await pods.delete_collection("default", label_selector="static=true")
    assert (await watching).metadata.labels["static"] == "true"
    with pytest.raises(ApiError) as caught:
        await cluster.get("patched")
    assert caught.value.is_not_found
    for number in range(3):
        await cluster.wait(f"one-{number}", is_ready)
    await pods.delete_collection("default", label_selector="type=one")

    async def have_gone() -> bool:
        return await names(cluster, "type=one") == []

    await eventually(have_gone)


def shorten(each: Object) -> None:
    each["spec"]["activeDeadlineSeconds"] -= 1


def observed(generation: int) -> Callable[[Pod], bool]:
    return lambda each: each.status.observedGeneration == generation


@pytest.mark.conformance(
    f"{GENERATION} pod generation should start at 1 and increment per update "
    "[MinimumKubeletVersion:1.34]",
    f"{GENERATION} custom-set generation on new pods and graceful delete",
    f"{GENERATION} issue 500 podspec updates and verify generation and observedGeneration "
    "eventually converge [MinimumKubeletVersion:1.34]",
)
async def test_generations(cluster: Cluster, tester: str) -> None:
    slow = shell("main", "trap 'sleep 2; exit' TERM; while :; do sleep 1 & wait; done")
    document = pod("counted", slow, initContainers=[shell("init", "true")])
    document["metadata"]["generation"] = 100
    many = pod("many", shell("main", FOREVER), activeDeadlineSeconds=5000)
    await asyncio.gather(cluster.create(document), cluster.create(many))
    found = await cluster.wait("counted", is_ready)
    assert found.metadata.generation == found.status.observedGeneration == 1
    toleration = {"key": "foo", "operator": "Equal", "value": "bar", "effect": "NoSchedule"}
    steps: list[tuple[Callable[[Object], Any], int]] = [
        (lambda each: None, 1),
        (lambda each: each["spec"].setdefault("tolerations", []).append(toleration), 2),
        (lambda each: each["spec"].update(activeDeadlineSeconds=5000), 3),
        (lambda each: each["spec"]["containers"][0].update(image=tester), 4),
        (lambda each: each["spec"]["initContainers"][0].update(image=tester), 5),
        (lambda each: each["metadata"].update(annotations={"key": "value"}), 5),
        (lambda each: each["metadata"].update(generation=1), 5),
    ]
    for change, generation in steps:
        answer = await update(cluster, "counted", change)
        assert answer["metadata"]["generation"] == generation
        await cluster.wait("counted", observed(generation))
    await cluster.delete("counted", grace=60)
    assert (await cluster.get("counted")).metadata.generation == 6
    await cluster.wait("many", is_ready)
    for _ in range(499):
        await update(cluster, "many", shorten)
    converged = await cluster.wait("many", observed(500))
    assert converged.metadata.generation == 500
    assert converged.status.containerStatuses[0].restartCount == 0
