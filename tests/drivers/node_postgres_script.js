// node-postgres's ordinary features, as a transcript: node node_postgres_script.js CONNINFO SCHEMA [STEP].
//
// Run by run.py, once on a direct connection and once through the proxy. One JSON line per step; the
// shape and the normalisation are those of transcript.py. Every step has a connection of its own and
// reads only its own writes or what `setup` made before its last DDL.
'use strict'

const crypto = require('crypto')
const { Client, Pool, types } = require('pg')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')

const [conninfo, SCHEMA, only] = process.argv.slice(2)
const STEP_TIMEOUT = 30000 // milliseconds
const LONG = 1200
const FIRST_USER_OID = 16384
const steps = []

const step = (name, body) => steps.push({ name, body })
const oid = (number) => (number >= FIRST_USER_OID ? 'user' : number)
const sha256 = (text) => crypto.createHash('sha256').update(text).digest('hex')

function clip(value) {
  if (typeof value === 'string' && value.length > LONG) {
    return { length: value.length, sha256: sha256(value), head: value.slice(0, 60), tail: value.slice(-60) }
  }
  return value
}

// A value with its type, so that 1, '1' and true differ.
function typed(value) {
  if (value === null || value === undefined) return null
  if (Buffer.isBuffer(value)) return ['Buffer', clip(value.toString('hex'))]
  if (value instanceof Date) return ['Date', isNaN(value) ? 'invalid' : value.toISOString()]
  if (Array.isArray(value)) return ['Array', value.map(typed)]
  if (typeof value === 'number') return ['number', String(value)]
  if (typeof value === 'object') {
    return [value.constructor ? value.constructor.name : 'Object', Object.fromEntries(Object.entries(value).map(([k, v]) => [k, typed(v)]))]
  }
  return [typeof value, clip(String(value))]
}

function digest(rows) {
  const hash = crypto.createHash('sha256')
  for (const row of rows) hash.update(JSON.stringify(typed(row)))
  return { count: rows.length, sha256: hash.digest('hex'), first: typed(rows[0]), last: typed(rows[rows.length - 1]) }
}

const ERROR_FIELDS = ['severity', 'code', 'detail', 'hint', 'position', 'internalPosition', 'internalQuery', 'where', 'schema', 'table', 'column', 'dataType', 'constraint', 'file', 'line', 'routine']

function errorFields(error) {
  const fields = { type: error.constructor.name, message: clip(error.message) }
  for (const name of ERROR_FIELDS) if (error[name] !== undefined) fields[name] = clip(error[name])
  return fields
}

class Step {
  constructor(name) {
    this.name = name
    this.events = []
  }

  note(event, value, fields = {}) {
    this.events.push({ event, ...(value === undefined ? {} : { value: clip(value) }), ...fields })
  }

  emit() {
    process.stdout.write(JSON.stringify({ step: this.name, events: this.events }) + '\n')
  }
}

function recordResult(t, what, result, summarise) {
  for (const one of Array.isArray(result) ? result : [result]) {
    t.note('result', undefined, {
      what: clip(what),
      command: one.command,
      rowCount: one.rowCount,
      columns: (one.fields || []).map((f) => [f.name, oid(f.dataTypeID), f.dataTypeSize, f.dataTypeModifier, f.columnID, f.format]),
      rows: summarise ? digest(one.rows) : one.rows.map(typed),
    })
  }
}

// A connected client whose notices go to the step's record, and a `run` that records what came back.
async function connect(t, options = {}) {
  const { searchPath = SCHEMA, ...rest } = options
  const client = new Client({ connectionString: conninfo, ...rest })
  client.on('notice', (notice) => t.note('notice', undefined, { fields: errorFields(notice) }))
  client.on('error', (error) => t.note('connection error', undefined, { fields: errorFields(error) }))
  await client.connect()
  if (searchPath) await client.query(`SET search_path TO ${searchPath}`)
  client.run = async (query, values, { summarise = false } = {}) => {
    const what = typeof query === 'string' ? query : JSON.stringify(query)
    try {
      const result = await client.query(query, values)
      recordResult(t, what, result, summarise)
      return result
    } catch (error) {
      t.note('error', undefined, { what: clip(what), fields: errorFields(error) })
    }
  }
  return client
}

