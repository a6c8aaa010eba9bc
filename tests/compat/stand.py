"""A real cluster, and the three ways to reach it: directly, and through pgsluice in either pool mode.

Each run of a suite gets a cluster of its own, so that no run finds what another has left. The replica applies
each commit before it is acknowledged (`remote_apply`): what one connection has committed every other one sees at
once, on whichever node it reads. The suites expect that of the single server that they were written for.
"""

import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

START_DEADLINE = 120  # seconds
STOP_DEADLINE = 60

# How each side is called in the table, and the pool mode that it stands for.
SIDES = {"direct": None, "session": "session", "transaction": "transaction"}

SERVER_SETTINGS = {"max_prepared_transactions": "20", "max_connections": "400"}


class CannotRun(Exception):
    """Something outside the comparison is missing or broken; the message says what."""


@dataclass(frozen=True)
class Target:
    """Where a suite connects to."""

    side: str
    host: str
    port: int
    user: str
    password: str
    database: str

    def url(self, scheme="postgresql", database=None):
        credentials = f"{quote(self.user)}:{quote(self.password)}"
        return f"{scheme}://{credentials}@{self.host}:{self.port}/{database or self.database}"

    def environment(self):
        """The variables that libpq, and whatever follows it, connects by."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return kept | {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONDONTWRITEBYTECODE": "1",
        }


class Stand:
    """A cluster, and for two of the sides pgsluice in front of it. A context manager."""

    def __init__(self, pgsluice, side, folder):
        self.pgsluice, self.side, self.folder = pgsluice, side, Path(folder)
        self.processes = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cluster = self.start_cluster()
        primary = next(server for server in self.cluster["servers"] if server["role"] == "primary")
        superuser = self.cluster["superuser"]
        self.direct = Target(
            "direct", primary["host"], primary["port"], superuser["user"], superuser["password"], self.cluster["database"]
        )
        for statement in (
            "ALTER SYSTEM SET synchronous_standby_names = 'node1'",
            "ALTER SYSTEM SET synchronous_commit = 'remote_apply'",
            "SELECT pg_reload_conf()",
        ):
            self.sql(statement, database="postgres")
        mode = SIDES[self.side]
        if mode is None:
            self.target = self.direct
        else:
            host, port = self.start_proxy(mode)
            self.target = Target(self.side, host, port, self.direct.user, self.direct.password, self.direct.database)

    def start_cluster(self):
        settings = [argument for setting in SERVER_SETTINGS.items() for argument in ("--set", "=".join(setting))]
        command = [str(self.pgsluice), "demo", "--no-proxy", "--replicas", "1", "--json", *settings]
        process = self.spawn(command, "cluster.log", stdout=subprocess.PIPE)
        line = process.stdout.readline()
        if not line:
            raise CannotRun(f"the cluster does not start: {(self.folder / 'cluster.log').read_text()}")
        return json.loads(line)

    def start_proxy(self, mode):
        monitor = self.cluster["monitor"]
        nodes = json.dumps([server["address"] for server in self.cluster["servers"]])
        users = "".join(
            f"[[auth.users]]\nname = {json.dumps(user['user'])}\npassword = {json.dumps(user['password'])}\n\n"
            for user in (self.cluster["superuser"], self.cluster["app"])
        )
        # The suites make users of their own.
        self.sql(f'GRANT SELECT ON pg_catalog.pg_authid TO "{monitor["user"]}"', database="postgres")
        query = "SELECT rolname, rolpassword, rolvaliduntil FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin"
        config = self.folder / "pgsluice.toml"
        config.write_text(
            '[listen]\naddress = "127.0.0.1:0"\n\n[http]\naddress = "127.0.0.1:0"\n\n'
            f'[pool]\nmode = "{mode}"\nsize = 100\n\n'
            f'[auth]\nquery = {json.dumps(query)}\nquery_database = "postgres"\n\n{users}'
            f'[[shards]]\nname = "main"\nnodes = {nodes}\n'
            f'user = {json.dumps(monitor["user"])}\npassword = {json.dumps(monitor["password"])}\n'
        )
        log = self.folder / "pgsluice.log"
        process = self.spawn([str(self.pgsluice), "run", "--config", str(config)], log.name, NO_COLOR="1")
        address, http = self.wait(process, log, lambda: serving(log.read_text()))
        self.wait(process, log, lambda: is_ready(http))
        host, _, port = address.rpartition(":")
        return host, int(port)

    def wait(self, process, log, condition):
        started = time.monotonic()
        while time.monotonic() - started < START_DEADLINE:
            if found := condition():
                return found
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise CannotRun(f"pgsluice does not serve: {log.read_text()}")

    def spawn(self, command, log, stdout=subprocess.DEVNULL, **environment):
        with open(self.folder / log, "wb") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=errors, env=os.environ | environment
            )
        self.processes.append(process)
        return process

    def sql(self, statement, database=None):
        """Runs something on the primary itself."""
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database or self.direct.database, "-c", statement]
        done = subprocess.run(command, env=self.direct.environment(), capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise CannotRun(f"{statement}: {done.stderr}")
        return done.stdout.strip()

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def serving(log):
    found = re.search(r"pgsluice serves.*? address=(\S+) http=(\S+)", log)
    return found and found.groups()


def is_ready(http):
    """Both nodes are up, and the replica gets reads."""
    try:
        with urllib.request.urlopen(f"http://{http}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return False
    up = [line for line in lines if line.startswith("pgsluice_node_up{") and line.endswith(" 1")]
    ejected = [line for line in lines if line.startswith("pgsluice_replica_ejected{")]
    return len(up) == 2 and ejected and all(line.endswith(" 0") for line in ejected)


def scratch_folder(prefix):
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
