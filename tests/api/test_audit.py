"""The audit log as an administrator reads it: a record of each stage of a request."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from tests.api.conftest import Api, config_map, secured_options, secured_server

from navarch.apiserver.server import Server

Object = dict[str, Any]

ROOT = {"user": "root", "groups": "system:masters"}
SECRETS = "/api/v1/namespaces/default/secrets"
MAPS = "/api/v1/namespaces/default/configmaps"

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*"]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
        {
            "level": "RequestResponse",
            "resources": [{"group": "", "resources": ["configmaps"]}],
            "omitManagedFields": True,
        },
        {"level": "Request", "resources": [{"group": "", "resources": ["services"]}]},
        {"level": "Metadata"},
    ],
}


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
async def api_server(tmp_path: Path, log_file: Path) -> AsyncIterator[Server]:
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(POLICY))
    options = replace(
        secured_options(tmp_path), audit_policy_file=policy, audit_log_path=str(log_file)
    )
    async with secured_server(tmp_path, options) as server:
        yield server


async def records(api: Api, audit_id: str = "") -> list[Object]:
    auditor = api.server.core.auditor
    assert auditor is not None
    await auditor.backend.flushed()
    text = await asyncio.to_thread(Path(auditor.backend.options.path).read_bytes)
    found = [json.loads(line) for line in text.splitlines()]
    return [each for each in found if audit_id in ("", each["auditID"])]


async def test_a_write_leaves_its_stages(api: Api) -> None:
    answer = await api.post(MAPS, config_map("one", key="value"), **ROOT)
    received, complete = await records(api, answer.headers["Audit-Id"])
    assert received["stage"] == "RequestReceived"
    assert received["verb"] == "create"
    assert received["user"] == {
        "username": "root",
        "groups": ["system:masters", "system:authenticated"],
    }
    assert received["sourceIPs"] == ["127.0.0.1"]
    assert received["objectRef"] == {
        "resource": "configmaps",
        "namespace": "default",
        "apiVersion": "v1",
    }
    assert "responseStatus" not in received and "requestObject" not in received
    assert complete["stage"] == "ResponseComplete"
    assert complete["level"] == "RequestResponse"
    assert complete["objectRef"]["name"] == "one"
    assert complete["responseStatus"] == {"metadata": {}, "code": 201}
    assert complete["requestObject"]["data"] == {"key": "value"}
    assert complete["responseObject"]["metadata"]["uid"]
    assert "managedFields" not in complete["responseObject"]["metadata"]
    assert complete["annotations"] == {
        "authorization.k8s.io/decision": "allow",
        "authorization.k8s.io/reason": "",
    }
    assert complete["requestReceivedTimestamp"] <= complete["stageTimestamp"]


async def test_a_request_may_bring_its_id(api: Api) -> None:
    answer = await api.get("/version", headers={"Audit-Id": "mine"})
    assert answer.headers["Audit-Id"] == "mine"
    assert [each["stage"] for each in await records(api, "mine")] == [
        "RequestReceived",
        "ResponseComplete",
    ]


async def test_what_the_policy_leaves_out_is_not_there(api: Api) -> None:
    answer = await api.get("/healthz")
    assert await records(api, answer.headers["Audit-Id"]) == []


async def test_secrets_stay_out_of_metadata(api: Api, log_file: Path) -> None:
    secret = {"metadata": {"name": "s"}, "stringData": {"password": "hunter2-planted"}}
    bearer = {"Authorization": "Bearer planted-token"}
    assert (await api.post(SECRETS, secret, **ROOT)).status == 201
    assert (await api.get(SECRETS, **ROOT)).status == 200
    assert (await api.get(SECRETS, headers=bearer)).status == 401
    body = {"stringData": {"password": "hunter2-planted-2"}}
    assert (await api.patch(f"{SECRETS}/s", body, **ROOT)).status == 200
    await records(api)
    text = await asyncio.to_thread(log_file.read_text)
    for planted in ("hunter2", "aHVudGVy", "planted-token"):
        assert planted not in text


async def test_refused_credentials_leave_one_record(api: Api) -> None:
    answer = await api.get(SECRETS, headers={"Authorization": "Bearer bad"})
    (record,) = await records(api, answer.headers["Audit-Id"])
    assert record["stage"] == "ResponseStarted"
    assert record["responseStatus"]["code"] == 401
    assert record["responseStatus"]["message"] == "Authentication failed, attempted: bearer"
    assert record["user"] == {"username": ""}


async def test_a_denial_says_so(api: Api) -> None:
    answer = await api.get(SECRETS, user="eve")
    record = (await records(api, answer.headers["Audit-Id"]))[-1]
    assert record["responseStatus"]["code"] == 403
    assert record["responseStatus"]["reason"] == "Forbidden"
    assert record["annotations"]["authorization.k8s.io/decision"] == "forbid"


async def test_the_user_in_whose_name_is_recorded_beside_the_real_one(api: Api) -> None:
    headers = {"Impersonate-User": "eve", "Impersonate-Group": "devs"}
    answer = await api.get(SECRETS, headers=headers, **ROOT)
    first, last = await records(api, answer.headers["Audit-Id"])
    assert "impersonatedUser" not in first
    assert last["user"]["username"] == "root"
    assert last["impersonatedUser"] == {
        "username": "eve",
        "groups": ["devs", "system:authenticated"],
    }
    assert last["responseStatus"]["code"] == 403


async def test_pod_security_says_what_it_saw(api: Api) -> None:
    labels = {
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/audit": "restricted",
    }
    await api.post("/api/v1/namespaces", {"metadata": {"name": "pss", "labels": labels}}, **ROOT)
    await api.post(
        "/api/v1/namespaces/pss/serviceaccounts", {"metadata": {"name": "default"}}, **ROOT
    )
    pod = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    }
    answer = await api.post("/api/v1/namespaces/pss/pods", pod, **ROOT)
    assert answer.status == 201
    annotations = (await records(api, answer.headers["Audit-Id"]))[-1]["annotations"]
    assert annotations["pod-security.kubernetes.io/enforce-policy"] == "baseline:latest"
    said = annotations["pod-security.kubernetes.io/audit-violations"]
    assert said.startswith(
        'would violate PodSecurity "restricted:latest": allowPrivilegeEscalation'
    )


async def test_a_token_can_be_followed_to_its_uses(api: Api) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await api.post(accounts, {"metadata": {"name": "robot"}}, **ROOT)
    issued = await api.post(f"{accounts}/robot/token", {}, **ROOT)
    record = (await records(api, issued.headers["Audit-Id"]))[-1]
    name = record["annotations"]["authentication.kubernetes.io/issued-credential-id"]
    token = issued.json["status"]["token"]
    used = await api.get(SECRETS, headers={"Authorization": f"Bearer {token}"})
    record = (await records(api, used.headers["Audit-Id"]))[-1]
    assert record["user"]["extra"]["authentication.kubernetes.io/credential-id"] == [name]
    assert token not in json.dumps(await records(api))


async def test_a_watch_has_a_stage_of_its_own(api: Api) -> None:
    async with api.session.get(
        f"{api.server.url}{MAPS}?watch=1&timeoutSeconds=1",
        headers={"Test-User": "root", "Test-Groups": "system:masters", "Audit-Id": "w"},
    ) as response:
        started = [each["stage"] for each in await records(api, "w")]
        assert started == ["RequestReceived", "ResponseStarted"]
        await response.read()
    stages = [each["stage"] for each in await records(api, "w")]
    assert stages == ["RequestReceived", "ResponseStarted", "ResponseComplete"]


async def test_patches_and_deletions(api: Api) -> None:
    await api.post(MAPS, config_map("p"), **ROOT)
    answer = await api.patch(f"{MAPS}/p", {"data": {"a": "b"}}, **ROOT)
    assert (await records(api, answer.headers["Audit-Id"]))[-1]["requestObject"] == {
        "data": {"a": "b"}
    }
    answer = await api.delete(f"{MAPS}/p", {"gracePeriodSeconds": 0}, **ROOT)
    last = (await records(api, answer.headers["Audit-Id"]))[-1]
    assert last["requestObject"] == {"gracePeriodSeconds": 0}
    assert last["responseStatus"]["status"] == "Success"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /api/v1/namespaces/default/secrets/%0a%7B%22level%22:%22None%22%7D HTTP/1.1",
        b'GET /api/v1/namespaces/default/secrets?x="}\\n{"level":"x HTTP/1.1',
        b"GET /api/v1/namespaces/d\xff\xfe/secrets HTTP/1.1",
    ],
)
async def test_nothing_can_be_smuggled_into_the_log(api: Api, head: bytes) -> None:
    agent = b'"},{"kind":"Event"\xff\t\\'
    with socket.create_connection(("127.0.0.1", api.server.port)) as raw:
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(
            raw, head + b'\r\nHost: x\r\nAudit-Id: z"}\r\nUser-Agent: ' + agent + b"\r\n\r\n"
        )
        answer = await asyncio.wait_for(loop.sock_recv(raw, 65536), 60)
    found = await records(api)
    if answer.startswith(b"HTTP/1.1 403"):
        mine = [each for each in found if each["auditID"] == 'z"}']
        assert [each["stage"] for each in mine] == ["RequestReceived", "ResponseComplete"]
        assert mine[0]["userAgent"].startswith('"},{"kind":"Event"')
    else:
        assert answer.split(b" ")[1] == b"400", answer


async def test_metrics_count_the_events(api: Api) -> None:
    await api.get(MAPS, **ROOT)
    written = len(await records(api))
    text = (await api.get("/metrics", **ROOT)).body.decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert int(found["apiserver_audit_event_total"]) >= written > 0
    assert found['apiserver_audit_error_total{plugin="log"}'] == "0"


async def test_every_request_leaves_exactly_one_complete_record(api: Api) -> None:
    async with aiohttp.ClientSession() as session:
        own = Api(api.server, session)
        ids = set()
        for number in range(60):
            kind = {"Audit-Id": f"r{number}"}
            path = (MAPS, "/version", "/nowhere", f"{SECRETS}/none", "/api/v1/pods")[number % 5]
            await own.get(path, headers=kind, **(ROOT if number % 2 else {}))
            ids.add(f"r{number}")
    complete = [
        each["auditID"] for each in await records(api) if each["stage"] != "RequestReceived"
    ]
    mine = [each for each in complete if each.startswith("r")]
    assert sorted(mine) == sorted(ids)
