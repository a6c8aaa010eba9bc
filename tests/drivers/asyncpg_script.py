"""asyncpg's ordinary features, as a transcript: asyncpg_script.py CONNINFO SCHEMA [STEP].

Run by run.py, once on a direct connection and once through the proxy. asyncpg speaks the extended
protocol in binary, keeps a cache of named prepared statements, and introspects unknown types.
Every step has a connection of its own and reads only its own writes or what `setup` made.
"""

import asyncio
import datetime as dt
import decimal
import io
import os
import sys
import uuid

import asyncpg

import transcript
from transcript import STEP_TIMEOUT, Step, oid, rows_digest, scrub, typed

CONNINFO, SCHEMA = sys.argv[1], sys.argv[2]
STEPS = []
ERROR_FIELDS = """severity severity_en sqlstate message detail hint position internal_position internal_query context
    schema_name table_name column_name data_type_name constraint_name server_source_filename server_source_line
    server_source_function""".split()


def step(function):
    STEPS.append(function)
    return function


def error_fields(error):
    fields = {name: getattr(error, name, None) for name in ERROR_FIELDS} if isinstance(error, asyncpg.exceptions._base.PostgresMessage) else {}
    fields = {name: scrub(str(value)) for name, value in fields.items() if value is not None}
    return {"type": type(error).__name__, "fields": fields, "text": scrub(str(error))}


