"""Pods, namespaces and policies in; the parts of the table that have changed out. No I/O.

Only what this node needs is planned: the policies that select one of its own pods, and the sets of
peers (from the whole cluster) that those policies name. A change is followed to what it touches: a
pod's labels to its identity, an identity to its pods' elements, a policy to its chain and its sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from navarch.network.policy.model import (
    Allow,
    Identity,
    Key,
    NamedPort,
    Peers,
    PodFacts,
    Policy,
    family_of,
)
from navarch.network.policy.rules import (
    EGRESS,
    INGRESS,
    ISOLATED,
    MAPS,
    SELF,
    Element,
    Fragment,
    Service,
    combination_chain,
    combination_fragment,
    for_family,
    named_fragment,
    named_set,
    peers_fragment,
    peers_set,
    policy_fragment,
)

PartKey = tuple[str, ...]
"""What a fragment belongs to: ("pod", namespace, name), ("policy", …), ("peers", set) and so on."""
Combination = frozenset[Key]
T = TypeVar("T")


@dataclass(slots=True)
class _Known:
    """What is worked out for an identity."""

    labels: Mapping[str, str]
    pods: set[Key] = field(default_factory=set)
    ingress: Combination = frozenset()
    egress: Combination = frozenset()
    member_of: frozenset[str] = frozenset()
    """The sets of peers it belongs to."""

    @property
    def policies(self) -> Combination:
        return self.ingress | self.egress


class Planner:
    """The whole state. `flush` gives the fragments that changed since it was called last."""

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self._services = tuple(services)
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._policies: dict[str, dict[str, Policy]] = {}
        self._pods: dict[Key, PodFacts] = {}
        self._identities: dict[Identity, _Known] = {}
        self._in_namespace: dict[str, set[Identity]] = {}
        self._claims: dict[str, set[Key]] = {}
        """Which pods say that they have an address."""
        self._active: dict[Key, Policy] = {}
        """The policies that select a pod of this node, as they are in the table."""
        self._uses: Counter[Key] = Counter()
        self._peers: dict[str, tuple[Peers, ...]] = {}
        self._peers_uses: Counter[str] = Counter()
        self._named_uses: Counter[NamedPort] = Counter()
        self._combinations: Counter[tuple[str, Combination]] = Counter()
        self._counted: dict[Key, tuple[Combination, Combination]] = {}
        """Ingress and egress of each local pod, as they are counted."""
        self._dirty_pods: set[Key] = set()
        self._dirty_policies: set[Key] = set()
        self._dirty_parts: set[PartKey] = set()

    def put_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """A namespace and its labels; None: it is gone."""
        if self._namespaces.get(name) == labels:
            return
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = dict(labels)
        for who in self._in_namespace.get(name, ()):
            self._find_sets(who)
        if any(service.namespace == name for service in self._services):
            self._dirty_policies.update(self._active)

    def put_policy(self, policy: Policy) -> None:
        namespace, name = policy.key
        self._policies.setdefault(namespace, {})[name] = policy
        self._policy_changed(policy.key)

    def remove_policy(self, key: Key) -> None:
        namespace, name = key
        self._policies.get(namespace, {}).pop(name, None)
        if not self._policies.get(namespace):
            self._policies.pop(namespace, None)
        self._policy_changed(key)

    def _policy_changed(self, key: Key) -> None:
        self._dirty_policies.add(key)
        for who in self._in_namespace.get(key[0], ()):
            self._find_policies(who)

    @property
    def has_policies(self) -> bool:
        return bool(self._policies)

    def pod(self, key: Key) -> PodFacts | None:
        return self._pods.get(key)

    def put_pod(self, facts: PodFacts) -> None:
        old = self._pods.get(facts.key)
        if old == facts:
            return
        if old is not None:
            self._forget(old, keep=facts.who == old.who)
        self._pods[facts.key] = facts
        self._dirty_pods.add(facts.key)
        for address in facts.addresses:
            others = self._claims.setdefault(address, set())
            self._dirty_pods |= others
            others.add(facts.key)
        known = self._identities.get(facts.who)
        if known is None:
            known = self._identities[facts.who] = _Known(dict(facts.who.labels))
            self._in_namespace.setdefault(facts.who.namespace, set()).add(facts.who)
            self._find_policies(facts.who)
            self._find_sets(facts.who)
        known.pods.add(facts.key)

    def remove_pod(self, key: Key) -> None:
        old = self._pods.pop(key, None)
        if old is not None:
            self._forget(old, keep=False)
            self._dirty_pods.add(key)

    def _forget(self, facts: PodFacts, *, keep: bool) -> None:
        for address in facts.addresses:
            others = self._claims[address]
            others.discard(facts.key)
            self._dirty_pods |= others
            if not others:
                del self._claims[address]
        if keep:
            return
        pods = self._identities[facts.who].pods
        pods.discard(facts.key)
        if not pods:
            del self._identities[facts.who]
            inside = self._in_namespace[facts.who.namespace]
            inside.discard(facts.who)
            if not inside:
                del self._in_namespace[facts.who.namespace]

    def _find_policies(self, who: Identity) -> None:
        known = self._identities[who]
        selecting = [
            policy
            for policy in self._policies.get(who.namespace, {}).values()
            if policy.selects.matches(known.labels)
        ]
        ingress = frozenset(each.key for each in selecting if each.ingress is not None)
        egress = frozenset(each.key for each in selecting if each.egress is not None)
        if (ingress, egress) != (known.ingress, known.egress):
            known.ingress, known.egress = ingress, egress
            self._dirty_pods |= known.pods

    def _find_sets(self, who: Identity) -> None:
        self._join(who, frozenset(self._sets_of(who, self._peers)))

    def _sets_of(self, who: Identity, names: Iterable[str]) -> Iterator[str]:
        """Which of these sets an identity belongs to."""
        labels = self._identities[who].labels
        namespace = self._namespaces.get(who.namespace)
        for name in names:
            if any(each.matches(who.namespace, namespace, labels) for each in self._peers[name]):
                yield name

    def _join(self, who: Identity, member_of: frozenset[str]) -> None:
        known = self._identities[who]
        if member_of != known.member_of:
            known.member_of = member_of
            self._dirty_pods |= known.pods

    def flush(self) -> dict[PartKey, Fragment | None]:
        """What changed, None for what is gone."""
        for key in list(self._dirty_pods):
            self._count(key)
        self._follow_policies()
        changes: dict[PartKey, Fragment | None] = {}
        for part in self._dirty_parts:
            changes[part] = self._shared_part(part)
        for key in self._dirty_policies:
            policy = self._active.get(key)
            fragment = policy_fragment(policy, self._services_of(policy)) if policy else None
            changes["policy", *key] = fragment
        for key in self._dirty_pods:
            changes["pod", *key] = self._pod_fragment(key)
        self._dirty_parts, self._dirty_policies, self._dirty_pods = set(), set(), set()
        return changes

    def everything(self) -> dict[PartKey, Fragment | None]:
        """All fragments anew, for a table that is made from nothing."""
        self._dirty_pods.update(self._pods)
        self._dirty_policies.update(self._active)
        self._dirty_parts |= {("peers", name) for name in self._peers}
        self._dirty_parts |= {("named", *port) for port in self._named_uses}
        self._dirty_parts |= {_part(*each) for each in self._combinations}
        return {key: each for key, each in self.flush().items() if each is not None}

    def _count(self, key: Key) -> None:
        """Note which combinations of policies a pod of this node uses."""
        facts = self._pods.get(key)
        new: tuple[Combination, Combination] = (frozenset(), frozenset())
        if facts is not None and facts.is_local:
            known = self._identities[facts.who]
            new = (known.ingress, known.egress)
        old = self._counted.pop(key, (frozenset(), frozenset()))
        if any(new):
            self._counted[key] = new
        if old == new:
            return
        for direction, before, after in zip((INGRESS, EGRESS), old, new, strict=True):
            for combination, step in ((after, 1), (before, -1)):
                if not combination:
                    continue
                self._step(self._combinations, (direction, combination), step)
                self._dirty_parts.add(_part(direction, combination))
        for policies, step in ((new[0] | new[1], 1), (old[0] | old[1], -1)):
            for policy in policies:
                self._step(self._uses, policy, step)
                self._dirty_policies.add(policy)

    @staticmethod
    def _step(counter: Counter[T], key: T, step: int) -> None:
        counter[key] += step
        if not counter[key]:
            del counter[key]

    def _follow_policies(self) -> None:
        """Bring what is active up to date, and with it the sets that are filled."""
        fresh: set[str] = set()
        gone: set[str] = set()
        for key in self._dirty_policies:
            old = self._active.pop(key, None)
            new = self._policies.get(key[0], {}).get(key[1]) if self._uses[key] else None
            if new is not None:
                self._active[key] = new
            for name, peers in _peers_of(new):
                if name not in self._peers:
                    self._peers[name] = peers
                    fresh.add(name)
                self._peers_uses[name] += 1
            for name, _ in _peers_of(old):
                self._step(self._peers_uses, name, -1)
            self._change_named(_named_of(new), _named_of(old))
        for name in [name for name in self._peers if not self._peers_uses[name]]:
            del self._peers[name]
            gone.add(name)
        self._dirty_parts |= {("peers", name) for name in fresh ^ gone}
        if fresh ^ gone:
            for who, known in self._identities.items():
                self._join(who, known.member_of - gone | set(self._sets_of(who, fresh - gone)))

    def _change_named(self, new: set[NamedPort], old: set[NamedPort]) -> None:
        changed = {port for port in new if not self._named_uses[port]}
        for port in new:
            self._named_uses[port] += 1
        for port in old:
            self._step(self._named_uses, port, -1)
            if not self._named_uses[port]:
                changed.add(port)
        if changed:
            self._dirty_parts |= {("named", *port) for port in changed}
            self._dirty_pods |= {key for key, facts in self._pods.items() if facts.ports}

    def _services_of(self, policy: Policy) -> Mapping[Peers, list[Service]]:
        result: dict[Peers, list[Service]] = {}
        for allow in policy.egress or ():
            for peers in allow.peers:
                result[peers] = [
                    service
                    for service in self._services
                    if peers.matches(
                        service.namespace,
                        self._namespaces.get(service.namespace),
                        service.peer,
                    )
                ]
        return result

    def _shared_part(self, part: PartKey) -> Fragment | None:
        match part:
            case ("peers", name):
                return peers_fragment(name) if name in self._peers else None
            case ("named", protocol, name):
                port = (protocol, name)
                return named_fragment(port) if self._named_uses[port] else None
            case (direction, _, *names):
                keys = frozenset(zip(names[::2], names[1::2], strict=True))
                if not self._combinations[direction, keys]:
                    return None
                return combination_fragment(direction, keys)
        raise AssertionError(part)

    def _holds(self, address: str, key: Key) -> bool:
        """Whether the address is this pod's. An address may be given to a new pod before the end of
        the old one has come round."""
        return key == max(self._claims[address], key=lambda each: (self._pods[each].since, each))

    def _pod_fragment(self, key: Key) -> Fragment | None:
        facts = self._pods.get(key)
        if facts is None:
            return None
        known = self._identities[facts.who]
        elements: dict[Element, str] = {}
        for address in facts.addresses:
            if not self._holds(address, key):
                continue
            family = family_of(address)
            for name in known.member_of if facts.is_peer else ():
                elements[for_family(name, family), address] = ""
            for protocol, name, number in facts.ports:
                if self._named_uses[protocol, name]:
                    place = f"{address} . {protocol} . {number}"
                    elements[for_family(named_set((protocol, name)), family), place] = ""
            if not facts.is_local or not known.policies:
                continue
            elements[for_family(ISOLATED, family), address] = ""
            elements[for_family(SELF, family), f"{address} . {address}"] = ""
            for direction, policies in ((INGRESS, known.ingress), (EGRESS, known.egress)):
                if policies:
                    chain = combination_chain(direction, policies)
                    elements[for_family(MAPS[direction], family), address] = f"goto {chain}"
        return Fragment(elements=elements) if elements else None


def _part(direction: str, policies: Combination) -> PartKey:
    flat = [name for key in sorted(policies) for name in key]
    return (direction, "combination", *flat)


def _peers_of(policy: Policy | None) -> list[tuple[str, tuple[Peers, ...]]]:
    """Every set of peers in a policy's rules, as often as it is there."""
    return [(peers_set(allow.peers), allow.peers) for allow in _allows(policy) if allow.peers]


def _named_of(policy: Policy | None) -> set[NamedPort]:
    return {port for allow in _allows(policy) for port in allow.named}


def _allows(policy: Policy | None) -> list[Allow]:
    if policy is None:
        return []
    return [*(policy.ingress or ()), *(policy.egress or ())]
