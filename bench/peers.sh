#!/usr/bin/env bash
# Drives Phalanx, etcd, ZooKeeper, Redis and nginx with the same clients on this machine and prints one table.
#
#   bench/peers.sh [--seconds N] [--only phalanx,bare,etcd,zookeeper,redis,front,nginx] [--dir FOLDER]
#
# Each runs as three nodes on free ports of loopback, with data in FOLDER (default: a temporary one; put it on the disk
# that is to be measured), every write synced before it is acknowledged by a quorum:
#   Phalanx    as it comes: a quorum of three syncs each write; reads are linearizable
#   bare       the same layout of threads without Raft, sessions, checks or recovery (bench/bare.rs): what this machine
#              gives at most; not a store
#   etcd       as Debian ships it, by gRPC (Put, linearizable Range)
#   ZooKeeper  as Debian ships it, in its own protocol (setData; getData reads the asked server's copy only)
#   Redis      a primary and two replicas, appendfsync always on all three, WAIT 1 0 after each run of SETs: a weaker
#              promise, because a failover may still lose what one replica acknowledged; reads promise nothing
# The clients of all are one thread of `phalanx bench`; they speak to the leader or primary. Start-up is not counted.
# Redirects, by clients that keep their connection and by clients (a thread each) that connect for each request; the
# round with the median rate of five in turn:
#   front      the front door of five nodes of Phalanx
#   nginx      `return 307`, with a worker for each processor
# Debian packages: redis-server etcd-server etcd-client zookeeper nginx-light (installed when root and missing).
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=5
only=phalanx,bare,etcd,zookeeper,redis,front,nginx
folder=
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --dir) folder=$2; shift 2 ;;
    -h | --help) sed -n '2,21s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
done
wants() { case ",$only," in *",$1,"*) true ;; *) false ;; esac; }

missing=
wants redis && ! command -v redis-server > /dev/null && missing="$missing redis-server"
wants etcd && ! command -v etcd > /dev/null && missing="$missing etcd-server"
wants etcd && ! command -v etcdctl > /dev/null && missing="$missing etcd-client"
wants zookeeper && [ ! -e /usr/share/java/zookeeper.jar ] && missing="$missing zookeeper"
wants nginx && ! command -v nginx > /dev/null && missing="$missing nginx-light"
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "installing$missing" >&2
    # Some of these packages start a service of their own: not here.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    # shellcheck disable=SC2086 # a list of names
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } > /dev/null
  else
    echo "error: not installed:$missing" >&2
    echo "next:  sudo apt-get install --no-install-recommends$missing, or leave them out with --only" >&2
    exit 2
  fi
fi

cargo build --release --quiet --bin phalanx --example bare
phalanx=target/release/phalanx
bare=target/release/examples/bare
work=$(mktemp -d "${folder:-${TMPDIR:-/tmp}}/phalanx-peers.XXXXXX")
work=$(cd "$work" && pwd)
export TMPDIR=$work

pids=()
# Ends what was started since the last call, by pid; each is a child of this shell, so no other process has its pid.
end_all() {
  local pid
  for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  for pid in "${pids[@]}"; do
    local tries=0
    while kill -0 "$pid" 2> /dev/null && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -9 "$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
  done
  pids=()
}
trap 'end_all; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

taken() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
# Nine free ports in a row.
free_base() {
  local base port
  while :; do
    base=$((20000 + RANDOM % 1100 * 10))
    for port in $(seq "$base" $((base + 8))); do taken "$port" && continue 2; done
    echo "$base"
    return
  done
}
wait_port() {
  local tries=0
  until taken "$1"; do
    tries=$((tries + 1))
    if [ $tries -gt 300 ]; then
      echo "error: nothing listens on port $1; the last lines of $2:" >&2
      tail -5 "$2" >&2
      exit 1
    fi
    sleep 0.1
  done
}

