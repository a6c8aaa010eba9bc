-- Where the rows of each are: tables.toml.

CREATE TABLE ints (id int PRIMARY KEY, v int, w numeric(12,3), t text, j jsonb, a int[], at timestamptz)

CREATE TABLE notes (int_id int, n int, body text COLLATE "C", PRIMARY KEY (int_id, n))

CREATE TABLE marks (int_id int, mark numeric, kind text)

CREATE TABLE bigs (id bigint PRIMARY KEY, v int, f boolean)

CREATE TABLE texts (name text PRIMARY KEY, v int, u text)

CREATE TABLE uuids (id uuid PRIMARY KEY, v int, at timestamptz)

CREATE TABLE dates (day date, v int, t text, PRIMARY KEY (day, v))

CREATE TABLE numbers (n numeric(20,0) PRIMARY KEY, v int)

CREATE TABLE pairs (a int, b text, v int, PRIMARY KEY (a, b))

CREATE TABLE kinds (code text PRIMARY KEY, weight int)

CREATE TABLE places (id int PRIMARY KEY, name text)

CREATE TABLE singles (id int PRIMARY KEY, v int)

CREATE TABLE words (id bigint PRIMARY KEY, en text COLLATE "en-x-icu", de text COLLATE "de-x-icu", c text COLLATE "C", d float8, i interval, b bytea, ts timestamp, k char(3), small int2)
