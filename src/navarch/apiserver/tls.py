"""The API server's side of TLS: versions, ciphers, certificates by name, all renewed live.

A context cannot forget an authority that it was told once, nor a listener change its context. So
each handshake is given the newest context as soon as the client has said which name it wants (RFC
6066): renewed certificates, added and removed authorities count from the next connection on.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from navarch.apiserver.http.plain_text import FrontContext
from navarch.apiserver.options import ServerOptions

VERSIONS = {"VersionTLS12": ssl.TLSVersion.TLSv1_2, "VersionTLS13": ssl.TLSVersion.TLSv1_3}
CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""Of TLS 1.2, IANA's name and OpenSSL's: authenticated encryption with ephemeral keys, and nothing
else. Those of TLS 1.3 cannot be chosen, and are all of that kind."""


class TlsError(ValueError):
    """A TLS option that makes no sense."""


@dataclass(frozen=True, slots=True)
class NamedCertificate:
    """A certificate for certain names; without names, for those that stand in it."""

    cert: Path
    key: Path
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> NamedCertificate:
        """`cert,key` or `cert,key:name,*.name`."""
        files, _, names = text.partition(":")
        cert, separator, key = files.partition(",")
        if not separator or not cert or not key or "," in key:
            raise TlsError(f"--tls-sni-cert-key: {text!r} is not cert,key or cert,key:names")
        return cls(Path(cert), Path(key), tuple(filter(None, names.split(","))))

    def served_names(self) -> tuple[str, ...]:
        if self.names:
            return self.names
        from cryptography import x509

        certificate = x509.load_pem_x509_certificate(self.cert.read_bytes())
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return ()
        return tuple(names.value.get_values_for_type(x509.DNSName))


class ServingTls:
    """The contexts of a server with a certificate."""

    def __init__(self, options: ServerOptions) -> None:
        """Raises OSError and ValueError when files or options cannot be used."""
        self._options = options
        self._named = [NamedCertificate.parse(text) for text in options.tls_sni_cert_key]
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._default = self.context = self._context(options.tls_cert, options.tls_key)
        self.reload()
        self.context.sni_callback = self._choose

    def files(self) -> list[Path]:
        """What `reload` reads."""
        options = self._options
        own = (options.tls_cert, options.tls_key, options.client_ca)
        found = [*own, options.requestheader_client_ca_file]
        found += [path for each in self._named for path in (each.cert, each.key)]
        return [path for path in found if path is not None]

    def reload(self) -> None:
        """Read everything anew; when that fails, what was there goes on."""
        options = self._options
        default = self._context(options.tls_cert, options.tls_key)
        by_name: dict[str, ssl.SSLContext] = {}
        for each in self._named:
            context = self._context(each.cert, each.key)
            for name in each.served_names():
                by_name.setdefault(name.lower(), context)
        self._default, self._by_name = default, by_name

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        wanted = (name or "").lower().rstrip(".")
        found = self._by_name.get(wanted) or self._by_name.get(f"*.{wanted.partition('.')[2]}")
        connection.context = found or self._default

    def _context(self, cert: Path | None, key: Path | None) -> ssl.SSLContext:
        options = self._options
        assert cert is not None
        context = FrontContext(ssl.PROTOCOL_TLS_SERVER)
        if options.tls_min_version not in VERSIONS:
            raise TlsError(f"--tls-min-version: use one of {', '.join(VERSIONS)}")
        context.minimum_version = VERSIONS[options.tls_min_version]
        unknown = sorted(set(options.tls_cipher_suites) - set(CIPHERS))
        if unknown:
            raise TlsError(f"--tls-cipher-suites: {', '.join(unknown)} cannot be used")
        context.set_ciphers(
            ":".join(CIPHERS[each] for each in options.tls_cipher_suites or CIPHERS)
        )
        context.load_cert_chain(cert, key)
        context.set_alpn_protocols(["http/1.1"])
        for authority in (options.client_ca, options.requestheader_client_ca_file):
            if authority is not None:
                context.verify_mode = ssl.CERT_OPTIONAL
                context.load_verify_locations(authority)
        return context
