#!/bin/bash
# Entrypoint of a replica: copies the primary on the first start, then hands over to the postgres
# image's own entrypoint. Needs PRIMARY_HOST, REPLICATION_PASSWORD, SLOT_NAME and PGDATA, which must be
# a folder inside the volume and not the volume itself.
set -euo pipefail

volume=$(dirname "$PGDATA")

if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses to run as root; a fresh volume may belong to it.
    mkdir -p "$PGDATA"
    chown postgres:postgres "$volume" "$PGDATA"
    chmod 0700 "$PGDATA"
    exec gosu postgres "${BASH_SOURCE[0]}" "$@"
fi

# pg_basebackup -R writes the connection into postgresql.auto.conf. It names this file there instead of
# the password, so the file is made at every start.
passfile=/tmp/pgpass-$SLOT_NAME
password=${REPLICATION_PASSWORD//\\/\\\\}
(umask 077 && printf '%s:5432:*:replicator:%s\n' "$PRIMARY_HOST" "${password//:/\\:}" >"$passfile")

# The marker stands beside the data and is made last: a copy that was interrupted has none and is made
# again. (In the data itself pg_rewind would delete it.)
marker=$volume/copied
if [ ! -e "$marker" ]; then
    echo "copying $PRIMARY_HOST into $PGDATA"
    connection="host=$PRIMARY_HOST port=5432 user=replicator passfile=$passfile application_name=$SLOT_NAME"
    until find "$PGDATA" -mindepth 1 -delete \
        && pg_basebackup -d "$connection" -D "$PGDATA" -X stream -c fast -R -S "$SLOT_NAME"; do
        echo "the primary gave no copy; trying again"
        sleep 1
    done
    touch "$marker"
fi

exec docker-entrypoint.sh "$@"
