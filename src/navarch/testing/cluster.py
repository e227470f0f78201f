"""`Cluster`: a cluster for a test, as a context manager.

Everything of a cluster lies in one directory, in memory where the system has such a file system,
and goes with it. What identities and kubeconfigs look like is what `navarch start` makes: the
certificates are real and are checked.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from navarch.cluster.profile import Paths, Profile
from navarch.testing.control_plane import ControlPlane, Options, Settings
from navarch.testing.operations import NAMESPACE, Manifest, Object, Operations, is_open

if TYPE_CHECKING:
    from typing import Self

    from navarch.client import Client

T = TypeVar("T")
P = ParamSpec("P")

MEMORY = Path("/dev/shm")
_NUMBERS = count(1)


class KubectlError(subprocess.CalledProcessError):
    """kubectl said no; the message carries what it wrote."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stderr}"


Operation = Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]]


def _blocking(operation: Operation[P, T]) -> Callable[Concatenate[Cluster, P], T]:
    """Run in the control plane's thread while the caller waits."""

    @wraps(operation)
    def call(self: Cluster, /, *args: P.args, **options: P.kwargs) -> T:
        plane, _ = self._running
        return plane.call(operation(plane.operations, *args, **options)).result()

    return call


def _awaited(
    operation: Operation[P, T],
) -> Callable[Concatenate[Elsewhere, P], Coroutine[Any, Any, T]]:
    """Run in the control plane's thread while the caller's event loop goes on."""

    @wraps(operation)
    async def call(self: Elsewhere, /, *args: P.args, **options: P.kwargs) -> T:
        work = operation(self.plane.operations, *args, **options)
        return await asyncio.wrap_future(self.plane.call(work))

    return call