async function withClient(t, options, body) {
  const client = await connect(t, options)
  try {
    await body(client)
  } finally {
    await client.end()
  }
}

step('setup', (t) =>
  withClient(t, { searchPath: null }, async (c) => {
    await c.run(`CREATE SCHEMA ${SCHEMA}`)
    await c.run(`SET search_path TO ${SCHEMA}`)
    await c.run("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE TYPE point2 AS (x int4, label text)")
    await c.run('CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric(10,2), mood mood)')
    await c.run("INSERT INTO items SELECT i, 'item ' || i, i * 1.25, 'ok' FROM generate_series(1, 1000) i")
    // The last statement is DDL, so that every later session reads behind all of it.
    await c.run('CREATE VIEW cheap AS SELECT id, name FROM items WHERE price < 10')
  }))

step('simple_and_extended_queries', (t) =>
  withClient(t, {}, async (c) => {
    await c.run("SELECT 1 AS one, 'two' AS two, NULL AS nothing, 3.50::numeric AS three")
    await c.run('SELECT * FROM items WHERE id <= $1 ORDER BY id', [4])
    await c.run({ text: 'SELECT id, name FROM items WHERE id = $1', values: [4], rowMode: 'array' })
    await c.run('SELECT')
    await c.run('SELECT FROM generate_series(1, 3)')
    await c.run('SELECT id FROM items WHERE false')
    for (const query of ['', ';', '-- comment']) {
      await c.run(query)
      await c.run(query, [])
    }
    await c.run('SELECT 1 AS a; SELECT 2 AS b; SELECT 3 AS c')
    await c.run('CREATE TABLE multi (id int); INSERT INTO multi VALUES (1), (2); SELECT count(*) FROM multi')
    await c.run('INSERT INTO multi VALUES (3); SELECT 1/0; INSERT INTO multi VALUES (4)')
    await c.run('SELECT * FROM multi ORDER BY id')
    await c.run('SELECT $1::int; SELECT 2', [1])
    await c.run('SELECT $1::int', ['not an int'])
    await c.run('SELECT $1::int', [])
    await c.run('SELECT $1::int', [1, 2])
    const wide = Array.from({ length: 30000 }, (_, n) => n)
    await c.run(`SELECT count(*), sum(id) FROM items WHERE id IN (${wide.join(', ')})`)
    await c.run('SELECT count(*) FROM items WHERE id = ANY($1::int[])', [wide])
    await c.run('SELECT ' + wide.slice(0, 300).map((n) => `${n} AS column_${n}`).join(', '))
    await c.run('SELECT length($1::text)', ['x'.repeat(5000000)])
  }))

const VALUES = [
  ['int2', -32768], ['int4', 2147483647], ['int8', '9223372036854775807'], ['float4', 1.5], ['float8', 0.1], ['float8', NaN],
  ['numeric', '12345678901234567890.123456789'], ['text', ''], ['text', 'naïve café 日本語 🐘 \t\n\'"\\'], ['varchar(5)', 'abcdefgh'],
  ['char(6)', 'abc'], ['bytea', Buffer.from([0, 1, 254, 255])], ['bool', true], ['uuid', '12345678-1234-5678-1234-567812345678'],
  ['json', { b: [1, null] }], ['jsonb', { b: [1, null], a: 'é' }], ['int4[]', [1, null, 3]], ['int4[]', [[1, 2], [3, 4]]],
  ['text[]', ['a', null, 'q"uote', '{,}']], ['date', '2024-02-29'], ['timestamp', '2024-02-29 12:00:00.000001'],
  ['timestamptz', new Date(Date.UTC(2024, 1, 29, 12))], ['interval', '3 days 00:00:05'], ['time', '23:59:59.999999'], ['inet', '192.168.1.7/24'],
  ['point', '(1,2)'], ['int4range', '[1,5)'], ['mood', 'happy'], ['mood[]', '{sad,ok}'], ['point2', '(1,one)'], ['money', '12.34'], ['bit(4)', '1010'],
]

