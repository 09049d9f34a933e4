#!/usr/bin/env bash
# Starts, stops and shows a Phalanx cluster on this machine: the Linux part. run.sh adds macOS and calls this.
#
#   ./run.sh [start|stop|status|fresh|clean] [--nodes N] [--lab] [--terminal auto|mac|gnome|konsole|xterm|tmux|none]
#
# What it starts is written down in <data_dir>/run: for each node a pid together with the moment at which that process
# began, so that `stop` never ends another process that got the same pid later. Settings come from `phalanx config show`,
# that is from settings.json and PHALANX_* variables. Works with bash 3.2, the one that macOS has.

set -u

nodes=5
lab=
terminal=auto
action=start
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
start_within=${PHALANX_TEST_START_WITHIN:-30}
joined_within=$((start_within < 10 ? start_within : 10))
# More panes of tmux than this in one window are too small to read.
panes_max=6
# What a refusal leaves behind, in words.
untouched="Nothing was started."

say() { printf '%s\n' "$*"; }
# quoted PATH: as a shell reads it.
quoted() { printf %q "$1"; }
complain() { printf '%s\n' "$*" >&2; }
# die CODE MESSAGE...: the error, and nothing left running that this call started.
die() {
  local code=$1
  shift
  printf 'run.sh: %s\n' "$@" >&2
  exit "$code"
}

usage() {
  say "usage: ./run.sh [start|stop|status|fresh|clean] [--nodes N] [--lab] [--terminal auto|mac|gnome|konsole|xterm|tmux|none]"
  say ""
  say "  start   build if needed and start N nodes (5), each in its own terminal"
  say "  stop    stop the nodes that start has started"
  say "  status  show the running nodes and the health of the cluster"
  say "  fresh   start with empty data"
  say "  clean   stop, and remove the data and all else but the build"
  say ""
  say "  --lab   phalanx chaos may kill, freeze and partition the nodes, and more"
}

read_arguments() {
  while (($#)); do
    case $1 in
      start | stop | status | fresh | clean) action=$1 ;;
      --nodes) nodes=${2-} && shift ;;
      --nodes=*) nodes=${1#*=} ;;
      --lab) lab=--lab ;;
      --terminal) terminal=${2-} && shift ;;
      --terminal=*) terminal=${1#*=} ;;
      -h | --help | help)
        usage
        exit 0
        ;;
      *)
        usage >&2
        die 2 "unknown argument \"$1\""
        ;;
    esac
    shift || die 2 "the last option needs a value"
  done
  case $nodes in
    '' | *[!0-9]* | 0* | ???*) die 2 "--nodes must be a number from 1 to 99, not \"$nodes\"" ;;
  esac
  case $terminal in
    auto | mac | gnome | konsole | xterm | tmux | none) ;;
    *) die 2 "--terminal must be auto, mac, gnome, konsole, xterm, tmux or none, not \"$terminal\"" ;;
  esac
}

# ---- the program and its settings ----

build() {
  if [ -n "${PHALANX_TEST_BINARY-}" ]; then
    program=$PHALANX_TEST_BINARY
    return
  fi
  program=$here/target/release/phalanx
  local sources=("$here/src" "$here/static" "$here/crates" "$here/Cargo.toml" "$here/Cargo.lock") why="once"
  if [ -x "$program" ]; then
    [ -n "$(find "${sources[@]}" -newer "$program" -print 2>/dev/null | head -n 1)" ] || return 0
    why="its source has changed"
  fi
  # The tilde is the user's folder also where HOME is not set (cron, containers).
  local cargo_bin=${CARGO_HOME:-${HOME:-~}/.cargo}/bin
  if ! command -v cargo >/dev/null 2>&1 && [ -x "$cargo_bin/cargo" ]; then
    PATH=$cargo_bin:$PATH
  fi
  if ! command -v cargo >/dev/null 2>&1; then
    die 1 "cargo is missing, and Phalanx has to be built." \
      "Install Rust from https://rustup.rs (curl -sSf https://sh.rustup.rs | sh), open a new terminal, run ./run.sh again."
  fi
  need_linker
  say "Building Phalanx ($why; this takes some minutes) ..."
  (cd "$here" && cargo build --release) || die 1 "the build failed; see its messages above."
  # Cargo leaves a program alone that the changed files do not concern.
  touch -c "$program"
}

