"""What lists and watches answer to options that mean nothing, and what is said beside an answer."""

from __future__ import annotations

import pytest
import pytest_asyncio
from tests.api.conftest import Api
from tests.api.hostile import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAPS = "/api/v1/namespaces/default/configmaps"
NOT_A_NUMBER = 'resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid'
ENDPOINTS = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_api: Api) -> Api:
    return shared_api


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("resourceVersion=abc", 400, f"invalid resource version: {NOT_A_NUMBER}"),
        ("resourceVersion=99999999999999999999", 400, ": value out of range"),
        ("watch=1&resourceVersion=abc", 400, NOT_A_NUMBER),
        ("continue=abc", 400, "invalid continue token: continue key is not valid: "),
        (
            "resourceVersion=0&resourceVersionMatch=Odd",
            422,
            'supported values: "Exact", "NotOlderThan", ""',
        ),
        ("watch=1&resourceVersionMatch=Exact", 422, 'supported values: "NotOlderThan"'),
        ("watch=1&continue=x", 422, "resourceVersionMatch is forbidden when continue is provided"),
    ],
)
async def test_options(api: Api, query: str, status: int, message: str) -> None:
    answer = await api.get(f"{MAPS}?{query}", **ROOT)
    assert answer.status == status, answer.body
    assert message in answer.json["message"]
    if query.startswith("watch") is False:
        assert answer.json["message"].startswith(("invalid", "ListOptions"))


async def test_endpoints_are_deprecated(api: Api) -> None:
    path = "/api/v1/namespaces/default/endpoints"
    for answer in (
        await api.get(path, **ROOT),
        await api.get(f"{path}/kubernetes", **ROOT),
        await api.post(path, {"metadata": {"name": "made"}}, **ROOT),
        await api.delete(f"{path}/made", **ROOT),
    ):
        assert answer.headers["Warning"] == ENDPOINTS
    assert "Warning" not in (await api.get(MAPS, **ROOT)).headers


async def test_component_statuses_can_only_be_read(api: Api) -> None:
    path = "/api/v1/componentstatuses"
    assert "ComponentStatus is deprecated" in (await api.get(path, **ROOT)).headers["Warning"]
    answer = await api.post(path, {}, **ROOT)
    assert answer.status == 405
    assert "Warning" not in answer.headers


async def test_storage_capacities_have_the_columns_of_kinds_without_their_own(api: Api) -> None:
    path = "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities"
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    table = (await api.get(path, headers=accept, **ROOT)).ok()
    assert [each["name"] for each in table["columnDefinitions"]] == ["Name", "Created At"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/apis/coordination.k8s.io/v1/namespaces/default/leases", 201),
        ("/apis/policy/v1/namespaces/default/poddisruptionbudgets", 201),
        (MAPS, 422),
    ],
)
async def test_finalizers_of_no_domain(api: Api, path: str, status: int) -> None:
    body = {"metadata": {"name": "bound", "finalizers": ["plain"]}}
    assert (await api.post(f"{path}?dryRun=All", body, **ROOT)).status == status
