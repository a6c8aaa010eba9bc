"""PostgreSQL's own client programs: a script after their pages in the manual.

Each check is a function that returns what there was to see. Directly it passes when it runs; through pgsluice, when
it runs and shows the same.
"""

import difflib
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

from results import FAILED, Outcome

CHECKS = []
LIMIT = 120  # seconds for one program


def check(function):
    CHECKS.append(function)
    return function


class Tools:
    """Programs with their connection in the environment."""

    def __init__(self, target, folder):
        self.target, self.folder = target, Path(folder)
        self.environment = target.environment() | {"PAGER": "", "PSQL_HISTORY": "/dev/null", "TERM": "dumb"}

    def run(self, *command, database=None, ok=(0,), stdin="", options=""):
        environment = self.environment | ({"PGDATABASE": database} if database else {}) | ({"PGOPTIONS": options} if options else {})
        done = subprocess.run(
            [str(word) for word in command], env=environment, cwd=self.folder, capture_output=True, text=True, input=stdin, timeout=LIMIT
        )
        if done.returncode not in ok:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout + done.stderr

    def psql(self, script, database=None):
        """What psql prints for a script, errors and all."""
        return self.run("psql", "-X", "-P", "pager=off", "-a", "-f", "-", database=database, ok=(0, 3), stdin=script)


def run(target, work):
    folder = work.out / "files"
    folder.mkdir(exist_ok=True)
    tools = Tools(target, folder)
    seen, outcomes = {}, {}
    for function in CHECKS:
        name = function.__name__
        if work.select and work.select not in name and name != "fill":
            continue
        try:
            seen[name] = function(tools) or ""
        except (AssertionError, subprocess.SubprocessError, OSError) as error:
            outcomes[name] = Outcome(FAILED, f"{type(error).__name__}: {error}")
    return outcomes | work.judged("tools", target, seen)


SCHEMA = """
CREATE SCHEMA shop;
CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN shop.price AS numeric(10, 2) CHECK (VALUE >= 0);
CREATE SEQUENCE shop.numbers START 100 INCREMENT 5;
CREATE TABLE shop.items (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, price shop.price,
    mood shop.mood DEFAULT 'ok', tags text[], extra jsonb, raw bytea, at timestamptz DEFAULT '2024-01-02 03:04:05+00');
CREATE TABLE shop.parts (id bigserial PRIMARY KEY, item int REFERENCES shop.items ON DELETE CASCADE, label varchar(20));
CREATE TABLE shop.events (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE shop.events_2024 PARTITION OF shop.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE shop.events_2025 PARTITION OF shop.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE INDEX items_name ON shop.items (lower(name)) WHERE price > 10;
CREATE VIEW shop.cheap AS SELECT id, name FROM shop.items WHERE price < 10;
CREATE MATERIALIZED VIEW shop.totals AS SELECT mood, count(*) FROM shop.items GROUP BY mood WITH NO DATA;
CREATE FUNCTION shop.twice(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i * 2';
CREATE FUNCTION shop.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.label := upper(NEW.label); RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT ON shop.parts FOR EACH ROW EXECUTE FUNCTION shop.stamp();
ALTER TABLE shop.items ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON shop.items USING (true);
COMMENT ON TABLE shop.items IS 'what there is to be had';
CREATE ROLE clerk;
GRANT SELECT, INSERT ON shop.items TO clerk;
INSERT INTO shop.items (name, price, tags, extra, raw)
    SELECT 'item ' || i, i * 1.25, ARRAY['a' || i, NULL], jsonb_build_object('n', i), decode(md5(i::text), 'hex')
    FROM generate_series(1, 2000) i;
INSERT INTO shop.parts (item, label) SELECT i, 'part ' || i FROM generate_series(1, 500) i;
INSERT INTO shop.events SELECT date '2024-06-01' + i, 'event ' || i FROM generate_series(0, 500) i;
REFRESH MATERIALIZED VIEW shop.totals;
SELECT nextval('shop.numbers');
SELECT lo_from_bytea(4711, '\\xdeadbeef');
ANALYZE;
"""


