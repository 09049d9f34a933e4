#!/usr/bin/env bash
# Everything a clean machine needs to pass the tests, then the tests.
#
# Format and lints come first because they are quick; a warning is an error. Then every test: unit, golden scripts,
# simulation, real processes, scripts, browser. The runner's own summary is the last thing printed.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '%s\n' "$*" >&2; }

# Tools that tests call, and the Debian package that holds each.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc gcc
need curl curl
need tmux tmux
need shellcheck shellcheck
need setsid util-linux
need redis-server redis-server
need redis-cli redis-tools
need redis-benchmark redis-tools
need nc netcat-openbsd
need bwrap bubblewrap
need c++ g++
need javac default-jdk-headless
need node nodejs
need npm npm
need script bsdutils
need chromium chromium
need chromedriver chromium-driver
need promtool prometheus
# redis-py for the system's own Python; another one may come first in PATH.
for python in /usr/bin/python3 python3; do
  if "$python" -c 'import redis' 2>/dev/null; then has_redis_py=yes; fi
done
[[ ${has_redis_py:-} == yes ]] || missing+=(python3 python3-redis)

if ((${#missing[@]})); then
  install=(apt-get install -y --no-install-recommends "${missing[@]}")
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null 2>&1; then
    say "test.sh: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null || say "test.sh: apt-get update failed; trying with what is there"
    "${install[@]}" >/dev/null || say "test.sh: could not install ${missing[*]}; tests that need them will say so"
  else
    say "test.sh: these are missing: ${missing[*]}"
    say "test.sh: on Debian: sudo ${install[*]}"
  fi
fi

# pyrqlite, unmodified from PyPI, in a folder that nobody else looks into.
if ! PYTHONPATH=target/pyrqlite python3 -c 'import pyrqlite' 2>/dev/null; then
  python3 -m pip install --quiet --no-deps --target target/pyrqlite pyrqlite==2.2.3 >/dev/null 2>&1 \
    || say "test.sh: could not install pyrqlite with pip; the test of pyrqlite says that it is skipped"
fi

# Celery with its result backend, and redis-py with it.
if ! PYTHONPATH=target/celery python3 -c 'import celery, redis' 2>/dev/null; then
  python3 -m pip install --quiet --target target/celery celery==5.7.0 redis==8.1.0 >/dev/null 2>&1 \
    || say "test.sh: could not install celery with pip; the test of celery says that it is skipped"
fi

# Tools that read the OpenAPI document and the dashboard, in folders that nobody else looks into.
if ! PYTHONPATH=target/openapi-python-client python3 -c 'import openapi_python_client' 2>/dev/null; then
  python3 -m pip install --quiet --target target/openapi-python-client openapi-python-client==0.29.1 >/dev/null 2>&1 \
    || say "test.sh: could not install openapi-python-client with pip; its test says that it is skipped"
fi
if [[ ! -x target/npm-tools/node_modules/.bin/redocly ]]; then
  npm install --silent --no-audit --no-fund --prefix target/npm-tools \
    @redocly/cli@2.77.0 openapi-typescript@7.13.0 typescript@5.9.3 @grafana/schema@13.2.3 >/dev/null 2>&1 \
    || say "test.sh: could not install tools for OpenAPI with npm; their tests say that they are skipped"
fi

if ! command -v cargo >/dev/null 2>&1 && [[ -x $HOME/.cargo/bin/cargo ]]; then
  PATH=$HOME/.cargo/bin:$PATH
fi
if ! command -v cargo >/dev/null 2>&1; then
  say "test.sh: cargo is missing. Install Rust from https://rustup.rs (curl -sSf https://sh.rustup.rs | sh), then run ./test.sh again"
  exit 2
fi

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
cargo fmt --all --check
cargo clippy --quiet --all-targets -- -D warnings
if cargo nextest --version >/dev/null 2>&1; then
  # Many tests wait more than they compute.
  processors=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
  cargo nextest run --no-fail-fast --test-threads $((processors + (processors + 1) / 2))
else
  cargo test --no-fail-fast
fi
