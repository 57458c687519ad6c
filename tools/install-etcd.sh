#!/bin/sh
# Fetches etcd servers from Debian into .tools/, unpacked and not installed; needs no root.
#
#   tools/install-etcd.sh [3.4] [3.5]     default: 3.5
#
# 3.4 is Debian 12's etcd-server (3.4.23) in .tools/etcd34; 3.5 is Debian 13's (3.5.16) in .tools/etcd35. The package
# sources are the machine's own, with the release's code name replaced, so a mirror or proxy set up here is used.
# What is there already is kept.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)

for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null 2>&1 || {
        echo "install-etcd.sh: $tool not found. This script is for Debian; elsewhere install etcd and name it in" >&2
        echo "AMINO_ETCD_BINARIES (colon-separated paths)." >&2
        exit 1
    }
done
. /etc/os-release
[ "${ID:-}" = debian ] && [ -n "${VERSION_CODENAME:-}" ] || {
    echo "install-etcd.sh: the sources can only be derived on Debian; this is ${PRETTY_NAME:-unknown}." >&2
    exit 1
}

# Writes the machine's package sources for another release into a folder of their own.
derive_sources() {
    release=$1
    sources=$2
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.list; do
        [ -r "$file" ] && grep -q "$VERSION_CODENAME" "$file" || continue
        sed "s/$VERSION_CODENAME/$release/g" "$file" >"$sources/$(basename "$file")"
    done
}

fetch() {
    release=$1
    target=$2
    [ -x "$target/usr/bin/etcd" ] && return 0
    work=$(mktemp -d)
    mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial" "$work/tree"
    derive_sources "$release" "$work/sources"
    apt() {
        apt-get --quiet=2 -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" \
            -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" \
            -o Acquire::Retries=3 "$@"
    }
    apt update
    (cd "$work" && apt download etcd-server)
    dpkg -x "$work"/etcd-server_*.deb "$work/tree"
    "$work/tree/usr/bin/etcd" --version | head -n 1
    rm -rf "$target"
    mkdir -p "$(dirname "$target")"
    mv "$work/tree" "$target"
    rm -rf "$work"
}

[ $# -gt 0 ] || set -- 3.5
for version in "$@"; do
    case "$version" in
        3.4) fetch bookworm "$root/.tools/etcd34" ;;
        3.5) fetch trixie "$root/.tools/etcd35" ;;
        *) echo "install-etcd.sh: unknown version $version; choose 3.4 or 3.5" >&2; exit 2 ;;
    esac
done
