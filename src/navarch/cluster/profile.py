"""A profile: one cluster on this machine, its settings and where it keeps its state.

Several profiles live side by side. Each gets a *slot*, and everything that two clusters could
quarrel about is derived from it: the bridge and its subnet, the Service range, the pod range, and
the API port, unless somebody else has that one. All of it is written down once, when the profile
is made, so that a cluster keeps its addresses for life.

Layout of a profile's directory (`/var/lib/navarch/<profile>` for root, the XDG state directory
otherwise, `NAVARCH_HOME` overrides):

    profile.json     this file's `Profile`
    pki/             the certificate authority and the control plane's certificates, mode 0700
    kubeconfigs/     one per component, and admin.conf
    store/           the API server's database
    logs/            one file per process
    run/             pid files, pinned namespaces, what must not outlive a reboot
    nodes/<node>/    one machine's disk: containerd, kubelet, cni, its own credentials
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

DEFAULT_PROFILE = "navarch"
FIRST_API_PORT = 8443
SLOTS = 100
CNI_CONFIGURATIONS = (".conflist", ".conf", ".json")
"""How files end that a container runtime takes for the pods' network."""
SYSTEM_HOME = Path("/var/lib/navarch")

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


NOT_FOUND = 85
"""minikube's exit code for a profile or a node that does not exist."""