# Rust links with the system's C compiler.
need_linker() {
  command -v cc >/dev/null 2>&1 && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "Installing a linker (gcc) ..."
    DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev >/dev/null ||
      die 1 "could not install gcc; install it yourself, then run ./run.sh again."
  else
    die 1 "a C compiler (cc) is missing, which Rust needs to link." \
      "On Debian: sudo apt-get install gcc libc6-dev. On macOS: xcode-select --install. Then run ./run.sh again."
  fi
}

# Jobs run in a bubblewrap sandbox. Without it the cluster works, but refuses jobs.
need_sandbox() {
  [ -n "${PHALANX_TEST_BINARY-}" ] || [ ! -d /proc/self ] && return
  command -v bwrap >/dev/null 2>&1 && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "Installing bubblewrap, the sandbox for jobs ..."
    DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends bubblewrap >/dev/null 2>&1 && return
  fi
  complain "run.sh: bubblewrap is missing, so jobs will be refused (everything else works)." \
    "On Debian: sudo apt-get install bubblewrap. The nodes see it within seconds."
}

# setting KEY: its value in force.
setting() {
  printf '%s' "$settings" | tr -d '\n' | sed -nE 's/.*"'"$1"'": *(\{[^{}]*"value": *)?("([^"]*)"|([0-9]+)).*/\3\4/p'
}

# in_url HOST: as it stands before a port, an IPv6 address in brackets.
in_url() {
  case $1 in
    *:*) printf '[%s]' "$1" ;;
    *) printf '%s' "$1" ;;
  esac
}

read_settings() {
  settings=$(cd "$here" && "$program" config show --json) ||
    die 2 "the settings have errors (above). Correct them in settings.json or the PHALANX_* variables, then try again."
  host=$(setting host)
  # As the program does: nodes that listen on every address are reached at loopback from here.
  case $host in
    *[!0.:]*) reached=$host ;;
    *:*) reached=::1 ;;
    *) reached=127.0.0.1 ;;
  esac
  shown=$(setting advertise_host)
  shown=$(in_url "${shown:-$reached}")
  front_port=$(setting service_port)
  http_base=$(setting service_port_base)
  peer_base=$(setting leader_port_base)
  kv_base=$(setting kv_port_base)
  data_dir=$(setting data_dir)
  config_path=$(setting config_file_path)
  if [ -z "$host" ] || [ -z "$front_port" ] || [ -z "$http_base" ] || [ -z "$data_dir" ]; then
    die 2 "cannot read the settings from \"phalanx config show --json\""
  fi
  case $data_dir in /*) ;; *) data_dir=$here/${data_dir#./} ;; esac
  case $config_path in /*) ;; *) config_path=$here/${config_path#./} ;; esac
  run_dir=$data_dir/run
  session=phalanx-$(printf '%s' "$data_dir" | cksum | cut -d ' ' -f 1)
}

# ---- processes ----

# began PID: the moment at which a process began, in the system's format; empty if there is none.
began() {
  if [ -r "/proc/$1/stat" ]; then
    # Field 22; the name in brackets may hold blanks, so count from behind it.
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
  elif [ ! -d /proc/self ]; then
    ps -o lstart= -p "$1" 2>/dev/null
  fi
}

# is_alive FILE: whether the very process that FILE names still runs. Sets pid.
is_alive() {
  pid=
  [ -r "$1" ] || return 1
  local when
  read -r pid when <"$1" || return 1
  [ -n "$pid" ] && [ -n "$when" ] && [ "$(began "$pid")" = "$when" ] && kill -0 "$pid" 2>/dev/null && ! is_zombie
}

is_zombie() {
  [ -r "/proc/$pid/stat" ] && case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in Z*) true ;; *) false ;; esac
}

running_nodes() {
  local file
  for file in "$run_dir"/node-*.pid; do
    if is_alive "$file"; then
      file=${file##*/node-}
      printf '%s\n' "${file%.pid}"
    fi
  done | sort -n
}

# listens PORT: whether a process accepts connections there.
listens() {
  (exec 3<>"/dev/tcp/$reached/$1") 2>/dev/null
}

# Held by this call: "flock", "folder", or nothing.
run_lock=

