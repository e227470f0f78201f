"""Takes a cluster off the machine: processes, mounts, namespaces, links, rules, control groups.

Nothing here trusts that the cluster is in order. It finds things by what they are (processes in
the node's namespaces or control groups, links by their names), not by what some file says about
them, so it also clears up after crashes and after halves of a start. Running it twice does
nothing the second time.
"""

from __future__ import annotations

import os
import signal

from navarch.cluster import namespaces, processes
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import Paths, Profile
from navarch.cluster.supervisor import Description, Supervisor, lock

STOP_TIMEOUT = 60.0


def stop_processes(paths: Paths) -> None:
    """End the supervisor and everything it watches. Without a supervisor (it was killed), its
    part is done here: the processes are found by their pid files."""
    description = paths.run / "supervisor.json"
    pid_file = paths.run / "supervisor.pid"
    supervisor = processes.read_pid_file(pid_file)
    if supervisor is not None:
        supervisor.signal(signal.SIGTERM)
        # Nodes that shut down gracefully may take as long as their pods are given.
        longest = 0.0
        if description.is_file():
            graces = [each.grace for each in Description.read(description).processes]
            longest = max(graces, default=0.0)
        if processes.wait_gone([supervisor.pid], STOP_TIMEOUT + longest):
            supervisor.signal(signal.SIGKILL)
            processes.wait_gone([supervisor.pid], 5.0)
    if not description.is_file():
        return
    held = lock(paths.run)
    if held is None:
        # A guardian was faster and has started another one, which shall end as well.
        if processes.wait_until(lambda: processes.read_pid_file(pid_file) is not None, 2.0):
            stop_processes(paths)
        return
    try:
        pid_file.unlink(missing_ok=True)  # so that no guardian takes it for a lost supervisor's
        stand_in = Supervisor(description)
        stand_in.adopt()
        stand_in.stop_all()
        # A guardian may have started a supervisor that comes to its turn only after this.
        description.unlink(missing_ok=True)
    finally:
        os.close(held)


def clear_nodes(profile: Profile, paths: Paths) -> None:
    """Remove every node's presence in the kernel. Needs root if there is any."""
    if os.geteuid() != 0:
        return
    processes.drain_cgroup(profile.cgroup, grace=2.0)
    for pins in pinned(paths):
        inside = [pid for pid in namespaces.processes_inside(pins) if pid != os.getpid()]
        processes.end(inside, grace=2.0)
        namespaces.destroy(pins)
    namespaces.release_directory(paths.pins)
    processes.remove_cgroup(profile.cgroup)
    if profile.joined:
        from navarch.cluster.joined_network import remove

        remove(profile, paths)
    elif profile.nodes:
        from navarch.cluster import netns, topology

        netns.remove(topology.plan(profile))


def clear_node(profile: Profile, paths: Paths, node: str) -> None:
    """Remove what is left of a node whose namespaces are gone: after a reboot nothing, after a
    crash containers that have lost their node."""
    processes.drain_cgroup(profile.node_cgroup(node), grace=0.0)
    namespaces.destroy(Pins(paths.pins, node))


def pinned(paths: Paths) -> list[Pins]:
    """The nodes that have namespaces, whether the profile still counts them or not."""
    names = {file.stem for file in paths.pins.glob("*.mnt")} if paths.pins.is_dir() else set()
    return [Pins(paths.pins, name) for name in sorted(names)]


def forget_runtime_state(paths: Paths) -> None:
    """Remove files that are true only while the cluster runs."""
    for pattern in ("*.pid", "*.json", "supervisor.lock"):
        for file in paths.run.glob(pattern):
            file.unlink(missing_ok=True)
