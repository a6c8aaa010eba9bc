#!/bin/bash
# Runs once, in the empty primary's first start (docker-entrypoint-initdb.d of the postgres image):
# the roles and slots that replication, pgsluice and the application need.
set -euo pipefail

# Passwords go in as psql variables, quoted by psql: any character is allowed in them.
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    -v replication_password="$REPLICATION_PASSWORD" \
    -v pgsluice_password="$PGSLUICE_PASSWORD" \
    -v app_password="$APP_PASSWORD" <<'SQL'
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replication_password';
-- The monitor's account: positions and the WAL receiver's state, no table of the application.
CREATE ROLE pgsluice LOGIN PASSWORD :'pgsluice_password' IN ROLE pg_monitor;
CREATE ROLE app LOGIN PASSWORD :'app_password';
CREATE DATABASE app OWNER app;
-- One slot a replica: the primary keeps what a stopped replica has yet to read, up to max_slot_wal_keep_size.
SELECT pg_create_physical_replication_slot('replica1');
SELECT pg_create_physical_replication_slot('replica2');
SQL

# The image's own rule for other hosts ("host all all all") does not cover replication.
echo 'host replication replicator all scram-sha-256' >>"$PGDATA/pg_hba.conf"
