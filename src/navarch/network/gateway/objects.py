"""The kinds of Gateway API, as far as they are read here. They are custom resources: the schemas in
`crds.json` have checked and completed what comes from the API, so the defaults here are theirs.
A status is kept as it is, since parts of it may belong to other controllers."""

from __future__ import annotations

from typing import Any

import msgspec

from navarch.api.objects import ApiStruct, Object
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta
from navarch.client.client import Client
from navarch.client.objects import Codec
from navarch.client.resource import ResourceClient, ResourcePath
from navarch.network.gateway import GROUP


class Reference(ApiStruct):
    """A reference to an object: parentRefs, backendRefs, certificateRefs. `kind` is completed by
    the schema, as it differs."""

    group: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    sectionName: str = ""
    port: int = 0


class _Named(ApiStruct):
    apiVersion: str = ""
    kind: str = ""
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


class GatewayClassSpec(ApiStruct):
    controllerName: str = ""
    parametersRef: Object | None = None


class GatewayClass(_Named):
    spec: GatewayClassSpec = msgspec.field(default_factory=GatewayClassSpec)
    status: Object = msgspec.field(default_factory=dict)


class RouteNamespaces(ApiStruct):
    from_: str = msgspec.field(default="Same", name="from")
    selector: LabelSelector | None = None


class RouteKind(ApiStruct):
    group: str = GROUP
    kind: str = ""


class AllowedRoutes(ApiStruct):
    namespaces: RouteNamespaces = msgspec.field(default_factory=RouteNamespaces)
    kinds: list[RouteKind] = []


class ListenerTLS(ApiStruct):
    mode: str = "Terminate"
    certificateRefs: list[Reference] = []
    options: dict[str, str] = {}


class Listener(ApiStruct):
    name: str = ""
    hostname: str = ""
    port: int = 0
    protocol: str = ""
    tls: ListenerTLS | None = None
    allowedRoutes: AllowedRoutes = msgspec.field(default_factory=AllowedRoutes)


class Address(ApiStruct):
    type: str = "IPAddress"
    value: str = ""


class Infrastructure(ApiStruct):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    parametersRef: Object | None = None


class GatewaySpec(ApiStruct):
    gatewayClassName: str = ""
    listeners: list[Listener] = []
    addresses: list[Address] = []
    infrastructure: Infrastructure = msgspec.field(default_factory=Infrastructure)
    tls: dict[str, Any] = {}


class Gateway(_Named):
    spec: GatewaySpec = msgspec.field(default_factory=GatewaySpec)
    status: Object = msgspec.field(default_factory=dict)


class HeaderMatch(ApiStruct):
    """Also a query parameter."""

    type: str = "Exact"
    name: str = ""
    value: str = ""


class PathMatch(ApiStruct):
    type: str = "PathPrefix"
    value: str = "/"


class RouteMatch(ApiStruct):
    path: PathMatch = msgspec.field(default_factory=PathMatch)
    headers: list[HeaderMatch] = []
    queryParams: list[HeaderMatch] = []
    method: str = ""


class Header(ApiStruct):
    name: str = ""
    value: str = ""


class HeaderModifier(ApiStruct):
    set: list[Header] = []
    add: list[Header] = []
    remove: list[str] = []


class PathModifier(ApiStruct):
    type: str = ""
    replaceFullPath: str = ""
    replacePrefixMatch: str = ""


class RequestRedirect(ApiStruct):
    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    statusCode: int = 302


class URLRewrite(ApiStruct):
    hostname: str = ""
    path: PathModifier | None = None


class Fraction(ApiStruct):
    numerator: int = 0
    denominator: int = 100


class RequestMirror(ApiStruct):
    backendRef: Reference = msgspec.field(default_factory=Reference)
    percent: int | None = None
    fraction: Fraction | None = None


class CorsFilter(ApiStruct):
    allowOrigins: list[str] = []
    allowCredentials: bool = False
    allowMethods: list[str] = []
    allowHeaders: list[str] = []
    exposeHeaders: list[str] = []
    maxAge: int = 5


class Filter(ApiStruct):
    type: str = ""
    requestHeaderModifier: HeaderModifier | None = None
    responseHeaderModifier: HeaderModifier | None = None
    requestMirror: RequestMirror | None = None
    requestRedirect: RequestRedirect | None = None
    urlRewrite: URLRewrite | None = None
    cors: CorsFilter | None = None


class BackendRef(Reference):
    weight: int = 1
    filters: list[Filter] = []


class RouteTimeouts(ApiStruct):
    request: str = ""
    backendRequest: str = ""


class RouteRule(ApiStruct):
    name: str = ""
    matches: list[RouteMatch] = []
    filters: list[Filter] = []
    backendRefs: list[BackendRef] = []
    timeouts: RouteTimeouts | None = None


class HTTPRouteSpec(ApiStruct):
    parentRefs: list[Reference] = []
    hostnames: list[str] = []
    rules: list[RouteRule] = []


class HTTPRoute(_Named):
    spec: HTTPRouteSpec = msgspec.field(default_factory=HTTPRouteSpec)
    status: Object = msgspec.field(default_factory=dict)


class ReferenceGrantSpec(ApiStruct):
    from_: list[Reference] = msgspec.field(default_factory=list, name="from")
    to: list[Reference] = []


class ReferenceGrant(_Named):
    spec: ReferenceGrantSpec = msgspec.field(default_factory=ReferenceGrantSpec)


class Resources:
    """The kinds at the API."""

    def __init__(self, client: Client) -> None:
        def path(plural: str, namespaced: bool = True, version: str = "v1") -> ResourcePath:
            return ResourcePath(GROUP, version, plural, namespaced)

        self.classes = ResourceClient(client, path("gatewayclasses", False), Codec(GatewayClass))
        self.gateways = ResourceClient(client, path("gateways"), Codec(Gateway))
        self.routes = ResourceClient(client, path("httproutes"), Codec(HTTPRoute))
        self.grants = ResourceClient(
            client, path("referencegrants", version="v1beta1"), Codec(ReferenceGrant)
        )
