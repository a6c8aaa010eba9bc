"""The suites: whose tests they are, what they need, and how they are run against a target."""

import argparse
import difflib
import json
import re
import subprocess
import sys
from pathlib import Path

import rust_tests
from results import FAILED, PASSED, Outcome, from_junit
from stand import CannotRun

HERE = Path(__file__).resolve().parent
SUITE_TIMEOUT = 3600  # seconds; each test has its own, shorter limit
TEST_TIMEOUT = 120


class Suite:
    """One suite. `prepare` runs on the primary before it, in `database`; `run` returns test name to Outcome."""

    def __init__(self, name, title, run, statements=(), database=None):
        self.name, self.title, self.run = name, title, run
        self.statements, self.database = statements, database

    def prepare(self, stand):
        for statement in self.statements:
            stand.sql(statement, self.database)


class Work:
    """What a suite's run is given beside its target."""

    def __init__(self, tools, out, select):
        self.tools, self.out, self.select = tools, Path(out), select

    def command(self, arguments, environment, cwd, log="output.log", limit=SUITE_TIMEOUT):
        """Runs a program to its end, politely; its output goes to a file. Returns the exit status."""
        with open(self.out / log, "wb") as output:
            try:
                done = subprocess.run(
                    ["nice", *map(str, arguments)], env=environment, cwd=cwd, stdin=subprocess.DEVNULL,
                    stdout=output, stderr=subprocess.STDOUT, timeout=limit,
                )
            except subprocess.TimeoutExpired:
                output.write(f"\nended after {limit} s\n".encode())
                return None
        return done.returncode

    def tail(self, log="output.log"):
        return (self.out / log).read_text(errors="replace")[-3000:]

    def judged(self, name, target, steps, is_good=lambda text: True):
        """Directly a step has passed when `is_good`; through pgsluice, when it also shows the same."""
        if target.side == "direct":
            self.tools.transcripts[name] = steps
        direct, outcomes = self.tools.transcripts[name], {}
        for step, text in steps.items():
            (self.out / f"{step}.txt").write_text(text)
            if not is_good(text):
                outcomes[step] = Outcome(FAILED, text[-3000:])
            elif step in direct and direct[step] != text:
                outcomes[step] = Outcome(FAILED, difference(direct[step], text))
            else:
                outcomes[step] = Outcome(PASSED)
        return outcomes

    def pytest(self, target, folder, arguments, environment=None):
        report = self.out / "junit.xml"
        report.unlink(missing_ok=True)
        command = [
            self.tools.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_TIMEOUT}",
            "-o", "junit_family=xunit1", f"--junitxml={report}", *arguments,
        ]
        if self.select:
            command += ["-k", self.select]
        self.command(command, target.environment() | (environment or {}), folder)
        if not report.exists():
            raise CannotRun(f"pytest wrote no report:\n{self.tail()}")
        return from_junit(report)


def difference(direct, here):
    lines = difflib.unified_diff(direct.splitlines(), here.splitlines(), "directly", "here", lineterm="", n=2)
    return "it shows something else:\n" + "\n".join(list(lines)[:60])


def asyncpg(target, work):
    return work.pytest(target, work.tools.source("asyncpg"), ["tests"])


def psycopg2(target, work):
    environment = {
        "PSYCOPG2_TESTDB": target.database,
        "PSYCOPG2_TESTDB_HOST": target.host,
        "PSYCOPG2_TESTDB_PORT": str(target.port),
        "PSYCOPG2_TESTDB_USER": target.user,
        "PSYCOPG2_TESTDB_PASSWORD": target.password,
    }
    # The package's own folder would hide the built one.
    return work.pytest(target, work.tools.source("psycopg2"), ["tests"], environment)


def pg8000(target, work):
    ignored = ["--ignore=test/test_readme.py", *(f"--ignore=test/{kind}/auth" for kind in ("dbapi", "legacy", "native"))]
    return work.pytest(target, work.tools.source("pg8000"), ["test", "--benchmark-disable", *ignored])


# Left out are tests that reach no server (Compilation), and thousands of permutations of one and the same: of the
# kinds of ranges one is enough, and of reflection the tests that ask for one relation.
SQLALCHEMY_TESTS = "not get_multi and not Compilation and not (RangeRoundTrip and not Int4RangeRoundTrip)"


def sqlalchemy(scheme, *tests):
    def run(target, work):
        # The compiler's tests reach no server.
        arguments = [
            "-p", "no:logging", "--maxfail=10000", "--dropfirst", f"--dburi={target.url(scheme)}",
            "--ignore=test/dialect/postgresql/test_compiler.py", "-k", SQLALCHEMY_TESTS, *tests,
        ]
        return work.pytest(target, work.tools.source("SQLAlchemy"), arguments)

    return run


DJANGO_TESTS = """backends introspection schema transactions transaction_hooks queries select_for_update bulk_create indexes
    constraints migrations postgres_tests raw_query inspectdb datatypes get_or_create delete fixtures multiple_database
    db_utils test_runner lookup expressions aggregation annotations""".split()


