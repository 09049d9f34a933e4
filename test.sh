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
need ip iproute2
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
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
need chromium chromium
need chromedriver chromium-driver
need promtool prometheus
need haproxy haproxy
need nginx nginx-light
need ab apache2-utils
# redis-py for the system's own Python; another one may come first in PATH.
for python in /usr/bin/python3 python3; do
  if "$python" -c 'import redis' 2>/dev/null; then has_redis_py=yes; fi
done
[[ ${has_redis_py:-} == yes ]] || missing+=(python3 python3-redis)
# Uploads with Python's best-known HTTP client.
for python in /usr/bin/python3 python3; do
  if "$python" -c 'import requests' 2>/dev/null; then has_requests=yes; fi
done
[[ ${has_requests:-} == yes ]] || missing+=(python3-requests)

if ((${#missing[@]})); then
  install=(apt-get install -y --no-install-recommends "${missing[@]}")
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null 2>&1; then
    say "test.sh: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Debian starts a server when it is installed (nginx, haproxy, prometheus, redis); the tests start their own.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 755 "$policy"
    fi
    apt-get update -q >/dev/null || say "test.sh: apt-get update failed; trying with what is there"
    "${install[@]}" >/dev/null || say "test.sh: could not install ${missing[*]}; tests that need them will say so"
  else
    say "test.sh: these are missing: ${missing[*]}"
    say "test.sh: on Debian: sudo ${install[*]}"
  fi
fi

# rqlite's clients, unmodified from PyPI and npm, in a folder of the user alone. The npm package of rqlite-js
# needs @babel/runtime and does not say so.
clients=target/rqlite-clients
if ! PYTHONPATH=$clients/python python3 -c 'import alembic, pyrqlite, rqdb, sqlalchemy_rqlite' 2>/dev/null; then
  python3 -m pip install --quiet --upgrade --target $clients/python pyrqlite==2.2.3 rqdb==1.6.5 sqlalchemy-rqlite==2.0 \
    sqlalchemy==2.1.9 alembic==1.20.1 >/dev/null 2>&1 \
    || say "test.sh: could not install rqlite's clients with pip; their tests say that they are skipped"
fi
if ! NODE_PATH=$clients/node_modules node -e "require('rqlite-js')" 2>/dev/null; then
  npm install --silent --no-audit --no-fund --prefix $clients rqlite-js@2.5.7 @babel/runtime@7 >/dev/null 2>&1 \
    || say "test.sh: could not install rqlite-js with npm; its test says that it is skipped"
fi

# Celery with its result backend, and redis-py with it.
if ! PYTHONPATH=target/celery python3 -c 'import celery, redis' 2>/dev/null; then
  python3 -m pip install --quiet --target target/celery celery==5.7.0 redis==8.1.0 >/dev/null 2>&1 \
    || say "test.sh: could not install celery with pip; the test of celery says that it is skipped"
fi

if ! NODE_PATH=target/redis-clients/node_modules node -e "require('ioredis')" 2>/dev/null; then
  npm install --silent --no-audit --no-fund --prefix target/redis-clients ioredis@6.0.0 >/dev/null 2>&1 \
    || say "test.sh: could not install ioredis with npm; its test says that it is skipped"
fi

# Tools that read the OpenAPI document and the dashboard, in folders of the user alone.
if ! PYTHONPATH=target/openapi-python-client python3 -c 'import openapi_python_client' 2>/dev/null; then
  python3 -m pip install --quiet --target target/openapi-python-client openapi-python-client==0.29.1 >/dev/null 2>&1 \
    || say "test.sh: could not install openapi-python-client with pip; its test says that it is skipped"
fi
if [[ ! -x target/npm-tools/node_modules/.bin/redocly ]]; then
  npm install --silent --no-audit --no-fund --prefix target/npm-tools \
    @redocly/cli@2.77.0 openapi-typescript@7.13.0 typescript@5.9.3 @grafana/schema@13.2.3 >/dev/null 2>&1 \
    || say "test.sh: could not install tools for OpenAPI with npm; their tests say that they are skipped"
fi

# The tilde is the user's folder also where HOME is not set.
cargo_bin=${CARGO_HOME:-${HOME:-~}/.cargo}/bin
if ! command -v cargo >/dev/null 2>&1 && [[ -x $cargo_bin/cargo ]]; then
  PATH=$cargo_bin:$PATH
fi
if ! command -v cargo >/dev/null 2>&1; then
  say "test.sh: cargo is missing. Install Rust from https://rustup.rs (curl -sSf https://sh.rustup.rs | sh), then run ./test.sh again"
  exit 2
fi

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
cargo fmt --all --check
cargo clippy --quiet --all-targets -- -D warnings
if ! cargo nextest --version >/dev/null 2>&1; then
  say "test.sh: installing cargo-nextest, which runs tests side by side (once; this takes some minutes)"
  cargo install --locked cargo-nextest || say "test.sh: could not install it; the tests run one after another, which takes longer"
fi
if cargo nextest --version >/dev/null 2>&1; then
  # Many tests wait more than they compute, and one computes with what the others leave.
  processors=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
  cargo nextest run --no-fail-fast --test-threads $((processors + (processors + 1) / 2 + 1))
else
  # One at a time: what .config/nextest.toml keeps apart, clusters and measurements, would disturb each other.
  cargo test --no-fail-fast -- --test-threads=1
fi
