"""A leader in a process of its own that is frozen until another leads: what is ready to be sent
when it wakes is not sent. Its writes name no resourceVersion, so the API server would take all."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

from navarch.api.types.core_v1 import ConfigMap
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig, LeaderElector, LeaseTiming

TIMING = LeaseTiming(duration=3.0, renew=2.0, retry=0.5)
WRITERS = 20
LEADER = f"""
import asyncio, itertools, sys
from navarch.api.types.core_v1 import ConfigMap
from navarch.client import Client, ClientConfig, LeaderElector, LeaseTiming

async def main(url):
    async with Client(ClientConfig(url)) as client:
        maps = client.resource(ConfigMap)

        async def write(name):
            for number in itertools.count():
                await maps.patch(name, "default", {{"data": {{"number": str(number)}}}})
                await asyncio.sleep(0.01)

        async def work():
            await asyncio.gather(*(write(f"work-{{number}}") for number in range({WRITERS})))

        timing = LeaseTiming({TIMING.duration}, {TIMING.renew}, {TIMING.retry})
        await LeaderElector(client, "l", "frozen", namespace="default", timing=timing).run(work)

asyncio.run(main(sys.argv[1]))
"""


async def test_nothing_late_is_sent(api_server: Server) -> None:
    async with Client(ClientConfig(api_server.url)) as client:
        maps = client.resource(ConfigMap)
        for number in range(WRITERS):
            meta = ObjectMeta(name=f"work-{number}", namespace="default")
            await maps.create(ConfigMap(metadata=meta))

        async def versions() -> dict[str, str]:
            found = (await maps.list("default")).items
            return {each.metadata.name: each.metadata.resourceVersion for each in found}

        async def all_write() -> bool:
            found = (await maps.list("default")).items
            return all(each.data for each in found if each.metadata.name.startswith("work-"))

        words = (sys.executable, "-c", LEADER, api_server.url)
        leader = await asyncio.create_subprocess_exec(*words, stderr=subprocess.PIPE)
        leads = asyncio.Event()

        async def work() -> None:
            leads.set()
            await asyncio.Event().wait()

        other = LeaderElector(client, "l", "other", namespace="default", timing=TIMING)
        try:
            async with asyncio.timeout(60):
                while not await all_write():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            leader.send_signal(signal.SIGSTOP)
            leading = asyncio.create_task(other.run(work))
            await asyncio.wait_for(leads.wait(), 60)
            before = await versions()
            leader.send_signal(signal.SIGCONT)
            _, said = await asyncio.wait_for(leader.communicate(), 60)
            assert await versions() == before
            assert b"LeadershipLost" in said
            assert not leading.done()
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
        finally:
            if leader.returncode is None:
                leader.kill()
                await leader.wait()
