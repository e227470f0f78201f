"""Tokens: what they say, for whom they are good, and what ends them before their time."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.api.conftest import Api, secured_options, secured_server
from tests.api.test_tls import certificates

from navarch.apiserver.authentication.tokens import TokenError
from navarch.apiserver.authentication.webhook import WebhookTokens, load_remote
from navarch.apiserver.server import Server
from navarch.store.memory import open_memory_store

Object = dict[str, Any]

ROOT = {"user": "root", "groups": "system:masters"}
CORE = "/api/v1/namespaces/default"
REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
OUR_AUDIENCE = "https://kubernetes.default.svc.cluster.local"


@pytest.fixture
async def api_server(tmp_path: Path) -> AsyncIterator[Server]:
    options = replace(secured_options(tmp_path), enable_bootstrap_token_auth=True)
    async with secured_server(tmp_path, options) as server:
        yield server


@pytest.fixture
async def ready(api: Api) -> Api:
    for name in ("default", "robot"):
        body = {"metadata": {"name": name}}
        (await api.post(f"{CORE}/serviceaccounts", body, **ROOT)).ok(201)
    (await api.post("/api/v1/nodes", {"metadata": {"name": "n1"}}, **ROOT)).ok(201)
    spec = {
        "containers": [{"name": "c", "image": "busybox"}],
        "serviceAccountName": "robot",
        "nodeName": "n1",
    }
    (await api.post(f"{CORE}/pods", {"metadata": {"name": "p"}, "spec": spec}, **ROOT)).ok(201)
    return api


async def issue(api: Api, **spec: Any) -> str:
    url = f"{CORE}/serviceaccounts/robot/token"
    issued = (await api.post(url, {"spec": spec}, **ROOT)).ok(201)
    return str(issued["status"]["token"])


def bound_to(kind: str, name: str) -> Object:
    return {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}}


def bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def status_of(api: Api, token: str) -> int:
    return (await api.post(REVIEW, {}, headers=bearer(token))).status


async def until_refused(api: Api, token: str) -> None:
    """Ten seconds are what upstream promises; ours is quicker, the machine may be slow."""
    async with asyncio.timeout(60):
        while True:
            if await status_of(api, token) == 401:
                return
            await asyncio.sleep(0.1)


def claims_of(token: str) -> Object:
    part = token.split(".")[1]
    found: Object = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


async def test_a_bound_token_says_what_it_is_bound_to(ready: Api) -> None:
    claims = claims_of(await issue(ready, **bound_to("Pod", "p")))
    assert claims["aud"] == [OUR_AUDIENCE]
    assert claims["sub"] == "system:serviceaccount:default:robot"
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["jti"]
    bound = claims["kubernetes.io"]
    assert bound["namespace"] == "default"
    for kind, name in (("pod", "p"), ("node", "n1"), ("serviceaccount", "robot")):
        assert bound[kind]["name"] == name and bound[kind]["uid"]


async def test_a_pods_user_names_pod_and_node(ready: Api) -> None:
    token = await issue(ready, **bound_to("Pod", "p"))
    answer = (await ready.post(REVIEW, {}, headers=bearer(token))).ok(201)
    extra = answer["status"]["userInfo"]["extra"]
    assert extra["authentication.kubernetes.io/pod-name"] == ["p"]
    assert extra["authentication.kubernetes.io/node-name"] == ["n1"]
    jti = claims_of(token)["jti"]
    assert extra["authentication.kubernetes.io/credential-id"] == [f"JTI={jti}"]


@pytest.mark.parametrize("audiences", [["elsewhere"], [f"{OUR_AUDIENCE}/"]])
async def test_another_audience_is_refused(ready: Api, audiences: list[str]) -> None:
    token = await issue(ready, audiences=audiences)
    assert await status_of(ready, token) == 401
    review = {"spec": {"token": token, "audiences": audiences}}
    status = (await ready.post(TOKEN_REVIEWS, review, **ROOT)).ok(201)["status"]
    assert status["authenticated"] and status["audiences"] == audiences
    status = (await ready.post(TOKEN_REVIEWS, {"spec": {"token": token}}, **ROOT)).ok(201)["status"]
    assert not status.get("authenticated") and "audiences" in status["error"]


@pytest.mark.parametrize(
    ("bound", "deletion"),
    [
        (bound_to("Pod", "p"), "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0"),
        (bound_to("Node", "n1"), "/api/v1/nodes/n1"),
        (bound_to("Secret", "s"), "/api/v1/namespaces/default/secrets/s"),
        ({}, "/api/v1/namespaces/default/serviceaccounts/robot"),
    ],
)
async def test_a_token_dies_with_what_it_is_bound_to(
    ready: Api, bound: Object, deletion: str
) -> None:
    await ready.post(f"{CORE}/secrets", {"metadata": {"name": "s"}}, **ROOT)
    token = await issue(ready, **bound)
    assert await status_of(ready, token) == 201
    assert (await ready.delete(deletion, **ROOT)).status == 200
    await until_refused(ready, token)


async def test_an_account_of_the_same_name_is_another(ready: Api) -> None:
    token = await issue(ready)
    assert await status_of(ready, token) == 201
    await ready.delete(f"{CORE}/serviceaccounts/robot", **ROOT)
    await ready.post(f"{CORE}/serviceaccounts", {"metadata": {"name": "robot"}}, **ROOT)
    await until_refused(ready, token)


async def test_a_bootstrap_token_may_ask_for_a_certificate_and_ends_with_its_secret(
    api: Api,
) -> None:
    data = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
    }
    secret = {
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }
    token, url = "abcdef.0123456789abcdef", "/api/v1/namespaces/kube-system/secrets"
    assert await status_of(api, token) == 401
    (await api.post(url, secret, **ROOT)).ok(201)
    answer = (await api.post(REVIEW, {}, headers=bearer(token))).ok(201)
    assert answer["status"]["userInfo"] == {
        "username": "system:bootstrap:abcdef",
        "groups": ["system:bootstrappers", "system:authenticated"],
    }
    assert (await api.get(url, headers=bearer(token))).status == 403
    await api.delete(f"{url}/bootstrap-token-abcdef", **ROOT)
    assert await status_of(api, token) == 401


@pytest.mark.parametrize("where", ["access_token", "token", "bearer_token", "authorization"])
async def test_a_token_in_the_url_means_nothing(ready: Api, where: str) -> None:
    token = await issue(ready)
    answer = await ready.get(f"{CORE}/pods?{where}={token}")
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert "system:anonymous" in answer.json["message"]
    assert token not in answer.body.decode()


async def test_a_browsers_token_among_the_subprotocols(ready: Api) -> None:
    token = await issue(ready)
    encoded = base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()
    protocol = f"base64url.bearer.authorization.k8s.io.{encoded}"
    headers = {"Sec-WebSocket-Protocol": f"{protocol}, base64.channel.k8s.io"}
    answer = (await ready.post(REVIEW, {}, headers=headers)).ok(201)
    assert answer["status"]["userInfo"]["username"] == "system:serviceaccount:default:robot"


def write_key(path: Path, key: Any) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


async def test_signing_keys_are_rotated(tmp_path: Path) -> None:
    """With the old key's public half in the list its tokens are good still; without, no longer."""
    old_key = ec.generate_private_key(ec.SECP256R1())
    new_key = rsa.generate_private_key(65537, 2048)
    old = write_key(tmp_path / "old.key", old_key)
    new = write_key(tmp_path / "new.key", new_key)
    public = tmp_path / "old.pub"
    pem = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(old_key.public_key().public_bytes(*pem))
    options = replace(secured_options(tmp_path), service_account_signing_key=old)
    async with secured_server(tmp_path, options) as first, aiohttp.ClientSession() as session:
        body = {"metadata": {"name": "robot", "uid": "x"}}
        await Api(first, session).post(f"{CORE}/serviceaccounts", body, **ROOT)
        before = await issue(Api(first, session))
        uid = claims_of(before)["kubernetes.io"]["serviceaccount"]["uid"]
        for keys, is_good in (((public,), True), ((), False)):
            changed = replace(options, service_account_signing_key=new, service_account_keys=keys)
            async with secured_server(tmp_path, changed) as second:
                api = Api(second, session)
                await api.post(f"{CORE}/serviceaccounts", body, **ROOT)
                keyset = (await api.get("/openid/v1/jwks", **ROOT)).ok()["keys"]
                assert len(keyset) == 1 + len(keys)
                after = await issue(api)
                assert await status_of(api, after) == 201
                asked = {"spec": {"token": before}}
                status = (await api.post(TOKEN_REVIEWS, asked, **ROOT)).ok(201)["status"]
                # The account is another one here: whether the signature counts shows in the reason.
                assert (uid in status["error"]) is is_good


