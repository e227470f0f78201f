"""Where the API server is and who we are: kubeconfig files and the in-cluster environment.

Credentials given as files are read again when they change, so rotated certificates and projected
service-account tokens are taken up without a restart. A half-written rotation (a certificate that
does not fit its key) keeps the old credentials in use until the files fit again. What kubeconfig
can say but Navarch does not do (exec and auth-provider plug-ins, basic authentication, proxies) is
refused by name.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from navarch.api.trust import trusting
from navarch.client.clock import Clock

log = logging.getLogger(__name__)

RELOAD_SECONDS = 10.0
"""How long credentials are used before their files are looked at again (client-go: 10 s for
tokens)."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REFUSED_USER_FIELDS = ("exec", "auth-provider", "username", "password")


class ConfigError(ValueError):
    """The configuration cannot be used; the message says why and where."""


@dataclass(frozen=True, slots=True)
class Pem:
    """PEM data, given inline or as a file that may be rotated."""

    data: bytes = b""
    path: str = ""

    def __bool__(self) -> bool:
        return bool(self.data or self.path)

    def read(self) -> bytes:
        return self.data or Path(self.path).read_bytes()


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Everything a `Client` needs to know. `namespace` is only a hint for command lines."""

    server: str
    ca: Pem = Pem()
    certificate: Pem = Pem()
    key: Pem = field(default=Pem(), repr=False)
    token: str = field(default="", repr=False)
    token_file: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    namespace: str = "default"
    impersonate: Mapping[str, str] = field(default_factory=dict)
    """`Impersonate-User` and its siblings, as headers."""
    user_agent: str = "navarch"
    request_timeout: float = 60.0
    """Seconds for one request, answer included; watches and other streams have none."""
    max_in_flight: int = 200
    """Requests under way at once; further ones wait in order. Streams do not count."""

    @classmethod
    def from_kubeconfig(cls, path: str | Path, context: str = "") -> ClientConfig:
        """The given or current context of a kubeconfig file. Relative file names in it count from
        the file's own directory."""
        import yaml

        source = Path(path)
        try:
            document = yaml.load(source.read_bytes(), Loader=yaml.CSafeLoader)
        except OSError as error:
            raise ConfigError(f"cannot read kubeconfig {source}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"kubeconfig {source} is not YAML: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError(f"kubeconfig {source} is not a mapping")
        return _Kubeconfig(source, document).config(context)

    @classmethod
    def in_cluster(cls, directory: Path = SERVICE_ACCOUNT) -> ClientConfig:
        """From inside a pod: the environment's service address and the mounted token."""
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port:
            raise ConfigError(
                "not in a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"
            )
        if not (directory / "token").exists():
            raise ConfigError(f"no service-account token at {directory / 'token'}")
        namespace = directory / "namespace"
        return cls(
            server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            ca=Pem(path=str(directory / "ca.crt")),
            token_file=str(directory / "token"),
            namespace=namespace.read_text().strip() if namespace.exists() else "default",
        )

    @classmethod
    def load(cls, kubeconfig: str | Path = "", context: str = "") -> ClientConfig:
        """The given file, else the first that exists of `$KUBECONFIG`, else in-cluster, else
        `~/.kube/config`."""
        if kubeconfig:
            return cls.from_kubeconfig(kubeconfig, context)
        for name in os.environ.get("KUBECONFIG", "").split(os.pathsep):
            if name and Path(name).exists():
                return cls.from_kubeconfig(name, context)
        if os.environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").exists():
            return cls.in_cluster()
        return cls.from_kubeconfig(Path.home() / ".kube" / "config", context)

    def with_user_agent(self, component: str) -> ClientConfig:
        """The same configuration with requests signed as coming from `component`."""
        return replace(self, user_agent=f"navarch-{component}")


class _Kubeconfig:
    """One parsed kubeconfig file."""

    def __init__(self, source: Path, document: Mapping[str, Any]) -> None:
        self.source = source
        self.document = document

    def config(self, context: str) -> ClientConfig:
        name = context or str(self.document.get("current-context") or "")
        if not name:
            raise ConfigError(f"kubeconfig {self.source} has no current-context")
        chosen = self._named("contexts", name, "context")
        cluster = self._named("clusters", str(chosen.get("cluster") or ""), "cluster")
        user: Mapping[str, Any] = {}
        if chosen.get("user"):
            user = self._named("users", str(chosen["user"]), "user")
        for refused in _REFUSED_USER_FIELDS:
            if user.get(refused):
                raise ConfigError(
                    f"kubeconfig {self.source}: user field {refused} is not supported"
                )
        if cluster.get("proxy-url"):
            raise ConfigError(f"kubeconfig {self.source}: cluster proxy-url is not supported")
        server = str(cluster.get("server") or "").rstrip("/")
        if urlsplit(server).scheme not in ("http", "https"):
            raise ConfigError(f"kubeconfig {self.source}: server {server!r} is not an http(s) URL")
        config = ClientConfig(
            server=server,
            ca=self._pem(cluster, "certificate-authority"),
            certificate=self._pem(user, "client-certificate"),
            key=self._pem(user, "client-key"),
            token=str(user.get("token") or ""),
            token_file=self._resolve(str(user.get("tokenFile") or "")),
            insecure_skip_tls_verify=bool(cluster.get("insecure-skip-tls-verify")),
            tls_server_name=str(cluster.get("tls-server-name") or ""),
            namespace=str(chosen.get("namespace") or "default"),
            impersonate=_impersonation(user),
        )
        if bool(config.certificate) != bool(config.key):
            raise ConfigError(
                f"kubeconfig {self.source}: client-certificate and client-key belong together"
            )
        return config

    def _named(self, section: str, name: str, field_name: str) -> Mapping[str, Any]:
        for entry in self.document.get(section) or []:
            if isinstance(entry, dict) and entry.get("name") == name:
                value = entry.get(field_name) or {}
                if isinstance(value, dict):
                    return value
        raise ConfigError(f"kubeconfig {self.source} has no {field_name} named {name!r}")

    def _pem(self, section: Mapping[str, Any], name: str) -> Pem:
        if inline := section.get(f"{name}-data"):
            try:
                return Pem(data=base64.b64decode(str(inline), validate=True))
            except binascii.Error as error:
                raise ConfigError(f"kubeconfig {self.source}: {name}-data is not base64") from error
        return Pem(path=self._resolve(str(section.get(name) or "")))

    def _resolve(self, name: str) -> str:
        return str(self.source.parent / name) if name else ""


def _impersonation(user: Mapping[str, Any]) -> dict[str, str]:
    if user.get("as-groups") or user.get("as-user-extra"):
        raise ConfigError("kubeconfig: as-groups and as-user-extra are not supported")
    headers = {}
    if user.get("as"):
        headers["Impersonate-User"] = str(user["as"])
    if user.get("as-uid"):
        headers["Impersonate-Uid"] = str(user["as-uid"])
    return headers


class Credentials:
    """The TLS context and headers in force now, renewed when their files change."""

    def __init__(self, config: ClientConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._checked = clock.monotonic()
        self._stamp = self._file_stamp()
        try:
            self.ssl_context, self.headers = self._read()
        except OSError as error:
            raise ConfigError(f"cannot read the credentials: {error}") from error

    def refresh(self, force: bool = False) -> bool:
        """Look at the files again if it is time (or `force`); whether anything changed."""
        moment = self._clock.monotonic()
        if not force and moment - self._checked < RELOAD_SECONDS:
            return False
        self._checked = moment
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return False
        try:
            self.ssl_context, self.headers = self._read()
        except (OSError, ConfigError) as error:  # ssl.SSLError is an OSError
            log.warning("keeping the credentials in use, the new ones do not work: %s", error)
            return False
        self._stamp = stamp
        return True

    def _file_stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        config = self._config
        paths = (config.ca.path, config.certificate.path, config.key.path, config.token_file)
        return tuple(_stat(path) for path in paths)

    def _read(self) -> tuple[ssl.SSLContext | None, dict[str, str]]:
        config = self._config
        headers = {"User-Agent": config.user_agent, **config.impersonate}
        token = config.token
        if config.token_file:
            token = Path(config.token_file).read_text().strip()
            if not token:
                raise ConfigError(f"token file {config.token_file} is empty")
        if token:
            headers["Authorization"] = f"Bearer {token}"
        context = make_ssl_context(config) if config.server.startswith("https:") else None
        return context, headers


def make_ssl_context(config: ClientConfig) -> ssl.SSLContext:
    """A context that trusts the configured CA (the system's without one) and shows our
    certificate."""
    try:
        context = trusting(config.ca.read().decode("ascii") if config.ca else "")
    except (ValueError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate authority cannot be used: {error}") from error
    if config.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.certificate:
        with _as_file(config.certificate) as certificate, _as_file(config.key) as key:
            try:
                context.load_cert_chain(certificate, key)
            except ssl.SSLError as error:
                raise ConfigError(f"the client certificate cannot be used: {error}") from error
    return context


@contextmanager
def _as_file(pem: Pem) -> Iterator[str]:
    """A file name with the PEM behind it. Inline keys go through anonymous memory, because the
    ssl module only reads files and a key must not touch the disk."""
    if not pem.data:
        yield pem.path
        return
    descriptor = os.memfd_create("navarch-credential", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem.data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _stat(path: str) -> tuple[int, int, int] | None:
    if not path:
        return None
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
