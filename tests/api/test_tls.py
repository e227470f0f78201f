"""The API server's TLS: who a client certificate makes its owner, and what is turned away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from navarch.apiserver import server as server_module
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.server import Server
from navarch.cluster import pki
from navarch.cluster.components import options_from
from navarch.cluster.composition import apiserver_options
from navarch.cluster.profile import Paths, Profile
from navarch.store.contract import StoreFailed
from navarch.store.memory import open_memory_store

PODS = "/api/v1/pods"


def certificates(directory: Path, now: datetime | None = None) -> Paths:
    """A cluster's certificates, made at a time."""
    paths = Paths(directory)
    paths.create()
    pki.ensure(Profile("tls", nodes=0), paths, now)
    return paths


def options_of(paths: Paths) -> ServerOptions:
    values = apiserver_options(Profile("tls", nodes=0), paths) | {"port": 0, "store": "memory"}
    options: ServerOptions = options_from(values, ServerOptions)
    return options


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return certificates(tmp_path / "own")


@pytest.fixture
async def server(paths: Paths) -> AsyncIterator[Server]:
    server = Server(options_of(paths), open_memory_store())
    await server.start()
    yield server
    await server.stop()


def client_tls(own: Paths, bearer: Paths | None = None, name: str = "admin") -> ssl.SSLContext:
    """Trusts the server; `bearer` holds the certificate to show."""
    context = ssl.create_default_context(cafile=own.pki / "ca.crt")
    if bearer is not None:
        context.load_cert_chain(bearer.pki / f"{name}.crt", bearer.pki / f"{name}.key")
    return context


async def get(server: Server, tls: ssl.SSLContext, path: str = PODS) -> int:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.get(server.url + path) as response,
    ):
        return response.status


async def test_certificates_make_users(server: Server, paths: Paths) -> None:
    assert await get(server, client_tls(paths, paths)) == 200
    assert await get(server, client_tls(paths)) == 403
    assert await get(server, client_tls(paths, paths, "scheduler"), "/api/v1/secrets") == 403


async def test_certificates_of_strangers_are_refused(
    server: Server, paths: Paths, tmp_path: Path
) -> None:
    """Another authority's certificate says the same names; it is none of ours."""
    stranger = certificates(tmp_path / "stranger")
    with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
        await get(server, client_tls(paths, stranger))


REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
SPOKEN = {
    "X-Remote-User": "ann",
    "X-Remote-Uid": "7",
    "X-Remote-Group": "devs",
    "X-Remote-Extra-Team%2fName": "red",
}


async def whoami(server: Server, tls: ssl.SSLContext, headers: Mapping[str, str]) -> Any:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.post(server.url + REVIEW, json={}, headers=headers) as response,
    ):
        answer = await response.json()
        return answer["status"]["userInfo"] if response.status == 201 else response.status


async def test_a_front_proxy_speaks_for_users(server: Server, paths: Paths) -> None:
    """With its own certificate; nobody else's headers mean anything."""
    proxy = client_tls(paths, paths, "front-proxy-client")
    assert await whoami(server, proxy, SPOKEN) == {
        "username": "ann",
        "uid": "7",
        "groups": ["devs", "system:authenticated"],
        "extra": {"team/name": ["red"]},
    }
    # Its certificate alone makes it nobody, and certainly no user of that name.
    assert await whoami(server, proxy, {}) == 401
    assert await whoami(server, proxy, {"X-Remote-Group": "system:masters"}) == 401
    admin = await whoami(server, client_tls(paths, paths), SPOKEN)
    assert admin["username"] == "kubernetes-admin"
    assert await whoami(server, client_tls(paths), SPOKEN) == 403


async def test_a_front_proxy_of_another_name_is_refused(paths: Paths) -> None:
    options = replace(options_of(paths), requestheader_allowed_names=("another",))
    server = Server(options, open_memory_store())
    await server.start()
    try:
        proxy = client_tls(paths, paths, "front-proxy-client")
        assert await whoami(server, proxy, SPOKEN) == 401
    finally:
        await server.stop()


async def test_extension_servers_are_told_whom_to_trust(server: Server, paths: Paths) -> None:
    lookup = server.core.lookup
    found = lookup.get("configmaps", "kube-system", "extension-apiserver-authentication")
    assert found is not None
    assert found["data"] == {
        "client-ca-file": (paths.pki / "ca.crt").read_text(),
        "requestheader-allowed-names": '["front-proxy-client"]',
        "requestheader-client-ca-file": (paths.pki / "front-proxy-ca.crt").read_text(),
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-uid-headers": '["X-Remote-Uid"]',
        "requestheader-username-headers": '["X-Remote-User"]',
    }


async def test_expired_certificates_are_refused(tmp_path: Path) -> None:
    """Signed by our authority, once."""
    past = datetime.now(UTC) - timedelta(days=500)
    paths = certificates(tmp_path / "own", past)
    old = {name: (paths.pki / name).read_bytes() for name in ("admin.crt", "admin.key")}
    pki.ensure(Profile("tls", nodes=0), paths)
    for name, content in old.items():
        (paths.pki / f"old-{name}").write_bytes(content)
    server = Server(options_of(paths), open_memory_store())
    await server.start()
    try:
        assert await get(server, client_tls(paths, paths)) == 200
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await get(server, client_tls(paths, paths, "old-admin"))
    finally:
        await server.stop()


