"""Renews certificates while the cluster runs: `python -m navarch.cluster.renew PROFILE`.

The supervisor runs this every few hours. Where nothing is due it costs a moment; otherwise the
new certificates are written, and the supervisor is asked to read its description again: processes
that listen with a renewed certificate are restarted one after the other, workloads are not touched,
and clients take up theirs by themselves.
"""

from __future__ import annotations

import signal
import sys

from navarch.cluster import composition, kubeconfig, pki, processes, profile
from navarch.cluster.start import exclusive, remembered_kubeconfigs


def renew(name: str) -> bool:
    """Make the certificates that are due. Returns whether there were any."""
    found = profile.load(name)
    if found is None:
        return False
    paths = profile.paths_of(name)
    with exclusive(name):
        if not pki.ensure(found, paths).made:
            return False
        for node in found.node_names():
            kubeconfig.published_authority(paths, node)
        kubeconfig.write_component_files(found, paths)
        for file in remembered_kubeconfigs(paths):
            if file.is_file():
                kubeconfig.merge(found, paths, [file], switch=False)
        description = composition.describe(found, paths)
        profile.write_file(paths.run / "supervisor.json", description.encode())
        supervisor = processes.read_pid_file(paths.run / "supervisor.pid")
        if supervisor is not None:
            supervisor.signal(signal.SIGHUP)
        return True


if __name__ == "__main__":
    renew(sys.argv[1])
