"""The scheduler as a component: `navarch scheduler`, or beside the controllers in one process."""

from __future__ import annotations

import logging
import os
import platform
import random
from dataclasses import dataclass

from navarch.client import Client, ClientConfig, ControllerContext, InformerFactory, LeaderElector

log = logging.getLogger(__name__)

LEASE = "kube-scheduler"


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What the scheduler has to be told."""

    kubeconfig: str
    scheduler_name: str = "default-scheduler"
    """Pods whose `spec.schedulerName` is another are left to others."""
    leader_elect: bool = False
    random_seed: int | None = None
    """Makes the choice among equally good nodes repeatable."""


async def run(options: SchedulerOptions) -> None:
    """Schedule pods until cancelled."""
    config = ClientConfig.from_kubeconfig(options.kubeconfig)
    async with Client(config.with_user_agent("scheduler")) as client:

        async def work() -> None:
            await run_scheduler(client, options)

        if not options.leader_elect:
            await work()
            return
        identity = f"{platform.node()}_{os.getpid()}"
        await LeaderElector(client, LEASE, identity).run(work)


async def run_scheduler(client: Client, options: SchedulerOptions) -> None:
    """Schedule with a client that is there already."""
    from navarch.scheduler.profiles import default_profile
    from navarch.scheduler.scheduler import Scheduler, Settings

    context = ControllerContext(client, InformerFactory(client), client.clock)
    try:
        rng = random.Random(options.random_seed)
        scheduler = Scheduler(context, Settings((default_profile(options.scheduler_name),)), rng)
        await context.informers.start()
        log.info("running as %s", options.scheduler_name)
        await scheduler.run()
    finally:
        await context.close()