class Client:
    """A connection whose log messages go to the step's record."""

    def __init__(self, t, search_path=SCHEMA, **options):
        self.t, self.options, self.search_path = t, options, search_path

    async def __aenter__(self):
        self.conn = await asyncpg.connect(CONNINFO, **self.options)
        self.conn.add_log_listener(lambda _, message: self.t.note("notice", **error_fields(message)))
        if self.search_path:
            await self.conn.execute(f"SET search_path TO {self.search_path}")
        return self

    async def __aexit__(self, *_):
        try:
            await asyncio.wait_for(self.conn.close(), 3)
        except (asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.conn.terminate()

    async def attempt(self, what, awaitable, show=typed):
        """Await something of the driver and record its value or its error."""
        try:
            value = await awaitable
        except Exception as error:  # also what the driver itself stumbles over is what the application sees
            self.t.note("error", what=what, **error_fields(error))
            return None
        self.t.note("value", what=what, returned=show(value))
        return value

    async def run(self, query, *arguments, timeout=None):
        """fetch(): prepared implicitly, and cached under a name."""
        return await self.attempt(query, self.conn.fetch(query, *arguments, timeout=timeout), records)

    async def simple(self, script):
        """execute() without arguments: the simple query protocol; gives the command tag."""
        return await self.attempt(script, self.conn.execute(script))


def records(rows):
    return [{"columns": list(row.keys()), "values": [typed(value) for value in row.values()]} for row in rows]


def digest(rows):
    return rows_digest(tuple(row) for row in rows)


def described(statement):
    return {
        "parameters": [[oid(kind.oid), kind.name, kind.kind] for kind in statement.get_parameters()],
        "columns": [[column.name, oid(column.type.oid), column.type.name] for column in statement.get_attributes()],
        "tag": statement.get_statusmsg(),
    }


@step
async def setup(t):
    """Fixtures. The last statement is DDL, so that every later session reads behind all of it."""
    async with Client(t, search_path=None) as c:
        await c.simple(f"CREATE SCHEMA {SCHEMA}")
        await c.simple(f"SET search_path TO {SCHEMA}")
        await c.simple("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE TYPE point2 AS (x int4, label text); CREATE DOMAIN posint AS int CHECK (VALUE > 0)")
        await c.simple("CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric(10,2), mood mood)")
        await c.simple("INSERT INTO items SELECT i, 'item ' || i, i * 1.25, 'ok' FROM generate_series(1, 1000) i")
        await c.simple("CREATE VIEW cheap AS SELECT id, name FROM items WHERE price < 10")


@step
async def simple_and_extended_queries(t):
    async with Client(t) as c:
        await c.run("SELECT 1 AS one, 'two' AS two, NULL AS nothing, 3.50::numeric AS three")
        await c.run("SELECT * FROM items WHERE id <= $1 ORDER BY id", 4)
        await c.run("SELECT")
        await c.run("SELECT FROM generate_series(1, 3)")
        await c.run("SELECT id FROM items WHERE false")
        for query in ("", ";", "-- comment"):
            await c.run(query)
            await c.simple(query)
        await c.attempt("fetchval", c.conn.fetchval("SELECT count(*) FROM items"))
        await c.attempt("fetchrow", c.conn.fetchrow("SELECT id, name FROM items ORDER BY id"), lambda row: typed(tuple(row)))
        await c.attempt("fetchrow none", c.conn.fetchrow("SELECT id FROM items WHERE false"))
        await c.simple("SELECT 1; SELECT 2")
        await c.simple("CREATE TABLE multi (id int); INSERT INTO multi VALUES (1), (2)")
        await c.simple("INSERT INTO multi VALUES (3); SELECT 1/0; INSERT INTO multi VALUES (4)")
        await c.run("SELECT * FROM multi ORDER BY id")
        await c.run("SELECT 1; SELECT 2")
        await c.run("SELECT $1::int", "not an int")
        await c.run("SELECT $1::int")
        await c.run("SELECT $1::int", 1, 2)
        await c.run("EXPLAIN (COSTS OFF) SELECT * FROM items WHERE id = $1", 3)
        wide = ", ".join(str(number) for number in range(30000))
        await c.run(f"SELECT count(*), sum(id) FROM items WHERE id IN ({wide})")
        await c.run("SELECT count(*) FROM items WHERE id = ANY($1::int[])", list(range(30000)))
        await c.run("SELECT " + ", ".join(f"{n} AS column_{n}" for n in range(300)))
        await c.run("SELECT length($1::text)", "x" * 5_000_000)


VALUES = [
    ("int2", 32767), ("int4", -2147483648), ("int8", 2**63 - 1), ("float4", 1.5), ("float8", 0.1), ("float8", float("nan")),
    ("numeric", decimal.Decimal("12345678901234567890.123456789")), ("numeric", decimal.Decimal("NaN")), ("text", ""),
    ("text", "naïve café 日本語 🐘 \t\n'\"\\"), ("varchar(5)", "abcde"), ("char(6)", "abc"), ("bytea", bytes(range(256))), ("bool", True),
    ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")), ("json", '{"b": [1, null]}'), ("jsonb", '{"b": [1, null], "a": 1}'),
    ("int4[]", [1, None, 3]), ("int4[]", [[1, 2], [3, 4]]), ("text[]", ["a", None, 'q"uote', "{,}"]), ("int4[]", []), ("date", dt.date(2024, 2, 29)),
    ("date", dt.date.max), ("time", dt.time(23, 59, 59, 999999)), ("timestamp", dt.datetime(2024, 2, 29, 12, 0, 0, 1)),
    ("timestamptz", dt.datetime(2024, 2, 29, 12, tzinfo=dt.timezone.utc)), ("interval", dt.timedelta(days=3, seconds=5, microseconds=7)),
    ("inet", "192.168.1.7"), ("cidr", "10.0.0.0/8"), ("point", asyncpg.Point(1, 2)), ("bit(4)", asyncpg.BitString("1010")),
    ("int4range", asyncpg.Range(1, 5)), ("money", "12.34"), ("mood", "happy"), ("mood[]", ["sad", "ok"]), ("point2", (1, "one")), ("point2[]", [(1, "one"), (2, None)]),
    ("posint", 5), ("oid", 26), ("xid", 7), ("tid", (1, 2)), ("macaddr", "08:00:2b:01:02:03"), ("record", None), ("pg_lsn", 77),
]


@step
async def types(t):
    """Each type as parameter and result, with its NULL; unknown types are introspected by the driver."""
    async with Client(t) as c:
        await c.simple("SET TIME ZONE 'UTC'")
        for type_name, value in VALUES:
            if type_name != "record":
                await c.run(f"SELECT $1::{type_name} AS v", value)
                await c.run(f"SELECT $1::{type_name} AS v", None)
        await c.run("SELECT ROW(1, 'x', NULL)")
        await c.run("SELECT i FROM items i WHERE id = 7")
        for type_name, value in (("int2", 70000), ("mood", "angry"), ("posint", -1), ("text", "nul \0"), ("json", "{"), ("int4[]", [1, "x"]), ("uuid", "x")):
            await c.run(f"SELECT $1::{type_name} AS v", value)
        await c.conn.set_type_codec("mood", schema=SCHEMA, encoder=str, decoder=str.upper)
        await c.run("SELECT 'happy'::mood")
        await c.simple("CREATE TABLE kinds (i int8, n numeric, t text, b bytea, a text[], d timestamptz)")
        row = (1, decimal.Decimal("1.5"), "é", b"\x00\xff", ["x", None], dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc))
        await c.run("INSERT INTO kinds VALUES ($1,$2,$3,$4,$5,$6) RETURNING *", *row)
        await c.run("SELECT * FROM kinds")