@check
def fill(t):
    return t.psql(SCHEMA)


# ---------------------------------------------------------------- psql


@check
def psql_describe(t):
    commands = r"""\d \d+ \dn+ \dt+ \dti+ \dv \dm \ds \di \dT+ \dD \df \dft \do \dp \ddp \du \drds \db \dx \dx+ \dy \dL \dO \dc
        \dC \dd \dE \det \deu \dew \des \dF \dFp \dFd \dFt \dP+ \dR* \dRs \dX \dA \dAc \dAf \dAo \dAp \dl \lo_list \l \z \encoding \conninfo""".split()
    named = [
        r"\d shop.*", r"\d+ shop.*", r"\dt+ shop.*", r"\dP shop.*", r"\df+ shop.*", r"\sf shop.twice", r"\sf+ shop.stamp", r"\sv shop.cheap",
        r"\dp shop.*", r"\dT+ shop.*", r"\dd shop.*", r"\dconfig work_mem", r"\d no_such_table", r"\dt pg_catalog.pg_am*", r"\dg+ clerk",
    ]
    shown = t.psql("\n".join([command for command in commands if command not in (r"\dR*", r"\conninfo")] + named))
    return re.sub(r"\d+ (kB|bytes|MB)", "SIZE", shown)


@check
def psql_copy(t):
    lines = "".join(f"{n}\tline {n}\t\\N\n" for n in range(1, 5001))
    (t.folder / "in.tsv").write_text(lines)
    shown = t.psql(r"""
CREATE TABLE copied (n int, line text, nothing text);
\copy copied FROM 'in.tsv'
\copy (SELECT * FROM copied ORDER BY n) TO 'out.csv' WITH (FORMAT csv, HEADER)
\copy copied (n, line) FROM PSTDIN WITH (FORMAT csv)
\copy copied FROM 'missing.tsv'
\copy copied FROM PROGRAM 'printf "9001\\tx\\ty\\nbad\\tx\\ty\\n"'
\copy (SELECT count(*), sum(n) FROM copied) TO STDOUT
COPY copied (n) FROM STDIN;
7001
7002
\.
COPY (SELECT max(n) FROM copied) TO STDOUT;
\copy copied TO PROGRAM 'cat > out.bin' WITH (FORMAT binary)
\copy copied FROM 'out.bin' WITH (FORMAT binary)
SELECT count(*) FROM copied;
DROP TABLE copied;
""")
    return shown + (t.folder / "out.csv").read_text()


@check
def psql_gdesc_gexec_gset_crosstabview(t):
    return t.psql(r"""
SELECT id, name, price, mood, tags, at FROM shop.items WHERE id = 1 \gdesc
SELECT 1/0 AS never \gdesc
SELECT no_such_column \gdesc
INSERT INTO shop.parts (item, label) VALUES (1, 'x') \gdesc
SELECT format('SELECT %s AS n, count(*) FROM shop.items WHERE id <= %s', n, n) FROM generate_series(1, 3) n \gexec
SELECT 3 AS three, 'x' AS ex \gset pre_
\echo :pre_three :'pre_ex'
SELECT mood, id % 3 AS third, count(*) FROM shop.items GROUP BY 1, 2 ORDER BY 2 \crosstabview mood third count
SELECT 1 AS a, 2 AS b \crosstabview
SELECT * FROM shop.items WHERE id <= 2 \gx
SELECT generate_series(1, 3) \g out.txt
\set FETCH_COUNT 10
SELECT id FROM shop.items ORDER BY id LIMIT 25;
\set FETCH_COUNT 0
\errverbose
SELECT 1/0;
\errverbose
""")


