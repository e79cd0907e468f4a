#!/usr/bin/env bash
# Stock QEMUs for the tests, from Debian's packages, unpacked into .qemu/SUITE/ of this repository. Needs no root and
# changes nothing outside: apt works on a state of its own, and each QEMU runs with the libraries of its own release.
# One line for each; what is there is left alone. Never fails: what can't be had is said, with what it costs.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SUITES=(bookworm bookworm-backports trixie-backports) # QEMU 7.2, 10.0, 11.1
CACHE=.qemu
MIRROR=${MULTIFD_DEBIAN_MIRROR:-http://deb.debian.org/debian}
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
DEADLINE_S=240 # for one of them: 35 MB of packages, 10 s where they are near

# What apt-get does for suite $1 in folder $2: nothing of the machine's but its proxy settings.
packages() {
    local suite=$1 apt=$2/apt release=${1%-backports}
    mkdir -p "$apt"/{etc/apt/preferences.d,etc/apt/apt.conf.d,var/lib/dpkg,var/lib/apt/lists/partial,var/cache/apt/archives/partial}
    : >"$apt/var/lib/dpkg/status"
    printf "deb [signed-by=$KEYS] $MIRROR %s main\n" $(printf '%s\n' "$release" "$suite" | sort -u) >"$apt/etc/apt/sources.list"
    local get=(apt-get -qq -o Dir="$apt" -o Dir::State::status="$apt/var/lib/dpkg/status" -o APT::Sandbox::User=
        -o Debug::NoLocking=true -o Acquire::Languages=none -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
    "${get[@]}" update &&
        "${get[@]}" -t "$suite" install -y --no-install-recommends --download-only qemu-system-x86
}

# Unpack all packages below $1/apt into $1/root, without what nobody runs or reads here.
unpack() {
    local package
    mkdir "$1/root"
    for package in "$1"/apt/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$1/root" --exclude='./usr/share/doc' --exclude='./usr/share/man' \
            --exclude='./usr/share/locale' --exclude='./usr/sbin' --exclude='./usr/libexec' \
            --exclude='./usr/bin/qemu-system-*[!4]' || return
    done
    rm -r "$1/apt"
}

# A program in $1 that runs the QEMU below $1/root with the loader, libraries, modules and firmware beside it.
program() {
    local root=$1/root loader libraries # the loader by its own path: lib64/ has a link to that of the machine
    loader=$(cd "$root" && ls -d {,usr/}lib/*-linux-gnu/ld-linux*.so.* 2>/dev/null | head -1)
    libraries=$(cd "$root" && ls -d {,usr/}lib/*-linux-gnu 2>/dev/null | sed 's|^|$root/|' | paste -sd:)
    cat >"$1/qemu-system-x86_64" <<END
#!/bin/sh
root=\${0%/*}/root
export QEMU_MODULE_DIR=\$(echo "\$root"/usr/lib/*-linux-gnu/qemu)
exec "\$root/$loader" --library-path "$libraries" "\$root/usr/bin/qemu-system-x86_64" \\
    -L "\$root/usr/share/qemu" -L "\$root/usr/share/seabios" -L "\$root/usr/lib/ipxe/qemu" "\$@"
END
    chmod +x "$1/qemu-system-x86_64"
}

# One suite, made beside its place and moved there when it runs: what is half done never looks whole.
fetch() {
    local suite=$1 made=$CACHE/$1.partial
    mkdir -p "$made"
    if packages "$suite" "$made" && unpack "$made" && program "$made" && "$made/qemu-system-x86_64" -version | grep version; then
        mv -T "$made" "$CACHE/$suite"
    else
        rm -rf "$made"
        return 1
    fi
}

report() {
    local suite=$1 qemu=$CACHE/$1/qemu-system-x86_64
    if [ -x "$qemu" ]; then
        echo "QEMU of Debian $suite: $("$qemu" -version | sed -n '1s/.*version //p')"
        rm -f "$CACHE/$suite.log"
    else
        echo "QEMU of Debian $suite is missing: tests/interop/ runs without that version. $2"
    fi
}

missing=()
for suite in "${SUITES[@]}"; do [ -x "$CACHE/$suite/qemu-system-x86_64" ] || missing+=("$suite"); done
[ ${#missing[@]} -eq 0 ] && exit 0

for tool in apt-get dpkg-deb flock timeout; do
    command -v "$tool" >/dev/null && continue
    echo "no QEMU is fetched, since there is no $tool: tests/interop/ runs with what MULTIFD_QEMU or PATH has, else not at all"
    exit 0
done
if [ ! -r "$KEYS" ]; then
    echo "no QEMU is fetched without $KEYS (package debian-archive-keyring): tests/interop/ runs with what MULTIFD_QEMU or PATH has"
    exit 0
fi

mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock -w "$DEADLINE_S" 9 || { echo "no QEMU is fetched: another one who does holds $CACHE/lock"; exit 0; }
rm -rf "$CACHE"/*.partial # of somebody who was killed; whoever works on one holds the lock, down to its last process
export -f packages unpack program fetch
export CACHE MIRROR KEYS
trap 'kill $(jobs -p) 2>/dev/null; exit 1' INT TERM
for suite in "${missing[@]}"; do
    [ -x "$CACHE/$suite/qemu-system-x86_64" ] && continue # by whoever held the lock
    echo "fetching QEMU of Debian $suite"
    timeout --kill-after=5 "$DEADLINE_S" bash -c 'fetch "$1"' _ "$suite" </dev/null >"$CACHE/$suite.log" 2>&1 &
done
wait
for suite in "${missing[@]}"; do report "$suite" "Why: $CACHE/$suite.log, $(tail -1 "$CACHE/$suite.log" 2>/dev/null)"; done
exit 0
