"""The functions Kubernetes adds to CEL, one file for each library, and the environments of them.

A server compiles what is written now with the libraries that its predecessor has as well (so that
one can go back a version), and what is stored already with all there are.
"""

from __future__ import annotations

from functools import cache

from navarch.api.cel.environment import STORED, Environment
from navarch.api.cel.functions import Library, Version
from navarch.api.cel.library.authorization import AUTHORIZATION, AUTHORIZATION_SELECTORS
from navarch.api.cel.library.lists import LISTS, MORE_LISTS, SETS
from navarch.api.cel.library.named_formats import NAMED_FORMATS
from navarch.api.cel.library.networks import CIDRS, IPS
from navarch.api.cel.library.quantities import QUANTITIES
from navarch.api.cel.library.regexes import REGEXES
from navarch.api.cel.library.semvers import SEMVERS
from navarch.api.cel.library.strings import STRINGS
from navarch.api.cel.library.urls import URLS

NEW: Version = (1, 35)
"""What new expressions may use: the version before this server's."""

LIBRARIES: tuple[Library, ...] = (
    URLS,
    REGEXES,
    LISTS,
    AUTHORIZATION,
    QUANTITIES,
    STRINGS,
    SETS,
    IPS,
    CIDRS,
    NAMED_FORMATS,
    AUTHORIZATION_SELECTORS,
    SEMVERS,
    MORE_LISTS,
)


@cache
def base_environment(version: Version = STORED) -> Environment:
    """The environment every use of CEL in Kubernetes extends."""
    return Environment(version, libraries=LIBRARIES)
