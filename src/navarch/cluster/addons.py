"""Addons: parts of a cluster that its user switches on and off (`navarch addons`, as minikube's).

An addon is a row of a table: what it is called and does, and what switching it on means. That may
be components in the nodes' processes, controllers of the controller manager, objects in the API,
or several of these. What the user chose is a file in the profile's directory, `addons.json`:

    {"enabled": {"ingress": true}, "settings": {"ingress": {...}}, "applied": ["ingress"]}

`composition` reads it for the processes, `readiness` for the objects; so `navarch start` brings a
cluster to what is chosen, and `navarch addons enable` does nothing but note it and start. Addons
that are new in a later version come up as they are by default, unless the user chose otherwise.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from navarch.cluster.api import Api
from navarch.cluster.gateway_addon import gateway_objects
from navarch.cluster.ingress_addon import end_nginx, ingress_objects, take_back
from navarch.cluster.profile import ClusterError, Paths, Profile, write_json

Options = dict[str, Any]
Placed = tuple[str, dict[str, Any]]
"""An object and the path of the collection that it belongs to."""
MANAGER = "navarch-addons"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user chose; and what is in the API because of it."""

    enabled: Mapping[str, bool] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    applied: frozenset[str] = frozenset()
    """Addons whose objects were written: when they are off, their objects have to go."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an addon's components are to run, and how it is set."""

    profile: Profile
    paths: Paths
    node: str
    settings: Mapping[str, Any]

    @property
    def kubeconfig(self) -> str:
        """The user system:kube-proxy, as which the network's components speak to the API."""
        return str(self.paths.node(self.node) / "proxy.conf")


@dataclass(frozen=True, slots=True)
class Question:
    """One setting, by the key that `--set KEY=VALUE` knows it by."""

    key: str
    text: str
    is_asked: bool = True
    """Otherwise it can only be given with --set."""


@dataclass(frozen=True, slots=True)
class Addon:
    """One row of the table. All but the first two say what switching it on means."""

    name: str
    description: str
    default: bool = False
    is_built_in: bool = False
    """Part of the cluster, and shown because minikube has an addon for it; it cannot go."""
    components: Callable[[Place], Mapping[str, Options]] = lambda place: {}
    """Components of a node's process, by their names in `components.COMPONENTS`."""
    controllers: tuple[str, ...] = ()
    """Controllers that run only when the addon is on, by their names in the manager's table."""
    objects: Callable[[Profile, Mapping[str, Any]], Iterable[Placed]] = lambda profile, settings: ()
    """Objects that are there, as described, while the addon is on."""
    once: bool = False
    """The objects are made when they are missing and then the user's to change."""
    questions: tuple[Question, ...] = ()
    """What `navarch addons configure` asks."""
    packages: str = ""
    """What of the Debian packages it needs, by `setup.Package.purpose`."""
    ended: Callable[[Api, Paths], None] = lambda api, paths: None
    """Ends what outlives the addon's components."""
    settle: Callable[[Profile, Mapping[str, str]], Mapping[str, Any]] = lambda _, answers: answers
    """Settings from the answers. Raises ValueError for what cannot be."""
    doubts: Callable[[Profile, Mapping[str, Any]], Iterable[str]] = lambda profile, settings: ()
    """What the user may not have thought of when he chose these settings."""


def load_balancer_ranges(profile: Profile) -> list[str]:
    """A part of the nodes' own subnets, which the host reaches on the bridge without a route: the
    upper fifth for IPv4, below which the 200 nodes that a profile may have end."""
    found = []
    for text in profile.subnets:
        network = ipaddress.ip_network(text)
        if network.version == 4:
            found.append(f"{network[-(network.num_addresses // 5)]}-{network[-2]}")
        else:
            found.append(f"{network[0x10000]}-{network[0x1FFFF]}")
    return found


def _announcer(place: Place) -> Mapping[str, Options]:
    options = {
        "kubeconfig": place.kubeconfig,
        "node_name": place.node,
        "node_ips": list(place.profile.node_addresses(place.node)),
    }
    return {"announce": options}


def _nginx(name: str, place: Place) -> Mapping[str, Options]:
    """An nginx and its controller on each node: any of them serves, and one writes statuses."""
    directory = place.paths.node(place.node)
    addresses = list(place.profile.node_addresses(place.node))
    options = {
        "kubeconfig": str(directory / f"{name}.conf"),
        "node_name": place.node,
        "addresses": addresses,
        "state_directory": str(directory / name),
        "cluster_dns": addresses,
    }
    if name == "ingress":
        options["domain"] = place.profile.cluster_domain
    return {name: options}


def _end_ingress(api: Api, paths: Paths) -> None:
    end_nginx(paths, "ingress")
    take_back(api)


