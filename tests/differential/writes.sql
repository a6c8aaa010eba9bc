-- INSERT: one shard, several, all.

INSERT INTO ints (id, v, t) VALUES (101, 1, 'new')

INSERT INTO ints (id, v, t) VALUES (101, 2, 'again')

INSERT INTO ints (id, v) VALUES (102, 1), (103, 2), (104, 3), (105, NULL)

INSERT INTO ints (id, v) VALUES (106, 1), (107, 2), (101, 3)

INSERT INTO ints VALUES (108, 1, 1.2345, 'é', '{"a": [1, 2]}', '{1,NULL,3}', '2024-01-01 12:00:00+03')

INSERT INTO ints (id, w) VALUES (109, 1e12)

INSERT INTO ints (id, v) VALUES (110, 3000000000)

INSERT INTO ints (id, j) VALUES (111, '{broken')

INSERT INTO ints (id, a) VALUES (112, ARRAY[1, 2] || 3)

INSERT INTO ints (id, v) VALUES (113, 1 + 2), (114, length('abcd'))

INSERT INTO ints (id, v, t) VALUES (115, DEFAULT, DEFAULT)

INSERT INTO ints (v) VALUES (1)

INSERT INTO ints (id, v) VALUES (NULL, 1)

INSERT INTO ints (id, v) VALUES (100 + 16, 1)

INSERT INTO ints (id, nothing) VALUES (117, 1)

INSERT INTO ints (id, v) VALUES (118, 1, 2)

INSERT INTO ints DEFAULT VALUES

INSERT INTO ints (id, v) VALUES ($1, $2)
    \bind int4 120 | int4 1
    \bind int4 121 | int4 NULL
    \bind int4 120 | int4 2

INSERT INTO ints (id, t, w, j, a, at) VALUES ($1, $2, $3, $4, $5, $6)
    \bind int4 122 | text it's | numeric 1.5 | jsonb {"a": 1} | int4[] {1,NULL} | timestamptz 2024-02-03 04:05:06.789+02
    \bind int4 123 | text NULL | numeric NULL | jsonb NULL | int4[] {} | timestamptz infinity

INSERT INTO ints (id, v) VALUES ($1, 1), ($2, 2), ($3, 3)
    \bind int4 124 | int4 125 | int4 126
    \bind int4 127 | int4 128 | int4 127

INSERT INTO bigs VALUES ($1, $2, $3)
    \bind int8 123456789012345 | int4 1 | bool t
    \bind int8 -5 | int4 2 | bool NULL

INSERT INTO texts (name, v) VALUES ($1, $2)
    \bind text new é | int4 1
    \bind text tab	bed | int4 2
    \bind text new é | int4 3

INSERT INTO uuids (id, v, at) VALUES ($1, $2, $3)
    \bind uuid 10000000-0000-4000-8000-000000000000 | int4 1 | timestamptz 2000-01-01 00:00:00+00
    \bind uuid 10000000-0000-4000-8000-000000000001 | int4 2 | timestamptz NULL

INSERT INTO dates VALUES ($1, $2, $3)
    \bind date 2025-12-31 | int4 1 | text x
    \bind date 1999-01-01 | int4 2 | text NULL

INSERT INTO numbers VALUES ($1, $2)
    \bind numeric 12345678901234567890 | int4 1
    \bind numeric 77 | int4 2

INSERT INTO pairs VALUES ($1, $2, $3)
    \bind int4 50 | text p | int4 1
    \bind int4 50 | text q | int4 2
    \bind int4 50 | text p | int4 3

INSERT INTO words (id, en, d, i, b, ts, k, small) VALUES (201, 'wort', 'NaN', '1 year 2 mons', '\x00', '2024-02-29 12:00', 'a', 7), (202, 'Wort', '-Infinity', '-1 sec', '', 'infinity', 'abc', -7)

INSERT INTO words (id, k) VALUES (203, 'abcd')

INSERT INTO words (id, small) VALUES (204, 40000)

INSERT INTO notes VALUES (101, 0, 'a'), (102, 0, 'b'), (101, 1, 'c'), (103, 0, NULL)

INSERT INTO marks VALUES (101, 1.25, 'a'), (101, 1.25, 'a'), (102, NULL, NULL)

INSERT INTO kinds VALUES ('new', 3), ('newer', NULL)

INSERT INTO kinds VALUES ('new', 4)

INSERT INTO kinds VALUES (NULL, 4)

INSERT INTO kinds VALUES ('random', random()::int)

