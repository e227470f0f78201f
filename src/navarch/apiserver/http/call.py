"""One API call on its way through the server: who, what, and in which form the answer goes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp.web import BaseRequest

from navarch.apiserver.audit.trail import AuditTrail
from navarch.apiserver.contracts import ANONYMOUS, RequestInfo, UserInfo
from navarch.apiserver.http.connection import Connection
from navarch.apiserver.http.negotiation import PLAIN, Representation
from navarch.apiserver.http.request_info import Target, query_flag
from navarch.apiserver.warnings import Warnings

if TYPE_CHECKING:
    from navarch.apiserver.flowcontrol.control import Flow


class Call:
    """The request and what earlier steps found out about it."""

    __slots__ = (
        "audit_id",
        "cors",
        "flow",
        "flow_marks",
        "info",
        "is_expired",
        "representation",
        "request",
        "seats",
        "target",
        "trail",
        "user",
        "warnings",
    )

    def __init__(self, request: BaseRequest, target: Target, audit_id: str) -> None:
        self.request = request
        self.target = target
        self.info: RequestInfo = target.info
        self.audit_id = audit_id
        self.user: UserInfo = ANONYMOUS
        self.representation: Representation = PLAIN
        self.warnings = Warnings()
        self.flow_marks: tuple[str, str] = ("", "")
        """UIDs of the flow schema and the priority level."""
        self.cors: dict[str, str] = {}
        """Headers for a browser's page of another origin."""
        self.flow: Flow | None = None
        self.is_expired = False
        """Its time is over: it is being cancelled for that."""
        self.seats = 0
        """Taken in the flow's priority level."""
        self.trail: AuditTrail | None = None
        """The audit record, None when no rule wants one."""

    @property
    def connection(self) -> Connection:
        """The connection the request came in on."""
        connection = self.request.protocol
        assert isinstance(connection, Connection)
        return connection

    def parameter(self, name: str) -> str:
        """The first value of a query parameter, "" when it is absent."""
        values = self.target.query.get(name)
        return values[0] if values else ""

    def flag(self, name: str) -> bool:
        return query_flag(self.target.query.get(name))

    @property
    def field_manager(self) -> str:
        """The manager that a write is booked under: the parameter, else the program's name."""
        named = self.parameter("fieldManager")
        if named:
            return named
        agent = self.request.headers.get("User-Agent", "")
        program = agent.partition("/")[0]
        if not program.isprintable():
            program = "".join(each for each in program if each.isprintable())
        return program[:128] or "unknown"

    @property
    def wants_indent(self) -> bool:
        """Pretty JSON: asked for, or the client is a person with curl or a browser."""
        query = self.target.query
        if "pretty" in query:
            return query_flag(query["pretty"])
        agent = self.request.headers.get("User-Agent", "")
        return agent.startswith(("curl", "Wget", "Mozilla/5.0"))