def django(target, work):
    report = work.out / "django.jsonl"
    report.unlink(missing_ok=True)
    settings = {"host": target.host, "port": target.port, "user": target.user, "password": target.password}
    environment = target.environment() | {
        "COMPAT_DJANGO": json.dumps(settings | {"report": str(report)}),
        "PYTHONPATH": str(HERE),
    }
    labels = work.select.split() if work.select else DJANGO_TESTS
    command = [
        work.tools.python, "runtests.py", "--settings=django_settings", "--parallel=1", "--noinput", *labels,
    ]
    work.command(command, environment, work.tools.source("Django") / "tests")
    if not report.exists():
        raise CannotRun(f"Django's tests did not begin:\n{work.tail()}")
    return from_lines(report)


def from_lines(path):
    outcomes = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        found = Outcome(entry["status"], entry.get("message", ""))
        if outcomes.get(entry["test"], found).status != FAILED:
            outcomes[entry["test"]] = found
    return outcomes


def transcript(driver):
    """A script of tests/drivers. On the direct connection a step passes when it runs; through pgsluice, when it
    also says the same."""

    def run(target, work):
        sys.path.insert(0, str(HERE.parent / "drivers"))
        import run as drivers

        options = argparse.Namespace(
            venv=None, node_modules=None, cache=work.tools.cache / "drivers", out=work.out, step=work.select
        )
        lines, status = drivers.run(driver, target.side, target.url(), options)
        steps = drivers.steps_of(lines)
        if target.side == "direct":
            work.tools.transcripts[driver] = steps
            judge = lambda step, events: (not drivers.troubled(events), json.dumps(events[-1:]))
        else:
            direct = work.tools.transcripts[driver]

            def judge(step, events):
                expected = drivers.without_missing_sources(direct.get(step), events)
                return expected == events, drivers.difference(expected, events)

        outcomes = {}
        for step, events in steps.items():
            is_good, message = judge(step, events)
            outcomes[step] = Outcome(PASSED) if is_good else Outcome(FAILED, message)
        outcomes["exit status"] = Outcome(PASSED) if status == 0 else Outcome(FAILED, str(status))
        return outcomes

    return run


def tools(target, work):
    import client_tools

    return client_tools.run(target, work)


JDBC_JAR = Path("/usr/share/java/postgresql.jar")


def jdbc(target, work):
    """Steps that print "== name" and what they saw; compared as those of `tools`."""
    classes = work.out / "classes"
    if not JDBC_JAR.exists():
        raise CannotRun(f"{JDBC_JAR} is missing: apt-get install libpostgresql-jdbc-java default-jdk-headless")
    if work.command(["javac", "-cp", JDBC_JAR, "-d", classes, HERE / "Jdbc.java"], target.environment(), work.out) != 0:
        raise CannotRun(f"javac failed:\n{work.tail()}")
    url = f"jdbc:postgresql://{target.host}:{target.port}/{target.database}"
    command = ["java", "-cp", f"{classes}:{JDBC_JAR}", "Jdbc", url, target.user, target.password]
    status = work.command(command + ([work.select] if work.select else []), target.environment(), work.out)
    steps = {}
    for block in (work.out / "output.log").read_text().split("== ")[1:]:
        name, _, text = block.partition("\n")
        # The driver tells functions apart by their OIDs, which depend on what the server did before.
        steps[name] = re.sub(r"_\d{5,}\b", "_OID", text)
    outcomes = work.judged("jdbc", target, steps, lambda text: "the step failed" not in text)
    outcomes["exit status"] = Outcome(PASSED) if status == 0 else Outcome(FAILED, work.tail())
    return outcomes


DIALECT = "test/dialect/test_suite.py"
SQLALCHEMY = ("CREATE SCHEMA test_schema", "CREATE SCHEMA test_schema_2", "CREATE EXTENSION hstore", "CREATE EXTENSION citext")

SUITES = [
    Suite("tools", "psql, pgbench, pg_dump, pg_restore: a script after their manual", tools),
    Suite("psql", "psql: a script after its manual", transcript("psql")),
    Suite("psycopg", "psycopg 3.2: a script after its documentation (its package carries no tests)", transcript("psycopg")),
    Suite("psycopg2", "psycopg2 2.9: its own tests", psycopg2, ("CREATE EXTENSION hstore",)),
    Suite("asyncpg", "asyncpg 0.31: its own tests", asyncpg),
    Suite("asyncpg-script", "asyncpg 0.31: a script after its documentation", transcript("asyncpg")),
    Suite("pg8000", "pg8000 1.31: its own tests", pg8000, ("CREATE EXTENSION hstore",), "postgres"),
    Suite("sqlalchemy-psycopg", "SQLAlchemy 2.0: its dialect suite, with psycopg 3", sqlalchemy("postgresql+psycopg", DIALECT), SQLALCHEMY),
    Suite("sqlalchemy-asyncpg", "SQLAlchemy 2.0: its dialect suite, with asyncpg", sqlalchemy("postgresql+asyncpg", DIALECT), SQLALCHEMY),
    Suite("sqlalchemy-postgresql", "SQLAlchemy 2.0: its PostgreSQL tests, with psycopg 3", sqlalchemy("postgresql+psycopg", "test/dialect/postgresql"), SQLALCHEMY),
    Suite("django", "Django 5.2: its database tests, with psycopg 3", django),
    Suite("node-postgres", "node-postgres 8.16: a script after its documentation", transcript("node_postgres")),
    Suite("tokio-postgres", "tokio-postgres 0.7: its own tests", rust_tests.run, rust_tests.STATEMENTS, "postgres"),
    Suite("jdbc", "PostgreSQL's JDBC driver 42.5: a program after its documentation", jdbc),
]
