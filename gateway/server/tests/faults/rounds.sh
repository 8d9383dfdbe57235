#!/bin/bash
# rounds.sh [ROUNDS]: runs every fault test that many times in a row (20), one after another, and stops at the first that fails.
# Nothing else should run on the machine: the tests that hold the gateway to times are by themselves, and with WEIR_QUIET=1 they
# allow no exceptions. The others mostly wait, several at a time.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
rounds=${1:-20}
logs=target/test-faults
mkdir -p "$logs"

# Built once; cargo says where each test ended up, in JSON.
build() { cargo test --locked --quiet --no-run --message-format json "$@" | sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | grep /deps/; }
tests=$(
  build -p weir --test faults --test budgets
  build -p weir-store --test faults --test fetch --test revalidate --test replicas --test cluster --test sentinel --test tracking
)

timed="frozen:: slow:: leavers::" others="--skip frozen:: --skip slow:: --skip leavers::"
for round in $(seq "$rounds"); do
  summary="" began=$SECONDS
  for test in $tests; do
    # faults-0123456789abcdef: two crates have a test of that name.
    name=$(basename "$test")
    if ! { "$test" --test-threads 4 $others && WEIR_QUIET=1 "$test" --test-threads 1 $timed; } >"$logs/$name.log" 2>&1; then
      echo "round $round of $rounds: FAILED, ${name%-*} ($logs/$name.log):"
      tail -n 60 "$logs/$name.log"
      exit 1
    fi
    summary+=", ${name%-*} $(awk '/^test result: ok/ { n += $4 } END { print n }' "$logs/$name.log")"
  done
  echo "round $round of $rounds: ok in $((SECONDS - began)) s$summary"
done