async def test_old_tls_is_not_spoken(server: Server, paths: Paths) -> None:
    tls = client_tls(paths, paths)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await get(server, tls) == 200
    assert await get(server, only(tls, ssl.TLSVersion.TLSv1_3)) == 200
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = client_tls(paths, paths)
        old.set_ciphers("ALL:@SECLEVEL=0")
        only(old, ssl.TLSVersion.TLSv1_1)
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await get(server, old)


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    context.minimum_version = version
    return context


@pytest.mark.parametrize(
    ("cipher", "is_spoken"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("ECDHE-ECDSA-AES128-SHA256", False),
        ("ECDHE-ECDSA-AES256-SHA", False),
    ],
)
async def test_only_authenticated_encryption(
    server: Server, paths: Paths, cipher: str, is_spoken: bool
) -> None:
    tls = only(client_tls(paths, paths), ssl.TLSVersion.TLSv1_2)
    tls.set_ciphers(cipher)
    if is_spoken:
        assert await get(server, tls) == 200
        return
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await get(server, tls)


async def test_versions_and_ciphers_are_options(paths: Paths) -> None:
    newest = replace(options_of(paths), tls_min_version="VersionTLS13")
    server = Server(newest, open_memory_store())
    await server.start()
    try:
        assert await get(server, client_tls(paths, paths)) == 200
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await get(server, only(client_tls(paths, paths), ssl.TLSVersion.TLSv1_2))
    finally:
        await server.stop()
    for wrong in (
        {"tls_min_version": "VersionTLS10"},
        {"tls_cipher_suites": ("TLS_RSA_WITH_RC4_128_SHA",)},
        {"tls_sni_cert_key": ("only-one",)},
    ):
        with pytest.raises(ValueError, match="--tls-"):
            Server(replace(options_of(paths), **wrong), open_memory_store())


def serial_of(server: Server, name: str) -> int:
    """Of the certificate that a client gets who asks for a name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


async def test_certificates_by_name_and_their_renewal(paths: Paths, tmp_path: Path) -> None:
    """The names that a client asks for choose the certificate; new files count at once."""
    other = certificates(tmp_path / "other")
    pair = f"{other.pki / 'apiserver.crt'},{other.pki / 'apiserver.key'}"
    options = replace(options_of(paths), tls_sni_cert_key=(f"{pair}:api.example,*.wild.example",))
    server = Server(options, open_memory_store())
    await server.start()
    try:
        names = ("localhost", "api.example", "a.wild.example", "a.b.wild.example")
        own, special, wild, deep = [await asyncio.to_thread(serial_of, server, n) for n in names]
        assert special == wild != own == deep
        pki.ensure(Profile("tls", nodes=0), paths, datetime.now(UTC) + timedelta(days=340))
        server._renew()
        assert await asyncio.to_thread(serial_of, server, "localhost") not in (own, special)
    finally:
        await server.stop()


async def test_authorities_change_while_the_server_runs(paths: Paths, tmp_path: Path) -> None:
    """One that is added is believed from the next connection on, one that is removed no longer."""
    stranger = certificates(tmp_path / "stranger")
    bundle = tmp_path / "clients.crt"
    bundle.write_bytes((paths.pki / "ca.crt").read_bytes())
    server = Server(replace(options_of(paths), client_ca=bundle), open_memory_store())
    await server.start()
    try:
        assert await get(server, client_tls(paths, paths)) == 200
        bundle.write_bytes((stranger.pki / "ca.crt").read_bytes())
        server._renew()
        assert await get(server, client_tls(paths, stranger)) == 200
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await get(server, client_tls(paths, paths))
    finally:
        await server.stop()


async def test_plain_http_is_told_so(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"server.\n")
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert answer.endswith(b"Client sent an HTTP request to an HTTPS server.\n")
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("sent", [b"garbage" * 100, b"\x16\x03\x01\xff\xff" * 9])
async def test_what_is_no_tls_is_cut_off(server: Server, paths: Paths, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    began = time.perf_counter()
    try:
        answer = await asyncio.wait_for(reader.read(), 60)
    except ConnectionResetError:
        answer = b""
    writer.close()
    assert time.perf_counter() - began < 12, "a handshake that stalls is given 15 s"
    assert b"HTTP/1.1 200" not in answer
    assert await get(server, client_tls(paths, paths)) == 200


async def test_the_server_ends_when_its_store_fails(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that has failed is not asked again: the process exits and is started anew."""
    store = open_memory_store()
    failed: asyncio.Future[StoreFailed] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(store, "wait_failed", lambda: failed)

    async def opened(options: ServerOptions, sealer: object) -> object:
        return store

    monkeypatch.setattr(server_module, "_open_store", opened)
    running = asyncio.create_task(server_module.run(options_of(paths)))
    await asyncio.sleep(0.3)
    assert not running.done()
    failed.set_result(StoreFailed("the disk is gone"))
    with pytest.raises(StoreFailed, match="the disk is gone"):
        await asyncio.wait_for(running, 60)
