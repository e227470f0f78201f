"""Which processes make up a profile, and with which options.

    apiserver                    the API server and its store
    controllers                  controllers and scheduler
    simulated                    simulated nodes, if asked for
    guardian                     on a machine that has joined: the watch over the supervisor
    containerd-<node>            a node's container runtime
    node-<node>                  a node's kubelet, proxy, policies, name server and pod network

Each Python process reads its options from a JSON file. What a process is started from goes into a
digest (options, program, version, certificates), so that `navarch start` replaces exactly the
processes whose description has changed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from navarch import __version__
from navarch.cluster import addons, containerd, guardian, namespaces, pki, policies, simulation
from navarch.cluster.profile import Paths, Profile, home, write_file, write_json
from navarch.cluster.supervisor import Description, Spec
from navarch.network.policy import SOCKET_NAME

NODE_LEVEL, CONTROL_LEVEL, RUNTIME_LEVEL, API_LEVEL = 4, 3, 2, 1
KUBELET_PORT, CONTROLLERS_PORT, SCHEDULER_PORT = 10250, 10257, 10259
KUBELET_ROOT = "/var/lib/kubelet"
POLICY_DIRECTORY = "/run/navarch/policy"

DAEMON_ENVIRONMENT = {
    # Few threads allocate here: one arena, and freed memory goes back to the kernel early, but not
    # so early that each read of a TLS connection, for which uvloop takes 256 KiB and gives most of
    # it back at once, costs two calls into the kernel (13 µs).
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "524288",
    "MALLOC_TRIM_THRESHOLD_": "524288",
    "OPENBLAS_NUM_THREADS": "1",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "PYTHONUNBUFFERED": "1",
}

Options = dict[str, Any]


def apiserver_options(profile: Profile, paths: Paths) -> Options:
    return {
        **_policy_options(paths),
        "data_dir": str(paths.store),
        "bind_addresses": listen_addresses(profile),
        "port": profile.api_port,
        "advertise_address": profile.host_address,
        "tls_cert": str(paths.pki / "apiserver.crt"),
        "tls_key": str(paths.pki / "apiserver.key"),
        "client_ca": str(paths.pki / "ca.crt"),
        "service_account_keys": [str(paths.pki / "sa.pub")],
        "service_account_signing_key": str(paths.pki / "sa.key"),
        "service_account_issuer": f"https://kubernetes.default.svc.{profile.cluster_domain}",
        "kubelet_client_cert": str(paths.pki / "kubelet-client.crt"),
        "kubelet_client_key": str(paths.pki / "kubelet-client.key"),
        "kubelet_ca": str(paths.pki / "ca.crt"),
        "enable_bootstrap_token_auth": True,
        "requestheader_client_ca_file": str(paths.pki / "front-proxy-ca.crt"),
        "requestheader_allowed_names": [pki.FRONT_PROXY_CLIENT],
        "proxy_client_cert_file": str(paths.pki / "front-proxy-client.crt"),
        "proxy_client_key_file": str(paths.pki / "front-proxy-client.key"),
        "service_cidr": ",".join(profile.service_cidrs),
        "enable_admission_plugins": list(profile.admission_plugins),
    }


def listen_addresses(profile: Profile) -> list[str]:
    """Where the API server listens. One that listens everywhere does so on these, too."""
    own = ["127.0.0.1", *(profile.host_addresses if profile.nodes else ())]
    every = {"0.0.0.0": 4, "::": 6}
    covered = {every[each] for each in profile.listen_addresses if each in every}
    found = [*own, *profile.listen_addresses]
    return list(
        dict.fromkeys(
            each for each in found if each in every or ip_address(each).version not in covered
        )
    )


def _policy_options(paths: Paths) -> Options:
    """What the files say that the user gave us."""
    options: Options = {}
    if policies.audit_policy(paths).is_file():
        options["audit_policy_file"] = str(policies.audit_policy(paths))
        options["audit_log_path"] = str(paths.logs / "audit.log")
    if policies.encryption_config(paths).is_file():
        options["encryption_provider_config"] = str(policies.encryption_config(paths))
    return options


ROOM_FOR_NODES = 256
UNROUTED_CIDR = "10.128.0.0/9"
"""Where pods of more nodes than a profile's own range has room for get their addresses. It needs no
route: all those nodes are simulated."""


def controllers_options(profile: Profile, paths: Paths) -> Options:
    signing = {"cluster_signing_duration": profile.signing_duration}
    return {
        **(signing if profile.signing_duration else {}),
        "kubeconfig": str(paths.kubeconfig("controllers")),
        "controllers": ["*", *(f"-{name}" for name in addons.unwanted_controllers(paths))],
        "cluster_cidr": ",".join(profile.pod_cidrs)
        if profile.nodes or profile.simulated <= ROOM_FOR_NODES
        else UNROUTED_CIDR,
        "root_ca": str(paths.pki / "ca.crt"),
        "cluster_signing_cert_file": str(paths.pki / "ca.crt"),
        "service_account_private_key_file": str(paths.pki / "sa.key"),
        "cluster_signing_key_file": str(paths.pki / "ca.key"),
    }


def serving_options(profile: Profile, paths: Paths, port: int) -> Options:
    """Where a component tells of its health and figures."""
    return {
        "secure_port": port,
        "bind_address": profile.control_address,
        "tls_cert_file": str(paths.pki / "control-plane.crt"),
        "tls_private_key_file": str(paths.pki / "control-plane.key"),
        "client_ca_file": str(paths.pki / "ca.crt"),
    }


def scheduler_options(paths: Paths) -> Options:
    options: Options = {"kubeconfig": str(paths.kubeconfig("scheduler"))}
    file = policies.scheduler_config(paths)
    if file.is_file():
        from navarch.scheduler.configuration.files import named_fields

        options["config"] = str(file)
        # Nobody else would take over; only who asks for an election gets one.
        if "leaderElection" not in named_fields(file):
            options["leader_elect"] = False
    return options


def _kubelet(profile: Profile, paths: Paths, node: str) -> Options:
    """The kubelet's options, less what the user's own file says."""
    directory = paths.node(node)
    pki = directory / "pki"
    addresses = profile.node_addresses(node)
    # A node that has joined renews its certificates itself, and keeps each with its key.
    suffixes = (".pem", ".pem") if profile.joined else (".crt", ".key")
    kubelet = {
        "kubeconfig": str(directory / "kubelet.conf"),
        "node_name": node,
        "node_ip": ",".join(addresses),
        "runtime_endpoint": containerd.ADDRESS,
        "root_directory": KUBELET_ROOT,
        "pod_logs_directory": str(directory / "pod-logs"),
        # The machine's own logs are not this node's.
        "node_logs_directory": str(directory / "pod-logs"),
        "cluster_dns": list(profile.dns_addresses),
        "cluster_domain": profile.cluster_domain,
        "cgroup_root": profile.node_cgroup(node),
        "max_pods": profile.max_pods,
        "eviction_hard": EVICTION_HARD,
        "image_gc_high_threshold_percent": 95,
        # Nobody else tells a node in namespaces of its end.
        "shutdown_on_terminate": True,
        "port": KUBELET_PORT,
        "listen_address": addresses[0],
        "tls_certificate": str(pki / f"kubelet-serving{suffixes[0]}"),
        "tls_key": str(pki / f"kubelet-serving{suffixes[1]}"),
        "client_ca": str(pki / "ca.crt"),
    }
    if profile.joined:
        kubelet |= {"rotate_certificates": True, "server_tls_bootstrap": True}
        # By it its name server becomes one of the Service's (controllers/joined_name_servers.py).
        kubelet["labels"] = {"navarch.dev/joined": "true"}
    return kubelet | _kubelet_config(policies.kubelet_config(paths), directory, kubelet)


def node_components(profile: Profile, paths: Paths, node: str) -> dict[str, Options]:
    """Everything that shares a node's process: what traffic needs goes first, so that it is in
    force again soon after a kill, and no balancer address moves. The kubelet has most to read."""
    directory = paths.node(node)
    addresses = profile.node_addresses(node)
    kubelet = _kubelet(profile, paths, node)
    user = str(directory / "proxy.conf")
    proxy = {
        "kubeconfig": user,
        "node_name": node,
        "node_ips": list(addresses),
        "service_cidrs": list(profile.service_cidrs),
        "pod_cidrs": list(profile.pod_cidrs),
        "refuses_unassigned": True,
        "local_pod_cidrs": not profile.cni,
    }
    dns = {
        "kubeconfig": user,
        "addresses": list(addresses),
        "domain": profile.cluster_domain,
        "clients": [*profile.subnets, *profile.pod_cidrs, *profile.service_cidrs],
        "node_name": node,
    }
    network = {
        "kubeconfig": user,
        "node_kubeconfig": str(directory / "kubelet.conf"),
        "node_name": node,
        "node_ips": list(addresses),
        "interface": "" if profile.joined else "eth0",
        "cluster_cidrs": list(profile.pod_cidrs),
        "mode": profile.pod_network,
        "write_config": not profile.cni,
        "bandwidth": containerd.has_plugin("bandwidth"),
        "prepare": True,
        "cni_directory": str(directory / "cni"),
        "sandboxes": str(containerd.sandboxes(directory)),
    }
    policy = {
        "kubeconfig": user,
        "node_name": node,
        "dns_addresses": list(addresses),
        "directory": POLICY_DIRECTORY,
        "enforce": profile.enforces_policies,
    }
    own: dict[str, Options] = {"proxy": proxy, "dns": dns, "policy": policy, "podnetwork": network}
    if profile.enforces_policies:
        kubelet["policy_socket"] = f"{POLICY_DIRECTORY}/{SOCKET_NAME}"
    if profile.joined:
        own["certificates"] = {
            "kubeconfig": str(directory / "kubelet.conf"),
            "proxy_kubeconfig": user,
        }
    return own | addons.node_components(profile, paths, node) | {"kubelet": kubelet}


EVICTION_HARD = {
    "memory.available": "100Mi",
    "nodefs.available": "1Gi",
    "nodefs.inodesFree": "1%",
    "imagefs.available": "1Gi",
    "imagefs.inodesFree": "1%",
}
"""Nodes share the user's disk, and one that is nine tenths full is no emergency on a laptop:
upstream's shares of the disk (10 % and 15 %) would evict every pod there."""

