"""The server's own steady work, one turn at a time."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.api.conftest import Api, config_map

from navarch.apiserver.upkeep import Compaction, EventExpiry, FileWatch
from navarch.store.contract import Compacted

EVENTS = "/api/v1/namespaces/default/events"
MAPS = "/api/v1/namespaces/default/configmaps"


def event(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "type": "Normal",
    }


async def names(api: Api) -> list[str]:
    return [each["metadata"]["name"] for each in (await api.get(EVENTS)).ok()["items"]]


async def test_events_go_an_hour_after_their_last_write(api: Api) -> None:
    core = api.server.core
    expiry = EventExpiry(core)
    (await api.post(EVENTS, event("old"))).ok(201)
    (await api.post(EVENTS, event("renewed"))).ok(201)
    expiry.start()
    real = core.registry.now
    core.registry.now = lambda: real() + timedelta(seconds=3000)
    (await api.patch(f"{EVENTS}/renewed", {"count": 2})).ok()
    await expiry.turn()
    assert await names(api) == ["old", "renewed"]
    core.registry.now = lambda: real() + timedelta(seconds=3700)
    await expiry.turn()
    assert await names(api) == ["renewed"]
    core.registry.now = lambda: real() + timedelta(seconds=6700)
    await expiry.turn()
    assert await names(api) == []


async def test_compaction_keeps_one_interval(api: Api) -> None:
    core = api.server.core
    compaction = Compaction(core)
    (await api.post(MAPS, config_map("a"))).ok(201)
    revision = core.hub.revision
    (await api.post(MAPS, config_map("b"))).ok(201)
    await compaction.turn()
    assert (await core.store.range("/registry/configmaps/", at_revision=revision)).items
    (await api.post(MAPS, config_map("c"))).ok(201)
    await compaction.turn()
    try:
        await core.store.range("/registry/configmaps/", at_revision=revision)
    except Compacted:
        return
    raise AssertionError("the revision before the last interval can still be read")


async def test_renewed_certificates_are_taken_into_use(tmp_path: Path) -> None:
    path = tmp_path / "tls.crt"
    path.write_text("one")
    renewals: list[None] = []
    renewal = FileWatch([path], lambda: renewals.append(None))
    await renewal.turn()
    assert not renewals
    os.utime(path, ns=(1, 1))
    await renewal.turn()
    await renewal.turn()
    assert len(renewals) == 1
    path.unlink()
    await renewal.turn()
    assert len(renewals) == 1


async def test_metrics_tell_of_requests_objects_and_the_store(api: Api) -> None:
    (await api.post(MAPS, config_map("a"))).ok(201)
    text = (await api.get("/metrics")).body.decode()
    assert 'apiserver_storage_objects{resource="configmaps"} 3' in text
    assert 'verb="CREATE",group="",version="v1",resource="configmaps"' in text
    assert "navarch_store_revision " in text


async def test_responses_name_their_flow_schema(api: Api) -> None:
    base = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"
    listed = (await api.get(base)).ok()["items"]
    names_by_uid: dict[str, str] = {
        each["metadata"]["uid"]: each["metadata"]["name"] for each in listed
    }

    async def schema(path: str, **who: str) -> str:
        answer = await api.get(path, **who)
        return names_by_uid[answer.headers["X-Kubernetes-Pf-Flowschema-Uid"]]

    assert await schema(MAPS, user="ann") == "global-default"
    assert await schema(MAPS, user="root", groups="system:masters") == "exempt"
    assert await schema("/api/v1/nodes", user="n", groups="system:nodes") == "system-node-high"
    account = "system:serviceaccount:kube-system:x"
    assert await schema(MAPS, user=account) == "kube-system-service-accounts"
    assert await schema("/readyz", user="ann") == "probes"
    await api.delete(f"{base}/global-default")
    assert await schema(MAPS, user="ann") == "catch-all"


async def test_health_checks_can_be_asked_one_by_one(api: Api) -> None:
    verbose = await api.get("/readyz?verbose")
    assert "[+]etcd ok" in verbose.body.decode()
    assert verbose.body.endswith(b"readyz check passed\n")
    assert (await api.get("/livez/ping")).body == b"ok"
    assert (await api.get("/livez/nonsense")).status == 404
    api.server.health.checks["bad"] = lambda: False
    assert (await api.get("/healthz")).status == 500
    assert (await api.get("/healthz?exclude=bad")).status == 200


async def test_each_part_of_the_start_is_a_check(api: Api) -> None:
    """The names upstream's own test of the health paths looks for."""
    parts = [
        *("start-apiserver-admission-initializer", "generic-apiserver-start-informers"),
        *("start-apiextensions-informers", "start-apiextensions-controllers"),
        *("crd-informer-synced", "bootstrap-controller", "start-system-namespaces-controller"),
        *("start-service-ip-repair-controllers", "scheduling/bootstrap-system-priority-classes"),
        *("start-cluster-authentication-info-controller", "start-kube-aggregator-informers"),
        *("apiservice-registration-controller", "apiservice-status-local-available-controller"),
        *("apiservice-status-remote-available-controller", "kube-apiserver-autoregistration"),
        *("apiservice-openapi-controller", "storage-readiness"),
    ]
    common = [
        "ping",
        "log",
        "autoregister-completion",
        *(f"poststarthook/{each}" for each in parts),
    ]
    for path, more in (("healthz", "etcd"), ("livez", "etcd"), ("readyz", "informer-sync")):
        lines = (await api.get(f"/{path}?verbose")).body.decode().splitlines()
        assert {f"[+]{name} ok" for name in (*common, more)} <= set(lines), path


async def test_health_checks_are_counted(api: Api) -> None:
    await api.get("/livez?verbose")
    api.server.health.checks["bad"] = lambda: False
    await api.get("/readyz")
    answer = await api.get("/metrics/slis")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    assert 'kubernetes_healthcheck{name="ping",type="livez"} 1' in lines
    assert 'kubernetes_healthcheck{name="bad",type="readyz"} 0' in lines
    total = 'kubernetes_healthchecks_total{name="bad",status="error",type="readyz"} 1'
    assert total in lines


async def test_aggregated_discovery_has_a_tag(api: Api) -> None:
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    first = await api.get("/apis", headers={"Accept": f"{accept},application/json"})
    assert first.ok()["kind"] == "APIGroupDiscoveryList"
    assert first.headers["Content-Type"] == accept
    again = await api.get(
        "/apis", headers={"Accept": accept, "If-None-Match": first.headers["ETag"]}
    )
    assert (again.status, again.body) == (304, b"")
    assert (await api.get("/apis")).ok()["kind"] == "APIGroupList"
    assert (await api.get("/api")).ok()["versions"] == ["v1"]
