#!/bin/sh
# Fetches etcd servers from Debian into .tools/, unpacked and not installed; needs no root.
#
#   tools/install-etcd.sh [3.4] [3.5]     default: 3.5
#
# 3.4 is Debian 12's etcd-server (3.4.23) in .tools/etcd34; 3.5 is Debian 13's (3.5.16) in .tools/etcd35. Elsewhere than on Debian
# install etcd and name it in AMINO_ETCD_BINARIES (colon-separated paths). What is there already is kept.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)

fetch() {
    [ -x "$2/usr/bin/etcd" ] && return 0
    rm -rf "$2"
    sh "$root/tools/debian-package.sh" "$1" etcd-server "$2"
    "$2/usr/bin/etcd" --version | head -n 1
}

[ $# -gt 0 ] || set -- 3.5
for version in "$@"; do
    case "$version" in
        3.4) fetch bookworm "$root/.tools/etcd34" ;;
        3.5) fetch trixie "$root/.tools/etcd35" ;;
        *) echo "install-etcd.sh: unknown version $version; choose 3.4 or 3.5" >&2; exit 2 ;;
    esac
done