step('types', (t) =>
  withClient(t, {}, async (c) => {
    await c.run("SET TIME ZONE 'UTC'")
    for (const [name, value] of VALUES) {
      await c.run(`SELECT $1::${name} AS v`, [value])
      await c.run(`SELECT $1::${name} AS v`, [null])
      // node-postgres decodes only some binary types; the raw bytes are what is compared.
      if (name === 'mood[]') continue // its binary form has the type's OID in it
      await c.run({ text: `SELECT $1::${name} AS v`, values: [value], binary: true, types: { getTypeParser: () => (raw) => raw } })
    }
    await c.run("SELECT ROW(1, 'x', NULL), i FROM items i WHERE id = 7")
    for (const [name, value] of [['int2', 70000], ['mood', 'angry'], ['text', 'nul \0'], ['json', '{'], ['int4[]', '{1,'], ['uuid', 'x'], ['date', '2024-02-30']]) {
      await c.run(`SELECT $1::${name} AS v`, [value])
    }
    t.note('parsers', types.getTypeParser(20)('9007199254740993'))
  }))

step('named_prepared_statements', (t) =>
  withClient(t, {}, async (c) => {
    for (let n = 0; n < 12; n++) await c.run({ name: 'find', text: 'SELECT id, name FROM items WHERE id = $1', values: [n] })
    await c.run({ name: 'find', text: 'SELECT 2', values: [] })
    await c.run({ name: 'bad', text: 'SELEC 1' })
    await c.run({ name: 'bad', text: 'SELECT $1::int AS works_now', values: [1] })
    await c.run({ name: 'bad', text: 'SELECT $1::int AS works_now', values: ['x'] })
    await c.run({ name: 'missing', text: 'SELECT * FROM no_such_table' })
    await c.run('DEALLOCATE find')
    await c.run({ name: 'find', text: 'SELECT id, name FROM items WHERE id = $1', values: [1] })
    await c.run('CREATE TABLE shape (id int, a text)')
    await c.run("INSERT INTO shape VALUES (1, 'x')")
    for (let n = 0; n < 7; n++) await c.run({ name: 'star', text: 'SELECT * FROM shape WHERE id = $1', values: [1] })
    await c.run('ALTER TABLE shape ADD COLUMN b int DEFAULT 5')
    await c.run({ name: 'star', text: 'SELECT * FROM shape WHERE id = $1', values: [1] })
    await c.run('DISCARD ALL')
    await c.run({ name: 'star', text: 'SELECT * FROM shape WHERE id = $1', values: [1] })
    await c.run('SELECT 1')
  }))

step('queued_queries', (t) =>
  withClient(t, {}, async (c) => {
    await c.run('CREATE TABLE queued (id int PRIMARY KEY)')
    const pending = []
    for (let n = 0; n < 50; n++) {
      pending.push(c.query('INSERT INTO queued VALUES ($1) RETURNING id', [n % 40]))
      pending.push(c.query('SELECT count(*)::int AS n FROM queued'))
      pending.push(c.query(`SELECT ${n} AS n`))
    }
    for (const outcome of await Promise.allSettled(pending)) {
      if (outcome.status === 'fulfilled') t.note('rows', outcome.value.rows)
      else t.note('error', undefined, { fields: errorFields(outcome.reason) })
    }
  }))

step('transactions', (t) =>
  withClient(t, {}, async (c) => {
    for (const text of [
      'CREATE TABLE tx (id int PRIMARY KEY)', 'BEGIN', 'INSERT INTO tx VALUES (1)', 'COMMIT', 'BEGIN', 'INSERT INTO tx VALUES (2)', 'SELECT * FROM tx ORDER BY id',
      'ROLLBACK', 'SELECT * FROM tx', 'BEGIN', 'SELECT 1/0', "SELECT 'refused'", 'COMMIT', 'BEGIN', 'SAVEPOINT a', 'INSERT INTO tx VALUES (1)', 'ROLLBACK TO a',
      'INSERT INTO tx VALUES (3)', 'RELEASE a', 'COMMIT', 'SELECT * FROM tx ORDER BY id', 'COMMIT', 'BEGIN READ ONLY', 'SELECT count(*) FROM items',
      'INSERT INTO tx VALUES (4)', 'ROLLBACK', 'BEGIN ISOLATION LEVEL SERIALIZABLE', 'SHOW transaction_isolation', 'INSERT INTO tx VALUES (5)', 'COMMIT',
      'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY', 'SHOW transaction_isolation', 'SELECT count(*) FROM items', 'COMMIT',
      'CREATE TABLE child (r int REFERENCES tx DEFERRABLE INITIALLY DEFERRED)', 'BEGIN', 'INSERT INTO child VALUES (77)', 'COMMIT', 'SELECT count(*) FROM child',
    ]) await c.run(text)
    await c.run('BEGIN')
    await c.run('SELECT $1::int', ['x'])
    await c.run('SELECT $1::int', [1])
    await c.run('ROLLBACK')
  }))

