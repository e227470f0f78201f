"""What kubectl learns about the server and the user: resources, schemas, versions, permissions."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import aiohttp
import pytest
from tests.api.kubectl.conftest import Kubectl, as_user, columns

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.conformance(
    "Kubectl client Kubectl version should check is all data is printed",
)
async def test_versions(kubectl: Kubectl) -> None:
    text = await kubectl("version")
    assert re.search(r"^Client Version: v\d\.\d+\.[\w.+-]+$", text, re.MULTILINE)
    assert re.search(r"^Server Version: v1\.36\.[\w.+-]+$", text, re.MULTILINE)
    version = json.loads(await kubectl("version", "-o", "json"))["serverVersion"]
    assert (version["major"], version["minor"]) == ("1", "36")
    assert all(version[each] for each in ("gitVersion", "gitCommit", "buildDate", "platform"))


@pytest.mark.conformance(
    "Kubectl client Kubectl api-versions should check if v1 is in available api versions",
)
async def test_api_versions_and_resources(kubectl: Kubectl) -> None:
    versions = (await kubectl("api-versions")).splitlines()
    assert {"v1", "apps/v1", "batch/v1", "networking.k8s.io/v1"} <= set(versions)
    rows = columns(await kubectl("api-resources"))
    assert ["pods", "po", "v1", "true", "Pod"] in rows
    assert ["nodes", "no", "v1", "false", "Node"] in rows
    assert ["pods", "metrics.k8s.io/v1beta1", "true", "PodMetrics"] in rows
    namespaced = await kubectl("api-resources", "--namespaced=true", "-o", "name")
    assert "deployments.apps" in namespaced.split()
    assert "nodes" not in namespaced.split()
    assert "create,delete" in await kubectl("api-resources", "-o", "wide", "--api-group=apps")


@pytest.mark.conformance(
    "Kubectl client Kubectl cluster-info should check if Kubernetes control plane services is "
    "included in cluster-info"
)
async def test_cluster_info(kubectl: Kubectl) -> None:
    text = await kubectl("cluster-info")
    assert "Kubernetes control plane" in text
    assert "is running at" in text


async def test_raw_paths(kubectl: Kubectl) -> None:
    assert await kubectl("get", "--raw", "/readyz") == "ok"
    assert "livez check passed" in await kubectl("get", "--raw", "/livez?verbose")
    assert json.loads(await kubectl("get", "--raw", "/openapi/v3"))["paths"]["api/v1"]
    v2 = json.loads(await kubectl("get", "--raw", "/openapi/v2"))
    assert "io.k8s.api.core.v1.Pod" in v2["definitions"]


async def test_explain(kubectl: Kubectl) -> None:
    text = await kubectl("explain", "pod.spec.containers.image")
    assert "FIELD: image <string>" in text
    assert "KIND:       Pod" in text
    recursive = await kubectl("explain", "pod.spec", "--recursive")
    assert "\n  containers\t<[]Container> -required-\n" in recursive
    assert "\n    livenessProbe\t<Probe>\n" in recursive
    group = await kubectl("explain", "deployments")
    assert "GROUP:      apps" in group
    assert "FIELD: metrics" in await kubectl("explain", "hpa.spec.metrics")
    old = await kubectl("explain", "hpa.spec", "--api-version=autoscaling/v1")
    assert "targetCPUUtilizationPercentage" in old
    assert "does not exist" in await kubectl.fails("explain", "pod.spec.hair")
    from_v2 = await kubectl("explain", "pod.spec", "--output=plaintext-openapiv2")
    assert "   containers\t<[]Object> -required-\n" in from_v2


@pytest.mark.parametrize(
    "resource",
    [
        "nodes",
        "services.spec",
        "cronjobs.spec.jobTemplate",
        "customresourcedefinitions.spec.versions.schema",
        "roles.rules",
        "apiservices.spec",
        "leases.spec",
        "validatingwebhookconfigurations.webhooks",
    ],
)
async def test_everything_is_explained(kubectl: Kubectl, resource: str) -> None:
    assert "FIELDS:" in await kubectl("explain", resource)


async def test_who_may_do_what(kubectl: Kubectl, home: Path) -> None:
    assert await kubectl("auth", "can-i", "create", "pods") == "yes\n"
    assert "root" in await kubectl("auth", "whoami")
    alice = as_user(kubectl.server, home, "alice", kubectl.namespace)
    refused = await alice.run("auth", "can-i", "list", "secrets")
    assert (refused.code, refused.out) == (1, "no\n")
    forbidden = await alice.fails("get", "pods")
    assert 'User "alice" cannot list resource "pods" in API group ""' in forbidden
    await kubectl("create", "rolebinding", "view", "--clusterrole=view", "--user=alice")
    assert await alice("auth", "can-i", "list", "pods") == "yes\n"
    listed = await alice("auth", "can-i", "--list")
    assert "selfsubjectreviews.authentication.k8s.io" in listed
    as_bob = await kubectl.run("auth", "can-i", "get", "nodes", "--as=bob")
    assert (as_bob.code, as_bob.out.splitlines()[-1]) == (1, "no")
    impersonated = json.loads(await kubectl("auth", "whoami", "--as=bob", "-o", "json"))
    assert impersonated["status"]["userInfo"]["username"] == "bob"
    policy = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "r", "namespace": kubectl.namespace},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    }
    done = await kubectl("auth", "reconcile", "-f", "-", stdin=policy)
    assert "reconciled" in done


@pytest.mark.conformance(
    "Kubectl client Proxy server should support proxy with --port 0",
    "Kubectl client Proxy server should support --unix-socket=/path",
)
@pytest.mark.parametrize("way", ["port", "socket"])
async def test_proxy(kubectl: Kubectl, tmp_path: Path, way: str) -> None:
    path = tmp_path / "proxy.sock"
    flags = ["--port=0"] if way == "port" else [f"--unix-socket={path}"]
    async with kubectl.started("proxy", *flags) as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("Starting to serve on ")
        address = line.removeprefix("Starting to serve on ").strip()
        connector = None if way == "port" else aiohttp.UnixConnector(str(path))
        host = address if way == "port" else "localhost"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://{host}/api/") as answer,
        ):
            assert (await answer.json())["versions"] == ["v1"]


async def test_plain_words_for_legacy_discovery(kubectl: Kubectl) -> None:
    for path in ("/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"):
        assert json.loads(await kubectl("get", "--raw", path))["kind"]