# Only one ./run.sh at a time starts, stops or deletes here: two would each write their own pids over the other's, and
# `stop` would not know the losers. Nodes must not inherit the descriptor (see start_nodes), or they would hold it on.
lock_run_folder() {
  [ -z "$run_lock" ] || return 0
  (umask 077 && : >>"$run_dir/lock") 2>/dev/null || die 1 "cannot write to $run_dir. $untouched"
  if command -v flock >/dev/null 2>&1; then
    exec 9>>"$run_dir/lock"
    flock -n 9 && run_lock=flock
  else
    lock_by_folder && run_lock=folder
  fi
  trap unlock_run_folder EXIT
  [ -n "$run_lock" ] || die 1 "another ./run.sh is at work here ($run_dir). $untouched" \
    "Wait until it has finished, then try again."
}

unlock_run_folder() {
  case $run_lock in
    flock) exec 9>&- ;;
    folder) rm -rf "$run_dir/lock.d" ;;
  esac
  run_lock=
}

# Where there is no flock (macOS): the process that creates the folder holds the lock; one whose creator has ended is removed.
lock_by_folder() {
  local lock=$run_dir/lock.d aside=$run_dir/lock.d.$$ tries=0
  until mkdir "$lock" 2>/dev/null; do
    is_alive "$lock/pid" && return 1
    ((++tries < 10)) || return 1
    if [ ! -s "$lock/pid" ] && ((tries < 5)); then
      sleep 0.1 # its maker may be about to write its pid
      continue
    fi
    mv "$lock" "$aside" 2>/dev/null || continue
    if is_alive "$aside/pid"; then
      # Another one was quicker: the old lock was gone already, and this is its new one.
      mv "$aside" "$lock"
      return 1
    fi
    rm -rf "$aside"
  done
  (umask 077 && printf '%s %s\n' "$$" "$(began "$$")" >"$lock/pid")
}

# is_in_use FOLDER: whether a node works in this data folder, no matter who started it. It holds a lock on the file `lock`,
# which also names its pid: that must do where there is no flock.
is_in_use() {
  [ -e "$1/lock" ] || return 1
  if command -v flock >/dev/null 2>&1; then
    ! flock -n -s "$1/lock" true
    return
  fi
  local holder=
  read -r holder <"$1/lock"
  [ -n "$holder" ] || return 1
  # The pid may have gone to another process since: only a process of this name counts.
  case $(cat "/proc/$holder/comm" 2>/dev/null || ps -o comm= -p "$holder" 2>/dev/null) in
    *phalanx*) true ;;
    *) false ;;
  esac
}

# ---- starting ----

# make_private FOLDER: accessible to its owner only, regardless of the umask. An older, wider one is narrowed.
make_private() {
  (umask 077 && mkdir -p "$1") && chmod go-rwx "$1"
}

check_data_folder() {
  make_private "$run_dir" 2>/dev/null && [ -w "$data_dir" ] && [ -w "$run_dir" ] &&
    : 2>/dev/null >"$run_dir/.probe" && rm -f "$run_dir/.probe" && return
  die 1 "cannot write to the data folder $data_dir." \
    "Give this user the right to (chown, chmod), or choose another with \"data_dir\" in settings.json. $untouched"
}

check_ports() {
  local id taken=
  if [ -z "$(running_nodes)" ] && listens "$front_port"; then taken="$taken $front_port (front door)"; fi
  for id in $1; do
    listens $((peer_base + id)) && taken="$taken $((peer_base + id)) (node $id)"
    listens $((http_base + id)) && taken="$taken $((http_base + id)) (node $id, HTTP)"
    listens $((kv_base + id)) && taken="$taken $((kv_base + id)) (node $id, Redis protocol)"
  done
  [ -z "$taken" ] && return
  die 1 "another program uses these ports of $host:$taken" \
    "End it (ss -ltnp, or lsof -i, says which it is) or choose other ports in settings.json. $untouched"
}

