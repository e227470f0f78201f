"""API priority and fairness: one tenant's flood is its own trouble."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.api.conftest import Api, config_map, running_server

from navarch.apiserver.flowcontrol.control import FlowControl
from navarch.apiserver.flowcontrol.upkeep import FlowUpkeep
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.start import bootstrap_access

Object = dict[str, Any]

GROUP = "/apis/flowcontrol.apiserver.k8s.io/v1"
SCHEMAS, LEVELS = f"{GROUP}/flowschemas", f"{GROUP}/prioritylevelconfigurations"
CM = "/api/v1/namespaces/default/configmaps"
DEBUG = "/debug/api_priority_and_fairness"
USERS = "system:authenticated"


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Api]:
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        running_server(options=ServerOptions(port=0, **options)) as server,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        yield Api(server, session)


def control_of(api: Api) -> FlowControl:
    found = api.server.core.flow_control
    assert found is not None
    return found


async def make_level(api: Api, name: str, shares: int, **queuing: int) -> None:
    """A level, and a schema that sends it all that users of the same name ask."""
    response: Object = {"type": "Queue", "queuing": queuing} if queuing else {"type": "Reject"}
    limited = {"nominalConcurrencyShares": shares, "limitResponse": response}
    spec: Object = {"type": "Limited", "limited": limited}
    (await api.post(LEVELS, {"metadata": {"name": name}, "spec": spec})).ok(201)
    rule = {
        "subjects": [{"kind": "Group", "group": {"name": name}}],
        "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
        ],
    }
    spec = {
        "priorityLevelConfiguration": {"name": name},
        "matchingPrecedence": 50,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [rule],
    }
    (await api.post(SCHEMAS, {"metadata": {"name": name}, "spec": spec})).ok(201)


@asynccontextmanager
async def held_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """Lists begin, and go on when the event is set."""
    go = asyncio.Event()
    original = api.server.app.verbs["list"]

    async def slow(core: Any, call: Any, resource: Any) -> Any:
        await go.wait()
        return await original(core, call, resource)

    monkeypatch.setitem(api.server.app.verbs, "list", slow)
    yield go
    go.set()


async def until_waiting(control: FlowControl, level: str, number: int) -> None:
    async with asyncio.timeout(60):
        while control.levels[level].waiting < number:  # noqa: ASYNC110 - a plain number
            await asyncio.sleep(0.01)


async def until_executing(control: FlowControl, level: str, number: int) -> None:
    async with asyncio.timeout(60):
        while control.levels[level].executing < number:  # noqa: ASYNC110 - a plain number
            await asyncio.sleep(0.01)


async def test_answers_name_schema_and_level() -> None:
    async with serving() as api:
        answer = await api.get(CM, user="ann", groups=USERS)
        schema = (await api.get(f"{SCHEMAS}/global-default")).ok()["metadata"]["uid"]
        level = (await api.get(f"{LEVELS}/global-default")).ok()["metadata"]["uid"]
        assert answer.headers["X-Kubernetes-Pf-Flowschema-Uid"] == schema
        assert answer.headers["X-Kubernetes-Pf-Prioritylevel-Uid"] == level


async def test_a_full_level_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as api:
        await make_level(api, "tiny", 1)
        control = control_of(api)
        control.refresh()
        control.levels["tiny"].limit = 2
        async with held_up(api, monkeypatch) as go:
            first = [asyncio.create_task(api.get(CM, user="a", groups="tiny")) for _ in range(2)]
            await until_executing(control, "tiny", 2)
            refused = await api.get(CM, user="b", groups="tiny")
            assert refused.status == 429
            assert refused.headers["Retry-After"] == "1"
            assert refused.body == b"Too many requests, please try again later.\n"
            assert "X-Kubernetes-Pf-Flowschema-Uid" in refused.headers
            # Others have levels of their own, and administrators are exempt.
            assert (await api.get("/version", user="c")).status == 200
            assert (await api.get("/version", user="c", groups="system:masters")).status == 200
            go.set()
            assert [(await each).status for each in first] == [200, 200]
        text = (await api.get("/metrics")).body.decode()
        labels = 'priority_level="tiny",flow_schema="tiny"'
        name = "apiserver_flowcontrol_rejected_requests_total"
        assert f'{name}{{{labels},reason="concurrency-limit"}} 1' in text
        assert f"apiserver_flowcontrol_dispatched_requests_total{{{labels}}} 2" in text
        assert 'apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"}' in text


async def test_queues_fill_and_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as api:
        await make_level(api, "small", 1, queues=1, handSize=1, queueLengthLimit=3)
        control = control_of(api)
        control.refresh()
        control.levels["small"].limit = 1
        async with held_up(api, monkeypatch) as go:
            tasks = [asyncio.create_task(api.get(CM, user="a", groups="small"))]
            await until_executing(control, "small", 1)
            for number in range(1, 4):
                tasks.append(asyncio.create_task(api.get(CM, user="a", groups="small")))
                await until_waiting(control, "small", number)
            assert (await api.get(CM, user="a", groups="small")).status == 429
            levels = (await api.get(f"{DEBUG}/dump_priority_levels")).body.decode()
            row = next(line for line in levels.splitlines() if line.startswith("small"))
            cells = [each.strip() for each in row.split(",")]
            assert cells == ["small", "1", "false", "false", "3", "1", "1", "1", "0", "0"]
            path = f"{DEBUG}/dump_requests?includeRequestDetails=1"
            requests = (await api.get(path)).body.decode().splitlines()
            waiting = [line for line in requests if line.startswith("small")]
            assert len(waiting) == 4
            assert all("/api/v1/namespaces/default/configmaps" in line for line in waiting)
            assert "small" in (await api.get(f"{DEBUG}/dump_queues")).body.decode()
            go.set()
            assert [(await each).status for each in tasks] == [200] * 4
        assert control.levels["small"].in_use == 0
        assert control.executing == set()


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a request whose client has left stay in the queue."""
    async with serving(request_timeout_seconds=8.0) as api:
        await make_level(api, "small", 1, queues=1, handSize=1, queueLengthLimit=9)
        control = control_of(api)
        control.refresh()
        control.levels["small"].limit = 1
        async with held_up(api, monkeypatch) as go:
            first = asyncio.create_task(api.get(CM, user="a", groups="small"))
            await until_executing(control, "small", 1)
            assert (await api.get(CM, user="b", groups="small")).status == 429
            leaver = asyncio.create_task(api.get(CM, user="c", groups="small"))
            await until_waiting(control, "small", 1)
            leaver.cancel()
            async with asyncio.timeout(60):
                while control.levels["small"].waiting:  # noqa: ASYNC110 - a plain number
                    await asyncio.sleep(0.01)
            go.set()
            assert (await first).status == 200
        tally = control.tallies["small", "small"]
        assert dict(tally.rejected) == {"time-out": 1, "cancelled": 1}


