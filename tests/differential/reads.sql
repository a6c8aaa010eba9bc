-- One shard: the key as a literal, a parameter, a cast, in lists, rows and joins.

SELECT * FROM ints WHERE id = 7

SELECT id, v, w FROM ints WHERE id = 8 AND v > 2

SELECT id, t FROM ints WHERE 9 = id

SELECT * FROM ints WHERE id = '10'::int

SELECT * FROM ints WHERE id = 11::bigint

SELECT * FROM ints WHERE id = 1000

SELECT * FROM ints WHERE id = NULL

SELECT v FROM ints WHERE id = $1
    \bind int4 7
    \bind int4 8
    \bind int4 NULL
    \bind int4 1000

SELECT v, t FROM ints WHERE id = $1 AND v >= $2
    \bind int8 12 | int4 0
    \bind int8 13 | int4 NULL

SELECT t FROM ints WHERE id = $1
    \bind int2 14
    \bind int2 -14

SELECT v FROM bigs WHERE id = $1
    \bind int8 9000000000
    \bind int8 -9223372036854775808
    \bind int8 5

SELECT v FROM numbers WHERE n = $1
    \bind numeric 99999999999999999999
    \bind numeric 5
    \bind numeric 5.00
    \bind numeric -34

SELECT name, u FROM texts WHERE name = $1
    \bind text é
    \bind text it's
    \bind text
    \bind text 日本
    \bind text back\slash

SELECT name, v FROM texts WHERE name = $1
    \bind varchar zeta
    \bind varchar nobody

SELECT v, at FROM uuids WHERE id = $1
    \bind uuid 00000000-0000-4000-8000-000000000003
    \bind uuid 00000000-0000-4000-8000-00000000000F

SELECT v, t FROM dates WHERE day = $1 ORDER BY v
    \bind date 2024-02-05
    \bind date 2024-02-29

SELECT v FROM pairs WHERE a = $1 AND b = $2
    \bind int4 5 | text a
    \bind int4 1 | text B
    \bind int4 1 | text NULL

SELECT id, v FROM ints WHERE id = ANY ($1) ORDER BY id
    \bind int4[] {3,1,2}
    \bind int4[] {}
    \bind int4[] {7,NULL}
    \bind int4[] NULL

SELECT name FROM texts WHERE name = ANY ($1) ORDER BY name
    \bind text[] {a,"x y",é,NULL}

SELECT v FROM ints WHERE id IN (3)

SELECT id, v FROM ints WHERE id IN (3, 1, 2, 1) ORDER BY id

SELECT id, v FROM ints WHERE id IN (3, NULL) ORDER BY id

SELECT id FROM ints WHERE id = ANY (ARRAY[4, 5]) ORDER BY id

SELECT id FROM ints WHERE id = ANY ('{6,7}'::int[]) ORDER BY id

SELECT v FROM pairs WHERE (a, b) = (6, 'a')

SELECT a, b, v FROM pairs WHERE (a, b) IN ((5, 'a'), (6, 'a'), (0, 'a')) ORDER BY a, b

SELECT * FROM uuids WHERE id = '00000000-0000-4000-8000-000000000001'::uuid

SELECT * FROM uuids WHERE id = '{00000000-0000-4000-8000-000000000002}'

SELECT v FROM dates WHERE day = '2024-02-03' AND v < 100 ORDER BY v

SELECT v FROM dates WHERE day = DATE '2024-02-04' ORDER BY v

SELECT v FROM numbers WHERE n = 99999999999999999999

SELECT v FROM numbers WHERE n = 8.0

SELECT v FROM bigs WHERE id = 9223372036854775807

SELECT * FROM texts WHERE name = ''

SELECT * FROM texts WHERE name = E'back\\slash'

SELECT * FROM texts WHERE name = 'long name with blanks'

SELECT i.id, n.n, n.body FROM ints i JOIN notes n ON n.int_id = i.id WHERE i.id = 3 ORDER BY n.n

SELECT i.id, n.n FROM ints i LEFT JOIN notes n ON n.int_id = i.id AND n.n > 0 WHERE i.id = 4 ORDER BY n.n

SELECT n.n, m.mark FROM notes n FULL JOIN marks m ON m.int_id = n.int_id AND n.n = 1 WHERE coalesce(n.int_id, m.int_id) = 5 ORDER BY 1, 2

SELECT i.v, k.weight FROM ints i JOIN kinds k ON k.code = i.t WHERE i.id IN (1, 2, 3, 4) ORDER BY i.id

SELECT id, body FROM ints JOIN notes ON int_id = id WHERE id = 6 ORDER BY n

SELECT id, n.body FROM ints i, notes n WHERE i.id = n.int_id AND i.id = 7 ORDER BY n.n

SELECT id FROM ints WHERE id = 8 AND EXISTS (SELECT FROM notes WHERE int_id = 8)

SELECT (SELECT count(*) FROM notes n WHERE n.int_id = i.id) FROM ints i WHERE i.id = 9

SELECT v FROM (SELECT * FROM ints WHERE id = 12) AS one

WITH one AS (SELECT * FROM ints WHERE id = 12) SELECT v, t FROM one

