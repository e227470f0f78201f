"""Real clusters for tests: API server, controllers, scheduler and simulated nodes in the test's own
process, in memory.

    with Cluster(nodes=1) as cluster:
        cluster.apply("deployment.yaml")
        cluster.wait_for("deployment/web", condition="Available")

Nothing is mocked: clients connect over TLS to a server that authenticates, authorizes, admits,
validates and stores as in a real cluster. Only the containers are missing. The pytest plug-in
(`navarch.testing.plugin`) gives the same as fixtures.

Importing this package is cheap, since pytest imports it in every run; the control plane is imported
when the first cluster starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from navarch.testing.cluster import Cluster, KubectlError

__all__ = ["Cluster", "KubectlError"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from navarch.testing import cluster

    return getattr(cluster, name)
