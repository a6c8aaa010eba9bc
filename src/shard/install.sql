-- What pgsluice keeps on every shard, in the schema pgsluice: the hash of shard keys, and the bucket map.
-- docs/sharding.md says how to use it. PostgreSQL 14 or later. Run it as one transaction (psql -1 -f); running it again
-- changes nothing.
--
-- The bodies are parsed here, once, and name everything with its schema: no search_path, here or at a call, changes what
-- they mean. The functions for one value are plain expressions, which PostgreSQL inlines.

-- Two installations at once would trip over each other. Kept to the end of the transaction.
SELECT pg_catalog.pg_advisory_xact_lock(7310592837465001);

CREATE SCHEMA IF NOT EXISTS pgsluice;

-- The canonical bytes of one value: a tag for its class, and a body.

CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.int8) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'i'::pg_catalog.bytea OPERATOR(pg_catalog.||) pg_catalog.decode(value::pg_catalog.text, 'escape');

CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.int4) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'i'::pg_catalog.bytea OPERATOR(pg_catalog.||) pg_catalog.decode(value::pg_catalog.text, 'escape');

CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.int2) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'i'::pg_catalog.bytea OPERATOR(pg_catalog.||) pg_catalog.decode(value::pg_catalog.text, 'escape');

-- NULL for what no key is: a fraction, NaN, infinity, and more digits than pgsluice takes.
CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.numeric) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE
        WHEN pg_catalog.scale(pg_catalog.trim_scale(value)) OPERATOR(pg_catalog.=) 0
            AND pg_catalog.abs(value) OPERATOR(pg_catalog.<) '1e1000'::pg_catalog.numeric
        THEN 'i'::pg_catalog.bytea
            OPERATOR(pg_catalog.||) pg_catalog.decode(pg_catalog.trim_scale(value)::pg_catalog.text, 'escape')
    END;

CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.text) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 't'::pg_catalog.bytea OPERATOR(pg_catalog.||) pg_catalog.convert_to(value, 'UTF8');

-- The cast takes the blanks at the end away.
CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.bpchar) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 't'::pg_catalog.bytea OPERATOR(pg_catalog.||) pg_catalog.convert_to(value::pg_catalog.text, 'UTF8');

CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.uuid) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'u'::pg_catalog.bytea OPERATOR(pg_catalog.||) pg_catalog.uuid_send(value);

CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.date) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'd'::pg_catalog.bytea OPERATOR(pg_catalog.||) pg_catalog.date_send(value);

CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.timestamptz) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'z'::pg_catalog.bytea OPERATOR(pg_catalog.||) pg_catalog.timestamptz_send(value);

CREATE OR REPLACE FUNCTION pgsluice.shard_key(value pg_catalog.bytea) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'b'::pg_catalog.bytea OPERATOR(pg_catalog.||) value;

-- A component as it is hashed: behind its length.
CREATE OR REPLACE FUNCTION pgsluice.framed(component pg_catalog.bytea) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pg_catalog.int4send(pg_catalog.octet_length(component)) OPERATOR(pg_catalog.||) component;

-- The first 14 bits of a digest.
CREATE OR REPLACE FUNCTION pgsluice.digest_bucket(digest pg_catalog.bytea) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN ('x' OPERATOR(pg_catalog.||) pg_catalog."left"(pg_catalog.encode(digest, 'hex'), 4))
        ::pg_catalog.bit(16)::pg_catalog.int4 OPERATOR(pg_catalog.>>) 2;

-- Of a key of one column or several, each through shard_key(). NULL where one of them is NULL.
CREATE OR REPLACE FUNCTION pgsluice.key_digest(VARIADIC components pg_catalog.bytea[]) RETURNS pg_catalog.bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT CASE WHEN pg_catalog.bool_and(component IS NOT NULL) THEN pg_catalog.sha256(
            pg_catalog.string_agg(pgsluice.framed(component), ''::pg_catalog.bytea ORDER BY place))
        END
        FROM pg_catalog.unnest(components) WITH ORDINALITY AS part (component, place)
    );

CREATE OR REPLACE FUNCTION pgsluice.key_bucket(VARIADIC components pg_catalog.bytea[]) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pgsluice.key_digest(VARIADIC components));

-- Of a key of one column. There is none for bytea: it could not tell a value from a component, which is a bytea too.
-- Say key_bucket(shard_key(value)).

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.int8) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.int4) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.int2) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.numeric) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.text) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.bpchar) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.uuid) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.date) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

CREATE OR REPLACE FUNCTION pgsluice.bucket(value pg_catalog.timestamptz) RETURNS pg_catalog.int4
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pgsluice.digest_bucket(pg_catalog.sha256(pgsluice.framed(pgsluice.shard_key(value))));

