"""How a TLS client judges the certificate of a server: as Go's programs do, so that whatever is
good enough for upstream (a webhook's, an identity provider's, another cluster's) is for us.

Python 3.13 began to refuse what RFC 5280 demands and Go does not look at, such as a certificate
without its authority's key identifier (`ssl.VERIFY_X509_STRICT` in `ssl.create_default_context`).
Go in turn takes every certificate of a bundle for an anchor, be it an intermediate authority's or
the server's own, and reads names only where a certificate lists them as alternative ones.
Source: crypto/x509, `Certificate.Verify`.
"""

from __future__ import annotations

import ssl
from pathlib import Path


def trusting(authority: str = "", *, file: str | Path | None = None) -> ssl.SSLContext:
    """A context that trusts these authorities, in PEM; those of the system if there are none.
    Raises ssl.SSLError, OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    if authority or file:
        context.load_verify_locations(cafile=file, cadata=authority or None)
    else:
        context.load_default_certs()
    return context
