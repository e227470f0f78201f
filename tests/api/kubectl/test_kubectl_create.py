"""`kubectl create`, `run`, `expose` and `delete`: from flags and from files."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from tests.api.kubectl.conftest import Kubectl, columns, pod

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_config_maps_and_secrets(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "app.conf").write_text("debug=1\n")
    (tmp_path / "blob").write_bytes(b"\xff\x00")
    await kubectl("create", "configmap", "m", f"--from-file={tmp_path}", "--from-literal=k=v")
    made = await kubectl.get("cm", "m")
    assert made["data"] == {"app.conf": "debug=1\n", "k": "v"}
    assert made["binaryData"] == {"blob": "/wA="}
    await kubectl("create", "secret", "generic", "s", "--from-literal=password=x y")
    secret = await kubectl.get("secret", "s")
    assert secret["type"] == "Opaque"
    assert base64.b64decode(secret["data"]["password"]) == b"x y"
    registry = ("--docker-server=r.example", "--docker-username=u", "--docker-password=p")
    await kubectl("create", "secret", "docker-registry", "d", *registry)
    assert (await kubectl.get("secret", "d"))["type"] == "kubernetes.io/dockerconfigjson"
    assert 'configmaps "m" already exists' in await kubectl.fails("create", "configmap", "m")


async def test_workloads(kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "web", "--image=nginx", "--replicas=3", "--port=80")
    web = await kubectl.get("deployment", "web")
    assert web["spec"]["replicas"] == 3
    assert web["spec"]["strategy"]["type"] == "RollingUpdate"
    await kubectl("create", "job", "j", "--image=busybox", "--", "true")
    job = await kubectl.get("job", "j")
    assert job["spec"]["template"]["spec"]["containers"][0]["command"] == ["true"]
    await kubectl("create", "cronjob", "c", "--image=busybox", "--schedule=*/5 * * * *")
    (row,) = columns(await kubectl("get", "cronjobs"))
    assert row[:2] == ["c", "*/5"]
    await kubectl("create", "job", "k", "--from=cronjob/c")
    owner = (await kubectl.get("job", "k"))["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("CronJob", "c")
    bad = await kubectl.fails("create", "cronjob", "d", "--image=b", "--schedule=never")
    assert "spec.schedule" in bad


async def test_run_and_expose(kubectl: Kubectl) -> None:
    await kubectl("run", "p", "--image=nginx", "--port=80", "--labels=app=p", "--env=A=1")
    made = await kubectl.get("pod", "p")
    assert made["spec"]["containers"][0]["env"] == [{"name": "A", "value": "1"}]
    await kubectl("expose", "pod", "p", "--port=8080", "--target-port=80", "--name=front")
    service = await kubectl.get("service", "front")
    assert service["spec"]["selector"] == {"app": "p"}
    assert service["spec"]["ports"][0]["targetPort"] == 80
    assert service["spec"]["clusterIP"].startswith("10.96.")
    dry = await kubectl("run", "q", "--image=nginx", "--dry-run=client", "-o", "yaml")
    assert "kind: Pod" in dry
    await kubectl("run", "q", "--image=nginx", "--dry-run=server")
    assert "not found" in await kubectl.fails("get", "pod", "q")


async def test_services(kubectl: Kubectl) -> None:
    await kubectl("create", "service", "nodeport", "n", "--tcp=80:8080")
    await kubectl("create", "service", "externalname", "e", "--external-name=example.org")
    await kubectl("create", "service", "loadbalancer", "l", "--tcp=443")
    await kubectl("create", "service", "clusterip", "h", "--clusterip=None", "--tcp=1")
    rows = {row[0]: row[1:5] for row in columns(await kubectl("get", "services"))}
    assert rows["e"][:3] == ["ExternalName", "<none>", "example.org"]
    assert rows["l"][0:3:2] == ["LoadBalancer", "<pending>"]
    assert rows["h"][:3] == ["ClusterIP", "None", "<none>"]
    await kubectl("create", "ingress", "i", "--rule=example.org/*=n:80")
    (row,) = columns(await kubectl("get", "ingress"))
    assert row[:4] == ["i", "<none>", "example.org", "80"]


async def test_access_and_limits(kubectl: Kubectl) -> None:
    await kubectl("create", "serviceaccount", "robot")
    await kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods,deployments.apps")
    subject = f"--serviceaccount={kubectl.namespace}:robot"
    await kubectl("create", "rolebinding", "b", "--role=reader", subject)
    (row,) = columns(await kubectl("get", "rolebinding", "-o", "wide"))
    assert row[:2] == ["b", "Role/reader"]
    assert row[-1] == f"{kubectl.namespace}/robot"
    await kubectl(
        "create", "clusterrole", f"cr-{kubectl.namespace}", "--verb=get", "--resource=nodes"
    )
    token = await kubectl("create", "token", "robot")
    assert token.count(".") == 2
    await kubectl("create", "quota", "q", "--hard=cpu=2,pods=10")
    assert (await kubectl.get("quota", "q"))["spec"]["hard"] == {"cpu": "2", "pods": "10"}
    await kubectl("create", "poddisruptionbudget", "p", "--selector=a=b", "--min-available=1")
    (row,) = columns(await kubectl("get", "pdb"))
    assert row[:4] == ["p", "1", "N/A", "0"]
    name = f"pc-{kubectl.namespace}"
    await kubectl("create", "priorityclass", name, "--value=1000")
    assert columns(await kubectl("get", "priorityclass", name))[0][:3] == [name, "1000", "false"]


async def test_namespaces(kubectl: Kubectl) -> None:
    name = f"{kubectl.namespace}-other"
    assert await kubectl("create", "namespace", name) == f"namespace/{name} created\n"
    assert columns(await kubectl("get", "ns", name))[0][:2] == [name, "Active"]
    assert "created" in await kubectl("create", "configmap", "m", "-n", name)
    missing = await kubectl.fails("create", "configmap", "m", "-n", "nowhere")
    assert 'namespaces "nowhere" not found' in missing


async def test_many_objects_in_one_file(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n---\n"
        "apiVersion: v1\nkind: Secret\nmetadata: {name: two}\nstringData: {a: b}\n"
    )
    made = await kubectl("create", "-f", str(tmp_path / "a.yaml"))
    assert made == "configmap/one created\nsecret/two created\n"
    assert (await kubectl.get("secret", "two"))["data"] == {"a": "Yg=="}
    gone = await kubectl("delete", "-f", str(tmp_path))
    assert gone == 'configmap "one" deleted\nsecret "two" deleted\n'


async def test_mistakes_are_explained(kubectl: Kubectl) -> None:
    unknown = pod("a")
    unknown["spec"]["colour"] = "red"
    assert 'strict decoding error: unknown field "spec.colour"' in await kubectl.fails(
        "create", "-f", "-", stdin=unknown
    )
    warned = await kubectl.run("create", "-f", "-", "--validate=warn", stdin=unknown)
    assert warned.code == 0
    assert 'Warning: unknown field "spec.colour"' in warned.err
    nameless = pod("Bad_Name")
    refused = await kubectl.fails("create", "-f", "-", stdin=nameless)
    assert 'The Pod "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name"' in refused
    empty = {**pod("b"), "spec": {"containers": []}}
    assert "spec.containers: Required value" in await kubectl.fails(
        "create", "-f", "-", stdin=empty
    )


async def test_generated_names(kubectl: Kubectl) -> None:
    generated = pod("")
    generated["metadata"] = {"generateName": "p-"}
    made = await kubectl("create", "-f", "-", "-o", "name", stdin=generated)
    assert made.startswith("pod/p-")
    assert len(made.strip()) == len("pod/p-") + 5


async def test_delete(kubectl: Kubectl) -> None:
    for name in ("a", "b", "c"):
        await kubectl("create", "configmap", name)
        await kubectl("label", "configmap", name, f"which={name}")
    assert await kubectl("delete", "cm", "a") == 'configmap "a" deleted\n'
    assert await kubectl("delete", "cm", "-l", "which=b") == 'configmap "b" deleted\n'
    assert "not found" in await kubectl.fails("delete", "cm", "a")
    assert await kubectl("delete", "cm", "a", "--ignore-not-found") == ""
    await kubectl("delete", "cm", "--all")
    assert await kubectl("get", "cm", "-o", "name") == ""
    await kubectl("create", "-f", "-", stdin=pod("p"))
    gone = await kubectl("delete", "pod", "p", "--grace-period=0", "--force")
    assert 'pod "p" force deleted' in gone
    await kubectl("create", "deployment", "d", "--image=i")
    await kubectl("delete", "deployment", "d", "--cascade=orphan", "--wait=false")
    assert (await kubectl.get("deploy", "d"))["metadata"]["finalizers"] == ["orphan"]


async def test_finalizers_hold_a_deletion(kubectl: Kubectl) -> None:
    held = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["example.io/hold"]},
    }
    await kubectl("create", "-f", "-", stdin=held)
    await kubectl("delete", "cm", "held", "--wait=false")
    assert (await kubectl.get("cm", "held"))["metadata"]["deletionTimestamp"]
    async with kubectl.started("wait", "--for=delete", "cm/held", "--timeout=120s") as process:
        await kubectl(
            "patch", "cm", "held", "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
        )
        assert await process.wait() == 0
