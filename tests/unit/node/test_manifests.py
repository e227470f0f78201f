"""Static pods."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.unit.node.fakes import Stage, stage

from navarch.api.types.core_v1 import Pod
from navarch.node.manifests import (
    FILE,
    URL,
    ManifestProblem,
    is_mirror_of,
    mirror_of,
    static_pods,
)
from navarch.node.podspec import CONFIG_HASH, CONFIG_MIRROR, is_critical, is_mirror, is_static
from navarch.node.static_pods import ManifestFiles, StaticPods

DOCUMENT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "static"},
    "spec": {"containers": [{"name": "main", "image": "busybox:1.36"}]},
}


def static_pod(document: dict[str, Any], node_name: str, source: str = FILE) -> Pod:
    return static_pods(json.dumps(document).encode(), source, "/manifests/x.yaml", node_name)[0]


def with_spec(**fields: Any) -> dict[str, Any]:
    return {**DOCUMENT, "spec": {**DOCUMENT["spec"], **fields}}


def test_a_manifest_becomes_a_pod_of_this_node() -> None:
    pod = static_pod(DOCUMENT, "node-1")
    assert (pod.metadata.name, pod.metadata.namespace) == ("static-node-1", "default")
    assert pod.metadata.uid == pod.metadata.annotations[CONFIG_HASH]
    assert is_static(pod) and is_critical(pod) and not is_mirror(pod)
    assert pod.spec.containers[0].imagePullPolicy == "IfNotPresent"
    changed = {**DOCUMENT, "spec": {"containers": [{"name": "main", "image": "busybox:2"}]}}
    assert static_pod(changed, "node-1").metadata.uid != pod.metadata.uid
    assert static_pod(DOCUMENT, "node-2").metadata.uid != pod.metadata.uid
    assert [each.effect for each in pod.spec.tolerations] == ["NoExecute"]
    assert static_pod(DOCUMENT, "node-1", URL).spec.tolerations == []


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        pytest.param([1], "it is no object", id="no object"),
        pytest.param({"apiVersion": "v1", "kind": "Service"}, "Kind=Service", id="another kind"),
        pytest.param({**DOCUMENT, "metadata": {}}, "name is needed", id="no name"),
        pytest.param({**DOCUMENT, "metadata": {"name": "x", "uid": "../../etc"}}, "metadata.uid",
                     id="a uid that leads out"),
        pytest.param({**DOCUMENT, "metadata": {"name": "x", "namespace": "../x"}}, "namespace",
                     id="a namespace that leads out"),
        pytest.param({**DOCUMENT, "metadata": {"name": "../x"}}, "metadata.name",
                     id="a name that leads out"),
        pytest.param(with_spec(containers=[]), "spec.containers: Required value", id="invalid"),
        pytest.param(with_spec(containers=5), "couldn't parse as pod", id="another type"),
        pytest.param(with_spec(serviceAccountName="x"), "may not reference serviceaccounts",
                     id="a service account"),
        pytest.param(with_spec(volumes=[{"name": "v", "secret": {"secretName": "s"}}]),
                     "secrets \\(via secret volumes\\)", id="a secret"),
        pytest.param(with_spec(volumes=[{"name": "v", "projected": {"sources": [
                         {"configMap": {"name": "c"}}]}}]),
                     "configmaps \\(via projected", id="a projection"),
        pytest.param(with_spec(containers=[{"name": "main", "image": "x", "envFrom": [
                         {"configMapRef": {"name": "c"}}]}]), "configmaps", id="variables"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none(document: Any, problem: str) -> None:
    with pytest.raises(ManifestProblem, match=problem):
        static_pod(document, "node-1")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: 2001-99-99", id="no such day"),
        pytest.param("null: 1\nkind: Pod", id="a key that is no text"),
        pytest.param("apiVersion: v1\nkind: Pod\nmetadata: &a {x: *a}", id="within itself"),
        pytest.param("[" * 5000, id="deep"),
        pytest.param("{", id="half written"),
        pytest.param("\x00", id="no text"),
        pytest.param("apiVersion: v1\nkind: PodList\nitems: [null]", id="nothing in a list"),
        pytest.param("apiVersion: v1\nkind: PodList\nitems: 5", id="a list that is none"),
    ],
)
def test_no_text_is_more_than_a_problem(text: str) -> None:
    with pytest.raises(ManifestProblem):
        static_pods(text.encode(), URL, "http://x", "node-1")


def test_a_list_comes_from_a_url_only() -> None:
    second = {**DOCUMENT, "metadata": {"name": "other"}}
    text = json.dumps({"apiVersion": "v1", "kind": "PodList", "items": [DOCUMENT, second]}).encode()
    names = [each.metadata.name for each in static_pods(text, URL, "http://x", "node-1")]
    assert names == ["static-node-1", "other-node-1"]
    with pytest.raises(ManifestProblem):
        static_pods(text, FILE, "/x", "node-1")


def test_a_file_that_breaks_keeps_its_pod_for_a_moment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = ManifestFiles(tmp_path, "node-1")
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps(DOCUMENT))
    (tmp_path / ".hidden").write_text("{")
    uid = files.read(keep_broken=True)[0].metadata.uid
    file.write_text("{")
    with caplog.at_level(logging.ERROR):
        assert [each.metadata.uid for each in files.read(keep_broken=True)] == [uid]
        assert files.read(keep_broken=False) == []
    assert len(caplog.records) == 1, "the same problem is told once"
    assert [
        each.metadata.uid for each in ManifestFiles(file, "node-1").read(keep_broken=True)
    ] == []


async def test_a_url_is_read_to_its_end(tmp_path: Path) -> None:
    """What it has comes in parts, as long answers do."""
    text = json.dumps({"apiVersion": "v1", "kind": "PodList", "items": [DOCUMENT]}).encode()
    begun: asyncio.Future[Pod] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + text[:40])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(text[40:])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, stage(tmp_path) as node:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        agent = Mock(node=None, find=lambda *_: None, pod_present=begun.set_result)
        pods = Mock(cache=Mock(list=list))
        options = replace(node.options, static_pod_url=url)
        static = StaticPods(options, agent, node.api, pods, node.clock)
        task = asyncio.create_task(static.run())
        async with asyncio.timeout(60):
            assert (await begun).metadata.name == "static-node-1"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_its_mirror_shows_it() -> None:
    pod = static_pod(DOCUMENT, "node-1")
    mirror = mirror_of(pod, "node-uid")
    assert is_mirror(mirror)
    assert mirror.metadata.annotations[CONFIG_MIRROR] == pod.metadata.uid
    assert mirror.metadata.uid == ""
    assert mirror.metadata.ownerReferences[0].uid == "node-uid"
    assert CONFIG_MIRROR not in pod.metadata.annotations
    assert is_mirror_of(mirror, pod) and not is_mirror_of(mirror, None)
    mirror.metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
    assert not is_mirror_of(mirror, pod), "a mirror on its way out is made again"


async def test_it_runs_without_the_api_and_tells_its_mirror(tmp_path: Path) -> None:
    async with stage(tmp_path) as node:
        pod = static_pod(DOCUMENT, "node-1")
        node.agent.pod_present(pod)
        await node.rest()
        assert str(node.runtime).endswith("main#0 running")
        assert node.api.statuses == []
        await show_mirror(node)
        assert node.api.pods["static-node-1"].status.phase == "Running"
        node.agent.pod_gone(pod)
        await node.rest()
        assert str(node.runtime) == ""


async def show_mirror(node: Stage) -> None:
    worker = node.agent.find("default", "static-node-1")
    assert worker is not None
    mirror = mirror_of(worker.pod, "node-uid")
    mirror.metadata.uid = "mirror-uid"
    node.api.put(mirror)
    worker.writer.seen(mirror)
    await node.rest()
