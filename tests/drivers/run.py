#!/usr/bin/env python3
"""Compare what the drivers get from the proxy with what they get from a direct connection.

    run.py --direct URL --proxy URL [--only DRIVER] [--step STEP] [--venv DIR] [--node-modules DIR]
           [--cache DIR] [--out DIR] [--prepare]

URLs are postgresql://user:password@host:port/database over TCP. `direct` is the shard's primary.
The user must be allowed to create schemas; a few steps show more when it is a superuser, and the
server should run with max_prepared_transactions > 0. What the two URLs have in common (user,
database, password) should be the same, because messages name them.

DRIVER is psycopg, asyncpg, node_postgres or psql. Each driver's script runs against the direct URL
and then against the proxy, on a scratch schema of its own, and prints one JSON line per step
(transcript.py). The two transcripts are compared step by step. The exit status is 0 when they are
the same, 1 when a step differs or a script fails, 2 when the comparison could not be made.

The drivers come from the pins beside this file and are kept in a cache folder outside the source
tree (--cache, default target/drivers or $CARGO_TARGET_DIR/drivers), made when missing or when the
pins changed. --venv and --node-modules name ready ones instead: a virtual environment, and a
node_modules folder. --prepare only fills the cache. Transcripts are left in --out (default
CACHE/transcripts). Needs python3 with venv, node >= 18 with npm, psql, pg_dump and pgbench.

Called from the integration tests as
    python3 tests/drivers/run.py --direct URL --proxy URL --only DRIVER
one test per driver; the four may run at the same time, also over one cache (it is filled under a lock).
"""

import argparse
import difflib
import fcntl
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import time
from urllib.parse import urlsplit

HERE = pathlib.Path(__file__).resolve().parent
DRIVERS = ("psycopg", "asyncpg", "node_postgres", "psql")
SCRIPT_TIMEOUT = 900  # seconds; every step has its own, shorter one
DIFF_LINES = 60  # shown per step; the whole transcripts are in --out

# (driver, step): why this step may differ. A difference that is not listed here is a failure.
ALLOWED = {}


class CannotCompare(Exception):
    """Something outside the comparison is missing; the message says what to do."""


# Where in PostgreSQL's source an error was raised. An error that pgsluice raises itself (a failed login, say)
# has no such place, and says so by leaving these out; but for the function's name, where drivers know the error by that.
SOURCE_FIELDS = {
    "server_source_filename", "server_source_function", "server_source_line",
    "source_file", "source_function", "source_line",
    "SOURCE_FILE", "SOURCE_FUNCTION", "SOURCE_LINE",
    "file", "line", "routine",
}


def without_missing_sources(direct, proxy):
    """The direct transcript without the source fields of those errors that have none of them at the proxy."""
    if isinstance(direct, dict) and isinstance(proxy, dict):
        drop = SOURCE_FIELDS - proxy.keys()
        return {key: without_missing_sources(value, proxy.get(key)) for key, value in direct.items() if key not in drop}
    if isinstance(direct, list) and isinstance(proxy, list) and len(direct) == len(proxy):
        return [without_missing_sources(*pair) for pair in zip(direct, proxy)]
    return direct


# ---------------------------------------------------------------- the drivers


def fingerprint(*files):
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update((HERE / file).read_bytes())
    return digest.hexdigest()


def fill(folder, stamp, build):
    """Make `folder` with `build` unless it was made from the same pins; safe against another run.py."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = folder / ".pins"
        if mark.exists() and mark.read_text() == stamp:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        build(folder)
        mark.write_text(stamp)


def command(*arguments, **options):
    print("+", " ".join(str(argument) for argument in arguments), file=sys.stderr)
    try:
        # Their output is not the comparison's.
        subprocess.run(arguments, check=True, stdout=sys.stderr, stdin=subprocess.DEVNULL, **options)
    except FileNotFoundError as error:
        raise CannotCompare(f"{arguments[0]} is not installed: {error}") from error
    except subprocess.CalledProcessError as error:
        raise CannotCompare(f"{arguments[0]} failed with status {error.returncode}") from error


def build_venv(folder):
    command(sys.executable, "-m", "venv", folder)
    command(folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", HERE / "requirements.txt")


def build_node_modules(folder):
    for file in ("package.json", "package-lock.json"):
        shutil.copy(HERE / file, folder)
    command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder)


def program(driver, options):
    """The command that runs a driver's script, with the environment that it needs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment.update(PYTHONDONTWRITEBYTECODE="1", PYTHONUTF8="1", LC_ALL="C.UTF-8", TZ="UTC", PYTHON=sys.executable)
    if driver in ("psycopg", "asyncpg"):
        venv = options.venv
        if venv is None:
            venv = options.cache / "venv"
            fill(venv, fingerprint("requirements.txt"), build_venv)
        return [venv / "bin" / "python", HERE / f"{driver}_script.py"], environment
    if driver == "node_postgres":
        modules = options.node_modules
        if modules is None:
            fill(options.cache / "node", fingerprint("package.json", "package-lock.json"), build_node_modules)
            modules = options.cache / "node" / "node_modules"
        environment["NODE_PATH"] = str(modules)
        return ["node", HERE / "node_postgres_script.js"], environment
    return ["bash", HERE / "psql_script.sh"], environment


# ---------------------------------------------------------------- running and comparing


