#!/usr/bin/env bash
# psql's, pgbench's and pg_dump's ordinary features, as a transcript: psql_script.sh CONNINFO SCHEMA [STEP].
#
# Run by run.py, once on a direct connection and once through the proxy. A step is a function; what it
# prints on stdout and stderr is its record, which transcript.py turns into one JSON line. Every step
# has a time limit. Steps read only their own writes or what `setup` made before its last DDL.
set -u

CONNINFO=$1
SCHEMA=$2
ONLY=${3:-}
HERE=$(cd "$(dirname "$0")" && pwd)
STEP_TIMEOUT=30
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
cd "$SCRATCH" || exit 2
unset PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGOPTIONS PGSERVICE PAGER

# psql without the user's own settings; a script on stdin or -c, in this run's schema.
q() { psql -X -P pager=off "$CONNINFO" "$@" 2>&1; }
s() { q -v VERBOSITY=verbose -c "SET search_path TO $SCHEMA" "$@"; }
script() { { printf 'SET search_path TO %s;\n' "$SCHEMA"; cat; } | q -a -f -; }

setup() {
    q -v ON_ERROR_STOP=1 <<SQL
CREATE SCHEMA $SCHEMA;
SET search_path TO $SCHEMA;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric(10,2) CHECK (price >= 0), mood mood DEFAULT 'ok');
CREATE TABLE parts (id serial PRIMARY KEY, item int REFERENCES items ON DELETE CASCADE, label varchar(20));
INSERT INTO items SELECT i, 'item ' || i, i * 1.25 FROM generate_series(1, 1000) i;
INSERT INTO parts (item, label) SELECT i, 'part ' || i FROM generate_series(1, 10) i;
CREATE FUNCTION twice(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i * 2';
CREATE INDEX items_name ON items (name);
CREATE VIEW cheap AS SELECT id, name FROM items WHERE price < 10;
SQL
}

describe_commands() {
    local command
    for command in '\d' '\dt' '\d items' '\d+ parts' '\dv' '\d cheap' '\di' '\ds' '\dT' '\df' '\dn <none>' '\d no_such_table' '\sf twice' '\dp items' '\sv cheap' '\l no_such_database' '\encoding' '\dconfig work_mem'; do
        echo "== $command"
        s -c "$command"
    done
}

plain_queries() {
    script <<'SQL'
SELECT 1 AS one, 'two' AS two, NULL AS nothing;
SELECT * FROM items WHERE id <= 5 ORDER BY id;
SELECT;
SELECT 1 \; SELECT 2 \; SELECT 3;
BEGIN \; INSERT INTO items VALUES (2001, 'x', 1) \; ROLLBACK;
SELECT count(*) FROM items;
\x on
SELECT * FROM items WHERE id = 3;
\x off
\pset null '(null)'
\pset format csv
SELECT id, name, NULL FROM items ORDER BY id LIMIT 3;
\pset format unaligned
SELECT 'é 日本' AS unicode;
\echo :ROW_COUNT :SQLSTATE :ERROR
SELECT 1/0;
\echo :ROW_COUNT :SQLSTATE :ERROR :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
SQL
}

meta_commands() {
    script <<'SQL'
\timing off
SELECT id, name, price, mood, now() FROM items \gdesc
SELECT no_such FROM items \gdesc
SELECT 1 AS a, 'two' AS b \gset pre_
\echo :pre_a :pre_b
\set number 42
SELECT :number + 1 AS v, :'pre_b' AS quoted, :"number" FROM (SELECT 5 AS "42") t;
SELECT 'SELECT ' || i || ' AS made' FROM generate_series(1, 3) i \gexec
SELECT i % 2 AS row, i % 3 AS col, i FROM generate_series(0, 5) i \crosstabview
\if :{?number}
SELECT 'a variable is set';
\else
SELECT 'not reached';
\endif
SELECT 7 AS x \g
SELECT 8 AS x \gx
SELECT 9 AS x \g | cat
SQL
    # \bind came with psql 16; an older one says so, on both sides alike.
    q -c 'SELECT 1' -c '\bind 3' -c 'SELECT 2'
    for _ in 1 2 3; do s -At -c 'SELECT count(*) FROM items'; done
}

error_reports() {
    script <<'SQL'
\set VERBOSITY verbose
SELECT 1/0;
SELEC 1;
SELECT no_such_column
  FROM items;
INSERT INTO items VALUES (1, 'duplicate', 1);
INSERT INTO items VALUES (5000, NULL, 1);
INSERT INTO items VALUES (5000, 'x', -1);
INSERT INTO parts (item) VALUES (99999);
INSERT INTO items VALUES (5000, 'x', 1, 'angry');
\set VERBOSITY sqlstate
SELECT 'abc'::int;
\set VERBOSITY terse
SELECT * FROM no_such_table;
\errverbose
\set VERBOSITY default
\set SHOW_CONTEXT always
DO $$ BEGIN RAISE NOTICE 'note'; PERFORM 1/0; END $$;
SELECT 10 / (id - 3) FROM items ORDER BY id;
SQL
}