FIELDS_OF_USERS = {
    "cluster_dns": "clusterDNS",
    "cluster_domain": "clusterDomain",
    "eviction_hard": "evictionHard",
    "image_gc_high_threshold_percent": "imageGCHighThresholdPercent",
    "max_pods": "maxPods",
}
"""What a user's KubeletConfiguration may say otherwise than the profile. Where the node is and what
it runs on remains the profile's."""


def _kubelet_config(file: Path, directory: Path, options: Options) -> Options:
    """Has the kubelets read the user's file, and takes out of the options what it sets. Each node
    has a copy: of the profile's directory it sees its own part only."""
    copy = directory / file.name
    if not file.is_file():
        copy.unlink(missing_ok=True)
        return {}
    from navarch.node.configuration.files import named_fields

    named = named_fields(file)
    for option, field in FIELDS_OF_USERS.items():
        if field in named:
            options.pop(option, None)
    directory.mkdir(parents=True, exist_ok=True)
    write_file(copy, file.read_bytes())
    return {"config": str(copy)}


def describe(profile: Profile, paths: Paths) -> Description:
    """Write the option files and say what shall run."""
    specs = [_guardian(paths)] if profile.joined else _control_plane(profile, paths)
    if profile.simulated:
        options = {
            "kubeconfig": str(paths.kubeconfig("simulated")),
            "config": str(simulation.file_of(paths)),
            "owner": profile.name,
        }
        specs.append(_daemon("simulated", {"simulated": options}, paths, NODE_LEVEL))
    for node in profile.running_nodes():
        specs.append(_containerd(profile, paths, node))
        components = node_components(profile, paths, node)
        spec = _daemon(f"node-{node}", components, paths, NODE_LEVEL, node)
        specs.append(replace(spec, grace=spec.grace + _shutdown_seconds(profile, paths)))
    renew = [sys.executable, "-P", "-m", "navarch.cluster.renew", profile.name]
    if profile.joined:
        renew = []
    return Description(str(paths.run), str(paths.pins), specs, renew)