@step
async def prepared_statements(t):
    async with Client(t) as c:
        statement = await c.conn.prepare("SELECT id, name FROM items WHERE id = $1")
        t.note("prepared", described(statement))
        for number in range(12):
            await c.attempt("fetch", statement.fetch(number), records)
        await c.attempt("fetchval", statement.fetchval(3))
        await c.attempt("explain", statement.explain(3), lambda plan: [sorted(item) for item in plan])
        named = await c.conn.prepare("SELECT $1::int + 1 AS v", name="my statement")
        await c.attempt("named", named.fetch(1), records)
        await c.attempt("named again", c.conn.prepare("SELECT 2", name="my statement"), described)
        await c.attempt("named", named.fetch(2), records)
        for text in ("SELEC 1", "SELECT * FROM no_such_table", "SELECT $1 + $2", "SELECT 1; SELECT 2", "SELECT no_such_column FROM items"):
            await c.attempt(text, c.conn.prepare(text), described)
        for text in ("INSERT INTO items VALUES ($1, $2) RETURNING id", "BEGIN", "SHOW work_mem", "CREATE TABLE never (id int)", ""):
            await c.attempt(text, c.conn.prepare(text), described)
        await c.simple("DEALLOCATE ALL")
        await c.attempt("after deallocate", statement.fetch(1), records)
        await c.conn.reload_schema_state()
        await c.run("SELECT id FROM items WHERE id = $1", 4)


@step
async def statement_cache(t):
    async with Client(t, statement_cache_size=3) as c:
        for number in range(24):
            await c.run(f"SELECT {number % 6} AS n, $1::int AS v", number)
    async with Client(t, statement_cache_size=0) as c:
        for number in range(8):
            await c.run("SELECT id FROM items WHERE id = $1", number)


@step
async def cached_plan_changes(t):
    async with Client(t) as c:
        await c.simple("CREATE TABLE shape (id int, a text)")
        await c.simple("INSERT INTO shape VALUES (1, 'x')")
        statement = await c.conn.prepare("SELECT * FROM shape WHERE id = $1")
        for _ in range(7):
            await c.attempt("prepared", statement.fetch(1), records)
        await c.run("SELECT * FROM shape")
        await c.simple("ALTER TABLE shape ADD COLUMN b int DEFAULT 5")
        await c.attempt("prepared", statement.fetch(1), records)
        await c.run("SELECT * FROM shape")
        await c.simple("ALTER TABLE shape ALTER COLUMN a TYPE varchar(9)")
        await c.run("SELECT * FROM shape")
        async with c.conn.transaction():
            await c.simple("ALTER TABLE shape DROP COLUMN b")
            await c.run("SELECT id, a FROM shape")
        await c.run("SELECT * FROM shape")


@step
async def copy(t):
    async with Client(t) as c:
        await c.simple("CREATE TABLE copied (id int, name text, b bytea)")
        rows = [(1, "tab\tand\\backslash", b"\x00"), (2, None, None), (3, "日本語", b"")]
        await c.attempt("records", c.conn.copy_records_to_table("copied", records=rows, schema_name=SCHEMA))
        await c.attempt("csv", c.conn.copy_to_table("copied", source=io.BytesIO(b"id,name,b\n4,\"quoted, \"\"x\"\"\",\\x41\n"), format="csv", header=True))
        for options in ({}, {"format": "csv", "header": True}, {"format": "binary"}):
            out = io.BytesIO()
            await c.attempt(f"out {options}", c.conn.copy_from_query("SELECT * FROM copied WHERE id >= $1 ORDER BY id", 2, output=out, **options))
            t.note("bytes", typed(out.getvalue()))
        out = io.BytesIO()
        await c.attempt("table", c.conn.copy_from_table("copied", output=out))
        t.note("bytes", typed(out.getvalue()))
        await c.attempt("bad row", c.conn.copy_to_table("copied", source=io.BytesIO(b"1\t2\nx\ty\tz\n")))
        await c.attempt("no table", c.conn.copy_to_table("no_such_table", source=io.BytesIO(b"1\n")))
        await c.attempt("bad record", c.conn.copy_records_to_table("copied", records=[(1, 2, 3)]))

        async def failing():
            yield b"9\tnine\t\\\\x00\n"
            raise RuntimeError("the source failed")

        await c.attempt("failing source", c.conn.copy_to_table("copied", source=failing()))
        await c.attempt("error in mid-result", c.conn.copy_from_query("SELECT 10 / (500 - i) FROM generate_series(1, 1000) i", output=io.BytesIO()))
        await c.run("SELECT * FROM copied ORDER BY id")
        await c.simple("CREATE TABLE copied_large (id int, filler text)")
        await c.attempt("large", c.conn.copy_records_to_table("copied_large", records=((n, f"filler {n}") for n in range(100_000))))
        out = io.BytesIO()
        await c.attempt("large out", c.conn.copy_from_query("SELECT * FROM copied_large ORDER BY id", output=out))
        t.note("bytes", typed(out.getvalue()))
        async with c.conn.transaction():
            await c.attempt("in transaction", c.conn.copy_records_to_table("copied", records=[(50, "fifty", None)]))
            await c.run("SELECT count(*) FROM copied")