rollback_on_error() {
    script <<'SQL'
CREATE TABLE eager (id int PRIMARY KEY);
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO eager VALUES (1);
INSERT INTO eager VALUES (1);
SELECT 1/0;
INSERT INTO eager VALUES (2);
COMMIT;
SELECT * FROM eager ORDER BY id;
\set ON_ERROR_ROLLBACK off
\set AUTOCOMMIT off
INSERT INTO eager VALUES (3);
ROLLBACK;
SELECT * FROM eager ORDER BY id;
SELECT 1/0;
SELECT 'refused';
ROLLBACK;
SQL
}

single_transaction() {
    printf 'SET search_path TO %s;\nCREATE TABLE one (id int);\nINSERT INTO one VALUES (1);\nSELECT * FROM one;\n' "$SCHEMA" > good.sql
    printf 'SET search_path TO %s;\nINSERT INTO one VALUES (2);\nSELECT 1/0;\nINSERT INTO one VALUES (3);\n' "$SCHEMA" > bad.sql
    q -1 -f good.sql
    q -1 -v ON_ERROR_STOP=1 -f bad.sql
    echo "status $?"
    q -1 -f bad.sql
    s -c 'SELECT * FROM one ORDER BY id'
    q -1 -c "INSERT INTO $SCHEMA.one VALUES (9)" -c "SELECT count(*) FROM $SCHEMA.one"
}

copy_commands() {
    seq 1 100000 | sed 's/\(.*\)/\1,"line \1, quoted"/' > large.csv
    printf '1\tone\n2\t\\N\n3\ttab\\there\n' > small.txt
    printf '1,one\nx,two\n' > bad.csv
    script <<'SQL'
CREATE TABLE copied (id int, name text);
\copy copied FROM 'small.txt'
SELECT * FROM copied ORDER BY id;
\copy copied TO 'out.txt'
\copy (SELECT * FROM copied ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER)
\copy copied FROM 'bad.csv' WITH (FORMAT csv)
\copy copied FROM 'no_such_file'
\copy no_such_table FROM 'small.txt'
COPY copied FROM STDIN;
10	ten
11	eleven
\.
COPY copied FROM STDIN;
not a number	x
\.
SELECT count(*) FROM copied;
CREATE TABLE copied_large (id int, name text);
\copy copied_large FROM 'large.csv' WITH (FORMAT csv)
SELECT count(*), sum(id) FROM copied_large;
\copy (SELECT * FROM copied_large ORDER BY id) TO 'large.out' WITH (FORMAT csv)
\copy (SELECT * FROM copied_large ORDER BY id) TO 'large.bin' WITH (FORMAT binary)
COPY (SELECT 10 / (5 - i) FROM generate_series(1, 9) i) TO STDOUT;
SELECT 'alive' AS still;
SQL
    sha256sum large.out large.bin out.txt
}

fetch_count() {
    script <<'SQL'
\set FETCH_COUNT 100
SELECT id, name FROM items ORDER BY id LIMIT 350;
SELECT 10 / (250 - i) AS v FROM generate_series(1, 400) i;
SELECT 'after' AS v;
BEGIN;
SELECT i FROM generate_series(1, 150) i;
COMMIT;
SQL
}

session_settings() {
    script <<'SQL'
SET TIME ZONE 'Asia/Tokyo';
SELECT '2024-07-01 12:00+00'::timestamptz;
BEGIN;
SET LOCAL DateStyle = 'SQL, DMY';
SELECT '2024-07-01'::date;
ROLLBACK;
SELECT '2024-07-01'::date;
SET work_mem = '7MB';
SHOW work_mem;
RESET work_mem;
SHOW work_mem;
\encoding LATIN1
SHOW client_encoding;
\encoding UTF8
SET ROLE pg_monitor;
SELECT current_user;
RESET ROLE;
CREATE TEMP TABLE tmp AS SELECT 1 AS id;
SELECT * FROM tmp;
DISCARD ALL;
SELECT * FROM tmp;
SHOW search_path;
LISTEN psql_channel;
NOTIFY psql_other;
UNLISTEN *;
SQL
    PGOPTIONS="-c search_path=$SCHEMA -c work_mem=6MB" PGAPPNAME=transcript q -c 'SHOW work_mem' -c 'SHOW application_name' -c 'SELECT count(*) FROM items'
    PGCLIENTENCODING=LATIN1 q -At -c "SELECT chr(233)" | od -An -tx1
    PGTZ=Europe/Paris PGDATESTYLE=German q -c "SELECT '2024-07-01 12:00+00'::timestamptz"
}

notifications() {
    script <<SQL | sed 's/PID [0-9]*/PID <pid>/'
LISTEN ${SCHEMA}_c;
NOTIFY ${SCHEMA}_c, 'payload';
SELECT 1 AS one;
SQL
}

reconnecting() {
    script <<'SQL'
SET my.value = 'before';
\c
SELECT current_setting('my.value', true) IS NULL OR current_setting('my.value', true) = '' AS clean;
SHOW search_path;
\c no_such_database
SELECT 'the old connection is kept' AS v;
SQL
}

