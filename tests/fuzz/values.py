# ruff: noqa: E501 - tables, read best in the width they have
"""Odd values, by what they pretend to be: each list has good ones, edge cases and nonsense."""

from __future__ import annotations

from typing import Any

QUANTITIES: list[Any] = [
    "1", "100m", "1Gi", "0", "-1", "1e3", "1E", "1.5Gi", ".5", "5.", "+5", "1zz", "", " 1", "1e999999999",
    "1e-999999999", "9" * 400, "0." + "0" * 400 + "1", "NaN", "Inf", "1Ki Mi", "１", 5, 0.5, 1e300, True,
]  # fmt: skip
TIMES: list[Any] = [
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
    "2026-02-30T00:00:00Z", "2026-01-01T00:00:00+23:59", "2026-01-01T00:00:00-99:99", "0000-00-00T00:00:00Z",
    "99999-01-01T00:00:00Z", "2026-01-01t00:00:00z", "2026-01-01T24:00:00Z", "2026-12-31T23:59:60Z", "now", "",
    "2026-01-01T00:00:00." + "9" * 50 + "Z", 0, -1, 1e20,
]  # fmt: skip
DURATIONS: list[Any] = [
    "1s",
    "1h30m",
    "-1s",
    "1ns",
    "1e3s",
    "9" * 30 + "h",
    "",
    "1",
    ".5s",
    "1µs",
    5,
]
NAMES: list[Any] = [
    "a", "there", "a.b", "a-b", "A", "..", ".", "a/b", "a%b", "-a", "x" * 253, "x" * 254, "a\n", "a\0", "é",
    "kubernetes.io/x", "a" * 63, "a" * 64, "1", "0x1", "null", "true", "*", "a b", "\u202e", "\ud800", "a:b",
]  # fmt: skip
ADDRESSES: list[Any] = [
    "127.0.0.1", "::1", "10.1.2.3", "010.0.0.1", "169.254.169.254", "fe80::1%eth0", "::ffff:127.0.0.1", "0.0.0.0",
    "256.1.1.1", "1.2.3", "::", "fd00::1", "1.2.3.4/32", "0x7f.1", "2130706433", "", "None", "localhost",
]  # fmt: skip
CIDRS: list[Any] = [
    "10.0.0.0/8", "10.0.0.1/8", "fd00::/64", "0.0.0.0/0", "::/0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0",
    "/", "10.0.0.0/08", "::ffff:10.0.0.0/104", "10.0.0.0/99999999999999999999", "",
]  # fmt: skip
PATTERNS: list[Any] = [
    "^a+$", "^(a+)+$", "(", "[", "a{1000}{1000}", "(?=a)", r"\1", r"\p{Greek}", "a{2,1}", "*", "(?i)a", r"\C",
    "(?P<n>a)(?P<n>b)", "a" * 5000, "(" * 300 + ")" * 300, "", r"\Q[", "[[:alpha:]]", r"\x{110000}", "\0",
]  # fmt: skip
EXPRESSIONS: list[Any] = [
    "true", "self.a == 'x'", "1/0 == 1", "object.metadata.name.size() < 5", "has(self.a)", "self", "", "(", "a.b.c",
    "[1,2,3].all(x, x > 0)", "'a'.matches('(a+)+$')", "self.all(x, self.all(y, self.all(z, true)))", "1 == 'a'",
    "oldSelf == self", "!" * 500 + "true", "(" * 300 + "1" + ")" * 300, "9999999999999999999", "1.0e999 > 0.0",
    "duration('1e9h')", "timestamp('x')", "quantity('1zz')", "'\\ud800'", "b'\\xff'", "1 ? 2 : 3", "[1,'a',{}]",
    "string(9) + 'x'", "{'a': 1}.a", "int('x')", "9223372036854775807 + 1 > 0", "-9223372036854775808 / -1 > 0",
    "'a'.repeat(5)", "ip('1.2.3.4').family()", "cidr('x')", "url('http://[')", "format.dns1123Label().value()",
    "'%d'.format([1.5])", "[3,1].sort()", "self.spec.replicas % 0", "variables.x", "params.y", "authorizer.path('')",
    "request.userInfo.groups.exists(g, g == 'x')", "true" + " && true" * 400, "optional.of(1).orValue(2)",
    "has(self)", "type(1) == int", "dyn(1) == '1'", "a\n//c", "self[0]", "self.?x", "JSONPatch{op: 'add'}",
]  # fmt: skip
SCHEDULES: list[Any] = [
    "*/5 * * * *", "@hourly", "@every 1h", "60 * * * *", "* * *", "*/0 * * * *", "1-100000000 * * * *", "",
    "TZ=UTC * * * * *", "0 0 31 2 *", "* * * * * *", "-1 * * * *", "a b c d e", "@every -1s", "*/99999999999 * * * *",
]  # fmt: skip
SELECTORS: list[Any] = [
    "a=b", "a", "!a", "a in (b,c)", "a notin ()", "a>5", "a<x", "a===b", "a in (", ",", "a=b,,c", "x" * 400, "a==",
    "=", "a in ((", "a!=b,!c", "é=é", "a=\0", "metadata.name=there", "metadata.name!=a,metadata.namespace=default",
    "spec.nodeName=", "status.phase=Running", "\\", "a=b\\,c", "metadata.name", "metadata.name=" + "a" * 3000,
]  # fmt: skip
URLS: list[Any] = [
    "https://x.example/", "http://x", "", "https://", "https://user:p@x/", "//x", "https://[::1", "https://x:99999",
    "https://x/?a#b", "x", "javascript:1", "https://\0",
]  # fmt: skip
STRINGS: list[Any] = [
    "", "x", "Always", "Never", "TCP", "ClusterIP", "None", "0", "-1", "100%", "101%", "-5%", "%", "1e3%", " ",
    "\0", "\u0000\uffff", "\U0001f600" * 20, "x" * 70_000, "../../etc/passwd", "/a/../b", "$(A)", "{{.}}", "%s%n",
    "\r\nX: y", "null", "<script>", "YWJj", "YQ=", "%%%", "v1", "apps/v1", "a/b/c", "*", "**", "a,b", "application/json",
]  # fmt: skip
INTEGERS: list[Any] = [
    0, 1, 2, 5, 80, 443, 8080, -1, 22, 65535, 65536, 30000, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, 2**63,
    -(2**63), 2**64, 10**40,
]  # fmt: skip
FLOATS: list[Any] = [0.5, -0.0, 1e308, 80.5, 1.0, 1e-320, 3e9]

