"""Admission webhooks that cannot be reached, or answer nonsense."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from tests.api.conftest import Admin, config_map
from tests.api.webhook_server import WebhookServer, allow, deny, webhook_server

from navarch.apiserver.webhooks import client as client_module

from .conftest import MAPS, PREFIX, Object, configurations, hanging, hook, register, rule


@pytest.mark.conformance(PREFIX + "should unconditionally reject operations on fail closed webhook")
async def test_a_webhook_that_cannot_be_trusted_fails_closed(
    api: Admin, webhooks: WebhookServer
) -> None:
    webhooks.answers["/a"] = allow
    client = {"url": webhooks.client("/a")["url"]}
    await register(api, "Validating", "a", hook("closed", client, rule(":configmaps")))
    answer = await api.post(MAPS, config_map("a"))
    assert (answer.status, answer.json["reason"]) == (500, "InternalError")
    assert answer.json["message"] == (
        'Internal error occurred: failed calling webhook "closed.example.com": failed to call '
        f'webhook: Post "{client["url"]}?timeout=10s": tls: failed to verify certificate: x509: '
        "certificate signed by unknown authority"
    )


@pytest.mark.conformance(PREFIX + "should honor timeout")
async def test_timeouts_are_those_of_the_configuration(api: Admin, webhooks: WebhookServer) -> None:
    answered = asyncio.Event()
    asked: list[str] = []

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.query_string)
        await answered.wait()
        review = await request.json()
        response = {"uid": review["request"]["uid"], "allowed": True}
        return web.json_response({**review, "response": response})

    webhooks.handlers["/slow"] = slow

    def slow_hook(seconds: int, policy: str) -> Object:
        more = {"timeoutSeconds": seconds, "failurePolicy": policy}
        return hook("slow", webhooks.client("/slow"), rule(":configmaps"), **more)

    await register(api, "Validating", "a", slow_hook(1, "Fail"))
    answer = await api.post(MAPS, config_map("a"))
    assert answer.status == 500
    assert "context deadline exceeded" in answer.json["message"]
    assert 'slow?timeout=1s": ' in answer.json["message"]
    (await api.delete(configurations("Validating") + "/a")).ok()
    await register(api, "Validating", "a", slow_hook(1, "Ignore"))
    (await api.post(MAPS, config_map("a"))).ok(201)
    (await api.delete(configurations("Validating") + "/a")).ok()
    await register(api, "Validating", "a", slow_hook(30, "Fail"))
    pending = asyncio.create_task(api.post(MAPS, config_map("b")))
    async with asyncio.timeout(60):
        while len(asked) < 3:  # noqa: ASYNC110 - the question comes over HTTPS
            await asyncio.sleep(0.01)
    answered.set()
    (await pending).ok(201)
    assert asked == ["timeout=1s", "timeout=1s", "timeout=30s"]


Turn = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def redirecting(request: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect(str(request.url.with_path("/elsewhere")))


async def garbage(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"<html>\xff", content_type="application/json")


async def nothing(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def failing(request: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPInternalServerError(text="out of order")


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while request.transport is not None and not request.transport.is_closing():
        await response.write(b" " * (1 << 16))
        await asyncio.sleep(0)
    return response


async def another(request: web.BaseRequest) -> web.StreamResponse:
    """An answer to somebody else's question."""
    response = {"uid": "other", "allowed": True}
    return web.json_response(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
    )


async def mistyped(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"response": {"allowed": "yes"}})


