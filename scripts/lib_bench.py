"""What the scripts that measure share: processes and their CPU time, PostgreSQL, tables in Markdown.

Imported, never run. Whatever is started here is stopped by `Processes.stop_all`, also after a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import glob
import json
import os
import platform
import pwd
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
HOST = "127.0.0.1"
START_DEADLINE = 60.0  # seconds that a server or a proxy is given to answer

# Names on the benchmark's own cluster, which listens on loopback only and is removed at the end.
DATABASE = "bench"
USER = "bench"
PASSWORD = "bench"
MONITOR = "bench_monitor"


class Failure(Exception):
    """What went wrong, in one line for the user."""


class Ended(Exception):
    """A server or proxy that should be running is not: no use in waiting for it."""


# ---------------------------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------------------------


class Processes:
    """Starts children outside the terminal's process group and stops them all, last one first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[tuple[str, subprocess.Popen]] = []

    def start(self, name: str, command: list[str], user: str | None = None, **options) -> subprocess.Popen:
        with open(self.folder / f"{name}.log", "ab") as log:
            options.setdefault("stdout", log)
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True, **as_user(user), **options
            )
        self.running.append((name, child))
        return child

    def stop(self, child: subprocess.Popen) -> None:
        """One of them, before the others."""
        self.running = [(name, one) for name, one in self.running if one is not child]
        end_process(child, signal.SIGTERM)

    def log_tail(self, name: str) -> str:
        text = (self.folder / f"{name}.log").read_text(errors="replace").strip()
        return " | ".join(text.splitlines()[-4:]) or "nothing in its log"

    def stop_all(self) -> None:
        # A second Ctrl-C must not leave servers behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while self.running:
            name, child = self.running.pop()
            if child.poll() is not None:
                continue
            # PostgreSQL waits for its clients on SIGTERM; SIGINT is its fast shutdown.
            end_process(child, signal.SIGINT if name.startswith("postgres") else signal.SIGTERM)