-- The fence: for each server process that pgsluice uses, up to which version of the map those have heard who use it. Whoever
-- changes the map announces the new version, and waits until nobody here is behind it (docs/sharding.md). Backends die with
-- the server, and so may this. Whoever locks both locks this table before the map's.
CREATE UNLOGGED TABLE IF NOT EXISTS pgsluice.connection (
    pid pg_catalog.int4 PRIMARY KEY,
    -- NULL where the schema's owner may not see it.
    backend_start pg_catalog.timestamptz,
    version pg_catalog.int8 NOT NULL
);

-- An older release is replaced: server processes that are there already may be used by those who have never heard of the
-- fence. This notes it, and pgsluice shards init then notes them, when nobody can miss register() any more.
INSERT INTO pgsluice.connection (pid, version)
SELECT 0, 0 WHERE pg_catalog.to_regprocedure('pgsluice.register(bigint)') IS NULL
ON CONFLICT DO NOTHING;

-- The bucket map: of the versions that are in force, the newest counts. Of a version that was written nothing changes but
-- its state, and that once: announced, then in force or withdrawn.
CREATE TABLE IF NOT EXISTS pgsluice.bucket_map (
    version pg_catalog.int8 PRIMARY KEY CHECK (version > 0),
    hash_version pg_catalog.int4 NOT NULL CHECK (hash_version > 0),
    shards pg_catalog.text[] NOT NULL,
    weights pg_catalog.int4[] NOT NULL CHECK (pg_catalog.cardinality(weights) = pg_catalog.cardinality(shards)),
    -- By bucket, from bucket 0 at subscript 1: a subscript of shards.
    owners pg_catalog.int2[] NOT NULL CHECK (pg_catalog.cardinality(owners) = 16384),
    created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
    created_by pg_catalog.text NOT NULL DEFAULT SESSION_USER
);
ALTER TABLE pgsluice.bucket_map ADD COLUMN IF NOT EXISTS state pg_catalog.text NOT NULL DEFAULT 'in force'
    CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY['announced', 'in force', 'withdrawn']::pg_catalog.text[]));

-- Keys that do not lie where their bucket does, in each version of the map.
CREATE TABLE IF NOT EXISTS pgsluice.pinned_key (
    version pg_catalog.int8 NOT NULL REFERENCES pgsluice.bucket_map ON DELETE CASCADE,
    digest pg_catalog.bytea NOT NULL CHECK (pg_catalog.octet_length(digest) = 32),
    shard pg_catalog.text NOT NULL,
    label pg_catalog.text,
    PRIMARY KEY (version, digest)
);

-- The shard that a bucket belongs to. Pinned keys may lie elsewhere: see shard_of_key().
CREATE OR REPLACE FUNCTION pgsluice.shard_of(bucket pg_catalog.int4) RETURNS pg_catalog.text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT map.shards[map.owners[bucket OPERATOR(pg_catalog.+) 1]] FROM pgsluice.bucket_map AS map
        WHERE map.state OPERATOR(pg_catalog.=) 'in force'
        ORDER BY map.version DESC LIMIT 1
    );

-- The shard that a key lies on, its columns each through shard_key().
CREATE OR REPLACE FUNCTION pgsluice.shard_of_key(VARIADIC components pg_catalog.bytea[]) RETURNS pg_catalog.text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT coalesce(
            (SELECT pin.shard FROM pgsluice.pinned_key AS pin
             WHERE pin.version OPERATOR(pg_catalog.=) (
                 SELECT pg_catalog.max(map.version) FROM pgsluice.bucket_map AS map
                 WHERE map.state OPERATOR(pg_catalog.=) 'in force')
                 AND pin.digest OPERATOR(pg_catalog.=) asked.digest),
            pgsluice.shard_of(pgsluice.digest_bucket(asked.digest)))
        FROM (SELECT pgsluice.key_digest(VARIADIC components) AS digest) AS asked
    );

-- Whoever may connect may ask where a row belongs. What a pinned key is called stays with the owner.
GRANT USAGE ON SCHEMA pgsluice TO PUBLIC;
GRANT SELECT ON pgsluice.bucket_map TO PUBLIC;
GRANT SELECT (version, digest, shard) ON pgsluice.pinned_key TO PUBLIC;

-- Notes that this server process is used by somebody who has heard of versions up to this one; tells the newest that was
-- announced here. In a READ COMMITTED transaction of its own: the INSERT waits for an announcement under way, and what
-- follows has a snapshot in which that is seen. Who tells it a version that he has not heard of deceives himself.
CREATE OR REPLACE FUNCTION pgsluice.register(known pg_catalog.int8) RETURNS pg_catalog.int8
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s'
    AS $$
DECLARE
    newest int8;