INSERT INTO kinds SELECT 'copy of ' || code, weight FROM kinds WHERE weight > 5

INSERT INTO places VALUES (7, 'Île'), (8, 'oslo') RETURNING id, upper(name)

INSERT INTO singles VALUES (11, 5), (12, 6) RETURNING *

INSERT INTO singles SELECT g, g % 3 FROM generate_series(20, 25) AS g

INSERT INTO singles SELECT max(id) + 1, 0 FROM singles RETURNING id

-- INSERT … SELECT.

INSERT INTO notes SELECT id, 7, t FROM ints WHERE id = 3

INSERT INTO notes SELECT 4, n + 10, body FROM notes WHERE int_id = 4

INSERT INTO notes (int_id, n, body) SELECT id, 8, t FROM ints

INSERT INTO marks SELECT int_id, n, body FROM notes WHERE int_id = 101

INSERT INTO ints (id, v) SELECT 130, max(v) FROM bigs WHERE id = 3

INSERT INTO ints (id, v) SELECT 131, (SELECT max(weight) FROM kinds)

INSERT INTO ints (id, v) SELECT g, 1 FROM generate_series(132, 135) AS g

INSERT INTO ints (id, v) VALUES (136, (SELECT weight FROM kinds WHERE code = 'a'))

INSERT INTO ints (id, v) VALUES (137, (SELECT max(v) FROM bigs))

WITH x AS (SELECT 138 AS id) INSERT INTO ints (id, v) SELECT id, 9 FROM x

WITH x AS (INSERT INTO ints (id, v) VALUES (139, 9) RETURNING id, v) SELECT * FROM x

WITH x AS (INSERT INTO ints (id, v) VALUES (140, 9) RETURNING id) INSERT INTO notes SELECT id, 0, 'from a CTE' FROM x

-- RETURNING.

INSERT INTO ints (id, v) VALUES (141, 1) RETURNING *

INSERT INTO ints (id, v) VALUES (142, 1) RETURNING id AS key, v + 1 AS next, t IS NULL

INSERT INTO ints (id, v) VALUES (143, 1), (144, 2), (145, 3) RETURNING id, v

INSERT INTO notes VALUES (143, 0, 'a'), (143, 1, 'b') RETURNING n, body

INSERT INTO ints (id, v) VALUES ($1, $2) RETURNING id, v, w
    \bind int4 146 | int4 5
    \bind int4 147 | int4 NULL

UPDATE ints SET v = v + 1 WHERE id = 3 RETURNING id, v

UPDATE ints SET v = v + 1 WHERE id = 1000 RETURNING id, v

UPDATE ints SET v = v + 1 WHERE id IN (3, 4, 5) RETURNING id, v

UPDATE ints SET v = 0 WHERE v > 1000 RETURNING *

DELETE FROM ints WHERE id = 147 RETURNING id, v

DELETE FROM notes WHERE int_id = 143 RETURNING *

DELETE FROM marks WHERE mark < 0 RETURNING mark

UPDATE kinds SET weight = 11 WHERE code = 'new' RETURNING code, weight

DELETE FROM kinds WHERE code = 'newer' RETURNING *

-- ON CONFLICT.

INSERT INTO ints (id, v) VALUES (3, 100) ON CONFLICT DO NOTHING

INSERT INTO ints (id, v) VALUES (3, 100) ON CONFLICT (id) DO UPDATE SET v = excluded.v

INSERT INTO ints (id, v) VALUES (3, 7) ON CONFLICT (id) DO UPDATE SET v = ints.v + excluded.v WHERE ints.v > 50 RETURNING v

INSERT INTO ints (id, v) VALUES (3, 7) ON CONFLICT (id) DO UPDATE SET v = 0 WHERE ints.v < 0 RETURNING v

INSERT INTO ints (id, v) VALUES (3, 1), (150, 2), (4, 3), (151, 4) ON CONFLICT (id) DO UPDATE SET v = excluded.v * 10

INSERT INTO ints (id, v) VALUES (3, 1), (152, 2), (4, 3) ON CONFLICT DO NOTHING

INSERT INTO ints (id, v) VALUES (153, 1), (153, 2) ON CONFLICT (id) DO UPDATE SET v = excluded.v

INSERT INTO ints (id, v) VALUES (3, 1) ON CONFLICT (v) DO NOTHING

INSERT INTO ints (id, v) VALUES (3, 1) ON CONFLICT (id) DO UPDATE SET id = 4

INSERT INTO ints (id, v) VALUES (3, 1) ON CONFLICT (id) DO UPDATE SET id = excluded.id, v = 12