SELECT * FROM ints WHERE id = 5 UNION ALL SELECT * FROM ints WHERE id = 5

SELECT v FROM ints WHERE id = 16 OR id = 17 ORDER BY v

SELECT count(*) FROM ints WHERE NOT id = 3

SELECT id FROM ints WHERE id BETWEEN 3 AND 6 ORDER BY id

SELECT id FROM ints WHERE id = 40 - 30

SELECT id FROM ints WHERE id < 4 ORDER BY id DESC

-- No table, reference tables, and a table on one shard.

SELECT 1

SELECT 1 AS one, 'two' AS two, NULL AS three, 4.50 AS four, true AS five

SELECT

SELECT 1 WHERE false

VALUES (1, 'a'), (2, 'b'), (3, NULL)

VALUES (3), (1), (2) ORDER BY 1 DESC

SELECT * FROM (VALUES (1, 'one'), (2, 'two')) AS v (n, word) WHERE n > 1

SELECT g, g * g FROM generate_series(1, 5) AS g ORDER BY g DESC

SELECT generate_series(1, 3), generate_series(1, 2)

SELECT * FROM generate_series('2024-01-31'::date, '2024-04-01', '1 month') AS d ORDER BY 1

SELECT * FROM unnest(ARRAY[1, 2, NULL], ARRAY['a', 'b']) WITH ORDINALITY AS u (a, b, n) ORDER BY n

WITH RECURSIVE f (a, b) AS (VALUES (0, 1) UNION ALL SELECT b, a + b FROM f WHERE b < 50) SELECT a FROM f

WITH RECURSIVE t (n) AS (SELECT 1 UNION SELECT (n + 1) % 4 FROM t) SELECT n FROM t ORDER BY n

SELECT $1::int + 1, $2::text || 'x'
    \bind int4 41 | text a
    \bind int4 NULL | text NULL

SELECT * FROM kinds ORDER BY weight NULLS FIRST, code

SELECT code FROM kinds ORDER BY code COLLATE "de-x-icu"

SELECT p.name, k.code FROM places p CROSS JOIN kinds k WHERE p.id < 3 ORDER BY p.id, k.code

SELECT name, length(name), upper(name) FROM places ORDER BY id

SELECT p.id, q.id FROM places p LEFT JOIN places q ON q.id = p.id + 1 ORDER BY 1

SELECT max(weight), min(code), count(weight) FROM kinds

SELECT * FROM singles ORDER BY v NULLS FIRST, id

SELECT sum(v), count(*), count(v) FROM singles

SELECT s.id, k.code FROM singles s JOIN kinds k ON k.weight = s.v ORDER BY 1, 2

SELECT rank() OVER (ORDER BY v DESC NULLS LAST), id FROM singles ORDER BY 1, 2

SELECT id FROM singles WHERE v = (SELECT max(v) FROM singles) ORDER BY id

-- All rows, as they come, and sorted.

SELECT * FROM ints

SELECT * FROM ints ORDER BY id

SELECT * FROM notes ORDER BY int_id, n

SELECT * FROM words ORDER BY id

SELECT * FROM uuids ORDER BY id DESC

SELECT * FROM dates ORDER BY day DESC, v

SELECT * FROM numbers ORDER BY n

SELECT * FROM bigs ORDER BY id

SELECT * FROM pairs ORDER BY b, a

SELECT id FROM ints ORDER BY v NULLS FIRST, id

SELECT id FROM ints ORDER BY v DESC, id

SELECT id FROM ints ORDER BY v DESC NULLS LAST, id DESC

SELECT id FROM ints ORDER BY w ASC NULLS LAST, t DESC, id

SELECT id FROM ints ORDER BY at, id

SELECT id FROM ints ORDER BY t NULLS FIRST, id

SELECT id FROM ints ORDER BY v + id, id

SELECT id, v + id AS s FROM ints ORDER BY s DESC NULLS LAST, 1

SELECT id AS v FROM ints ORDER BY v

SELECT t FROM ints ORDER BY v, id

SELECT t FROM ints ORDER BY w * 2 DESC NULLS LAST, length(t), id

SELECT id FROM ints ORDER BY (v IS NULL), v DESC, id

SELECT id FROM ints ORDER BY CASE WHEN v > 4 THEN 0 ELSE 1 END, id

SELECT id FROM ints ORDER BY abs(10 - id), id

SELECT id FROM ints ORDER BY -id

SELECT id FROM ints ORDER BY id LIMIT 5

SELECT id FROM ints ORDER BY id LIMIT 5 OFFSET 5

SELECT id FROM ints ORDER BY id DESC OFFSET 25

SELECT id FROM ints ORDER BY id LIMIT 0

SELECT id FROM ints ORDER BY id LIMIT NULL OFFSET 28

SELECT id FROM ints ORDER BY id LIMIT ALL

SELECT id FROM ints ORDER BY id FETCH FIRST 3 ROWS ONLY

SELECT v FROM ints ORDER BY v FETCH FIRST 5 ROWS WITH TIES

SELECT id FROM ints ORDER BY id LIMIT -1

SELECT id FROM ints ORDER BY id LIMIT 2 + 1