def run(driver, side, url, options):
    """Run one script on one side; the transcript's lines, with what must differ taken out."""
    arguments, environment = program(driver, options)
    # Both names are equally long, because lengths, error positions and table layouts show.
    schema = f"drv_{driver[:4]}_{side[0]}_{secrets.token_hex(4)}"
    full = [str(argument) for argument in arguments] + [url, schema] + ([options.step] if options.step else [])
    started = time.monotonic()
    try:
        done = subprocess.run(full, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=SCRIPT_TIMEOUT)
        output, errors, status = done.stdout, done.stderr, done.returncode
    except FileNotFoundError as error:
        raise CannotCompare(f"{arguments[0]} is not installed: {error}") from error
    except subprocess.TimeoutExpired as error:
        output, errors, status = error.stdout or b"", error.stderr or b"", f"none after {SCRIPT_TIMEOUT} s"
    target = urlsplit(url)
    text = output.decode("utf-8", "replace").replace(schema, "<schema>").replace(f"{target.hostname}:{target.port}", "<address>")
    for spelling in (f"port {target.port}", f"port={target.port}"):
        text = text.replace(spelling, "port <port>")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{driver}.{side}.jsonl").write_text(text)
    (options.out / f"{driver}.{side}.stderr").write_bytes(errors)
    lines = text.splitlines()
    print(f"{driver} {side}: {len(lines)} steps in {time.monotonic() - started:.1f} s, exit status {status}", file=sys.stderr)
    if status != 0:
        sys.stderr.write(errors.decode("utf-8", "replace")[-3000:])
    return lines, status


def steps_of(lines):
    """Step name to its events; a line that is no transcript line is a step of its own, so that it is seen."""
    steps = {}
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            steps[entry["step"]] = entry["events"]
        except (ValueError, KeyError, TypeError):
            steps[f"line {number + 1}"] = [line]
    return steps


def difference(direct, proxy):
    """A unified diff of one step; every event is a block of its own."""

    def lines(events):
        return json.dumps(events, indent=1, sort_keys=True, ensure_ascii=False).splitlines() if events is not None else ["(no such step)"]

    found = list(difflib.unified_diff(lines(direct), lines(proxy), "direct", "proxy", lineterm="", n=6))
    if len(found) > DIFF_LINES:
        found[DIFF_LINES:] = [f"... {len(found) - DIFF_LINES} more lines"]
    return "\n".join("    " + line for line in found)


def troubled(events):
    return any(isinstance(event, dict) and event.get("event") in ("hung", "step raised") for event in events or [])


def compare(driver, options):
    """Run and compare one driver; returns its table row and the report of its differences."""
    direct_lines, direct_status = run(driver, "direct", options.direct, options)
    proxy_lines, proxy_status = run(driver, "proxy", options.proxy, options)
    direct, proxy = steps_of(direct_lines), steps_of(proxy_lines)
    row = {"driver": driver, "steps": 0, "equal": 0, "different": 0, "allowed": 0, "script": 0}
    report = []
    if direct_status != 0 or proxy_status != 0:
        row["script"] = 1
        report.append(f"{driver}: exit status direct {direct_status}, proxy {proxy_status}")
    for step in list(direct) + [step for step in proxy if step not in direct]:
        row["steps"] += 1
        expected = without_missing_sources(direct.get(step), proxy.get(step))
        if troubled(direct.get(step)):
            # A step that fails on both sides would compare equal and prove nothing.
            row["script"] += 1
            report.append(f"{driver} / {step}: does not run on the direct connection:\n    {json.dumps(direct[step][-1])}")
        elif expected == proxy.get(step):
            row["equal"] += 1
        elif (driver, step) in ALLOWED:
            row["allowed"] += 1
            report.append(f"{driver} / {step}: differs, which is allowed: {ALLOWED[driver, step]}")
        else:
            row["different"] += 1
            report.append(f"{driver} / {step}: differs\n{difference(expected, proxy.get(step))}")
    if not direct:
        row["script"] = row["script"] or 1
        report.append(f"{driver}: the script printed no step on the direct connection")
    return row, report


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direct", help="URL of the primary")
    parser.add_argument("--proxy", help="URL of the proxy in front of it")
    parser.add_argument("--only", choices=DRIVERS, help="one driver")
    parser.add_argument("--step", help="one step (with setup and teardown)")
    parser.add_argument("--venv", type=pathlib.Path, help="a virtual environment with the drivers in it")
    parser.add_argument("--node-modules", type=pathlib.Path, help="a node_modules folder with the drivers in it")
    parser.add_argument("--cache", type=pathlib.Path, help="where to keep the drivers")
    parser.add_argument("--out", type=pathlib.Path, help="where to leave the transcripts")
    parser.add_argument("--prepare", action="store_true", help="only fill the cache")
    options = parser.parse_args()
    if not options.prepare and not (options.direct and options.proxy):
        parser.error("--direct and --proxy are needed")
    default_target = os.environ.get("CARGO_TARGET_DIR") or HERE.parent.parent / "target"
    options.cache = (options.cache or pathlib.Path(default_target) / "drivers").resolve()
    options.out = (options.out or options.cache / "transcripts").resolve()
    return options


def main():
    options = parse_arguments()
    chosen = [options.only] if options.only else DRIVERS
    try:
        if options.prepare:
            for driver in chosen:
                program(driver, options)
            return 0
        outcomes = [compare(driver, options) for driver in chosen]
    except CannotCompare as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    for _, report in outcomes:
        for text in report:
            print(text)
            print()
    columns = ("driver", "steps", "equal", "different", "allowed", "script")
    print(" ".join(f"{column:>14}" for column in columns))
    for row, _ in outcomes:
        print(" ".join(f"{row[column]:>14}" for column in columns))
    failed = any(row["different"] or row["script"] for row, _ in outcomes)
    print(f"transcripts: {options.out}" if failed else "every step is the same")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
