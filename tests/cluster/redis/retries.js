// ioredis as docs/redis.md recommends it; see retries.rs.
const Redis = require('ioredis');
const port = Number(process.argv[2]);

// SET is the same when done twice, so one whose outcome is unknown is sent again.
async function setKnown(client, value) {
  for (;;) {
    try {
      return await client.set('k', value);
    } catch (e) {
      if (!e.message.startsWith('UNKNOWN')) throw e;
    }
  }
}

async function main() {
  const plain = new Redis({ port });
  await setKnown(plain, 'first');
  console.log('take the quorum');
  await new Promise((resolve) => process.stdin.once('data', resolve));
  const refusal = await setKnown(plain, 'refused').catch((e) => e.message);
  if (!refusal.startsWith('CLUSTERDOWN')) throw new Error(`not refused: ${refusal}`);
  let isTold = false;
  const patient = new Redis({
    port,
    reconnectOnError: (e) => {
      if (!e.message.startsWith('CLUSTERDOWN')) return false;
      if (!isTold) console.log('give it back');
      isTold = true;
      return 2;
    },
  });
  await setKnown(patient, 'last');
  const value = await patient.get('k');
  if (value !== 'last') throw new Error(`GET answers ${value}`);
  console.log('done');
}

main().then(() => process.exit(0), (e) => { console.error(e); process.exit(1); });