SELECT id FROM ints ORDER BY id LIMIT $1 OFFSET $2
    \bind int8 3 | int8 2
    \bind int8 NULL | int8 0
    \bind int8 0 | int8 1000

SELECT id FROM ints WHERE v = $1 ORDER BY id
    \bind int4 5
    \bind int4 3
    \bind int4 NULL

SELECT id FROM ints WHERE w > $1 AND t <> $2 ORDER BY id DESC
    \bind numeric 1.5 | text a
    \bind numeric -100 | text

SELECT id FROM ints WHERE at > $1 ORDER BY at, id
    \bind timestamptz 2024-06-01 00:00:00+02

SELECT id FROM ints WHERE j @> $1 ORDER BY id
    \bind jsonb {"a": 2}

SELECT id, a && $1 FROM ints ORDER BY id
    \bind int4[] {1,2}

SELECT id, d > $1, b = $2 FROM words ORDER BY id
    \bind float8 0.25 | bytea \x00ff

SELECT id FROM bigs WHERE f = $1 ORDER BY id
    \bind bool t
    \bind bool NULL

-- Collations.

SELECT en FROM words ORDER BY en, id

SELECT de FROM words ORDER BY de NULLS FIRST, id

SELECT c FROM words ORDER BY c, id

SELECT en FROM words ORDER BY en COLLATE "C", id

SELECT c FROM words ORDER BY c COLLATE "en-x-icu" DESC, id

SELECT en FROM words ORDER BY lower(en), id

SELECT max(en), min(en), max(c), min(c), max(de), min(de) FROM words

SELECT en FROM words WHERE en > 'coop' ORDER BY id

SELECT en FROM words WHERE en > 'coop' COLLATE "C" ORDER BY id

SELECT count(*) FROM words WHERE en < de

SELECT DISTINCT c FROM words ORDER BY c

SELECT name FROM texts ORDER BY name

SELECT name FROM texts ORDER BY name COLLATE "en-x-icu", name

SELECT name FROM texts ORDER BY upper(name), name

SELECT body FROM notes ORDER BY body DESC NULLS LAST, int_id, n

SELECT k, count(*) FROM words GROUP BY k ORDER BY k

SELECT max(k), min(k) FROM words

-- DISTINCT.

SELECT DISTINCT v FROM ints

SELECT DISTINCT v FROM ints ORDER BY v

SELECT DISTINCT t, v FROM ints ORDER BY v NULLS FIRST, t DESC

SELECT DISTINCT v % 3 AS r FROM ints ORDER BY r DESC NULLS LAST

SELECT DISTINCT t FROM ints ORDER BY t LIMIT 3

SELECT DISTINCT ON (t) t, id FROM ints ORDER BY t, id DESC

SELECT DISTINCT ON (v) v, id, w FROM ints ORDER BY v NULLS FIRST, id

SELECT DISTINCT v FROM ints ORDER BY id

SELECT count(DISTINCT v), count(DISTINCT t), count(DISTINCT w) FROM ints

SELECT t, count(DISTINCT v) FROM ints GROUP BY t ORDER BY t

SELECT sum(DISTINCT v), avg(DISTINCT v) FROM ints

SELECT DISTINCT a FROM ints ORDER BY a

SELECT DISTINCT j FROM ints ORDER BY j

SELECT DISTINCT f FROM bigs ORDER BY f

-- Aggregates: types, zero rows, precision.

SELECT count(*) FROM ints

SELECT count(*), count(v), count(t), count(w) FROM ints

SELECT sum(v), sum(w), sum(id) FROM ints

SELECT sum(v) + 1 FROM ints

SELECT sum(v) + 1, 2 * count(*), max(id) - min(id) FROM ints

SELECT sum(v) * 1.0 / count(v) FROM ints

SELECT avg(v), avg(w), avg(id) FROM ints

SELECT round(avg(w), 2), trunc(avg(v)) FROM ints

SELECT min(v), max(v), min(w), max(w), min(t), max(t), min(at), max(at) FROM ints

SELECT sum(v), avg(v), min(v), max(v), count(v), count(*) FROM ints WHERE id > 1000

SELECT sum(v), avg(v), min(v), max(v), count(v), count(*) FROM ints WHERE v IS NULL

SELECT sum(id), avg(v) FROM bigs WHERE id < 100

SELECT sum(id) FROM bigs

SELECT max(id), min(id) FROM bigs

SELECT sum(n), avg(n), min(n), max(n) FROM numbers

SELECT sum(mark), avg(mark), count(mark) FROM marks

SELECT sum(small), avg(small), max(small) FROM words

SELECT sum(d), min(d), max(d) FROM words

SELECT sum(i), max(i), min(i) FROM words

SELECT min(ts), max(ts) FROM words

SELECT min(day), max(day), max(day) - min(day) FROM dates

SELECT max(name), min(name) FROM texts

SELECT bool_and(f), bool_or(f), every(f) FROM bigs

SELECT bool_and(v > 0), bool_or(v > 7), bool_and(v IS NOT NULL) FROM ints

SELECT bit_and(v), bit_or(v) FROM ints

SELECT stddev(v), variance(v), stddev_pop(v), var_pop(v), stddev_samp(v), var_samp(v) FROM ints

