"""Service accounts as the conformance suite asks for them, as far as no container has to run."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Api

pytestmark = pytest.mark.secured

Object = dict[str, Any]

ROOT = {"user": "root", "groups": "system:masters"}
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
PODS = "/api/v1/namespaces/default/pods"


async def account(api: Api, name: str, **fields: Any) -> Object:
    made: Object = (await api.post(ACCOUNTS, {"metadata": {"name": name}, **fields}, **ROOT)).ok(
        201
    )
    return made


@pytest.mark.conformance("ServiceAccounts should update a ServiceAccount")
async def test_an_account_is_updated(api: Api) -> None:
    made = await account(api, "robot", automountServiceAccountToken=False)
    assert made["automountServiceAccountToken"] is False
    made["automountServiceAccountToken"] = True
    updated = (await api.put(f"{ACCOUNTS}/robot", made, **ROOT)).ok(200)
    assert updated["automountServiceAccountToken"] is True


@pytest.mark.conformance("ServiceAccounts should run through the lifecycle of a ServiceAccount")
async def test_the_life_of_an_account(api: Api) -> None:
    label = {"test-serviceaccount-static": "true"}
    query = "labelSelector=test-serviceaccount-static%3Dtrue"
    who = {"headers": {"Test-User": "root", "Test-Groups": "system:masters"}}
    async with api.watch(f"{ACCOUNTS}?watch=1&timeoutSeconds=30&{query}", **who) as events:
        body = {"metadata": {"name": "robot", "labels": label}}
        (await api.post(ACCOUNTS, body, **ROOT)).ok(201)
        event = await anext(events)
        assert (event["type"], event["object"]["metadata"]["labels"]) == ("ADDED", label)
        change = {"automountServiceAccountToken": False}
        (await api.patch(f"{ACCOUNTS}/robot", change, "strategic", **ROOT)).ok(200)
        event = await anext(events)
        assert event["type"] == "MODIFIED"
        assert event["object"]["automountServiceAccountToken"] is False
        items = (await api.get(f"/api/v1/serviceaccounts?{query}", **ROOT)).ok(200)["items"]
        assert [each["automountServiceAccountToken"] for each in items] == [False]
        (await api.delete(f"{ACCOUNTS}?{query.partition('&')[2].partition('&')[2]}", **ROOT)).ok(
            200
        )
        assert (await anext(events))["type"] == "DELETED"


@pytest.mark.conformance(
    "ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview"
)
async def test_a_token_is_made_and_reviewed(api: Api) -> None:
    await account(api, "robot")
    issued = (await api.post(f"{ACCOUNTS}/robot/token", {}, **ROOT)).ok(201)
    token = issued["status"]["token"]
    assert token
    url = "/apis/authentication.k8s.io/v1/tokenreviews"
    status = (await api.post(url, {"spec": {"token": token}}, **ROOT)).ok(201)["status"]
    assert status["authenticated"] is True
    assert not status.get("error")
    assert status["user"]["username"] == "system:serviceaccount:default:robot"


@pytest.mark.conformance("ServiceAccounts should allow opting out of API token automount")
@pytest.mark.parametrize("of_pod", [None, True, False])
@pytest.mark.parametrize("of_account", [None, True, False])
async def test_the_token_is_mounted_unless_somebody_says_no(
    api: Api, of_account: bool | None, of_pod: bool | None
) -> None:
    """The pod's word comes before the account's."""
    said = {} if of_account is None else {"automountServiceAccountToken": of_account}
    await account(api, "robot", **said)
    spec: Object = {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "robot"}
    if of_pod is not None:
        spec["automountServiceAccountToken"] = of_pod
    made = (await api.post(PODS, {"metadata": {"name": "p"}, "spec": spec}, **ROOT)).ok(201)
    mounts = made["spec"]["containers"][0].get("volumeMounts") or []
    is_mounted = any(
        each["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount" for each in mounts
    )
    assert is_mounted is (of_pod if of_pod is not None else of_account is not False)