@pytest.mark.conformance(
    "ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service "
    "account issuer"
)
async def test_others_can_verify_our_tokens(ready: Api) -> None:
    """By the discovery document and the keys it names, which every service account may read."""
    import jwt

    token = await issue(ready, audiences=["oidc-discovery-test"])
    ours = bearer(await issue(ready))
    assert (await ready.get("/.well-known/openid-configuration")).status == 403
    document = (await ready.get("/.well-known/openid-configuration", headers=ours)).ok(200)
    assert document == {
        "issuer": OUR_AUDIENCE,
        "jwks_uri": f"{OUR_AUDIENCE}/openid/v1/jwks",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }
    answer = await ready.get("/openid/v1/jwks", headers=ours)
    assert answer.headers["Content-Type"] == "application/jwk-set+json"
    keys = {each["kid"]: jwt.PyJWK(each) for each in answer.ok(200)["keys"]}
    key = keys[jwt.get_unverified_header(token)["kid"]]
    found = jwt.decode(
        token, key.key, algorithms=["ES256"], audience="oidc-discovery-test", issuer=OUR_AUDIENCE
    )
    assert found["sub"] == "system:serviceaccount:default:robot"
    for accept, status in (("application/json", 406), ("*/*", 200)):
        headers = {**ours, "Accept": accept}
        assert (await ready.get("/openid/v1/jwks", headers=headers)).status == status