# Writes the little program that runs one node in its terminal (or without one). Settings stand in it, the secret among them:
# it is readable by its owner only.
write_launcher() {
  local id=$1 kind=$2 file=$run_dir/node-$1.sh name
  rm -f "$file"
  (umask 077 && : >"$file") || return
  {
    printf '#!/usr/bin/env bash\n# Written by run.sh: runs node %s.\n' "$id"
    # A terminal's own server may not hand our environment on.
    for name in $(compgen -e | grep '^PHALANX_'); do
      printf 'export %s=%q\n' "$name" "${!name}"
    done
    printf 'cd %q || exit 1\n' "$here"
    printf 'run_dir=%q id=%q program=%q kind=%q lab=%q\n' "$run_dir" "$id" "$program" "$kind" "$lab"
    declare -f began
    cat <<'LAUNCHER'
note_pid() { (umask 077 && printf '%s %s\n' "$$" "$(began "$$")" >"$run_dir/node-$id.$1"); }
if [ "$kind" = none ]; then
  note_pid pid
  exec "$program" node --id "$id" ${lab:+"$lab"}
fi
note_pid terminal
[ "$kind" = tmux ] || printf '\033]0;Phalanx node %s\007' "$id"
while [ ! -e "$run_dir/stopping" ]; do
  trap : INT # Ctrl+C is for the node; this shell stays
  bash -c "run_dir=\$1 id=\$2; $(declare -f began note_pid); note_pid pid; exec \"\$3\" node --id \"\$2\" \${4:+\"\$4\"}" \
    bash "$run_dir" "$id" "$program" "$lab"
  code=$?
  [ -e "$run_dir/stopping" ] && break
  printf '\nNode %s has ended (exit code %s). Enter starts it again; Ctrl+C closes this terminal.\n' "$id" "$code"
  trap - INT
  read -r _ || break
done
rm -f "$run_dir/node-$id.terminal"
LAUNCHER
  } >"$file"
  chmod 700 "$file"
}

has_display() { [ -n "${DISPLAY-}" ] || [ -n "${WAYLAND_DISPLAY-}" ]; }

# What `auto` takes: windows where a display is, else tmux, else background processes.
choose_terminal() {
  [ "$terminal" = auto ] || return 0
  if [ "$(uname -s)" = Darwin ] && command -v osascript >/dev/null 2>&1; then
    terminal=mac
  elif has_display && command -v gnome-terminal >/dev/null 2>&1; then
    terminal=gnome
  elif has_display && command -v konsole >/dev/null 2>&1; then
    terminal=konsole
  elif has_display && command -v xterm >/dev/null 2>&1; then
    terminal=xterm
  elif command -v tmux >/dev/null 2>&1; then
    terminal=tmux
  else
    terminal=none
  fi
}

check_terminal() {
  local needs=
  case $terminal in
    mac) needs=osascript ;;
    gnome) needs=gnome-terminal ;;
    konsole | xterm | tmux) needs=$terminal ;;
  esac
  [ -z "$needs" ] && return
  command -v "$needs" >/dev/null 2>&1 ||
    die 1 "$needs is not installed. Choose another with --terminal (none always works). $untouched"
}

# open_terminal ID: runs the launcher of a node the chosen way.
open_terminal() {
  local id=$1 launcher=$run_dir/node-$1.sh
  case $terminal in
    mac) open_mac "$id" "$launcher" ;; # in run.sh
    gnome) gnome-terminal --title="Phalanx node $id" -- bash "$launcher" </dev/null >/dev/null 2>&1 & ;;
    konsole) detached konsole --separate -p tabtitle="Phalanx node $id" -e bash "$launcher" ;;
    xterm) detached xterm -geometry "$(tile "$id")" -T "Phalanx node $id" -e bash "$launcher" ;;
    tmux) open_tmux "$id" "$launcher" ;;
    none)
      make_private "$data_dir/node-$id"
      (umask 077 && : >>"$data_dir/node-$id/node.log")
      detached_to "$data_dir/node-$id/node.log" bash "$launcher"
      ;;
  esac
}

# Runs a command that outlives this script and its terminal.
detached() { detached_to /dev/null "$@"; }
detached_to() {
  local log=$1
  shift
  if command -v setsid >/dev/null 2>&1; then
    setsid "$@" </dev/null >>"$log" 2>&1 &
  else
    nohup "$@" </dev/null >>"$log" 2>&1 &
  fi
}

