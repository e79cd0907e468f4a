#!/usr/bin/env bash
# Debian packages that tests and benches can use and do without: says which are missing and what that costs. As root
# it tries to install them first, quietly and not for long. Never fails: a machine without them is a machine like any.
set -u

missing() { ! command -v iperf3 >/dev/null; }

# One try with the package lists that are there, one with fresh ones. apt asks nothing and reads no terminal.
install() {
    export DEBIAN_FRONTEND=noninteractive
    local apt=(timeout --kill-after=5 90 apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10 -o DPkg::Lock::Timeout=10)
    "${apt[@]}" install -y --no-install-recommends "$1" ||
        { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$1"; }
} </dev/null >/dev/null 2>&1

if missing && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing iperf3"
    install iperf3
fi
if missing; then
    echo "optional Debian package missing: iperf3. It costs \`make bench\` the baseline beside its figures, and no test."
fi
exit 0
