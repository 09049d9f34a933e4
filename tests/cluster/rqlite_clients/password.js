// rqlite-js with the password of a cluster, which it sends as HTTP Basic.
'use strict'
const assert = require('assert')
const { DataApiClient } = require('rqlite-js')

setTimeout(() => { throw new Error('60 s have passed') }, 60000).unref()
const [password, ...ports] = process.argv.slice(2)
const hosts = ports.map(port => `http://127.0.0.1:${port}`)

async function main () {
  const data = new DataApiClient(hosts, { authentication: { username: 'anybody', password } })
  const results = await data.query('SELECT 7 AS seven')
  assert.ifError(results.getFirstError())
  assert.strictEqual(results.get(0).get('seven'), 7)
  const anonymous = new DataApiClient(hosts)
  await assert.rejects(anonymous.query('SELECT 7 AS seven'), /401|Unauthorized/)
  console.log('done')
}

main().catch(error => { console.error(error); process.exit(1) })