# tile ID: size and place of an xterm window. No window covers another while there is room: 80 x 24 characters of
# xterm's own font take about 500 x 350 pixels with the frame.
tile() {
  local n=$(($1 - 1)) screen columns rows round column row
  screen=$(xwininfo -root 2>/dev/null | sed -nE 's/^ *-geometry ([0-9]+x[0-9]+).*/\1/p')
  screen=${screen:-1920x1080}
  columns=$((${screen%x*} / 500))
  rows=$((${screen#*x} / 350))
  ((columns > 0)) || columns=1
  ((rows > 0)) || rows=1
  round=$((n / (columns * rows)))
  column=$((n % columns))
  row=$((n / columns % rows))
  printf '80x24+%s+%s' $((column * 500 + round * 24)) $((row * 350 + round * 24))
}

# The tmux server that has our session, whether this shell runs inside of it or not.
mux() {
  local socket=
  [ ! -r "$run_dir/tmux" ] || read -r socket <"$run_dir/tmux"
  tmux ${socket:+-S "$socket"} "$@"
}

# The user's own tmux.conf is in force, so windows and panes are named by their ids (base-index), the launcher is a
# program with an argument (default-shell), and options that would end the session or keep ended panes are set back.
open_tmux() {
  local id=$1 launcher=$2 window='' pane ids
  if mux has-session -t "=$session" 2>/dev/null; then
    window=$(mux list-windows -t "=$session" -F '#{@phalanx} #{window_panes} #{window_id}' |
      awk -v max="$panes_max" '$1 == "nodes" && $2 < max { print $3; exit }')
    if [ -n "$window" ]; then
      pane=$(mux split-window -P -F '#{pane_id}' -t "$window" bash "$launcher") || return
    else
      pane=$(mux new-window -d -P -F '#{pane_id}' -t "=$session:" bash "$launcher") || return
    fi
  else
    rm -f "$run_dir/tmux"
    pane=$(tmux new-session -d -P -F '#{pane_id}' -s "$session" -x 200 -y 60 bash "$launcher" \; \
      set-option -t "=$session:" destroy-unattached off) || return
    (umask 077 && tmux display-message -p -t "$pane" '#{socket_path}' >"$run_dir/tmux")
  fi
  window=$(mux display-message -p -t "$pane" '#{window_id}')
  mux select-pane -t "$pane" -T "node $id" \; \
    set-option -w -t "$window" @phalanx nodes \; \
    set-option -w -t "$window" remain-on-exit off \; \
    set-option -w -t "$window" pane-border-status top \; \
    set-option -w -t "$window" pane-border-format ' #{pane_title} ' \; \
    select-layout -t "$window" tiled
  ids=$(mux list-panes -t "$window" -F '#{pane_title}' | sed -n 's/^node //p' | sort -n | tr '\n' ' ')
  mux rename-window -t "$window" "nodes ${ids% }"
}

# How to see the panes, with the keys of the user.
describe_tmux() {
  local prefix
  prefix=$(mux show-options -gv prefix 2>/dev/null)
  prefix=${prefix:-C-b}
  if [ -n "${TMUX-}" ]; then
    say "See the nodes:                tmux switch-client -t $session   ($prefix L to come back)"
  else
    say "See the nodes:                tmux attach -t $session   ($prefix then arrow keys between them, $prefix d to leave)"
  fi
}

# redirect: where the front door sends a visitor now; fails while it redirects no client. Where it wants the password of clients
# first (401) it is open, and nothing is printed: "phalanx config show" does not give the password away.
redirect() {
  (
    exec 3<>"/dev/tcp/$reached/$front_port" || exit 1
    printf 'GET / HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n' "$(in_url "$reached")" "$front_port" >&3
    IFS= read -r -t 2 line <&3 || exit 1
    case $line in *' 307 '*) ;; *' 401 '*) exit 0 ;; *) exit 1 ;; esac
    while IFS= read -r -t 2 line <&3; do
      case $line in [Ll]ocation:*) printf '%s' "${line#*: }" | tr -d '\r' && exit 0 ;; esac
    done
    exit 1
  ) 2>/dev/null
}

# The nodes asked for that do not run.
missing_nodes() {
  local running id
  running=$(running_nodes)
  for id in $(seq 1 "$nodes"); do
    printf '%s\n' "$running" | grep -qx "$id" || printf ' %s' "$id"
  done
}

