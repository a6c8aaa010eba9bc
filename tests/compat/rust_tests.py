"""tokio-postgres's own tests: those of the very version that pgsluice is built with, which its crate carries.

They are written for a server at 127.0.0.1:5433 that lets `postgres` in without a password; a copy is told otherwise.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

from results import FAILED, PASSED, SKIPPED, Outcome
from stand import CannotRun

REPOSITORY = Path(__file__).resolve().parents[2]
CRATE = "tokio-postgres"
# Of the types of other crates, those that are sent and read over the wire in ways of their own.
FEATURES = "array-impls,with-bit-vec-0_8,with-chrono-0_4,with-eui48-1,with-geo-types-0_7,with-serde_json-1,with-time-0_3,with-uuid-1"
LIMIT = 900  # seconds for all of them
STATUS = {"ok": PASSED, "FAILED": FAILED, "ignored": SKIPPED}

# Users whose servers are to ask for a password, in one way each; here all are asked by SCRAM.
USERS = ("pass_user", "md5_user", "scram_user")
STATEMENTS = (
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION citext",
    "CREATE EXTENSION ltree",
    *(f"CREATE ROLE {user} LOGIN PASSWORD 'password'" for user in USERS),
)

ADDRESS = '&*std::env::var("COMPAT_ADDRESS").unwrap()'
CHANGES = {
    "main.rs": [
        ('TcpStream::connect("127.0.0.1:5433")', f"TcpStream::connect({ADDRESS})"),
        (
            "let config = s.parse::<Config>().unwrap();",
            'let mut config = s.parse::<Config>().unwrap();\n    if config.get_user() == Some("postgres") {\n'
            '        config.password(std::env::var("PGPASSWORD").unwrap());\n    }',
        ),
    ],
    "runtime.rs": [
        (
            "tokio_postgres::connect(s, NoTls)",
            'tokio_postgres::connect(&s.replace("5433", &std::env::var("PGPORT").unwrap())'
            '.replace("user=postgres", &format!("user=postgres password={}", std::env::var("PGPASSWORD").unwrap())), NoTls)',
        ),
    ],
}


def run(target, work):
    program = built(work)
    environment = target.environment() | {"COMPAT_ADDRESS": f"{target.host}:{target.port}", "RUST_BACKTRACE": "0"}
    command = [program, "--test-threads=4"] + ([work.select] if work.select else [])
    work.command(command, environment, work.out, limit=LIMIT)
    outcomes = read((work.out / "output.log").read_text(errors="replace"))
    if not outcomes:
        raise CannotRun(f"{CRATE}'s tests did not run:\n{work.tail()}")
    return outcomes


def read(output):
    """What libtest says: a line for each test, and at the end what those that failed have printed."""
    outcomes = {}
    for name, status in re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", output, re.MULTILINE):
        found = re.search(rf"^---- {re.escape(name)} stdout ----\n(.*?)(?=^---- |^failures:$)", output, re.MULTILINE | re.DOTALL)
        outcomes[name] = Outcome(STATUS[status], found.group(1).strip() if found else "")
    return outcomes


def built(work):
    """The test program, built once; its path."""
    folder = source(work.tools.cache)
    command = ["cargo", "test", "--locked", "--no-run", "--test=test", f"--features={FEATURES}", "--message-format=json"]
    target = work.tools.cache / CRATE
    done = subprocess.run([*command, f"--target-dir={target}"], cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise CannotRun(f"{CRATE}'s tests could not be built")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "test":
            return message["executable"]
    raise CannotRun(f"cargo has built no tests of {CRATE}")


def source(cache):
    """A copy of the crate, from where cargo keeps it, with the changes."""
    command = ["cargo", "metadata", "--locked", "--format-version=1"]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise CannotRun("cargo does not tell where its crates are")
    package = next(package for package in json.loads(done.stdout)["packages"] if package["name"] == CRATE)
    folder = cache / "sources" / f"{CRATE}-{package['version']}"
    if folder.exists():
        return folder
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(Path(package["manifest_path"]).parent, unfinished)
    with open(unfinished / "Cargo.toml", "a") as manifest:
        # It is no part of whatever lies around it.
        manifest.write("\n[workspace]\n")
    for name, changes in CHANGES.items():
        file = unfinished / "tests" / "test" / name
        text = file.read_text()
        for before, after in changes:
            if before not in text:
                raise CannotRun(f"{file} has no `{before}` any more")
            text = text.replace(before, after)
        file.write_text(text)
    unfinished.rename(folder)
    return folder
