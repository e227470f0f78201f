"""`navarch stop` and `navarch delete`.

Stopping a cluster is switching its machines off: containers are asked to end, then everything
goes that lives in memory (processes, namespaces, wires), and what is on disk stays: the store, the
images, the pods' volumes. Starting again is booting them. Deleting removes the disk as well.
"""

from __future__ import annotations

from navarch.cluster import boot, kubeconfig, profile, teardown
from navarch.cluster.profile import ClusterError
from navarch.cluster.progress import Progress
from navarch.cluster.start import exclusive, remembered_kubeconfigs


def stop(name: str, progress: Progress) -> None:
    """Stop a cluster, or what is left of it."""
    found = profile.load(name)
    if found is None:
        raise missing(name)
    paths = profile.paths_of(name)
    with exclusive(name):
        what = f"node {found.joined_node}" if found.joined else f"cluster {name}"
        progress.step(f"Stopping the {what}")
        teardown.stop_processes(paths)
        teardown.clear_nodes(found, paths)
        teardown.forget_runtime_state(paths)


def delete(name: str, progress: Progress) -> bool:
    """Remove a cluster and every trace of it. Returns whether there was one."""
    paths = profile.paths_of(profile.check_name(name))
    if not paths.root.is_dir():
        return False
    with exclusive(name):
        try:
            found = profile.load(name) or profile.Profile(name, nodes=0)
        except ClusterError:
            # Deletion is also the cure for a profile that cannot be read. Its node, if it had
            # one, is found by the name alone.
            found = profile.Profile(name)
        what = "what is left of the node here" if found.joined else f"the cluster {name}"
        progress.step(f"Deleting {what}")
        boot.switch_off(found)
        teardown.stop_processes(paths)
        teardown.clear_nodes(found, paths)
        files = kubeconfig.user_files()
        files += [file for file in remembered_kubeconfigs(paths) if file not in files]
        kubeconfig.remove(name, files)
        profile.forget(name)
    return True


def missing(name: str) -> ClusterError:
    return ClusterError(
        f'Profile "{name}" not found.',
        'Run "navarch profile list" to view all profiles, "navarch start" to make one.',
        profile.NOT_FOUND,
    )