# Says which nodes have data here and neither run nor were asked for.
say_left_out() {
  local file id left='' last
  for file in "$data_dir"/node-*/identity.json; do
    id=${file%/identity.json}
    id=${id##*/node-}
    case $id in '' | *[!0-9]*) continue ;; esac
    if [ -e "$file" ] && ((id > nodes)) && ! is_alive "$run_dir/node-$id.pid"; then left="$left $id"; fi
  done
  [ -n "$left" ] || return 0
  # shellcheck disable=SC2086 # one line per node
  left=$(printf '%s\n' $left | sort -n | tr '\n' ' ')
  last=${left% }
  last=${last##* }
  say "Node(s) ${left}have data here, too, and are not started: while they are members, they count as offline."
  say "./run.sh --nodes $last starts them; ./run.sh fresh --nodes $nodes begins with $nodes and empty data."
}

start() {
  build
  need_sandbox
  read_settings
  choose_terminal
  check_data_folder
  lock_run_folder
  start_nodes
}

start_nodes() {
  local wanted running id
  running=$(running_nodes)
  wanted=$(missing_nodes)
  if [ -z "$wanted" ]; then
    unlock_run_folder
    say "The cluster is running already (nodes $(printf '%s' "$running" | tr '\n' ' '))."
    say_left_out
    summary
    return
  fi
  check_terminal
  check_ports "$wanted"
  [ -n "$running" ] && say "Nodes $(printf '%s' "$running" | tr '\n' ' ') run already; starting the others."
  rm -f "$run_dir/stopping"
  say "Starting nodes$wanted (terminal: $terminal) ..."
  say_left_out
  started=$wanted
  for id in $wanted; do
    # A terminal whose node has ended may wait for Enter: it makes room for the new one.
    if is_alive "$run_dir/node-$id.terminal"; then kill "$pid" 2>/dev/null; fi
    rm -f "$run_dir/node-$id.pid" "$run_dir/node-$id.terminal"
    write_launcher "$id" "$terminal"
    open_terminal "$id" 9>&- || give_up "the terminal for node $id did not open (--terminal $terminal)."
  done
  wait_for_front_door
  unlock_run_folder # what follows only looks
  summary
}

wait_for_front_door() {
  local deadline=$((SECONDS + start_within)) id missing
  while :; do
    missing=
    for id in $started; do [ -r "$run_dir/node-$id.pid" ] || missing="$missing $id"; done
    for id in $started; do
      # A node that has ended again says why in its terminal or log; the others alone are not what was asked for.
      if [ -r "$run_dir/node-$id.pid" ] && ! is_alive "$run_dir/node-$id.pid"; then
        sleep 0.3
        is_alive "$run_dir/node-$id.pid" || give_up "node $id ended at once."
      fi
    done
    [ -z "$missing" ] && redirect >/dev/null && return
    if ((SECONDS >= deadline)); then
      [ -z "$missing" ] || give_up "no terminal opened for node$missing within $start_within s (--terminal $terminal)."
      give_up "the front door http://$shown:$front_port/ does not redirect after $start_within s."
    fi
    sleep 0.1
  done
}

# Nothing half-started: what this call began is ended again.
give_up() {
  local id log
  complain "run.sh: $1"
  for id in $started; do
    log=$data_dir/node-$id/node.log
    if [ -s "$log" ]; then
      complain "--- last lines of $log"
      tail -n 12 "$log" >&2
    fi
  done
  end_nodes "$started" >/dev/null
  die 1 "Stopped what was started. ./run.sh --terminal none keeps each node's output in $(quoted "$data_dir")/node-N/node.log"
}

# look IDS: sets `late` to those of them that do not answer or that one of the others does not see online, or not as a
# voter although voters are still wanted, and `leader_at` to the leader's address.
look() {
  local asked id seen
  late=
  leader_at=
  for asked in $1; do
    if ! seen=$(cd "$here" && "$program" status --timeout 1 -e "$(in_url "$reached"):$((http_base + asked))" 2>/dev/null); then
      late="$late $asked"
      continue
    fi
    leader_at=$(printf '%s\n' "$seen" | awk '$2 == "LEADER" { print $11 }')
    [ -n "$leader_at" ] || late="$late $asked"
    for id in $1; do
      printf '%s\n' "$seen" | awk -v id="$id" '
        NR == 1 { is_late = index($0 ";", "node " id " is offline;") || index($0 ";", "node " id " is not a voter yet;") }
        $1 == id && ($2 == "ONLINE" || $2 == "LEADER") && $4 != "-" { is_there = 1 }
        END { exit is_late || !is_there }' || late="$late $id"
    done
  done
}

# The front door opens before every node has joined: a user who looked in between would see a degraded cluster.
wait_until_joined() {
  local deadline=$((SECONDS + joined_within))
  while :; do
    look "$(running_nodes)"
    if [ -z "$late" ] || ((SECONDS >= deadline)); then break; fi
    sleep 0.1
  done
  # shellcheck disable=SC2086 # one line per node
  [ -z "$late" ] || late=$(printf '%s\n' $late | sort -nu | tr '\n' ' ')
}

# Sets `where` to the worker that the front door sends to now; empty if there is none. A leader that is alone, or has not
# told its front port of the others yet, takes clients itself: that is no worker to name.
name_worker() {
  local tries
  for tries in 1 2 3 4 5; do
    where=$(redirect)
    [ "$where" = "http://$leader_at/" ] || return 0
    where=
    [ "$(running_nodes | wc -l)" -gt 1 ] || return 0
    [ "$tries" = 5 ] || sleep 0.1
  done
}

summary() {
  local id leader_at late where
  wait_until_joined
  name_worker
  say ""
  say "Phalanx is up.  Front door:  http://$shown:$front_port/   (sends you to the least-loaded worker${where:+, now $where})"
  for id in $(running_nodes); do
    say "  monitor of node $id:         http://$shown:$((http_base + id))/"
  done
  if [ -n "$late" ] && [ -z "$leader_at" ]; then
    say "No leader yet:                after $joined_within s; ./run.sh status shows which nodes are missing"
  elif [ -n "$late" ]; then
    say "Not all online yet:           node(s) ${late}still missing after $joined_within s; see ./run.sh status"
  fi
  case $terminal in
    tmux) describe_tmux ;;
    none) say "Log of a node:                tail -f $(quoted "$data_dir/node-1/node.log")" ;;
  esac
  say "Stop:                         ./run.sh stop"
  say ""
  say "Try three things:"
  say "  1. Open the front door in a browser, press Ctrl+C in the leader's terminal, and watch another node take over."
  say "  2. kill -9 the leader:      kill -9 \$(cut -d ' ' -f 1 $(quoted "$run_dir")/node-N.pid)   (N: see ./run.sh status)"
  say "  3. Freeze it instead:       kill -STOP ... and later kill -CONT ... the same pid; nothing is lost."
}