@step
async def copy_cancelled_by_the_client(t):
    async with Client(t) as c:
        await c.simple("CREATE TABLE copied_slow (id int)")

        async def endless():
            while True:
                yield b"1\n" * 100
                await asyncio.sleep(0.01)

        try:
            await c.conn.copy_to_table("copied_slow", source=endless(), timeout=0.7)
            t.note("copied")
        except Exception:
            # Where in the COPY the timeout strikes decides whether asyncpg raises TimeoutError or stumbles
            # over its own state (AttributeError), so only the end of it is recorded.
            t.note("gave up")
        await c.run("SELECT count(*) FROM copied_slow")


@step
async def transactions(t):
    async with Client(t) as c:
        await c.simple("CREATE TABLE tx (id int PRIMARY KEY)")
        async with c.conn.transaction():
            await c.run("INSERT INTO tx VALUES (1) RETURNING id")
            try:
                async with c.conn.transaction():
                    await c.run("INSERT INTO tx VALUES (2) RETURNING id")
                    await c.conn.execute("INSERT INTO tx VALUES (1)")
            except asyncpg.PostgresError as error:
                t.note("error", **error_fields(error))
            await c.run("SELECT * FROM tx")
        transaction = c.conn.transaction()
        await transaction.start()
        await c.run("INSERT INTO tx VALUES (3) RETURNING id")
        await c.run("SELECT 1/0")
        await c.run("SELECT 'refused'")
        await c.simple("SELECT 'refused'")
        await c.attempt("commit", transaction.rollback())
        await c.run("SELECT * FROM tx ORDER BY id")
        for isolation in ("read_committed", "repeatable_read", "serializable"):
            for readonly in (False, True):
                transaction = c.conn.transaction(isolation=isolation, readonly=readonly, deferrable=isolation == "serializable" and readonly)
                await transaction.start()
                await c.run("SHOW transaction_isolation")
                await c.run("SELECT count(*) FROM items")
                await c.run("INSERT INTO tx VALUES (100) RETURNING id")
                await transaction.rollback()
        await c.simple("BEGIN")
        await c.simple("SAVEPOINT s")
        await c.simple("INSERT INTO tx VALUES (1)")
        await c.simple("ROLLBACK TO s")
        await c.simple("INSERT INTO tx VALUES (4)")
        t.note("in transaction", c.conn.is_in_transaction())
        await c.simple("COMMIT")
        await c.simple("COMMIT")
        await c.run("SELECT * FROM tx ORDER BY id")
        await c.simple("CREATE TABLE child (r int REFERENCES tx DEFERRABLE INITIALLY DEFERRED)")
        transaction = c.conn.transaction()
        await transaction.start()
        await c.simple("INSERT INTO child VALUES (77)")
        await c.attempt("commit", transaction.commit())


