"""The kubelet's own server: what is shown at port 10250, and who may see it."""

from __future__ import annotations

import asyncio
import logging

from .assembly import Ground, Parts
from .backend import NodeBackend
from .configuration.files import load
from .configuration.options import effective, remarks
from .measuring import Places
from .server.access import AccessOptions, DelegatedAccess
from .server.node_paths import NodeInside
from .server.server import KubeletServer, KubeletServerOptions
from .server.tls import TlsOptions
from .settings import NodeOptions
from .stats.collector import Sources, StatsCollector

log = logging.getLogger(__name__)


async def start_server(ground: Ground, parts: Parts, tasks: asyncio.TaskGroup) -> None:
    """Serve the kubelet's API from now on; `tasks` end it."""
    options, client, runtime = ground.options, ground.client, ground.runtime
    configuration, odd = load(options.config, options.config_dir)
    for text in (*odd, *remarks(configuration)):
        log.warning("%s", text)
    agent, shared = parts.agent, parts.agent.services
    places = Places(options.root_directory / "pods", options.pod_logs_directory, shared.cgroups)
    statistics = StatsCollector(
        Sources(
            options,
            ground.machine,
            agent.workers,
            runtime,
            runtime,
            shared.volumes,
            places,
            parts.probes,
            client.clock,
        )
    )
    inside = NodeInside(
        options=options,
        backend=NodeBackend(agent, runtime, options.root_directory, client.clock),
        statistics=statistics,
        configuration=lambda: effective(options, configuration),
        checks={"ping": lambda: True, "log": lambda: True, "syncloop": agent.is_healthy},
        clock=client.clock,
    )
    access = DelegatedAccess(client, options.node_name, _access(options))
    server = KubeletServer(_server_options(options), inside, access)
    await server.start()

    async def until_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await server.stop()

    tasks.create_task(until_cancelled(), name="kubelet-server")


def _access(options: NodeOptions) -> AccessOptions:
    return AccessOptions(
        anonymous=options.anonymous_auth,
        token_webhook=options.authentication_token_webhook,
        token_seconds=options.authentication_token_webhook_cache_ttl,
        always_allow=options.authorization_mode == "AlwaysAllow",
        allowed_seconds=options.authorization_webhook_cache_authorized_ttl,
        denied_seconds=options.authorization_webhook_cache_unauthorized_ttl,
    )


def _server_options(options: NodeOptions) -> KubeletServerOptions:
    return KubeletServerOptions(
        address=options.listen_address or "0.0.0.0",
        port=options.port,
        tls=TlsOptions(
            certificate=str(options.tls_certificate),
            key=str(options.tls_key),
            client_ca=str(options.client_ca or ""),
            minimum=options.tls_min_version,
            ciphers=options.tls_cipher_suites,
        ),
        healthz_address=options.healthz_bind_address,
        healthz_port=options.healthz_port,
    )