# One figure out of the answer of `bench --json`: field, file.
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$2" | head -1; }
# bench VERB CLIENTS PIPELINE ARGUMENTS...: "per second, p50, p99" or dashes.
drive() {
  local verb=$1 clients=$2 pipeline=$3
  shift 3
  if "$phalanx" bench "$verb" --clients "$clients" --pipeline "$pipeline" --seconds "$seconds" --mode strong --json "$@" \
    > "$work/answer.json" 2> "$work/answer.err"; then
    if grep -q '"first_error":"' "$work/answer.json"; then
      echo "warning: $(sed -n 's/.*"first_error":"\([^"]*\)".*/\1/p' "$work/answer.json")" >&2
    fi
    echo "$(field per_second "$work/answer.json") $(field p50_ms "$work/answer.json") $(field p99_ms "$work/answer.json")"
  else
    sed 's/^/  /' "$work/answer.err" >&2
    echo "- - -"
  fi
}
# All loads against one store; its lines go into the results. Redis reads without WAIT, which is for writes.
measure() {
  local name=$1 reads=()
  shift
  reads=("$@")
  [ "$name" = redis ] && reads=("${@:1:2}")
  echo "measuring $name" >&2
  {
    echo "$name|writes, 64 clients|$(drive kv 64 1 "$@")"
    echo "$name|writes, 64 clients x 16|$(drive kv 64 16 "$@")"
    echo "$name|writes, one client|$(drive kv 1 1 "$@")"
    echo "$name|reads, 64 clients|$(drive read 64 1 "${reads[@]}")"
  } >> "$work/results"
  end_all
}
: > "$work/results"

if wants phalanx; then
  measure phalanx
fi

if wants bare; then
  base=$(free_base)
  for n in 1 2; do
    "$bare" follower $((base + n)) "$work/bare-$n" > "$work/bare-$n.log" 2>&1 &
    pids+=($!)
  done
  # A follower takes one connection, its leader's: its port is not to be tried. The leader tries again itself.
  "$bare" leader "$base" "$work/bare-0" "127.0.0.1:$((base + 1))" "127.0.0.1:$((base + 2))" > "$work/bare-0.log" 2>&1 &
  pids+=($!)
  wait_port "$base" "$work/bare-0.log"
  measure bare --endpoint "127.0.0.1:$base"
fi

if wants etcd; then
  base=$(free_base)
  cluster=
  for n in 0 1 2; do cluster="$cluster${cluster:+,}n$n=http://127.0.0.1:$((base + 3 + n))"; done
  for n in 0 1 2; do
    etcd --name "n$n" --data-dir "$work/etcd-$n" --initial-cluster "$cluster" --initial-cluster-state new \
      --listen-client-urls "http://127.0.0.1:$((base + n))" --advertise-client-urls "http://127.0.0.1:$((base + n))" \
      --listen-peer-urls "http://127.0.0.1:$((base + 3 + n))" \
      --initial-advertise-peer-urls "http://127.0.0.1:$((base + 3 + n))" > "$work/etcd-$n.log" 2>&1 &
    pids+=($!)
  done
  for n in 0 1 2; do wait_port $((base + n)) "$work/etcd-$n.log"; done
  all="127.0.0.1:$base,127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2))"
  leader=
  for _ in $(seq 100); do
    leader=$(ETCDCTL_API=3 etcdctl --endpoints "$all" endpoint status -w simple 2> /dev/null \
      | awk -F', ' '{ for (i = 4; i <= NF; i++) if ($i == "true") { print $1; exit } }' || true)
    [ -n "$leader" ] && break
    sleep 0.1
  done
  [ -n "$leader" ] || { echo "error: etcd elected no leader" >&2; exit 1; }
  measure etcd --server etcd --endpoint "$leader"
fi

if wants zookeeper; then
  base=$(free_base)
  # shellcheck source=/dev/null
  classpath=$(. /etc/zookeeper/conf/environment 2> /dev/null; echo "${CLASSPATH:-/usr/share/java/*}")
  mkdir -p "$work/zk-conf"
  for n in 1 2 3; do
    mkdir -p "$work/zk-$n"
    echo "$n" > "$work/zk-$n/myid"
    {
      printf 'tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\nadmin.enableServer=false\n'
      printf '4lw.commands.whitelist=srvr\ndataDir=%s\nclientPort=%s\n' "$work/zk-$n" $((base + n - 1))
      printf 'clientPortAddress=127.0.0.1\n'
      for m in 1 2 3; do echo "server.$m=127.0.0.1:$((base + 2 + m)):$((base + 5 + m))"; done
    } > "$work/zk-$n.cfg"
    java -cp "$work/zk-conf:$classpath" -Dzookeeper.log.dir="$work" org.apache.zookeeper.server.quorum.QuorumPeerMain \
      "$work/zk-$n.cfg" > "$work/zk-$n.log" 2>&1 &
    pids+=($!)
  done
  for n in 1 2 3; do wait_port $((base + n - 1)) "$work/zk-$n.log"; done
  leader=
  for _ in $(seq 300); do
    for n in 0 1 2; do
      mode=$({ exec 3<> "/dev/tcp/127.0.0.1/$((base + n))" && printf srvr >&3 && timeout 2 cat <&3; } 2> /dev/null || true)
      case $mode in *"Mode: leader"*) leader=127.0.0.1:$((base + n)) ;; esac
    done
    [ -n "$leader" ] && break
    sleep 0.1
  done
  [ -n "$leader" ] || { echo "error: ZooKeeper elected no leader" >&2; tail -5 "$work/zk-1.log" >&2; exit 1; }
  measure zookeeper --server zookeeper --endpoint "$leader"
fi

if wants redis; then
  base=$(free_base)
  for n in 0 1 2; do
    mkdir -p "$work/redis-$n"
    more=()
    [ $n -gt 0 ] && more=(--replicaof 127.0.0.1 "$base")
    redis-server --port $((base + n)) --bind 127.0.0.1 --dir "$work/redis-$n" --save '' --appendonly yes \
      --appendfsync always "${more[@]}" > "$work/redis-$n.log" 2>&1 &
    pids+=($!)
    wait_port $((base + n)) "$work/redis-$n.log"
  done
  for _ in $(seq 300); do
    online=$({ exec 3<> "/dev/tcp/127.0.0.1/$base" && printf 'INFO replication\r\nQUIT\r\n' >&3 && timeout 2 cat <&3; } \
      2> /dev/null | grep -c 'state=online' || true)
    [ "$online" = 2 ] && break
    sleep 0.1
  done
  [ "$online" = 2 ] || { echo "error: Redis' replicas did not come" >&2; exit 1; }
  measure redis --endpoint "127.0.0.1:$base" --wait 1
fi

# "mode|per second p50 p99" for both kinds of connections.
redirects() {
  "$phalanx" bench front --clients 64 --seconds "$seconds" --json "$@" 2> "$work/answer.err" > "$work/answer.json" || {
    sed 's/^/  /' "$work/answer.err" >&2
    return 0
  }
  tr -d '\n ' < "$work/answer.json" | sed 's/{/\n{/g' | grep '"mode":' > "$work/rows"
  local row
  while read -r row; do
    echo "$row" > "$work/row"
    case $row in *kept*) echo -n "kept connections|" ;; *) echo -n "one connection each|" ;; esac
    echo "$(field per_second "$work/row") $(field p50_ms "$work/row") $(field p99_ms "$work/row")"
  done < "$work/rows"
}
if wants front || wants nginx; then
  if wants nginx; then
    port=$(free_base)
    mkdir "$work/nginx"
    {
      printf 'worker_processes auto;\ndaemon off;\npid %s/nginx/pid;\nerror_log %s/nginx/error;\n' "$work" "$work"
      printf 'events { worker_connections 4096; }\nhttp {\n  access_log off;\n  keepalive_requests 1000000000;\n'
      printf '  server {\n    listen 127.0.0.1:%s backlog=1024;\n' "$port"
      printf '    location / { return 307 http://127.0.0.1:6702$request_uri; }\n  }\n}\n'
    } > "$work/nginx.conf"
    nginx -c "$work/nginx.conf" -e "$work/nginx/error" &
    pids+=($!)
    wait_port "$port" "$work/nginx/error"
  fi
  for round in 1 2 3 4 5; do
    echo "measuring redirects, round $round" >&2
    if wants front; then redirects | sed 's/^/phalanx|redirects, /' >> "$work/rounds"; fi
    if wants nginx; then redirects --endpoint "127.0.0.1:$port" | sed 's/^/nginx|redirects, /' >> "$work/rounds"; fi
  done
  end_all
  for kind in "kept connections" "one connection each"; do
    for name in phalanx nginx; do
      { grep "^$name|redirects, $kind|" "$work/rounds" || true; } | sort -t'|' -k3 -n | sed -n 3p >> "$work/results"
    done
  done
