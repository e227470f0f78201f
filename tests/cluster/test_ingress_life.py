"""A real nginx that is reloaded, killed and left alone, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

import aiohttp
import pytest
from tests.cluster.ingress_ground import ADDRESS, HEALTH, HTTP, Ground, marks
from tests.cluster.ingress_ground import ingress_ground as ground
from tests.unit.network.ingresses import ingress

__all__ = ["ground"]
pytestmark = marks


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


async def test_no_request_is_lost_in_reloads(ground: Ground) -> None:
    """Several clients with connections of their own ask all the time, while ten new policies take
    a reload each."""
    await ground.serve(ingress())
    ended = asyncio.Event()
    failures: list[str] = []
    counts: list[int] = []

    async def client() -> None:
        count = 0
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not ended.is_set():
                try:
                    # A POST: clients do not repeat it by themselves when a connection is cut.
                    async with session.post(
                        f"http://{ADDRESS}:{HTTP}/", headers={"Host": "web.example"}, data=b"x"
                    ) as answer:
                        await answer.read()
                        if answer.status != 200:
                            failures.append(str(answer.status))
                except aiohttp.ClientError as error:
                    failures.append(repr(error))
                count += 1
        counts.append(count)

    clients = [asyncio.create_task(client()) for _ in range(8)]
    before = ground.nginx.reloads
    for number in range(5):
        await ground.serve(ingress(proxy_body_size=f"{100 + number}k"))
    ended.set()
    await asyncio.gather(*clients)
    assert ground.nginx.reloads == before + 5
    assert failures == []
    assert min(counts) > 50


async def test_a_configuration_that_is_refused_changes_nothing(ground: Ground) -> None:
    """As if a port were taken: what was served is served on."""
    import msgspec

    from navarch.network.nginx.model import Listener
    from navarch.network.nginx.process import NginxError

    await ground.serve(ingress())
    plane = ground.translated(ingress(paths={"/": "b"})).plane
    blocker = await asyncio.start_server(lambda reader, writer: None, ADDRESS, 20999)
    try:
        more = (*plane.listeners, Listener(port=20999, table="ingress"))
        with pytest.raises(NginxError):
            await ground.nginx.apply(msgspec.structs.replace(plane, listeners=more))
        assert await ground.names(2) == ["a", "a"]
    finally:
        blocker.close()
    await ground.serve(ingress(paths={"/": "b"}))
    assert await ground.names(2) == ["b", "b"]


async def test_nginx_outlives_its_controller(ground: Ground) -> None:
    """Another controller finds the nginx that runs, and goes on with it."""
    from navarch.client.clock import RealClock
    from navarch.network.nginx.process import Nginx

    await ground.serve(ingress())
    await ground.nginx.leave()
    assert await ground.names(1) == ["a"]
    successor = Nginx(ground.nginx.settings, RealClock())
    await successor.start(ground.translated(ingress(paths={"/": "b"})).plane)
    assert successor.reloads == 0
    ground.nginx = successor
    assert await ground.names(1) == ["b"]


@pytest.mark.parametrize("victim", ["master", "workers", "all"])
async def test_a_killed_nginx_is_back_with_everything(ground: Ground, victim: str) -> None:
    """Workers whose master is gone go on for the moment, and do not keep the next one's ports."""
    ground.secrets["site"] = ground.authority.secret("site", "web.example")
    await ground.serve(ingress(tls="site", ssl_redirect="false"))
    keeper = asyncio.create_task(ground.nginx.run(str))
    try:
        master = int(ground.nginx.settings.pid_file.read_text())
        workers = children(master)
        killed = {"master": [master], "workers": workers, "all": [master, *workers]}[victim]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            file = ground.nginx.settings.pid_file
            old = ("", str(master))
            while victim != "workers" and file.read_text().strip() in old:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while True:
                try:
                    answer = await ground.ask(tls=ground.trusting())
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.02)
        assert answer.seen["name"] == "a"
        # What is changed after this is served as well: nobody of before answers any more.
        await ground.serve(ingress(paths={"/": "b"}))
        assert await ground.names(8) == ["b"] * 8
    finally:
        keeper.cancel()


async def test_a_port_that_is_lost_is_waited_for(ground: Ground) -> None:
    """Somebody else takes it while nginx is away: that is told, and so is its end."""
    await ground.serve(ingress())
    told: list[str] = []
    keeper = asyncio.create_task(ground.nginx.run(told.append))
    thief = socket.socket()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        master = int(ground.nginx.settings.pid_file.read_text())
        for pid in (master, *children(master)):
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while thief.getsockname()[1] != HTTP:
                with contextlib.suppress(OSError):
                    thief.bind((ADDRESS, HTTP))
                    thief.listen()
                await asyncio.sleep(0)
            while not told:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert told[0] == f"{ADDRESS} port {HTTP}: Address already in use"
            thief.close()
            while told[-1]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    assert (await ground.ask()).status == 200
                    break
                await asyncio.sleep(0.02)
    finally:
        thief.close()
        keeper.cancel()


async def test_who_may_read_what(ground: Ground) -> None:
    """Workers are nobody in particular; keys, state and the control socket are root's."""
    await ground.serve(ingress())
    settings = ground.nginx.settings
    master = int(settings.pid_file.read_text())
    workers = children(master)
    assert workers
    for pid in workers:
        status = status_of(pid)
        assert "\nUid:\t33\t33\t33\t33" in status
        assert "\nCapEff:\t0000000000000000" in status
    assert settings.directory.stat().st_mode & 0o777 == 0o700
    for file in settings.directory.glob("*.key"):
        assert file.stat().st_mode & 0o777 == 0o600


async def test_figures_and_log(ground: Ground) -> None:
    await ground.serve(ingress(), ingress("quiet", host="quiet.example", enable_access_log="false"))
    await ground.ask("/logged", headers={"User-Agent": 'x" 200\n'.strip() + " \\x1b"})
    await ground.ask("/unlogged", "quiet.example")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{ADDRESS}:{HEALTH}/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")
        async with session.get(f"http://{ADDRESS}:{HEALTH}/metrics") as answer:
            text = await answer.text()
    labels = 'namespace="default",ingress="web",service="a",method="GET",status="200"'
    assert f"nginx_ingress_controller_requests{{{labels}}} " in text
    log = (ground.directory / "access.log").read_text()
    assert '"GET /logged HTTP/1.1" 200' in log
    assert '"x\\x22 200 \\x5Cx1b"' in log
    assert "/unlogged" not in log