INSERT INTO texts VALUES ('a', 1, 'x') ON CONFLICT (name) DO UPDATE SET u = texts.u || excluded.u, v = excluded.v RETURNING *

INSERT INTO pairs VALUES (5, 'a', 9) ON CONFLICT (a, b) DO UPDATE SET v = pairs.v + 1 RETURNING v

INSERT INTO numbers VALUES (8, 1) ON CONFLICT ON CONSTRAINT numbers_pkey DO UPDATE SET v = -1

INSERT INTO kinds VALUES ('a', 9) ON CONFLICT (code) DO UPDATE SET weight = kinds.weight + excluded.weight

INSERT INTO notes SELECT id, 0, 'again' FROM ints WHERE id = 3 ON CONFLICT (int_id, n) DO UPDATE SET body = excluded.body

INSERT INTO uuids VALUES ('00000000-0000-4000-8000-000000000001', 9) ON CONFLICT (id) DO UPDATE SET v = $1
    \bind int4 77

-- UPDATE.

UPDATE ints SET v = 5 WHERE id = 5

UPDATE ints SET v = v * 2, t = upper(t), a = a || 1, j = j || '{"n": 1}' WHERE id = 5

UPDATE ints SET (v, t) = (1, 'both') WHERE id = 6

UPDATE ints SET (v, t) = (SELECT weight, code FROM kinds WHERE code = 'B') WHERE id = 6

UPDATE ints SET v = DEFAULT WHERE id = 6

UPDATE ints SET v = v + 1 WHERE id = $1
    \bind int4 7
    \bind int4 8
    \bind int4 1000

UPDATE ints SET v = $1 WHERE id = $2 AND t = $3
    \bind int4 9 | int4 2 | text Ärger
    \bind int4 NULL | int4 3 | text A

UPDATE ints SET v = v + 1 WHERE id IN (9, 10, 11)

UPDATE ints SET v = v + 1

UPDATE ints SET v = v + 1 WHERE v > 4

UPDATE ints SET w = coalesce(w, 0) + 0.001

UPDATE ints SET v = v / (id - 12)

UPDATE ints SET v = v / (v - v) WHERE id = 12

UPDATE ints SET at = at + interval '1 day' WHERE at < '2024-06-01 00:00:00+00'

UPDATE ints SET t = NULL WHERE t = ''

UPDATE ints SET id = 13 WHERE id = 13

UPDATE ints SET id = 160 WHERE id = 13

UPDATE ints SET id = id + 1000 WHERE id = 13

UPDATE ints SET nothing = 1 WHERE id = 13

UPDATE notes SET body = body || '!' WHERE int_id = 3

UPDATE notes SET n = n + 100 WHERE int_id = 4

UPDATE notes SET n = 0 WHERE int_id = 4

UPDATE notes SET body = 'x' WHERE n = 1

UPDATE texts SET v = coalesce(v, 0) + 1

UPDATE dates SET t = 'leap' WHERE day = '2024-02-09'

UPDATE words SET en = en || '' WHERE id = 3

UPDATE kinds SET weight = weight + 1

UPDATE kinds SET weight = weight / (weight - weight) WHERE code = 'a'

UPDATE kinds SET weight = (SELECT max(weight) FROM kinds) WHERE code = 'é'

UPDATE kinds SET weight = (SELECT max(v) FROM ints) WHERE code = 'é'

UPDATE places SET name = (SELECT code FROM kinds ORDER BY code LIMIT 1) WHERE id = 4

UPDATE singles SET v = v + 1 WHERE id < 5

UPDATE singles SET v = (SELECT max(v) FROM ints)

-- UPDATE … FROM, and with sub-queries.

UPDATE ints SET v = n.n FROM notes n WHERE n.int_id = ints.id AND ints.id = 16 AND n.n = 0

UPDATE ints i SET t = k.code FROM (SELECT weight, min(code) AS code FROM kinds GROUP BY weight) AS k WHERE k.weight = i.v AND i.id = 17

-- One of several matches would be anybody's choice.
UPDATE ints i SET t = k.code FROM (SELECT weight, min(code) AS code FROM kinds GROUP BY weight) AS k WHERE k.weight = i.v

UPDATE ints SET v = b.v FROM bigs b WHERE b.id = ints.id

UPDATE ints SET v = b.v FROM bigs b WHERE b.v = ints.v

UPDATE ints SET t = n.body FROM notes n WHERE n.int_id = ints.id AND n.n = 0

UPDATE ints SET v = (SELECT count(*) FROM notes n WHERE n.int_id = ints.id) WHERE id = 18