def _pools(profile: Profile, settings: Mapping[str, Any]) -> Iterable[Placed]:
    """The ranges of addresses. None without real nodes, unless asked for: nobody would answer."""
    ranges = settings.get("ranges") or (load_balancer_ranges(profile) if profile.nodes else [])
    if not ranges:
        return
    name, namespace = "metallb", "kube-system"
    yield (
        f"/api/v1/namespaces/{namespace}/configmaps",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": {"config": _configuration(ranges)},
        },
    )


def _configuration(ranges: Iterable[str]) -> str:
    lines = ["address-pools:", "- name: default", "  protocol: layer2", "  addresses:"]
    return "".join(f"{line}\n" for line in [*lines, *(f"  - {each}" for each in ranges)])


def _ranges(profile: Profile, answers: Mapping[str, str]) -> Mapping[str, Any]:
    from navarch.controllers.load_balancer_plan import parse_pools

    ranges = [each.strip() for each in answers.get("ranges", "").split(",") if each.strip()]
    if not ranges and answers.get("start") and answers.get("end"):
        ranges = [f"{answers['start']}-{answers['end']}"]
    if not ranges:
        raise ValueError("the first and the last address are needed (start, end), or ranges")
    (pool,) = parse_pools(_configuration(ranges))
    for first, last in pool.ranges:
        _check_range(profile, first, last)
    nodes = [each for name in profile.node_names() for each in profile.node_addresses(name)]
    for address in (*profile.host_addresses, *nodes):
        if ipaddress.ip_address(address) in pool:
            raise ValueError(f"{address} is taken by the cluster itself")
    return {"ranges": ranges}


def _check_range(profile: Profile, first: Any, last: Any) -> None:
    """Raises ValueError for addresses that no Service of the cluster can have."""
    if f"ipv{first.version}" not in profile.families:
        raise ValueError(f"{first}: the cluster has addresses of {' and '.join(profile.families)}")
    for each in (first, last):
        if each.is_loopback or each.is_multicast or each.is_unspecified or each.is_link_local:
            raise ValueError(f"{each} is nobody's address on a link")
    for cidr in (*profile.service_cidrs, *profile.pod_cidrs):
        network = ipaddress.ip_network(cidr)
        if network.version == first.version and first <= network[-1] and network[0] <= last:
            raise ValueError(f"{first}-{last} meets {cidr}, which the cluster itself gives out")


def _missing_families(profile: Profile, settings: Mapping[str, Any]) -> Iterable[str]:
    there = {"ipv6" if ":" in each else "ipv4" for each in settings.get("ranges", ())}
    for family in profile.families:
        if family not in there:
            name = family.replace("ip", "IP")
            yield f"no range has {name}: Services that need a LoadBalancer address of it will wait"