step('session_state', (t) =>
  withClient(t, { application_name: 'from startup', statement_timeout: 25000 }, async (c) => {
    for (const text of [
      'SHOW application_name', 'SHOW statement_timeout', "SET work_mem = '7MB'", 'SHOW work_mem', 'RESET work_mem', 'SHOW work_mem', 'BEGIN', "SET LOCAL work_mem = '8MB'",
      'SHOW work_mem', 'COMMIT', 'SHOW work_mem', 'BEGIN', "SET work_mem = '9MB'", 'ROLLBACK', 'SHOW work_mem', "SET TIME ZONE 'Asia/Tokyo'",
      "SELECT '2024-07-01 12:00+00'::timestamptz::text AS v", "SET DateStyle = 'SQL, DMY'", "SELECT '2024-07-01'::date::text AS v", 'RESET ALL', 'SHOW TimeZone',
      'SHOW application_name', 'SELECT count(*) FROM cheap', 'SET no_such_setting = 1', 'CREATE TEMP TABLE tmp (id int)', 'INSERT INTO tmp VALUES (1)', 'DISCARD ALL',
      'SELECT * FROM tmp', 'SHOW search_path', 'SHOW statement_timeout',
    ]) await c.run(text)
    await c.run(`SET search_path TO ${SCHEMA}`)
    for (const text of ['CREATE SEQUENCE seq', "SELECT nextval('seq')", "SELECT currval('seq'), lastval()", 'SELECT pg_advisory_lock(99)', 'SELECT pg_advisory_unlock(99)',
      'SELECT pg_advisory_unlock(99)']) await c.run(text)
  }))

step('startup_options', async (t) => {
  await withClient(t, { searchPath: null, options: `-c search_path=${SCHEMA} -c work_mem=6MB` }, async (c) => {
    await c.run('SHOW work_mem')
    await c.run('SELECT count(*) FROM items')
    await c.run('RESET ALL')
    await c.run('SHOW work_mem')
    await c.run('SHOW search_path')
  })
})

step('cursors', (t) =>
  withClient(t, {}, async (c) => {
    const cursor = c.query(new Cursor('SELECT id FROM items WHERE id > $1 ORDER BY id', [5]))
    t.note('read', (await cursor.read(3)).map(typed))
    t.note('read', (await cursor.read(2)).map(typed))
    await cursor.close()
    await c.run("SELECT 'after close' AS v")
    const whole = c.query(new Cursor('SELECT i FROM generate_series(1, 10) i'))
    for (let n = 0; n < 5; n++) t.note('read', (await whole.read(4)).map(typed))
    await whole.close()
    await c.run('BEGIN')
    const inside = c.query(new Cursor('SELECT id FROM items ORDER BY id'))
    t.note('read', (await inside.read(5)).map(typed))
    await inside.close()
    await c.run('COMMIT')
    const failing = c.query(new Cursor('SELECT 10 / (7 - i) AS v FROM generate_series(1, 9) i'))
    try {
      for (let n = 0; n < 4; n++) t.note('read', (await failing.read(3)).map(typed))
    } catch (error) {
      t.note('error', undefined, { fields: errorFields(error) })
    }
    await c.run('SELECT 1 AS after')
    const broken = c.query(new Cursor('SELEC'))
    try {
      await broken.read(1)
    } catch (error) {
      t.note('error', undefined, { fields: errorFields(error) })
    }
    await c.run('SELECT 1 AS after')
    for (const text of ['DECLARE held CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY id', 'FETCH 2 FROM held', 'FETCH 2 FROM held', 'CLOSE held', 'FETCH held']) await c.run(text)
  }))

