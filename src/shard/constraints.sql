-- Constraints that a shard cannot enforce over all shards, of the tables that {tables} declares (JSON: schema, name, place,
-- key). Run in a transaction; nothing is left of it but its rows: OID, identity (which outlives a rebuild), kind, name,
-- table, the table's key, the table that is referred to, that one's key, and the action that would change a row's key.
SAVEPOINT pgsluice_constraints;
SET LOCAL search_path = pg_catalog, pg_temp;
WITH declared AS (
    SELECT * FROM json_to_recordset({tables}) AS d (schema text, name text, place text, key text[])
), tables AS (
    -- A partition's rows are where those of the whole table are.
    SELECT c.oid, d.place, array_to_string(d.key, ', ') AS names, cardinality(d.key) AS width,
           ARRAY(SELECT a.attnum FROM unnest(d.key) WITH ORDINALITY AS k (name, place)
                   JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = k.name AND NOT a.attisdropped
                  ORDER BY k.place) AS columns
    FROM pg_class AS c
    JOIN pg_class AS whole ON whole.oid = CASE WHEN c.relispartition THEN pg_partition_root(c.oid) ELSE c.oid END
    JOIN pg_namespace AS n ON n.oid = whole.relnamespace
    JOIN declared AS d ON d.name = whole.relname AND (d.schema IS NULL OR d.schema = n.nspname)
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgsluice')
), sharded AS (
    -- Of one that lacks a column of its key nothing can be said.
    SELECT * FROM tables WHERE place = 'key' AND cardinality(columns) = width
), unique_somewhere AS (
    SELECT x.oid, format('%s %s', i.indrelid, x.relname) AS identity,
           CASE WHEN i.indisprimary THEN 'primary key' WHEN NOT i.indisunique THEN 'exclusion constraint'
                WHEN e.oid IS NOT NULL THEN 'unique constraint' ELSE 'unique index' END AS kind,
           x.relname::text AS name, i.indrelid::regclass::text AS of, t.names, NULL::text AS other, NULL::text AS other_names,
           NULL::text AS action, x.relispartition AS is_part
    FROM sharded AS t
    JOIN pg_index AS i ON i.indrelid = t.oid AND (i.indisunique OR i.indisexclusion)
    JOIN pg_class AS x ON x.oid = i.indexrelid
    LEFT JOIN pg_constraint AS e ON e.conindid = i.indexrelid AND e.conrelid = i.indrelid AND e.contype IN ('p', 'u', 'x')
    WHERE EXISTS (SELECT FROM unnest(t.columns) AS k (number) WHERE NOT EXISTS (
        SELECT FROM generate_series(0, i.indnkeyatts - 1) AS p (at)
        WHERE i.indkey[p.at] = k.number
          AND (i.indisunique OR (SELECT o.oprname FROM pg_operator AS o WHERE o.oid = e.conexclop[p.at + 1]) = '=')
          AND COALESCE((SELECT l.collisdeterministic FROM pg_collation AS l WHERE l.oid = i.indcollation[p.at]), true)))
), refers_elsewhere AS (
    SELECT f.oid, format('%s %s', f.conrelid, f.conname) AS identity, 'foreign key' AS kind, f.conname::text AS name,
           f.conrelid::regclass::text AS of, t.names, f.confrelid::regclass::text AS other, u.names AS other_names,
           NULL::text AS action, f.conparentid <> 0 AS is_part
    FROM pg_constraint AS f
    JOIN tables AS t ON t.oid = f.conrelid
    JOIN tables AS u ON u.oid = f.confrelid
    WHERE f.contype = 'f' AND CASE
        WHEN u.place = 'reference' THEN false
        WHEN t.place = 'key' AND u.place = 'key' THEN
            cardinality(t.columns) = t.width AND cardinality(u.columns) = u.width AND (t.width <> u.width
            OR EXISTS (SELECT FROM generate_series(1, t.width) AS k (at) WHERE NOT EXISTS (
                SELECT FROM generate_subscripts(f.conkey, 1) AS p (at)
                JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[p.at]
                JOIN pg_attribute AS b ON b.attrelid = f.confrelid AND b.attnum = f.confkey[p.at]
                JOIN pg_type AS s ON s.oid = a.atttypid
                JOIN pg_type AS r ON r.oid = b.atttypid
                WHERE a.attnum = t.columns[k.at] AND b.attnum = u.columns[k.at]
                  -- Types of one class are placed alike; of a domain, its base type.
                  AND CASE COALESCE(NULLIF(s.typbasetype, 0), s.oid) WHEN 'int2'::regtype THEN 'number' WHEN 'int4'::regtype
                      THEN 'number' WHEN 'int8'::regtype THEN 'number' WHEN 'numeric'::regtype THEN 'number'
                      WHEN 'varchar'::regtype THEN 'text' ELSE COALESCE(NULLIF(s.typbasetype, 0), s.oid)::regtype::text END
                    = CASE COALESCE(NULLIF(r.typbasetype, 0), r.oid) WHEN 'int2'::regtype THEN 'number' WHEN 'int4'::regtype
                      THEN 'number' WHEN 'int8'::regtype THEN 'number' WHEN 'numeric'::regtype THEN 'number'
                      WHEN 'varchar'::regtype THEN 'text' ELSE COALESCE(NULLIF(r.typbasetype, 0), r.oid)::regtype::text END)))
        ELSE t.place = 'key' OR t.place <> u.place END
), changes_keys AS (
    SELECT f.oid, format('%s %s', f.conrelid, f.conname) AS identity, 'foreign key' AS kind, f.conname::text AS name,
           f.conrelid::regclass::text AS of, t.names, f.confrelid::regclass::text AS other, NULL::text AS other_names,
           a.action, f.conparentid <> 0 AS is_part
    FROM sharded AS t
    JOIN pg_constraint AS f ON f.conrelid = t.oid AND f.contype = 'f' AND f.conkey && t.columns
    JOIN tables AS u ON u.oid = f.confrelid
    CROSS JOIN LATERAL (SELECT CASE
        -- From 15 on only some columns may be set.
        WHEN f.confdeltype IN ('n', 'd') AND t.columns && COALESCE((
            SELECT array_agg(c::int2) FROM jsonb_array_elements_text(NULLIF(to_jsonb(f) -> 'confdelsetcols', 'null')) AS c), f.conkey)
            THEN CASE f.confdeltype WHEN 'n' THEN 'ON DELETE SET NULL' ELSE 'ON DELETE SET DEFAULT' END
        WHEN f.confupdtype = 'n' THEN 'ON UPDATE SET NULL'
        WHEN f.confupdtype = 'd' THEN 'ON UPDATE SET DEFAULT'
        -- A shard key that is referred to is not changed by anybody.
        WHEN f.confupdtype = 'c' AND u.place = 'reference' THEN 'ON UPDATE CASCADE' END) AS a (action)
    WHERE a.action IS NOT NULL
)
SELECT oid, identity, kind, name, of, names, other, other_names, action
FROM (SELECT * FROM unique_somewhere UNION ALL SELECT * FROM refers_elsewhere UNION ALL SELECT * FROM changes_keys) AS unfit
ORDER BY is_part, of, name;
ROLLBACK TO SAVEPOINT pgsluice_constraints;
RELEASE SAVEPOINT pgsluice_constraints