def standard_class() -> dict[str, Any]:
    """The class for claims that name none, by the built-in provisioner. A volume is on one node,
    so it is made where the pod is that uses it first. Who wants another default unmarks it."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "standard",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "navarch.dev/local-path",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


ADDONS: Mapping[str, Addon] = {
    addon.name: addon
    for addon in (
        Addon(
            "default-storageclass",
            "the StorageClass standard, for claims that name none",
            default=True,
            objects=lambda profile, settings: [
                ("/apis/storage.k8s.io/v1/storageclasses", standard_class())
            ],
            once=True,
        ),
        Addon(
            "gateway-api",
            "Gateways of the class navarch and their HTTPRoutes, served by an nginx on every node",
            components=lambda place: _nginx("gateway", place),
            objects=lambda profile, settings: gateway_objects(),
            packages="ingress",
            ended=lambda api, paths: end_nginx(paths, "gateway"),
        ),
        Addon(
            "ingress",
            "Ingresses of the class nginx, served by an nginx on every node",
            components=lambda place: _nginx("ingress", place),
            objects=lambda profile, settings: ingress_objects(),
            packages="ingress",
            ended=_end_ingress,
        ),
        Addon(
            "metallb",
            "addresses for Services of type LoadBalancer, and answers for them on the link",
            default=True,
            components=_announcer,
            objects=_pools,
            once=True,
            questions=(
                Question("start", "Enter Load Balancer Start IP"),
                Question("end", "Enter Load Balancer End IP"),
                Question("ranges", "ranges A-B or CIDRs, with commas", is_asked=False),
            ),
            settle=_ranges,
            doubts=_missing_families,
        ),
        Addon("metrics-server", "figures for kubectl top and autoscalers", is_built_in=True),
        Addon(
            "storage-provisioner",
            "volumes for claims, as directories of a node",
            default=True,
            controllers=("local-path-provisioner", "local-path-reclaimer"),
        ),
    )
}


def find(name: str) -> Addon:
    """The addon of this name. Raises ClusterError when there is none."""
    if (addon := ADDONS.get(name)) is None:
        raise ClusterError(
            f"{name} is not an addon",
            f"There are: {', '.join(sorted(ADDONS))} (navarch addons list)",
        )
    return addon


def load(paths: Paths) -> Choices:
    file = paths.root / "addons.json"
    try:
        data = json.loads(file.read_bytes())
        return Choices(data["enabled"], data["settings"], frozenset(data["applied"]))
    except FileNotFoundError:
        return Choices()
    except (ValueError, TypeError, KeyError) as error:
        raise ClusterError(f"{file} cannot be read: {error}", "Mend it, or delete it") from error


def save(paths: Paths, choices: Choices) -> None:
    values = {
        "enabled": dict(choices.enabled),
        "settings": {name: dict(values) for name, values in choices.settings.items()},
        "applied": sorted(choices.applied),
    }
    write_json(paths.root / "addons.json", values)


def is_enabled(choices: Choices, name: str) -> bool:
    addon = ADDONS[name]
    return addon.is_built_in or choices.enabled.get(name, addon.default)


def switched(choices: Choices, names: Iterable[str], on: bool) -> Choices:
    """The choices with addons on or off. Raises ClusterError for what cannot be."""
    enabled, applied = dict(choices.enabled), choices.applied
    for name in names:
        if find(name).is_built_in and not on:
            raise ClusterError(f"{name} is part of every cluster and cannot be disabled")
        enabled[name] = on
        if not on:  # also what another version has left
            applied |= {name}
    return replace(choices, enabled=enabled, applied=applied)


def check_packages(name: str) -> None:
    """Raises ClusterError when the machine lacks what the addon needs."""
    from navarch.cluster.setup import missing_packages

    purpose = find(name).packages
    if purpose and (missing := missing_packages(purpose)):
        raise ClusterError(
            f"the addon {name} needs {', '.join(missing)}", f"Run: sudo navarch setup --{purpose}"
        )


def configured(
    choices: Choices, profile: Profile, name: str, answers: Mapping[str, str]
) -> Choices:
    """The choices with an addon set so. Raises ClusterError for answers that cannot be."""
    addon = find(name)
    known = [question.key for question in addon.questions]
    if unknown := [key for key in answers if key not in known]:
        text = f"It can be set: {', '.join(known)}" if known else "There is nothing to configure."
        raise ClusterError(f"{name} has no setting {', '.join(unknown)}", text)
    try:
        settings = addon.settle(profile, answers)
    except ValueError as error:
        raise ClusterError(f"{name}: {error}") from error
    return replace(
        choices, settings={**choices.settings, name: settings}, applied=choices.applied - {name}
    )


def node_components(profile: Profile, paths: Paths, node: str) -> dict[str, Options]:
    """What the addons that are on add to a node's process."""
    choices = load(paths)
    found: dict[str, Options] = {}
    for name, addon in ADDONS.items():
        if is_enabled(choices, name):
            found |= addon.components(Place(profile, paths, node, choices.settings.get(name, {})))
    return found


def unwanted_controllers(paths: Paths) -> list[str]:
    """Controllers of addons that are off."""
    choices = load(paths)
    off = (addon for name, addon in ADDONS.items() if not is_enabled(choices, name))
    return [controller for addon in off for controller in addon.controllers]


def put_objects(api: Api, profile: Profile, paths: Paths) -> None:
    """Bring the objects of all addons into the API, or out of it. Raises ApiUnavailableError."""
    choices = load(paths)
    applied = set(choices.applied)
    for name, addon in ADDONS.items():
        placed = [*addon.objects(profile, choices.settings.get(name, {}))]
        if not placed:
            continue
        if is_enabled(choices, name):
            for collection, value in placed:
                if addon.once and (name in applied or name not in choices.settings):
                    api.create_missing(collection, value)
                elif addon.once:
                    api.put_in_place(collection, value)
                else:
                    _apply(api, collection, value)
            applied.add(name)
            _note(paths, applied)
        elif name in applied:
            addon.ended(api, paths)
            for collection, value in reversed(placed):
                api.remove(f"{collection}/{value['metadata']['name']}")
            applied.discard(name)
            _note(paths, applied)


def _note(paths: Paths, applied: Iterable[str]) -> None:
    choices = load(paths)
    if choices.applied != frozenset(applied):
        save(paths, replace(choices, applied=frozenset(applied)))


def _apply(api: Api, collection: str, value: dict[str, Any]) -> None:
    """Server-side apply: what the user added to an object stays."""
    path = f"{collection}/{value['metadata']['name']}?fieldManager={MANAGER}&force=true"
    api.send("PATCH", path, value, APPLY)