step('streams', (t) =>
  withClient(t, {}, async (c) => {
    const rows = []
    for await (const row of c.query(new QueryStream("SELECT i, repeat('x', i % 50) AS v FROM generate_series(1, 30000) i", [], { batchSize: 500 }))) rows.push(row)
    t.note('streamed', digest(rows))
    let count = 0
    for await (const row of c.query(new QueryStream('SELECT i FROM generate_series(1, 3000000) i', [], { batchSize: 10 }))) {
      count += 1
      if (row.i === 25) break
    }
    t.note('early close', count)
    await c.run('SELECT 1 AS after')
  }))

step('large_results', (t) =>
  withClient(t, {}, async (c) => {
    await c.run('SELECT i AS id, repeat(chr(97 + i % 26), i % 100) AS v FROM generate_series(1, 100000) i', undefined, { summarise: true })
    await c.run('SELECT i AS id FROM generate_series($1::int, 100000) i', [1], { summarise: true })
    await c.run("SELECT repeat('0123456789', 500000) AS v")
    await c.run('SELECT 100 / (50000 - i) FROM generate_series(1, 100000) i')
    await c.run('SELECT 1 AS after')
  }))

step('notices_and_notifications', async (t) => {
  const channel = `${SCHEMA}_channel`
  const listener = await connect(t)
  const sender = await connect(t)
  const heard = []
  let wake = () => {}
  listener.on('notification', (message) => {
    heard.push([message.channel, message.payload])
    wake()
  })
  const until = async (count) => {
    while (heard.length < count) await new Promise((resolve) => (wake = resolve))
    t.note('heard', heard.slice())
  }
  await listener.run("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful' USING DETAIL = 'd', HINT = 'h', ERRCODE = '01234'; END $$")
  await listener.run('DROP TABLE IF EXISTS never_was')
  await listener.run(`LISTEN ${channel}`)
  await listener.run(`NOTIFY ${channel}, 'to myself'`)
  await until(1)
  await sender.run('SELECT pg_notify($1, $2)', [channel, 'from another'])
  await sender.run(`BEGIN; NOTIFY ${channel}, 'one'; NOTIFY ${channel}, 'two'; COMMIT`)
  await until(4)
  await listener.run(`UNLISTEN ${channel}`)
  await sender.run(`NOTIFY ${channel}, 'nobody listens'`)
  await listener.run('SELECT 1')
  t.note('at the end', heard.length)
  await listener.end()
  await sender.end()
})

step('cancel_and_timeouts', (t) =>
  withClient(t, {}, async (c) => {
    // A request that comes before the server has begun stops nothing, so it is sent until there is an answer.
    const cancelling = setInterval(() => {
      // node-postgres's cancel: a second client sends the CancelRequest with this one's key.
      const canceller = new Client({ connectionString: conninfo })
      canceller.connection.on('error', () => {}) // the server closes without an answer
      canceller.connection.once('connect', () => canceller.connection.cancel(c.processID, c.secretKey))
      canceller.connection.connect(canceller.port, canceller.host)
    }, 500)
    await c.run('SELECT pg_sleep(20)')
    clearInterval(cancelling)
    await c.run("SELECT 'reused' AS connection")
    await c.run("SET statement_timeout = '200ms'")
    await c.run('SELECT pg_sleep(10)')
    await c.run('SELECT pg_sleep($1)', [10])
    await c.run('RESET statement_timeout')
    await c.run('SELECT pg_sleep(0.3)::text AS v')
  }))