class ClusterError(Exception):
    """Something the user can mend. `advice` says how, `code` is what the command ends with."""

    def __init__(self, message: str, advice: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.advice = advice
        self.code = code


@dataclass(frozen=True, slots=True)
class Profile:
    """What was decided when the cluster was made. Immutable but for its nodes and where the API
    server listens."""

    name: str
    slot: int = 0
    nodes: int = 1
    removed: tuple[int, ...] = ()
    """Numbers of nodes that were deleted from among the others; they are not given again."""
    stopped: tuple[str, ...] = ()
    """Nodes that are switched off."""
    simulated: int = 0
    api_port: int = FIRST_API_PORT
    bridge: str = "navarch0"
    subnet: str = "192.168.49.0/24"
    service_cidr: str = "10.96.0.0/16"
    pod_cidr: str = "10.244.0.0/16"
    cluster_domain: str = "cluster.local"
    pause_image: str = "navarch.local/pause:1"
    max_pods: int = 110
    families: tuple[str, ...] = ("ipv4",)
    """The families of the addresses of nodes, pods and Services, the more important one first."""
    subnet6: str = "fd4e:6176:0:1::/64"
    service_cidr6: str = "fd4e:6176:0:2::/112"
    pod_cidr6: str = "fd4e:6176:0:100::/56"
    listen_addresses: tuple[str, ...] = ()
    """Where the API server listens beside loopback and the bridge, for other machines."""
    server_names: tuple[str, ...] = ()
    """Further names and addresses its certificate is made out to."""
    pod_network: str = "auto"
    """How packets get from node to node: wrapped where there is a router in between (auto), always
    (vxlan) or never (routes)."""
    metadata_blocked: bool = False
    """Whether pods are kept from the metadata service of the cloud that the machine is in."""
    admission_plugins: tuple[str, ...] = ()
    """Admission plug-ins beside those that are on by default."""
    cni: str = ""
    """Who makes pods' networks: empty for this project, `false` for whatever the user installs, or
    the name of the file of theirs."""
    network_policy: str = "auto"
    """Whether NetworkPolicies are enforced here: always (on), never (off), or unless the user's
    network comes with components of its own, which do it (auto)."""
    signing_duration: str = ""
    """The longest life of the certificates that the controllers sign, as Go writes durations."""
    joined: str = ""
    """HOST:PORT of the API server, where this machine has joined a cluster that runs elsewhere."""
    joined_node: str = ""
    joined_addresses: tuple[str, ...] = ()

    @property
    def enforces_policies(self) -> bool:
        if self.network_policy != "auto":
            return self.network_policy == "on"
        return self.cni.endswith(CNI_CONFIGURATIONS) or not self.cni

    def _by_family(self, four: str, six: str) -> tuple[str, ...]:
        return tuple(four if family == "ipv4" else six for family in self.families)

    @property
    def subnets(self) -> tuple[str, ...]:
        return self._by_family(self.subnet, self.subnet6)

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        return self._by_family(self.service_cidr, self.service_cidr6)

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        return self._by_family(self.pod_cidr, self.pod_cidr6)

    @property
    def host_addresses(self) -> tuple[str, ...]:
        """The bridge's own addresses: how nodes and pods reach the API server."""
        return tuple(_nth(subnet, 1) for subnet in self.subnets)

    @property
    def host_address(self) -> str:
        return self.host_addresses[0]

    @property
    def control_address(self) -> str:
        """Where controllers and scheduler tell of themselves. With real nodes pods reach it, as
        those that gather figures must; without, it is as much this cluster's own as the API port
        that it is made of."""
        if self.nodes:
            return self.host_address
        return f"127.{self.api_port >> 8}.{self.api_port & 255}.1"

    @property
    def dns_addresses(self) -> tuple[str, ...]:
        return tuple(_nth(cidr, 10) for cidr in self.service_cidrs)

    @property
    def dns_address(self) -> str:
        return self.dns_addresses[0]

    @property
    def kubernetes_service_addresses(self) -> tuple[str, ...]:
        return tuple(_nth(cidr, 1) for cidr in self.service_cidrs)

    @property
    def server(self) -> str:
        """The API server as this machine's user reaches it."""
        if self.joined:
            return f"https://{self.joined}"
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def node_server(self) -> str:
        """The API server as nodes reach it."""
        if self.joined:
            return f"https://{self.joined}"
        host = f"[{self.host_address}]" if ":" in self.host_address else self.host_address
        return f"https://{host}:{self.api_port}"

    def node_numbers(self) -> tuple[int, ...]:
        """Which nodes there are. Each keeps its number for life, and so its name and addresses."""
        there = (number for number in itertools.count(1) if number not in self.removed)
        return tuple(itertools.islice(there, self.nodes))

    def node_name(self, number: int) -> str:
        """The first bears the profile's name, the others add -m02, -m03 (minikube)."""
        return self.name if number == 1 else f"{self.name}-m{number:02d}"

    def node_names(self) -> tuple[str, ...]:
        """Real nodes of this machine, also those that are switched off."""
        if self.joined:
            return (self.joined_node,)
        return tuple(self.node_name(number) for number in self.node_numbers())

    def running_nodes(self) -> tuple[str, ...]:
        return tuple(name for name in self.node_names() if name not in self.stopped)

    def node_number(self, node: str) -> int:
        return self.node_numbers()[self.node_names().index(node)]

    def node_addresses(self, node: str) -> tuple[str, ...]:
        if self.joined:
            return self.joined_addresses
        number = self.node_number(node)
        return tuple(_nth(subnet, 1 + number) for subnet in self.subnets)

    def node_address(self, node: str) -> str:
        return self.node_addresses(node)[0]

    @property
    def cgroup(self) -> str:
        """Parent of every container's control group, so that deletion finds them all. Clusters of
        the same name in another home directory are not this one."""
        if home() == SYSTEM_HOME:
            return f"/navarch-{self.name}"
        return f"/navarch-{self.name}-{hashlib.sha256(bytes(home())).hexdigest()[:6]}"

    def node_cgroup(self, node: str) -> str:
        return f"{self.cgroup}/{node}"


def _nth(network: str, number: int) -> str:
    return str(ipaddress.ip_network(network)[number])


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a profile keeps what."""

    root: Path

    @property
    def profile(self) -> Path:
        return self.root / "profile.json"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def kubeconfigs(self) -> Path:
        return self.root / "kubeconfigs"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def pins(self) -> Path:
        """Bind mounts of the nodes' namespaces."""
        return self.run / "ns"

    @property
    def nodes(self) -> Path:
        return self.root / "nodes"

    def node(self, name: str) -> Path:
        return self.nodes / name

    def kubeconfig(self, user: str) -> Path:
        return self.kubeconfigs / f"{user}.conf"

    def create(self) -> None:
        """Make the directories. Secrets live below, so nobody else may enter."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for directory in (self.pki, self.kubeconfigs, self.store, self.logs, self.run, self.nodes):
            directory.mkdir(mode=0o700, exist_ok=True)


def home() -> Path:
    """The directory of all profiles of this user."""
    if override := os.environ.get("NAVARCH_HOME"):
        return Path(override).absolute()
    if os.geteuid() == 0:
        return SYSTEM_HOME
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "navarch"


def paths_of(name: str) -> Paths:
    return Paths(home() / name)


def check_name(name: str) -> str:
    """A profile's name becomes a node's name and part of socket paths: a short DNS label."""
    if not _NAME.fullmatch(name):
        raise ClusterError(
            f"{name!r} is not a profile name",
            "Use at most 40 lower-case letters, digits and '-', beginning and ending with a "
            "letter or digit.",
        )
    return name


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    """Replace `path` as a whole: a crash leaves the old file or the new one, never half of one."""
    write_file(path, json.dumps(value, indent=2).encode() + b"\n", mode)


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def update_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Bring a file to this content; one that has it is left alone."""
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, content, mode)