interrupted() {
    # An interrupt makes psql send a CancelRequest.
    # Both on the primary, since a transaction ID is asked for.
    local sleep='SELECT txid_current(), pg_sleep(20)'
    psql -X "$CONNINFO" -c "$sleep" -c "SELECT 'not reached'" > interrupted.out 2>&1 &
    until psql -XAt "$CONNINFO" -c "SELECT query, txid_current() FROM pg_stat_activity WHERE wait_event = 'PgSleep'" |
        grep -qF "$sleep"; do
        sleep 0.1
    done
    kill -INT $!
    wait $!
    echo "status $?"
    cat interrupted.out
    s -c "SET statement_timeout = '200ms'" -c 'SELECT pg_sleep(10)' -c 'SELECT 1'
}

connection_errors() {
    local target=${CONNINFO#*@}
    psql -X "postgresql://no_such_user:x@$target" -c 'SELECT 1' 2>&1
    psql -X "${CONNINFO%@*}wrong@$target" -c 'SELECT 1' 2>&1
    psql -X "${CONNINFO%/*}/no_such_database" -c 'SELECT 1' 2>&1
    psql -X -w "$(sed 's|//\([^:]*\):[^@]*@|//\1@|' <<< "$CONNINFO")" -c 'SELECT 1' 2>&1
}

# pgbench works on the tables of its search_path; its times are taken out.
pgbench_init() {
    export PGOPTIONS="-c search_path=$SCHEMA"
    pgbench -i -s 1 "$CONNINFO" 2>&1 | sed -E 's/[0-9.]+ s/<time> s/g; s/\r/\n/g' | grep -v -e 'elapsed' -e '^ *$'
    q -c 'SELECT count(*), sum(abalance) FROM pgbench_accounts' -c 'SELECT count(*) FROM pgbench_tellers'
}

pgbench_runs() {
    export PGOPTIONS="-c search_path=$SCHEMA"
    local mode
    for mode in simple extended prepared; do
        pgbench -n -M $mode -c 4 -t 50 "$CONNINFO" 2>&1 | grep -e processed -e failed -e aborted -e error
        pgbench -n -S -M $mode -c 4 -t 50 "$CONNINFO" 2>&1 | grep -e processed -e failed -e aborted -e error
    done
    q -c 'SELECT count(*) FROM pgbench_history' \
        -c 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) AS balanced'
}

# Without what names the server or the moment: \restrict keys, version comments.
# Of the primary, since a standby shows sequences ahead. A server takes a setting with a prefix that it does not know for
# an extension's.
dump() { PGOPTIONS='-c pgsluice.route=primary' pg_dump "$CONNINFO" --schema "$SCHEMA" "$@" 2>&1 | grep -v -e '^-- Dumped' -e '^\\restrict' -e '^\\unrestrict'; }

dump_and_restore() {
    dump -t "$SCHEMA.items" -t "$SCHEMA.parts" > dump.sql
    sed "s/$SCHEMA/<schema>/g" dump.sql | sha256sum
    dump --schema-only -T "$SCHEMA.pgbench_*"
    sed "s/$SCHEMA/${SCHEMA}_r/g" dump.sql > restore.sql
    q -c "CREATE SCHEMA ${SCHEMA}_r" -c "CREATE TYPE ${SCHEMA}_r.mood AS ENUM ('sad', 'ok', 'happy')"
    q -v ON_ERROR_STOP=1 -f restore.sql
    q -c "SELECT count(*), sum(price) FROM ${SCHEMA}_r.items" -c "SELECT * FROM ${SCHEMA}_r.parts ORDER BY id"
    q -c 'SET client_min_messages = warning' -c "DROP SCHEMA ${SCHEMA}_r CASCADE"
}

read_after_write() {
    s -q -c 'CREATE TABLE raw (id int)'
    for n in $(seq 1 200); do printf 'INSERT INTO raw VALUES (%s);\nSELECT count(*) = %s FROM raw;\n' "$n" "$n"; done > raw.sql
    s -q -At -f raw.sql | sort | uniq -c
}

teardown() { q -c 'SET client_min_messages = warning' -c "SET lock_timeout = '10s'" -c "DROP SCHEMA $SCHEMA CASCADE"; }

export -f $(compgen -A function)
export CONNINFO SCHEMA SCRATCH
STEPS="setup plain_queries describe_commands meta_commands error_reports rollback_on_error single_transaction copy_commands
    fetch_count session_settings notifications reconnecting interrupted connection_errors read_after_write dump_and_restore
    pgbench_init pgbench_runs teardown"
for step in $STEPS; do
    case "$ONLY" in '' | "$step") ;; *) case "$step" in setup | teardown) ;; *) continue ;; esac ;; esac
    timeout -k 5 "$STEP_TIMEOUT" bash -c "$step" > "$SCRATCH/output" 2>&1 < /dev/null
    "${PYTHON:-python3}" "$HERE/transcript.py" "$step" $? "$SCHEMA" < "$SCRATCH/output"
done
