"""Tables and partial objects as clients ask for them: content negotiation, lists, watches."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.api.conftest import Api, config_map

MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
Object = dict[str, Any]


async def view(api: Api, path: str, accept: str, status: int = 200) -> Any:
    return (await api.get(path, headers={"Accept": accept})).ok(status)


@pytest.fixture
async def maps(api: Api) -> list[Object]:
    return [(await api.post(MAPS, config_map(name, k="v"))).ok(201) for name in ("a", "b")]


async def test_a_list(api: Api, maps: list[Object]) -> None:
    answer = await api.get(f"{MAPS}?limit=1", headers={"Accept": TABLE})
    assert answer.headers["Content-Type"] == "application/json"
    table = answer.ok()
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert table["metadata"]["continue"]
    assert table["metadata"]["remainingItemCount"] == 1
    name = table["columnDefinitions"][0]
    assert name.keys() == {"name", "type", "format", "description", "priority"}
    assert [each["name"] for each in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    (row,) = table["rows"]
    assert row["cells"][:2] == ["a", 1]
    assert row["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": maps[0]["metadata"],
    }


async def test_one_object(api: Api, maps: list[Object]) -> None:
    table = await view(api, f"{MAPS}/a", TABLE)
    version = maps[0]["metadata"]["resourceVersion"]
    assert table["metadata"] == {"resourceVersion": version}
    assert [row["cells"][0] for row in table["rows"]] == ["a"]


@pytest.mark.parametrize(
    ("include", "kind"),
    [("", "PartialObjectMetadata"), ("Metadata", "PartialObjectMetadata"), ("Object", "ConfigMap")],
)
async def test_what_rows_carry(api: Api, maps: list[Object], include: str, kind: str) -> None:
    table = await view(api, f"{MAPS}/a?includeObject={include}", TABLE)
    assert table["rows"][0]["object"]["kind"] == kind


async def test_rows_without_objects(api: Api, maps: list[Object]) -> None:
    for path in (f"{MAPS}?includeObject=None", f"{MAPS}/a?includeObject=None"):
        table = await view(api, path, TABLE)
        assert all(row["object"] is None for row in table["rows"])
    for path in (MAPS, f"{MAPS}/a", f"{MAPS}?watch=true"):
        separator = "&" if "?" in path else "?"
        answer = await api.get(f"{path}{separator}includeObject=All", headers={"Accept": TABLE})
        assert answer.status == 400
        assert "includeObject" in answer.json["message"]


async def test_the_first_form_that_is_known(api: Api, maps: list[Object]) -> None:
    kubectl = f"{TABLE},{TABLE.replace('v=v1', 'v=v1beta1')},application/json"
    assert (await view(api, MAPS, kubectl))["kind"] == "Table"
    beta = await view(api, MAPS, TABLE.replace("v=v1", "v=v1beta1"))
    assert beta["apiVersion"] == "meta.k8s.io/v1beta1"
    later = TABLE.replace("v=v1", "v=v2")
    assert (await view(api, MAPS, f"{later},application/json"))["kind"] == "ConfigMapList"
    await view_refused(api, MAPS, later)


async def view_refused(api: Api, path: str, accept: str) -> None:
    answer = await api.get(path, headers={"Accept": accept})
    assert answer.status == 406
    assert answer.json["reason"] == "NotAcceptable"


async def test_metadata_alone(api: Api, maps: list[Object]) -> None:
    one = await view(api, f"{MAPS}/a", PARTIAL)
    assert one["kind"] == "PartialObjectMetadata"
    assert "data" not in one
    listed = await view(api, MAPS, PARTIAL_LIST)
    assert listed["kind"] == "PartialObjectMetadataList"
    assert [each["kind"] for each in listed["items"]] == ["PartialObjectMetadata"] * 2
    await view_refused(api, MAPS, PARTIAL)
    await view_refused(api, f"{MAPS}/a", PARTIAL_LIST)


async def test_errors_are_no_tables(api: Api) -> None:
    answer = await api.get(f"{MAPS}/none", headers={"Accept": TABLE})
    assert (answer.status, answer.json["kind"]) == (404, "Status")


@pytest.mark.conformance(
    "Servers with support for Table transformation should return a 406 for a backend which does "
    "not implement metadata"
)
async def test_reviews_have_no_tables(api: Api) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = {"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}
    answer = await api.post(path, body, headers={"Accept": TABLE})
    assert (answer.status, answer.json["reason"]) == (406, "NotAcceptable")
    binding = {"metadata": {"name": "p"}, "target": {"name": "n"}}
    pods = "/api/v1/namespaces/default/pods"
    answer = await api.post(f"{pods}/p/binding", binding, headers={"Accept": TABLE})
    assert answer.status == 406
    answer = await api.post(f"{pods}/p/binding", binding, headers={"Accept": f"{TABLE},*/*"})
    assert answer.status == 404


async def test_what_is_deleted_slowly_can_be_seen_as_a_table(api: Api) -> None:
    body = config_map("held")
    body["metadata"]["finalizers"] = ["example.io/hold"]
    (await api.post(MAPS, body)).ok(201)
    answer = await api.delete(f"{MAPS}/held", headers={"Accept": TABLE})
    assert answer.ok()["rows"][0]["cells"][0] == "held"


async def test_scales(api: Api) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    labels = {"app": "d"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    (await api.post(path, {"metadata": {"name": "d"}, "spec": spec})).ok(201)
    (row,) = (await view(api, f"{path}/d/scale", TABLE))["rows"]
    assert row["cells"][:3] == ["d", 2, 0]


async def test_component_statuses(api: Api) -> None:
    for path in ("/api/v1/componentstatuses", "/api/v1/componentstatuses/etcd-0"):
        (row,) = (await view(api, path, TABLE))["rows"]
        assert row["cells"] == ["etcd-0", "Healthy", "ok", ""]


@pytest.mark.parametrize("accept", ["text/plain", "image/png", TABLE])
async def test_what_others_answer_is_not_negotiated(api: Api, accept: str) -> None:
    path = "/api/v1/namespaces/default/services/none/proxy/picture"
    assert (await api.get(path, headers={"Accept": accept})).status != 406


async def test_a_watch_names_its_columns_once(api: Api, maps: list[Object]) -> None:
    headers = {"Accept": TABLE}
    async with api.watch(f"{MAPS}?watch=true", headers=headers) as events:
        first, second = await anext(events), await anext(events)
        await api.post(MAPS, config_map("c"))
        third = await anext(events)
    tables = [each["object"] for each in (first, second, third)]
    assert [each["type"] for each in (first, second, third)] == ["ADDED"] * 3
    assert [table["rows"][0]["cells"][0] for table in tables] == ["a", "b", "c"]
    assert [bool(table["columnDefinitions"]) for table in tables] == [True, False, False]


async def test_a_watch_of_changes_names_its_columns(api: Api, maps: list[Object]) -> None:
    version = maps[1]["metadata"]["resourceVersion"]
    url = f"{MAPS}?watch=true&resourceVersion={version}"
    async with api.watch(url, headers={"Accept": TABLE}) as events:
        await api.delete(f"{MAPS}/a")
        await api.delete(f"{MAPS}/b")
        first, second = await anext(events), await anext(events)
    assert [each["type"] for each in (first, second)] == ["DELETED"] * 2
    assert first["object"]["columnDefinitions"]
    assert not second["object"]["columnDefinitions"]


async def test_a_watch_of_metadata(api: Api, maps: list[Object]) -> None:
    async with api.watch(f"{MAPS}?watch=true", headers={"Accept": PARTIAL}) as events:
        event = await anext(events)
    assert event["object"]["kind"] == "PartialObjectMetadata"
    assert event["object"]["metadata"] == maps[0]["metadata"]


async def test_what_is_written_can_be_seen_as_a_table(api: Api) -> None:
    made = await api.post(MAPS, config_map("n"), headers={"Accept": TABLE})
    assert made.ok(201)["rows"][0]["cells"][0] == "n"


async def test_other_versions_look_the_same(api: Api) -> None:
    hpa = {
        "metadata": {"name": "h"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 60,
        },
    }
    path = "/apis/autoscaling/{}/namespaces/default/horizontalpodautoscalers"
    (await api.post(path.format("v1"), {"apiVersion": "autoscaling/v1", **hpa})).ok(201)
    for version in ("v1", "v2"):
        table = await view(api, f"{path.format(version)}?includeObject=Object", TABLE)
        (row,) = table["rows"]
        assert row["cells"][1:5] == ["Deployment/d", "cpu: <unknown>/60%", "1", 3]
        assert row["object"]["apiVersion"] == f"autoscaling/{version}"


async def test_events_look_the_same_in_both_groups(api: Api) -> None:
    event = {
        "apiVersion": "events.k8s.io/v1",
        "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Pulled",
        "action": "Pull",
        "note": "it is here",
        "type": "Normal",
        "reportingController": "example.io/kubelet",
        "reportingInstance": "n1",
    }
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    (await api.post(path, event)).ok(201)
    for url in (path, "/api/v1/namespaces/default/events"):
        (row,) = (await view(api, url, TABLE))["rows"]
        assert row["cells"][1:7] == [
            "Normal",
            "Pulled",
            "pod/p",
            "",
            "example.io/kubelet, n1",
            "it is here",
        ]


async def test_tables_in_yaml(api: Api, maps: list[Object]) -> None:
    accept = TABLE.replace("json", "yaml")
    answer = await api.get(MAPS, headers={"Accept": accept})
    assert answer.headers["Content-Type"] == "application/yaml"
    assert b"kind: Table" in answer.body


async def test_ended_pods_are_marked(api: Api) -> None:
    path = "/api/v1/namespaces/default/pods"
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    (await api.post(path, body)).ok(201)
    (await api.patch(f"{path}/p/status", {"status": {"phase": "Succeeded"}})).ok()
    (row,) = (await view(api, path, TABLE))["rows"]
    assert row["conditions"][0]["type"] == "Completed"
    assert json.dumps(row["cells"][:3]) == '["p", "0/1", "Succeeded"]'
