"""Waits until a cluster is usable, and says what stands in the way if it does not become so.

Usable means: the API server answers, every node is ready, names are resolved, and pods can be
created (the default service account is there). While waiting, the supervisor's notes are watched:
a process that ends again and again is reported at once, with the end of its log, instead of after
the time-out.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from navarch.cluster import addons, containerd, network_plugin, policies, simulation
from navarch.cluster.api import Api, ApiUnavailableError
from navarch.cluster.composition import KUBELET_PORT
from navarch.cluster.manifests import manifests
from navarch.cluster.name_server import configuration, dns_objects
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.cluster.progress import Progress

INTERVAL = 0.03
TOO_MANY_FAILURES = 4
A, AAAA = 1, 28
"""Types of DNS records."""

Check = Callable[[], bool]


LACKS_IMAGES = "lacks-images"
"""A mark in the directory of a node that has yet to get the images that were loaded into others. It
stays until they are there: whoever brings them may be ended on the way."""


def complete(
    profile: Profile, paths: Paths, progress: Progress, timeout: float, *, wait: bool
) -> None:
    """Give a cluster that is starting what its processes do not make themselves: its own objects
    (the Service of the name servers and its endpoints, rights, addons), the image of every pod, the
    first node's role, and to nodes that lack images those that others have. To `wait` is to return
    when the cluster is usable. Raises ClusterError when something is not there in time."""
    api = Api(profile, paths)
    waiting = Waiting(paths, time.monotonic() + timeout)
    with ThreadPoolExecutor(max(1, 2 * profile.nodes), "images") as pool:
        running = profile.running_nodes()
        images = [pool.submit(bring_pause_image, profile, paths, node) for node in running]
        lacking = sources_of_images(paths, running)
        copies = {
            node: pool.submit(bring_loaded_images, paths, source, node)
            for node, source in lacking.items()
        }
        waiting.until("the API server", api.is_ready, "apiserver")
        simulated = frozenset(simulation.names(paths)) if profile.simulated else frozenset()
        _remove_gone_nodes(api, profile, simulated)
        waiting.until("the cluster's own objects", lambda: _put_own_objects(api, profile, paths))
        if wait and (running or profile.simulated):
            progress.step(f"Waiting for {_count(profile)}")
            process = "node" if running else "simulated"
            waiting.until("the nodes", lambda: _nodes_are_ready(api, profile, simulated), process)
        if profile.node_names()[0:1] == running[0:1] != ():
            waiting.until("the node", lambda: _mark_control_plane(api, profile), "node")
        if wait:
            waiting.until("the service accounts", lambda: _accounts_are_there(api), "controllers")
        if wait and running:
            progress.step("Waiting for the cluster's name server")
            name = f"kubernetes.default.svc.{profile.cluster_domain}"
            waiting.until("the name server", lambda: resolves(profile.dns_address, name), "node")
        for image in images:
            waiting.until("the pause image", partial(_is_done, image), "containerd")
        for node, copied in copies.items():
            if not copied.done():
                progress.step(f"Copying images to {node}")
            try:
                copied.result()  # it takes as long as it takes
            except ClusterError as error:
                progress.note(f"{node} lacks images that {lacking[node]} has: {error}")
    api.close()


class Waiting:
    """One deadline for everything that is waited for."""

    def __init__(self, paths: Paths, deadline: float) -> None:
        self._paths = paths
        self._deadline = deadline

    def until(self, what: str, check: Check, process: str = "") -> None:
        while True:
            problem, asked = "", time.monotonic()
            try:
                if check():
                    return
            except ApiUnavailableError as error:
                problem = str(error)
            self._failed_process()
            if time.monotonic() > self._deadline:
                raise ClusterError(
                    f"{what}: not ready in time" + (f" ({problem})" if problem else ""),
                    self._advice(process),
                )
            # What takes long to ask (thousands of nodes) is not asked all the time.
            time.sleep(max(INTERVAL, 2 * (time.monotonic() - asked)))

    def _failed_process(self) -> None:
        for name, state in supervised(self._paths).items():
            if state["failures"] >= TOO_MANY_FAILURES:
                raise ClusterError(
                    f"{name} keeps ending: it {state['last_exit']}", self._advice(name)
                )

    def _advice(self, process: str) -> str:
        logs = sorted(self._paths.logs.glob(f"{process}*.log")) if process else []
        if not logs:
            return f"See the logs in {self._paths.logs}"
        return f"The end of {logs[0]}:\n{tail(logs[0], 12)}"


def supervised(paths: Paths) -> dict[str, Any]:
    """The supervisor's notes on its processes."""
    try:
        data = json.loads((paths.run / "state.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def tail(path: Path, lines: int) -> str:
    """The last lines of a file, without reading all of it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 64 * 1024))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _count(profile: Profile) -> str:
    parts = []
    if nodes := len(profile.running_nodes()):
        parts.append("the node" if nodes == 1 else f"{nodes} nodes")
    if profile.simulated:
        parts.append(f"{profile.simulated} simulated nodes")
    return " and ".join(parts)


def _nodes_are_ready(api: Api, profile: Profile, simulated: frozenset[str]) -> bool:
    nodes = api.get("/api/v1/nodes")["items"]
    ready = {node["metadata"]["name"] for node in nodes if is_ready(node)}
    ready |= {node["metadata"]["name"] for node in nodes if simulation.is_disturbed(node)}
    wanted = set(profile.running_nodes())
    if profile.cni == network_plugin.NOBODY:
        # They become ready when the user has installed a network plug-in.
        return wanted <= {node["metadata"]["name"] for node in nodes} and simulated <= ready
    return (
        wanted | simulated <= ready
        # A condition may be from an earlier life; an open port is not.
        and all(listens(profile.node_address(node), KUBELET_PORT) for node in wanted)
    )


def listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def gone_nodes(profile: Profile, nodes: Iterable[dict[str, Any]], simulated: Set[str]) -> list[str]:
    """Nodes that are this cluster's by their names, or simulated nodes of its own, which it no
    longer has."""
    real = re.compile(rf"{re.escape(profile.name)}(-m\d{{2,}})?")
    wanted = simulated | set(profile.node_names())
    gone = []
    for node in nodes:
        name, annotations = node["metadata"]["name"], node["metadata"].get("annotations") or {}
        is_own = annotations.get(simulation.OWNER) == profile.name
        if name not in wanted and (is_own or real.fullmatch(name)):
            gone.append(name)
    return gone


def _remove_gone_nodes(api: Api, profile: Profile, simulated: Set[str]) -> None:
    for name in gone_nodes(profile, api.get("/api/v1/nodes")["items"], simulated):
        api.remove(f"/api/v1/nodes/{name}")


def is_ready(node: dict[str, Any]) -> bool:
    """Ready, and no longer kept from pods: the taint goes a moment after the condition comes."""
    conditions = node.get("status", {}).get("conditions") or []
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )
    taints = node.get("spec", {}).get("taints") or []
    return ready and not any(
        taint["key"].startswith("node.kubernetes.io/not-ready") for taint in taints
    )


def _mark_control_plane(api: Api, profile: Profile) -> bool:
    """Show the role that kubeadm and minikube give the first node. A node may not do so itself."""
    label = "node-role.kubernetes.io/control-plane"
    path = f"/api/v1/nodes/{profile.node_names()[0]}"
    api.merge(path, {"metadata": {"labels": {label: ""}}})
    return True


def _accounts_are_there(api: Api) -> bool:
    try:
        api.get("/api/v1/namespaces/default/serviceaccounts/default")
        api.get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
    except ApiUnavailableError as error:
        if error.status == 404:
            return False
        raise
    return True


def _put_own_objects(api: Api, profile: Profile, paths: Paths) -> bool:
    if profile.nodes:
        for collection, value in (*dns_objects(profile), *manifests("access")):
            api.put_in_place(collection, value)
        api.create_missing(*configuration(profile))
        if policies.kubelet_config(paths).is_file():  # it may ask for rotation
            for collection, value in manifests("certificates"):
                api.put_in_place(collection, value)
    if profile.simulated:
        for collection, value in manifests("simulated", user=simulation.USER):
            api.put_in_place(collection, value)
    addons.put_objects(api, profile, paths)
    return True


def resolves(server: str, name: str, timeout: float = 0.2) -> bool:
    """Whether a name server knows an address of its own family for `name`: one question by hand
    (RFC 1035)."""
    six = ":" in server
    question = dns_question(secrets.randbits(16), name, AAAA if six else A)
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(timeout)
        try:
            asker.connect((server, 53))
            asker.send(question)
            answer = asker.recv(512)
        except OSError:
            return False
    return is_answer(question, answer)


def dns_question(identity: int, name: str, kind: int = A) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    header = struct.pack("!6H", identity, 0x0100, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!2H", kind, 1)


def is_answer(question: bytes, answer: bytes) -> bool:
    """Same identity, a response, no error, at least one record."""
    if len(answer) < 12 or answer[:2] != question[:2]:
        return False
    flags, _, records = struct.unpack("!3H", answer[2:8])
    return bool(flags & 0x8000) and not flags & 0x000F and records > 0


def bring_pause_image(profile: Profile, paths: Paths, node: str) -> None:
    """Bring the pause image into a node as soon as its runtime answers, unless it is there."""
    from navarch.node.images.pause import PAUSE_IMAGE, build_pause_image

    if profile.pause_image != PAUSE_IMAGE:
        return
    pins = Pins(paths.pins, node)
    archive = paths.node(node) / "pause.tar"
    wait_for_runtime(pins, paths, node)
    listed = containerd.ctr(pins, ["images", "ls", "-q", f"name=={PAUSE_IMAGE}"])
    if PAUSE_IMAGE not in listed:
        build_pause_image(archive)
        containerd.import_archive(pins, archive)
        archive.unlink()


def expect_images(paths: Paths, nodes: Iterable[str]) -> None:
    """Note that these nodes have missed what was loaded into others so far."""
    for node in nodes:
        paths.node(node).mkdir(mode=0o700, exist_ok=True)
        (paths.node(node) / LACKS_IMAGES).touch()


def sources_of_images(paths: Paths, running: Sequence[str]) -> dict[str, str]:
    """From which node each gets the images that it lacks. Where all are new, none has any."""
    lacking = [node for node in running if (paths.node(node) / LACKS_IMAGES).exists()]
    complete_ones = [node for node in running if node not in lacking]
    if complete_ones:
        return dict.fromkeys(lacking, complete_ones[0])
    for node in lacking:
        (paths.node(node) / LACKS_IMAGES).unlink()
    return {}


def bring_loaded_images(paths: Paths, source: str, target: str) -> None:
    """Copy what was loaded into a node to another one, as soon as both runtimes answer."""
    from navarch.cluster import images

    pins = [Pins(paths.pins, node) for node in (source, target)]
    for each in pins:
        wait_for_runtime(each, paths, each.node)
    images.copy(*pins)
    (paths.node(target) / LACKS_IMAGES).unlink()


def wait_for_runtime(pins: Pins, paths: Paths, node: str, timeout: float = 30.0) -> None:
    """Wait until the node's containerd listens. Its socket is in the node's own /run, which is
    reached through the process."""
    from navarch.cluster.processes import read_pid_file, wait_until

    def listens() -> bool:
        process = read_pid_file(paths.run / f"containerd-{node}.pid")
        if process is None:
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(f"/proc/{process.pid}/root{containerd.SOCKET}")
            except OSError:
                return False
        return True

    if not wait_until(listens, timeout):
        raise ClusterError(
            f"the container runtime of {pins.node} does not answer",
            f"See {paths.logs / f'containerd-{node}.log'}",
        )


def _is_done(image: Future[None]) -> bool:
    if image.done():
        image.result()
        return True
    return False