@step
async def settings(t):
    names = ("TimeZone", "DateStyle", "application_name", "client_encoding", "IntervalStyle")

    def show(c):
        settings = c.conn.get_settings()
        t.note("settings", {name: getattr(settings, name, None) for name in names})

    async with Client(t, server_settings={"application_name": "from startup", "TimeZone": "Asia/Tokyo", "work_mem": "6MB"}) as c:
        show(c)
        for text in ("SHOW work_mem", "SHOW TimeZone", "SHOW application_name"):
            await c.run(text)
        for text in ("SET work_mem = '7MB'", "SET TimeZone = 'Europe/Paris'", "SET DateStyle = 'SQL, DMY'", "SET application_name = 'changed'"):
            await c.simple(text)
            show(c)
        await c.run("SELECT '2024-07-01 12:00+00'::timestamptz::text")
        transaction = c.conn.transaction()
        await transaction.start()
        await c.simple("SET TimeZone = 'America/New_York'")
        show(c)
        await transaction.rollback()
        show(c)
        await c.run("SHOW TimeZone")
        async with c.conn.transaction():
            await c.simple("SET LOCAL work_mem = '9MB'")
            await c.run("SHOW work_mem")
        await c.run("SHOW work_mem")
        await c.attempt("reset", c.conn.reset())
        show(c)
        for text in ("SHOW work_mem", "SHOW TimeZone", "SHOW application_name", "SHOW search_path"):
            await c.run(text)
        await c.simple("SET no_such_setting = 1")
        await c.run("SELECT current_setting('no.such')")
    t.note("server version", list((await version())[:2]))


async def version():
    async with Client(Step("version")) as c:
        return tuple(c.conn.get_server_version())


@step
async def cursors(t):
    async with Client(t) as c:
        async with c.conn.transaction():
            rows = [typed(tuple(row)) async for row in c.conn.cursor("SELECT id FROM items ORDER BY id LIMIT 230", prefetch=7)]
            t.note("iterated", len(rows), first=rows[0], last=rows[-1])
            cursor = await c.conn.cursor("SELECT id, name FROM items WHERE id > $1 ORDER BY id", 5)
            await c.attempt("fetch", cursor.fetch(3), records)
            await c.attempt("forward", cursor.forward(10))
            await c.attempt("fetchrow", cursor.fetchrow(), lambda row: typed(tuple(row)))
            other = await c.conn.cursor("SELECT i FROM generate_series(1, 5) i")
            await c.attempt("second cursor", other.fetch(3), records)
            await c.attempt("first cursor", cursor.fetch(2), records)
            await c.attempt("second cursor", other.fetch(10), records)
            await c.attempt("second cursor at its end", other.fetch(10), records)
            statement = await c.conn.prepare("SELECT id FROM items ORDER BY id")
            t.note("large", rows_digest([tuple(row) async for row in statement.cursor(prefetch=333)]))
            async for row in c.conn.cursor("SELECT i FROM generate_series(1, 1000000) i", prefetch=5):
                t.note("early close", typed(tuple(row)))
                if row[0] == 7:
                    break
            await c.run("SELECT 'the transaction goes on'")
        await c.attempt("outside", collect(c.conn.cursor("SELECT 1")))
        transaction = c.conn.transaction()
        await transaction.start()
        await c.attempt("error in mid-result", collect(c.conn.cursor("SELECT 10 / (7 - i) FROM generate_series(1, 9) i", prefetch=3)))
        await transaction.rollback()
        for text in ("DECLARE held CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY id", "FETCH 2 FROM held", "FETCH 2 FROM held", "CLOSE held", "FETCH held"):
            await c.run(text)


async def collect(cursor):
    return [tuple(row) async for row in cursor]


@step
async def large_results(t):
    async with Client(t) as c:
        query = "SELECT i AS id, repeat(chr(97 + i % 26), i % 100) AS v FROM generate_series(1, 100000) i"
        await c.attempt("100k rows", c.conn.fetch(query), digest)
        await c.attempt("limited", c.conn.fetchrow(query), lambda row: typed(tuple(row)))
        await c.attempt("5 MB", c.conn.fetchval("SELECT repeat('0123456789', 500000)"))
        await c.run("SELECT 100 / (50000 - i) FROM generate_series(1, 100000) i")
        await c.run("SELECT 1 AS after")


