"""The pytest plug-in, loaded by pytest wherever this package is installed.

Fixtures:

- `navarch_cluster`: a cluster for one test, which nothing else touches;
- `navarch_session_cluster`: one for all tests of the run (with pytest-xdist: of a worker);
- `navarch_namespace`: a new namespace in the session's cluster, deleted after the test.

While one of them is alive, KUBECONFIG leads to its cluster: a client that is made without arguments
cannot touch another one by mistake. What clusters are like is said by `@pytest.mark.navarch(...)`
for one test, with the arguments of `Cluster`, and by ini options for all of them.

With `--navarch-kind` the executable `kind` is ours for the run, so suites written for pytest-kind
and pytest-kubernetes work unchanged.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from navarch.testing.cluster import Cluster

_NAMESPACES = count(1)
_KIND_DIRECTORY = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("navarch_nodes", "simulated nodes of test clusters", default="0")
    parser.addini(
        "navarch_manifests", "YAML files or directories applied to test clusters", type="paths"
    )
    group = parser.getgroup("navarch")
    group.addoption("--navarch-nodes", type=int, metavar="N", help="overrides navarch_nodes")
    group.addoption(
        "--navarch-kind",
        nargs="?",
        const="real",
        choices=("real", "memory"),
        help="let Navarch be `kind` in this run: real nodes (needs root) or all in memory",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "navarch(nodes=0, manifests=(), ...): what navarch_cluster gives this test"
    )
    if mode := config.getoption("navarch_kind"):
        _be_kind(config, mode)


def pytest_unconfigure(config: pytest.Config) -> None:
    if directory := config.stash.get(_KIND_DIRECTORY, None):
        shutil.rmtree(directory, ignore_errors=True)


def _be_kind(config: pytest.Config, mode: str) -> None:
    """Put our `kind` before any other, and tell pytest-kind of it: it would download one."""
    from navarch.testing.kind import MODE_VARIABLE, install

    directory = Path(tempfile.mkdtemp(prefix="navarch-kind-"))
    config.stash[_KIND_DIRECTORY] = directory
    shim = install(directory)
    os.environ["PATH"] = os.pathsep.join([str(directory), os.environ.get("PATH", "")])
    os.environ[MODE_VARIABLE] = mode
    for option, program in (("kind_bin", str(shim)), ("kind_kubectl_bin", shutil.which("kubectl"))):
        if getattr(config.option, option, "") is None:
            setattr(config.option, option, program)


@pytest.fixture
def navarch_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of the test's own. `@pytest.mark.navarch(...)` takes the arguments of `Cluster`;
    manifests given there are relative to the test's file."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("navarch"))):
        if marker.args:
            raise pytest.UsageError("the arguments of the marker navarch have names")
        options.update(marker.kwargs)
    if "manifests" in options:
        options["manifests"] = _beside(request.path, options["manifests"])
    yield from _running(request.config, options)


@pytest.fixture(scope="session")
def navarch_session_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that all tests of the run share."""
    yield from _running(request.config, {})


@pytest.fixture
def navarch_namespace(navarch_session_cluster: Cluster) -> Iterator[str]:
    """The name of a new namespace in the session's cluster. Its deletion is begun after the test
    and not waited for."""
    cluster = navarch_session_cluster
    name = f"test-{next(_NAMESPACES)}"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.apply(namespace)
    # Pods are refused until their account is there.
    cluster.wait_for("serviceaccount/default", namespace=name)
    yield name
    cluster.request("DELETE", f"/api/v1/namespaces/{name}")


def _running(config: pytest.Config, options: dict[str, Any]) -> Iterator[Cluster]:
    from navarch.testing.cluster import Cluster

    nodes = config.getoption("navarch_nodes")
    defaults = {
        "nodes": int(config.getini("navarch_nodes")) if nodes is None else nodes,
        "manifests": config.getini("navarch_manifests"),
    }
    with Cluster(**{**defaults, **options}) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environ().items():
            patch.setenv(name, value)
        yield cluster


def _beside(test: Path, manifests: Sequence[Any]) -> list[Any]:
    """File names count from the directory of the test."""
    return [
        test.parent / each if isinstance(each, Path) or _is_name(each) else each
        for each in manifests
    ]


def _is_name(manifest: object) -> bool:
    return isinstance(manifest, str) and "\n" not in manifest
