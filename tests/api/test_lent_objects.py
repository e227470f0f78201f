"""What a writer leaves decoded for the next one is always what the store holds."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Api
from tests.api.test_deletion import PODS, pod

from navarch.apiserver.hub import hub as hub_module

Object = dict[str, Any]


def assert_lent(api: Api, name: str, *, is_there: bool = True) -> Object:
    """The pod as it is stored; what is lent must be equal to it, and is there unless refused."""
    resource = api.server.core.catalog.get("", "v1", "pods")
    entry = resource.cache.get("default", name)
    assert entry is not None
    stored = entry.decode(resource.stored_kind)
    lent = resource.borrow(entry)
    assert (lent is not None) is is_there
    assert lent in (None, stored)
    return stored


async def test_a_pod_on_its_way_is_never_decoded_and_never_wrong(api: Api) -> None:
    made = (await api.post(PODS, pod("p"))).ok(201)
    before = assert_lent(api, "p")
    metadata = {"name": "p", "labels": {"added": "x"}}
    binding = {"metadata": metadata, "target": {"kind": "Node", "name": "n1"}}
    other = {**binding, "metadata": {**metadata, "uid": "another"}}
    assert (await api.post(f"{PODS}/p/binding", other)).status == 409
    assert assert_lent(api, "p") == before
    (await api.post(f"{PODS}/p/binding", binding)).ok(201)
    bound = assert_lent(api, "p")
    assert bound["spec"]["nodeName"] == "n1"
    assert (await api.post(f"{PODS}/p/binding", binding)).status == 409
    assert assert_lent(api, "p") == bound
    wrong = {"spec": {"nodeName": "n2"}, "status": {"podIPs": [{"ip": "nowhere"}]}}
    assert (await api.patch(f"{PODS}/p/status", wrong, "strategic")).status == 422
    assert assert_lent(api, "p") == bound
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    patched = (await api.patch(f"{PODS}/p/status", {"status": status}, "strategic")).ok()
    running = assert_lent(api, "p")
    assert running == (await api.get(f"{PODS}/p")).ok() == patched
    assert running["spec"] == bound["spec"]
    assert running["metadata"]["uid"] == made["metadata"]["uid"]
    (await api.patch(f"{PODS}/p", {"metadata": {"labels": {"more": "y"}}})).ok()
    assert_lent(api, "p")
    (await api.delete(f"{PODS}/p", {"gracePeriodSeconds": 30})).ok(200)
    assert_lent(api, "p")


async def test_what_is_lent_is_let_go(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_LENT", 2)
    for name in ("a", "b", "c"):
        (await api.post(PODS, pod(name))).ok(201)
    assert_lent(api, "a", is_there=False)
    assert_lent(api, "c")
    api.server.core.hub.forget_lent()
    (await api.post(PODS, pod("d"))).ok(201)
    api.server.core.hub.forget_lent()
    assert_lent(api, "c", is_there=False)