def load(name: str) -> Profile | None:
    """The profile as it was saved, None when there is no such cluster."""
    import msgspec

    path = paths_of(check_name(name)).profile
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise belongs_to_another(path) from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ClusterError(
            f"{path} cannot be read: {error}", f"Mend it, or run: navarch delete -p {name}"
        ) from error


def belongs_to_another(path: Path) -> ClusterError:
    return ClusterError(
        f"{path} belongs to another user", "Run the command as that user, or with sudo."
    )


def save(profile: Profile) -> None:
    paths = paths_of(profile.name)
    paths.create()
    write_json(paths.profile, asdict(profile))


def all_profiles() -> list[Profile]:
    try:
        names = sorted(entry.parent.name for entry in home().glob("*/profile.json"))
    except PermissionError:
        return []
    found = (load(name) for name in names if _NAME.fullmatch(name))
    return [profile for profile in found if profile is not None]


def current_name() -> str:
    """The profile commands mean when none is named."""
    if name := os.environ.get("NAVARCH_PROFILE"):
        return name
    try:
        name = json.loads((home() / "config.json").read_bytes())["profile"]
    except (FileNotFoundError, PermissionError, ValueError, KeyError, TypeError):
        return DEFAULT_PROFILE
    return name if isinstance(name, str) and _NAME.fullmatch(name) else DEFAULT_PROFILE


def set_current(name: str) -> None:
    home().mkdir(parents=True, exist_ok=True)
    write_json(home() / "config.json", {"profile": check_name(name)}, 0o644)


def forget(name: str) -> None:
    """Remove a profile's directory, and the home directory with the last one."""
    if paths_of(name).root.exists():
        shutil.rmtree(paths_of(name).root)
    config = home() / "config.json"
    if current_name() == name or not all_profiles():
        config.unlink(missing_ok=True)
    if home().is_dir() and not any(home().iterdir()):
        home().rmdir()


@dataclass(frozen=True, slots=True)
class HostUse:
    """What is taken on this machine already, seen from outside the profiles."""

    networks: tuple[str, ...] = ()
    """Destinations of the host's routes."""
    links: tuple[str, ...] = ()


def slot_ranges(slot: int) -> dict[str, Any]:
    """The names and ranges that belong to a slot."""
    return {
        "slot": slot,
        "api_port": FIRST_API_PORT + slot,
        "bridge": f"navarch{slot}",
        "subnet": f"192.168.{49 + slot}.0/24",
        "service_cidr": f"10.{96 + slot}.0.0/16" if slot < 48 else f"10.{slot - 48}.0.0/16",
        "pod_cidr": f"10.{244 - slot}.0.0/16",
        # Unique local addresses (RFC 4193) that only this machine's clusters see.
        "subnet6": f"fd4e:6176:{slot:x}:1::/64",
        "service_cidr6": f"fd4e:6176:{slot:x}:2::/112",
        "pod_cidr6": f"fd4e:6176:{slot:x}:100::/56",
    }


def allocate(name: str, taken: Collection[Profile], use: HostUse) -> Profile:
    """A new profile in the first slot whose ranges touch neither another profile nor the host."""
    busy = [ipaddress.ip_network(network) for network in use.networks]
    for other in taken:
        busy += [
            ipaddress.ip_network(network)
            for network in (*other.subnets, *other.service_cidrs, *other.pod_cidrs)
        ]
    bridges = {other.bridge for other in taken} | set(use.links)
    for slot in range(SLOTS):
        values = slot_ranges(slot)
        wanted = [
            ipaddress.ip_network(values[key]) for key in ("subnet", "service_cidr", "pod_cidr")
        ]
        if values["bridge"] not in bridges and not _overlap(wanted, busy):
            return Profile(name=name, **values)
    raise ClusterError(
        "no address range is left for another cluster",
        "Delete a profile: navarch profile list; navarch delete -p NAME",
    )


def _overlap(wanted: Iterable[Any], busy: Collection[Any]) -> bool:
    return any(
        one.version == other.version and one.overlaps(other) for one in wanted for other in busy
    )