def end_process(child: subprocess.Popen, number: signal.Signals) -> None:
    """Asks it to end; kills it and its children when it does not."""
    child.send_signal(number)
    try:
        child.wait(timeout=30)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def as_user(user: str | None) -> dict:
    """Popen options that drop root; none where there is nothing to drop."""
    if user is None or os.geteuid() != 0:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def unprivileged_user() -> str | None:
    """PostgreSQL and PgBouncer refuse to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise Failure("running as root, and there is neither a user postgres nor nobody to run the servers as")


def run(command: list[str], user: str | None = None, timeout: float = 600, **environment: str) -> str:
    """Runs to the end and returns stdout; a failure carries the last line of stderr."""
    return run_both(command, user, timeout, **environment)[0]


def run_both(command: list[str], user: str | None = None, timeout: float = 600, **environment: str) -> tuple[str, str]:
    """Likewise, with stderr beside it."""
    result = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        start_new_session=True,
        **as_user(user),
    )
    try:
        out, err = result.communicate(timeout=timeout)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(result.pid, signal.SIGKILL)
        result.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failure(f"{Path(command[0]).name}: no end after {timeout:.0f} s") from error
        raise
    if result.returncode != 0:
        lines = [line for line in err.strip().splitlines() if line] or [f"exit code {result.returncode}"]
        wanted = [line for line in lines if re.search(r"error|fatal|aborted", line, re.IGNORECASE)] or lines
        name = Path(command[0]).name
        raise Failure(f"{name}: {wanted[0].removeprefix(name + ': ')}")
    return out, err


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int(stat_fields(int(entry))[1])
                children.setdefault(parent, []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; the second may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """utime + stime (fields 14 and 15) of a process and its descendants, each with all its threads."""
    ticks = 0
    for member in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = stat_fields(member)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_until(what: str, condition, deadline: float = START_DEADLINE) -> None:
    """Polls until `condition()` is true; a Failure in between counts as not yet."""
    end = time.monotonic() + deadline
    last = "no answer"
    while time.monotonic() < end:
        try:
            if condition():
                return
        except Failure as failure:
            last = str(failure)
        time.sleep(0.1)
    raise Failure(f"{what}: not ready after {deadline:.0f} s ({last})")


# ---------------------------------------------------------------------------------------------
# PostgreSQL
# ---------------------------------------------------------------------------------------------


def postgres_binaries(chosen: str | None) -> Path:
    """The folder with initdb, postgres, psql and pgbench; the newest where there are several."""
    installed = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin")
    installed.sort(key=lambda path: int(re.search(r"(\d+)/bin$", path).group(1)), reverse=True)
    with contextlib.suppress(Failure, FileNotFoundError):
        installed.append(run(["pg_config", "--bindir"]).strip())
    for folder in [chosen] if chosen else installed:
        if all((Path(folder) / tool).exists() for tool in ("initdb", "postgres", "psql", "pgbench", "pg_basebackup")):
            return Path(folder)
    raise Failure("no PostgreSQL server with pgbench found; install postgresql, or name its folder with --pg-bin")


@dataclasses.dataclass(frozen=True)
class Server:
    role: str
    host: str
    port: int


@dataclasses.dataclass
class Cluster:
    """A primary and its replicas, and who may do everything there."""

    bin: Path
    servers: list[Server]
    superuser: str
    superuser_password: str
    origin: str

    @property
    def primary(self) -> Server:
        return next(server for server in self.servers if server.role == "primary")

    @property
    def replicas(self) -> list[Server]:
        return [server for server in self.servers if server.role != "primary"]

    def psql(self, sql: str, server: Server | None = None, database: str = "postgres") -> str:
        """One statement as superuser, unaligned answer."""
        server = server or self.primary
        return psql(
            self.bin, server.port, sql, self.superuser, self.superuser_password, database, server.host
        ).strip()


def psql(
    bin: Path, port: int, sql: str, user: str = USER, password: str = PASSWORD, database: str = DATABASE,
    host: str = HOST,
) -> str:
    command = [str(bin / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", str(port), "-U", user]
    return run([*command, "-d", database, "-c", sql], PGPASSWORD=password, PGSSLMODE="disable")


def cluster_from_json(bin: Path, text: str, origin: str) -> Cluster:
    """The line that `pgsluice demo --no-proxy --json` prints."""
    try:
        told = json.loads(text)
        account = told["superuser"]
        servers = [Server(s["role"], s.get("host", HOST), int(s["port"])) for s in told["servers"]]
        name = account.get("name") or account["user"]
        cluster = Cluster(bin, servers, name, account.get("password") or "", origin)
        cluster.primary  # noqa: B018 (there must be one)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise Failure(f"{origin}: not the JSON of `pgsluice demo --no-proxy --json` ({error!r})") from error
    return cluster


def demo_cluster(bin: Path, processes: Processes, pgsluice: Path, replicas: int) -> Cluster:
    """The cluster of `pgsluice demo`, without the proxy."""
    command = [str(pgsluice), "demo", "--no-proxy", "--replicas", str(replicas), "--json"]
    return cluster_from_json(bin, first_line(processes, "demo", command), "pgsluice demo --no-proxy")


def first_line(processes: Processes, name: str, command: list[str]) -> str:
    """Starts what goes on running, and tells in one line that it is ready."""
    child = processes.start(name, command, stdout=subprocess.PIPE)
    ready, _, _ = select.select([child.stdout], [], [], START_DEADLINE)
    line = child.stdout.readline().decode() if ready else ""
    if not line.strip():
        raise Failure(f"{' '.join(command[:2])} printed nothing: {processes.log_tail(name)}")
    return line


def own_cluster(bin: Path, processes: Processes, folder: Path, replicas: int) -> Cluster:
    """initdb, pg_basebackup and streaming replication, without help from pgsluice."""
    user = unprivileged_user()
    primary = Server("primary", HOST, free_port())
    cluster = Cluster(bin, [primary], "postgres", "superuser", "initdb and pg_basebackup")
    password_file = folder / "superuser.password"
    password_file.write_text(cluster.superuser_password)
    os.chmod(password_file, 0o644)
    data = folder / "primary"
    run(
        [str(bin / "initdb"), "-D", str(data), "-U", cluster.superuser, "-A", "scram-sha-256", "-E", "UTF8",
         "--no-locale", f"--pwfile={password_file}"],
        user,
    )
    with open(data / "postgresql.conf", "a") as conf:
        conf.write(
            f"listen_addresses = '{HOST}'\nunix_socket_directories = ''\nmax_connections = 200\n"
            "password_encryption = 'scram-sha-256'\nshared_buffers = '512MB'\nmax_wal_size = '4GB'\n"
            "max_wal_senders = 10\nhot_standby = on\nlogging_collector = off\n"
        )
    start_postgres(cluster, processes, data, primary, user)
    for number in range(1, replicas + 1):
        server = Server("replica", HOST, free_port())
        data = folder / f"replica{number}"
        run(
            [str(bin / "pg_basebackup"), "-h", HOST, "-p", str(primary.port), "-U", cluster.superuser,
             "-D", str(data), "-X", "stream", "-R", "-c", "fast", "-C", "-S", f"replica{number}"],
            user, PGPASSWORD=cluster.superuser_password,
        )
        start_postgres(cluster, processes, data, server, user)
        cluster.servers.append(server)
    return cluster


def start_postgres(cluster: Cluster, processes: Processes, data: Path, server: Server, user: str | None) -> None:
    name = f"postgres-{server.port}"
    child = processes.start(name, [str(cluster.bin / "postgres"), "-D", str(data), "-p", str(server.port)], user)

    def answers() -> bool:
        if child.poll() is not None:
            raise Ended(f"postgres on port {server.port} ended: {processes.log_tail(name)}")
        return cluster.psql("SELECT 1", server) == "1"

    wait_until(f"postgres on port {server.port}", answers)


def make_database(cluster: Cluster) -> None:
    """The database, its owner, and the monitor's role."""
    if cluster.psql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):
        raise Failure(f"the cluster has a database {DATABASE} already; drop it first, it is not the benchmark's to use")
    cluster.psql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    cluster.psql(f"CREATE ROLE {MONITOR} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_monitor")
    cluster.psql(f"CREATE DATABASE {DATABASE} OWNER {USER}")


