"""What a suite said of each of its tests, and how the sides compare."""

import fnmatch
import tomllib
import xml.etree.ElementTree as xml
from collections import Counter
from dataclasses import dataclass, field

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Outcome:
    """How a test ended on one side; of a failure what it said."""

    status: str
    message: str = ""


def from_junit(path):
    """Test name to outcome, of a file that pytest has written. Parts of one test (a failing tear-down) count as one."""
    outcomes = {}
    for case in xml.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        found = Outcome(PASSED)
        for child in case:
            if child.tag in ("failure", "error"):
                found = Outcome(FAILED, f"{child.get('message') or ''}\n{child.text or ''}".strip())
            elif child.tag == "skipped":
                found = Outcome(SKIPPED, child.get("message") or "")
        if name not in outcomes or found.status == FAILED:
            outcomes[name] = found
    return outcomes


class Known:
    """Differences that are explained, from known.toml. What is explained but no longer there is worth knowing too."""

    def __init__(self, path):
        self.entries = tomllib.loads(path.read_text()).get("difference", [])
        self.used = Counter()

    def reason(self, suite, side, test):
        for number, entry in enumerate(self.entries):
            suites, sides = entry.get("suites", ["*"]), entry["modes"]
            is_meant = any(fnmatch.fnmatchcase(suite, pattern) for pattern in suites) and side in sides
            # Brackets stand for themselves: they are part of the names of parametrized tests.
            if is_meant and any(fnmatch.fnmatchcase(test, pattern.replace("[", "[[]")) for pattern in entry["tests"]):
                self.used[number] += 1
                return entry["reason"]
        return None


@dataclass
class Difference:
    """A test that ends otherwise through pgsluice."""

    suite: str
    side: str
    test: str
    direct: Outcome
    proxy: Outcome
    reason: str | None


@dataclass
class Row:
    """One line of the table."""

    suite: str
    title: str
    passed: dict = field(default_factory=dict)
    failed_everywhere: list = field(default_factory=list)
    skipped: int = 0
    differences: list = field(default_factory=list)
    seconds: dict = field(default_factory=dict)


def compare(suite, title, outcomes, known):
    """The row of a suite: `outcomes` is a dict of side to (test to Outcome)."""
    row = Row(suite, title)
    direct = outcomes["direct"]
    row.skipped = sum(outcome.status == SKIPPED for outcome in direct.values())
    for side, tests in outcomes.items():
        row.passed[side] = sum(outcome.status == PASSED for outcome in tests.values())
        if side == "direct":
            continue
        missing = Outcome(FAILED, "the test did not run")
        for test in sorted(direct.keys() | tests.keys()):
            before, after = direct.get(test, missing), tests.get(test, missing)
            # What fails on the direct connection says nothing about another one, also where it then passes.
            if before.status != after.status and before.status != FAILED:
                reason = known.reason(suite, side, test)
                row.differences.append(Difference(suite, side, test, before, after, reason))
    fails = lambda test: all(tests.get(test, Outcome(FAILED)).status == FAILED for tests in outcomes.values())
    row.failed_everywhere = sorted(test for test in direct if fails(test))
    return row
