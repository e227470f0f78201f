"""The Corefile: how cluster DNS is configured (ConfigMap kube-system/coredns). Pure.

Users know CoreDNS' file, so this server reads the part of it that a cluster uses:

    example.local:53 {            a server block: names of this zone (the longest match wins)
        errors                    accepted, always on
        log                       each question is logged
        cache 30                  answers of others are kept
        hosts {                   lines as in /etc/hosts
            192.0.2.1 a.example.local
            fallthrough
        }
        rewrite name a.b c.d      (exact, prefix, suffix, substring, regex)
        forward . 192.0.2.53      the resolvers to ask
    }

Everything else is refused by name and line, never left out silently: a file that is not understood
changes nothing, and the last good one stays in force. kube-dns' older ConfigMap (`stubDomains` and
`upstreamNameservers`, both JSON) is read too and becomes further blocks.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from navarch.network.dns.names import StaticHosts
from navarch.network.dns.zone import DEFAULT_TTL, PodNames

MAX_UPSTREAMS = 15
Address = tuple[str, int]


class CorefileError(ValueError):
    """What is wrong, with the line."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Who is asked for names of `zone`."""

    zone: str = ""
    upstreams: tuple[Address, ...] = ()
    resolv_conf: str = ""
    """A file whose name servers are asked too."""
    excluded: tuple[str, ...] = ()
    force_tcp: bool = False
    policy: str = "random"
    max_fails: int = 2
    max_concurrent: int = 1000
    health_check: float = 0.5


@dataclass(frozen=True, slots=True)
class CacheRules:
    """How long and how many answers of others are kept."""

    success: int = 9984
    success_ttl: int = 3600
    denial: int = 9984
    denial_ttl: int = 1800
    min_ttl: int = 5
    denial_min_ttl: int = 5
    servfail_ttl: int = 5
    disabled: tuple[tuple[str, str], ...] = ()
    """`success` or `denial`, and the zone of which no such answers are kept."""


@dataclass(frozen=True, slots=True)
class NameRewrite:
    """`rewrite name`: another name is looked up, and the answer given under the one asked for."""

    kind: str
    pattern: str
    replacement: str
    stop: bool = True

    def apply(self, name: str) -> str | None:
        match self.kind:
            case "exact":
                return self.replacement if name == self.pattern else None
            case "prefix" if name.startswith(self.pattern):
                return self.replacement + name[len(self.pattern) :]
            case "suffix" if name.endswith(self.pattern):
                return name[: -len(self.pattern)] + self.replacement
            case "substring" if self.pattern in name:
                return name.replace(self.pattern, self.replacement)
            case "regex":
                found = _pattern(self.pattern).search(name)
                if found is not None:
                    groups = (found.group(0), *(group or "" for group in found.groups()))
                    return re.sub(r"\{(\d+)\}", lambda m: _group(groups, m[1]), self.replacement)
        return None


def _pattern(pattern: str) -> Any:
    from navarch.api.regex import compiled  # megabytes that few need

    return compiled(pattern)


def _group(groups: Sequence[str], number: str) -> str:
    return groups[int(number)] if int(number) < len(groups) else ""


@dataclass(frozen=True, slots=True)
class KubernetesRules:
    """Which zones are the cluster's, and what is said of pods."""

    zones: tuple[str, ...] = ()
    pods: PodNames = PodNames.DISABLED
    ttl: int = DEFAULT_TTL
    fallthrough: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """One server block, for the names of one or several zones ("" is the root)."""

    zones: tuple[str, ...] = ("",)
    log: bool = False
    cache: CacheRules | None = None
    hosts: StaticHosts | None = None
    rewrites: tuple[NameRewrite, ...] = ()
    kubernetes: KubernetesRules | None = None
    ingress: tuple[str, ...] | None = None
    """The domains whose Ingress hosts are answered; () is all, None is not at all."""
    forward: Forward | None = None
    loop: bool = False
    shuffle: bool = False
    health: tuple[Address, ...] = ()
    ready: tuple[Address, ...] = ()
    metrics: tuple[Address, ...] = ()
    lameduck: float = 0.0


@dataclass(frozen=True, slots=True)
class Corefile:
    blocks: tuple[Block, ...] = field(default_factory=tuple)

    def block_for(self, labels: Sequence[str]) -> Block | None:
        """The block with the longest zone that the name is in."""
        best: tuple[int, Block] | None = None
        for block in self.blocks:
            for zone in block.zones:
                parts = zone.split(".") if zone else []
                if parts and list(labels[-len(parts) :]) != parts:
                    continue
                if best is None or len(parts) > best[0]:
                    best = (len(parts), block)
        return best[1] if best else None

    @property
    def kubernetes(self) -> KubernetesRules:
        rules = (block.kubernetes for block in self.blocks if block.kubernetes)
        return next(rules, KubernetesRules())


