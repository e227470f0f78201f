"""`kubectl apply` of both kinds, `diff`, `replace` and `edit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.api.kubectl.conftest import Kubectl

pytestmark = pytest.mark.asyncio(loop_scope="module")

Object = dict[str, Any]


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> Object:
    metadata: Object = {"name": name, "labels": labels} if labels else {"name": name}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def deployment(name: str, image: str, **container: Any) -> Object:
    containers = [{"name": "c", "image": image, **container}]
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


async def test_apply_creates_changes_and_rests(kubectl: Kubectl) -> None:
    first = config_map("m", a="1", b="2")
    assert await kubectl("apply", "-f", "-", stdin=first) == "configmap/m created\n"
    assert await kubectl("apply", "-f", "-", stdin=first) == "configmap/m unchanged\n"
    second = config_map("m", a="3")
    assert await kubectl("apply", "-f", "-", stdin=second) == "configmap/m configured\n"
    assert (await kubectl.get("cm", "m"))["data"] == {"a": "3"}


async def test_apply_keeps_what_others_wrote(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=deployment("d", "i:1"))
    await kubectl("scale", "deployment", "d", "--replicas=4")
    await kubectl("set", "env", "deployment/d", "A=1")
    await kubectl("apply", "-f", "-", stdin=deployment("d", "i:2"))
    spec = (await kubectl.get("deployment", "d"))["spec"]
    assert spec["replicas"] == 4
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == "i:2"
    assert container["env"] == [{"name": "A", "value": "1"}]


async def test_apply_merges_lists_by_their_keys(kubectl: Kubectl) -> None:
    ports = [{"containerPort": 80}, {"containerPort": 443}]
    await kubectl("apply", "-f", "-", stdin=deployment("d", "i", ports=ports))
    await kubectl("apply", "-f", "-", stdin=deployment("d", "i", ports=ports[1:]))
    (container,) = (await kubectl.get("deploy", "d"))["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"containerPort": 443, "protocol": "TCP"}]


async def test_server_side_apply(kubectl: Kubectl) -> None:
    one = ("apply", "--server-side", "--field-manager=one", "-f", "-")
    two = ("apply", "--server-side", "--field-manager=two", "-f", "-")
    done = await kubectl(*one, stdin=config_map("m", a="1", b="1"))
    assert done == "configmap/m serverside-applied\n"
    conflict = await kubectl.fails(*two, stdin=config_map("m", a="2"))
    assert 'conflict with "one": .data.a' in conflict
    await kubectl(*two, "--force-conflicts", stdin=config_map("m", a="2"))
    await kubectl(*one, stdin=config_map("m", b="1"))
    assert (await kubectl.get("cm", "m"))["data"] == {"a": "2", "b": "1"}
    await kubectl(*one, stdin=config_map("m"))
    assert (await kubectl.get("cm", "m"))["data"] == {"a": "2"}


async def test_server_side_dry_run(kubectl: Kubectl) -> None:
    for flags in (("--dry-run=server",), ("--server-side", "--dry-run=server")):
        answer = await kubectl("apply", *flags, "-f", "-", stdin=config_map("m"))
        assert "(server dry run)" in answer
    assert "not found" in await kubectl.fails("get", "cm", "m")


async def test_server_side_apply_refuses_unknown_fields(kubectl: Kubectl) -> None:
    wrong = {**config_map("m"), "dat": {"a": "b"}}
    refused = await kubectl.fails("apply", "--server-side", "-f", "-", stdin=wrong)
    assert "field not declared in schema" in refused
    refused = await kubectl.fails("apply", "-f", "-", stdin=wrong)
    assert 'unknown field "dat"' in refused


async def test_prune(kubectl: Kubectl) -> None:
    labels = {"set": "p"}
    both = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [config_map("a", labels), config_map("b", labels)],
    }
    flags = ("--prune", "-l", "set=p", "--prune-allowlist=core/v1/ConfigMap", "-f", "-")
    await kubectl("apply", *flags, stdin=both)
    done = await kubectl("apply", *flags, stdin=config_map("a", labels))
    assert "configmap/b pruned" in done
    assert await kubectl("get", "cm", "-o", "name") == "configmap/a\n"


@pytest.mark.conformance(
    "Kubectl client Kubectl diff should check if kubectl diff finds a difference for Deployments",
)
async def test_diff(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=deployment("d", "i:1"))
    same = await kubectl.run("diff", "-f", "-", stdin=deployment("d", "i:1"))
    assert (same.code, same.out) == (0, "")
    other = await kubectl.run("diff", "-f", "-", stdin=deployment("d", "i:2"))
    assert other.code == 1
    assert "-      - image: i:1\n+      - image: i:2\n" in other.out
    server_side = await kubectl.run(
        "diff", "--server-side", "--force-conflicts", "-f", "-", stdin=deployment("d", "i:2")
    )
    assert server_side.code == 1
    assert (await kubectl.get("deploy", "d"))["metadata"]["generation"] == 1


async def test_replace(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=config_map("m", a="1"))
    await kubectl("replace", "-f", "-", stdin=config_map("m", b="2"))
    before = await kubectl.get("cm", "m")
    assert before["data"] == {"b": "2"}
    await kubectl("replace", "--force", "-f", "-", stdin=config_map("m", c="3"))
    after = await kubectl.get("cm", "m")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    stale = {**before, "data": {"d": "4"}}
    refused = await kubectl.fails("replace", "-f", "-", stdin=stale)
    assert "Conflict" in refused or "the object has been modified" in refused


async def test_edit(kubectl: Kubectl, tmp_path: Path) -> None:
    await kubectl("create", "-f", "-", stdin=config_map("m", a="old"))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/old/new/ "$1"\n')
    editor.chmod(0o755)
    done = await kubectl("edit", "configmap", "m", env={"KUBE_EDITOR": str(editor)})
    assert done == "configmap/m edited\n"
    assert (await kubectl.get("cm", "m"))["data"] == {"a": "new"}


async def test_apply_status_and_last_applied(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=config_map("m", a="1"))
    seen = await kubectl("apply", "view-last-applied", "cm/m", "-o", "json")
    assert json.loads(seen)["data"] == {"a": "1"}
    await kubectl("apply", "set-last-applied", "-f", "-", stdin=config_map("m", b="1"))
    seen = await kubectl("apply", "view-last-applied", "cm/m", "-o", "json")
    assert json.loads(seen)["data"] == {"b": "1"}


async def test_kustomize(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(
        "namePrefix: pre-\nconfigMapGenerator:\n- name: m\n  literals: [a=1]\n"
        "generatorOptions: {disableNameSuffixHash: true}\n"
    )
    assert await kubectl("apply", "-k", str(tmp_path)) == "configmap/pre-m created\n"
