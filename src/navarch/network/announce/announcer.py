"""Answers for the addresses that this node is chosen for, and takes part in the choosing.

    gained   announced at once and every 1.1 s for 5 s (some switches overlook what comes faster),
             then answers whoever asks
    lost     answers nobody from that moment; the new owner's announcement moves the traffic

Nodes of several tell each other that they are there by a frame each half second, on the same link
on which they would take over: who is not heard there for three seconds cannot be reached there
either. Nothing is sent while there is one node, or no address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from dataclasses import dataclass

from navarch.client.clock import Clock, Timer
from navarch.network.announce import packets
from navarch.network.announce.election import Claim, View, winner
from navarch.network.announce.packets import ETH_ARP, ETH_BEAT, ETH_IPV6, Address
from navarch.network.announce.wire import Wire

log = logging.getLogger("navarch.network.announce")

BURST_INTERVAL, BURSTS = 1.1, 5
BEAT_INTERVAL, SILENCE = 0.5, 3.0
LISTEN_FIRST = 1.2
"""So long a node that has others listens before it answers for anything, unless it hears all of
them before: it may not be its turn."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this is on the link."""

    node: str
    cluster: bytes


class Announcer:
    """Everything is decided in `_elect`, whenever something it depends on has changed."""

    def __init__(
        self, identity: Identity, wire: Wire, clock: Clock, on_gain: Callable[[Claim], object]
    ) -> None:
        self._identity = identity
        self._wire = wire
        self._clock = clock
        self._on_gain = on_gain
        self._view = View()
        self._heard: dict[str, float] = {}
        """When each other node was heard last."""
        self._bursts: dict[Address, Timer] = {}
        self._beats: Timer | None = None
        self._silent_until = 0.0

    @property
    def owned(self) -> frozenset[Address]:
        return frozenset(self._bursts)

    @property
    def _has_others(self) -> bool:
        return bool(self._view.claims) and len(self._view.nodes.names) > 1

    def see(self, view: View) -> None:
        """The API shows this now."""
        self._view = view
        has_others = self._has_others
        if has_others and self._beats is None:
            self._silent_until = self._clock.monotonic() + LISTEN_FIRST
            self._listen(self.owned)
            self._beat()
        elif not has_others and self._beats is not None:
            self._beats.cancel()
            self._beats = None
            self._heard.clear()
        self._elect()

    def close(self) -> None:
        for timer in [*self._bursts.values(), *filter(None, [self._beats])]:
            timer.cancel()
        self._bursts.clear()
        self._wire.close()

    def _say(self) -> None:
        identity = self._identity
        self._wire.send(packets.beat(identity.cluster, identity.node, self._wire.mac))

    def _beat(self) -> None:
        self._say()
        self._beats = self._clock.call_later(BEAT_INTERVAL, self._beat)
        now = self._clock.monotonic()
        silent = [node for node, at in self._heard.items() if now - at > SILENCE]
        for node in silent:
            log.info("%s is not heard any more", node)
            del self._heard[node]
        if silent or self._silent_until:
            self._elect()

    def _elect(self) -> None:
        present = {self._identity.node, *self._heard}
        nodes = self._view.nodes
        is_early = self._beats is not None and self._clock.monotonic() < self._silent_until
        if is_early and not nodes.names - nodes.barred - nodes.lost <= present:
            return
        self._silent_until = 0.0
        chosen = {
            address
            for address, claim in self._view.claims.items()
            if winner(claim, self._view.nodes, present) == self._identity.node
        }
        for address in self.owned - chosen:
            self._lose(address)
        gained = chosen - self.owned
        self._listen(chosen)
        for address in gained:
            self._gain(address)

    def _listen(self, owned: Set[Address]) -> None:
        versions = {address.version for address in owned}
        kinds = {kind for version, kind in ((4, ETH_ARP), (6, ETH_IPV6)) if version in versions}
        self._wire.listen(kinds | ({ETH_BEAT} if self._has_others else set()), self._take)

    def _gain(self, address: Address) -> None:
        log.info("answering for %s", address)
        if address.version == 6:
            self._wire.join(address)
        self._announce(address, BURSTS)
        self._on_gain(self._view.claims[address])

    def _lose(self, address: Address) -> None:
        log.info("no longer answering for %s", address)
        self._bursts.pop(address).cancel()
        if address.version == 6:
            self._wire.leave(address)

    def _announce(self, address: Address, left: int) -> None:
        own = self._wire.mac
        if address.version == 4:
            for frame in packets.gratuitous_arp(address, own):
                self._wire.send(frame)
        else:
            self._wire.send(packets.unsolicited_advertisement(address, own))

        def again() -> None:
            if left > 1:
                self._announce(address, left - 1)

        self._bursts[address] = self._clock.call_later(BURST_INTERVAL, again)

    def _take(self, kind: int, frame: bytes) -> None:
        """A frame of the link."""
        if kind == ETH_BEAT:
            node = packets.read_beat(frame, self._identity.cluster)
            if node is not None and node != self._identity.node:
                is_new = node not in self._heard
                self._heard[node] = self._clock.monotonic()
                if is_new:
                    self._say()  # it may not have listened yet when we last did
                    self._elect()
            return
        own = self._wire.mac
        if frame[6:12] == own or (frame[:6] not in (own, packets.BROADCAST) and not frame[0] & 1):
            return
        if kind == ETH_ARP:
            self._take_arp(frame, own)
        elif (question := packets.read_solicitation(frame)) and question.address in self._bursts:
            self._wire.send(packets.advertisement(question, own))

    def _take_arp(self, frame: bytes, own: bytes) -> None:
        found = packets.read_arp(frame)
        if found is None or found[1].address not in self._bursts:
            return
        operation, question = found
        if operation == packets.REQUEST and question.asker != question.address:
            self._wire.send(packets.arp_reply(question, own))
        elif question.mac != own:
            # Another of us, for the moment in which both think so; or a stranger.
            log.debug("%s says it has %s", question.mac.hex(":"), question.address)
