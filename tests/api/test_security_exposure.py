"""What must not come out: secrets in logs, answers, metrics and on disk."""

from __future__ import annotations

import asyncio
import base64
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from tests.api.conftest import Api, secured_options, secured_server

from navarch.apiserver import server as server_module
from navarch.apiserver.encryption.config import ConfiguredSealer
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.server import Server

pytestmark = pytest.mark.secured

Object = dict[str, Any]

ROOT = {"user": "root", "groups": "system:masters"}
SECRETS = "/api/v1/namespaces/default/secrets"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
PLANTED = "planted-where-nobody-may-see-it"
ENCODED = base64.b64encode(PLANTED.encode()).decode()


def is_exposed(text: str) -> bool:
    return PLANTED in text or ENCODED in text or "eyJ" in text


async def test_nothing_is_logged_at_the_highest_verbosity(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """Secrets and tokens, taken and refused, whole and broken, and a failure inside."""
    caplog.set_level(logging.DEBUG)
    secret = {"metadata": {"name": "s"}, "stringData": {"k": PLANTED}}
    (await api.post(SECRETS, secret, **ROOT)).ok(201)
    (await api.get(SECRETS, **ROOT)).ok(200)
    await api.post(ACCOUNTS, {"metadata": {"name": "robot"}}, **ROOT)
    issued = (await api.post(f"{ACCOUNTS}/robot/token", {}, **ROOT)).ok(201)
    token = issued["status"]["token"]
    for bearer in (token, f"{token[:-4]}AAAA", PLANTED, f"abcdef.{PLANTED[:16]}"):
        await api.get(SECRETS, headers={"Authorization": f"Bearer {bearer}"})
        await api.get(f"{SECRETS}?token={bearer}")
    review = {"spec": {"token": f"{token}x"}}
    await api.post("/apis/authentication.k8s.io/v1/tokenreviews", review, **ROOT)
    await api.patch(f"{SECRETS}/s", {"data": {"k": f"%{ENCODED}"}}, **ROOT)

    async def fails(*_: object) -> None:
        raise RuntimeError("something broke")

    api.server.app.verbs["create"] = fails  # type: ignore[assignment]
    assert (await api.post(f"{SECRETS}?x={PLANTED}", secret, **ROOT)).status == 500
    assert "something broke" in caplog.text
    assert not is_exposed(caplog.text)


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"name": "s"}, "data": {"k": f"%%%{PLANTED}"}},
        {"metadata": {"name": "s"}, "data": {"k": {"v": PLANTED}}},
        {"metadata": {"name": "s"}, "data": {"bad key": ENCODED}},
        {
            "metadata": {"name": "s"},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": PLANTED},
        },
        {
            "metadata": {"name": "s"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": PLANTED},
        },
        {"metadata": {"name": "S!"}, "stringData": {"k": PLANTED}},
    ],
)
async def test_complaints_do_not_repeat_the_secret(api: Api, body: Object) -> None:
    answer = await api.post(SECRETS, body, **ROOT)
    assert answer.status in (400, 422)
    assert not is_exposed(answer.body.decode())


async def test_metrics_and_tables_tell_no_secret(api: Api) -> None:
    secret = {"metadata": {"name": "s"}, "stringData": {"k": PLANTED}}
    (await api.post(SECRETS, secret, **ROOT)).ok(201)
    await api.get(f"/api/v1/namespaces/default/{PLANTED}", **ROOT)
    await api.get(f"/{PLANTED}", **ROOT)
    assert not is_exposed((await api.get("/metrics", **ROOT)).body.decode())
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    table = await api.get(SECRETS, headers={"Accept": accept}, **ROOT)
    assert table.ok(200)["kind"] == "Table"
    assert not is_exposed(table.body.decode())


# On disk


def configuration(*names: str) -> str:
    keys = [
        {"name": name, "secret": base64.b64encode(name.encode().ljust(32, b"-")).decode()}
        for name in names
    ]
    rule = {"resources": ["secrets"], "providers": [{"aesgcm": {"keys": keys}}, {"identity": {}}]}
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}
    return yaml.safe_dump({**head, "resources": [rule]})


class Life:
    """Starts of one server on the same disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "data"
        self.keys = directory / "encryption.yaml"
        self.options: ServerOptions = replace(
            secured_options(directory),
            data_dir=self.directory,
            encryption_provider_config=self.keys,
        )

    async def start(self, *names: str) -> Server:
        self.keys.write_text(configuration(*names))
        sealer = ConfiguredSealer(self.keys)
        store = await server_module._open_store(self.options, sealer)
        server = Server(self.options, store, sealer=sealer)
        await server.start()
        return server

    def holds(self, text: str) -> bool:
        return any(
            text.encode() in each.read_bytes()
            for each in self.directory.rglob("*")
            if each.is_file()
        )


class AsRoot(Api):
    """Goes past authentication, which is not the matter here."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        from tests.api.conftest import AlsoHeaders

        super().__init__(server, session)
        security = server.core.secured
        real = AlsoHeaders(security.authenticator)
        server.core.security = replace(security, authenticator=real)


async def test_secrets_are_encrypted_on_disk_and_rewritten_with_a_new_key(tmp_path: Path) -> None:
    """A replacement without a change rewrites what an older key sealed; else it writes nothing."""
    life = Life(tmp_path)
    async with aiohttp.ClientSession() as session:
        server = await life.start("one")
        api = AsRoot(server, session)
        body = {"metadata": {"name": "s"}, "stringData": {"k": PLANTED}}
        (await api.post(SECRETS, body, **ROOT)).ok(201)
        plain = {"metadata": {"name": "m"}, "data": {"k": "to-be-found"}}
        (await api.post("/api/v1/namespaces/default/configmaps", plain, **ROOT)).ok(201)
        first = (await api.get(f"{SECRETS}/s", **ROOT)).ok(200)
        assert first["data"] == {"k": ENCODED}
        same = (await api.put(f"{SECRETS}/s", first, **ROOT)).ok(200)
        assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        await server.store.backup(str(life.directory / "backup.db"))
        await server.stop()
        assert not life.holds(PLANTED) and not life.holds(ENCODED)
        assert life.holds("to-be-found") and life.holds("k8s:enc:aesgcm:v1:one:")

        server = await life.start("two", "one")
        api = AsRoot(server, session)
        same = (await api.get(f"{SECRETS}/s", **ROOT)).ok(200)
        assert same == first
        written = (await api.put(f"{SECRETS}/s", same, **ROOT)).ok(200)
        assert written["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
        again = (await api.put(f"{SECRETS}/s", written, **ROOT)).ok(200)
        assert again == written
        await server.stop()

        server = await life.start("two")
        api = AsRoot(server, session)
        assert (await api.get(f"{SECRETS}/s", **ROOT)).ok(200)["data"] == {"k": ENCODED}
        await server.stop()


async def test_a_full_disk_stops_the_audit_log_and_not_the_api(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n", "utf-8"
    )
    for mode, status in (("batch", 200), ("blocking", 200), ("blocking-strict", 500)):
        options = replace(
            secured_options(tmp_path),
            audit_policy_file=policy,
            audit_log_path="/dev/full",
            audit_log_mode=mode,
        )
        async with secured_server(tmp_path, options) as server, aiohttp.ClientSession() as session:
            assert (await Api(server, session).get("/version", **ROOT)).status == status
            auditor = server.core.auditor
            assert auditor is not None
            async with asyncio.timeout(60):
                await auditor.backend.flushed()
            assert auditor.backend.dropped > 0
