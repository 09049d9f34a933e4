// What users of rqlite-js do, unmodified from npm, with all nodes as hosts; the leader dies in the middle.
'use strict'
const assert = require('assert')
const fs = require('fs')
const http = require('http')
const { DataApiClient, BackupApiClient, StatusApiClient } = require('rqlite-js')

setTimeout(() => { throw new Error('120 s have passed') }, 120000).unref()
const hosts = process.argv.slice(2).map(port => `http://127.0.0.1:${port}`)
const options = { httpAgent: new http.Agent({ keepAlive: true }) }
const data = new DataApiClient(hosts, options)
const backups = new BackupApiClient(hosts, options)
const status = new StatusApiClient(hosts, options)

async function run (call) {
  const results = await call
  assert.ifError(results.getFirstError())
  return results
}

function bytes (stream) {
  return new Promise((resolve, reject) => {
    const pieces = []
    stream.on('data', piece => pieces.push(piece)).on('error', reject).on('end', () => resolve(Buffer.concat(pieces)))
  })
}

async function main () {
  for (const { response } of await status.statusAllHosts()) {
    assert.strictEqual(response.body.store.ready, true)
    for (const name of ['build', 'http', 'node', 'runtime', 'store']) assert.ok(response.body[name], name)
  }
  await run(data.execute('CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)'))
  let results = await run(data.execute([['INSERT INTO t(name) VALUES(?)', 'fiona\'s ? \u{1f600}']]))
  assert.deepStrictEqual([results.get(0).getRowsAffected(), results.get(0).getLastInsertId()], [1, 1])
  const many = Array.from({ length: 100 }, (_, count) => `INSERT INTO t(name) VALUES("n-${count}")`)
  results = await run(data.execute(many, { transaction: true }))
  assert.strictEqual(results.get(99).getLastInsertId(), 101)
  results = await data.execute('INSERT INTO t(name) VALUES("n-1")')
  assert.match(results.getFirstError().message, /UNIQUE/)
  for (const level of ['none', 'weak', 'strong']) {
    results = await run(data.query(['SELECT name FROM t WHERE id = 1', 'SELECT count(*) AS total FROM t'], { level }))
    if (level !== 'none') {
      assert.strictEqual(results.get(0).get('name'), 'fiona\'s ? \u{1f600}')
      assert.strictEqual(results.get(1).get('total'), 101)
    }
  }

  console.log('kill the leader')
  fs.readSync(0, Buffer.alloc(1))
  // Writes go to the host that was last found to lead, reads to each host in turn: some of both to the dead one.
  for (let count = 0; count < 12; count++) {
    await run(data.execute(`INSERT INTO t(name) VALUES("after ${count}")`))
    results = await run(data.query('SELECT count(*) AS total FROM t', { level: 'strong' }))
    assert.strictEqual(results.get(0).get('total'), 102 + count)
  }

  const dump = (await bytes(await backups.backup('sql'))).toString()
  assert.match(dump, /CREATE TABLE t/)
  await run(data.execute('DROP TABLE t'))
  await bytes(await backups.load(Buffer.from(dump)))
  results = await run(data.query('SELECT count(*) AS total FROM t', { level: 'strong' }))
  assert.strictEqual(results.get(0).get('total'), 113)
  console.log('done')
}

main().catch(error => { console.error(error.stack); process.exit(1) })
