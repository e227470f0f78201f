"""Extenders: other processes that have a say in scheduling, asked over HTTP.

They are asked after the plugins: which of the feasible nodes will do (filter), how good these are
(prioritize), whose pods may go (preempt); and one may bind pods in the scheduler's stead. One that
manages resources is asked only about pods that want some of them. An ignorable one that fails is
passed over; if another fails, so does the attempt.

The wire format is upstream's `kube-scheduler/extender/v1`: Go names its fields by their own names
there and does not mind the case of those it reads.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from navarch.api.objects import Object, encode, to_object
from navarch.api.trust import trusting
from navarch.api.types.core_v1 import Node
from navarch.scheduler.configuration.types import ExtenderConfig, ExtenderTls
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.victims import Candidate

EXTENDER = "Extender"
"""Stands where the name of a plugin would that rejected a pod."""
SCORE_SCALE = 10
"""Extenders score to ten, plugins to a hundred."""


class ExtenderFailed(Exception):
    """An extender could not be asked, or said that it failed."""


@dataclass(frozen=True, slots=True)
class Filtered:
    """An extender's verdict on nodes: those that will do, and why others will not."""

    kept: frozenset[str]
    failed: Mapping[str, str]
    unresolvable: Mapping[str, str]


class Extender:
    """One extender of the configuration."""

    def __init__(self, config: ExtenderConfig) -> None:
        self.config = config
        self.name = config.urlPrefix
        self.is_ignorable = config.ignorable
        self._managed = {each.name for each in config.managedResources}
        self._session: aiohttp.ClientSession | None = None

    def is_interested(self, info: PodInfo) -> bool:
        if not self._managed:
            return True
        spec = info.pod.spec
        return any(
            not self._managed.isdisjoint([*each.resources.requests, *each.resources.limits])
            for each in (*spec.containers, *spec.initContainers)
        )

    async def filter(self, info: PodInfo, nodes: Mapping[str, Node]) -> Filtered:
        """What becomes of these nodes. Raises ExtenderFailed."""
        return self._read_filtered(await self._ask(self.config.filterVerb, info, nodes), nodes)

    async def prioritize(self, info: PodInfo, nodes: Mapping[str, Node]) -> dict[str, int]:
        """What to add to the totals of nodes. Raises ExtenderFailed."""
        reply = await self._ask(self.config.prioritizeVerb, info, nodes)
        found: dict[str, int] = {}
        for each in reply if isinstance(reply, list) else ():
            host, score = _field(each, "Host"), _field(each, "Score")
            if not isinstance(host, str) or not isinstance(score, int):
                raise ExtenderFailed(f"extender {self.name}: no host with a score: {each}")
            found[host] = found.get(host, 0) + score * self.config.weight * SCORE_SCALE
        return found

    async def preempt(
        self, info: PodInfo, found: Sequence[Candidate], pods: Mapping[str, Mapping[str, PodInfo]]
    ) -> list[Candidate]:
        """What is left of the candidates; `pods` are those on each node, by their uids. Raises
        ExtenderFailed."""
        is_short = self.config.nodeCacheCapable
        victims = {
            each.node: {
                "Pods": [{"UID": p.uid} if is_short else to_object(p.pod) for p in each.victims],
                "NumPDBViolations": each.violations,
            }
            for each in found
        }
        body = {
            "Pod": to_object(info.pod),
            "NodeNameToVictims": None if is_short else victims,
            "NodeNameToMetaVictims": victims if is_short else None,
        }
        reply = await self._send(self.config.preemptVerb, body)
        left = _field(reply, "NodeNameToMetaVictims") or {}
        candidates = (self._candidate(node, each or {}, pods) for node, each in left.items())
        return [each for each in candidates if each is not None]

    async def bind(self, info: PodInfo, node: str) -> None:
        """Bind a pod. Raises ExtenderFailed."""
        body = {
            "PodName": info.name,
            "PodNamespace": info.namespace,
            "PodUID": info.uid,
            "Node": node,
        }
        reply = await self._send(self.config.bindVerb, body)
        if error := _field(reply, "Error"):
            raise ExtenderFailed(str(error))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, verb: str, info: PodInfo, nodes: Mapping[str, Node]) -> Any:
        is_short = self.config.nodeCacheCapable
        items = None if is_short else [to_object(node) for node in nodes.values()]
        body = {
            "Pod": to_object(info.pod),
            "Nodes": None if items is None else {"metadata": {}, "items": items},
            "NodeNames": [*nodes] if is_short else None,
        }
        return await self._send(verb, body)

    def _read_filtered(self, reply: Any, nodes: Mapping[str, Node]) -> Filtered:
        if error := _field(reply, "Error"):
            raise ExtenderFailed(str(error))
        names, listed = _field(reply, "NodeNames"), _field(reply, "Nodes")
        kept: list[str] = []
        if self.config.nodeCacheCapable and names is not None:
            kept = names
            if strange := next((name for name in names if name not in nodes), None):
                raise ExtenderFailed(
                    f'extender "{self.name}" claims a filtered node "{strange}" which is not '
                    "found in the input node list"
                )
        elif listed is not None:
            items = _field(listed, "items") or ()
            kept = [name for each in items if (name := _name_of(each)) in nodes]
        unresolvable = _field(reply, "FailedAndUnresolvableNodes") or {}
        failed = _field(reply, "FailedNodes") or {}
        failed = {name: text for name, text in failed.items() if name not in unresolvable}
        return Filtered(frozenset(kept), failed, unresolvable)

    def _candidate(
        self, node: str, given: Any, pods: Mapping[str, Mapping[str, PodInfo]]
    ) -> Candidate | None:
        if node not in pods:
            raise ExtenderFailed(f'nodeinfo not found for node name "{node}"')
        victims = []
        for each in _field(given, "Pods") or ():
            uid = _field(each, "UID")
            if uid not in pods[node]:
                raise ExtenderFailed(
                    f"extender: {self.name} claims to preempt pod (UID: {uid}) on node: {node}, "
                    "but the pod is not found on that node"
                )
            victims.append(pods[node][uid])
        if not victims:
            if self.is_ignorable:
                return None
            raise ExtenderFailed(f'expected at least one victim pod on node "{node}"')
        return Candidate(node, tuple(victims), _field(given, "NumPDBViolations") or 0)

    async def _send(self, verb: str, body: Object) -> Any:
        if self._session is None:
            context = ssl_context(self.config)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context),
                timeout=aiohttp.ClientTimeout(total=self.config.httpTimeout),
                json_serialize=lambda value: encode(value).decode(),
            )
        url = f"{self.name.rstrip('/')}/{verb}"
        tls = self.config.tlsConfig
        name = (tls.serverName if tls else "") or None
        try:
            async with self._session.post(url, json=body, server_hostname=name) as response:
                if response.status != 200:
                    raise ExtenderFailed(
                        f"failed {verb} with extender at URL {url}, code {response.status}"
                    )
                return await response.json(content_type=None)
        except TimeoutError as error:
            raise ExtenderFailed(f'Post "{url}": context deadline exceeded') from error
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as error:
            raise ExtenderFailed(f'Post "{url}": {error}') from error