async def test_watches_take_seats_only_at_their_beginning() -> None:
    async with serving() as api:
        await make_level(api, "tiny", 1)
        control = control_of(api)
        control.refresh()
        control.levels["tiny"].limit = 1
        headers = {"Test-User": "a", "Test-Groups": "tiny"}
        async with (
            api.watch(f"{CM}?watch=1", headers=headers) as one,
            api.watch(f"{CM}?watch=1", headers=headers) as two,
        ):
            (await api.post(CM, config_map("x"))).ok(201)
            for events in (one, two):
                assert (await anext(events))["type"] == "ADDED"
            assert (await api.get(CM, user="a", groups="tiny")).status == 200
            assert control.levels["tiny"].executing == 0


async def test_the_flood_of_one_tenant() -> None:
    """A greedy client lists without end over 64 connections; another user's small requests, and a
    node's lease, keep their latency."""
    async with serving() as api:
        for start in range(0, 2000, 100):
            many = (config_map(f"cm-{start + n}", filler="x" * 2000) for n in range(100))
            await asyncio.gather(*(api.post(CM, obj) for obj in many))
        stop = asyncio.Event()
        answers: list[int] = []
        waited: list[float] = []

        async def greedy() -> None:
            while not stop.is_set():
                began = time.perf_counter()
                # A selector on everything: looked at one by one, and nothing is kept.
                answer = await api.get(f"{CM}?labelSelector=a%21%3Db", user="greedy", groups=USERS)
                waited.append(time.perf_counter() - began)
                answers.append(answer.status)

        async def latency(user: str, groups: str) -> list[float]:
            times = []
            for _ in range(20):
                began = time.perf_counter()
                (await api.get(f"{CM}/cm-7", user=user, groups=groups)).ok()
                times.append(time.perf_counter() - began)
                await asyncio.sleep(0.01)
            return times

        flood = [asyncio.create_task(greedy()) for _ in range(64)]
        await asyncio.sleep(0.3)
        quiet, node = await asyncio.gather(
            latency("quiet", USERS), latency("system:node:n", "system:nodes")
        )
        stop.set()
        await asyncio.gather(*flood)
        # A list takes some 20 ms, and the client takes turns with the server in one loop: what a
        # queue for all would cost is what the greedy one waits, however slow the machine is.
        tally = control_of(api).tallies["global-default", "global-default"]
        assert statistics.median(quiet) < statistics.median(waited) / 3
        assert statistics.median(node) < statistics.median(waited) / 3
        assert sum(tally.waits) > 0, "the flood never had to wait"
        assert set(answers) <= {200, 429}