def _guarded(paths: Paths) -> dict[str, str]:
    """What a guardian watches, and where the supervisor that it starts writes."""
    return {
        "description": str(paths.run / "supervisor.json"),
        "log": str(paths.logs / "supervisor.log"),
    }


def _guardian(paths: Paths) -> Spec:
    """The supervisor's watch where no control plane is."""
    return Spec(
        name="guardian",
        argv=[sys.executable, "-P", "-S", "-m", guardian.__name__, *_guarded(paths).values()],
        env={"PYTHONPATH": guardian.SOURCE},
        log=str(paths.logs / "guardian.log"),
        level=NODE_LEVEL,
        grace=2.0,
        digest=digest([]),
    )


def _control_plane(profile: Profile, paths: Paths) -> list[Spec]:
    watch = _guarded(paths)
    return [
        _daemon(
            "apiserver",
            {"apiserver": apiserver_options(profile, paths), "guardian": watch},
            paths,
            API_LEVEL,
        ),
        _daemon(
            "controllers",
            {
                "controllers": controllers_options(profile, paths)
                | serving_options(profile, paths, CONTROLLERS_PORT),
                "scheduler": scheduler_options(paths)
                | serving_options(profile, paths, SCHEDULER_PORT),
                "guardian": watch,
                **_host_routes(profile, paths),
            },
            paths,
            CONTROL_LEVEL,
        ),
    ]