@check
def psql_transactions(t):
    shown = t.psql(r"""
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO shop.parts (id, item, label) VALUES (90001, 1, 'kept');
INSERT INTO shop.parts (id, item, label) VALUES (90001, 1, 'duplicate');
SELECT id, label FROM shop.parts WHERE id = 90001;
COMMIT;
DELETE FROM shop.parts WHERE id = 90001;
\set AUTOCOMMIT off
SELECT 1;
ROLLBACK;
\set AUTOCOMMIT on
BEGIN \; SELECT 1 \; COMMIT;
PREPARE plan (int) AS SELECT $1 + 1;
EXECUTE plan (1);
DEALLOCATE plan;
LISTEN here;
NOTIFY here, 'payload';
SELECT 1;
UNLISTEN *;
\timing on
\timing off
DO $$ BEGIN RAISE NOTICE 'noticed'; RAISE WARNING 'warned'; END $$;
\if true
SELECT 'yes';
\endif
""")
    return re.sub(r"PID \d+", "PID N", shown)


@check
def psql_watch(t):
    # Older versions watch until they are interrupted.
    with subprocess.Popen(
        ["psql", "-X", "-A", "-t", "-f", "-"], env=t.environment, cwd=t.folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child:
        child.stdin.write("SELECT 'tick' \\watch 0.1\n")
        child.stdin.close()
        ticks = []
        while len(ticks) < 5:
            line = child.stdout.readline()
            assert line, ticks
            if line.strip() == "tick":
                ticks.append(line)
        child.terminate()
    return "".join(ticks)


@check
def psql_tab_completion(t):
    """Names that psql completes by queries of its own, at a terminal."""
    typed = ["SELECT * FROM shop.it", "INSERT INTO shop.par", "\\d shop.che", "DROP FUNCTION shop.tw", "SET ROLE cle", "ALTER TABLE shop.items ALTER COLUMN pri", "SELECT shop.stam"]
    return "\n".join(complete(t, text) for text in typed)


def complete(t, text):
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(t.folder)
        os.execvpe("psql", ["psql", "-X", "-v", "PROMPT1=> ", "-v", "PROMPT2=> "], t.environment | {"INPUTRC": "/dev/null"})
    try:
        until(terminal, "> ")
        os.write(terminal, text.encode() + b"\t")
        shown = until(terminal, None)
        os.write(terminal, b"\x03\\q\n")
        return shown.replace("\r", "").replace("\a", "").strip()
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def until(terminal, end):
    """What comes up to `end`, or else until there has been something and then a second of nothing."""
    shown, deadline = "", time.monotonic() + 30
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 1.5)
        if not ready:
            if shown and end is None:
                return shown
            continue
        shown += os.read(terminal, 4096).decode(errors="replace")
        if end is not None and shown.endswith(end):
            return shown
    raise AssertionError(f"psql shows nothing more: {shown!r}")


@check
def psql_list_and_single_transaction(t):
    (t.folder / "bad.sql").write_text("CREATE TABLE never (n int);\nSELECT 1/0;\n")
    shown = t.run("psql", "-X", "-1", "-v", "ON_ERROR_STOP=1", "-f", "bad.sql", ok=(3,))
    shown += t.run("psql", "-X", "-At", "-c", "SELECT to_regclass('never') IS NULL", "-c", "SELECT 2")
    return shown + t.run("psql", "-X", "-lqAt")


# ---------------------------------------------------------------- pgbench


@check
def pgbench_all_modes(t):
    t.run("createdb", "bench")
    t.run("pgbench", "-i", "-s", "1", "-q", database="bench")
    for mode in ("simple", "extended", "prepared"):
        for script in ("tpcb-like", "simple-update", "select-only"):
            shown = t.run("pgbench", "-n", "-M", mode, "-b", script, "-c", "4", "-t", "50", database="bench")
            assert "number of transactions actually processed: 200/200" in shown, shown
    (t.folder / "pipeline.sql").write_text("\\startpipeline\nSELECT 1;\nSELECT count(*) FROM pgbench_branches;\n\\endpipeline\n")
    t.run("pgbench", "-n", "-M", "extended", "-f", "pipeline.sql", "-c", "2", "-t", "50", database="bench")
    sums = "SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history) FROM pgbench_accounts"
    return t.run("psql", "-X", "-At", "-c", sums, database="bench")


@check
def pgbench_partitions_and_foreign_keys(t):
    t.run("pgbench", "-i", "-I", "dtgvpf", "-s", "1", "-q", "--partitions=3", "--foreign-keys", database="bench")
    t.run("pgbench", "-n", "-c", "2", "-t", "20", "--max-tries=3", database="bench")
    shown = t.run("psql", "-X", "-c", r"\d+ pgbench_*", database="bench")
    t.run("dropdb", "bench")
    return shown