fi

echo
echo "$(nproc) processors, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), data on $(df --output=fstype "$work" | tail -1), ${seconds} s each, 256 byte values"
awk -F'[| ]' -v OFS='' '
  BEGIN { FS = "|" }
  {
    split($3, f, " ")
    if (!($2 in seen)) { seen[$2] = 1; order[++n] = $2 }
    rate[$2, $1] = f[1]; p50[$2, $1] = f[2]; p99[$2, $1] = f[3]
    if (!($1 in named)) { named[$1] = 1; name[++m] = $1 }
  }
  END {
    printf "%-30s %-10s %10s %9s %9s   %s\n", "LOAD", "STORE", "PER S", "P50 MS", "P99 MS", "PHALANX / IT"
    for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) {
      o = order[i]; s = name[j]
      if (!((o, s) in rate)) continue
      ratio = (s != "phalanx" && rate[o, s] > 0 && rate[o, "phalanx"] > 0) ? sprintf("%.1f x", rate[o, "phalanx"] / rate[o, s]) : ""
      per_s = rate[o, s] == "-" ? "-" : sprintf("%d", rate[o, s])
      printf "%-30s %-10s %10s %9s %9s   %s\n", (j == 1 ? o : ""), s, per_s, p50[o, s], p99[o, s], ratio
    }
  }' "$work/results"
