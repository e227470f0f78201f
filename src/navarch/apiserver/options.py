"""The options of an API server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How one API server runs. Paths may be None in tests; a server without `tls_cert` speaks plain
    HTTP and is for tests alone."""

    data_dir: Path | None = None
    """Where the database lies; needed by the sqlite store."""
    store: str = "sqlite"
    """sqlite or memory."""
    bind_addresses: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8443
    """0 lets the system choose."""
    advertise_address: str = ""
    """The address that `default/kubernetes` points to; by default the first bind address that is no
    loopback one."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_sni_cert_key: tuple[str, ...] = ()
    """More certificates, for clients that ask for a name: `cert,key` or `cert,key:name,*.name`."""
    tls_min_version: str = "VersionTLS12"
    """Or VersionTLS13."""
    tls_cipher_suites: tuple[str, ...] = ()
    """Of TLS 1.2, by IANA's names; by default all that authenticate what they encrypt."""
    client_ca: Path | None = None
    service_account_keys: tuple[Path, ...] = ()
    """Public (or private) keys that service-account tokens are verified with."""
    service_account_signing_key: Path | None = None
    service_account_issuer: str = "https://kubernetes.default.svc.cluster.local"
    service_account_further_issuers: tuple[str, ...] = ()
    """Tokens that say these signed them are good still: for a change of the issuer."""
    service_account_jwks_uri: str = ""
    """Where others find the keys; by default at the issuer."""
    service_account_max_token_expiration_seconds: int = 0
    service_account_extend_token_expiration: bool = True
    """Tokens that pods get for this server last a year, for clients that never read them again."""
    api_audiences: tuple[str, ...] = ()
    """By default the issuers."""
    token_auth_file: Path | None = None
    """CSV of tokens that never end: token, user, uid, groups."""
    enable_bootstrap_token_auth: bool = False
    authentication_config: Path | None = None
    """AuthenticationConfiguration: OpenID Connect issuers, anonymous access. Read again when it
    changes; excludes the options that follow."""
    oidc_issuer_url: str = ""
    oidc_client_id: str = ""
    oidc_ca_file: Path | None = None
    oidc_username_claim: str = "sub"
    oidc_username_prefix: str = ""
    oidc_groups_claim: str = ""
    oidc_groups_prefix: str = ""
    oidc_required_claim: tuple[str, ...] = ()
    """claim=value"""
    oidc_signing_algs: tuple[str, ...] = ("RS256",)
    authentication_token_webhook_config_file: Path | None = None
    """A kubeconfig file that says where TokenReviews are answered."""
    authentication_token_webhook_version: str = "v1beta1"
    authentication_token_webhook_cache_seconds: float = 120.0
    kubelet_client_cert: Path | None = None
    kubelet_client_key: Path | None = None
    kubelet_ca: Path | None = None
    """Verifies the kubelets' serving certificates; without it they are not verified."""
    requestheader_client_ca_file: Path | None = None
    """Issues the certificates of front proxies, whose word on who the user is we take."""
    requestheader_allowed_names: tuple[str, ...] = ()
    """Common names of front proxies; none named: every certificate of their authority."""
    requestheader_username_headers: tuple[str, ...] = ("X-Remote-User",)
    requestheader_uid_headers: tuple[str, ...] = ("X-Remote-Uid",)
    requestheader_group_headers: tuple[str, ...] = ("X-Remote-Group",)
    requestheader_extra_headers_prefix: tuple[str, ...] = ("X-Remote-Extra-",)
    proxy_client_cert_file: Path | None = None
    """Shows extension API servers that it is us who speak for a user."""
    proxy_client_key_file: Path | None = None
    authorization_config: Path | None = None
    """AuthorizationConfiguration: authorizers and their order; by default Node, RBAC."""
    audit_policy_file: Path | None = None
    """Which requests leave a record in the audit log (audit.k8s.io/v1 Policy)."""
    audit_log_path: str = ""
    """"-" is standard output."""
    audit_log_maxsize: int = 100
    """Megabytes."""
    audit_log_maxbackup: int = 100
    audit_log_maxage: int = 366
    """Days."""
    audit_log_compress: bool = False
    audit_log_mode: str = "blocking"
    """batch, blocking or blocking-strict."""
    audit_log_batch_buffer_size: int = 10_000
    encryption_provider_config: Path | None = None
    """Which resources are encrypted on disk, and how; read again when it changes."""
    service_cidr: str = "10.96.0.0/16"
    """One range, or one of each family, `10.96.0.0/16,fd00:96::/112`: the first is of the family
    that Services have by default."""
    node_port_range: tuple[int, int] = (30000, 32767)
    anonymous_auth: bool = True
    enable_admission_plugins: tuple[str, ...] = ()
    """Names of plug-ins that are off by default."""
    disable_admission_plugins: tuple[str, ...] = ()
    """Names of plug-ins that are on by default."""
    enable_priority_and_fairness: bool = True
    max_requests_inflight: int = 400
    max_mutating_requests_inflight: int = 200
    """Requests under way at a time; their sum is what priority and fairness divides into seats."""
    request_timeout_seconds: float = 60.0
    min_request_timeout_seconds: int = 1800
    """How long a watch lasts at least that names no timeout."""
    shutdown_delay_seconds: float = 0.0
    """How long a server that is told to stop goes on serving as ever, while `/readyz` fails."""
    max_connections: int = 20_000
    cors_allowed_origins: tuple[str, ...] = ()
    """Patterns of the origins whose pages a browser lets read our answers."""
    event_ttl_seconds: int = 3600

    @property
    def advertised(self) -> str:
        """The address that others reach this server at."""
        if self.advertise_address:
            return self.advertise_address
        outer = [each for each in self.bind_addresses if not each.startswith("127.")]
        return (outer or list(self.bind_addresses))[0]
