"""The cluster's certificate authority and the certificates it gives out.

A cluster's identities are X.509 certificates: the common name is the user, organisations are its
groups (https://kubernetes.io/docs/setup/best-practices/certificates/). Every key is EC P-256:
quick to make, and start-up makes a dozen. One certificate has one purpose, server or client.

Making certificates needs the `cryptography` package, which costs a tenth of a second to import;
deciding that nothing has to be made does not. So an index beside the files records what each
certificate was made for and when it ends, and the library is loaded only when something is due:
missing, near its end, or asked for with other names or addresses than before.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from navarch.api.named_secrets import GATEWAY_USER, INGRESS_USER
from navarch.cluster import simulation
from navarch.cluster.profile import Paths, Profile, write_file, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, KeyUsage, Name

AUTHORITY_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
AUTHORITY = "ca"
FRONT_PROXY_AUTHORITY = "front-proxy-ca"
"""An authority of its own: whoever holds one of its certificates may speak for any user."""
KUBELET_CLIENT = "kube-apiserver-kubelet-client"
"""The API server as kubelets know it. It has the rights of a role and no more."""
FRONT_PROXY_CLIENT = "front-proxy-client"
"""The API server as extension API servers know it."""
CLOCK_SKEW = timedelta(minutes=5)
EVERYWHERE = ("0.0.0.0", "::")
"""Addresses to listen on that are no addresses to connect to."""


@dataclass(frozen=True, slots=True)
class Request:
    """One certificate that must be there."""

    path: str
    """Below the profile's directory, without suffix: `.crt` and `.key` are added."""
    common_name: str
    organizations: tuple[str, ...] = ()
    server: bool = False
    """Server authentication; otherwise client authentication. Never both."""
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    authority: str = AUTHORITY


def requests(profile: Profile) -> list[Request]:
    """Every certificate of a cluster but the authority's own."""
    found = [
        Request(
            "pki/apiserver",
            "kube-apiserver",
            server=True,
            names=(
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                f"kubernetes.default.svc.{profile.cluster_domain}",
                *(each for each in profile.server_names if not is_address(each)),
            ),
            addresses=tuple(
                dict.fromkeys(
                    (
                        "127.0.0.1",
                        *profile.host_addresses,
                        *profile.kubernetes_service_addresses,
                        *(each for each in profile.listen_addresses if each not in EVERYWHERE),
                        *(each for each in profile.server_names if is_address(each)),
                    )
                )
            ),
        ),
        Request(
            "pki/control-plane",
            "navarch-control-plane",
            server=True,
            names=("localhost",),
            addresses=(profile.control_address,),
        ),
        Request("pki/kubelet-client", KUBELET_CLIENT),
        Request("pki/front-proxy-client", FRONT_PROXY_CLIENT, authority=FRONT_PROXY_AUTHORITY),
        Request("pki/admin", "kubernetes-admin", ("system:masters",)),
        Request("pki/controllers", "system:kube-controller-manager"),
        Request("pki/scheduler", "system:kube-scheduler"),
    ]
    if profile.simulated:
        found.append(Request("pki/simulated", simulation.USER, (simulation.GROUP,)))
    for node in profile.node_names():
        directory = f"nodes/{node}/pki"
        found += [
            Request(
                f"{directory}/kubelet-serving",
                f"system:node:{node}",
                ("system:nodes",),
                server=True,
                names=(node,),
                addresses=profile.node_addresses(node),
            ),
            Request(f"{directory}/kubelet", f"system:node:{node}", ("system:nodes",)),
            Request(f"{directory}/proxy", "system:kube-proxy"),
            Request(f"{directory}/ingress", INGRESS_USER),
            Request(f"{directory}/gateway", GATEWAY_USER),
        ]
    return found


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_good(request: Request, index: Mapping[str, object], root: Path, now: datetime) -> bool:
    entry = index.get(request.path)
    if not isinstance(entry, dict) or entry.get("request") != _comparable(request):
        return False
    try:
        ends = datetime.fromisoformat(str(entry.get("not_after")))
    except ValueError:
        return False
    files = [root / f"{request.path}{suffix}" for suffix in (".crt", ".key")]
    return ends - RENEW_BEFORE > now and all(file.is_file() for file in files)


def _comparable(request: Request) -> object:
    """The request as it reads back from JSON."""
    return json.loads(json.dumps(asdict(request)))


@dataclass(frozen=True, slots=True)
class Renewal:
    """What `ensure` did: the certificates made anew, by path."""

    made: frozenset[str]
    authority: bool


