"""`navarch start`: from nothing, or from whatever is left, to a cluster that can be used.

Every step brings about a state and does nothing where it holds already. So the same path starts a
new cluster, a stopped one, one whose machine has rebooted, and one of which parts were killed;
processes that run as they should are left alone, and workloads with them.

What can be done at the same time is: certificates on one side, namespaces and wires on the other;
then the API server and the container runtime start together and everything else beside them. The
command returns when the cluster is usable: nodes ready, names resolved, service accounts there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from navarch.cluster import (
    addons,
    boot,
    composition,
    forwarding,
    guardian,
    kubeconfig,
    namespaces,
    network_plugin,
    pki,
    policies,
    processes,
    profile,
    readiness,
    simulation,
    teardown,
    topology,
)
from navarch.cluster.namespaces import NodeView, Pins
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.cluster.progress import Progress


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What the user asked for; None leaves a number as it is (one node at first)."""

    name: str
    nodes: int | None = None
    settings: Callable[[Profile], Profile] | None = None
    """What else of the profile becomes different."""
    creation: Callable[[Profile], Profile] | None = None
    """What of a new profile is not as usual."""
    simulation: simulation.Change | None = None
    """What becomes of the simulated nodes."""
    switch_context: bool = True
    wait: bool = True
    timeout: float = 120.0
    audit_policy: str | None = None
    """A file, or "off"."""
    encryption_config: str | None = None
    kubelet_config: str | None = None
    scheduler_config: str | None = None
    addons: Callable[[addons.Choices], addons.Choices] | None = None
    """What becomes of the addons."""
    cni: str | None = None
    """Who makes the pods' network: `bridge`, `false` or a file."""
    boot: bool | None = None
    """Whether the machine starts it when it boots."""

    @property
    def is_plain(self) -> bool:
        """Whether the cluster is only to be there, as it is."""
        manner = ("name", "creation", "switch_context", "wait", "timeout", "boot")
        return self == StartRequest(**{each: getattr(self, each) for each in manner})


def start(request: StartRequest, progress: Progress) -> Profile:
    """Start or mend the cluster; returns its profile."""
    if request.boot:
        boot.check()
    existing = profile.load(request.name)
    if existing is not None and existing.joined:
        from navarch.cluster import joining

        if not request.is_plain:
            raise ClusterError(
                "this machine is a node of a cluster that runs elsewhere",
                f"How the cluster is, is said there: {existing.joined}",
            )
        with exclusive(request.name):
            joining.bring_up(existing, progress, request.timeout, wait=request.wait)
    else:
        existing = _start_own(request, progress)
    # Not while the lock is held: the unit is started, and starts what runs already.
    if request.boot:
        progress.note(f"{boot.switch_on(existing)} starts it when the machine boots")
    elif request.boot is not None:
        boot.switch_off(existing)
    return existing