SELECT stddev(v), variance(v) FROM ints WHERE id = 3 OR id = 4

SELECT stddev(w), variance(w) FROM ints

SELECT stddev(v), variance(v), var_pop(v) FROM ints WHERE id > 1000

SELECT corr(v, id), covar_pop(v, id), regr_count(v, id) FROM singles

SELECT array_agg(id ORDER BY id) FROM ints

SELECT array_agg(t ORDER BY id DESC) FROM ints WHERE id < 10

SELECT array_agg(v ORDER BY v NULLS FIRST) FROM ints

SELECT array_agg(DISTINCT v ORDER BY v) FROM ints

SELECT array_agg(id) FROM ints WHERE id > 1000

SELECT string_agg(t, ',' ORDER BY id) FROM ints

SELECT string_agg(DISTINCT t, '|' ORDER BY t) FROM ints

SELECT string_agg(t, ',' ORDER BY t COLLATE "de-x-icu", id) FROM ints

SELECT json_agg(v ORDER BY id), jsonb_agg(t ORDER BY id) FROM ints WHERE id < 6

SELECT jsonb_object_agg(id, v ORDER BY id) FROM ints WHERE id < 6

SELECT mode() WITHIN GROUP (ORDER BY t) FROM ints WHERE t IN ('a', 'b') OR t = 'é'

SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v), percentile_disc(0.25) WITHIN GROUP (ORDER BY id) FROM ints

SELECT rank(5) WITHIN GROUP (ORDER BY v) FROM ints

SELECT count(*) FILTER (WHERE v > 4), sum(v) FILTER (WHERE t IS NULL), count(*) FROM ints

SELECT max(v) FILTER (WHERE id > 1000), array_agg(id ORDER BY id) FILTER (WHERE v = 5) FROM ints

SELECT count((v, t)), count(*) - count(v) FROM ints

SELECT coalesce(sum(v), 0), coalesce(max(t), 'none') FROM ints WHERE id = -1

SELECT 1 FROM ints HAVING count(*) > 5

SELECT 'all' FROM ints HAVING max(v) < 0

SELECT sum(v) FROM ints WHERE v > (SELECT 3)

SELECT sum(v) FROM ints LIMIT 1

SELECT sum(v) FROM ints OFFSET 1

SELECT max(v + id), min(v * w), sum(length(t)) FROM ints

SELECT sum(CASE WHEN v > 4 THEN 1 ELSE 0 END), sum(v::numeric / 3) FROM ints

SELECT avg(v)::int, sum(v)::text || '!' FROM ints

SELECT sum(v::bigint), sum(v::numeric), sum(v::float8), sum(v::int2) FROM ints

SELECT avg(d), avg(v::float8) FROM words JOIN singles USING (id)

-- GROUP BY and HAVING.

SELECT v, count(*) FROM ints GROUP BY v

SELECT v, count(*) FROM ints GROUP BY v ORDER BY v

SELECT v, count(*) FROM ints GROUP BY v ORDER BY count(*) DESC, v

SELECT t, sum(v), avg(w), max(at) FROM ints GROUP BY t ORDER BY t NULLS FIRST

SELECT v + 1, count(*) FROM ints GROUP BY v + 1 ORDER BY 1

SELECT v + 1 AS n, sum(id) FROM ints GROUP BY n ORDER BY n DESC

SELECT v % 2, t IS NULL, count(*) FROM ints GROUP BY 1, 2 ORDER BY 1, 2

SELECT count(*) FROM ints GROUP BY v ORDER BY 1

SELECT count(*) FROM ints GROUP BY v + 1 ORDER BY v + 1

SELECT v FROM ints GROUP BY v ORDER BY sum(id), v

SELECT v, sum(id) FROM ints GROUP BY v HAVING sum(id) > 40 ORDER BY v

SELECT v FROM ints GROUP BY v HAVING count(*) > 2 AND max(t) IS NOT NULL ORDER BY v

SELECT v, count(*) FROM ints GROUP BY v HAVING v > 3 ORDER BY v

SELECT t, count(*) FROM ints GROUP BY t HAVING count(DISTINCT v) > 1 ORDER BY t

SELECT count(*) FROM ints GROUP BY t HAVING min(id) < 0

SELECT v, count(*) FROM ints WHERE t IS NOT NULL GROUP BY v ORDER BY 2 DESC, 1 LIMIT 3

SELECT v, count(*) FROM ints GROUP BY v ORDER BY v LIMIT 2 OFFSET 2

SELECT int_id, count(*), max(body) FROM notes GROUP BY int_id ORDER BY int_id

SELECT int_id, count(*) FROM notes GROUP BY int_id HAVING count(*) = 3 ORDER BY 1

SELECT body, count(*) FROM notes GROUP BY body ORDER BY body

SELECT kind, sum(mark), avg(mark), count(*) FROM marks GROUP BY kind ORDER BY kind

SELECT day, array_agg(v ORDER BY v) FROM dates GROUP BY day ORDER BY day

SELECT date_trunc('month', at) AS month, count(*) FROM ints GROUP BY month ORDER BY month

SELECT extract(dow FROM day), count(*) FROM dates GROUP BY 1 ORDER BY 1

