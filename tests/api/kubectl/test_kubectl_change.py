"""`kubectl patch`, `label`, `annotate`, `scale`, `set`, `rollout`, `wait` and `autoscale`."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tests.api.kubectl.conftest import Kubectl, columns, pod

pytestmark = pytest.mark.asyncio(loop_scope="module")

Object = dict[str, Any]


async def make_deployment(kubectl: Kubectl, name: str = "d", image: str = "i:1") -> Object:
    await kubectl("create", "deployment", name, f"--image={image}")
    found: Object = await kubectl.get("deployment", name)
    return found


async def test_patches(kubectl: Kubectl) -> None:
    await make_deployment(kubectl)

    async def patch(kind: str, document: Any) -> Object:
        text = json.dumps(document)
        made = await kubectl("patch", "deploy", "d", f"--type={kind}", "-p", text, "-o", "json")
        found: Object = json.loads(made)
        return found

    more = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}}
    containers = (await patch("strategic", more))["spec"]["template"]["spec"]["containers"]
    assert {each["name"] for each in containers} == {"i", "side"}
    assert (await patch("merge", {"spec": {"replicas": 3}}))["spec"]["replicas"] == 3
    replace = [{"op": "replace", "path": "/spec/replicas", "value": 5}]
    assert (await patch("json", replace))["spec"]["replicas"] == 5
    same = await kubectl("patch", "deploy", "d", "-p", '{"spec":{"replicas":5}}')
    assert same == "deployment.apps/d patched (no change)\n"
    test = '[{"op":"test","path":"/spec/replicas","value":9}]'
    refused = await kubectl.fails("patch", "deploy", "d", "--type=json", "-p", test)
    assert "The request is invalid" in refused


@pytest.mark.conformance(
    "Kubectl client Kubectl label should update the label on a resource",
)
async def test_labels_and_annotations(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("p"))
    assert await kubectl("label", "pod", "p", "a=1", "b=2") == "pod/p labeled\n"
    refused = await kubectl.fails("label", "pod", "p", "a=3")
    assert "already has a value (1), and --overwrite is false" in refused
    await kubectl("label", "pod", "p", "a=3", "--overwrite")
    assert [row[-1] for row in columns(await kubectl("get", "pod", "p", "-L", "b"))] == ["2"]
    await kubectl("label", "pods", "--all", "b-")
    assert "No resources found" in (await kubectl.run("get", "pod", "-l", "b")).err
    assert await kubectl("get", "pod", "-l", "a=3", "-o", "name") == "pod/p\n"
    assert await kubectl("annotate", "pod", "p", "note=hello world") == "pod/p annotated\n"
    metadata = (await kubectl.get("pod", "p"))["metadata"]
    assert metadata["labels"] == {"a": "3"}
    assert metadata["annotations"] == {"note": "hello world"}
    bad = {"metadata": {"labels": {"a": "b c"}}}
    refused = await kubectl.fails("patch", "pod", "p", "-p", json.dumps(bad))
    assert 'metadata.labels: Invalid value: "b c"' in refused


async def test_scale(kubectl: Kubectl) -> None:
    await make_deployment(kubectl)
    assert await kubectl("scale", "deployment/d", "--replicas=3") == "deployment.apps/d scaled\n"
    assert (await kubectl.get("deploy", "d"))["spec"]["replicas"] == 3
    refused = await kubectl.fails("scale", "deploy/d", "--current-replicas=7", "--replicas=1")
    assert "Expected replicas to be 7, was 3" in refused
    shown = columns(await kubectl("get", "deploy", "d", "--subresource=scale"))
    assert shown[0][:3] == ["d", "3", "0"]
    await kubectl("autoscale", "deployment", "d", "--min=1", "--max=5", "--cpu-percent=80")
    (row,) = columns(await kubectl("get", "hpa"))
    assert row[:4] == ["d", "Deployment/d", "cpu:", "<unknown>/80%"]
    assert (await kubectl.get("horizontalpodautoscalers.v1.autoscaling", "d"))["spec"][
        "targetCPUUtilizationPercentage"
    ] == 80


async def test_set(kubectl: Kubectl) -> None:
    await make_deployment(kubectl)
    await kubectl("set", "image", "deployment/d", "i=i:2")
    await kubectl("set", "env", "deployment/d", "A=1", "B=2")
    await kubectl("set", "env", "deployment/d", "A-")
    await kubectl("set", "resources", "deployment/d", "--limits=cpu=200m,memory=512Mi")
    await kubectl("set", "serviceaccount", "deployment/d", "default")
    spec = (await kubectl.get("deploy", "d"))["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "i:2"
    assert container["env"] == [{"name": "B", "value": "2"}]
    assert container["resources"] == {"limits": {"cpu": "200m", "memory": "512Mi"}}
    assert spec["serviceAccountName"] == "default"
    await kubectl("expose", "deployment", "d", "--port=80")
    await kubectl("set", "selector", "service/d", "app=other")
    assert (await kubectl.get("svc", "d"))["spec"]["selector"] == {"app": "other"}


def revision(owner: Object, number: int, image: str) -> Object:
    """A replica set as the deployment controller would have made it."""
    labels = {"app": "d", "pod-template-hash": f"h{number}"}
    containers = [{"name": "i", "image": image}]
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"d-h{number}",
            "labels": labels,
            "annotations": {"deployment.kubernetes.io/revision": str(number)},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": "d",
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


async def test_rollout(kubectl: Kubectl) -> None:
    made = await make_deployment(kubectl, image="i:2")
    for number, image in ((1, "i:1"), (2, "i:2")):
        await kubectl("create", "-f", "-", stdin=revision(made, number, image))
    history = await kubectl("rollout", "history", "deployment/d")
    assert [line.split()[0] for line in history.splitlines()[2:] if line] == ["1", "2"]
    assert "i:1" in await kubectl("rollout", "history", "deployment/d", "--revision=1")
    async with kubectl.started("rollout", "status", "deployment/d", "--timeout=120s") as process:
        await kubectl.set_status(
            "deployment/d",
            observedGeneration=1,
            replicas=1,
            readyReplicas=1,
            updatedReplicas=1,
            availableReplicas=1,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
    assert b'deployment "d" successfully rolled out' in out
    annotation = '{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"2"}}}'
    await kubectl("patch", "deployment", "d", "-p", annotation)
    await kubectl("rollout", "undo", "deployment/d")
    spec = (await kubectl.get("deploy", "d"))["spec"]
    assert spec["template"]["spec"]["containers"][0]["image"] == "i:1"
    assert "pod-template-hash" not in spec["template"]["metadata"]["labels"]
    await kubectl("rollout", "restart", "deployment/d")
    await kubectl("rollout", "pause", "deployment/d")
    assert (await kubectl.get("deploy", "d"))["spec"]["paused"] is True
    await kubectl("rollout", "resume", "deployment/d")
    annotations = (await kubectl.get("deploy", "d"))["spec"]["template"]["metadata"]["annotations"]
    assert "kubectl.kubernetes.io/restartedAt" in annotations


async def test_drain(kubectl: Kubectl) -> None:
    name = f"node-{kubectl.namespace}"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    await kubectl("create", "-f", "-", stdin=node)
    placed = pod("p")
    placed["spec"] |= {"nodeName": name, "terminationGracePeriodSeconds": 0}
    await kubectl("create", "-f", "-", stdin=placed)
    drained = await kubectl("drain", name, "--force", "--timeout=120s")
    assert "pod/p evicted" in drained
    assert (await kubectl.get("node", name))["spec"]["unschedulable"] is True


async def test_certificates(kubectl: Kubectl) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    pem = request.public_bytes(Encoding.PEM)
    for name, verb, state in (("yes", "approve", "Approved"), ("no", "deny", "Denied")):
        name = f"{name}-{kubectl.namespace}"
        spec = {
            "request": base64.b64encode(pem).decode(),
            "signerName": "example.io/signer",
            "usages": ["client auth"],
        }
        wanted = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": spec,
        }
        await kubectl("create", "-f", "-", stdin=wanted)
        await kubectl("certificate", verb, name)
        (row,) = columns(await kubectl("get", "csr", name))
        assert row[2:] == ["example.io/signer", "root", "<none>", state]


async def test_debug_adds_a_container(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("p"))
    await kubectl("debug", "p", "--image=busybox", "-c", "probe", "-q", "--attach=false")
    (container,) = (await kubectl.get("pod", "p"))["spec"]["ephemeralContainers"]
    assert container["name"] == "probe"


@pytest.mark.conformance(
    "Kubectl client Kubectl server-side dry-run should check if kubectl can dry-run update Pods",
)
async def test_a_pods_image_is_replaced(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("p"))
    found = await kubectl.get("pod", "p")
    found["spec"]["containers"][0]["image"] = "busybox:2"
    await kubectl("replace", "-f", "-", stdin=found)
    dry = json.dumps({"spec": {"containers": [{"name": "c", "image": "busybox:3"}]}})
    await kubectl("patch", "pod", "p", "--dry-run=server", "-p", dry)
    image = (await kubectl.get("pod", "p"))["spec"]["containers"][0]["image"]
    assert image == "busybox:2"
    hidden = json.dumps({"spec": {"containers": [{"name": "c", "command": ["x"]}]}})
    refused = await kubectl.fails("patch", "pod", "p", "-p", hidden)
    assert "pod updates may not change fields other than" in refused


async def test_wait(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("p"))
    late = await kubectl.fails("wait", "--for=condition=Ready", "pod/p", "--timeout=0s")
    assert "condition not met for pods/p" in late
    async with kubectl.started("wait", "--for=condition=Ready", "pod/p", "--timeout=120s") as ready:
        conditions = [{"type": "Ready", "status": "True"}]
        await kubectl.set_status("pod/p", phase="Running", conditions=conditions)
        assert await asyncio.wait_for(ready.wait(), 60) == 0
    by_path = "--for=jsonpath={.status.phase}=Running"
    assert "condition met" in await kubectl("wait", by_path, "pod/p", "--timeout=120s")
    async with kubectl.started("wait", "--for=delete", "pod/p", "--timeout=120s") as gone:
        await kubectl("delete", "pod", "p", "--force", "--grace-period=0")
        assert await asyncio.wait_for(gone.wait(), 60) == 0


async def test_status_is_not_changed_through_the_main_resource(kubectl: Kubectl) -> None:
    await make_deployment(kubectl)
    await kubectl("patch", "deploy", "d", "-p", '{"status":{"replicas":9}}')
    assert "replicas" not in (await kubectl.get("deploy", "d"))["status"]