BY_FIELD = {
    "expression": EXPRESSIONS, "rule": EXPRESSIONS, "messageexpression": EXPRESSIONS, "valueexpression": EXPRESSIONS,
    "pattern": PATTERNS, "schedule": SCHEDULES, "cidr": CIDRS, "except": CIDRS, "cidrs": CIDRS,
    "podcidr": CIDRS, "podcidrs": CIDRS, "loadbalancersourceranges": CIDRS, "ip": ADDRESSES, "ips": ADDRESSES,
    "hostip": ADDRESSES, "podip": ADDRESSES, "addresses": ADDRESSES, "address": ADDRESSES, "externalips": ADDRESSES,
    "clusterip": ADDRESSES, "clusterips": ADDRESSES, "nameservers": ADDRESSES, "loadbalancerip": ADDRESSES,
    "name": NAMES, "namespace": NAMES, "generatename": NAMES, "key": NAMES, "labelselector": SELECTORS,
    "fieldselector": SELECTORS, "selector": SELECTORS, "url": URLS, "duration": DURATIONS, "labels": NAMES,
    "finalizers": NAMES, "hostname": NAMES, "nodename": NAMES, "servicename": NAMES,
}  # fmt: skip
"""What a text is likely to be, by the name of its field in lower case."""

EVERYTHING: list[list[Any]] = [
    QUANTITIES, TIMES, DURATIONS, NAMES, ADDRESSES, CIDRS, PATTERNS, EXPRESSIONS, SCHEDULES, SELECTORS, URLS,
    STRINGS, INTEGERS, FLOATS, [None, True, False, [], {}, [None], [[]], {"": ""}, {"a": None}, [{}], {"$patch": "x"}],
]  # fmt: skip

QUERY: dict[str, list[Any]] = {
    "limit": [1, 3, 500, 0, -1, "abc", "9" * 25, ""],
    "continue": ["x", "", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0",
                 "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiYSJ9", "eyJ2IjpbXX0", "bnVsbA", "MQ", "=" * 90],
    "resourceVersion": ["0", "1", "5", "", "abc", "-1", "1.5", "9" * 30, "0x5", " 1"],
    "resourceVersionMatch": ["Exact", "NotOlderThan", "x", ""],
    "sendInitialEvents": ["true", "false", "x", ""],
    "allowWatchBookmarks": ["true", "0", "x"],
    "labelSelector": SELECTORS, "fieldSelector": SELECTORS, "dryRun": ["All", "foo", "", "All,All"],
    "fieldManager": ["me", "x" * 129, "a\a", "", "é"], "force": ["true", "false", "x", ""],
    "fieldValidation": ["Strict", "Warn", "Ignore", "x", ""], "timeout": ["1s", "abc", "-1s", "1ns", "0", "9h9"],
    "timeoutSeconds": [1, "abc", "-1", "9" * 30, ""], "watch": ["0", "false", "1", "banana", ""],
    "propagationPolicy": ["Orphan", "Foreground", "Background", "x"], "gracePeriodSeconds": [0, 5, -1, "x", "9" * 30],
    "orphanDependents": ["true", "x"], "pretty": ["true", "x", ""], "includeObject": ["None", "Object", "x"],
    "container": NAMES, "tailLines": INTEGERS, "limitBytes": INTEGERS, "sinceSeconds": INTEGERS, "sinceTime": TIMES,
    "follow": ["x"], "command": ["ls", "", "\0"], "stdin": ["1", "x"], "stdout": ["1"], "ports": ["80", "x", "-1", "99999"],
    "ignoreStoreReadErrorWithClusterBreakingPotential": ["true", "x"], "shardSelector": SELECTORS, "verbose": [""],
    "exclude": ["etcd", "\0"], "unknown": STRINGS, "": [""],
}  # fmt: skip