# ---- stopping ----

# end_nodes IDS: politely first (leadership is handed over), then for good. Only what run.sh has started.
end_nodes() {
  local id ids=$1 deadline left
  (umask 077 && : >"$run_dir/stopping")
  for id in $ids; do
    if is_alive "$run_dir/node-$id.pid"; then
      kill -CONT "$pid" 2>/dev/null # a frozen one would not hear the other
      kill -INT "$pid" 2>/dev/null
    fi
  done
  deadline=$((SECONDS + 7))
  while :; do
    left=
    for id in $ids; do is_alive "$run_dir/node-$id.pid" && left="$left $id"; done
    [ -z "$left" ] && break
    if ((SECONDS >= deadline)); then
      for id in $left; do
        is_alive "$run_dir/node-$id.pid" && kill -KILL "$pid" 2>/dev/null
      done
      for id in $left; do
        while is_alive "$run_dir/node-$id.pid" && ((SECONDS < deadline + 2)); do sleep 0.05; done
      done
      say "Had to kill nodes$left: they did not end within 7 s."
      break
    fi
    sleep 0.1
  done
  for id in $ids; do
    if is_alive "$run_dir/node-$id.terminal"; then kill "$pid" 2>/dev/null; fi
    rm -f "$run_dir/node-$id.pid" "$run_dir/node-$id.terminal" "$run_dir/node-$id.sh"
  done
  if [ -z "$(running_nodes)" ] && command -v tmux >/dev/null 2>&1; then
    mux kill-session -t "=$session" 2>/dev/null
    rm -f "$run_dir/tmux"
  fi
  rm -f "$run_dir/stopping"
}