@step
async def executemany(t):
    async with Client(t) as c:
        await c.simple("CREATE TABLE many (id int PRIMARY KEY, v text)")
        await c.attempt("many", c.conn.executemany("INSERT INTO many VALUES ($1, $2)", [(n, f"v{n}") for n in range(5000)]))
        await c.run("SELECT count(*), sum(id) FROM many")
        await c.attempt("error in the middle", c.conn.executemany("INSERT INTO many VALUES ($1, $2)", [(6000, "a"), (1, "b"), (6001, "c")]))
        await c.run("SELECT count(*), sum(id) FROM many")
        await c.attempt("bad argument", c.conn.executemany("INSERT INTO many VALUES ($1, $2)", [(7000, "a"), ("x", "b")]))
        await c.run("SELECT count(*), sum(id) FROM many")
        async with c.conn.transaction():
            await c.attempt("in transaction", c.conn.executemany("UPDATE many SET v = $2 WHERE id = $1", [(n, "new") for n in range(100)]))
            await c.run("SELECT count(*) FROM many WHERE v = 'new'")
        await c.attempt("fetchmany", c.conn.fetchmany("INSERT INTO many VALUES ($1, $2) RETURNING id", [(8000, "a"), (8001, "b")]), records)


@step
async def cancel_and_timeouts(t):
    async with Client(t) as c:
        await c.run("SELECT pg_sleep(20)", timeout=0.5)
        await c.run("SELECT 'reused' AS connection")
        task = asyncio.ensure_future(c.conn.fetch("SELECT pg_sleep(20)"))
        await asyncio.sleep(0.5)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        t.note("cancelled", type(outcome).__name__)
        await c.run("SELECT 'reused' AS connection")
        transaction = c.conn.transaction()
        await transaction.start()
        await c.run("SELECT pg_sleep(20), $1::int", 1, timeout=0.5)
        await c.run("SELECT 1")
        await transaction.rollback()
        await c.simple("SET statement_timeout = '200ms'")
        await c.run("SELECT pg_sleep(10)")
        await c.simple("SELECT pg_sleep(10)")
        await c.simple("RESET statement_timeout")
        await c.run("SELECT pg_sleep(0.3)::text")


@step
async def notices(t):
    async with Client(t) as c:
        await c.simple("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful' USING DETAIL = 'd', HINT = 'h', ERRCODE = '01234'; END $$")
        await c.simple("CREATE TABLE IF NOT EXISTS items (id int)")
        await c.simple("DROP TABLE IF EXISTS never_was")
        await c.simple("DO $$ BEGIN RAISE EXCEPTION 'stop' USING ERRCODE = 'P0099', TABLE = 'tt'; END $$")
        await c.run("SELECT 1 AS after")
        await asyncio.sleep(0)


@step
async def listen_and_notify(t):
    channel = f"{SCHEMA}_channel"
    queue = asyncio.Queue()

    def heard(conn, pid, name, payload):
        queue.put_nowait([name, payload, pid == conn.get_server_pid()])

    async with Client(t) as listener, Client(t) as sender:
        await listener.conn.add_listener(channel, heard)
        await listener.simple(f"NOTIFY {channel}, 'to myself'")
        t.note("notify", await asyncio.wait_for(queue.get(), 10))
        await sender.run("SELECT pg_notify($1, $2)", channel, "from another")
        await sender.simple(f"BEGIN; NOTIFY {channel}, 'one'; NOTIFY {channel}, 'two'; COMMIT")
        await sender.simple(f"BEGIN; NOTIFY {channel}, 'rolled back'; ROLLBACK")
        for _ in range(3):
            t.note("notify", await asyncio.wait_for(queue.get(), 10))
        await listener.run("SELECT 'still usable'")
        await listener.conn.remove_listener(channel, heard)
        await sender.simple(f"NOTIFY {channel}, 'nobody listens'")
        await listener.run("SELECT 1")
        t.note("left over", queue.qsize())


@step
async def session_state(t):
    async with Client(t) as c:
        for text in ("CREATE TEMP TABLE tmp (id int)", "INSERT INTO tmp VALUES (1), (2)", "SELECT * FROM tmp ORDER BY id", "CREATE SEQUENCE seq",
                     "SELECT nextval('seq')", "SELECT currval('seq'), lastval()", "SELECT pg_advisory_lock(815)", "SELECT pg_advisory_unlock(815)",
                     "SELECT pg_advisory_unlock(815)", "DISCARD ALL", "SELECT * FROM tmp", "SELECT lastval()"):
            await c.simple(text) if text.startswith(("CREATE", "DISCARD")) else await c.run(text)
    async with Client(t) as c:
        await c.run("SELECT * FROM tmp")