ACCEPTS = [
    "*/*", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "text/html", ";;;=,,", "",
    "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json", "application/cbor",
    "application/json;as=Table;v=v9;g=meta.k8s.io", "application/yaml;as=Table;v=v1;g=meta.k8s.io",
    "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch,application/json", "a/b/c;q=x",
    "application/json;q=0", "application/*", ",".join(["application/json;as=x"] * 300), "text/plain;q=1,*/*;q=0.1",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
]  # fmt: skip
BODY_TYPES = [
    "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/json; charset=latin-1",
    "text/plain", "application/cbor", "", ";", "application/json;a=\"", "APPLICATION/JSON", "application/x-www-form-urlencoded",
    "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json",
    "application/apply-patch+yaml", "application/apply-patch+cbor", "multipart/form-data",
]  # fmt: skip
BODIES = [
    b"", b"null", b"[]", b"\xef\xbb\xbf{}", b"%YAML 1.1\n---\n", b"a: &a [*a]", b"--- a\n--- b", b"? [a]\n: b",
    b"!!binary x", b"\xff\xfe{\0}\0", b"<<: {a: b}", b"- - - -", b"1", b'"',
]  # fmt: skip
HEADERS: dict[str, list[str]] = {
    "Authorization": ["Bearer x", "Bearer ", "Basic eDp4", "Bearer " + "." * 3000, "x", "Bearer a.b.c",
                      "Bearer eyJhbGciOiJub25lIn0.e30."],
    "Impersonate-User": ["ann", "", "system:anonymous", "system:serviceaccount:a", "é"],
    "Impersonate-Group": ["system:masters", ""], "Impersonate-Uid": ["1"], "Impersonate-Extra-%zz": ["x"],
    "X-Remote-User": ["root"], "Accept-Encoding": ["gzip", "br;q=1, gzip;q=0", "x", "gzip;q=a"],
    "Content-Encoding": ["gzip", "deflate", "br", "x"], "If-None-Match": ['"x"', "*", "x" * 999],
    "Range": ["bytes=0-1"], "Cookie": ["a=b;" * 300], "Audit-Id": ["x" * 999, "é"], "User-Agent": ["", "x" * 9999],
    "Origin": ["null", "https://x.example"], "Upgrade": ["websocket", "SPDY/3.1", "h2c", "x"],
    "Connection": ["Upgrade", "close", "keep-alive, Upgrade", "x"], "Sec-WebSocket-Key": ["x", "AAAAAAAAAAAAAAAAAAAAAA=="],
    "Sec-WebSocket-Version": ["13", "8", "x"], "Sec-WebSocket-Protocol": ["v5.channel.k8s.io", "x", "base64url.bearer.authorization.k8s.io.eA"],
    "X-Stream-Protocol-Version": ["v4.channel.k8s.io", "x"], "X-Forwarded-For": ["x" * 500], "Expect": ["100-continue", "x"],
    "Traceparent": ["00-" + "0" * 32 + "-0000000000000000-01", "x"],
}  # fmt: skip
PLACES = [
    "/", "/api", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1", "/version", "/healthz", "/livez/ping", "/readyz",
    "/metrics", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1", "/openapi/v3/api/v1?hash=x", "/openapi/v3/x",
    "/logs", "/debug/pprof/", "/debug/api_priority_and_fairness/dump_queues", "/.well-known/openid-configuration",
    "/openid/v1/jwks", "/apis/none/v1", "/apis/apps/v9/x", "/api/v2/pods", "/swagger.json", "/index.html", "/metrics/slis",
    "/statusz", "/flagz", "/configz", "//", "/..", "/%2e%2e/", "/api/v1/watch/pods", "/api/v1/proxy/namespaces/default/pods/a",
    "/api/v1/namespaces/default/pods/a/b/c/d", "/apis/" + "x" * 3000, "/api/v1/namespaces//pods", "/%00", "/api/%zz", "/a b",
    "/apis/fuzz.example/v1", "/apis/fuzz.example/v1/namespaces/default/things/a/nothing",
]  # fmt: skip
