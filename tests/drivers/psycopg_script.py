"""psycopg 3's ordinary features, as a transcript: psycopg_script.py CONNINFO SCHEMA [STEP].

Run by run.py, once on a direct connection and once through the proxy. Every step has a connection
of its own. A step reads only what it wrote itself or what `setup` made before its last DDL: what
another connection has just written may lawfully be a moment late on a replica.
"""

import contextlib
import datetime as dt
import decimal
import os
import sys
import threading
import uuid

import psycopg
from psycopg import pq
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Json, Jsonb

import transcript
from transcript import STEP_TIMEOUT, Step, oid, rows_digest, scrub, typed

CONNINFO, SCHEMA = sys.argv[1], sys.argv[2]
STEPS = []

DIAG_FIELDS = """severity severity_nonlocalized sqlstate message_primary message_detail message_hint statement_position
    internal_position internal_query context schema_name table_name column_name datatype_name constraint_name
    source_file source_line source_function""".split()


def step(function):
    STEPS.append(function)
    return function


class Client:
    """A connection whose notices and notifications go to the step's record."""

    def __init__(self, t, **options):
        options.setdefault("autocommit", True)
        search_path = options.pop("search_path", SCHEMA)
        self.t = t
        self.conn = psycopg.connect(CONNINFO, **options)
        self.conn.add_notice_handler(lambda diag: t.note("notice", fields=diag_fields(diag)))
        if search_path:
            self.conn.execute(f"SET search_path TO {search_path}")
            if not self.conn.autocommit:
                self.conn.commit()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.conn.close()

    def run(self, query, params=None, *, binary=False, prepare=None, digest=False):
        """Execute, record everything that came back, and return the rows of the last result."""
        cursor = self.conn.cursor(binary=binary)
        try:
            cursor.execute(query, params, prepare=prepare)
        except psycopg.Error as error:
            self.error(error, query)
            return None
        rows = self.results(cursor, query, digest)
        cursor.close()
        return rows

    def results(self, cursor, query="", digest=False):
        rows = None
        while True:
            columns = [[c.name, oid(c.type_code), c.internal_size, c.precision, c.scale] for c in cursor.description or []]
            rows = cursor.fetchall() if cursor.description is not None else None
            if rows is None:
                shown = None
            elif digest:
                shown = rows_digest(rows)
            else:
                shown = [[typed(item) for item in row] for row in rows]
            self.t.note(
                "result", sql=query if isinstance(query, str) else None, tag=cursor.statusmessage,
                rowcount=cursor.rowcount, columns=columns or None, rows=shown, status=self.status(),
            )
            if not cursor.nextset():
                return rows

    def error(self, error, query=""):
        self.t.note("error", sql=query if isinstance(query, str) else None, status=self.status(), **error_fields(error))

    def status(self):
        return self.conn.info.transaction_status.name

    def parameters(self, *names):
        """Settings as the driver knows them from ParameterStatus messages."""
        self.t.note("parameters", {name: self.conn.info.parameter_status(name) for name in names})


def diag_fields(diag):
    fields = {name: getattr(diag, name) for name in DIAG_FIELDS}
    return {name: scrub(value) for name, value in fields.items() if value is not None}


def error_fields(error):
    fields = diag_fields(error.diag) if isinstance(error, psycopg.Error) else {}
    return {"type": type(error).__name__, "fields": fields, "text": None if fields else scrub(str(error))}


# ---------------------------------------------------------------- setup


@step
def setup(t):
    """Fixtures. The last statement is DDL, so that every later session reads behind all of it."""
    with Client(t, search_path=None) as c:
        c.run(f"CREATE SCHEMA {SCHEMA}")
        c.run(f"SET search_path TO {SCHEMA}")
        c.run("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
        c.run("CREATE TYPE point2 AS (x int4, label text)")
        c.run("CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric(10,2), mood mood)")
        c.run("INSERT INTO items SELECT i, 'item ' || i, i * 1.25, 'ok' FROM generate_series(1, 1000) i")
        c.run("CREATE TABLE big (id int, filler text)")
        c.run("INSERT INTO big SELECT i, repeat(chr(97 + i % 26), 40) FROM generate_series(1, 20000) i")
        c.run("CREATE VIEW cheap AS SELECT id, name FROM items WHERE price < 10")


# ---------------------------------------------------------------- simple and extended queries


@step
def simple_queries(t):
    with Client(t) as c:
        c.run("SELECT 1 AS one, 'two' AS two, NULL AS nothing, 3.50::numeric AS three")
        c.run("SELECT id, name, price, mood FROM items WHERE id <= 5 ORDER BY id")
        c.run("SELECT * FROM cheap ORDER BY id")
        c.run("VALUES (1, 'a'), (2, 'b')")
        c.run("TABLE cheap")
        c.run("SHOW server_version_num")
        c.run("EXPLAIN (COSTS OFF) SELECT * FROM items WHERE id = 3")
        c.run("SELECT count(*) FROM items WHERE name LIKE 'item 1%'")
        c.run("SELECT current_schema(), current_user, current_database()")


@step
def zero_columns_and_empty_queries(t):
    with Client(t) as c:
        c.run("SELECT")
        c.run("SELECT FROM generate_series(1, 3)")
        c.run("SELECT FROM items WHERE id = %s", (1,))
        c.run("SELECT id FROM items WHERE false")
        for query in ("", ";", "-- only a comment", "/* only a comment */", "  ;  ; "):
            c.run(query)
        c.run(b"", ())


@step
def multi_statement(t):
    with Client(t) as c:
        c.run("SELECT 1 AS a; SELECT 2 AS b; SELECT 3 AS c")
        c.run("CREATE TABLE multi (id int); INSERT INTO multi VALUES (1), (2); SELECT count(*) FROM multi")
        c.run("INSERT INTO multi VALUES (3); SELECT 1/0; INSERT INTO multi VALUES (4)")
        c.run("SELECT * FROM multi ORDER BY id")
        c.run("BEGIN; INSERT INTO multi VALUES (5); COMMIT; SELECT count(*) FROM multi")
        c.run("INSERT INTO multi VALUES (6); BEGIN; INSERT INTO multi VALUES (7)")
        c.run("ROLLBACK; SELECT * FROM multi ORDER BY id")
        c.run("SELECT 1; SELEC 2")
        c.run("SELECT 1; SELECT 2", ("parameters",))
        c.run("SELECT %s; SELECT 2", (1,))


@step
def long_texts(t):
    with Client(t) as c:
        wide = ", ".join(str(number) for number in range(30000))
        c.run(f"SELECT count(*), sum(id) FROM items WHERE id IN ({wide})")
        c.run(f"SELECT count(*) FROM items WHERE id = ANY(%s)", (list(range(30000)),))
        c.run("SELECT " + ", ".join(f"{n} AS column_{n}" for n in range(300)))
        c.run("SELECT " + ", ".join(f"%s::int AS c{n}" for n in range(300)), list(range(300)), binary=True)
        c.run("SELECT length(%s::text)", ("x" * 5_000_000,))
        c.run("/* " + "y" * 100_000 + " */ SELECT 1 AS after_a_long_comment")
        c.run("SELECT 1 AS a_name_that_is_cut_off_because_it_is_longer_than_sixty_three_bytes_long")


# ---------------------------------------------------------------- types

VALUES = [
    ("int2", -32768), ("int2", 32767), ("int4", -2147483648), ("int4", 2147483647), ("int8", -(2**63)),
    ("int8", 2**63 - 1), ("float4", 1.5), ("float8", 0.1), ("float8", float("inf")), ("float8", float("nan")),
    ("numeric", decimal.Decimal("12345678901234567890.123456789")), ("numeric", decimal.Decimal("NaN")),
    ("numeric", decimal.Decimal("-0.00001")), ("text", ""), ("text", "naïve café 日本語 🐘 \t\n'\"\\"),
    ("varchar(5)", "abcdefgh"), ("char(6)", "abc"), ("bytea", b""), ("bytea", bytes(range(256))), ("bool", True),
    ("bool", False), ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")), ("json", Json({"b": [1, None], "a": "é"})),
    ("jsonb", Jsonb({"b": [1, None], "a": "é"})), ("int4[]", [1, None, 3]), ("text[]", ["a", None, 'q"uote', "{,}"]),
    ("int4[]", [[1, 2], [3, 4]]), ("int4[]", []), ("numeric[]", [decimal.Decimal("1.10")]), ("date", dt.date(2024, 2, 29)),
    ("date", dt.date(1, 1, 1)), ("time", dt.time(23, 59, 59, 999999)),
    ("timetz", dt.time(1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=2)))), ("timestamp", dt.datetime(2024, 2, 29, 12, 0, 0, 1)),
    ("timestamptz", dt.datetime(2024, 2, 29, 12, tzinfo=dt.timezone.utc)), ("interval", dt.timedelta(days=3, seconds=5, microseconds=7)),
    ("inet", "192.168.1.7/24"), ("cidr", "10.0.0.0/8"), ("macaddr", "08:00:2b:01:02:03"), ("point", "(1,2)"),
    ("bit(4)", "1010"), ("int4range", "[1,5)"), ("tsvector", "a:1 b:2"), ("xid", "7"), ("money", "12.34"), ("mood", "happy"),
]


