"""The scheduler as a component: `navarch scheduler`, or beside the controllers in one process.

What it does is said by a KubeSchedulerConfiguration (`--config`), as with upstream's; without one
the default profile schedules.
"""

from __future__ import annotations

import logging
import os
import platform
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navarch.api.component_config import Duration
from navarch.api.times import format_duration
from navarch.client import (
    Client,
    ClientConfig,
    ControllerContext,
    InformerFactory,
    LeaderElector,
    LeaseTiming,
)
from navarch.client.serving import ServingOptions, Told, serving

if TYPE_CHECKING:
    from navarch.scheduler.configuration.types import KubeSchedulerConfiguration, LeaderElection
    from navarch.scheduler.scheduler import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What the scheduler has to be told."""

    kubeconfig: str = ""
    """Empty: the one that the configuration names."""
    config: str = ""
    """A KubeSchedulerConfiguration file."""
    leader_elect: bool | None = None
    """Whether another may stand by. Not set: what the configuration says; without one, no."""
    secure_port: int = 0
    """Where it tells of its health, figures and configuration (upstream: 10259). 0: nowhere."""
    bind_address: str = "0.0.0.0"
    tls_cert_file: str = ""
    tls_private_key_file: str = ""
    client_ca_file: str = ""
    """The authority of certificates by which callers say who they are."""
    random_seed: int | None = None
    """Makes the choice among equally good nodes repeatable."""


async def run(options: SchedulerOptions) -> None:
    """Schedule pods until cancelled. Raises ConfigurationError."""
    configuration = configuration_of(options)
    for text in remarks(configuration):
        log.warning("KubeSchedulerConfiguration: %s", text)
    settings = settings_of(configuration)
    kubeconfig = options.kubeconfig or configuration.clientConnection.kubeconfig
    config = ClientConfig.from_kubeconfig(kubeconfig)
    async with Client(config.with_user_agent("scheduler")) as client:
        informers = InformerFactory(client)

        async def work() -> None:
            await run_with(informers, settings, options.random_seed)

        told = Told(
            "kubescheduler.config.k8s.io",
            lambda: shown(configuration),
            ready={"informer-sync": lambda: informers.synced},
        )
        async with serving(client, ServingOptions.of(options), told):
            await lead(client, configuration.leaderElection, work)


async def lead(client: Client, chosen: LeaderElection, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work, if there is an election while leading. Raises LeadershipLost."""
    if not chosen.leaderElect:
        await work()
        return
    elector = LeaderElector(
        client,
        chosen.resourceName,
        f"{platform.node()}_{os.getpid()}",
        namespace=chosen.resourceNamespace,
        timing=LeaseTiming(chosen.leaseDuration, chosen.renewDeadline, chosen.retryPeriod),
    )
    await elector.run(work)


def shown(configuration: KubeSchedulerConfiguration) -> dict[str, Any]:
    """The configuration as `/configz` shows it; without keys of extenders."""
    import msgspec

    def plain(value: Any) -> Any:
        return format_duration(value) if isinstance(value, Duration) else str(value)

    document: dict[str, Any] = msgspec.to_builtins(configuration, enc_hook=plain)
    for extender in document["extenders"]:
        for name in ("keyData", "certData"):
            (extender["tlsConfig"] or {}).pop(name, None)
    return document


def configuration_of(options: SchedulerOptions) -> KubeSchedulerConfiguration:
    """The file, and over it what options say. Raises ConfigurationError."""
    from navarch.scheduler.configuration.files import completed, load
    from navarch.scheduler.configuration.types import KubeSchedulerConfiguration

    if options.config:
        configuration = load(Path(options.config))
    else:
        configuration = completed(KubeSchedulerConfiguration())
        configuration.leaderElection.leaderElect = False
    if options.leader_elect is not None:
        configuration.leaderElection.leaderElect = options.leader_elect
    return configuration


def settings_of(configuration: KubeSchedulerConfiguration) -> Settings:
    """What the scheduler makes of a configuration. Raises ConfigurationError."""
    from navarch.scheduler.extenders import extenders_of
    from navarch.scheduler.profiles import make_profile
    from navarch.scheduler.scheduler import Settings

    percentage = configuration.percentageOfNodesToScore
    return Settings(
        tuple(make_profile(profile, percentage) for profile in configuration.profiles),
        float(configuration.podInitialBackoffSeconds),
        float(configuration.podMaxBackoffSeconds),
        extenders_of(configuration.extenders),
    )


def remarks(configuration: KubeSchedulerConfiguration) -> Iterator[str]:
    """One line for each field that is set and has no effect."""
    from navarch.scheduler.configuration.arguments import ARGUMENTS
    from navarch.scheduler.configuration.types import ClientConnection, KubeSchedulerConfiguration
    from navarch.scheduler.plugins import PLUGINS

    plain = KubeSchedulerConfiguration()
    for name, reason in NOTHING.items():
        if getattr(configuration, name) != getattr(plain, name):
            yield f"{name} is not honoured: {reason}"
    client, usual = configuration.clientConnection, ClientConnection()
    for name in ("acceptContentTypes", "contentType", "qps", "burst"):
        if getattr(client, name) != getattr(usual, name):
            reason = "the API server's flow control bounds what is sent, which is JSON"
            yield f"clientConnection.{name} is not honoured: {reason}"
    for profile in configuration.profiles:
        for each in profile.pluginConfig:
            if each.name not in ARGUMENTS:
                known = "takes no arguments" if each.name in PLUGINS else "is not known"
                yield f"pluginConfig of {each.name} is not honoured: the plugin {known}"


NOTHING = {
    "parallelism": "all nodes are looked at in one go, by vector operations",
    "enableProfiling": "there is no profiler to ask",
    "enableContentionProfiling": "there is no profiler to ask",
    "delayCacheUntilActive": "a scheduler that stands by watches nothing in any case",
}
"""Why a field has no effect."""


async def run_scheduler(client: Client, settings: Settings, seed: int | None = None) -> None:
    """Schedule with a client that is there already."""
    await run_with(InformerFactory(client), settings, seed)


async def run_with(informers: InformerFactory, settings: Settings, seed: int | None) -> None:
    """Schedule with informers that have not been started."""
    from prometheus_client import REGISTRY

    from navarch.scheduler.scheduler import Scheduler

    context = ControllerContext(informers.client, informers, informers.client.clock)
    try:
        scheduler = Scheduler(context, settings, random.Random(seed))
        await context.informers.start()
        log.info("running as %s", ", ".join(scheduler.profiles))
        REGISTRY.register(scheduler.figures)
        try:
            await scheduler.run()
        finally:
            REGISTRY.unregister(scheduler.figures)
    finally:
        await context.close()
        for extender in settings.extenders:
            await extender.close()
