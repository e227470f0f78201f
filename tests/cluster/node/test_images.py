"""Images from a registry through the real containerd: policies, secrets, volumes, collection."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell
from tests.cluster.node.environment import run
from tests.images.busybox import build_busybox
from tests.images.registry import Registry, registry

from navarch.api.types.core_v1 import ContainerStatus, Event, Pod
from navarch.node.images.oci import ImageConfig, ImageFile, build_image


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_busybox(tmp_path_factory.mktemp("images") / "busybox.tar")


@pytest.fixture
async def hub(archive: Path) -> AsyncIterator[Registry]:
    """A registry that has busybox as team/web:1 and open/web:1."""
    async with registry() as here:
        here.add("team/web", "1", archive)
        here.add("open/web", "1", archive)
        yield here


def web(
    hub: Registry, name: str = "main", image: str = "open/web:1", **fields: Any
) -> dict[str, Any]:
    return shell(name, "sleep 1000", image=f"{hub.host}/{image}", **fields)


def waits(pod: Pod, reason: str, name: str = "main") -> bool:
    waiting = status_of(pod, name).state.waiting
    return waiting is not None and waiting.reason == reason


def status_of(pod: Pod, name: str = "main") -> ContainerStatus:
    found = [each for each in pod.status.containerStatuses if each.name == name]
    return found[0] if found else ContainerStatus()


def is_running(pod: Pod) -> bool:
    return pod.status.phase == "Running" and all(
        each.state.running is not None for each in pod.status.containerStatuses
    )


async def secret(cluster: Cluster, name: str, auths: dict[str, Any]) -> None:
    text = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    await cluster.client.dynamic("", "v1", "secrets").create(
        {
            "metadata": {"name": name, "namespace": "default"},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": text},
        }
    )


async def test_policies_reasons_and_events(cluster: Cluster, hub: Registry) -> None:
    digest = hub.add_manifest("open/web", "other", hub.manifests["open/web", "1"])
    cases = {
        "present": web(hub),
        "never": web(hub, image="open/never:1", imagePullPolicy="Never"),
        "digest": web(hub, image=f"open/web@{digest}"),
        "absent": web(hub, image="open/nothing:1"),
        "invalid": web(hub) | {"image": "bad//name"},
    }
    for name, container in cases.items():
        await cluster.create(pod(name, container))
    present = await cluster.wait("present", is_running)
    assert status_of(present).image == f"{hub.host}/open/web:1"
    assert status_of(present).imageID == f"{hub.host}/open/web@{digest}"
    assert status_of(await cluster.wait("digest", is_running)).imageID.endswith(digest)
    never = await cluster.wait("never", lambda each: waits(each, "ErrImageNeverPull"))
    said = status_of(never).state.waiting
    assert said is not None and said.message == (
        f'Container image "{hub.host}/open/never:1" is not present with pull policy of Never'
    )
    await cluster.wait("invalid", lambda each: waits(each, "InvalidImageName"))
    absent = await cluster.wait("absent", lambda each: waits(each, "ErrImagePull"))
    error = status_of(absent).state.waiting
    assert error is not None and error.message.startswith(
        "rpc error: code = NotFound desc = failed to pull and unpack image "
        f'"{hub.host}/open/nothing:1": failed to resolve '
    )
    absent = await cluster.wait("absent", lambda each: waits(each, "ImagePullBackOff"))
    told = status_of(absent).state.waiting
    assert told is not None and told.message == (
        f'Back-off pulling image "{hub.host}/open/nothing:1": ErrImagePull: {error.message}'
    )

    async def events_are_there() -> bool:
        seen = [f"{reason}: {text}" for reason, text in await cluster.events("absent")]
        wanted = [
            f'Pulling: Pulling image "{hub.host}/open/nothing:1"',
            f'Failed: Failed to pull image "{hub.host}/open/nothing:1": {error.message}',
            "Failed: Error: ErrImagePull",
            f'BackOff: Back-off pulling image "{hub.host}/open/nothing:1"',
            "Failed: Error: ImagePullBackOff",
        ]
        return all(each in seen for each in wanted)

    await eventually(events_are_there)
    pulled = [text for reason, text in await cluster.events("present") if reason == "Pulled"]
    assert pulled[0].startswith(f'Successfully pulled image "{hub.host}/open/web:1" in ')
    assert "ms including waiting). Image size: " in pulled[0]
    # Always asks the registry each time a container starts, and only then.
    asked = len(hub.asked)
    await cluster.create(pod("again", web(hub)))
    await cluster.wait("again", is_running)
    assert len(hub.asked) == asked
    await cluster.create(pod("always", web(hub, imagePullPolicy="Always")))
    await cluster.wait("always", is_running)
    assert len(hub.asked) > asked


@pytest.mark.parametrize("by_token", [False, True], ids=["password", "token"])
async def test_secrets_open_the_registry_for_those_who_have_them(
    cluster: Cluster, hub: Registry, by_token: bool
) -> None:
    hub.passwords["team"] = {"ann": "right"}
    hub.by_token = by_token
    repository = f"team/web-{by_token}".lower()
    hub.add_manifest(repository, "1", hub.manifests["team/web", "1"])
    await secret(cluster, "wrong", {hub.host: {"username": "ann", "password": "wrong"}})
    await secret(
        cluster,
        "right",
        {
            f"127.0.*.1:{hub.port}/team": {"auth": base64.b64encode(b"ann:right").decode()},
            "elsewhere.example": {"username": "ann", "password": "never shown"},
        },
    )
    image = f"{repository}:1"
    await cluster.create(pod("without", web(hub, image=image)))
    await cluster.create(
        pod(
            "failing", web(hub, image=image), imagePullSecrets=[{"name": "wrong"}, {"name": "gone"}]
        )
    )
    await cluster.wait("without", lambda each: waits(each, "ErrImagePull"))
    failing = await cluster.wait("failing", lambda each: waits(each, "ErrImagePull"))
    problem = status_of(failing).state.waiting
    assert (problem is not None and "401" in problem.message) or "authoriz" in str(problem)
    both = [{"name": "wrong"}, {"name": "right"}]
    await cluster.create(pod("both", web(hub, image=image), imagePullSecrets=both))
    await cluster.wait("both", is_running)
    # What is on the node now is still not for pods that could not have pulled it.
    await cluster.create(pod("guest", web(hub, image=image)))
    await cluster.wait("guest", lambda each: waits(each, "ErrImagePull"))
    await cluster.create(pod("never", web(hub, image=image, imagePullPolicy="Never")))
    await cluster.wait("never", lambda each: waits(each, "ErrImageNeverPull"))
    # Also not after the agent was killed; and whoever has the secret needs no registry.
    await cluster.stop_agent()
    cluster.start_agent()
    hub.failing[repository] = 503
    await cluster.create(pod("later", web(hub, image=image), imagePullSecrets=[{"name": "right"}]))
    await cluster.wait("later", is_running)
    await cluster.create(pod("stranger", web(hub, image=image)))
    await cluster.wait("stranger", lambda each: waits(each, "ErrImagePull"))
    missing = (
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not "
        "succeed.",
    )
    await cluster.told("failing", missing)
    assert not any("never shown" in each.authorization for each in hub.asked)


async def test_pulls_one_after_the_other_or_not(
    cluster: Cluster, hub: Registry, tmp_path: Path
) -> None:
    for name in ("slow", "quick"):
        config = ImageConfig(cmd=["/none"])
        content = {f"file-{name}": ImageFile(name.encode())}
        made = build_image(tmp_path / f"{name}.tar", f"{name}:1", config, files=content)
        hub.add(f"open/{name}", "1", made)
    hub.held.add("open/slow")
    await cluster.create(pod("slow", web(hub, image="open/slow:1")))
    await eventually(lambda: was_asked(hub, "open/slow/blobs"))
    await cluster.create(pod("quick", web(hub, image="open/quick:1")))

    async def has_begun() -> bool:
        return any(reason == "Pulling" for reason, _ in await cluster.events("quick"))

    await eventually(has_begun)
    assert not await was_asked(hub, "open/quick")
    # A pull ends with its pod, and the next one goes on.
    await cluster.delete("slow", grace=1)
    await cluster.wait_gone("slow")
    await eventually(lambda: was_asked(hub, "open/quick"))
    await cluster.stop_agent()
    hub.asked.clear()
    cluster.start_agent(serialize_image_pulls=False, max_parallel_image_pulls=2)
    await cluster.create(pod("slow-again", web(hub, image="open/slow:1")))
    await eventually(lambda: was_asked(hub, "open/slow"))
    hub.asked.clear()
    await cluster.create(pod("second", web(hub, image="open/quick:1", imagePullPolicy="Always")))
    await eventually(lambda: was_asked(hub, "open/quick"))


async def was_asked(hub: Registry, repository: str) -> bool:
    return any(repository in each.path for each in hub.asked)


VOLUME = "volume"


def mounting(image: str, script: str, **mount: Any) -> dict[str, Any]:
    """A pod that looks into an image volume."""
    container = shell("main", script)
    container["volumeMounts"] = [{"name": VOLUME, "mountPath": "/volume", **mount}]
    volume = {"name": VOLUME, "image": {"reference": image, "pullPolicy": "Always"}}
    return pod("mounting", container, volumes=[volume], restartPolicy="Never")


@pytest.fixture
def data(hub: Registry, tmp_path: Path) -> str:
    """An image with files and nothing to run."""
    files = {
        "data.json": ImageFile(b'{"picture": "kitten.jpg"}'),
        "etc/os-release": ImageFile(b"a system"),
        "run.sh": ImageFile(b"#!/bin/sh\necho executed\n", mode=0o755),
        "out": ImageFile(link_to="/etc"),
    }
    made = build_image(tmp_path / "data.tar", "data:1", ImageConfig(), files=files)
    hub.add("open/data", "1", made)
    return f"{hub.host}/open/data:1"


def mounts_of(cluster: Cluster) -> list[str]:
    root = str(cluster.options.root_directory)
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for point in (line.split()[4] for line in lines) if point.startswith(root)]


async def views(cluster: Cluster) -> list[str]:
    address = cluster.options.runtime_endpoint.removeprefix("unix://")
    process = await asyncio.create_subprocess_exec(
        "ctr", "-a", address, "-n", "k8s.io", "snapshots", "ls", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return [line.split()[0] for line in output.decode().splitlines() if "image-volume" in line]


async def nothing_left(cluster: Cluster) -> bool:
    return not await views(cluster) and not mounts_of(cluster)


@pytest.mark.conformance(
    "ImageVolume should succeed with pod and pull policy of Always "
    "[LinuxOnly] [MinimumKubeletVersion:1.35]"
)
async def test_an_image_as_a_volume(cluster: Cluster, data: str) -> None:
    script = """
        cat /volume/data.json /volume/etc/os-release; echo
        touch /volume/new || echo read-only; rm -f /volume/data.json || echo kept
        /volume/run.sh || echo not executed
        sleep 1000
    """
    await cluster.create(mounting(data, script))
    running = await cluster.wait("mounting", is_running)
    (mount,) = status_of(running).volumeMounts
    assert mount.volumeStatus is not None and mount.volumeStatus.image is not None
    assert mount.volumeStatus.image.imageRef.startswith("sha256:")

    async def has_looked() -> bool:
        return "executed" in await cluster.logs(running, "main")

    await eventually(has_looked)
    seen = await cluster.logs(running, "main")
    assert '{"picture": "kitten.jpg"}a system' in seen
    assert "read-only" in seen and "kept" in seen
    if runc_keeps_flags():
        assert "not executed" in seen and "\nexecuted" not in seen
    # The agent is killed and comes back; the volume is the same, and goes with the pod.
    before = await views(cluster)
    await cluster.stop_agent()
    cluster.start_agent()
    assert await views(cluster) == before and len(before) == 1
    await cluster.delete("mounting", grace=1)
    await cluster.wait_gone("mounting")
    await eventually(lambda: nothing_left(cluster))


def runc_keeps_flags() -> bool:
    """Whether the runtime leaves a mount as the node made it: runc does not since 1.2."""
    numbers = re.findall(r"\d+", run("runc", "--version").split("\n")[0])
    return [*map(int, numbers[:2])] < [1, 2]


async def test_a_part_of_an_image_and_no_way_out_of_it(cluster: Cluster, data: str) -> None:
    script = "cat /volume/os-release; echo; sleep 1000"
    await cluster.create(mounting(data, script, subPath="etc"))
    running = await cluster.wait("mounting", is_running)

    async def has_looked() -> bool:
        return "a system" in await cluster.logs(running, "main")

    await eventually(has_looked)
    await cluster.delete("mounting", grace=1)
    await cluster.wait_gone("mounting")
    for part in ("out", "out/hostname", "absent"):
        await cluster.create(mounting(data, script, subPath=part))
        await cluster.wait("mounting", lambda each: waits(each, "CreateContainerConfigError"))
        # The agent dies with the volume mounted and no container made, and the pod goes meanwhile.
        await cluster.stop_agent()
        await cluster.delete("mounting", grace=1)
        cluster.start_agent()
        await eventually(lambda: nothing_left(cluster))
        await eventually(lambda: has_gone(cluster, "mounting"))


async def has_gone(cluster: Cluster, name: str) -> bool:
    pods = await cluster.client.resource(Pod).list("default")
    return name not in [each.metadata.name for each in pods.items]


async def test_an_image_volume_that_cannot_be_pulled(cluster: Cluster, hub: Registry) -> None:
    await cluster.create(mounting(f"{hub.host}/open/nothing:1", "true"))
    await cluster.wait("mounting", lambda each: waits(each, "ErrImagePull"))
    await cluster.wait("mounting", lambda each: waits(each, "ImagePullBackOff"))
    await cluster.told("mounting", ("Failed", "Error: ErrImagePull"))


async def test_unused_images_go_when_the_disk_fills(
    cluster: Cluster, hub: Registry, data: str, tmp_path: Path
) -> None:
    files = {"own": ImageFile(b"of this test")}
    config = ImageConfig(cmd=["/none"])
    for name in ("unused", "kept"):
        files[name] = ImageFile(name.encode())
        made = build_image(tmp_path / f"{name}.tar", f"{name}:1", config, files=files)
        hub.add(f"open/{name}", "1", made)
        await cluster.create(pod(name, web(hub, image=f"open/{name}:1"), restartPolicy="Never"))
        await cluster.wait(name, lambda each: waits(each, "RunContainerError") or is_over(each))
    await cluster.create(mounting(data, "sleep 1000"))
    await cluster.wait("mounting", is_running)
    await cluster.delete("unused", grace=1)

    async def is_deleted() -> bool:
        return not [each for each in await cluster.runtime.pods() if each.name == "unused"]

    await eventually(is_deleted)
    await cluster.stop_agent()
    # Everything above one per cent of the disk is too much; what is used or was loaded stays.
    cluster.start_agent(
        image_gc_high_threshold_percent=1, image_gc_low_threshold_percent=0,
        image_minimum_gc_age=0.0,
    )  # fmt: skip

    async def names() -> set[str]:
        return {name for image in await cluster.runtime.images() for name in image.tags}

    async def is_gone() -> bool:
        return f"{hub.host}/open/unused:1" not in await names()

    await eventually(is_gone)
    assert {f"{hub.host}/open/kept:1", data, "docker.io/library/busybox:1.36"} <= await names()

    async def is_told() -> bool:
        found = await cluster.client.resource(Event).list("default")
        return any(
            each.reason == "FreeDiskSpaceFailed" and each.involvedObject.kind == "Node"
            for each in found.items
        )

    await eventually(is_told)
    ids = {image.id for image in await cluster.runtime.images()}
    assert recorded_images(cluster) <= ids


def recorded_images(cluster: Cluster) -> set[str]:
    directory = cluster.options.root_directory / "image_manager" / "pulled"
    return {json.loads(path.read_bytes())["imageRef"] for path in directory.iterdir()}


def is_over(found: Pod) -> bool:
    return status_of(found).state.terminated is not None


async def test_a_credential_provider_opens_the_registry(
    cluster: Cluster, hub: Registry, tmp_path: Path
) -> None:
    hub.passwords["team"] = {"ann": "right"}
    hub.add_manifest("team/cloud", "1", hub.manifests["team/web", "1"])
    version = "credentialprovider.kubelet.k8s.io/v1"
    answer = {
        "apiVersion": version,
        "kind": "CredentialProviderResponse",
        "cacheKeyType": "Registry",
        "auth": {hub.host: {"username": "ann", "password": "right"}},
    }
    provider = {
        "name": "cloud",
        "apiVersion": version,
        "matchImages": [f"127.0.0.*:{hub.port}"],
        "defaultCacheDuration": "1h",
    }
    config = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig"}
    (tmp_path / "config.yaml").write_text(json.dumps(config | {"providers": [provider]}))
    program = tmp_path / "cloud"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/asked\necho '{json.dumps(answer)}'\n")
    program.chmod(0o755)
    await cluster.stop_agent()
    cluster.start_agent(
        image_credential_provider_config=tmp_path / "config.yaml",
        image_credential_provider_bin_dir=tmp_path,
    )
    await cluster.create(pod("cloudy", web(hub, image="team/cloud:1")))
    await cluster.wait("cloudy", is_running)
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked["image"] == f"{hub.host}/team/cloud"