def _start_own(request: StartRequest, progress: Progress) -> Profile:
    """A cluster whose control plane is here."""
    with exclusive(request.name), ExitStack() as until_wired:
        if profile.load(request.name) is None:
            # Addresses are chosen by what is there; so nobody on this machine, whosever cluster it
            # is, may choose until ours are, too.
            until_wired.enter_context(forwarding.locked(Path("/run")))
        nodes_wanted = None
        if request.simulation is not None:
            nodes_wanted = simulation.changed(profile.paths_of(request.name), request.simulation)
        wanted = _settle(request, nodes_wanted)
        check_requirements(wanted)
        paths = profile.paths_of(wanted.name)
        chosen = addons.load(paths)
        if request.addons is not None:
            chosen = request.addons(chosen)
        before = profile.load(wanted.name)
        at_work = processes.is_running(paths.run, "apiserver")
        doing = "Creating" if before is None else "Updating" if at_work else "Starting"
        progress.step(f"{doing} the cluster {wanted.name}")
        policies.adopt(
            paths,
            request.audit_policy,
            request.encryption_config,
            request.kubelet_config,
            request.scheduler_config,
        )
        if nodes_wanted is not None:
            simulation.save(paths, nodes_wanted)
        elif wanted.simulated:
            simulation.adopt(paths, wanted.simulated)
        if request.cni is not None:
            wanted = network_plugin.adopt(wanted, paths, request.cni)
        if before is not None:
            readiness.expect_images(paths, {*wanted.running_nodes()} - {*before.running_nodes()})
        profile.save(wanted)
        if request.addons is not None:
            addons.save(paths, chosen)
        _remove_surplus(before, wanted, paths, progress)
        _prepare(wanted, paths)
        until_wired.close()
        if not at_work:
            beside = " and the nodes" if wanted.running_nodes() else ""
            progress.step(f"Starting the control plane{beside}")
        supervise(wanted, paths)
        files = kubeconfig.user_files()
        changed = kubeconfig.merge(wanted, paths, files, switch=request.switch_context)
        _remember_kubeconfig(paths, changed)
        for note in network_plugin.notes(wanted, paths, network_plugin.BRIDGE_FILTER.exists()):
            progress.note(note)
        if wanted.cni:
            network_plugin.install(wanted, paths, progress, request.timeout)
        readiness.complete(wanted, paths, progress, request.timeout, wait=request.wait)
        return wanted


def _settle(request: StartRequest, simulated: simulation.Simulation | None) -> Profile:
    """The profile as it shall be from now on."""
    others = [other for other in profile.all_profiles() if other.name != request.name]
    existing = profile.load(request.name)
    nodes, count = request.nodes, simulated.fleet.count if simulated is not None else None
    if existing is None:
        existing = profile.allocate(request.name, others, profile.host_use())
        existing = request.creation(existing) if request.creation else existing
        if nodes is None:
            nodes = 0 if count else 1
    elif request.creation and (other := request.creation(existing)) != existing:
        now, asked = asdict(existing), asdict(other)
        changed = [name for name in now if now[name] != asked[name]]
        raise ClusterError(
            f"the cluster {request.name} was made with other addresses ({', '.join(changed)})",
            "They stay for a cluster's life. Delete it, or choose another profile: -p NAME",
        )
    wanted = request.settings(existing) if request.settings else existing
    found = profile.resized(wanted, nodes, count)
    paths = profile.paths_of(found.name)
    if processes.is_running(paths.run, "apiserver"):
        return found
    # Somebody else may have taken the port while the cluster was stopped. Everything that names
    # it is written anew at each start, so another one does as well.
    return profile.with_free_port(found, others)


def check_requirements(wanted: Profile) -> None:
    """Refuse at once what cannot work, and say what to do about it."""
    if not wanted.nodes:
        return
    if os.geteuid() != 0:
        raise ClusterError(
            "real nodes need root",
            "Run: sudo navarch start. Without root: navarch start --nodes 0 (API only) or "
            "navarch start --simulated 3 (nodes without containers).",
        )
    check_tools()


def check_tools() -> None:
    """What every real node needs. Raises ClusterError."""
    tools = ("containerd", "runc", "nft", "ctr", "containerd-shim-runc-v2")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise ClusterError(f"not installed: {', '.join(missing)}", "Run: navarch setup")


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """One command at a time changes a profile. The lock is beside the profile's directory, so
    that deletion can hold it, too, and its file goes with the lock."""
    home = profile.home()
    file = home / f".{profile.check_name(name)}.lock"
    try:
        home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise profile.belongs_to_another(home) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file between our open and our lock.
            taken = not file.exists() or file.stat().st_ino != os.fstat(descriptor).st_ino
        except BlockingIOError:
            taken = True
        if taken:
            raise ClusterError(
                f"another command is changing the cluster {name}", "Wait until it has ended."
            )
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
        if home.is_dir() and not any(home.iterdir()):
            home.rmdir()