async def test_a_level_that_is_not_there() -> None:
    async with serving() as api:
        spec: Object = {"priorityLevelConfiguration": {"name": "later"}, "matchingPrecedence": 5}
        subjects = [{"kind": "User", "user": {"name": "ann"}}]
        rules = [{"verbs": ["*"], "nonResourceURLs": ["*"]}]
        spec["rules"] = [{"subjects": subjects, "nonResourceRules": rules}]
        (await api.post(SCHEMAS, {"metadata": {"name": "s"}, "spec": spec})).ok(201)

        async def condition(status: str) -> Object:
            async with asyncio.timeout(60):
                while True:
                    obj = (await api.get(f"{SCHEMAS}/s")).ok()
                    for each in obj.get("status", {}).get("conditions", ()):
                        if each["status"] == status:
                            return dict(each)
                    await asyncio.sleep(0.02)

        found = await condition("True")
        assert (found["type"], found["reason"]) == ("Dangling", "NotFound")
        global_uid = (await api.get(f"{SCHEMAS}/global-default")).ok()["metadata"]["uid"]
        answer = await api.get("/version", user="ann")
        assert answer.headers["X-Kubernetes-Pf-Flowschema-Uid"] == global_uid
        limited = {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}
        level = {"metadata": {"name": "later"}, "spec": {"type": "Limited", "limited": limited}}
        (await api.post(LEVELS, level)).ok(201)
        found = await condition("False")
        assert found["reason"] == "Found"
        own = (await api.get(f"{SCHEMAS}/s")).ok()["metadata"]["uid"]
        answer = await api.get("/version", user="ann")
        assert answer.headers["X-Kubernetes-Pf-Flowschema-Uid"] == own


async def test_our_own_objects_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from navarch.apiserver.flowcontrol import upkeep

    monkeypatch.setattr(upkeep, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(upkeep, "ADJUST_SECONDS", 0.2)
    async with serving() as api:
        (await api.delete(f"{SCHEMAS}/global-default")).ok()

        async with asyncio.timeout(60):
            path = f"{SCHEMAS}/global-default"
            while (await api.get(path)).status != 200:  # noqa: ASYNC110 - it is simply there again
                await asyncio.sleep(0.02)


async def test_an_upkeep_that_ends_at_once_leaves_nothing_half_begun() -> None:
    """A coroutine that nobody awaits any more would be complained of, and fail this test."""
    async with serving() as api:
        core = api.server.core
        access = bootstrap_access(core.registry, core.lookup)
        telling = asyncio.create_task(FlowUpkeep(core.registry, access, None)._tell())
        await asyncio.sleep(0)
        telling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await telling
    gc.collect()


async def test_without_it_requests_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(enable_priority_and_fairness=False, max_requests_inflight=2) as api:
        async with held_up(api, monkeypatch) as go:
            tasks = [asyncio.create_task(api.get(CM, user="a")) for _ in range(2)]
            async with asyncio.timeout(60):
                while api.server.app.metrics.in_flight < 2:  # noqa: ASYNC110 - a plain number
                    await asyncio.sleep(0.01)
            refused = await api.get(CM, user="b")
            assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
            assert (await api.get("/version", user="root", groups="system:masters")).status == 200
            # Writes are counted apart.
            (await api.post(CM, config_map("x"), user="b")).ok(201)
            go.set()
            assert [(await each).status for each in tasks] == [200, 200]
        assert (await api.get(f"{DEBUG}/dump_queues")).status == 404