def wait_for_replicas(cluster: Cluster) -> None:
    target = cluster.psql("SELECT pg_current_wal_lsn()")
    for replica in cluster.replicas:
        wait_until(
            f"replica on port {replica.port} catching up",
            lambda replica=replica: cluster.psql(f"SELECT pg_last_wal_replay_lsn() >= '{target}'", replica) == "t",
        )


def run_pgbouncer(
    server: Server, processes: Processes, folder: Path, name: str, userlist: Path, mode: str, pool: int, more: str = ""
) -> tuple[int, subprocess.Popen]:
    """Its port, and it."""
    port = free_port()
    config = folder / f"{name}.ini"
    config.write_text(
        f"[databases]\n{DATABASE} = host={server.host} port={server.port} dbname={DATABASE}\n\n"
        f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {userlist}\n"
        f"pool_mode = {mode}\ndefault_pool_size = {pool}\nmax_client_conn = 1000\n"
        f"server_tls_sslmode = disable\nlog_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n{more}"
    )
    return port, processes.start(name, ["pgbouncer", "-q", str(config)], unprivileged_user())


# ---------------------------------------------------------------------------------------------
# Programs
# ---------------------------------------------------------------------------------------------


def install_missing(programs: dict[str, str]) -> None:
    """Programs by the packages that they are in; the services that Debian starts with some of them are stopped."""
    missing = [package for program, package in programs.items() if not shutil.which(program)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failure(f"not installed: {', '.join(missing)} (and no apt-get here); install them or --skip them")
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    if sudo and not shutil.which("sudo"):
        raise Failure(f"not installed: {', '.join(missing)}; run as root once, install them, or --skip them")
    progress(f"installing {', '.join(missing)} with apt-get")
    noninteractive = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    run([*noninteractive, "update"])
    run([*noninteractive, "install", "-y", "--no-install-recommends", *missing])
    for name in missing:
        stops = [["systemctl", "disable", "--now", name]] if Path("/run/systemd/system").is_dir() else []
        for command in [*stops, ["service", name, "stop"]]:
            with contextlib.suppress(Failure, FileNotFoundError):
                run([*sudo, *command])


def tool_version(command: list[str]) -> str:
    try:
        return run(command).splitlines()[0].strip()
    except (Failure, FileNotFoundError, IndexError):
        return f"{Path(command[0]).name}: version unknown"


# ---------------------------------------------------------------------------------------------
# Words and numbers
# ---------------------------------------------------------------------------------------------


def number_in(text: str, pattern: str) -> float:
    match = re.search(pattern, text)
    if not match:
        raise Failure(f"pgbench's answer has no {pattern.split('(')[0].strip()!r}")
    return float(match.group(1))


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def machine() -> str:
    """When and where something was measured."""
    models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return (
        f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC; {os.cpu_count()} cores"
        f" ({models[0] if models else platform.machine()}), Linux {platform.release()}"
    )


def target_folder() -> Path:
    """Where cargo builds."""
    return Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))


def progress(text: str) -> None:
    """On stderr, beside the report on stdout."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def main_of(work, arguments) -> int:
    """Runs `work(arguments, cleanup)` and ends all that it started; 2 where it could not begin, or not go on."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        with contextlib.ExitStack() as cleanup:
            return work(arguments, cleanup)
    except (Failure, Ended) as failure:
        progress(str(failure))
        return 2
    except KeyboardInterrupt:
        progress("interrupted; everything that it started is stopped")
        return 130
