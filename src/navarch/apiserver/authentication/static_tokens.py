"""The token file (`--token-auth-file`): CSV with token, user name, uid and optional groups.

Nobody should need it, and `navarch start` makes none: its tokens never end, and a change of the
file takes a restart. It is here for those who bring one.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from navarch.apiserver.authentication.tokens import INVALID, ForeignToken, VerifiedToken
from navarch.apiserver.authentication.union import AnyAudience
from navarch.apiserver.contracts import UserInfo

log = logging.getLogger(__name__)


def load_token_file(path: Path) -> dict[str, UserInfo]:
    """Raises OSError, and ValueError when a line is too short."""
    users: dict[str, UserInfo] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, raw in enumerate(csv.reader(file, skipinitialspace=True), 1):
            row = [field.strip() for field in raw]
            if not row:
                continue
            if len(row) < 3:
                raise ValueError(
                    f"token file {str(path)!r} must have at least 3 columns (token, user name, "
                    f"user uid), found {len(row)}"
                )
            token, name, uid, *more = row
            if not token:
                log.warning("%s: record %d has no token", path, number)
                continue
            if token in users:
                log.warning("%s: record %d repeats a token; the later one counts", path, number)
            groups = tuple(more[0].split(",")) if more else ()
            users[token] = UserInfo(name, uid, groups)
    return users


class StaticTokens:
    """Implements `TokenAuthenticator`."""

    def __init__(self, users: dict[str, UserInfo], audience: AnyAudience) -> None:
        self._users = users
        self._audience = audience

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        user = self._users.get(token)
        if user is None:
            raise ForeignToken(INVALID)
        return VerifiedToken(user, self._audience.matched(audiences))