SELECT a, b, sum(v) FROM pairs GROUP BY a, b ORDER BY a, b

SELECT a, sum(v) FROM pairs GROUP BY a ORDER BY sum(v) NULLS FIRST, a

SELECT f, sum(v), bool_or(v > 3) FROM bigs GROUP BY f ORDER BY f NULLS FIRST

SELECT lower(en), count(*) FROM words GROUP BY lower(en) ORDER BY lower(en)

SELECT d, count(*) FROM words GROUP BY d ORDER BY d

SELECT i, count(*) FROM words GROUP BY i ORDER BY i

SELECT b, count(*), max(small) FROM words GROUP BY b ORDER BY b

SELECT v, t, count(*) FROM ints GROUP BY GROUPING SETS ((v), (t), ()) ORDER BY v, t, 3

SELECT v, f, count(*), grouping(v, f) FROM bigs GROUP BY ROLLUP (v, f) ORDER BY v, f, 4

SELECT v, f, sum(v) FROM bigs GROUP BY CUBE (v, f) ORDER BY v, f, 3

SELECT sum(v) FROM ints GROUP BY ()

SELECT id, t FROM ints GROUP BY id, t ORDER BY id

!42803 SELECT id, t, count(*) FROM ints GROUP BY id ORDER BY id

SELECT t, count(*) FROM ints GROUP BY DISTINCT t ORDER BY t

SELECT max(total) FROM (SELECT v, sum(id) AS total FROM ints GROUP BY v) AS sums

SELECT v, string_agg(t, ',' ORDER BY id) FROM ints GROUP BY v ORDER BY v

SELECT v, array_agg(DISTINCT t ORDER BY t) FROM ints GROUP BY v ORDER BY v

SELECT v, stddev(id), variance(id) FROM ints GROUP BY v ORDER BY v

SELECT v, count(*) FILTER (WHERE id % 2 = 0) FROM ints GROUP BY v ORDER BY v

SELECT w, count(*) FROM ints GROUP BY w ORDER BY w DESC

SELECT a, count(*) FROM ints GROUP BY a ORDER BY a NULLS FIRST

SELECT a[1], count(*) FROM ints GROUP BY a[1] ORDER BY 1

SELECT v, count(*) FROM ints WHERE id > $1 GROUP BY v HAVING count(*) >= $2 ORDER BY v
    \bind int4 10 | int8 2
    \bind int4 1000 | int8 0

SELECT v, sum(id) FROM ints GROUP BY v ORDER BY sum(w) NULLS FIRST, v

-- Window functions.

SELECT id, row_number() OVER (ORDER BY id) FROM ints ORDER BY id

SELECT id, rank() OVER (ORDER BY v), dense_rank() OVER (ORDER BY v) FROM ints ORDER BY id

SELECT id, sum(v) OVER (PARTITION BY t ORDER BY id) FROM ints ORDER BY id

SELECT id, count(*) OVER () FROM ints ORDER BY id LIMIT 3

SELECT id, lag(v) OVER w, lead(v, 2, -1) OVER w FROM ints WINDOW w AS (ORDER BY id) ORDER BY id

