"""The official Python client (`kubernetes`): what its documentation and examples do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import exceptions
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from urllib3.exceptions import ProtocolError

from navarch.testing import Cluster

MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.example/web}]}
"""


@pytest.fixture
def api(cluster: Cluster) -> Iterator[client.ApiClient]:
    settings = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=settings)
    with client.ApiClient(settings) as api:
        yield api


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api)


def config_map(name: str, **data: str) -> client.V1ConfigMap:
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data=data)


def test_create_read_replace_delete(core: client.CoreV1Api, namespace: str) -> None:
    made = core.create_namespaced_config_map(namespace, config_map("a", one="1"))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo
    with pytest.raises(ApiException) as again:
        core.create_namespaced_config_map(namespace, config_map("a"))
    assert (again.value.status, again.value.reason) == (409, "Conflict")
    read = core.read_namespaced_config_map("a", namespace)
    read.data["two"] = "2"
    core.replace_namespaced_config_map("a", namespace, read)
    with pytest.raises(ApiException) as stale:
        core.replace_namespaced_config_map("a", namespace, read)
    assert stale.value.status == 409
    gone = core.delete_namespaced_config_map("a", namespace)
    assert gone["status"] == "Success"
    with pytest.raises(ApiException) as missing:
        core.read_namespaced_config_map("a", namespace)
    assert missing.value.status == 404


def test_the_patch_types(core: client.CoreV1Api, namespace: str) -> None:
    core.create_namespaced_config_map(namespace, config_map("a", one="1", two="2"))
    body: Any = {"data": {"one": None, "three": "3"}}
    patched = core.patch_namespaced_config_map("a", namespace, body)
    assert patched.data == {"two": "2", "three": "3"}
    body = [{"op": "replace", "path": "/data/two", "value": "II"}]
    patched = core.patch_namespaced_config_map("a", namespace, body)
    assert patched.data["two"] == "II"
    patched = core.patch_namespaced_config_map(
        "a", namespace, {"data": None}, _content_type="application/merge-patch+json"
    )
    assert patched.data is None
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "y"}}
    patched = core.patch_namespaced_config_map(
        "a",
        namespace,
        applied,
        _content_type="application/apply-patch+yaml",
        field_manager="test",
        force=True,
    )
    assert patched.data == {"x": "y"}
    assert "test" in [entry.manager for entry in patched.metadata.managed_fields]


def test_a_list_in_chunks(core: client.CoreV1Api, namespace: str) -> None:
    for n in range(5):
        core.create_namespaced_config_map(namespace, config_map(f"cm-{n}"))
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(namespace, limit=2, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert names == sorted(names)
    assert {f"cm-{n}" for n in range(5)} < set(names)


def test_a_watch_goes_on_where_it_was_cut(
    cluster: Cluster, core: client.CoreV1Api, namespace: str
) -> None:
    """The server ends the watch every second; a connection breaks as well. Nothing is lost."""
    version = core.list_namespaced_config_map(namespace).metadata.resource_version
    seen: list[str] = []
    for turn in range(4):
        core.create_namespaced_config_map(namespace, config_map(f"cm-{turn}"))
        watching = watch.Watch()
        events = watching.stream(
            core.list_namespaced_config_map,
            namespace,
            resource_version=version,
            timeout_seconds=1 if turn % 2 else 30,
        )
        with contextlib.suppress(ProtocolError):
            for event in events:
                seen.append(event["object"].metadata.name)
                if turn % 2 == 0:
                    cluster.cut_connections()
        version = watching.resource_version
    assert seen == [f"cm-{turn}" for turn in range(4)]


def test_a_watch_from_the_past_is_gone(
    cluster: Cluster, core: client.CoreV1Api, namespace: str
) -> None:
    old = core.list_namespaced_config_map(namespace).metadata.resource_version
    core.create_namespaced_config_map(namespace, config_map("a"))
    cluster.forget_history()
    with pytest.raises(ApiException) as gone:
        list(
            watch.Watch().stream(
                core.list_namespaced_config_map,
                namespace,
                resource_version=old,
                timeout_seconds=5,
            )
        )
    assert gone.value.status == 410
    newer = core.list_namespaced_config_map(namespace).metadata.resource_version
    core.create_namespaced_config_map(namespace, config_map("b"))
    events = watch.Watch().stream(
        core.list_namespaced_config_map, namespace, resource_version=newer, timeout_seconds=5
    )
    event = next(events)
    assert (event["type"], event["object"].metadata.name) == ("ADDED", "b")


def test_a_deployment_from_yaml(
    cluster: Cluster, api: client.ApiClient, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    utils.create_from_yaml(api, str(tmp_path / "web.yaml"), namespace=namespace)
    with pytest.raises(utils.FailToCreateError, match="AlreadyExists"):
        utils.create_from_yaml(api, str(tmp_path / "web.yaml"), namespace=namespace)
    apps = client.AppsV1Api(api)
    cluster.wait_for("deployment/web", condition="Available", namespace=namespace)
    scale = apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 3}})
    assert scale.spec.replicas == 3
    cluster.wait_for(
        "deployment/web",
        until=lambda obj: obj["status"].get("readyReplicas") == 3,
        namespace=namespace,
    )
    status = apps.read_namespaced_deployment_status("web", namespace).status
    assert status.available_replicas >= 2
    template = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
    apps.patch_namespaced_deployment("web", namespace, {"spec": {"template": template}})
    cluster.wait_for("deployment/web", condition="Available", namespace=namespace)
    apps.delete_namespaced_deployment("web", namespace, propagation_policy="Foreground")
    cluster.wait_gone("deployment/web", namespace=namespace)
    assert not client.CoreV1Api(api).list_namespaced_pod(namespace, label_selector="app=web").items