@step
def parameter_types(t):
    """Each type as a parameter and as a result, in text and in binary, with its NULL."""
    with Client(t) as c:
        c.run("SET TIME ZONE 'UTC'")
        for style in ("t", "b"):
            for type_name, value in VALUES:
                placeholder = f"%{style}" if not isinstance(value, (Json, Jsonb)) else "%s"
                c.run(f"SELECT {placeholder}::{type_name} AS v", (value,), binary=style == "b")
        for type_name in sorted({name for name, _ in VALUES}):
            c.run(f"SELECT %s::{type_name} AS v", (None,), binary=True)
        for type_name, value in [("int2", 70000), ("int4", "not a number"), ("date", "2024-02-30"), ("uuid", "x"), ("json", "{"),
                                 ("mood", "angry"), ("int4[]", "{1,"), ("text", "nul \0 byte"), ("bool", "maybe")]:
            try:
                c.run(f"SELECT %s::{type_name} AS v", (value,))
            except ValueError as error:
                t.note("error", **error_fields(error))


@step
def parameter_roundtrip_table(t):
    with Client(t) as c:
        c.run("CREATE TABLE kinds (id serial, i int8, n numeric, t text, b bytea, j jsonb, a text[], d timestamptz, u uuid)")
        row = (1, decimal.Decimal("1.5"), "é", b"\x00\xff", Jsonb([1]), ["x", None], dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc), uuid.UUID(int=5))
        for binary in (False, True):
            c.run("INSERT INTO kinds (i,n,t,b,j,a,d,u) VALUES (%s,%s,%s,%s,%s,%s,%s,%s) RETURNING *", row, binary=binary)
            c.run("SELECT * FROM kinds ORDER BY id", binary=binary)
        cursor = psycopg.ClientCursor(c.conn)
        cursor.execute("SELECT %s, %s, %s", ("it's", 5, None))
        c.results(cursor, "client-side binding")


@step
def enum_and_composite(t):
    import enum

    with Client(t) as c:
        Mood = enum.Enum("Mood", ["sad", "ok", "happy"])
        register_enum(EnumInfo.fetch(c.conn, "mood"), c.conn, Mood)
        register_composite(CompositeInfo.fetch(c.conn, "point2"), c.conn)
        for binary in (False, True):
            c.run("SELECT 'happy'::mood, ARRAY['sad', 'ok']::mood[]", binary=binary)
            c.run("SELECT %s::mood", (Mood.sad,), binary=binary)
            c.run("SELECT (1, 'one')::point2, ARRAY[(2, NULL)::point2]", binary=binary)
            c.run("SELECT ROW(1, 'x', NULL)", binary=binary)
            c.run("SELECT i FROM items i WHERE id = 7", binary=False)
        c.run("SELECT id FROM items WHERE mood = %s ORDER BY id LIMIT 2", (Mood.ok,))


# ---------------------------------------------------------------- prepared statements


@step
def automatic_prepare(t):
    """psycopg prepares after five executions; the server turns to a generic plan after five more."""
    with Client(t) as c:
        for number in range(15):
            c.run("SELECT id, name FROM items WHERE id = %s", (number,))
        c.run("SELECT id FROM items WHERE id = %s", (4,), prepare=True)
        c.run("SELECT id FROM items WHERE id = %s", (5,), prepare=True)
        c.conn.prepared_max = 2
        for number in range(12):
            c.run(f"SELECT {number % 4} AS n, %s::int AS v", (number,), prepare=True)
        c.run("DEALLOCATE ALL")
        c.run("SELECT id FROM items WHERE id = %s", (6,), prepare=True)
        c.conn.prepare_threshold = 0
        c.run("CREATE TABLE prepared (id int)")
        for number in range(8):
            c.run("INSERT INTO prepared VALUES (%s)", (number,))
            c.run("SELECT count(*) FROM prepared WHERE id >= %s", (0,))
        c.conn.autocommit = False
        c.run("SELECT id FROM items WHERE id = %s", (8,))
        c.run("SELECT 1 / %s", (0,))
        c.conn.rollback()
        c.run("SELECT 1 / %s", (2,))
        c.conn.rollback()


class Raw:
    """libpq's own calls: the extended protocol without psycopg's conveniences."""

    def __init__(self, t, client):
        self.t, self.pg = t, client.conn.pgconn

    def note(self, what, result):
        status = pq.ExecStatus(result.status).name
        error = result.error_field(pq.DiagnosticField.SQLSTATE)
        fields = {}
        for name in ("SQLSTATE", "MESSAGE_PRIMARY", "MESSAGE_DETAIL", "MESSAGE_HINT", "STATEMENT_POSITION", "SEVERITY", "SOURCE_FUNCTION"):
            value = result.error_field(getattr(pq.DiagnosticField, name))
            if value is not None:
                fields[name] = scrub(value.decode())
        columns = [[result.fname(i).decode(), oid(result.ftype(i)), result.fformat(i)] for i in range(result.nfields)]
        rows = [[typed(result.get_value(r, i)) for i in range(result.nfields)] for r in range(result.ntuples)]
        parameters = [oid(result.param_type(i)) for i in range(result.nparams)]
        self.t.note(what, status=status, fields=fields if error else None, columns=columns, rows=rows, parameters=parameters or None,
                    tag=(result.command_status or b"").decode(), transaction=pq.TransactionStatus(self.pg.transaction_status).name)
        return result

    def prepare(self, name, text, types=None):
        return self.note(f"prepare {name.decode()}", self.pg.prepare(name, text, types))

    def describe(self, name):
        return self.note(f"describe {name.decode()}", self.pg.describe_prepared(name))

    def execute(self, name, params=(), result_format=0):
        return self.note(f"execute {name.decode()}", self.pg.exec_prepared(name, list(params), None, result_format))

    def query(self, text):
        return self.note(text.decode("utf-8", "backslashreplace"), self.pg.exec_(text))


@step
def named_prepared_statements(t):
    with Client(t) as c:
        raw = Raw(t, c)
        raw.prepare(b"find", b"SELECT id, name FROM items WHERE id = $1")
        raw.describe(b"find")
        for number in range(12):
            raw.execute(b"find", [str(number).encode()], number % 2)
        raw.prepare(b"find", b"SELECT 2")
        raw.query(b"DEALLOCATE find")
        raw.execute(b"find", [b"1"])
        raw.prepare(b"find", b"SELECT price FROM items WHERE id = $1::int8")
        raw.describe(b"find")
        raw.execute(b"find", [b"3"])
        raw.prepare(b"typed", b"SELECT $1, $2", [23, 25])
        raw.describe(b"typed")
        raw.execute(b"typed", [b"5", b"five"])
        raw.execute(b"typed", [b"5"])
        raw.execute(b"typed", [b"not a number", b"five"])
        raw.execute(b"typed", [None, None])
        raw.prepare(b"write", b"INSERT INTO items VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING id, name")
        raw.execute(b"write", [b"5001", b"new"])
        raw.execute(b"write", [b"5001", b"newer"])
        raw.query(b"DELETE FROM items WHERE id > 5000")
        raw.query(b"DEALLOCATE ALL")
        raw.execute(b"write", [b"5001", b"new"])
        raw.execute(b"typed", [b"1", b"2"])
        raw.prepare(b"", b"SELECT 'unnamed', $1::int")
        raw.execute(b"", [b"1"])
        raw.execute(b"", [b"2"])
        raw.query(b"SELECT 'a simple query drops the unnamed statement'")
        raw.execute(b"", [b"3"])
        raw.prepare(b"two commands", b"SELECT 1; SELECT 2")
        raw.prepare(b"odd \"name\" ; --", b"SELECT 'odd name'")
        raw.execute(b"odd \"name\" ; --")
        raw.prepare("näme".encode(), b"SELECT 'other name'")
        raw.execute("näme".encode())
        raw.prepare(b"empty", b"")
        raw.describe(b"empty")
        raw.execute(b"empty")