@dataclass(frozen=True, slots=True)
class Directive:
    """One line and what stands in braces behind it."""

    line: int
    words: tuple[str, ...]
    inner: tuple[Directive, ...] = ()

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[1:]

    def fail(self, why: str) -> CorefileError:
        return CorefileError(f"line {self.line}: {self.name}: {why}")


def _tokens(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="")
            lexer.whitespace_split, lexer.commenters, lexer.escape = True, "#", ""
            lexer.quotes = '"'
            words = list(lexer)
        except ValueError as error:
            raise CorefileError(f"line {number}: {error}") from error
        if words:
            yield number, words


def _directives(lines: Iterator[tuple[int, list[str]]], inside: bool) -> tuple[Directive, ...]:
    found: list[Directive] = []
    for number, words in lines:
        if words == ["}"]:
            if not inside:
                raise CorefileError(f"line {number}: a brace is closed that was not opened")
            return tuple(found)
        if "}" in words or "{" in words[:-1]:
            raise CorefileError(
                f"line {number}: a brace opens at the end of a line, and closes alone"
            )
        if words[-1] == "{":
            if len(words) == 1:
                raise CorefileError(f"line {number}: a brace belongs behind a name")
            found.append(Directive(number, tuple(words[:-1]), _directives(lines, True)))
        else:
            found.append(Directive(number, tuple(words)))
    if inside:
        raise CorefileError("a brace is not closed")
    return tuple(found)


def parse_corefile(text: str) -> Corefile:
    """Read a Corefile. Raises CorefileError."""
    blocks = []
    seen: set[str] = set()
    for directive in _directives(_tokens(text), False):
        if directive.name == "import":
            raise directive.fail("is not supported")
        if directive.name.startswith("("):
            raise directive.fail("snippets are not supported")
        block = Block(tuple(_zone_key(directive, word) for word in directive.words))
        if twice := seen.intersection(block.zones):
            raise directive.fail(f"the zone {min(twice) or '.'} has a block already")
        seen.update(block.zones)
        named: set[str] = set()
        for each in directive.inner:
            if each.name not in _PLUGINS:
                raise each.fail("is not supported")
            if each.name in named and each.name != "rewrite":
                raise each.fail("can be given once in a block")
            named.add(each.name)
            block = _PLUGINS[each.name](block, each)
        blocks.append(block)
    if not blocks:
        raise CorefileError("there is no server block")
    return Corefile(tuple(blocks))


def _zone_key(directive: Directive, word: str) -> str:
    word = word.rstrip(",").removeprefix("dns://")
    if "://" in word:
        raise directive.fail("only plain DNS is served")
    zone, _, port = word.partition(":")
    if port not in ("", "53"):
        raise directive.fail(f"port {port} is not served")
    if "/" in zone:
        try:
            return _reverse_zone(zone)
        except ValueError as error:
            raise directive.fail(str(error)) from error
    return zone.lower().strip(".")


def _reverse_zone(network: str) -> str:
    parsed = ipaddress.ip_network(network)
    step = 8 if parsed.version == 4 else 4
    if parsed.prefixlen % step:
        raise ValueError(f"a reverse zone ends at a multiple of {step} bits")
    labels = parsed.network_address.reverse_pointer.split(".")
    return ".".join(labels[(parsed.max_prefixlen - parsed.prefixlen) // step :])


def _zones(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word.lower().strip(".") for word in words)


def _number(directive: Directive, text: str, most: int = 1 << 31) -> int:
    try:
        value = int(text)
    except ValueError:
        raise directive.fail(f"{text!r} is no number") from None
    if not 0 <= value <= most:
        raise directive.fail(f"{text} is not between 0 and {most}")
    return value


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(directive: Directive, text: str) -> float:
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h))+", text)
    if found is None:
        raise directive.fail(f"{text!r} is no duration")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    return sum(float(value) * _UNITS[unit] for value, unit in parts)


def _socket(directive: Directive, default: int) -> Address:
    """`:9153` or `address:9153`."""
    if not directive.arguments:
        return "", default
    host, _, port = directive.arguments[0].rpartition(":")
    return host.strip("[]"), _number(directive, port, 65535)


def upstream_of(text: str) -> Address:
    """An upstream's address and port. Raises ValueError."""
    text = text.removeprefix("dns://")
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, port = text.split(":")
    return str(ipaddress.ip_address(host.partition("%")[0])), int(port)