def extenders_of(configs: Iterable[ExtenderConfig]) -> tuple[Extender, ...]:
    """In the order in which they are asked: those that may fail last."""
    return tuple(map(Extender, sorted(configs, key=lambda config: config.ignorable)))


def ssl_context(config: ExtenderConfig) -> ssl.SSLContext | bool:
    """How an extender's certificate is looked at; True: by the system's authorities. With
    `enableHTTPS` and no authority named, as upstream has it, not at all."""
    tls = config.tlsConfig or ExtenderTls()
    has_authority = bool(tls.caFile or tls.caData)
    is_open = tls.insecure or (config.enableHTTPS and not has_authority)
    if not (is_open or has_authority or tls.certFile or tls.certData):
        return True
    context = trusting(tls.caData.decode(), file=tls.caFile or None)
    if is_open:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certFile or tls.certData:
        _load_certificate(context, tls)
    return context


def _load_certificate(context: ssl.SSLContext, tls: ExtenderTls) -> None:
    """The own certificate; data goes over files, and Python reads files only."""
    import tempfile

    with tempfile.NamedTemporaryFile() as certificate, tempfile.NamedTemporaryFile() as key:
        names = []
        for file, data, name in (
            (certificate, tls.certData, tls.certFile),
            (key, tls.keyData, tls.keyFile),
        ):
            file.write(data)
            file.flush()
            names.append(file.name if data else name)
        context.load_cert_chain(*names)


def _field(value: Any, name: str) -> Any:
    """A field as Go reads it: of any case."""
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    return next((v for n, v in value.items() if n.lower() == name.lower()), None)


def _name_of(node: Any) -> str:
    return str(_field(_field(node, "metadata"), "name"))
