"""Writes `docs/conformance.md`: each test of the official conformance suite, the tests of ours
that assert what it asserts, and whether they pass.

    python tools/conformance.py            # without real clusters: two minutes
    python tools/conformance.py --cluster  # those as well; needs root
    python tools/conformance.py --list     # says what no test covers, and runs none

A test of ours names what it covers by `@pytest.mark.conformance("<name>", ...)`; `conformance.tsv`
holds the suite's names for Kubernetes v1.36.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "conformance.md"

INTRODUCTION = """\
# Conformance

The {total} tests of the official conformance suite of Kubernetes v1.36, and the tests in `tests/`
that assert, against a running API server or cluster, what each of them asserts. The page is made by
`python tools/conformance.py --cluster`, which runs these tests; with `--list` it says what no test
covers.

States: **passes**, all tests of ours that cover it pass; **fails**, one of them does not; **not
run**, one was skipped; **not covered**, no test of ours asserts the same, whether Navarch does it
or not.

| group | tests | covered and passing |
| --- | ---: | ---: |
"""

SECTION = """
## {group}

| conformance test | covered by | state |
| --- | --- | --- |
{body}
"""

Outcomes = Mapping[str, Mapping[str, str]]


def run_tests(*options: str) -> Outcomes:
    """Runs the marked tests; says for each test of the suite which of ours ended how."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        command = [sys.executable, "-m", "pytest", f"--conformance-results={results}", *options]
        ended = subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr)
        if ended.returncode not in (0, 1):  # 1: tests have failed, which is an outcome
            sys.exit("pytest could not run all tests")
        outcomes: Outcomes = json.loads(results.read_text())
        return outcomes


def state(tests: Mapping[str, str]) -> str:
    outcomes = {*tests.values()}
    for outcome, words in (("failed", "fails"), ("skipped", "not run"), ("passed", "passes")):
        if outcome in outcomes:
            return words
    return "not covered"


def page(suite: list[tuple[str, str]], outcomes: Outcomes) -> str:
    """The page; `suite` holds (group, name) sorted by group."""
    summary = [INTRODUCTION.format(total=len(suite))]
    sections = []
    for group, rows in groupby(suite, key=lambda row: row[0]):
        lines = []
        for _, name in rows:
            tests = outcomes.get(name, {})
            covered_by = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in sorted(tests))
            text = name.replace("|", "\\|").replace("<", "&lt;")
            lines.append((f"| {text} | {covered_by} | {state(tests)} |", state(tests)))
        passing = sum(outcome == "passes" for _, outcome in lines)
        summary.append(f"| {group} | {len(lines)} | {passing} |\n")
        body = "\n".join(line for line, _ in lines)
        sections.append(SECTION.format(group=group, body=body))
    return "".join(summary + sections)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/conformance.md.")
    parser.add_argument("--cluster", action="store_true", help="run tests on real clusters too")
    parser.add_argument("--list", action="store_true", help="only say what no test covers")
    options = parser.parse_args()
    listed = Path(__file__).with_name("conformance.tsv").read_text().splitlines()
    suite = [(group, name) for group, _, name in (line.partition("\t") for line in listed)]
    if options.list:
        covered = run_tests("-m", "conformance", "--collect-only", "-qq", "-n0")
        sys.stdout.writelines(f"{group}\t{name}\n" for group, name in suite if name not in covered)
        return
    which = "conformance" if options.cluster else "conformance and not cluster"
    PAGE.write_text(page(suite, run_tests("-m", which)))


if __name__ == "__main__":
    main()