def _accept(block: Block, directive: Directive) -> Block:
    """What this server always does, or never needs."""
    return block


def _log(block: Block, directive: Directive) -> Block:
    if directive.arguments or directive.inner:
        raise directive.fail("takes no arguments")
    return replace(block, log=True)


def _health(block: Block, directive: Directive) -> Block:
    lameduck = 0.0
    for each in directive.inner:
        if each.name != "lameduck" or len(each.arguments) != 1:
            raise each.fail("is not supported in health")
        lameduck = _duration(each, each.arguments[0])
    return replace(block, health=(_socket(directive, 8080),), lameduck=lameduck)


def _ready(block: Block, directive: Directive) -> Block:
    return replace(block, ready=(_socket(directive, 8181),))


def _prometheus(block: Block, directive: Directive) -> Block:
    return replace(block, metrics=(_socket(directive, 9153),))


def _loadbalance(block: Block, directive: Directive) -> Block:
    if directive.arguments not in ((), ("round_robin",)) or directive.inner:
        raise directive.fail("only round_robin is supported")
    return replace(block, shuffle=True)


_CACHE_FIELDS = {
    "success": ("success", "success_ttl", "min_ttl"),
    "denial": ("denial", "denial_ttl", "denial_min_ttl"),
}


def _cache(block: Block, directive: Directive) -> Block:
    rules = CacheRules()
    words = directive.arguments
    if words and words[0].isdigit():
        most = _number(directive, words[0])
        rules = replace(rules, success_ttl=most, denial_ttl=min(most, rules.denial_ttl))
    elif words:
        raise directive.fail("zones are not supported, write a block for each")
    for each in directive.inner:
        if each.name in _CACHE_FIELDS and 1 <= len(each.arguments) <= 3:
            numbers = [_number(each, word) for word in each.arguments]
            named: dict[str, Any] = dict(zip(_CACHE_FIELDS[each.name], numbers, strict=False))
            rules = replace(rules, **named)
        elif each.name == "disable" and each.arguments[:1] in (("success",), ("denial",)):
            zones = _zones(each.arguments[1:]) or ("",)
            more = tuple((each.arguments[0], zone) for zone in zones)
            rules = replace(rules, disabled=(*rules.disabled, *more))
        elif each.name == "servfail" and len(each.arguments) == 1:
            text = each.arguments[0]
            seconds = 0.0 if text == "0" else _duration(each, text)
            if seconds > 300:
                raise each.fail("is at most 5 minutes")
            rules = replace(rules, servfail_ttl=int(seconds))
        else:
            raise each.fail("is not supported in cache")
    return replace(block, cache=rules)


def _kubernetes(block: Block, directive: Directive) -> Block:
    rules = KubernetesRules(_zones(directive.arguments) or block.zones)
    for each in directive.inner:
        words = each.arguments
        if (
            each.name == "pods"
            and len(words) == 1
            and words[0] in ("disabled", "insecure", "verified")
        ):
            rules = replace(rules, pods=PodNames(words[0]))
        elif each.name == "ttl" and len(words) == 1:
            rules = replace(rules, ttl=_number(each, words[0], 3600))
        elif each.name == "fallthrough":
            rules = replace(rules, fallthrough=_zones(words))
        elif each.name not in ("endpoint_pod_names",) or words:
            raise each.fail("is not supported in kubernetes")
    return replace(block, kubernetes=rules)


def _ingress(block: Block, directive: Directive) -> Block:
    return replace(block, ingress=_zones(directive.arguments))


def _forward(block: Block, directive: Directive) -> Block:
    if len(directive.arguments) < 2:
        raise directive.fail("needs a zone and at least one resolver")
    forward = Forward(zone=directive.arguments[0].lower().strip("."))
    upstreams: list[Address] = []
    for word in directive.arguments[1:]:
        if word.startswith("/"):
            forward = replace(forward, resolv_conf=word)
            continue
        try:
            upstreams.append(upstream_of(word))
        except ValueError:
            raise directive.fail(f"{word!r} is neither an address nor a file") from None
    if len(upstreams) > MAX_UPSTREAMS:
        raise directive.fail(f"at most {MAX_UPSTREAMS} resolvers")
    forward = replace(forward, upstreams=tuple(upstreams))
    for each in directive.inner:
        forward = _forward_option(forward, each)
    return replace(block, forward=forward)