def test_custom_objects(api: client.ApiClient, namespace: str) -> None:
    where = ("example.com", "v1", namespace, "widgets")
    custom = client.CustomObjectsApi(api)
    body: Any = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "a"},
        "spec": {"size": 1},
    }
    custom.create_namespaced_custom_object(*where, body)
    patched = custom.patch_namespaced_custom_object(*where, "a", {"spec": {"color": "red"}})
    assert patched["spec"] == {"size": 1, "color": "red"}
    status = custom.patch_namespaced_custom_object_status(*where, "a", {"status": {"size": 1}})
    assert status["status"] == {"size": 1}
    scale = custom.get_namespaced_custom_object_scale(*where, "a")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 1)
    listed = custom.list_namespaced_custom_object(*where, label_selector="none")
    assert listed["items"] == []
    for event in watch.Watch().stream(
        custom.list_namespaced_custom_object, *where, timeout_seconds=5
    ):
        assert event["object"]["metadata"]["name"] == "a"
        break
    custom.delete_namespaced_custom_object(*where, "a")
    with pytest.raises(ApiException):
        custom.get_namespaced_custom_object(*where, "a")


def test_the_dynamic_client(
    api: client.ApiClient, namespace: str, tmp_path: Path, cluster: Cluster
) -> None:
    cache = str(tmp_path / "discovery.json")
    dynamic_client = dynamic.DynamicClient(api, cache_file=cache)
    assert Path(cache).is_file()
    widgets = dynamic_client.resources.get(api_version="example.com/v1", kind="Widget")
    body = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "a"},
        "spec": {"size": 1},
    }
    made = widgets.create(body=body, namespace=namespace)
    assert made.spec.size == 1
    applied = widgets.server_side_apply(
        body={**body, "spec": {"color": "blue"}}, namespace=namespace, field_manager="painter"
    )
    assert applied.spec.to_dict() == {"size": 1, "color": "blue"}
    with pytest.raises(exceptions.ConflictError):
        widgets.server_side_apply(
            body={**body, "spec": {"color": "red"}}, namespace=namespace, field_manager="other"
        )
    events = widgets.watch(namespace=namespace, timeout=5)
    assert next(iter(events))["object"].metadata.name == "a"
    widgets.status.patch(
        body={"status": {"size": 1}},
        name="a",
        namespace=namespace,
        content_type="application/merge-patch+json",
    )
    assert widgets.get(name="a", namespace=namespace).status.size == 1
    # A second client starts from the file of the first, and sees kinds that came later.
    cluster.apply(GADGETS)
    second = dynamic.DynamicClient(api, cache_file=cache)
    gadgets = second.resources.get(api_version="example.com/v1", kind="Gadget")
    assert gadgets.get(namespace=namespace).items == []
    widgets.delete(name="a", namespace=namespace)
    with pytest.raises(exceptions.NotFoundError):
        widgets.get(name="a", namespace=namespace)


GADGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


@pytest.mark.parametrize("lock_type", [LeaseLock, ConfigMapLock])
def test_leader_election(
    cluster: Cluster, namespace: str, lock_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two candidates leads; when it falls silent, the other one does."""
    config.load_kube_config(str(cluster.kubeconfig))
    leading: dict[str, threading.Event] = {"a": threading.Event(), "b": threading.Event()}
    stopped = threading.Event()

    def candidate(name: str, silent: threading.Event) -> threading.Thread:
        lock = lock_type("lock", namespace, name)
        original = lock.update

        def update(*arguments: Any) -> Any:
            return False if silent.is_set() else original(*arguments)

        lock.update = update

        def lead() -> None:
            leading[name].set()
            stopped.wait(60)

        settings = electionconfig.Config(
            lock,
            lease_duration=3,
            renew_deadline=2,
            retry_period=1,
            onstarted_leading=lead,
            onstopped_leading=None,
        )
        thread = threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True)
        thread.start()
        return thread

    silence = {"a": threading.Event(), "b": threading.Event()}
    first = candidate("a", silence["a"])
    assert leading["a"].wait(60)
    second = candidate("b", silence["b"])
    silence["a"].set()
    first.join(60)
    assert not first.is_alive()
    assert leading["b"].wait(60)
    silence["b"].set()
    second.join(60)
    stopped.set()


def test_reviews(api: client.ApiClient, cluster: Cluster, namespace: str) -> None:
    authorization = client.AuthorizationV1Api(api)
    attributes = client.V1ResourceAttributes(namespace=namespace, verb="list", resource="pods")
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    )
    assert authorization.create_self_subject_access_review(review).status.allowed
    settings = client.Configuration()
    robot = cluster.service_account("robot", namespace=namespace)
    config.load_kube_config(str(robot), client_configuration=settings)
    with client.ApiClient(settings) as weaker:
        authorization = client.AuthorizationV1Api(weaker)
        assert not authorization.create_self_subject_access_review(review).status.allowed
        with pytest.raises(ApiException) as refused:
            client.CoreV1Api(weaker).list_namespaced_pod(namespace)
        assert refused.value.status == 403


def test_objects_read_as_they_were_written(core: client.CoreV1Api, namespace: str) -> None:
    secret = client.V1Secret(
        metadata=client.V1ObjectMeta(name="s", labels={"a": "b"}), string_data={"key": "value"}
    )
    made = core.create_namespaced_secret(namespace, secret)
    assert (made.type, made.data) == ("Opaque", {"key": "dmFsdWU="})
    pod = client.V1Pod(
        metadata=client.V1ObjectMeta(name="p"),
        spec=client.V1PodSpec(
            containers=[
                client.V1Container(
                    name="c",
                    image="registry.example/web",
                    ports=[client.V1ContainerPort(container_port=80)],
                    resources=client.V1ResourceRequirements(requests={"cpu": "100m"}),
                )
            ]
        ),
    )
    made = core.create_namespaced_pod(namespace, pod)
    assert made.spec.containers[0].resources.requests == {"cpu": "100m"}
    assert made.status.phase == "Pending"
    evicted = client.V1Eviction(metadata=client.V1ObjectMeta(name="p", namespace=namespace))
    assert core.create_namespaced_pod_eviction("p", namespace, evicted)
    assert core.list_node().items[0].status.node_info.kubelet_version.startswith("v1.36")
    versions = client.VersionApi(core.api_client).get_code()
    assert (versions.major, versions.minor) == ("1", "36")
    groups = client.ApisApi(core.api_client).get_api_versions().groups
    assert "apps" in [group.name for group in groups]