class Cluster:
    """A cluster of its own: `with Cluster() as cluster`, `async with Cluster() as cluster`, or
    `start()` and `stop()`. A stopped cluster cannot be started again.

    `nodes` simulated nodes are called node-0 and so on. `manifests` are applied before `start`
    returns. The maps override options of a component, by the names of its dataclass:
    `server` (`ServerOptions`), `controllers` (`ManagerOptions`), `scheduler` (`SchedulerOptions`)
    and `simulated` (`SimulatedOptions`, of all nodes).
    """

    def __init__(
        self,
        *,
        nodes: int = 0,
        manifests: Sequence[Manifest] = (),
        server: Options | None = None,
        controllers: Options | None = None,
        scheduler: Options | None = None,
        simulated: Options | None = None,
    ) -> None:
        self.name = f"test-{next(_NUMBERS)}"
        self._settings = Settings(
            nodes, server or {}, controllers or {}, scheduler or {}, simulated or {}
        )
        self._manifests = manifests
        self._plane: ControlPlane | None = None
        self._paths: Paths | None = None
        self._users = count(1)

    # ---- life

    def start(self) -> None:
        """Return when the cluster is usable and the manifests are applied."""
        if self._paths is not None:
            raise RuntimeError("a cluster can be started once")
        base = MEMORY if os.access(MEMORY, os.W_OK) else None
        self._paths = Paths(Path(tempfile.mkdtemp(prefix="navarch-", dir=base)))
        self._plane = ControlPlane(Profile(self.name, nodes=0), self._paths, self._settings)
        try:
            self._plane.start()
            self.apply(*self._manifests)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything and remove every trace. Raises if a part had failed before."""
        plane, self._plane = self._plane, None
        try:
            if plane is not None:
                plane.stop()
        finally:
            if self._paths is not None:
                shutil.rmtree(self._paths.root, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.stop)

    # ---- ways in

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, complete in itself."""
        return self._running[1].kubeconfig("admin")

    @property
    def url(self) -> str:
        return self._running[0].profile.server

    @property
    def ca(self) -> Path:
        """The certificate authority, as a PEM file."""
        return self._running[1].pki / "ca.crt"

    def environ(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """Variables that lead any client here. kubectl caches what it discovers by host and port,
        and another cluster may have had this port before: so the cache is this cluster's own."""
        return {
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            "KUBECACHEDIR": str(self._running[1].root / "kubectl-cache"),
        }

    def client(self, kubeconfig: Path | None = None) -> Client:
        """Navarch's own asynchronous client, for the caller's event loop:
        `async with cluster.client() as client`."""
        from navarch.client import Client, ClientConfig

        return Client(ClientConfig.from_kubeconfig(kubeconfig or self.kubeconfig))

    def kubectl(
        self,
        *arguments: str,
        stdin: str = "",
        kubeconfig: Path | None = None,
        timeout: float = 60.0,
    ) -> str:
        """What the machine's kubectl prints. Raises KubectlError when it fails."""
        command = ["kubectl", *arguments]
        result = subprocess.run(
            command,
            input=stdin,
            env={**os.environ, **self.environ(kubeconfig)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if result.returncode:
            raise KubectlError(result.returncode, command, result.stdout, result.stderr)
        return result.stdout

    def user(self, name: str, groups: Sequence[str] = (), *, namespace: str = NAMESPACE) -> Path:
        """The kubeconfig of a user with a certificate of their own, who may do what RBAC grants:
        nothing at first, but what every authenticated user may."""
        from navarch.cluster import pki

        plane, paths = self._running
        request = pki.Request(f"pki/user-{next(self._users)}", name, tuple(groups))
        certificate, key = pki.issue(request, paths)
        credentials = {"client-certificate": str(certificate), "client-key": str(key)}
        return self._write_kubeconfig(plane.profile, name, credentials, namespace)

    def serving_certificate(self, *names: str) -> tuple[Path, Path]:
        """A certificate and its key for a server that the cluster shall call, such as an admission
        webhook; `cluster.ca` is what it is verified by. Names are host names or addresses."""
        from navarch.cluster import pki

        wanted = names or ("localhost", "127.0.0.1")
        addresses = tuple(name for name in wanted if re.fullmatch(r"[0-9.]+|.*:.*", name))
        hosts = tuple(name for name in wanted if name not in addresses)
        file = f"pki/server-{next(self._users)}"
        request = pki.Request(file, wanted[0], server=True, names=hosts, addresses=addresses)
        return pki.issue(request, self._running[1])

    def service_account(
        self, name: str, *, namespace: str = NAMESPACE, seconds: int = 3600
    ) -> Path:
        """The kubeconfig of a service account, with a token of its own. Makes the account if it is
        not there."""
        plane, _ = self._running
        metadata = {"name": name, "namespace": namespace}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
        self.apply(account)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        token = self.request("POST", path, request)["status"]["token"]
        return self._write_kubeconfig(plane.profile, name, {"token": token}, namespace)

    def _write_kubeconfig(
        self, profile: Profile, name: str, credentials: Mapping[str, str], namespace: str
    ) -> Path:
        from navarch.cluster import kubeconfig

        _, paths = self._running
        file = f"{next(self._users)}-{re.sub('[^A-Za-z0-9.-]', '_', name)}.conf"
        config = kubeconfig.for_user(profile, paths, name, credentials)
        config["contexts"][0]["context"]["namespace"] = namespace
        target = paths.kubeconfigs / file
        target.write_text(kubeconfig.render(config))
        return target

    # ---- nodes

    def add_node(self, name: str, **options: Any) -> Object:
        """Add a simulated node and wait until it takes pods. Options are those of
        `SimulatedOptions`: `labels`, `taints` (`key=value:Effect`), `capacity`, `start_seconds`
        and so on."""
        from navarch.api.objects import to_object
        from navarch.node.simulated import parse_taint

        plane, _ = self._running
        capacity = options.get("capacity", {})
        # The nodes' own task would try for ever: what is wrong is better said here and now.
        proposed = {
            "metadata": {"name": name, "labels": options.get("labels", {})},
            "spec": {"taints": [to_object(parse_taint(t)) for t in options.get("taints", ())]},
            "status": {"capacity": capacity, "allocatable": capacity},
        }
        self.request("POST", "/api/v1/nodes?dryRun=All", proposed)

        async def add() -> None:
            plane.add_nodes([name], options)

        plane.call(add()).result()
        return self.wait_for(f"node/{name}", until=is_open)

    def stop_node(self, name: str) -> None:
        """Let a node made by `add_node` fall silent, as if its machine had lost power. The cluster
        notices after the controllers' `node_monitor_grace_seconds`."""
        plane, _ = self._running
        plane.call(plane.stop_node(name)).result()

    def disturb_nodes(self, *names: str, fault: str = "dead", conditions: str = "") -> None:
        """Have nodes fail on demand: `dead` (the power is cut), `hung` (cut off; containers run
        on), or none of it and conditions such as `MemoryPressure,Ready=False`. See
        docs/simulated-nodes.md."""
        self._annotate_nodes(names, fault="" if conditions else fault, conditions=conditions)

    def restore_nodes(self, *names: str) -> None:
        """Mend what `disturb_nodes` did."""
        self._annotate_nodes(names, fault="", conditions="")

    def _annotate_nodes(self, names: Sequence[str], **values: str) -> None:
        found = {f"simulated.navarch.dev/{key}": value or None for key, value in values.items()}
        for name in names:
            self.request("PATCH", f"/api/v1/nodes/{name}", {"metadata": {"annotations": found}})

    # ---- what clients must live through

    def forget_history(self) -> None:
        """Forget every revision but the present one, as a server does after five minutes: who goes
        on from an older one (watch, next page of a list) gets 410 Gone and must list again."""
        plane, _ = self._running
        plane.call(plane.forget_history()).result()

    def cut_connections(self) -> None:
        """Cut the connections of all clients, watches in the middle of a line included."""
        plane, _ = self._running
        plane.call(plane.cut_connections()).result()

    # ---- objects, see Operations: blocking here, awaited through `aio`

    @property
    def aio(self) -> Elsewhere:
        """The same operations as coroutines, for tests that have an event loop themselves."""
        return Elsewhere(self)

    apply = _blocking(Operations.apply)
    get = _blocking(Operations.get)
    find = _blocking(Operations.find)
    delete = _blocking(Operations.delete)
    wait_for = _blocking(Operations.wait_for)
    wait_gone = _blocking(Operations.wait_gone)
    events = _blocking(Operations.events)
    request = _blocking(Operations.request)

    # ---- how

    @property
    def _running(self) -> tuple[ControlPlane, Paths]:
        if self._plane is None or self._paths is None:
            raise RuntimeError("the cluster does not run")
        return self._plane, self._paths


class Elsewhere:
    """The operations of a cluster, awaited from any event loop."""

    def __init__(self, cluster: Cluster) -> None:
        self.plane, _ = cluster._running

    apply = _awaited(Operations.apply)
    get = _awaited(Operations.get)
    find = _awaited(Operations.find)
    delete = _awaited(Operations.delete)
    wait_for = _awaited(Operations.wait_for)
    wait_gone = _awaited(Operations.wait_gone)
    events = _awaited(Operations.events)
    request = _awaited(Operations.request)