BEGIN
    INSERT INTO pgsluice.connection (pid, backend_start, version)
    VALUES (pg_backend_pid(), (SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())), known)
    ON CONFLICT (pid) DO UPDATE SET backend_start = excluded.backend_start, version = excluded.version;
    newest := (SELECT coalesce(max(version), 0) FROM pgsluice.bucket_map);
    IF newest > known THEN
        -- It is not used before it is registered anew.
        DELETE FROM pgsluice.connection WHERE pid = pg_backend_pid();
    END IF;
    RETURN newest;
END $$;

-- Announces a version of the map, in a READ COMMITTED transaction. Whoever has registered before it is seen by whoever looks
-- after it; whoever registers after it is told of it. For the schema's owner.
CREATE OR REPLACE FUNCTION pgsluice.announce(
    new_version pg_catalog.int8, hash_version pg_catalog.int4, shards pg_catalog.text[], weights pg_catalog.int4[],
    owners pg_catalog.int2[], digests pg_catalog.bytea[], pinned_to pg_catalog.text[], labels pg_catalog.text[]
) RETURNS pg_catalog.void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    LOCK TABLE pgsluice.connection IN SHARE MODE;
    INSERT INTO pgsluice.bucket_map (version, hash_version, shards, weights, owners, state)
    VALUES ($1, $2, $3, $4, $5, 'announced');
    INSERT INTO pgsluice.pinned_key (version, digest, shard, label) SELECT $1, pin.* FROM unnest($6, $7, $8) AS pin;
END $$;

-- Which shard this is: its name, and a number that no other shard has or will have. One row, written by
-- pgsluice shards init.
CREATE TABLE IF NOT EXISTS pgsluice.this_shard (
    only_row pg_catalog.bool PRIMARY KEY DEFAULT true CHECK (only_row),
    name pg_catalog.text NOT NULL,
    number pg_catalog.int4 NOT NULL CHECK (number >= 0)
);
GRANT SELECT ON pgsluice.this_shard TO PUBLIC;

-- For each bucket a bit: whether this shard has it, in one version of the map. Every version has it ready.
ALTER TABLE pgsluice.bucket_map ADD COLUMN IF NOT EXISTS here pg_catalog.varbit;
ALTER TABLE pgsluice.bucket_map ALTER COLUMN here SET STORAGE PLAIN;

CREATE OR REPLACE FUNCTION pgsluice.buckets_here(shards pg_catalog.text[], owners pg_catalog.int2[])
    RETURNS pg_catalog.varbit
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN (
        SELECT string_agg(CASE WHEN owner = array_position(shards, shard.name) THEN '1' ELSE '0' END, '' ORDER BY bucket)::varbit
        FROM pgsluice.this_shard AS shard, unnest(owners) WITH ORDINALITY AS part (owner, bucket)
    );
END $$;

CREATE OR REPLACE FUNCTION pgsluice.note_buckets_here() RETURNS pg_catalog.trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    NEW.here := pgsluice.buckets_here(NEW.shards, NEW.owners);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER note_buckets_here BEFORE INSERT ON pgsluice.bucket_map
    FOR EACH ROW EXECUTE FUNCTION pgsluice.note_buckets_here();
UPDATE pgsluice.bucket_map SET here = pgsluice.buckets_here(shards, owners)
WHERE here IS NULL AND EXISTS (SELECT FROM pgsluice.this_shard);

-- The next value of a sequence that may be the key of a row here: neither the bucket map in force nor one that is announced
-- places it on another shard. What lies between is skipped, so one call takes as many values as there are shards, about.
-- The default of a shard key's column. As nextval() it needs USAGE on the sequence, and sets currval() and lastval().
CREATE OR REPLACE FUNCTION pgsluice.next_key(sequence pg_catalog.regclass) RETURNS pg_catalog.int8
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    this_name text := (SELECT name FROM pgsluice.this_shard);
    in_force int8 := (SELECT max(version) FROM pgsluice.bucket_map WHERE state = 'in force');
    free varbit;
    given int8;
BEGIN
    SELECT CASE WHEN bool_and(here IS NOT NULL) THEN bit_and(here) END INTO free FROM pgsluice.bucket_map
    WHERE version >= in_force AND state <> 'withdrawn';
    IF free IS NULL OR bit_count(free) = 0 THEN
        RAISE EXCEPTION 'shard "%" has no keys to give', this_name USING
            ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'The bucket map gives it no buckets.',
            HINT = 'Insert through pgsluice, which chooses another shard; or run pgsluice shards init, where that was not done.';
    END IF;
    LOOP
        given := nextval(sequence);
        CONTINUE WHEN get_bit(free, pgsluice.bucket(given)) = 0;
        EXIT WHEN NOT EXISTS (
            SELECT FROM pgsluice.pinned_key AS pin JOIN pgsluice.bucket_map AS map ON map.version = pin.version
            WHERE pin.version >= in_force AND pin.digest = pgsluice.key_digest(pgsluice.shard_key(given))
                AND map.state <> 'withdrawn' AND pin.shard <> this_name
        );
    END LOOP;
    RETURN given;
