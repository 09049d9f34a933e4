"""redis-py as docs/redis.md recommends it; see retries.rs."""

import sys

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ClusterDownError, ResponseError
from redis.retry import Retry


class Told(ExponentialBackoff):
    """As its base; says when the first retry is due."""

    is_told = False

    def compute(self, failures):
        if not self.is_told:
            self.is_told = True
            print("give it back", flush=True)
        return super().compute(failures)


def set_known(client, value):
    """SET is the same when done twice, so one whose outcome is unknown is sent again."""
    while True:
        try:
            return client.set("k", value)
        except ResponseError as e:
            if not str(e).startswith("UNKNOWN"):
                raise


port = int(sys.argv[1])
plain = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))
assert set_known(plain, "first")
print("take the quorum", flush=True)
sys.stdin.readline()
try:
    set_known(plain, "refused")
    sys.exit("a SET without a quorum was acknowledged")
except ClusterDownError:
    pass
patient = redis.Redis(port=port, retry=Retry(Told(), 10), retry_on_error=[ClusterDownError])
assert set_known(patient, "last")
assert patient.get("k") == b"last"
print("done")