@step
async def writes_and_errors(t):
    async with Client(t) as c:
        await c.simple("CREATE TABLE w (id int PRIMARY KEY, v text NOT NULL DEFAULT 'd', c int CONSTRAINT small CHECK (c < 10), r int REFERENCES w)")
        for text in ("INSERT INTO w (id) VALUES (1), (2) RETURNING *", "INSERT INTO w (id) VALUES (1)", "INSERT INTO w (id, v) VALUES (3, NULL)",
                     "INSERT INTO w (id, c) VALUES (3, 10)", "INSERT INTO w (id, r) VALUES (3, 99)", "INSERT INTO w (id) VALUES (1) ON CONFLICT DO NOTHING",
                     "INSERT INTO w (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET v = 'up' RETURNING *", "UPDATE w SET v = 'u' RETURNING id",
                     "WITH gone AS (DELETE FROM w WHERE id = 2 RETURNING id) SELECT * FROM gone", "SELECT * FROM w FOR UPDATE", "SELECT 1/0", "SELEC 1",
                     "SELECT * FROM no_such_table", "SELECT idd FROM items", "SELECT no_such_function(1)", "SELECT 'é', x FROM items", "SELECT 'abc'::int",
                     "SELECT 10 / (id - 500) FROM items ORDER BY id"):
            await c.run(text)
            await c.simple(text)
        await c.run("SELECT 1 / $1", 0)
        await c.run("SELECT * FROM w")


@step
async def read_after_write(t):
    async with Client(t) as c:
        await c.simple("CREATE TABLE raw (id int)")
        wrong = []
        for number in range(1, 201):
            await c.conn.execute("INSERT INTO raw VALUES ($1)", number)
            seen = await c.conn.fetchval("SELECT count(*) FROM raw")
            if seen != number:
                wrong.append([number, seen])
        t.note("stale reads", wrong)


@step
async def connection_errors(t):
    for what, options in (("wrong password", {"password": "wrong"}), ("no such user", {"user": "no_such_user", "password": "x"}),
                          ("no such database", {"database": "no_such_database"}), ("bad setting", {"server_settings": {"no_such_setting": "1"}}),
                          ("bad value", {"server_settings": {"work_mem": "lots"}})):
        try:
            async with Client(t, **options) as c:
                await c.run("SELECT 1")
        except (asyncpg.PostgresError, OSError) as error:
            t.note("error", what=what, **error_fields(error))


@step
async def pool_and_concurrency(t):
    """The driver's own pool (it resets each connection on release), and ten connections at a time."""
    async with asyncpg.create_pool(CONNINFO, min_size=2, max_size=10, server_settings={"search_path": SCHEMA}) as pool:

        async def work(number):
            async with pool.acquire() as conn:
                await conn.execute(f"SET my.worker = '{number}'; CREATE TABLE worker_{number} (id int)")
                seen = []
                for value in range(10):
                    await conn.execute(f"INSERT INTO worker_{number} VALUES ($1)", value)
                    seen.append(tuple(await conn.fetchrow(f"SELECT count(*), current_setting('my.worker') FROM worker_{number}")))
                return typed(seen)

        t.note("workers", await asyncio.gather(*(work(number) for number in range(10))))
        for _ in range(3):
            t.note("leaked", typed(await pool.fetchval("SELECT nullif(current_setting('my.worker', true), '')")))
        async with pool.acquire() as conn:
            try:
                await asyncio.gather(conn.fetchval("SELECT pg_sleep(0.2)"), conn.fetchval("SELECT 1"))
            except asyncpg.InterfaceError as error:
                t.note("error", **error_fields(error))
            await asyncio.sleep(0.5)


@step
async def teardown(t):
    async with Client(t, search_path=None) as c:
        await c.simple("SET client_min_messages = warning; SET lock_timeout = '10s'")
        await c.simple(f"DROP SCHEMA {SCHEMA} CASCADE")


async def main():
    for function in STEPS:
        if not transcript.wanted(function.__name__):
            continue
        record = Step(function.__name__)
        task = asyncio.ensure_future(function(record))
        done, _ = await asyncio.wait([task], timeout=STEP_TIMEOUT)
        if not done:
            record.note("hung", seconds=STEP_TIMEOUT)
            task.cancel()
        elif task.exception() is not None:
            record.note("step raised", **error_fields(task.exception()))
        record.emit()
    sys.stdout.flush()
    os._exit(0)  # a hung task must not hold the script


if __name__ == "__main__":
    asyncio.run(main())