SELECT id, first_value(id) OVER (PARTITION BY v ORDER BY id), last_value(id) OVER (PARTITION BY v ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM ints ORDER BY id

SELECT id, avg(v) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM ints ORDER BY id

SELECT id, ntile(4) OVER (ORDER BY id), percent_rank() OVER (ORDER BY id), cume_dist() OVER (ORDER BY id) FROM ints ORDER BY id

SELECT v, sum(count(*)) OVER (ORDER BY v) FROM ints GROUP BY v ORDER BY v

SELECT * FROM (SELECT id, v, row_number() OVER (PARTITION BY v ORDER BY id DESC) AS r FROM ints) AS x WHERE r = 1 ORDER BY id

SELECT int_id, n, row_number() OVER (PARTITION BY int_id ORDER BY n) FROM notes ORDER BY int_id, n

SELECT id, sum(v) OVER (ORDER BY v RANGE BETWEEN 1 PRECEDING AND CURRENT ROW) FROM ints WHERE v IS NOT NULL ORDER BY id

SELECT id, sum(v) OVER (ORDER BY v, id GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW) FROM ints ORDER BY id

SELECT id, max(v) FILTER (WHERE v < 5) OVER (ORDER BY id) FROM ints ORDER BY id

-- UNION, INTERSECT, EXCEPT.

SELECT v FROM ints UNION SELECT v FROM bigs ORDER BY v

SELECT v FROM ints UNION ALL SELECT v FROM bigs ORDER BY v

SELECT id FROM ints INTERSECT SELECT int_id FROM notes ORDER BY 1

SELECT id FROM ints EXCEPT SELECT int_id FROM notes ORDER BY 1

SELECT v FROM ints EXCEPT ALL SELECT v FROM bigs ORDER BY 1

SELECT v FROM ints INTERSECT ALL SELECT v FROM bigs ORDER BY 1

SELECT id FROM ints UNION SELECT id FROM bigs ORDER BY id LIMIT 7 OFFSET 3

(SELECT id FROM ints ORDER BY id LIMIT 2) UNION ALL (SELECT id FROM ints ORDER BY id DESC LIMIT 2) ORDER BY 1

SELECT t FROM ints UNION SELECT name FROM texts UNION SELECT code FROM kinds ORDER BY 1

SELECT id::text FROM ints WHERE id < 3 UNION SELECT name FROM texts ORDER BY 1

SELECT v, 'i' AS what FROM ints WHERE v = 5 UNION ALL SELECT v, 's' FROM singles ORDER BY 2, 1

SELECT code FROM kinds INTERSECT SELECT t FROM ints ORDER BY 1

SELECT 1 AS id UNION SELECT id FROM ints ORDER BY id DESC LIMIT 4

SELECT count(*) FROM (SELECT v FROM ints UNION SELECT v FROM singles) AS u

-- Joins on the key and off it.

SELECT i.id, n.n FROM ints i JOIN notes n ON n.int_id = i.id ORDER BY 1, 2

SELECT i.id, count(n.n) FROM ints i LEFT JOIN notes n ON n.int_id = i.id GROUP BY i.id ORDER BY 1

SELECT i.id, n.n, m.mark FROM ints i JOIN notes n ON n.int_id = i.id JOIN marks m ON m.int_id = i.id ORDER BY 1, 2, 3

SELECT n.int_id, n.n FROM ints i RIGHT JOIN notes n ON n.int_id = i.id WHERE i.id IS NULL ORDER BY 1, 2

SELECT i.id, n.int_id FROM ints i FULL JOIN notes n ON n.int_id = i.id ORDER BY 1, 2, n.n

SELECT i.id, b.id FROM ints i JOIN bigs b ON b.v = i.v ORDER BY 1, 2

SELECT i.id, b.id FROM ints i JOIN bigs b ON b.id = i.id ORDER BY 1

SELECT i.id, b.id FROM ints i LEFT JOIN bigs b ON b.v = i.v AND b.id > 100 ORDER BY 1, 2

SELECT i.id, x.name FROM ints i JOIN texts x ON x.name = i.t ORDER BY 1, 2

SELECT a.id, b.id FROM ints a JOIN ints b ON b.id = a.id + 1 ORDER BY 1

SELECT a.id, b.id FROM ints a, ints b WHERE a.v = b.v AND a.id < b.id ORDER BY 1, 2

SELECT i.id, k.code, p.name FROM ints i LEFT JOIN kinds k ON k.code = i.t LEFT JOIN places p ON p.id = i.v ORDER BY 1

SELECT k.code, count(i.id) FROM kinds k LEFT JOIN ints i ON i.t = k.code GROUP BY k.code ORDER BY 1

SELECT s.id, i.v FROM singles s JOIN ints i ON i.id = s.id ORDER BY 1

SELECT s.id, i.id FROM singles s LEFT JOIN ints i ON i.v = s.v ORDER BY 1, 2

SELECT * FROM ints NATURAL JOIN singles ORDER BY id

SELECT id, i.v, s.v FROM ints i JOIN singles s USING (id) ORDER BY id

SELECT count(*) FROM ints, bigs

SELECT count(*) FROM notes a JOIN notes b USING (int_id)

SELECT p.a, i.id FROM pairs p JOIN ints i ON i.id = p.a ORDER BY 1, 2, p.b

SELECT u.v, d.day FROM uuids u JOIN dates d ON d.v = u.v ORDER BY 1, 2

SELECT n.n, i.id FROM numbers n JOIN ints i ON i.id = n.n ORDER BY 1, 2

-- LATERAL, sub-queries, CTEs.

SELECT i.id, x.n FROM ints i, LATERAL (SELECT n.n FROM notes n WHERE n.int_id = i.id ORDER BY n.n DESC LIMIT 1) AS x ORDER BY 1

SELECT i.id, x.c FROM ints i LEFT JOIN LATERAL (SELECT count(*) AS c FROM bigs b WHERE b.v = i.v) AS x ON true ORDER BY 1

SELECT i.id, e FROM ints i, LATERAL unnest(i.a) AS e ORDER BY 1, 2

SELECT i.id, g FROM ints i, generate_series(1, i.v) AS g WHERE i.id < 6 ORDER BY 1, 2

SELECT id FROM ints i WHERE EXISTS (SELECT FROM notes n WHERE n.int_id = i.id) ORDER BY id

SELECT id FROM ints i WHERE NOT EXISTS (SELECT FROM bigs b WHERE b.v = i.v) ORDER BY id

SELECT id FROM ints WHERE v IN (SELECT weight FROM kinds) ORDER BY id

SELECT id FROM ints WHERE id IN (SELECT id FROM bigs) ORDER BY id

SELECT id FROM ints WHERE v NOT IN (SELECT v FROM singles WHERE v IS NOT NULL) ORDER BY id

SELECT id FROM ints WHERE v NOT IN (SELECT v FROM singles) ORDER BY id

SELECT id FROM ints WHERE v > ALL (SELECT v FROM bigs WHERE v < 5) ORDER BY id

SELECT id FROM ints WHERE v = ANY (SELECT v FROM uuids) ORDER BY id

SELECT id, (SELECT max(v) FROM bigs) FROM ints ORDER BY id LIMIT 3

SELECT id, (SELECT count(*) FROM notes n WHERE n.int_id = i.id) FROM ints i ORDER BY id

SELECT id FROM ints WHERE v = (SELECT max(v) FROM ints) ORDER BY id

SELECT id FROM ints WHERE v > (SELECT avg(v) FROM ints) ORDER BY id

SELECT (SELECT v FROM ints)

SELECT ARRAY(SELECT id FROM ints WHERE v = 5 ORDER BY id)

SELECT id FROM ints i WHERE (i.v, i.id) IN (SELECT v, max(id) FROM ints GROUP BY v) ORDER BY id

SELECT x.v, count(*) FROM (SELECT v FROM ints WHERE id > 3) AS x GROUP BY x.v ORDER BY 1

SELECT max(c) FROM (SELECT count(*) AS c FROM notes GROUP BY int_id) AS x

SELECT * FROM (SELECT id, v FROM ints ORDER BY id DESC LIMIT 3) AS x ORDER BY id

SELECT exists(SELECT FROM ints WHERE v = 1000), exists(SELECT FROM ints WHERE v = 5)

WITH c AS (SELECT v, count(*) AS n FROM ints GROUP BY v) SELECT * FROM c WHERE n > 2 ORDER BY v

WITH c AS MATERIALIZED (SELECT * FROM ints), d AS (SELECT max(v) AS m FROM c) SELECT c.id FROM c, d WHERE c.v = d.m ORDER BY 1

WITH c AS (SELECT id FROM ints WHERE v > 4) SELECT n.int_id, n.n FROM notes n JOIN c ON c.id = n.int_id ORDER BY 1, 2

WITH RECURSIVE chain AS (SELECT id, v, 1 AS depth FROM ints WHERE id = 1 UNION ALL SELECT i.id, i.v, c.depth + 1 FROM ints i JOIN chain c ON i.id = c.id + 1 WHERE c.depth < 5) SELECT * FROM chain ORDER BY depth

WITH RECURSIVE t AS (SELECT id FROM ints WHERE id = 3 UNION SELECT n.int_id FROM notes n, t WHERE n.int_id = t.id) SELECT id FROM t

WITH a AS (SELECT 1 AS x), b AS (SELECT x + 1 AS y FROM a) SELECT x, y FROM a, b

WITH ints AS (SELECT 5 AS id) SELECT id FROM ints

SELECT id FROM (SELECT id FROM ints WHERE id = 3 UNION ALL SELECT id FROM bigs WHERE id = 3) AS x

-- Expressions: time, JSON, arrays, casts, CASE.

SELECT id, at + interval '1 month', at - interval '36 hours' FROM ints ORDER BY id

SELECT id, at AT TIME ZONE 'Europe/Berlin', at AT TIME ZONE 'UTC' FROM ints ORDER BY id

SELECT id, at::date, extract(epoch FROM at), extract(year FROM at) FROM ints ORDER BY id

SELECT id, max(at) OVER () - at FROM ints ORDER BY id

SELECT id, date_trunc('day', at), age(at, '2024-01-01 00:00:00+00') FROM ints ORDER BY id

SELECT id, ts + i, ts::date, ts < '2024-01-01' FROM words ORDER BY id

SELECT id FROM ints WHERE at BETWEEN '2024-03-01 00:00:00+00' AND '2024-09-01 00:00:00+00' ORDER BY at DESC, id

SELECT day, day + 7, to_char(day, 'YYYY-MM-DD') FROM dates ORDER BY day, v

SELECT id, j->'a', j->>'s', j#>>'{b,c,0}', j->'missing' FROM ints ORDER BY id

SELECT id, j ? 'a', j @> '{"a": 2}', jsonb_typeof(j->'b') FROM ints ORDER BY id

SELECT id, j || '{"z": 1}', j - 'b' FROM ints ORDER BY id

SELECT id, e FROM ints, jsonb_array_elements(j->'b'->'c') AS e ORDER BY id, e

SELECT j->>'s', sum((j->>'a')::int) FROM ints GROUP BY 1 ORDER BY 1

SELECT jsonb_path_query_first(j, '$.b.c[1]') FROM ints ORDER BY id

SELECT id, a[1], array_length(a, 1), a || 9, 1 = ANY (a), cardinality(a) FROM ints ORDER BY id

SELECT id, array_to_string(a, ',', '*'), a @> ARRAY[1], a[2:3] FROM ints ORDER BY id

SELECT id FROM ints ORDER BY a NULLS LAST, id

SELECT e, count(*) FROM ints, unnest(a) AS e GROUP BY e ORDER BY e

SELECT id, v::text, w::int, t::varchar(2), (v > 3)::int, id::numeric(10,2) FROM ints ORDER BY id

SELECT id, CASE WHEN v > 5 THEN 'high' WHEN v > 2 THEN 'middle' ELSE 'low' END FROM ints ORDER BY id

SELECT id, CASE v WHEN 5 THEN 'five' END, coalesce(t, 'none'), nullif(v, 5), greatest(v, id, NULL), least(v, 3) FROM ints ORDER BY id

SELECT id, t LIKE 'a%', t ~ '^[a-z]', t ILIKE 'A', t SIMILAR TO '(a|b)' FROM ints ORDER BY id

SELECT id, upper(t), length(t), substr(t, 2), t || '-' || id, md5(t), reverse(t) FROM ints ORDER BY id

SELECT id, v IS DISTINCT FROM 5, v IS NULL, (v, t) IS NOT NULL FROM ints ORDER BY id

SELECT id, w + 1, w * w, round(w, 1), w / 3, w % 2, -w, abs(w) FROM ints ORDER BY id

SELECT id, encode(b, 'hex'), length(b), d::text, d / 3 FROM words ORDER BY id

SELECT id, format('%s-%L-%I', id, t, 'X y') FROM ints ORDER BY id

SELECT ROW(id, v, t) FROM ints ORDER BY id

SELECT i FROM ints i ORDER BY id

SELECT (i).v FROM (SELECT i FROM ints i) AS x ORDER BY 1

SELECT i.* FROM ints AS i (key, value) ORDER BY i.key

SELECT to_jsonb(i) FROM ints i ORDER BY id

SELECT n.int_id % 3, n.body FROM notes n ORDER BY 1, n.int_id, n.n

-- Errors.

SELECT nothing FROM ints

SELECT nothing FROM ints WHERE id = 3

SELECT id FROM ints WHERE t = 5

SELECT v / 0 FROM ints

SELECT v / (id - 3) FROM ints WHERE id = 3

SELECT id / (v - 5) FROM ints ORDER BY id

SELECT 1 / 0

SELECT 'x'::int

SELECT t::int FROM ints ORDER BY id

SELECT v FROM ints GROUP BY t

SELECT sum(t) FROM ints

SELECT no_such_function(v) FROM ints

SELECT sum(v) FROM ints WHERE sum(v) > 1

SELECT id FROM ints UNION SELECT t FROM ints

SELECT * FROM ints ORDER BY 99

SELECT id FROM ints LIMIT 'x'

SELECT FROM WHERE

SELECT

SELECT id FROM ints WHERE id = 'x'

SELECT id FROM ints WHERE id = $1
    \bind text x

SELECT * FROM generate_series(1, 3) AS ints WHERE ints = 2

SELECT sum(id) FROM bigs HAVING sum(nothing) > 1

SELECT id::int FROM bigs ORDER BY id

SELECT sum(id)::bigint FROM bigs WHERE id > 9000000000 OR id = 9000000000

SELECT count(*) FROM no_such_table_of_the_system WHERE false

-- EXPLAIN: that it is answered, not what.

EXPLAIN SELECT * FROM ints WHERE id = 3

EXPLAIN (COSTS off) SELECT count(*) FROM ints

EXPLAIN SELECT nothing FROM ints

EXPLAIN ANALYZE SELECT v FROM ints WHERE id = 7

-- Cursors and transactions that read.

BEGIN
DECLARE c CURSOR FOR SELECT id, t FROM ints WHERE id = 7
FETCH 5 FROM c
CLOSE c
COMMIT

BEGIN
DECLARE c SCROLL CURSOR FOR SELECT n, body FROM notes WHERE int_id = 3 ORDER BY n
FETCH NEXT FROM c
FETCH ALL FROM c
FETCH BACKWARD 1 FROM c
MOVE FIRST FROM c
FETCH 1 FROM c
COMMIT

BEGIN
DECLARE c CURSOR FOR SELECT id FROM ints ORDER BY id
FETCH 3 FROM c
FETCH 2 FROM c
COMMIT

BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY
SELECT count(*) FROM ints
SELECT v FROM ints WHERE id = 4
SELECT v FROM ints WHERE id = 5
SELECT sum(v) FROM bigs
COMMIT

BEGIN
SELECT v FROM ints WHERE id = 1
SELECT 1 / 0
SELECT v FROM ints WHERE id = 2
ROLLBACK

BEGIN
SAVEPOINT s
SELECT v / 0 FROM ints WHERE id = 3
ROLLBACK TO s
SELECT v FROM ints WHERE id = 4
RELEASE s
COMMIT

FETCH 1 FROM no_such_cursor

COMMIT

-- SQL's own prepared statements.

PREPARE p (int) AS SELECT v FROM ints WHERE id = $1
EXECUTE p (7)
DEALLOCATE p

PREPARE q AS SELECT 1 + 1
EXECUTE q
DEALLOCATE q

EXECUTE no_such_statement

-- Settings change what a statement means.

SET TIME ZONE 'America/New_York'
SELECT id, at, at::date FROM ints ORDER BY id
SELECT max(at)::text FROM ints
SELECT at FROM ints WHERE id = 5
SET TIME ZONE 'UTC'

SET DateStyle = 'SQL, DMY'
SELECT day FROM dates ORDER BY day DESC, v LIMIT 2
SELECT at FROM ints WHERE id = 6
RESET DateStyle

SET extra_float_digits = 0
SELECT id, d / 3 FROM words ORDER BY id
RESET extra_float_digits

SET bytea_output = 'escape'
SELECT id, b FROM words ORDER BY id
RESET bytea_output

SET intervalstyle = 'iso_8601'
SELECT id, i FROM words ORDER BY id
RESET intervalstyle
