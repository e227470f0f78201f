"""Ingresses with a real nginx: certificates of hosts and of clients."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
import pytest
from tests.cluster.ingress_ground import ADDRESS, HTTPS, Ground, marks
from tests.cluster.ingress_ground import ingress_ground as ground
from tests.unit.network.ingresses import ingress

__all__ = ["ground"]
pytestmark = marks


async def test_certificates(ground: Ground) -> None:
    ground.secrets["one"] = ground.authority.secret("one", "one.example")
    ground.secrets["two"] = ground.authority.secret("two", "two.example")
    wanted = [ingress(name, {"/": "a"}, f"{name}.example", tls=name) for name in ("one", "two")]
    assert await ground.serve(*wanted) == []
    trusting = ground.trusting()
    before = ground.nginx.reloads
    for name in ("one", "two"):
        answer = await ground.ask(host=f"{name}.example", tls=trusting)
        assert answer.status == 200
        assert answer.seen["headers"]["x-forwarded-proto"] == "https"
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await ground.ask(host="three.example", tls=trusting)
    ground.secrets["two"] = ground.authority.secret("two", "else.example")
    told = await ground.serve(*wanted)
    assert told == [
        "DefaultCertificate: default certificate used: two.example is not in the certificate"
    ]
    ground.secrets["two"] = ground.authority.secret("two", "*.example")
    assert await ground.serve(*wanted) == []
    assert (await ground.ask(host="two.example", tls=trusting)).status == 200
    assert ground.nginx.reloads == before


async def test_http2_is_offered(ground: Ground) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(ADDRESS, HTTPS, ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    writer.transport.abort()
    assert reader is not None


async def test_client_certificates(ground: Ground) -> None:
    ground.secrets["site"] = ground.authority.secret("site", "web.example")
    ground.secrets["open"] = ground.authority.secret("open", "open.example")
    await ground.serve(
        ingress(tls="site", auth_tls_secret="site", auth_tls_match_cn="CN=ada.example"),
        ingress("open", {"/": "a"}, "open.example", tls="open"),
    )

    def context(name: str) -> ssl.SSLContext:
        trusting = ground.trusting()
        if name:
            chain, key = ground.authority.issue(name)
            file = ground.directory / f"{name}.pem"
            file.write_text(chain + key)
            trusting.load_cert_chain(file)
        return trusting

    assert (await ground.ask(tls=ground.trusting())).status == 400
    assert (await ground.ask(tls=context("bob.example"))).status == 403
    answer = await ground.ask(tls=context("ada.example"))
    assert answer.status == 200
    assert answer.seen["headers"]["ssl-client-subject-dn"] == "CN=ada.example"
    # A handshake for a host that asks for nothing is none for this one.
    tls = ground.trusting()
    answer = await ground.ask(host="open.example", tls=tls)
    assert answer.status == 200
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"https://{ADDRESS}:20443/",
            ssl=tls,
            server_hostname="open.example",
            headers={"Host": "web.example"},
        ) as other,
    ):
        assert other.status == 421