def _forward_option(forward: Forward, each: Directive) -> Forward:
    words = each.arguments
    match each.name:
        case "except":
            return replace(forward, excluded=_zones(words))
        case "force_tcp" if not words:
            return replace(forward, force_tcp=True)
        case "prefer_udp" if not words:
            return forward
        case "expire" if len(words) == 1:
            _duration(each, words[0])
            return forward
        case "policy" if words and words[0] in ("random", "round_robin", "sequential"):
            return replace(forward, policy=words[0])
        case "max_fails" if len(words) == 1:
            return replace(forward, max_fails=_number(each, words[0]))
        case "max_concurrent" if len(words) == 1:
            return replace(forward, max_concurrent=_number(each, words[0]))
        case "health_check" if len(words) == 1:
            return replace(forward, health_check=_duration(each, words[0]))
    raise each.fail("is not supported in forward")


def _hosts(block: Block, directive: Directive) -> Block:
    if directive.arguments and directive.arguments[0].startswith("/"):
        raise directive.fail("files are not read, write the lines here")
    hosts = StaticHosts(zones=_zones(directive.arguments))
    lines: list[tuple[str, tuple[str, ...]]] = []
    for each in directive.inner:
        words = each.arguments
        if each.name == "fallthrough":
            hosts = replace(hosts, fallthrough=_zones(words))
        elif each.name == "ttl" and len(words) == 1:
            hosts = replace(hosts, ttl=_number(each, words[0], 65535))
        elif each.name == "no_reverse" and not words:
            hosts = replace(hosts, reverse=False)
        elif each.name == "reload" and len(words) == 1:
            continue  # there is no file
        else:
            try:
                lines.append((str(ipaddress.ip_address(each.name)), _zones(words)))
            except ValueError:
                raise each.fail("is not supported in hosts") from None
    return replace(block, hosts=replace(hosts, lines=tuple(lines)))


def _rewrite(block: Block, directive: Directive) -> Block:
    words = list(directive.arguments)
    stop = True
    if words and words[0] in ("stop", "continue"):
        stop = words.pop(0) == "stop"
    if not words or words.pop(0) != "name" or directive.inner:
        raise directive.fail("only one-line `rewrite name` is supported")
    kind = "exact"
    if len(words) > 2 and words[0] in ("exact", "prefix", "suffix", "substring", "regex"):
        kind = words.pop(0)
    if len(words) == 4 and words[2:] == ["answer", "auto"]:
        words = words[:2]
    if len(words) != 2:
        raise directive.fail("needs a name and what takes its place")
    old, new = words
    if kind == "regex":
        try:
            _pattern(old)
        except ValueError as error:
            raise directive.fail(str(error)) from error
        new = new.rstrip(".")
    elif kind == "exact":
        old, new = old.lower().strip("."), new.lower().strip(".")
    else:
        old, new = old.lower(), new.lower()
        if kind == "suffix":
            old, new = old.rstrip("."), new.rstrip(".")
    rule = NameRewrite(kind, old, new, stop)
    return replace(block, rewrites=(*block.rewrites, rule))


_PLUGINS: Mapping[str, Callable[[Block, Directive], Block]] = {
    "any": _accept,
    "bufsize": _accept,
    "cache": _cache,
    "errors": _accept,
    "forward": _forward,
    "health": _health,
    "hosts": _hosts,
    "ingress": _ingress,
    "kubernetes": _kubernetes,
    "loadbalance": _loadbalance,
    "log": _log,
    "loop": lambda block, directive: replace(block, loop=True),
    "prometheus": _prometheus,
    "ready": _ready,
    "reload": _accept,
    "rewrite": _rewrite,
}


def with_kube_dns(corefile: Corefile, data: Mapping[str, str]) -> Corefile:
    """A Corefile with what kube-dns' ConfigMap adds: a block for every stub domain, and other
    resolvers for the rest. Raises CorefileError."""
    blocks = list(corefile.blocks)
    try:
        stubs = json.loads(data.get("stubDomains") or "{}")
        others = json.loads(data.get("upstreamNameservers") or "[]")
        upstreams = {
            zone.lower().strip("."): tuple(upstream_of(each) for each in servers)
            for zone, servers in stubs.items()
        }
        general = tuple(upstream_of(each) for each in others)
    except (ValueError, AttributeError, TypeError) as error:
        raise CorefileError(f"stubDomains or upstreamNameservers: {error}") from error
    if general:
        blocks = [
            replace(block, forward=replace(block.forward, upstreams=general, resolv_conf=""))
            if block.forward and "" in block.zones
            else block
            for block in blocks
        ]
    cache = next((block.cache for block in blocks if block.cache), CacheRules())
    taken = {zone for block in blocks for zone in block.zones}
    for zone, servers in upstreams.items():
        if zone not in taken and servers:
            blocks.append(Block((zone,), cache=cache, forward=Forward(upstreams=servers)))
    return Corefile(tuple(blocks))
