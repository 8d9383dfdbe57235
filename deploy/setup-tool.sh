#!/usr/bin/env bash
# Makes sure that a program is on the PATH: deploy/setup-tool.sh PROGRAM DEBIAN_PACKAGE…
# Tests and benchmarks start their own servers from it.
set -euo pipefail

program=$1
shift
command -v "$program" >/dev/null && exit 0

if command -v apt-get >/dev/null; then
    sudo=()
    [[ $EUID -eq 0 ]] || sudo=(sudo)
    echo "installing $* with apt-get" >&2
    "${sudo[@]}" apt-get update -qq
    # The program alone is wanted, not a service that starts with the machine.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$@" >&2
    exit 0
fi

cat >&2 <<HINT
$program is needed on the PATH. Install it with your system's packages: "redis" on macOS (brew) and Fedora (dnf)
for redis-server, "nghttp2" for h2load.
HINT
exit 1