END $$;

-- Has the keys of these tables (a JSON array of objects with schema, which may be null, name and key), as far as this
-- transaction has made them or their defaults, take their values from next_key() where they take them from a sequence. An
-- identity column becomes one with a default: what an identity is given nobody can choose. Called by pgsluice behind DDL,
-- before spread_sequences().
CREATE OR REPLACE FUNCTION pgsluice.draw_keys(tables pg_catalog.jsonb) RETURNS pg_catalog.void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    began int8 := pg_current_xact_id_if_assigned()::text::int8 & 4294967295;
    made record;
BEGIN
    FOR made IN
        SELECT c.oid::regclass AS table_name, quote_ident(a.attname) AS key, a.attidentity <> '' AS is_identity,
            s.seqrelid::regclass::text AS source, s.*
        FROM jsonb_to_recordset(tables) AS declared (schema text, name text, key text[])
        JOIN pg_class AS c ON c.relname = declared.name AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
        JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = coalesce(declared.schema, n.nspname)
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = declared.key[1] AND a.attnum > 0
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        JOIN pg_sequence AS s ON CASE a.attidentity
            WHEN '' THEN pg_get_expr(d.adbin, d.adrelid) = format('nextval(%L::regclass)', s.seqrelid::regclass)
            ELSE EXISTS (
                SELECT FROM pg_depend AS own
                WHERE own.classid = 'pg_class'::regclass AND own.objid = s.seqrelid AND own.deptype = 'i'
                    AND own.refclassid = 'pg_class'::regclass AND own.refobjid = c.oid AND own.refobjsubid = a.attnum) END
        WHERE cardinality(declared.key) = 1 AND pg_has_role(c.relowner, 'USAGE')
            AND greatest(a.xmin::text::int8, d.xmin::text::int8) >= began
            AND a.atttypid IN ('int8'::regtype, 'int4'::regtype, 'int2'::regtype)
    LOOP
        IF made.is_identity THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %s DROP IDENTITY', made.table_name, made.key);
            EXECUTE format('CREATE SEQUENCE %s AS %s INCREMENT %s MINVALUE %s MAXVALUE %s START %s CACHE %s %s OWNED BY %s.%s',
                made.source, made.seqtypid::regtype, made.seqincrement, made.seqmin, made.seqmax, made.seqstart, made.seqcache,
                CASE WHEN made.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END, made.table_name, made.key);
            -- An identity asks for no privilege on its sequence.
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO PUBLIC', made.source);
        END IF;
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %s SET DEFAULT pgsluice.next_key(%L)',
            made.table_name, made.key, made.source);
    END LOOP;
END $$;

-- Makes the sequences that this transaction has made or changed give values that no other shard gives: each shard takes
-- every 256th value (of an integer's sequence every 64th), from its own number on. Called by pgsluice behind DDL.
-- A sequence with an increment of its own is left as it is.
CREATE OR REPLACE FUNCTION pgsluice.spread_sequences() RETURNS pg_catalog.void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    shard int4 := (SELECT number FROM pgsluice.this_shard);
    began int8 := pg_current_xact_id_if_assigned()::text::int8 & 4294967295;
    made record;
    step int8;
    given int8;
BEGIN
    IF shard IS NULL THEN
        RAISE EXCEPTION 'this shard has no number yet' USING
            ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Run pgsluice shards init.';
    END IF;
    FOR made IN
        SELECT c.oid::regclass AS name, s.seqtypid, s.seqincrement, s.seqstart, s.seqmin, s.seqmax
        FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid
        WHERE s.xmin::text::int8 >= began AND c.relpersistence <> 't' AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        step := CASE made.seqtypid WHEN 'int8'::regtype THEN 256 WHEN 'int4'::regtype THEN 64 END;
        IF made.seqincrement = 1 AND (step IS NULL OR shard >= step) THEN
            RAISE EXCEPTION 'sequence % is too narrow to give each shard values of its own', made.name USING
                ERRCODE = 'feature_not_supported', HINT = 'Make its column bigint.';
        ELSIF made.seqincrement = 1 THEN
            EXECUTE format('ALTER SEQUENCE %s INCREMENT BY %s START WITH %s RESTART',
                made.name, step, made.seqstart + (((shard + 1 - made.seqstart) % step) + step) % step);
        ELSIF made.seqincrement = step THEN
            -- It may have been restarted, with the same value on all shards.
            EXECUTE format('SELECT last_value + CASE WHEN is_called THEN %s ELSE 0 END FROM %s', step, made.name) INTO given;
            given := given + (((shard + 1 - given) % step) + step) % step;
            PERFORM setval(made.name, given, false);
        END IF;
    END LOOP;
END $$;