UPDATE ints SET v = (SELECT count(*) FROM notes n WHERE n.int_id = ints.id)

UPDATE ints SET v = (SELECT max(weight) FROM kinds) WHERE id = 19

UPDATE ints SET v = 0 WHERE id IN (SELECT int_id FROM notes WHERE int_id = 20)

UPDATE ints SET v = 0 WHERE EXISTS (SELECT FROM bigs WHERE bigs.v = ints.v)

UPDATE marks SET mark = mark + s.v FROM singles s WHERE s.id = marks.int_id

WITH k AS (SELECT max(weight) AS m FROM kinds) UPDATE ints SET v = k.m FROM k WHERE id = 21

WITH up AS (UPDATE ints SET v = 50 WHERE id = 22 RETURNING id, v) SELECT * FROM up

-- DELETE.

DELETE FROM ints WHERE id = 146

DELETE FROM ints WHERE id = $1
    \bind int4 141
    \bind int4 142
    \bind int4 1000

DELETE FROM ints WHERE id IN (143, 144, 145)

DELETE FROM marks WHERE mark IS NULL

DELETE FROM notes WHERE body = 'b'

DELETE FROM notes USING ints WHERE notes.int_id = ints.id AND ints.id = 23

DELETE FROM notes USING ints WHERE notes.int_id = ints.id AND ints.v > 100

DELETE FROM notes USING kinds WHERE kinds.code = notes.body AND notes.int_id = 5

DELETE FROM notes WHERE int_id IN (SELECT id FROM ints WHERE id = 24)

DELETE FROM marks WHERE int_id NOT IN (SELECT id FROM ints)

DELETE FROM dates WHERE day = '2024-02-10' AND v > 10

DELETE FROM dates WHERE day < '2024-02-02'

DELETE FROM kinds WHERE weight IS NULL

DELETE FROM kinds USING places WHERE places.name = kinds.code

DELETE FROM singles WHERE id = (SELECT max(id) FROM singles)

WITH gone AS (DELETE FROM notes WHERE int_id = 6 RETURNING n, body) SELECT count(*), max(n) FROM gone

WITH gone AS (DELETE FROM notes WHERE int_id = 7 RETURNING *) INSERT INTO notes SELECT int_id, n + 50, body FROM gone

DELETE FROM words WHERE nothing = 1

-- MERGE.

MERGE INTO ints i USING (VALUES (25, 99)) AS s (id, v) ON i.id = s.id AND i.id = 25 WHEN MATCHED THEN UPDATE SET v = s.v

MERGE INTO ints i USING kinds k ON i.id = 26 AND i.t = k.code WHEN MATCHED THEN UPDATE SET v = k.weight

MERGE INTO notes n USING ints i ON n.int_id = i.id AND n.int_id = 8 AND n.n = 0 AND i.id = 8 WHEN MATCHED THEN DELETE

MERGE INTO ints i USING bigs b ON i.id = b.id WHEN MATCHED THEN UPDATE SET v = b.v WHEN NOT MATCHED THEN DO NOTHING

MERGE INTO singles s USING (VALUES (1, 70), (400, 71)) AS x (id, v) ON s.id = x.id WHEN MATCHED THEN UPDATE SET v = x.v WHEN NOT MATCHED THEN INSERT VALUES (x.id, x.v)

MERGE INTO kinds k USING (VALUES ('a', 1), ('merged', 2)) AS x (code, w) ON k.code = x.code WHEN MATCHED THEN UPDATE SET weight = x.w WHEN NOT MATCHED THEN INSERT VALUES (x.code, x.w)

-- Transactions.

BEGIN
INSERT INTO ints (id, v) VALUES (301, 1)
INSERT INTO ints (id, v) VALUES (302, 1)
SELECT v FROM ints WHERE id = 301
SELECT v FROM ints WHERE id = 302
COMMIT

BEGIN
INSERT INTO ints (id, v) VALUES (303, 1), (304, 1), (305, 1)
UPDATE ints SET v = 2 WHERE id = 304
DELETE FROM ints WHERE id = 305
ROLLBACK

SELECT count(*) FROM ints WHERE id > 302

BEGIN
UPDATE ints SET v = v - 10 WHERE id = 1
UPDATE ints SET v = v + 10 WHERE id = 2
UPDATE kinds SET weight = 0 WHERE code = 'a'
END

BEGIN
INSERT INTO ints (id, v) VALUES (306, 1)
INSERT INTO ints (id, v) VALUES (306, 2)
INSERT INTO ints (id, v) VALUES (307, 2)
COMMIT