@step
def prepare_errors(t):
    with Client(t) as c:
        raw = Raw(t, c)
        raw.prepare(b"bad", b"SELEC 1")
        raw.execute(b"bad")
        raw.prepare(b"bad", b"SELECT * FROM no_such_table")
        raw.prepare(b"bad", b"SELECT no_such_column FROM items")
        raw.prepare(b"bad", b"SELECT $1 + $2")
        raw.prepare(b"bad", b"SELECT $2::int")
        raw.prepare(b"bad", b"SELECT 1")
        raw.execute(b"bad")
        raw.describe(b"never prepared")
        raw.execute(b"never prepared")
        raw.query(b"DEALLOCATE never_prepared")
        raw.query(b"BEGIN")
        raw.prepare(b"in transaction", b"SELECT 'still here'")
        raw.prepare(b"broken", b"SELEC 1")
        raw.prepare(b"aborted", b"SELECT 1")
        raw.execute(b"in transaction")
        raw.query(b"ROLLBACK")
        raw.execute(b"in transaction")
        raw.execute(b"broken")
        raw.query(b"BEGIN")
        raw.prepare(b"rolled back", b"SELECT 'prepared statements are not transactional'")
        raw.query(b"ROLLBACK")
        raw.execute(b"rolled back")


@step
def sql_level_prepare(t):
    with Client(t) as c:
        c.run("PREPARE lookup (int) AS SELECT id, name FROM items WHERE id = $1")
        for number in range(8):
            c.run(f"EXECUTE lookup({number})")
        c.run("PREPARE lookup AS SELECT 1")
        c.run("EXECUTE lookup('x')")
        c.run("EXECUTE lookup")
        c.run("EXPLAIN (COSTS OFF) EXECUTE lookup(4)")
        c.run("CREATE TABLE prep (id int)")
        c.run("PREPARE put (int) AS INSERT INTO prep VALUES ($1) RETURNING id")
        c.run("EXECUTE put(1)")
        c.run("SELECT count(*) FROM prep")
        c.run("SELECT name, statement, parameter_types::text, from_sql FROM pg_prepared_statements WHERE from_sql ORDER BY name")
        c.run("DEALLOCATE lookup")
        c.run("EXECUTE lookup(1)")
        c.run("DEALLOCATE PREPARE put")
        c.run("EXECUTE put(2)")
        c.run("PREPARE a AS SELECT 1")
        c.run("DISCARD ALL")
        c.run("EXECUTE a")
        raw = Raw(t, c)
        raw.prepare(b"protocol_level", b"SELECT $1::int AS v")
        c.run("EXECUTE protocol_level(3)")
        c.run("PREPARE sql_made (int) AS SELECT $1 + 1")
        raw.describe(b"sql_made")
        raw.execute(b"sql_made", [b"41"])


@step
def cached_plan_changes(t):
    with Client(t) as c:
        raw = Raw(t, c)
        c.run("CREATE TABLE shape (id int, a text)")
        c.run("INSERT INTO shape VALUES (1, 'x')")
        raw.prepare(b"star", b"SELECT * FROM shape WHERE id = $1")
        raw.prepare(b"names", b"SELECT id, a FROM shape WHERE id = $1")
        for _ in range(7):
            raw.execute(b"star", [b"1"])
        raw.execute(b"names", [b"1"])
        c.run("ALTER TABLE shape ADD COLUMN b int DEFAULT 5")
        raw.execute(b"star", [b"1"])
        raw.execute(b"names", [b"1"])
        raw.query(b"DEALLOCATE star")
        raw.prepare(b"star", b"SELECT * FROM shape WHERE id = $1")
        raw.execute(b"star", [b"1"])
        c.run("BEGIN")
        c.run("ALTER TABLE shape ALTER COLUMN a TYPE varchar(9)")
        raw.execute(b"star", [b"1"])
        c.run("ROLLBACK")
        raw.execute(b"star", [b"1"])
        c.run("DROP TABLE shape")
        raw.execute(b"names", [b"1"])
        c.run("CREATE TABLE shape (id int, a text)")
        raw.execute(b"names", [b"1"])
        c.run(f"CREATE SCHEMA {SCHEMA}_2")
        c.run(f"CREATE TABLE {SCHEMA}_2.shape (id int, a text)")
        c.run(f"INSERT INTO {SCHEMA}_2.shape VALUES (1, 'other schema')")
        c.run(f"SET search_path TO {SCHEMA}_2")
        raw.execute(b"names", [b"1"])
        c.run(f"DROP SCHEMA {SCHEMA}_2 CASCADE")


# ---------------------------------------------------------------- COPY


@step
def copy_in_and_out(t):
    with Client(t) as c:
        c.run("CREATE TABLE copied (id int, name text, b bytea)")
        with c.conn.cursor() as cursor:
            with cursor.copy("COPY copied FROM STDIN") as copy:
                copy.write_row((1, "tab\tand\\backslash", b"\x00\x01"))
                copy.write_row((2, None, None))
                copy.write_row((3, "日本語", b""))
            t.note("copy in", tag=cursor.statusmessage, rowcount=cursor.rowcount)
            with cursor.copy("COPY copied FROM STDIN (FORMAT csv, HEADER)") as copy:
                copy.write("id,name,b\n4,\"quoted, \"\"text\"\"\",\\x41\n5,,\n")
            t.note("copy in csv", tag=cursor.statusmessage)
            with cursor.copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "text", "bytea"])
                copy.write_row((6, "binary", b"\xff"))
            t.note("copy in binary", tag=cursor.statusmessage)
            with cursor.copy("COPY copied FROM STDIN"):
                pass
            t.note("copy of nothing", tag=cursor.statusmessage)
            for options in ("", "(FORMAT csv, HEADER, FORCE_QUOTE *)", "(FORMAT binary)"):
                with cursor.copy(f"COPY (SELECT * FROM copied ORDER BY id) TO STDOUT {options}") as copy:
                    chunks = [typed(chunk) for chunk in copy]
                t.note(f"copy out {options}", tag=cursor.statusmessage, chunks=chunks)
            with cursor.copy("COPY copied TO STDOUT (FORMAT binary)") as copy:
                copy.set_types(["int4", "text", "bytea"])
                t.note("copy rows", rows=sorted(str(row) for row in copy.rows()))
            with cursor.copy("COPY (INSERT INTO copied VALUES (7) RETURNING id) TO STDOUT") as copy:
                t.note("copy of a write", chunks=[typed(chunk) for chunk in copy])
        c.run("SELECT * FROM copied ORDER BY id")