# Every id that has a file of ours, running or not.
known_ids() {
  local file
  for file in "$run_dir"/node-*.pid "$run_dir"/node-*.terminal; do
    [ -e "$file" ] || continue
    file=${file##*/node-}
    printf '%s\n' "${file%.*}"
  done | sort -nu
}

# The program without building it: stopping and asking need no cargo.
find_program() {
  program=${PHALANX_TEST_BINARY:-$here/target/release/phalanx}
  [ -x "$program" ] || die 1 "Phalanx is not built yet, so nothing can be running. ./run.sh start builds and starts it."
}

stop() {
  find_program
  read_settings
  local running ids
  untouched="Nothing was stopped."
  if [ -d "$run_dir" ]; then lock_run_folder; fi
  running=$(running_nodes | tr "\n" " ")
  running=${running% }
  ids=$(known_ids)
  if [ -z "$ids" ]; then
    say "Nothing is running that ./run.sh has started."
    return
  fi
  end_nodes "$ids"
  say "Stopped nodes ${running:-(none was still running)}. Data stays in $data_dir; ./run.sh start goes on with it."
}

status() {
  find_program
  read_settings
  local running
  running=$(running_nodes | tr '\n' ' ')
  if [ -z "$running" ]; then
    say "Nothing is running that ./run.sh has started. ./run.sh start starts five nodes."
    exit 4
  fi
  say "Running: nodes $running   front door http://$shown:$front_port/"
  cd "$here" && "$program" status
}

# check_folders IDS: dies if a node works in a data folder, unless it is one of these.
check_folders() {
  local folder id taken=
  for folder in "$data_dir"/node-*; do
    id=${folder##*/node-}
    case " $1 " in *" $id "*) continue ;; esac
    if is_in_use "$folder"; then taken="$taken $folder"; fi
  done
  [ -z "$taken" ] && return
  die 1 "a node that ./run.sh has not started works in$taken" \
    "End it first (Ctrl+C in its terminal; the file \"lock\" there holds its pid). $untouched"
}

# Everything that may be refused is tried before anything is ended, and again, with every port, before anything is deleted.
fresh() {
  local running
  untouched="Nothing was started, and nothing was deleted."
  build
  need_sandbox
  read_settings
  choose_terminal
  check_terminal
  check_data_folder
  lock_run_folder
  running=$(running_nodes | tr '\n' ' ')
  check_folders "$running"
  check_ports "$(missing_nodes)"
  if [ -n "$(known_ids)" ]; then
    say "Stopping what runs ..."
    end_nodes "$(known_ids)"
    untouched="The nodes are stopped, but nothing was deleted: ./run.sh start goes on with their data."
  fi
  check_folders ""
  check_ports "$(seq 1 "$nodes")"
  delete_data
  untouched="Nothing was started."
  start_nodes
}

# Everything that start, its nodes and phalanx dev have made, except the build, which takes minutes to repeat.
clean() {
  find_program
  read_settings
  untouched="Nothing was deleted."
  if [ -d "$run_dir" ]; then lock_run_folder; fi
  check_folders "$(running_nodes | tr '\n' ' ')"
  if [ -n "$(known_ids)" ]; then
    say "Stopping what runs ..."
    end_nodes "$(known_ids)"
  fi
  check_folders ""
  delete_data
  rm -rf "$run_dir" "${data_dir:?}/dev" "$data_dir/lab"
  if [ ! -d "$data_dir" ] || rmdir "$data_dir" 2>/dev/null; then
    say "Removed all data. The build stays in $(quoted "$here/target"); cargo clean removes it."
  else
    say "Removed all data. Other files stay in $(quoted "$data_dir")."
  fi
}

# What jobs of killed nodes have left mounted below a folder would keep it from being deleted.
unmount_below() {
  local below point
  below=$(cd "$1" && pwd -P) || return 0
  [ -r /proc/self/mountinfo ] || return 0
  cut -d ' ' -f 5 /proc/self/mountinfo | sort -r | while IFS= read -r point; do
    point=$(printf '%b' "$point") # a space is \040 there
    case $point in "$below"/*) umount -l "$point" || : ;; esac
  done
}

# Where the users of jobs cannot pass through the data folder, their folders are below /run, by the node's uuid.
delete_jobs() {
  local uuid
  uuid=$(sed -nE 's/.*"uuid": *"([0-9a-f-]{36})".*/\1/p' "$1/identity.json" 2>/dev/null | head -n 1 | tr -d -)
  [ -n "$uuid" ] && [ -d "/run/phalanx-jobs/$uuid" ] || return 0
  unmount_below "/run/phalanx-jobs/$uuid"
  rm -rf "/run/phalanx-jobs/$uuid"
  rmdir /run/phalanx-jobs 2>/dev/null
  return 0
}

delete_data() {
  local folder
  # First, so that it is all folders or none.
  for folder in "$data_dir"/node-*; do
    [ ! -d "$folder" ] || unmount_below "$folder"
  done
  for folder in "$data_dir"/node-*; do
    # Only folders that nodes have made, or that hold nothing but a log of ours.
    case ${folder##*/node-} in '' | *[!0-9]*) continue ;; esac
    [ -d "$folder" ] || continue
    delete_jobs "$folder"
    if command -v flock >/dev/null 2>&1; then
      # Under the node's own lock: one that is being started by hand just now is refused instead of robbed.
      flock -n "$folder/lock" rm -rf "$folder" || die 1 "cannot delete $folder. Nothing was started."
    else
      rm -rf "$folder" || die 1 "cannot delete $folder. Nothing was started."
    fi
  done
  rm -f "$config_path" "$config_path.lock" "$config_path.contact.lock"
}

main() {
  read_arguments "$@"
  "$action"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
fi
