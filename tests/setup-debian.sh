#!/usr/bin/env bash
# What tests and benches can use of Debian and do without: says what is missing and what that costs. As root it tries to
# install packages first, quietly and not for long; QEMUs need no root. Never fails: a machine without them is a machine
# like any.
set -u
here=$(dirname "${BASH_SOURCE[0]}")

# One try with the package lists that are there, one with fresh ones. apt asks nothing and reads no terminal.
install() {
    export DEBIAN_FRONTEND=noninteractive
    local apt=(timeout --kill-after=5 90 apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10 -o DPkg::Lock::Timeout=10)
    "${apt[@]}" install -y --no-install-recommends "$1" ||
        { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$1"; }
} </dev/null >/dev/null 2>&1

# optional TOOL PACKAGE COST
optional() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing $2"
        install "$2"
        command -v "$1" >/dev/null && return
    fi
    echo "optional Debian package missing: $2. It costs $3."
}

optional iperf3 iperf3 "\`make bench\` the baseline beside its figures, and no test"
optional as binutils "the tests with QEMU their guest: they are skipped"
optional openssl openssl "the tests of TLS their certificates: they are skipped"
"$here/fetch-qemu.sh"
exit 0
