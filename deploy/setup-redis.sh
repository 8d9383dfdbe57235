#!/usr/bin/env bash
# Makes sure that a redis-server is on the PATH: the tests start their own from it.
set -euo pipefail

command -v redis-server >/dev/null && exit 0

if command -v apt-get >/dev/null; then
    sudo=()
    [[ $EUID -eq 0 ]] || sudo=(sudo)
    echo "installing redis-server with apt-get" >&2
    "${sudo[@]}" apt-get update -qq
    # Only the binary is wanted, not a service on port 6379.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends redis-server >&2
    exit 0
fi

cat >&2 <<'HINT'
The tests need redis-server (7 or newer) on the PATH. Install it with your system's packages, for example
  brew install redis        (macOS)
  dnf install redis         (Fedora)
HINT
exit 1