def _host_routes(profile: Profile, paths: Paths) -> dict[str, Options]:
    running = profile.running_nodes()
    if not running:
        return {}
    options = {
        "kubeconfig": str(paths.kubeconfig("controllers")),
        "bridge": profile.bridge,
        "service_cidrs": list(profile.service_cidrs),
        "pod_cidrs": list(profile.pod_cidrs),
        "nodes": {name: list(profile.node_addresses(name)) for name in running},
    }
    return {"hostroutes": options}


def _shutdown_seconds(profile: Profile, paths: Paths) -> float:
    """How long a node's pods have to end when it stops, by the user's KubeletConfiguration."""
    file = policies.kubelet_config(paths)
    if not file.is_file():
        return 0.0
    from navarch.node.configuration.files import load

    configuration, _ = load(file, None)
    by_priority = configuration.shutdownGracePeriodByPodPriority or ()
    seconds = [each.shutdownGracePeriodSeconds for each in by_priority]
    return sum(seconds) or configuration.shutdownGracePeriod


def _daemon(
    name: str, components: Mapping[str, Options], paths: Paths, level: int, node: str = ""
) -> Spec:
    directory = paths.node(node) if node else paths.run
    file = directory / f"{name}.json"
    # Drivers and plug-ins for nodes are made for this path, wherever a cluster keeps its state.
    shown = {
        KUBELET_ROOT: str(directory / "kubelet"),
        namespaces.CNI_CONFIG: str(directory / "cni"),
        namespaces.CNI_PROGRAMS: str(directory / "cni-bin"),
    }
    write_json(file, {"components": components, "shown": shown if node else {}})
    return Spec(
        name=name,
        argv=[sys.executable, "-P", "-m", "navarch.cluster.daemon", str(file)],
        env={**DAEMON_ENVIRONMENT, "NAVARCH_HOME": str(home())},
        node=node,
        log=str(paths.logs / f"{name}.log"),
        level=level,
        digest=digest([file, *_credentials(components)]),
    )


FILES = (
    *(".crt", ".key", "-policy.yaml", "kubelet-config.yaml", "scheduler-config.yaml"),
    "simulated.json",
)


def _credentials(components: Mapping[str, Options]) -> list[Path]:
    """The files that options name and that take a new start when they are new: certificates, keys,
    policies, simulated nodes. Client certificates are named in kubeconfigs, which clients read
    again by themselves."""
    values = [value for options in components.values() for value in options.values()]
    return [Path(value) for value in values if isinstance(value, str) and value.endswith(FILES)]


def _containerd(profile: Profile, paths: Paths, node: str) -> Spec:
    config = containerd.prepare(paths.node(node), profile.pause_image)
    return Spec(
        name=f"containerd-{node}",
        argv=[containerd.program(), "--config", str(config)],
        env=containerd.ENVIRONMENT,
        node=node,
        log=str(paths.logs / f"containerd-{node}.log"),
        level=RUNTIME_LEVEL,
        grace=5.0,
        drains=profile.node_cgroup(node),
        digest=digest([config]),
    )


def digest(files: Iterable[Path]) -> str:
    """A fingerprint of what a process is started from."""
    state = hashlib.sha256(json.dumps([__version__, sys.version]).encode())
    for file in sorted(set(files)):
        if file.is_file():
            state.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return state.hexdigest()[:16]
