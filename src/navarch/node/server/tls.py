"""The serving certificate of the kubelet, and what it accepts of TLS.

Version 1.2 or later and authenticated encryption only, whatever a configuration says. A renewed
certificate is read when somebody connects, and shown to him at once: nothing is restarted and
nothing polls.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""The suites of TLS 1.2 that authenticate what they encrypt, by their official names. Those of
1.3 cannot be chosen, here as upstream."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Files of the serving certificate and of the CA of clients, and what is accepted."""

    certificate: str
    key: str
    client_ca: str = ""
    minimum: str = ""
    """`VersionTLS12` or `VersionTLS13`; what is older is not offered."""
    ciphers: Sequence[str] = ()


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """Raises OSError or ssl.SSLError when the files are not what they should be."""
    first = newest = _context(options)
    loaded = _age(options)

    def renew(socket: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """This handshake has its own copy of the first certificate by now: it gets another one."""
        nonlocal newest, loaded
        found = _age(options)
        if found != loaded:
            try:
                newest, loaded = _context(options), found
            except (OSError, ssl.SSLError) as error:
                # One of the two files is new and the other is not yet: the next one looks again.
                log.warning("the renewed serving certificate cannot be read: %s", error)
        socket.context = newest

    first.sni_callback = renew
    return first


def _context(options: TlsOptions) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    newest_only = options.minimum == "VersionTLS13"
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if newest_only else ssl.TLSVersion.TLSv1_2
    chosen = [CIPHERS[name] for name in options.ciphers if name in CIPHERS]
    for name in options.ciphers:
        if name not in CIPHERS and not name.startswith(("TLS_AES_", "TLS_CHACHA20_")):
            log.warning("the cipher suite %s is not offered: it does not authenticate", name)
    context.set_ciphers(":".join(chosen or CIPHERS.values()))
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.load_cert_chain(options.certificate, options.key)
    if options.client_ca:
        context.load_verify_locations(options.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _age(options: TlsOptions) -> tuple[int, int]:
    try:
        return (os.stat(options.certificate).st_mtime_ns, os.stat(options.key).st_mtime_ns)
    except OSError:
        return (0, 0)
