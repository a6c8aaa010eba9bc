-- What pgsluice keeps of transactions over several shards: the decisions, on the shard that decides. docs/sharding.md
-- says how it is used. PostgreSQL 14 or later. Run it as one transaction (psql -1 -f); running it again changes
-- nothing.

-- Two installations at once would trip over each other. Kept to the end of the transaction.
SELECT pg_catalog.pg_advisory_xact_lock(7310592837465001);

CREATE SCHEMA IF NOT EXISTS pgsluice;
GRANT USAGE ON SCHEMA pgsluice TO PUBLIC;

-- One row a transaction. The primary key is what makes a decision final: of a commit and a rollback of the same
-- transaction, the second waits for the first and then fails.
CREATE TABLE IF NOT EXISTS pgsluice.decision (
    id pg_catalog.uuid PRIMARY KEY,
    committed pg_catalog.bool NOT NULL,
    -- Of a commit: the shards where something is prepared until it is carried out.
    participants pg_catalog.text[] NOT NULL,
    decided_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    decided_by pg_catalog.text NOT NULL DEFAULT SESSION_USER,
    -- Of a rollback: transactions that were open when it was in force already. One of them may be the late decider's,
    -- so the row stays until all of them are over.
    open_then pg_catalog.text[]
);

-- What a transaction is called whose secret this is. gids, which everybody may read in pg_prepared_xacts, hold the id
-- only, and the id does not tell the secret.
CREATE OR REPLACE FUNCTION pgsluice.decision_id(secret pg_catalog.uuid) RETURNS pg_catalog.uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pg_catalog.encode(pg_catalog.substring(pg_catalog.sha256(pg_catalog.uuid_send(secret)), 1, 16), 'hex')
        ::pg_catalog.uuid;

-- Decides, as part of the caller's own transaction, that what is prepared under pgsluice.decision_id(secret) is
-- committed; in force when the caller's transaction commits. Who knows no secret decides nothing.
CREATE OR REPLACE FUNCTION pgsluice.decide(secret pg_catalog.uuid, shards pg_catalog.text[]) RETURNS pg_catalog.void
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF cardinality(shards) > 1024 OR EXISTS (
        SELECT FROM unnest(shards) AS shard WHERE (shard ~ '^[A-Za-z0-9._-]{1,63}$') IS NOT TRUE
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'these are no names of shards';
    END IF;
    -- What other shards do after this commit must not be undone by a crash of this server.
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    INSERT INTO pgsluice.decision (id, committed, participants)
        VALUES (pgsluice.decision_id(secret), true, shards)
        ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'serialization_failure',
            MESSAGE = 'could not commit on all shards: the transaction took too long to do so and was rolled back',
            HINT = 'The transaction might succeed if retried.';
    END IF;
END
$$;