step('writes_and_errors', (t) =>
  withClient(t, {}, async (c) => {
    await c.run("CREATE TABLE w (id int PRIMARY KEY, v text NOT NULL DEFAULT 'd', c int CONSTRAINT small CHECK (c < 10), r int REFERENCES w)")
    for (const text of [
      'INSERT INTO w (id) VALUES (1), (2) RETURNING *', 'INSERT INTO w (id) VALUES (1)', 'INSERT INTO w (id, v) VALUES (3, NULL)', 'INSERT INTO w (id, c) VALUES (3, 10)',
      'INSERT INTO w (id, r) VALUES (3, 99)', 'INSERT INTO w (id) VALUES (1) ON CONFLICT DO NOTHING', "INSERT INTO w (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET v = 'up' RETURNING *",
      "UPDATE w SET v = 'u' RETURNING id", 'WITH gone AS (DELETE FROM w WHERE id = 2 RETURNING id) SELECT * FROM gone', 'SELECT * FROM w FOR UPDATE', 'SELECT 1/0', 'SELEC 1',
      'SELECT * FROM no_such_table', 'SELECT idd FROM items', 'SELECT no_such_function(1)', "SELECT 'é', x FROM items", "SELECT 'abc'::int", 'COPY items TO STDOUT',
      'SELECT 10 / (id - 500) FROM items ORDER BY id', 'EXPLAIN (COSTS OFF) SELECT * FROM items WHERE id = 1', 'COPY w FROM STDIN',
    ]) {
      await c.run(text)
      await c.run(text, [])
    }
    await c.run('SELECT * FROM w')
  }))

step('read_after_write', (t) =>
  withClient(t, {}, async (c) => {
    await c.run('CREATE TABLE raw (id int)')
    const wrong = []
    for (let n = 1; n <= 200; n++) {
      await c.query('INSERT INTO raw VALUES ($1)', [n])
      const seen = (await c.query('SELECT count(*)::int AS n FROM raw')).rows[0].n
      if (seen !== n) wrong.push([n, seen])
    }
    t.note('stale reads', wrong)
  }))

step('connection_errors', async (t) => {
  for (const [what, change] of [['wrong password', (u) => (u.password = 'wrong')], ['no such user', (u) => (u.username = 'no_such_user')], ['no such database', (u) => (u.pathname = '/no_such_database')]]) {
    const url = new URL(conninfo)
    change(url)
    const client = new Client({ connectionString: url.toString() })
    client.on('error', () => {})
    try {
      await client.connect()
      t.note(what, 'connected')
      await client.end()
    } catch (error) {
      t.note('error', undefined, { what, fields: errorFields(error) })
    }
  }
})

step('pool_and_concurrency', async (t) => {
  const pool = new Pool({ connectionString: conninfo, max: 10 })
  const work = async (n) => {
    const client = await pool.connect()
    try {
      await client.query(`SET search_path TO ${SCHEMA}; SET my.worker = '${n}'; CREATE TABLE worker_${n} (id int)`)
      const seen = []
      for (let value = 0; value < 10; value++) {
        await client.query(`INSERT INTO worker_${n} VALUES ($1)`, [value])
        seen.push((await client.query(`SELECT count(*)::int AS n, current_setting('my.worker') AS w FROM worker_${n}`)).rows[0])
      }
      return seen
    } finally {
      client.release(true)
    }
  }
  t.note('workers', await Promise.all(Array.from({ length: 10 }, (_, n) => work(n))))
  // RESET leaves '' behind where a setting of no known module was never set: PostgreSQL cannot undo its definition.
  t.note('not leaked', (await pool.query("SELECT nullif(current_setting('my.worker', true), '') AS v")).rows)
  await pool.end()
})

step('teardown', (t) =>
  withClient(t, { searchPath: null }, async (c) => {
    await c.run("SET client_min_messages = warning; SET lock_timeout = '10s'")
    await c.run(`DROP SCHEMA ${SCHEMA} CASCADE`)
  }))

async function main() {
  for (const { name, body } of steps) {
    if (only && only !== name && name !== 'setup' && name !== 'teardown') continue
    const record = new Step(name)
    let timer
    const late = new Promise((resolve) => (timer = setTimeout(() => resolve('hung'), STEP_TIMEOUT)))
    const done = Promise.resolve()
      .then(() => body(record))
      .catch((error) => record.note('step raised', undefined, { fields: errorFields(error) }))
    if ((await Promise.race([done, late])) === 'hung') record.note('hung', STEP_TIMEOUT / 1000)
    clearTimeout(timer)
    record.emit()
  }
  // A hung step's connection must not hold the script; stdout is flushed first.
  process.stdout.write('', () => process.exit(0))
}

main()
