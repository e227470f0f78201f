"""A provider for pytest-kubernetes: its fixture `k8s` becomes a cluster in the test's own process.

In a suite's conftest.py:

    from navarch.testing.pytest_kubernetes import k8s_manager

Suites that choose a provider by name keep working, with whatever name they choose. Without a line
in conftest.py the command line does as well: `--k8s-provider kind --navarch-kind=memory`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_kubernetes.options import ClusterOptions
from pytest_kubernetes.providers.base import AClusterManager

from navarch.testing.cluster import Cluster

__all__ = ["NavarchManager", "k8s_manager"]


class NavarchManager(AClusterManager):  # type: ignore[misc]
    """`create(options={...})` passes arguments on to `Cluster`."""

    cluster: Cluster | None = None
    _cluster_options: ClusterOptions

    @classmethod
    def get_binary_name(cls) -> str:
        return "kubectl"

    def create(
        self, cluster_options: ClusterOptions | None = None, timeout: int = 20, **options: Any
    ) -> None:
        """The base class asks every second whether the cluster is ready: we know."""
        if cluster_options:
            self._cluster_options = self._cluster_options | cluster_options
        if self.cluster is None:
            self._on_create(self._cluster_options, **options)

    def _on_create(self, cluster_options: ClusterOptions, **options: Any) -> None:
        cluster = Cluster(**{"nodes": 1, **options.get("options", {})})
        cluster.start()
        self.cluster = cluster
        # The base class removes this file when it deletes the cluster, and so may a user's path.
        target = cluster_options.kubeconfig_path or cluster.kubeconfig.with_name("k8s.conf")
        Path(target).write_bytes(cluster.kubeconfig.read_bytes())
        self._cluster_options.kubeconfig_path = Path(target)

    def delete(self) -> None:
        if self.cluster is not None:
            self._on_delete()

    def _on_delete(self) -> None:
        cluster, self.cluster = self.cluster, None
        if self.kubeconfig is not None:
            self.kubeconfig.unlink(missing_ok=True)
            self._cluster_options.kubeconfig_path = None
        if cluster is not None:
            cluster.stop()

    def load_image(self, image: str) -> None:
        """Simulated nodes need no images."""


@pytest.fixture(scope="session")
def k8s_manager() -> Callable[[str | None], type[NavarchManager]]:
    """Takes the place of pytest-kubernetes' own choice of a provider."""

    def choose(provider_name: str | None = None) -> type[NavarchManager]:
        return NavarchManager

    return choose