# ---------------------------------------------------------------- pg_dump, pg_restore


@check
def pg_dump_plain(t):
    return dump(t)


def dump(t, *arguments, database=None, exact=False):
    """`exact`: with the sequences' values, which a standby shows ahead; so it is asked of the primary. PostgreSQL takes a setting
    with a prefix that it does not know for an extension's."""
    shown = t.run("pg_dump", *arguments, database=database, options="-c pgsluice.route=primary" if exact else "")
    if not exact:
        shown = re.sub(r"(setval\('[^']+', )\d+", r"\1VALUE", shown)
    # Newer versions write a random key.
    return re.sub(r"(?m)^\\(un)?restrict .*$", r"\\\1restrict KEY", shown)


@check
def pg_dump_on_the_primary(t):
    return dump(t, exact=True)


@check
def pg_dump_kinds(t):
    kinds = [["-s"], ["-a", "--inserts"], ["-a", "--column-inserts", "--rows-per-insert=100"], ["-t", "shop.items"], ["--clean", "--if-exists", "--create"], ["--serializable-deferrable", "-s"]]
    return "".join(dump(t, *kind) for kind in kinds)


@check
def pg_dump_restore_custom(t):
    t.run("pg_dump", "-Fc", "-f", "dump.custom")
    return restored(t, "pg_restore", "-d", "again", "dump.custom")


@check
def pg_dump_restore_parallel(t):
    t.run("pg_dump", "-Fd", "-j", "3", "-f", "dump.folder")
    return restored(t, "pg_restore", "-j", "3", "-d", "again", "dump.folder")


@check
def pg_dump_restore_single_transaction(t):
    t.run("pg_dump", "-Ft", "-f", "dump.tar")
    return restored(t, "pg_restore", "-1", "-d", "again", "dump.tar")


@check
def pg_dump_restore_by_psql(t):
    (t.folder / "dump.sql").write_text(t.run("pg_dump"))
    return restored(t, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "again", "-f", "dump.sql")


def restored(t, *command):
    """What is restored into a new database is what was dumped."""
    t.run("dropdb", "--if-exists", "again")
    t.run("createdb", "again")
    t.run(*command)
    again, original = dump(t, database="again"), dump(t)
    lines = difflib.unified_diff(original.splitlines(), again.splitlines(), "dumped", "restored", lineterm="", n=1)
    assert again == original, "the restored database is another one:\n" + "\n".join(list(lines)[:40])
    t.run("dropdb", "again")
    return again


@check
def pg_dumpall_globals(t):
    shown = t.run("pg_dumpall", "--globals-only", "--no-role-passwords")
    return re.sub(r"(?m)^\\(un)?restrict .*$", r"\\\1restrict KEY", shown)


# ---------------------------------------------------------------- the others


@check
def maintenance_programs(t):
    t.run("vacuumdb", "--analyze", "-j", "2", "app")
    t.run("reindexdb", "-j", "2", "app")
    t.run("clusterdb", "app")
    t.run("createuser", "-d", "somebody")
    t.run("createdb", "-O", "somebody", "-T", "template0", "theirs")
    owner = t.run("psql", "-X", "-At", "-c", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'theirs'")
    t.run("dropdb", "theirs")
    t.run("dropuser", "somebody")
    return owner + re.sub(r":\d+", ":PORT", t.run("pg_isready"))


@check
def vacuumlo_and_large_objects(t):
    (t.folder / "large").write_bytes(bytes(range(256)) * 500)
    shown = t.psql(r"""
\lo_import large 'a comment'
\lo_list
\lo_export 4711 small
SELECT count(*) FROM pg_largeobject_metadata;
""")
    assert (t.folder / "small").read_bytes() == b"\xde\xad\xbe\xef"
    shown += t.run("vacuumlo", "-v", "app")
    return re.sub(r"lo_import \d+|\b\d{5,}\b", "OID", shown)