def _remove_surplus(
    before: Profile | None, wanted: Profile, paths: Paths, progress: Progress
) -> None:
    """Take down real nodes that are to run no longer. A node that is only switched off keeps its
    directory, as a machine keeps its disk."""
    if before is None:
        return
    off = [name for name in before.running_nodes() if name not in wanted.running_nodes()]
    if off:
        progress.step(f"Stopping {', '.join(off)}")
        supervise(wanted, paths)
    for node in off:
        # Not before the supervisor has let go of them: it would start them again.
        processes.wait_until(partial(_is_let_go, paths, node), 30.0)
        processes.drain_cgroup(before.node_cgroup(node), grace=2.0)
        processes.end(namespaces.processes_inside(Pins(paths.pins, node)), 10.0)
        teardown.clear_node(before, paths, node)
        processes.remove_cgroup(before.node_cgroup(node))
    for node in set(before.node_names()) - set(wanted.node_names()):
        shutil.rmtree(paths.node(node), ignore_errors=True)
        for file in paths.logs.glob(f"*-{node}.log*"):
            file.unlink(missing_ok=True)


def _is_let_go(paths: Paths, node: str) -> bool:
    """Whether the supervisor has ended a node's processes, and will not start them again."""
    names = (f"{kind}-{node}" for kind in ("node", "containerd"))
    return not any(processes.is_running(paths.run, name) for name in names)


def _prepare(wanted: Profile, paths: Paths) -> None:
    """Certificates and configuration beside namespaces and wires: neither needs the other."""
    for node in wanted.node_names():
        paths.node(node).mkdir(mode=0o700, exist_ok=True)
        network_plugin.place(wanted, paths, node)
    with ThreadPoolExecutor(2) as pool:
        namespaces_made = pool.submit(make_namespaces, wanted, paths)
        credentials = pool.submit(_make_credentials, wanted, paths)
        if wanted.running_nodes():
            from navarch.cluster import netns  # costs a while, which others use

            namespaces_made.result()
            netns.apply(topology.plan(wanted), paths.pins)
        credentials.result()


def _make_credentials(wanted: Profile, paths: Paths) -> None:
    pki.ensure(wanted, paths)
    for node in wanted.node_names():
        kubeconfig.published_authority(paths, node)
    kubeconfig.write_component_files(wanted, paths)


def make_namespaces(wanted: Profile, paths: Paths) -> None:
    missing = [node for node in wanted.running_nodes() if not Pins(paths.pins, node).are_alive()]
    if not missing:
        return
    resolver = namespaces.host_resolver()
    nodes = []
    for node in missing:
        teardown.clear_node(wanted, paths, node)
        view = NodeView(
            node, resolver, profile.home(), paths.node(node), own_network=not wanted.joined
        )
        nodes.append((Pins(paths.pins, node), view))
    try:
        namespaces.create_elsewhere(nodes)
    except OSError as error:
        raise ClusterError(
            f"the nodes' namespaces cannot be made: {error}", "See: navarch doctor"
        ) from error


def supervise(wanted: Profile, paths: Paths) -> None:
    """Tell the supervisor what shall run, or start one."""
    file = paths.run / "supervisor.json"
    profile.write_file(file, composition.describe(wanted, paths).encode())
    # What it said of earlier failures is no longer true.
    (paths.run / "state.json").unlink(missing_ok=True)
    running = processes.read_pid_file(paths.run / "supervisor.pid")
    if running is not None:
        running.signal(signal.SIGHUP)
        return
    guardian.start_supervisor(file, paths.logs / "supervisor.log")


def _remember_kubeconfig(paths: Paths, file: Path) -> None:
    """Note the files the cluster was merged into: renewal updates them, deletion clears them."""
    files = remembered_kubeconfigs(paths)
    if file.absolute() not in files:
        profile.write_json(
            paths.root / "kubeconfigs.json", [str(entry) for entry in [*files, file.absolute()]]
        )


def remembered_kubeconfigs(paths: Paths) -> list[Path]:
    try:
        return [Path(entry) for entry in json.loads((paths.root / "kubeconfigs.json").read_bytes())]
    except (FileNotFoundError, ValueError):
        return []