BEGIN
INSERT INTO ints (id, v) VALUES (308, 1)
SAVEPOINT one
INSERT INTO ints (id, v) VALUES (309, 1)
SAVEPOINT two
INSERT INTO ints (id, v) VALUES (308, 2)
ROLLBACK TO SAVEPOINT two
INSERT INTO ints (id, v) VALUES (310, 1)
RELEASE SAVEPOINT one
COMMIT

BEGIN
SAVEPOINT one
UPDATE ints SET v = 1000 WHERE id = 3
UPDATE ints SET v = 1000 WHERE id = 4
ROLLBACK TO one
SELECT v FROM ints WHERE id = 3
SELECT v FROM ints WHERE id = 4
ROLLBACK TO nowhere
ROLLBACK

BEGIN ISOLATION LEVEL REPEATABLE READ
SELECT v FROM ints WHERE id = 5
UPDATE ints SET v = 6 WHERE id = 5
SELECT v FROM ints WHERE id = 5
COMMIT

BEGIN READ ONLY
UPDATE ints SET v = 6 WHERE id = 5
ROLLBACK

START TRANSACTION
DELETE FROM notes
INSERT INTO notes VALUES (1, 1, 'only one')
SELECT count(*) FROM notes WHERE int_id = 1
ROLLBACK

BEGIN
INSERT INTO ints (id, v) VALUES (311, 1)
SELECT count(*) FROM ints
COMMIT

BEGIN
UPDATE singles SET v = 1 WHERE id = 1
UPDATE ints SET v = 1 WHERE id = 1
UPDATE kinds SET weight = 1 WHERE code = 'B'
COMMIT AND NO CHAIN

BEGIN
SET LOCAL TIME ZONE 'Asia/Tokyo'
UPDATE ints SET t = at::text WHERE id = 5
UPDATE ints SET t = at::text WHERE id = 6
COMMIT

BEGIN
DECLARE c CURSOR FOR SELECT n, body FROM notes WHERE int_id = 3 ORDER BY n FOR UPDATE
FETCH 1 FROM c
UPDATE notes SET body = 'current' WHERE int_id = 3 AND CURRENT OF c
ROLLBACK

BEGIN
SELECT v FROM ints WHERE id = 5 FOR UPDATE
SELECT v FROM ints WHERE id = 6 FOR SHARE
UPDATE ints SET v = 0 WHERE id = 5
COMMIT

SELECT id FROM ints ORDER BY id FOR UPDATE

SELECT v FROM ints WHERE id = 7 FOR NO KEY UPDATE NOWAIT

ROLLBACK

SAVEPOINT nowhere

-- Prepared in SQL.

PREPARE put (int, int) AS INSERT INTO ints (id, v) VALUES ($1, $2)
EXECUTE put (320, 1)
DEALLOCATE put

-- TRUNCATE, DDL, and what stands for no rows at all.

TRUNCATE marks

INSERT INTO marks VALUES (1, 1, 'after'), (2, 2, 'after')

TRUNCATE notes, dates

BEGIN
TRUNCATE texts
ROLLBACK

CREATE INDEX ints_v ON ints (v)

CREATE UNIQUE INDEX kinds_weight ON kinds (weight, code)

DROP INDEX kinds_weight

DROP INDEX ints_v

ALTER TABLE ints ADD CONSTRAINT positive CHECK (id > 0)

INSERT INTO ints (id) VALUES (-1)

INSERT INTO ints (id) VALUES (401), (-2), (402)

ALTER TABLE ints DROP CONSTRAINT positive

CREATE TABLE ints (id int)

DROP TABLE no_such_table

COMMENT ON TABLE ints IS 'numbers'

ALTER TABLE ints ALTER v SET DEFAULT 42

INSERT INTO ints (id) VALUES (501), (502), (503)

INSERT INTO ints (id) VALUES (504) RETURNING v

ALTER TABLE ints ALTER v DROP DEFAULT

-- EXPLAIN of writes.

EXPLAIN UPDATE ints SET v = 1 WHERE id = 3

EXPLAIN INSERT INTO ints (id) VALUES (600)

SELECT count(*) FROM ints WHERE id >= 600

-- What all of it has come to.

SELECT * FROM ints ORDER BY id

SELECT * FROM notes ORDER BY int_id, n

SELECT * FROM kinds ORDER BY code

SELECT * FROM singles ORDER BY id

SELECT * FROM texts ORDER BY name

SELECT * FROM bigs ORDER BY id
