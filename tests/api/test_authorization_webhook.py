"""Authorizers from a file: their order, the one over the network, and what its failures mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from tests.api.conftest import Api, secured_options, secured_server
from tests.api.test_security_tokens import Judge, judging

from navarch.apiserver.authorization.configuration import load_authorizers
from navarch.apiserver.authorization.webhook import compile_condition

Object = dict[str, Any]

MAPS = "/api/v1/namespaces/default/configmaps"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
ROOT = {"user": "root", "groups": "system:masters"}
ALLOWED = {"allowed": True, "reason": "I say so"}


def webhook(file: Path | str, **changes: Any) -> Object:
    return {
        "timeout": "3s",
        "subjectAccessReviewVersion": "v1",
        "matchConditionSubjectAccessReviewVersion": "v1",
        "failurePolicy": "NoOpinion",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": str(file)},
        **changes,
    }


def configuration(directory: Path, *authorizers: Object) -> Path:
    file = directory / "authorization.yaml"
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration"}
    file.write_text(yaml.safe_dump({**head, "authorizers": list(authorizers)}))
    return file


NODE, RBAC = {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}


class Court:
    """A server whose last authorizer is a judge over the network."""

    def __init__(self, directory: Path, judge: Judge, file: Path) -> None:
        self.directory, self.judge, self.file = directory, judge, file

    @asynccontextmanager
    async def api(self, session: aiohttp.ClientSession, **changes: Any) -> AsyncIterator[Api]:
        entry = {"type": "Webhook", "name": "judge", "webhook": webhook(self.file, **changes)}
        file = configuration(self.directory, NODE, RBAC, entry)
        options = replace(secured_options(self.directory), authorization_config=file)
        async with secured_server(self.directory, options) as server:
            yield Api(server, session)


@pytest.fixture
async def court(tmp_path: Path) -> AsyncIterator[Court]:
    async with judging(tmp_path) as (judge, file):
        yield Court(tmp_path, judge, file)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_what_others_allow(court: Court, session: aiohttp.ClientSession) -> None:
    """The webhook is asked last, once per question, and an access review asks it as well."""
    court.judge.answer = ALLOWED
    async with court.api(session) as api:
        for _ in range(3):
            assert (await api.get(f"{MAPS}?labelSelector=a%3Db", user="ann")).status == 200
        (asked,) = court.judge.asked
        assert asked["kind"] == "SubjectAccessReview"
        assert asked["spec"] == {
            "user": "ann",
            "groups": ["system:authenticated"],
            "resourceAttributes": {
                "namespace": "default",
                "verb": "list",
                "version": "v1",
                "resource": "configmaps",
                "labelSelector": {"rawSelector": "a=b"},
            },
        }
        assert (await api.get("/nowhere", user="ann")).status == 404
        assert court.judge.asked[-1]["spec"]["nonResourceAttributes"] == {
            "path": "/nowhere",
            "verb": "get",
        }
        question = {"spec": {"user": "bob", "resourceAttributes": {"verb": "x", "resource": "y"}}}
        status = (await api.post(ACCESS, question, **ROOT)).ok(201)["status"]
        assert status == {"allowed": True, "reason": "I say so"}
        before = len(court.judge.asked)
        assert (await api.get(MAPS, **ROOT)).status == 200
        assert len(court.judge.asked) == before


@pytest.mark.parametrize(("size", "status"), [(600_000, 200), (2_000_000, 403)])
async def test_long_answers_are_read_whole_but_not_endlessly(
    court: Court, session: aiohttp.ClientSession, size: int, status: int
) -> None:
    court.judge.answer = {"allowed": True, "reason": "x" * size}
    async with court.api(session) as api:
        assert (await api.get(MAPS, user="ann")).status == status


@pytest.mark.parametrize(
    ("policy", "answer", "status"),
    [
        ("NoOpinion", {"allowed": False, "reason": "no reason"}, 403),
        ("NoOpinion", {"allowed": True, "denied": True}, 403),
        ("NoOpinion", {"allowed": "yes"}, 403),
        ("NoOpinion", {}, 403),
        ("NoOpinion", web.Response(status=500), 403),
        ("Deny", web.Response(text="garbage"), 403),
        ("NoOpinion", web.Response(status=307, headers={"Location": "/elsewhere"}), 403),
    ],
)
async def test_what_others_do_not_allow(
    court: Court,
    session: aiohttp.ClientSession,
    policy: str,
    answer: Object | web.Response,
    status: int,
) -> None:
    court.judge.answer = answer
    async with court.api(session, failurePolicy=policy) as api:
        refused = await api.get(MAPS, user="ann")
        assert refused.status == status
        assert all("path" not in each for each in court.judge.asked)
        if isinstance(answer, dict) and "reason" in answer:
            assert refused.json["message"].endswith(": no reason")


async def test_a_denial_comes_before_those_behind(
    court: Court, session: aiohttp.ClientSession
) -> None:
    """Placed first, the webhook's failure can deny what RBAC allows; not to the administrators."""
    court.judge.answer = web.Response(status=500)
    failing = {**webhook(court.file), "failurePolicy": "Deny"}
    first = {"type": "Webhook", "name": "judge", "webhook": failing}
    file = configuration(court.directory, first, NODE, RBAC)
    options = replace(secured_options(court.directory), authorization_config=file)
    async with secured_server(court.directory, options) as server:
        api = Api(server, session)
        assert (await api.get("/livez")).status == 403
        assert (await api.get("/livez", **ROOT)).status == 200


async def test_conditions_say_what_is_asked_about(
    court: Court, session: aiohttp.ClientSession
) -> None:
    court.judge.answer = ALLOWED
    expression = (
        "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'default'"
    )
    async with court.api(session, matchConditions=[{"expression": expression}]) as api:
        assert (await api.get(MAPS, user="ann")).status == 200
        assert (await api.get("/api/v1/configmaps", user="ann")).status == 403
        assert (await api.get("/nowhere", user="ann")).status == 403
        assert len(court.judge.asked) == 1


@pytest.mark.parametrize(
    ("authorizers", "problem"),
    [
        ([], "at least one"),
        ([RBAC, {**RBAC, "name": "again"}], "Duplicate"),
        ([RBAC, {**NODE, "name": "rbac"}], "a name of its own"),
        ([{"type": "ABAC", "name": "a"}], "Unsupported value: 'ABAC'"),
        ([{"type": "Webhook", "name": "a"}], "must be set for a webhook"),
        ([{"type": "Webhook", "name": "a", "webhook": webhook("x", timeout="31s")}], "30s"),
        ([{"type": "Webhook", "name": "a", "webhook": webhook("x", timeout="soon")}], "duration"),
        ([{"type": "Webhook", "name": "a", "webhook": webhook("x", failurePolicy="")}], "Deny"),
        ([{"type": "Webhook", "name": "a", "webhook": webhook("x", wrong=1)}], "unknown field"),
        ([{"type": "Webhook", "name": "a", "webhook": webhook("")}], "KubeConfigFile"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, authorizers: list[Object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load_authorizers(configuration(tmp_path, *authorizers))


def test_conditions_that_do_not_compile() -> None:
    for text in ("request.nobody == ''", "1 + 1", "request.user =="):
        with pytest.raises(ValueError, match="compilation failed"):
            compile_condition(text)
