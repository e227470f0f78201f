"""Certificates that a node asks the cluster for, and renews while it runs.

A node makes a key, asks for a certificate with a CertificateSigningRequest, and waits until the
request is approved and signed. Long before a certificate ends (at a moment between 70 and 90 per
cent of its life, so that nodes made together do not ask together) it does so again, in its own name
now. Whoever uses the files reads them anew: clients by themselves, the HTTPS server when somebody
connects. Nothing is restarted.

Key and certificate lie in one file that is replaced as a whole, or in two, of which the key is
replaced first. Source: upstream's `client-go/util/certificate`, KEP-266.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from navarch.api.errors import ApiError
from navarch.api.pem import decode_base64, parse_certificates
from navarch.api.types.certificates_v1 import (
    CertificateSigningRequest,
    CertificateSigningRequestSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client, ClientConfig, Clock

from .durable import write_durably

log = logging.getLogger("navarch.node.certificates")

CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
NODE_GROUP = "system:nodes"
PROXY_USER = "system:kube-proxy"
ANSWER_SECONDS = 900.0
"""As long as upstream's kubelet waits for an answer before it asks again."""
POLL_SECONDS = 0.25
SLOWEST_POLL = 5.0
RETRY_SECONDS = 60.0
PAUSE_SECONDS = 1.0
"""Between two renewals of one certificate, however short its life."""
LOOK_SECONDS = 3600.0
"""Between two looks at files that others may renew, too."""


class NotIssuedError(Exception):
    """The request was denied, failed, or not answered in time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that a node needs, and where it goes. One path for both: one file."""

    signer: str
    common_name: str
    certificate: Path
    key: Path
    organizations: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def usages(self) -> list[str]:
        role = "server auth" if self.signer == KUBELET_SERVING else "client auth"
        return ["digital signature", role]


def node_client(node: str, certificate: Path, key: Path) -> Wanted:
    """The identity of a node's kubelet."""
    return Wanted(KUBELET_CLIENT, f"system:node:{node}", certificate, key, (NODE_GROUP,))


def node_serving(node: str, addresses: Sequence[str], certificate: Path, key: Path) -> Wanted:
    """What a node's kubelet serves with."""
    name, group = f"system:node:{node}", (NODE_GROUP,)
    return Wanted(KUBELET_SERVING, name, certificate, key, group, (node,), tuple(addresses))


def proxy_client(certificate: Path, key: Path) -> Wanted:
    """The identity of what else runs on a node: Service proxy, name server, pod network."""
    return Wanted(CLIENT, PROXY_USER, certificate, key)


def renewal_time(begins: datetime, ends: datetime, chance: float) -> datetime:
    """When a certificate is renewed; `chance` is from 0 to 1."""
    return begins + (ends - begins) * (0.7 + 0.2 * chance)


def due_at(wanted: Wanted, chance: float) -> datetime | None:
    """When the certificate that is there is to be renewed; None: at once."""
    try:
        found = parse_certificates(wanted.certificate.read_text())[0]
    except (OSError, ValueError, IndexError):
        return None
    return renewal_time(found.not_valid_before_utc, found.not_valid_after_utc, chance)


def signing_request(wanted: Wanted) -> tuple[bytes, bytes]:
    """A new key and a request for it, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = [
        *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in wanted.organizations),
        x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    names: list[x509.GeneralName] = [x509.DNSName(each) for each in wanted.names]
    names += [x509.IPAddress(ipaddress.ip_address(each)) for each in wanted.addresses]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    request = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, request.public_bytes(serialization.Encoding.PEM)


async def obtain(client: Client, wanted: Wanted, timeout: float = ANSWER_SECONDS) -> None:
    """Ask for a certificate, wait for it, and put it into place. Raises NotIssuedError."""
    key, request = await asyncio.to_thread(signing_request, wanted)
    resource = client.resource(CertificateSigningRequest)
    made = await resource.create(
        CertificateSigningRequest(
            metadata=ObjectMeta(generateName="csr-"),
            spec=CertificateSigningRequestSpec(
                request=base64.b64encode(request).decode(),
                signerName=wanted.signer,
                usages=wanted.usages,
            ),
        )
    )
    certificate = await _answer(client, made.metadata.name, timeout)
    await asyncio.to_thread(store, wanted, certificate.encode(), key)


async def _answer(client: Client, name: str, timeout: float) -> str:
    resource = client.resource(CertificateSigningRequest)
    pause, give_up = POLL_SECONDS, client.clock.monotonic() + timeout
    while True:
        found = await resource.get(name)
        for condition in found.status.conditions:
            if condition.type in ("Denied", "Failed"):
                raise NotIssuedError(f"{name}: {condition.type}: {condition.message}")
        if found.status.certificate:
            return decode_base64(found.status.certificate)
        if client.clock.monotonic() > give_up:
            raise NotIssuedError(
                f"{name} was not signed in time; approve it: kubectl certificate approve {name}"
            )
        await client.clock.sleep(pause)
        pause = min(pause * 1.5, SLOWEST_POLL)


def store(wanted: Wanted, certificate: bytes, key: bytes) -> None:
    """Put a pair into place, readable by its owner alone."""
    if wanted.certificate == wanted.key:
        _write(wanted.certificate, certificate + key)
    else:
        _write(wanted.key, key)
        _write(wanted.certificate, certificate)


def _write(path: Path, blob: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    write_durably(path, blob)


class Rotation:
    """Keeps certificates young, until cancelled."""

    def __init__(self, client: Client, wanted: Sequence[Wanted]) -> None:
        self._client = client
        self._wanted = wanted
        self._clock: Clock = client.clock
        self._random = random.Random()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for each in self._wanted:
                tasks.create_task(self._keep(each), name=f"certificate {each.certificate.name}")

    async def _keep(self, wanted: Wanted) -> None:
        chance = self._random.random()
        while True:
            due = await asyncio.to_thread(due_at, wanted, chance)
            if due is not None and (left := (due - self._clock.now()).total_seconds()) > 0:
                await self._clock.sleep(min(left, LOOK_SECONDS))
                continue
            try:
                await obtain(self._client, wanted)
                log.info("%s: renewed", wanted.certificate)
                chance = self._random.random()
                await self._clock.sleep(PAUSE_SECONDS)
            except (ApiError, NotIssuedError, OSError) as error:
                log.warning("%s cannot be renewed yet: %s", wanted.certificate, error)
                await self._clock.sleep(RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class CertificatesOptions:
    """Renews the certificate of what runs on a node beside its kubelet. `kubeconfig` is the node's,
    which asks; `proxy_kubeconfig` names the files."""

    kubeconfig: str
    proxy_kubeconfig: str


async def run(options: CertificatesOptions) -> None:
    found = ClientConfig.from_kubeconfig(options.proxy_kubeconfig)
    wanted = proxy_client(Path(found.certificate.path), Path(found.key.path))
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        await Rotation(client, [wanted]).run()