def with_free_port(wanted: Profile, others: Collection[Profile]) -> Profile:
    """The profile with a port that is neither another profile's nor in use on loopback: its own
    if possible, else the next one."""
    reserved = {profile.api_port for profile in others}
    for port in range(wanted.api_port, wanted.api_port + 1000):
        if port not in reserved and is_free(port):
            return replace(wanted, api_port=port)
    raise ClusterError(f"no free TCP port from {wanted.api_port} on at 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def host_use() -> HostUse:
    """Read the host's routes and links from the kernel's own tables (cheap: no netlink needed)."""
    networks = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        _, destination, _, _, _, _, _, mask, *_ = line.split()
        network = int.from_bytes(bytes.fromhex(destination), "little")
        length = int(mask, 16).bit_count()
        if length:
            networks.append(f"{ipaddress.ip_address(network)}/{length}")
    return HostUse(tuple(networks), tuple(name for _, name in socket.if_nameindex()))


def resized(profile: Profile, nodes: int | None, simulated: int | None) -> Profile:
    """The profile with other numbers of nodes, where given."""
    changed = replace(
        profile,
        nodes=profile.nodes if nodes is None else nodes,
        simulated=profile.simulated if simulated is None else simulated,
    )
    if not 0 <= changed.nodes <= 200:
        raise ClusterError("--nodes is a number from 0 to 200")
    if not 0 <= changed.simulated <= 20_000:
        raise ClusterError("--simulated is a number from 0 to 20000")
    numbers = changed.node_numbers()
    return replace(
        changed,
        removed=tuple(each for each in changed.removed if numbers and each < numbers[-1]),
        stopped=tuple(each for each in changed.stopped if each in changed.node_names()),
    )


def without(profile: Profile, gone: Collection[str]) -> Profile:
    """The profile without these real nodes. The others keep their numbers."""
    numbers = {profile.node_number(name) for name in gone}
    changed = replace(
        profile, nodes=profile.nodes - len(numbers), removed=(*profile.removed, *sorted(numbers))
    )
    return resized(changed, None, None)


def switched(profile: Profile, names: Collection[str], *, on: bool) -> Profile:
    """The profile with nodes that run or do not run."""
    others = tuple(each for each in profile.stopped if each not in names)
    return replace(profile, stopped=others if on else (*others, *sorted(names)))


FAMILIES = {"ipv4": ("ipv4",), "ipv6": ("ipv6",), "dual": ("ipv4", "ipv6")}
"""What `--ip-family` takes."""


def with_families(profile: Profile, family: str, services: str, pods: str) -> Profile:
    """A new profile with addresses of these families, and the user's ranges where given: one, or
    one of each family with a comma between, of which the first says what comes first."""
    if family and family not in FAMILIES:
        raise ClusterError(f"--ip-family is one of {', '.join(FAMILIES)}, not {family!r}")
    chosen = FAMILIES.get(family, ())
    values: dict[str, Any] = {}
    for flag, key, text in (
        ("--service-cluster-ip-range", "service_cidr", services),
        ("--pod-cidr", "pod_cidr", pods),
    ):
        if not text:
            continue
        found = [_range(flag, part) for part in text.split(",")]
        given = tuple(f"ipv{each.version}" for each in found)
        if len(set(given)) != len(given):
            raise ClusterError(f"{flag}: at most one range of each family")
        if chosen and set(chosen) != set(given):
            raise ClusterError(
                f"{flag} has ranges of {' and '.join(given)}, but the cluster is to have "
                f"{' and '.join(chosen)}"
            )
        chosen = given if set(given) != set(chosen) or not family else chosen
        values |= {key if each.version == 4 else f"{key}6": str(each) for each in found}
    changed = replace(profile, families=chosen or profile.families, **values)
    _check_ranges(changed)
    return changed


def _range(flag: str, text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ClusterError(f"{flag}: {error}", "Write a range such as 10.96.0.0/16.") from None


def _check_ranges(profile: Profile) -> None:
    """Raises ClusterError for ranges that are too large, too small or overlap each other."""
    for cidr in profile.service_cidrs:
        network = ipaddress.ip_network(cidr)
        if not 4 <= network.max_prefixlen - network.prefixlen <= 20:
            raise ClusterError(f"{cidr}: a range of Services has from 16 to 2^20 addresses")
    for cidr in profile.pod_cidrs:
        network = ipaddress.ip_network(cidr)
        if not 4 <= network.prefixlen <= (24 if network.version == 4 else 64):
            raise ClusterError(f"{cidr}: a range for pods has room for a /24 (IPv6: /64) per node")
    all_ranges = [
        ipaddress.ip_network(each)
        for each in (*profile.subnets, *profile.service_cidrs, *profile.pod_cidrs)
    ]
    for number, one in enumerate(all_ranges):
        if _overlap([one], all_ranges[number + 1 :]):
            raise ClusterError(f"{one} overlaps another range of the cluster")