@pytest.mark.parametrize(
    ("anonymous", "path", "status"),
    [
        ({"enabled": False}, "/livez", 401),
        ({"enabled": True}, "/livez", 200),
        ({"enabled": True, "conditions": [{"path": "/livez"}]}, "/livez", 200),
        ({"enabled": True, "conditions": [{"path": "/livez"}]}, "/readyz", 401),
        ({"enabled": True, "conditions": [{"path": "/livez"}]}, "/livez/ping", 401),
        ({"enabled": True, "conditions": [{"path": "/livez"}]}, f"{CORE}/pods", 401),
    ],
)
async def test_who_may_come_without_credentials(
    tmp_path: Path, anonymous: Object, path: str, status: int
) -> None:
    file = tmp_path / "authentication.yaml"
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration"}
    file.write_text(yaml.safe_dump({**head, "anonymous": anonymous}))
    options = replace(secured_options(tmp_path), authentication_config=file)
    server = Server(options, open_memory_store())
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            assert (await Api(server, session).get(path)).status == status
    finally:
        await server.stop()


class Judge:
    """A server that answers TokenReviews, as a test says."""

    def __init__(self) -> None:
        self.answer: web.Response | Object = {}
        self.asked: list[Object] = []
        self.credentials = ""

    async def handle(self, request: web.Request) -> web.Response:
        if request.path != "/review":
            self.asked.append({"path": request.path})
        self.credentials = request.headers.get("Authorization", "")
        self.asked.append(await request.json())
        if isinstance(self.answer, web.Response):
            return self.answer
        return web.json_response({"status": self.answer})


@asynccontextmanager
async def judging(tmp_path: Path) -> AsyncIterator[tuple[Judge, Path]]:
    """A judge, and the kubeconfig that says where it sits."""
    paths = certificates(tmp_path / "judge")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(paths.pki / "apiserver.crt", paths.pki / "apiserver.key")
    judge = Judge()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", judge.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    cluster = {
        "server": f"https://127.0.0.1:{port}/review",
        "certificate-authority": str(paths.pki / "ca.crt"),
    }
    file = tmp_path / "judge.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": "ours"}}],
            }
        )
    )
    try:
        yield judge, file
    finally:
        await runner.cleanup()


@pytest.fixture
async def judge(tmp_path: Path) -> AsyncIterator[tuple[Judge, WebhookTokens]]:
    async with judging(tmp_path) as (judge, file):
        yield judge, WebhookTokens(load_remote(file), "v1")


GOOD = {
    "authenticated": True,
    "user": {"username": "ann", "uid": "7", "groups": ["devs"], "extra": {"a": ["b"]}},
}


async def test_another_server_says_whose_token_it_is(judge: tuple[Judge, WebhookTokens]) -> None:
    server, tokens = judge
    server.answer = GOOD
    found = await tokens.verify("t", ("here",))
    assert (found.user.name, found.user.uid, found.user.groups) == ("ann", "7", ("devs",))
    assert found.user.extra == {"a": ("b",)} and found.audiences == ("here",)
    assert server.asked[-1]["spec"] == {"token": "t", "audiences": ["here"]}
    assert server.credentials == "Bearer ours"


@pytest.mark.parametrize(
    "answer",
    [
        {"authenticated": False, "error": "no"},
        {},
        {**GOOD, "audiences": ["elsewhere"]},
        web.Response(status=500),
        web.Response(text="garbage"),
        web.Response(status=307, headers={"Location": "/elsewhere"}),
    ],
)
async def test_answers_that_make_no_user(
    judge: tuple[Judge, WebhookTokens], answer: web.Response | Object
) -> None:
    """Redirects are not followed: the token must not go to addresses of somebody's choice."""
    server, tokens = judge
    server.answer = answer
    with pytest.raises(TokenError):
        await tokens.verify("t", ("here",))
    assert all("path" not in each for each in server.asked)
