"""`navarch leave`: this machine is no longer a node of the cluster that it has joined.

A node may do most of this by itself: keep new pods away, ask for the eviction of those it has,
say that it is not ready. Its Node object it may not delete (a node that could would get rid of its
taints by coming back), so that is left to who may: as after `kubeadm reset`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from navarch.api.times import format_time
from navarch.cluster import drain, processes, profile, stop, teardown
from navarch.cluster.api import Api, ApiUnavailableError
from navarch.cluster.profile import ClusterError, Profile
from navarch.cluster.progress import Progress
from navarch.cluster.start import exclusive

STRATEGIC = "application/strategic-merge-patch+json"


def leave(name: str, progress: Progress, *, empty: bool) -> Profile:
    """Empty the node, unless told otherwise, and remove it from this machine. A cluster that does
    not answer is left all the same."""
    found = profile.load(name)
    if found is None:
        raise stop.missing(name)
    if not found.joined:
        raise ClusterError(f"{name} is a cluster of this machine", "To delete it: navarch delete")
    paths, node = profile.paths_of(name), found.joined_node
    api = Api(found, paths)
    with exclusive(name):
        cordoned = False
        if empty and processes.is_running(paths.run, f"node-{node}"):
            progress.step(f"Moving the pods of {node} to other nodes")
            try:
                cordoned = drain.drain(api, node, progress.note)
            except ApiUnavailableError as error:
                progress.note(f"the cluster cannot be asked, its pods go with it: {error}")
        progress.step(f"Stopping the node {node}")
        teardown.stop_processes(paths)
        try:
            _farewell(api, node, cordoned=cordoned)
        except ApiUnavailableError as error:
            progress.note(f"the cluster does not know yet that {node} has left: {error}")
        api.close()
    stop.delete(name, progress)
    return found


def _farewell(api: Api, node: str, *, cordoned: bool) -> None:
    """Nobody waits for heartbeats of a node that has said so itself. Should it join again, it
    takes pods again."""
    now = format_time(datetime.now(UTC))
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "NodeLeft",
        "message": "navarch leave was run on the machine",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    try:
        status = {"status": {"conditions": [ready]}}
        api.send("PATCH", f"/api/v1/nodes/{node}/status", status, STRATEGIC)
        if cordoned:
            api.merge(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": None}})
    except ApiUnavailableError as error:
        if error.status != 404:
            raise