@step
def copy_large(t):
    with Client(t) as c:
        c.run("CREATE TABLE copied_large (id int, filler text)")
        with c.conn.cursor() as cursor:
            with cursor.copy("COPY copied_large FROM STDIN") as copy:
                for start in range(0, 100_000, 1000):
                    copy.write("".join(f"{n}\tfiller {n} {'z' * (n % 50)}\n" for n in range(start, start + 1000)))
            t.note("copy in", tag=cursor.statusmessage)
            with cursor.copy("COPY (SELECT * FROM copied_large ORDER BY id) TO STDOUT") as copy:
                t.note("copy out", rows_digest((bytes(chunk),) for chunk in copy), tag=cursor.statusmessage)
            with cursor.copy("COPY (SELECT * FROM copied_large ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
                t.note("copy out", rows_digest((bytes(chunk),) for chunk in copy), tag=cursor.statusmessage)
        c.run("SELECT count(*), sum(id), sum(length(filler)) FROM copied_large")


def try_copy(c, text, work):
    """Run `work(copy)` in a COPY that is expected to fail, and show that the connection lives on."""
    try:
        with c.conn.cursor() as cursor, cursor.copy(text) as copy:
            work(copy)
        c.t.note("copy", tag=cursor.statusmessage)
    except Exception as error:
        c.error(error, text)
    c.run("SELECT 'alive' AS still")


@step
def copy_errors(t):
    def stop_in_the_middle(copy):
        copy.write("1\n2\n")
        raise RuntimeError("the application gave up")

    def read_three(copy):
        for _ in range(3):
            copy.read()
        raise RuntimeError("the application stops reading")

    with Client(t) as c:
        c.run("CREATE TABLE copy_errors (id int PRIMARY KEY)")
        try_copy(c, "COPY copy_errors FROM STDIN", lambda copy: copy.write("1\nnot a number\n3\n"))
        try_copy(c, "COPY copy_errors FROM STDIN", lambda copy: copy.write("1\t2\n"))
        try_copy(c, "COPY copy_errors FROM STDIN", lambda copy: copy.write("1\n1\n"))
        try_copy(c, "COPY copy_errors FROM STDIN (FORMAT binary)", lambda copy: copy.write(b"garbage"))
        try_copy(c, "COPY copy_errors FROM STDIN", lambda copy: [copy.write("5000\n" * 1000) for _ in range(2000)])
        try_copy(c, "COPY copy_errors FROM STDIN", stop_in_the_middle)
        try_copy(c, "COPY no_such_table FROM STDIN", lambda copy: copy.write("1\n"))
        try_copy(c, "COPY (SELECT 10 / (5 - i) FROM generate_series(1, 9) i) TO STDOUT", lambda copy: [typed(chunk) for chunk in copy])
        try_copy(c, "SELECT 1", lambda copy: None)
        try_copy(c, "COPY big TO STDOUT", read_three)
        c.run("COPY copy_errors FROM STDIN")
        c.run("COPY copy_errors TO STDOUT")
        c.run("COPY items TO '/no/such/directory/file'")
        c.run("SELECT count(*) FROM copy_errors")
        c.run("BEGIN")
        try_copy(c, "COPY copy_errors FROM STDIN", lambda copy: copy.write("oops\n"))
        c.run("ROLLBACK")


# ---------------------------------------------------------------- transactions


@step
def transactions(t):
    with Client(t, autocommit=False) as c:
        c.run("CREATE TABLE tx (id int PRIMARY KEY, v text)")
        c.conn.commit()
        c.run("INSERT INTO tx VALUES (1, 'kept')")
        c.conn.commit()
        c.run("INSERT INTO tx VALUES (2, 'lost')")
        c.run("SELECT * FROM tx ORDER BY id")
        c.conn.rollback()
        c.run("SELECT * FROM tx ORDER BY id")
        c.run("SELECT 1/0")
        c.run("SELECT 'refused'")
        c.run("SELECT %s", ("refused",))
        c.run("COMMIT")
        c.conn.rollback()
        c.run("SELECT * FROM tx ORDER BY id")
        c.conn.commit()
    with Client(t) as c:
        c.run("COMMIT")
        c.run("ROLLBACK")
        c.run("BEGIN")
        c.run("BEGIN")
        c.run("INSERT INTO tx VALUES (3, 'sql level')")
        c.run("END")
        c.run("START TRANSACTION; INSERT INTO tx VALUES (4, 'one message'); ROLLBACK")
        c.run("BEGIN; SELECT 1/0")
        c.run("SELECT 1")
        c.run("ABORT")
        c.run("BEGIN")
        c.run("COMMIT AND CHAIN")
        c.run("ROLLBACK AND NO CHAIN")
        c.run("SAVEPOINT outside")
        c.run("SELECT * FROM tx ORDER BY id")
        c.run("BEGIN")
        c.run("SELECT 'abc'::int")
        c.run("COMMIT")


@step
def savepoints_and_nested_transactions(t):
    with Client(t) as c:
        c.run("CREATE TABLE nested (id int PRIMARY KEY)")
        with c.conn.transaction():
            c.run("INSERT INTO nested VALUES (1)")
            try:
                with c.conn.transaction("inner_one"):
                    c.run("INSERT INTO nested VALUES (2)")
                    c.conn.execute("INSERT INTO nested VALUES (1)")
            except psycopg.Error as error:
                c.error(error)
            with c.conn.transaction():
                c.run("INSERT INTO nested VALUES (3)")
                with c.conn.transaction() as innermost:
                    c.run("INSERT INTO nested VALUES (4)")
                    raise psycopg.Rollback(innermost)
        c.run("SELECT * FROM nested ORDER BY id")
        c.run("BEGIN")
        for text in ("SAVEPOINT a", "INSERT INTO nested VALUES (10)", "SAVEPOINT b", "INSERT INTO nested VALUES (10)", "SELECT 1",
                     "ROLLBACK TO b", "INSERT INTO nested VALUES (11)", "RELEASE a", "RELEASE b", "ROLLBACK TO SAVEPOINT nothing", "COMMIT",
                     "SELECT * FROM nested ORDER BY id"):
            c.run(text)


@step
def isolation_and_read_only(t):
    with Client(t) as c:
        c.run("CREATE TABLE iso (id int)")
        for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
            c.run(f"BEGIN ISOLATION LEVEL {level}")
            c.run("SHOW transaction_isolation")
            c.run("INSERT INTO iso VALUES (1)")
            c.run("SELECT count(*) FROM iso")
            c.run("COMMIT")
            c.run(f"BEGIN ISOLATION LEVEL {level} READ ONLY")
            c.run("SHOW transaction_isolation")
            c.run("SHOW transaction_read_only")
            c.run("SELECT count(*) FROM items")
            c.run("INSERT INTO iso VALUES (2)")
            c.run("ROLLBACK")
        c.run("BEGIN")
        c.run("SET TRANSACTION READ ONLY")
        c.run("SELECT count(*) FROM items")
        c.run("SET TRANSACTION READ WRITE")
        c.run("ROLLBACK")
        c.run("BEGIN READ ONLY")
        c.run("CREATE TABLE never (id int)")
        c.run("ROLLBACK")
        c.run("BEGIN READ ONLY")
        c.run("SELECT nextval('no_such_sequence')")
        c.run("ROLLBACK")
        c.run("BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE")
        c.run("SELECT count(*) FROM items")
        c.run("COMMIT")
        c.run("SET default_transaction_read_only = on")
        c.run("INSERT INTO iso VALUES (3)")
        c.run("SELECT count(*) FROM items")
        c.run("SHOW transaction_read_only")
        c.run("BEGIN READ WRITE")
        c.run("INSERT INTO iso VALUES (4)")
        c.run("COMMIT")
        c.run("RESET default_transaction_read_only")
        c.run("INSERT INTO iso VALUES (5)")
        c.run("SELECT count(*) FROM iso")
    with Client(t) as c:
        c.conn.read_only = True
        c.conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with c.conn.transaction():
            c.run("SELECT count(*) FROM items")
            c.run("SHOW transaction_isolation")
            c.run("DELETE FROM items")
        c.run("SHOW transaction_isolation")


@step
def serialization_failure(t):
    with Client(t) as a, Client(t) as b:
        a.run("CREATE TABLE counters (id int PRIMARY KEY, n int)")
        a.run("INSERT INTO counters VALUES (1, 0)")
        for c in (a, b):
            c.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
            c.run("SELECT pg_advisory_xact_lock_shared(77)")
        a.run("UPDATE counters SET n = n + 1")
        a.run("COMMIT")
        b.run("UPDATE counters SET n = n + 1")
        b.run("ROLLBACK")


@step
def deferred_constraints(t):
    with Client(t) as c:
        c.run("CREATE TABLE parent (id int PRIMARY KEY)")
        c.run("CREATE TABLE child (id int, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        c.run("BEGIN")
        c.run("INSERT INTO child VALUES (1, 100)")
        c.run("COMMIT")
        c.run("BEGIN")
        c.run("INSERT INTO child VALUES (1, 100)")
        c.run("INSERT INTO parent VALUES (100)")
        c.run("COMMIT")
        c.run("BEGIN")
        c.run("SET CONSTRAINTS ALL IMMEDIATE")
        c.run("INSERT INTO child VALUES (2, 200)")
        c.run("ROLLBACK")
        c.run("INSERT INTO child VALUES (3, 300)")
        c.run("SELECT * FROM child")
    with Client(t, autocommit=False) as c:
        c.run("INSERT INTO child VALUES (2, 200)")
        try:
            c.conn.commit()
        except psycopg.Error as error:
            c.error(error, "commit")
        c.run("SELECT count(*) FROM child")


# ---------------------------------------------------------------- session state


@step
def settings(t):
    with Client(t) as c:
        for text in (
            "SET work_mem = '7MB'", "SHOW work_mem", "SELECT current_setting('work_mem')", "RESET work_mem", "SHOW work_mem",
            "SET work_mem TO DEFAULT", "SET SESSION statement_timeout = 5000", "SHOW statement_timeout", "SET statement_timeout = '0'",
            "SET no_such_setting = 1", "SHOW no_such_setting", "SET work_mem = 'lots'", "SET my.custom = 'value'", "SHOW my.custom",
            "SELECT current_setting('my.custom'), current_setting('my.missing', true)", "SELECT current_setting('my.missing')",
            "SELECT set_config('my.custom', 'by function', false)", "SHOW my.custom", "SELECT set_config('my.custom', 'local', true)",
            "SHOW my.custom", "BEGIN", "SET LOCAL work_mem = '9MB'", "SET work_mem = '8MB'", "SET LOCAL my.custom = 'in transaction'",
            "SHOW work_mem", "SHOW my.custom", "COMMIT", "SHOW work_mem", "SHOW my.custom", "BEGIN", "SET work_mem = '11MB'", "SHOW work_mem",
            "ROLLBACK", "SHOW work_mem", "BEGIN", "SET work_mem = '12MB'", "SAVEPOINT s", "SET work_mem = '13MB'", "ROLLBACK TO s",
            "SHOW work_mem", "COMMIT", "SHOW work_mem", "SET LOCAL work_mem = '14MB'", "SHOW work_mem", "BEGIN; SET work_mem = '15MB'; COMMIT",
            "SHOW work_mem", "SET work_mem = '16MB'; SELECT 1/0", "SHOW work_mem", "RESET ALL", "SHOW work_mem", "SHOW my.custom",
            "SELECT current_schema()",
        ):
            c.run(text)


@step
def settings_reported_to_the_client(t):
    """ParameterStatus: what the driver believes must be what the server does."""
    names = ("TimeZone", "DateStyle", "IntervalStyle", "application_name", "client_encoding", "standard_conforming_strings",
             "server_version", "server_encoding", "integer_datetimes", "is_superuser", "session_authorization", "in_hot_standby",
             "default_transaction_read_only")
    with Client(t) as c:
        c.parameters(*names)
        when = "SELECT '2024-07-01 12:00+00'::timestamptz, '2024-07-01'::date::text, '1 day 2 hours'::interval::text"
        for text in ("SET TIME ZONE 'America/New_York'", "SET TimeZone = 'Asia/Kolkata'", "SET DateStyle = 'German, DMY'",
                     "SET IntervalStyle = 'iso_8601'", "SET application_name = 'transcript'", "SET standard_conforming_strings = off"):
            c.run(text)
            c.parameters(*names)
            c.run("SET DateStyle = ISO" if "German" in text else when)
        c.run(when + "||''")
        for text in ("BEGIN", "SET TimeZone = 'Europe/Paris'", "SET LOCAL DateStyle = 'ISO, YMD'", when, "ROLLBACK", when, "RESET TimeZone",
                     "DISCARD ALL", "SHOW application_name", "SHOW search_path"):
            c.run(text)
            c.parameters(*names)
        c.run("SET TimeZone = 'Nowhere/Nothing'")
        c.parameters("TimeZone")


@step
def search_path_and_roles(t):
    with Client(t) as c:
        c.run(f"CREATE SCHEMA {SCHEMA}_b")
        c.run(f"CREATE TABLE {SCHEMA}_b.items (only_here int)")
        c.run("SELECT count(*) FROM items")
        c.run(f"SET search_path TO {SCHEMA}_b, public")
        c.run("SELECT * FROM items")
        c.run("SELECT current_schemas(false)")
        c.run("SET search_path TO no_such_schema")
        c.run("SELECT * FROM items")
        c.run(f"SET search_path TO {SCHEMA}")
        c.run("SELECT count(*) FROM items")
        c.run("BEGIN")
        c.run(f"SET LOCAL search_path TO {SCHEMA}_b")
        c.run("SELECT * FROM items")
        c.run("COMMIT")
        c.run("SELECT count(*) FROM items")
        c.run(f"DROP SCHEMA {SCHEMA}_b CASCADE")
        c.run("SET ROLE pg_monitor")
        c.run("SELECT current_user, session_user")
        c.run("SELECT count(*) FROM items")
        c.run("RESET ROLE")
        c.run("SELECT current_user, session_user")
        c.run("SET ROLE no_such_role")
        c.run("SET SESSION AUTHORIZATION DEFAULT")
        c.run("SELECT count(*) FROM items")


@step
def startup_options(t):
    options = f"-c search_path={SCHEMA} -c work_mem=6MB -c statement_timeout=4321 --DateStyle=SQL,DMY -c TimeZone=Asia/Tokyo -c my.option=a\\ b"
    with Client(t, search_path=None, options=options, application_name="from startup") as c:
        names = ("TimeZone", "DateStyle", "application_name")
        c.parameters(*names)
        for text in ("SELECT count(*) FROM items", "SHOW work_mem", "SHOW statement_timeout", "SHOW my.option", "SHOW application_name",
                     "SET work_mem = '5MB'", "RESET work_mem", "SHOW work_mem", "SET TimeZone = UTC", "RESET ALL", "DISCARD ALL",
                     "SHOW work_mem", "SHOW search_path", "SHOW application_name"):
            c.run(text)
        c.parameters(*names)
    for bad in ("-c no_such_setting=1", "-c work_mem=lots", "-c shared_buffers=1MB", "-x", "-c"):
        try:
            with Client(t, search_path=None, options=bad) as c:
                c.run("SELECT 1")
        except psycopg.Error as error:
            t.note("error", options=bad, **error_fields(error))


@step
def client_encoding(t):
    with Client(t, client_encoding="LATIN1") as c:
        c.parameters("client_encoding")
        c.run("SELECT 'é' AS \"é\", length('é'), %s AS p", ("ÿ",))
        c.run("SELECT 'é'::bytea, convert_to('é', 'UTF8')")
        c.run("SELECT chr(8364)")
        c.run("SELECT * FROM \"größe\"")
        c.run("SET client_encoding = 'UTF8'")
        c.parameters("client_encoding")
        c.run("SELECT 'é€' AS e")
        c.run("SET client_encoding = 'SJIS'")
        c.run("SELECT '日本' AS e")
        c.run("SET client_encoding = 'no such encoding'")
        c.run("RESET client_encoding")
        c.parameters("client_encoding")
    with Client(t) as c:
        raw = Raw(t, c)
        raw.query(b"SELECT '\xff\xfe'")
        raw.query(b"SELECT 1")


@step
def discard_all(t):
    with Client(t) as c:
        for text in ("CREATE TEMP TABLE scratch (id int)", "INSERT INTO scratch VALUES (1)", "SELECT * FROM scratch", "SET work_mem = '5MB'",
                     "PREPARE p AS SELECT 1", "LISTEN channel", "SELECT pg_advisory_lock(4711)", "BEGIN", "DISCARD ALL", "ROLLBACK", "DISCARD ALL",
                     "SELECT * FROM scratch", "SHOW work_mem", "EXECUTE p", "SELECT pg_listening_channels()", "SELECT pg_advisory_unlock(4711)",
                     "DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES", "SELECT lastval()"):
            c.run(text)


@step
def temp_tables(t):
    with Client(t) as c:
        for text in ("CREATE TEMP TABLE tmp (id int)", "INSERT INTO tmp VALUES (1), (2)", "SELECT * FROM tmp ORDER BY id",
                     "CREATE TEMP TABLE items AS SELECT 1 AS shadows", "SELECT * FROM items", "DROP TABLE items", "SELECT count(*) FROM items",
                     "SELECT * INTO TEMP tmp2 FROM tmp", "SELECT count(*) FROM tmp2", "CREATE TEMP SEQUENCE ts", "SELECT nextval('ts'), currval('ts')",
                     "CREATE TEMP VIEW tv AS SELECT id * 2 AS twice FROM tmp", "SELECT * FROM tv ORDER BY 1", "BEGIN",
                     "CREATE TEMP TABLE gone (id int) ON COMMIT DROP", "INSERT INTO gone VALUES (1)", "SELECT * FROM gone", "COMMIT",
                     "SELECT * FROM gone", "BEGIN", "CREATE TEMP TABLE undone (id int)", "ROLLBACK", "SELECT * FROM undone", "DISCARD TEMP",
                     "SELECT * FROM tmp"):
            c.run(text)
    with Client(t) as c:
        c.run("SELECT * FROM tmp")


@step
def sequences(t):
    with Client(t) as c:
        c.run("CREATE SEQUENCE seq")
        c.run("SELECT lastval()")
        c.run("SELECT currval('seq')")
        c.run("SELECT nextval('seq')")
        c.run("SELECT currval('seq'), lastval()")
        c.run("BEGIN")
        c.run("SELECT nextval('seq')")
        c.run("SELECT currval('seq'), lastval()")
        c.run("ROLLBACK")
        c.run("SELECT currval('seq')")
        c.run("SELECT setval('seq', 100)")
        c.run("SELECT nextval('seq')")
        c.run("CREATE TABLE with_serial (id serial, v text)")
        c.run("INSERT INTO with_serial (v) VALUES ('a')")
        c.run("SELECT lastval(), currval(pg_get_serial_sequence('with_serial', 'id'))")


@step
def advisory_locks(t):
    with Client(t) as a, Client(t) as b:
        key = "hashtext(current_schema())"
        a.run(f"SELECT pg_advisory_lock({key})")
        b.run(f"SELECT pg_try_advisory_lock({key})")
        a.run(f"SELECT pg_advisory_unlock({key})")
        b.run(f"SELECT pg_try_advisory_lock({key})")
        a.run("BEGIN")
        a.run(f"SELECT pg_try_advisory_xact_lock({key})")
        a.run("COMMIT")
        b.run("SELECT pg_advisory_unlock_all()")
        a.run("BEGIN")
        a.run(f"SELECT pg_advisory_xact_lock({key})")
        b.run(f"SELECT pg_try_advisory_lock({key})")
        a.run("COMMIT")
        b.run(f"SELECT pg_try_advisory_lock({key})")
        a.run(f"SELECT pg_advisory_unlock({key})")


# ---------------------------------------------------------------- cursors and large results


@step
def cursors(t):
    with Client(t, autocommit=False) as c:
        with c.conn.cursor(name="named") as cursor:
            cursor.execute("SELECT id FROM items WHERE id <= %s ORDER BY id", (20,))
            t.note("fetch", one=typed(cursor.fetchone()), many=typed(cursor.fetchmany(3)), rest=typed(cursor.fetchall()))
        with c.conn.cursor(name="scroll", scrollable=True, binary=True) as cursor:
            cursor.execute("SELECT id FROM items ORDER BY id")
            first = cursor.fetchmany(2)
            cursor.scroll(5)
            third = cursor.fetchone()
            cursor.scroll(0, mode="absolute")
            t.note("scroll", first=typed(first), third=typed(third), again=typed(cursor.fetchone()))
        with c.conn.cursor(name="large") as cursor:
            cursor.itersize = 777
            t.note("large", rows_digest(cursor.execute("SELECT id, filler FROM big ORDER BY id")))
        c.conn.commit()
        with c.conn.cursor(name="held", withhold=True) as cursor:
            cursor.execute("SELECT id FROM items ORDER BY id LIMIT 9")
            c.conn.commit()
            t.note("held", rows=typed(cursor.fetchmany(4)))
            c.conn.commit()
            t.note("held", rows=typed(cursor.fetchall()))
        c.conn.commit()
    with Client(t) as c:
        for text in ("DECLARE plain CURSOR FOR SELECT 1", "BEGIN", "DECLARE plain CURSOR FOR SELECT id FROM items ORDER BY id", "FETCH 2 FROM plain",
                     "FETCH BACKWARD 1 FROM plain", "MOVE 3 IN plain", "FETCH NEXT FROM plain", "DECLARE plain CURSOR FOR SELECT 1", "ROLLBACK",
                     "FETCH plain", "BEGIN", "DECLARE held CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY id", "COMMIT", "FETCH 2 FROM held",
                     "FETCH 2 FROM held", "SELECT name, is_holdable FROM pg_cursors WHERE name = 'held'", "CLOSE held", "FETCH held", "CLOSE ALL"):
            c.run(text)


@step
def portals_with_row_limits(t):
    """psycopg cannot limit Execute; stream() shows single rows as they come, and is closed early."""
    with Client(t) as c:
        t.note("stream", rows_digest(c.conn.cursor().stream("SELECT i, repeat('x', 20) FROM generate_series(1, 20000) i")))
        cursor = c.conn.cursor()
        stream = cursor.stream("SELECT i FROM generate_series(1, 3000000) i")
        t.note("early", rows=[typed(next(stream)) for _ in range(5)])
        stream.close()
        c.run("SELECT 'after an early close'")
        try:
            for row in c.conn.cursor().stream("SELECT 10 / (4 - i) FROM generate_series(1, 9) i"):
                t.note("row", typed(row))
        except psycopg.Error as error:
            c.error(error)
        c.run("SELECT 'after an error'")


@step
def large_results(t):
    with Client(t) as c:
        c.run("SELECT i AS id, repeat(chr(97 + i % 26), i % 100) AS v FROM generate_series(1, 100000) i", digest=True)
        c.run("SELECT i AS id, repeat(chr(97 + i % 26), i % 100) AS v FROM generate_series(1, 100000) i", binary=True, digest=True)
        c.run("SELECT * FROM big ORDER BY id", digest=True)
        c.run("SELECT repeat('0123456789', 500000) AS v")
        c.run("SELECT repeat('ab', 2500000)::bytea AS v", binary=True)
        c.run("SELECT 100 / (50000 - i) FROM generate_series(1, 100000) i")
        c.run("SELECT 1 AS after")


# ---------------------------------------------------------------- cancel, timeouts, notices, notifications


@contextlib.contextmanager
def cancelling(request):
    """A request that comes before the server has begun stops nothing, so it is sent until there is an answer."""
    answered = threading.Event()

    def repeat():
        while not answered.wait(0.5):
            request()

    thread = threading.Thread(target=repeat)
    thread.start()
    yield
    answered.set()
    thread.join()


@step
def cancel(t):
    with Client(t) as c:
        for method in ("cancel", "cancel_safe"):
            with cancelling(getattr(c.conn, method)):
                c.run("SELECT pg_sleep(20)")
            c.run("SELECT 'reused' AS connection")
        c.conn.cancel()
        c.run("SELECT 'an idle cancel does nothing' AS connection")
        c.run("BEGIN")
        with cancelling(c.conn.cancel_safe):
            c.run("SELECT pg_sleep(20), count(*) FROM items")
        c.run("SELECT 1")
        c.run("ROLLBACK")
        c.run("SELECT 1 AS after")


@step
def statement_timeout(t):
    with Client(t) as c:
        c.run("SET statement_timeout = '200ms'")
        c.run("SELECT pg_sleep(10)")
        c.run("BEGIN; SET LOCAL statement_timeout = '100ms'; SELECT pg_sleep(10)")
        c.run("ROLLBACK")
        c.run("RESET statement_timeout")
        c.run("SELECT 'fine', pg_sleep(0.3)::text")
        c.run("SET lock_timeout = '100ms'")
        with Client(t) as other:
            other.run("BEGIN")
            other.run("LOCK TABLE cheap, items IN ACCESS EXCLUSIVE MODE")
            c.run("UPDATE items SET name = name WHERE id = 1")
            other.run("ROLLBACK")
        c.run("SELECT pg_terminate_backend(-1)")


@step
def notices(t):
    with Client(t) as c:
        c.run("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful' USING DETAIL = 'd', HINT = 'h', ERRCODE = '01234'; END $$")
        c.run("DO $$ BEGIN RAISE INFO 'info'; RAISE DEBUG 'hidden'; RAISE EXCEPTION 'stop' USING ERRCODE = 'P0099', TABLE = 'tt'; END $$")
        c.run("CREATE TABLE IF NOT EXISTS items (id int)")
        c.run("DROP TABLE IF EXISTS never_was")
        c.run("SET client_min_messages = debug1")
        c.run("CREATE TABLE noisy (id int PRIMARY KEY)")
        c.run("SET client_min_messages = error")
        c.run("DO $$ BEGIN RAISE WARNING 'not seen'; END $$")
        c.run("RESET client_min_messages")
        c.run("DO $$ BEGIN FOR i IN 1..500 LOOP RAISE NOTICE 'line %', i; END LOOP; END $$")


@step
def listen_and_notify(t):
    channel = f"{SCHEMA}_channel"
    with Client(t) as listener, Client(t) as sender:
        listener.run(f"LISTEN {channel}")
        listener.run(f"NOTIFY {channel}, 'to myself'")
        for note in listener.conn.notifies(timeout=10, stop_after=1):
            t.note("notify", [note.channel, note.payload, note.pid == listener.conn.info.backend_pid])
        sender.run(f"SELECT pg_notify('{channel}', 'from another')")
        sender.run(f"BEGIN; NOTIFY {channel}, 'one'; NOTIFY {channel}, 'one'; NOTIFY {channel}, 'two'; COMMIT")
        sender.run(f"BEGIN; NOTIFY {channel}, 'rolled back'; ROLLBACK")
        for note in listener.conn.notifies(timeout=10, stop_after=3):
            t.note("notify", [note.channel, note.payload])
        sender.run(f"NOTIFY {channel}, 'while idle'")
        for note in listener.conn.notifies(timeout=10, stop_after=1):
            t.note("notify", [note.channel, note.payload])
        listener.run("SELECT pg_listening_channels()")
        listener.run(f"UNLISTEN {channel}")
        sender.run(f"NOTIFY {channel}, 'nobody listens'")
        listener.run("SELECT 1")
        t.note("left over", [[n.channel, n.payload] for n in listener.conn.notifies(timeout=0.3)])


# ---------------------------------------------------------------- pipelines


@step
def pipelines(t):
    with Client(t) as c:
        c.run("CREATE TABLE piped (id int PRIMARY KEY)")
        with c.conn.pipeline() as pipe:
            cursors = [c.conn.execute("SELECT %s::int AS n, name FROM items WHERE id = %s", (n, n)) for n in range(1, 30)]
            pipe.sync()
            c.conn.execute("INSERT INTO piped VALUES (1)")
            cursors.append(c.conn.execute("SELECT count(*) FROM piped"))
        for cursor in cursors:
            c.results(cursor)
        # At which later call psycopg raises a pipeline's error depends on when the answer arrives, so
        # one `try` covers each pipeline, and only what is certain by then is recorded of its cursors.
        for values in ([10, 11, 10, 12], [20, 21]):
            outcome = []
            try:
                with c.conn.pipeline():
                    for value in values:
                        outcome.append(c.conn.execute("INSERT INTO piped VALUES (%s) RETURNING id", (value,)))
            except psycopg.Error as error:
                c.error(error, "pipeline")
            for cursor in outcome[:2]:
                t.note("cursor", tag=cursor.statusmessage, rowcount=cursor.rowcount)
            c.run("SELECT * FROM piped ORDER BY id")
        try:
            with c.conn.pipeline() as pipe:
                c.conn.execute("INSERT INTO piped VALUES (50)")
                pipe.sync()
                c.conn.execute("INSERT INTO piped VALUES (51)")
                c.conn.execute("SELECT 1/0")
                c.conn.execute("INSERT INTO piped VALUES (52)")
                pipe.sync()
        except psycopg.Error as error:
            c.error(error, "pipeline with syncs")
        c.run("SELECT * FROM piped ORDER BY id")
        try:
            with c.conn.pipeline():
                c.conn.execute("SELEC").fetchall()
        except psycopg.Error as error:
            c.error(error, "syntax error in a pipeline")
        with c.conn.pipeline(), c.conn.transaction():
            c.conn.execute("INSERT INTO piped VALUES (30)")
            t.note("in transaction", typed(c.conn.execute("SELECT count(*) FROM piped").fetchall()))
        cursor = c.conn.cursor()
        cursor.executemany("INSERT INTO piped VALUES (%s) RETURNING id", [(n,) for n in range(100, 140)], returning=True)
        c.results(cursor, "executemany")
        try:
            cursor.executemany("INSERT INTO piped VALUES (%s)", [(200,), (100,), (201,)])
        except psycopg.Error as error:
            c.error(error, "executemany")
        c.run("SELECT count(*) FROM piped")


# ---------------------------------------------------------------- writes and errors


@step
def read_after_write(t):
    with Client(t) as c:
        c.run("CREATE TABLE raw (id int)")
        wrong = []
        for number in range(1, 201):
            c.conn.execute("INSERT INTO raw VALUES (%s)", (number,))
            seen = c.conn.execute("SELECT count(*) FROM raw").fetchone()[0]
            if seen != number:
                wrong.append([number, seen])
        t.note("stale reads", wrong)


@step
def writes(t):
    with Client(t) as c:
        for text in (
            "CREATE TABLE w (id int PRIMARY KEY, v text DEFAULT 'd', g int GENERATED ALWAYS AS (id * 2) STORED)",
            "INSERT INTO w (id) VALUES (1), (2), (3) RETURNING *", "INSERT INTO w (id, v) VALUES (1, 'x') ON CONFLICT DO NOTHING",
            "INSERT INTO w (id, v) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = excluded.v || w.v RETURNING id, v",
            "UPDATE w SET v = 'u' WHERE id > 1 RETURNING id, v", "DELETE FROM w WHERE id = 3 RETURNING w.*",
            "WITH gone AS (DELETE FROM w WHERE id = 2 RETURNING id) SELECT count(*) FROM gone",
            "WITH new AS (INSERT INTO w (id) VALUES (9) RETURNING id) SELECT id FROM new", "SELECT * FROM w ORDER BY id",
            "SELECT * FROM w ORDER BY id FOR UPDATE", "SELECT * FROM w ORDER BY id FOR SHARE NOWAIT",
            "MERGE INTO w USING (VALUES (1), (50)) AS s(id) ON w.id = s.id WHEN MATCHED THEN UPDATE SET v = 'merged' WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
            "SELECT id, v FROM w ORDER BY id", "CREATE TABLE w2 AS SELECT * FROM w", "SELECT * INTO w3 FROM w", "SELECT count(*) FROM w3",
            "CREATE FUNCTION add_w(i int) RETURNS int LANGUAGE sql AS 'INSERT INTO w (id) VALUES (i) RETURNING id'", "SELECT add_w(60)",
            "SELECT count(*) FROM w", "CREATE PROCEDURE proc(i int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO w (id) VALUES (i); COMMIT; END $$",
            "CALL proc(61)", "SELECT count(*) FROM w", "BEGIN; CALL proc(62)", "ROLLBACK", "DO $$ BEGIN DELETE FROM w; END $$", "SELECT count(*) FROM w",
            "CREATE FUNCTION sneaky(i int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN INSERT INTO w (id) VALUES (i); RETURN i; END $$",
            "SELECT sneaky(70)", "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) INSERT INTO w (id) VALUES (80)", "SELECT count(*) FROM w",
            "TRUNCATE w", "SELECT count(*) FROM w", "VACUUM w", "ANALYZE w", "BEGIN; VACUUM w", "ROLLBACK", "CREATE INDEX w_v ON w (v)",
            "COMMENT ON TABLE w IS 'commented'", "SELECT obj_description('w'::regclass)", "LOCK TABLE w", "REINDEX TABLE w", "CHECKPOINT",
            "ALTER TABLE w RENAME TO w_renamed", "SELECT count(*) FROM w_renamed", "SELECT count(*) FROM w", "DROP TABLE w_renamed, w2, w3",
        ):
            c.run(text)


@step
def errors(t):
    with Client(t) as c:
        c.run("CREATE DOMAIN positive AS int CONSTRAINT must_be_positive CHECK (VALUE > 0)")
        c.run("CREATE TABLE strict (id int PRIMARY KEY, n int NOT NULL, p positive, c int CONSTRAINT small CHECK (c < 10), r int REFERENCES strict, EXCLUDE (n WITH =))")
        c.run("INSERT INTO strict VALUES (1, 1)")
        for text in (
            "INSERT INTO strict VALUES (1, 2)", "INSERT INTO strict VALUES (2, NULL)", "INSERT INTO strict VALUES (2, 2, -1)",
            "INSERT INTO strict VALUES (2, 2, 1, 10)", "INSERT INTO strict VALUES (2, 2, 1, 1, 99)", "INSERT INTO strict VALUES (2, 1)",
            "SELECT 1/0", "SELEC 1", "SELECT 1 FRM items", "SELECT * FROM no_such_table", "SELECT no_such_column\nFROM items",
            "SELECT idd FROM items", "SELECT no_such_function(1)", "SELECT 'a' + 1", "SELECT 'abc'::int", "SELECT ''::date", "SELECT 'unterminated",
            "SELECT (1", "SELECT \"unterminated", "SELECT $1", "SELECT 'é', x FROM items", "SELECT 99999999999::int", "SELECT repeat('x', -1), sqrt(-1)",
            "SELECT id, count(*) FROM items", "SELECT * FROM items, items", "CREATE TABLE items (id int)", "DROP TABLE items", "SELECT (SELECT id FROM items)",
            "INSERT INTO items (id, id) VALUES (1, 1)", "INSERT INTO items VALUES (1)", "CREATE UNIQUE INDEX ON big ((1))", "SELECT '{'::json",
            "SELECT pg_sleep('x')", "ALTER TABLE items ADD COLUMN id int", "SELECT * FROM no_such_db.public.t", "GRANT SELECT ON items TO no_such_role",
            "SELECT lo_get(0)", "COMMIT PREPARED 'nothing'", "EXECUTE nothing", "CLOSE nothing", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SELECT 10 / (id - 500) FROM items ORDER BY id", "DO 'BEGIN PERFORM 1/0; END'", "SELECT xmlparse(document '<')", "SELECT 1 AS ok",
        ):
            c.run(text)
        c.run("SELECT %s + no_such_column FROM items", (1,))
        c.run("SELECT 1 / %s", (0,), binary=True)
        c.run("INSERT INTO strict VALUES (%s, %s)", (1, 5))
        c.run("SELECT * FROM strict")


@step
def routines_and_functions(t):
    """Functions whose answer depends on where and how they run must still look like one server."""
    with Client(t) as c:
        for text in ("SELECT pg_is_in_recovery()", "SELECT pg_backend_pid() = pg_backend_pid() AS same", "SHOW transaction_read_only", "SHOW in_hot_standby",
                     "SELECT now() = transaction_timestamp()", "SELECT random() < 1", "SELECT count(*) > 0 FROM pg_stat_activity",
                     "SELECT txid_current() > 0", "SELECT pg_current_wal_lsn() IS NOT NULL", "SELECT version() LIKE 'PostgreSQL%'",
                     "SELECT current_setting('server_version_num')::int > 90000", "SELECT usename = current_user FROM pg_stat_activity WHERE pid = pg_backend_pid()",
                     "SELECT lo_unlink(lo_create(0))", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"):
            c.run(text)
        c.run("BEGIN")
        c.run("SELECT now() = statement_timestamp() OR true, txid_current_if_assigned() IS NULL")
        c.run("SELECT pg_export_snapshot() IS NOT NULL")
        c.run("COMMIT")


@step
def large_objects(t):
    with Client(t, autocommit=False) as c:
        for text in ("SELECT lo_from_bytea(987654321, '\\x010203')", "SELECT lo_get(987654321)", "SELECT lo_open(987654321, 131072)",
                     "SELECT loread(0, 2)", "SELECT lo_unlink(987654321)", "SELECT lo_get(987654321)"):
            c.run(text)
        c.conn.rollback()


@step
def two_phase(t):
    with Client(t) as c:
        c.run("CREATE TABLE tp (id int)")
        c.run("BEGIN")
        c.run("INSERT INTO tp VALUES (1)")
        c.run(f"PREPARE TRANSACTION '{SCHEMA}_gid'")
        try:
            c.run("SELECT count(*) FROM tp")
        finally:
            c.run(f"COMMIT PREPARED '{SCHEMA}_gid'")
        c.run("SELECT count(*) FROM tp")


# ---------------------------------------------------------------- connections


@step
def connection_errors(t):
    for what, options in (("wrong password", {"password": "wrong"}), ("no such user", {"user": "no_such_user", "password": "x"}),
                          ("no such database", {"dbname": "no_such_database"}), ("bad application name", {"application_name": "café\t"}),
                          ("empty password", {"password": ""})):
        try:
            with Client(t, **options) as c:
                t.note(what, "connected")
                c.run("SHOW application_name")
        except psycopg.Error as error:
            t.note("error", what=what, **error_fields(error))


@step
def concurrent_connections(t):
    """Ten at a time, each with a state of its own that must not be seen by the others."""
    outcome = [None] * 10

    def work(number):
        record = Step("thread")
        with Client(record) as c:
            c.run(f"SET application_name = 'worker {number}'")
            c.run(f"SET my.worker = '{number}'")
            c.run(f"CREATE TABLE worker_{number} (id int)")
            for value in range(10):
                c.run(f"INSERT INTO worker_{number} VALUES (%s)", (value,))
                c.run(f"SELECT count(*), current_setting('my.worker'), current_setting('application_name') FROM worker_{number}")
            c.run("SELECT pg_sleep(0.05)")
            c.run("SHOW my.worker")
        outcome[number] = record.events

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, events in enumerate(outcome):
        t.note("worker", number=number, events=events)


@step
def reconnecting_leaves_nothing_behind(t):
    with Client(t, search_path=None) as c:
        c.run("SET work_mem = '77MB'")
        c.run("SET my.leak = 'leaked'")
        c.run("PREPARE leak AS SELECT 1")
        c.run("LISTEN leak")
    for _ in range(3):
        with Client(t, search_path=None) as c:
            c.run("SHOW work_mem")
            c.run("SELECT current_setting('my.leak', true) IS DISTINCT FROM 'leaked' AS clean")
            c.run("EXECUTE leak")
            c.run("SELECT count(*) FROM pg_listening_channels()")
            c.run("SHOW search_path")


@step
def teardown(t):
    with Client(t, search_path=None) as c:
        c.run("SET client_min_messages = warning")
        c.run("SET lock_timeout = '10s'")
        c.run(f"DROP SCHEMA {SCHEMA} CASCADE")


def run_step(function):
    """Run one step in a thread, so that a hang in libpq can be reported and left behind."""
    record = Step(function.__name__)

    def body():
        try:
            function(record)
        except BaseException as error:  # whatever it is, it is part of what the application saw
            record.note("step raised", **error_fields(error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(STEP_TIMEOUT)
    if thread.is_alive():
        record.note("hung", seconds=STEP_TIMEOUT)
    record.emit()


if __name__ == "__main__":
    for function in STEPS:
        if transcript.wanted(function.__name__):
            run_step(function)
    sys.stdout.flush()
    os._exit(0)  # a hung thread must not hold the script