def ensure(profile: Profile, paths: Paths, now: datetime | None = None) -> Renewal:
    """Make every certificate that is due. A new authority makes all of them due."""
    now = now or datetime.now(UTC)
    index_path = paths.pki / "index.json"
    index = _read_index(index_path)
    authorities = {AUTHORITY: f"{profile.name}-ca", FRONT_PROXY_AUTHORITY: FRONT_PROXY_AUTHORITY}
    worn = {name for name in authorities if not _is_good_authority(name, index, paths.pki, now)}
    wanted = requests(profile)
    kept = {path: entry for path, entry in index.items() if path not in worn}
    missing = [
        request
        for request in wanted
        if request.authority in worn or not _is_good(request, kept, paths.root, now)
    ]
    _ensure_token_key(paths.pki)
    if not missing:
        return Renewal(frozenset(), authority=False)
    for name in worn:
        _make_authority(paths.pki, name, authorities[name], now)
        kept[name] = (now + AUTHORITY_LIFETIME).isoformat()
    loaded = {name: _load_authority(paths.pki, name) for name in authorities}
    for request in missing:
        _issue(loaded[request.authority], request, paths.root, now)
        kept[request.path] = {
            "request": _comparable(request),
            "not_after": (now + LIFETIME).isoformat(),
        }
    known = set(authorities) | {request.path for request in wanted}
    write_json(index_path, {key: value for key, value in kept.items() if key in known})
    return Renewal(frozenset(request.path for request in missing), AUTHORITY in worn)


def _is_good_authority(
    name: str, index: Mapping[str, object], directory: Path, now: datetime
) -> bool:
    ends = str(index.get(name, "1970-01-01T00:00:00+00:00"))
    files = [directory / f"{name}{suffix}" for suffix in (".crt", ".key")]
    there = all(file.is_file() for file in files)
    return there and datetime.fromisoformat(ends) - LIFETIME > now


def issue(request: Request, paths: Paths, now: datetime | None = None) -> tuple[Path, Path]:
    """A certificate besides those of the cluster's parts, from its authority, and its key."""
    _issue(_load_authority(paths.pki, "ca"), request, paths.root, now or datetime.now(UTC))
    file = paths.root / request.path
    return file.with_name(f"{file.name}.crt"), file.with_name(f"{file.name}.key")


def _read_index(path: Path) -> dict[str, object]:
    """The index, empty when it is missing or damaged: then everything is simply made again."""
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: Certificate
    key: EllipticCurvePrivateKey


def _make_authority(directory: Path, name: str, common_name: str, now: datetime) -> None:
    """A self-signed root with a new key; one that has expired is replaced."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name, ())
    builder = _builder(subject, subject, now, AUTHORITY_LIFETIME).public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    certificate = builder.sign(key, hashes.SHA256())
    write_file(directory / f"{name}.key", _pem(key))
    encoded = certificate.public_bytes(serialization.Encoding.PEM)
    write_file(directory / f"{name}.crt", encoded, mode=0o644)


def _ensure_token_key(directory: Path) -> None:
    """The key pair that signs service-account tokens. It outlives the authorities, since tokens
    are judged by their own expiry and pods still hold them."""
    if (directory / "sa.key").is_file() and (directory / "sa.pub").is_file():
        return
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_file(directory / "sa.pub", public, mode=0o644)
    write_file(directory / "sa.key", _pem(key))


def _load_authority(directory: Path, name: str) -> _Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = directory / f"{name}.key"
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} is not an EC key")
    certificate = x509.load_pem_x509_certificate((directory / f"{name}.crt").read_bytes())
    return _Authority(certificate, key)


def _issue(authority: _Authority, request: Request, root: Path, now: datetime) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(request.common_name, request.organizations)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if request.server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _builder(subject, authority.certificate.subject, now, LIFETIME)
    builder = builder.public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False
    )
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in request.names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in request.addresses]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    path = root / request.path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The key first: a certificate that is there always has its key. A crash between the two
    # leaves a pair that does not match, but no entry in the index either, so both are made again.
    write_file(path.with_name(f"{path.name}.key"), _pem(key))
    encoded = certificate.public_bytes(serialization.Encoding.PEM)
    write_file(path.with_name(f"{path.name}.crt"), encoded, mode=0o644)


def _builder(subject: Name, issuer: Name, now: datetime, life: timedelta) -> CertificateBuilder:
    from cryptography import x509

    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + life)


def _key_usage(*, authority: bool) -> KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str, organizations: tuple[str, ...]) -> Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)
        for organization in organizations
    ]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