async def silent(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def bare(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"})


MISBEHAVIOUR: list[tuple[Turn | None, str]] = [
    (None, "connect: connection refused"),
    (hanging, "context deadline exceeded"),
    (redirecting, "the server responded with the status code 307"),
    (garbage, "json parse error"),
    (nothing, "EOF"),
    (failing, 'an error on the server ("out of order") has prevented the request from succeeding'),
    (endless, "the response is larger than"),
    (another, "expected response.uid="),
    (mistyped, "json: cannot unmarshal"),
    (silent, "0-length response with status code: 200"),
    (bare, "webhook response was absent"),
]


@pytest.mark.parametrize("kind", ["Mutating", "Validating"])
@pytest.mark.parametrize(
    ("turn", "text"),
    MISBEHAVIOUR,
    ids=[turn.__name__ if turn else "dead" for turn, _ in MISBEHAVIOUR],
)
async def test_broken_webhooks_fail_or_are_passed_over(
    api: Admin,
    webhooks: WebhookServer,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    turn: Turn | None,
    text: str,
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER", 1 << 20)
    webhooks.answers["/elsewhere"] = allow
    client = webhooks.client("/a")
    if turn is not None:
        webhooks.handlers["/a"] = turn
    else:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            client["url"] = f"https://127.0.0.1:{unused.getsockname()[1]}/a"
    seconds = 2 if turn is hanging else 20
    for policy in ("Fail", "Ignore"):
        more = {"failurePolicy": policy, "timeoutSeconds": seconds}
        await register(api, kind, policy.lower(), hook("a", client, rule(":configmaps"), **more))
        answer = await api.post(MAPS, config_map(policy.lower()))
        (await api.delete(f"{configurations(kind)}/{policy.lower()}")).ok()
        if policy == "Ignore":
            answer.ok(201)
        else:
            assert (answer.status, answer.json["reason"]) == (500, "InternalError")
            message = answer.json["message"]
            assert message.startswith(
                'Internal error occurred: failed calling webhook "a.example.com": '
            )
            assert text in message
    assert not webhooks.requests("/elsewhere")
    lines = (await api.get("/metrics")).body.decode().splitlines()
    step = "admit" if kind == "Mutating" else "validating"
    labels = f'name="a.example.com",type="{step}"'
    assert f"apiserver_admission_webhook_fail_open_count{{{labels}}} 1" in lines


async def test_a_connection_that_dies_while_idle_is_replaced(
    api: Admin, webhooks: WebhookServer
) -> None:
    asked = 0

    async def once(request: web.BaseRequest) -> web.StreamResponse:
        """Answers once on each connection."""
        nonlocal asked
        asked += 1
        if request.transport in webhooks.answered:
            return await nothing(request)
        webhooks.answered.add(request.transport)
        review = await request.json()
        response = {"uid": review["request"]["uid"], "allowed": True}
        return web.json_response({**review, "response": response})

    webhooks.handlers["/a"] = once
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), rule(":configmaps")))
    for name in ("a", "b"):
        (await api.post(MAPS, config_map(name))).ok(201)
    assert asked == 3


async def test_a_name_the_certificate_does_not_have_is_no_webhook(
    api: Admin, webhooks: WebhookServer
) -> None:
    webhooks.answers["/a"] = allow
    client = webhooks.client("/a", host="127.0.0.1")
    await register(api, "Validating", "a", hook("a", client, rule(":configmaps")))
    answer = await api.post(MAPS, config_map("a"))
    assert answer.status == 500
    assert "tls: failed to verify certificate: x509: " in answer.json["message"]


async def test_webhooks_are_reached_through_services(api: Admin, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    services = "/api/v1/namespaces/default/services"
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    async with webhook_server(tmp_path, address) as server:
        server.answers["/path"] = deny("through the service")
        ref = {"namespace": "default", "name": "e2e-test-webhook", "path": "/path", "port": 8443}
        client = {"service": ref, "caBundle": server.ca_bundle}
        await register(api, "Validating", "a", hook("a", client, rule(":configmaps")))
        url = "https://e2e-test-webhook.default.svc:8443/path?timeout=10s"
        answer = await api.post(MAPS, config_map("a"))
        assert f'Post "{url}": service "e2e-test-webhook" not found' in answer.json["message"]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "e2e-test-webhook"},
            "spec": {"ports": [{"port": 8443, "name": "https"}]},
        }
        (await api.post(services, service)).ok(201)
        answer = await api.post(MAPS, config_map("a"))
        assert 'no endpoints available for service "e2e-test-webhook"' in answer.json["message"]
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "e2e-test-webhook-1",
                "labels": {"kubernetes.io/service-name": "e2e-test-webhook"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": server.port}],
            "endpoints": [{"addresses": [address]}],
        }
        (await api.post(slices, endpoints)).ok(201)
        answer = await api.post(MAPS, config_map("a"))
        assert "through the service" in answer.json["message"]
