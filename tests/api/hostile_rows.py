"""Which test covers which row of the table of hostile input: `python -m tests.api.hostile_rows`.

A row names test functions (`file:test`) and, after it, the ids of their cases where one function
tries many. `test_hostile_rows.py` holds the table to the tests that there are.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
INPUT = "hostile_input:test_it_is_refused"
REQUESTS = "hostile_requests:test_it_is_refused"
ACCESS = "hostile_access:test_it_is_refused"
APPLY = "hostile_apply:test_it_is_refused"
CUSTOM = "hostile_custom_resources:test_it_is_refused"
HTTP = "hostile_http:test_bad_requests"
PARAMETERS = "hostile_requests:test_odd_parameters_that_are_taken"

ROWS: dict[int, tuple[str, ...]] = {
    1: ("security:test_without_credentials",),
    2: ("hostile_access:test_tokens_that_were_tampered_with",
        "security:test_bad_and_missing_credentials | Bearer unknown"),
    3: ("security:test_bad_and_missing_credentials | Basic | X-Remote-User",),
    4: ("security:test_without_credentials | /healthz | /version | /metrics",),
    5: ("security:test_unknown_paths_tell_nothing_to_those_without_rights",),
    6: ("security:test_impersonation",
        "hostile_custom_resources:test_row_6_headers_that_are_no_text"),
    7: (f"{INPUT} | empty body | half an object | a list | a number | two objects",),
    8: (f"{INPUT} | null",),
    9: (f"{INPUT} | 4 MiB | 4 MiB put | just above 3 MiB",),
    10: (f"{INPUT} | data above 1 MiB | annotations above 256 KiB",),
    11: (f"{INPUT} | a pod beyond what etcd takes",),
    12: (f"{INPUT} | plain text | cbor",),
    13: ("hostile_input:test_it_is_accepted | json without a type | yaml without a type",),
    14: (f"{INPUT} | yaml alias bomb", f"{APPLY} | aliases"),
    15: (f"{INPUT} | json too deep | json objects too deep | yaml too deep",),
    16: ("hostile_input:test_broken_text_is_mended",),
    17: ("hostile_input:test_sloppy_bodies_are_warned_of",
         f"{INPUT} | strict unknown field | strict wrong case | strict duplicate"),
    18: (f"{INPUT} | text for a number | fraction for an int32 | beyond an int32",),
    19: (f"{INPUT} | no quantity",),
    20: (f"{INPUT} | a huge exponent | a tiny exponent",),
    21: (f"{INPUT} | other kind | other version",
         "hostile_input:test_it_is_accepted | without kind and version"),
    22: (f"{INPUT} | protobuf without magic | protobuf cut off",),
    23: (f"{CUSTOM} | row-23 protobuf",),
    24: (f"{INPUT} | gzip body",),
    25: (f"{INPUT} | a role named ..",),
    26: (f"{INPUT} | name as a number",),
    27: (f"{INPUT} | other namespace",),
    28: (f"{INPUT} | missing namespace", "security:test_a_missing_and_an_ending_namespace"),
    29: ("hostile_requests:test_paths_that_lead_nowhere",),
    30: ("hostile_requests:test_odd_names_are_shown_escaped",),
    31: (f"{INPUT} | label key | label value | unqualified finalizer | owner without uid"
         " | two controllers",),
    32: (f"{INPUT} | resourceVersion on create",),
    33: ("hostile_input:test_what_the_server_owns_is_ignored",),
    34: (f"{INPUT} | create what exists",),
    35: (f"{REQUESTS} | post on an object | put on a collection | patch on a collection | trace"
         " | options", f"{HTTP} | connect | a method of nobody | head of a resource"),
    36: (f"{REQUESTS} | delete all namespaces",),
    37: (f"{REQUESTS} | accept ",),
    38: (f"{REQUESTS} | stale | other uid | other name | not there",
         "hostile_requests:test_some_kinds_are_created_by_put"),
    39: (f"{REQUESTS} | revision abc",),
    40: ("hostile_requests:test_some_kinds_are_created_by_put",
         f"{REQUESTS} | no revision where one is needed"),
    41: (f"{REQUESTS} | patch as json | patch of no type",),
    42: (f"{REQUESTS} | json patch: no such path | json patch: test fails"
         " | json patch: unknown operation | json patch: huge index | json patch: copy bomb",),
    43: (f"{REQUESTS} | json patch: no list | json patch: 10 001 steps | json patch: renames",
         "hostile_custom_resources:test_row_43_metadata_elsewhere"),
    44: (f"{REQUESTS} | merge patch null | merge patch list | merge patch 20 000 deep"
         " | strategic patch directive | strategic patch without merge key",),
    45: (f"{REQUESTS} | limit abc | limit beyond 64 bits", f"{PARAMETERS} | limit=-1"),
    46: (f"{REQUESTS} | continue garbage | continue elsewhere | continue with a revision",),
    47: (f"{REQUESTS} | label selector a===b | label selector a in ( | field selector data.k",
         f"{PARAMETERS} | fieldSelector=="),
    48: (f"{REQUESTS} | revision abc | revision -1",),
    49: ("hostile_requests:test_the_future_comes_not",),
    50: (f"{REQUESTS} | match without revision | exactly nothing | unknown match",),
    51: (f"{REQUESTS} | initial events of a list | initial events without match"
         " | match on a watch",),
    52: ("hostile_requests:test_watches_from_nowhere",),
    53: ("hostile_requests:test_watches_from_nowhere",),
    54: (f"{REQUESTS} | watch from abc",),
    55: ("hostile_requests:test_watches_from_nowhere | watch=banana",),
    56: (f"{REQUESTS} | timeout abc | timeoutSeconds abc | timeout of a nanosecond",
         f"{PARAMETERS} | timeout=-1s"),
    57: (f"{PARAMETERS} | unknown=1",),
    58: (f"{REQUESTS} | dryRun=foo | fieldValidation=foo | force on a merge patch",),
    59: (f"{APPLY} | no manager | conflict | managed fields | no kind | other name | stale"
         " | uid of nothing",),
    60: (f"{APPLY} | unknown field",),
    61: (f"{REQUESTS} | uid | revision | policy | two policies | garbage | grace x",),
    62: (f"{REQUESTS} | default | kube-system",),
    63: ("hostile_requests:test_nothing_is_added_to_what_is_being_deleted",),
    64: (f"{ACCESS} | exec in an unscheduled pod | exec in no container",
         "connect:test_exec_without_upgrade_is_refused"),
    65: (f"{ACCESS} | log tail | log limit | log since twice | log of no container",
         "hostile_access:test_a_log_that_cannot_be_yet_is_empty"),
    66: (f"{ACCESS} | proxy to ", "hostile_access:test_nodes_at_addresses_of_our_own"),
    67: (f"{ACCESS} | bind twice | bind to a Foo",),
    68: (f"{ACCESS} | evict nobody | evict the last one",
         "hostile_access:test_the_budget_is_named"),
    69: ("security:test_token_requests_that_are_refused",),
    70: ("security:test_reviews_that_make_no_sense",),
    71: (f"{INPUT} | endpoints  | endpoint slice  | external address  | cluster address off range"
         " | node port 22",),
    72: ("hostile_input:test_external_addresses_are_allowed_with_a_warning",),
    73: (f"{ACCESS} | role beyond own rights | role for every verb | binding to cluster-admin"
         " | binding to nothing", "hostile_access:test_roles_that_gather_rights"),
    74: (f"{ACCESS} | other role of a binding | role without verbs | paths in a role",),
    75: (f"{ACCESS} | certificate for masters",
         "hostile_access:test_who_requests_a_certificate_is_not_for_the_client_to_say"),
    76: (f"{ACCESS} | other node | labels of rank | own taints | own owners | all secrets"
         " | a secret of others | a pod | a mirror pod with a secret | a token of nobody's",
         "hostile_access:test_a_node_reads_the_secret_of_its_pod"),
    77: (f"{INPUT} | host path | subPath | absolute subPath | item path | seccomp profile"
         " | config map key ..x",),
    78: ("security:test_a_restricted_namespace",),
    79: ("webhooks/configurations:test_bad_configurations_are_refused",
         "webhooks/failures:test_broken_webhooks_fail_or_are_passed_over"),
    80: ("validation_rules:test_definitions_that_are_refused | pattern | too dear",
         "validating_policies:test_policies_that_are_refused",
         f"{CUSTOM} | row-80 not structural | row-80 group of others"),
    81: (f"{CUSTOM} | row-81 costly pattern | row-81 wrong type | row-81 strategic merge",
         "validation_rules:test_a_rule_that_runs_too_long_is_cancelled"),
    82: (f"{HTTP} | no host | garbage | bad escape | two lengths | negative length"
         " | CR in a header | length and chunked",),
    83: (f"{HTTP} | unknown coding | HTTP/9.9 | unknown expectation | 2 MiB of header"
         " | 2 MiB of path", "tls:test_plain_http_is_told_so"),
    84: ("hostile_http:test_clients_that_stop",),
}  # fmt: skip


def missing(reference: str) -> list[str]:
    """What a reference names and no file has."""
    place, *cases = reference.split(" | ")
    file, _, function = place.partition(":")
    folder, _, name = file.rpartition("/")
    text = (FOLDER / folder / f"test_{name}.py").read_text()
    found = [] if re.search(rf"^async def {function}\(", text, re.MULTILINE) else [function]
    return found + [case for case in cases if case.strip() not in text]


def main() -> None:
    for number, references in ROWS.items():
        for reference in references:
            print(f"{number:>3}  {reference}")
    print(f"{len(ROWS)} rows of 84")


if __name__ == "__main__":
    main()
