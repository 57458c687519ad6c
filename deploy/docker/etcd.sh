#!/bin/sh
# Makes an image of etcd from the programs of this machine, where no image registry can be reached: what is in it, and where, is as in
# the image that compose.yaml names.
#
#   deploy/docker/etcd.sh [TAG]     default: amino-etcd:latest
#
# ETCD and ETCDCTL name the programs, default: those on PATH; BASE is any image that can run them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tag=${1:-amino-etcd:latest}
base=${BASE:-debian:bookworm-slim}
etcd=$(command -v "${ETCD:-etcd}") || { echo "etcd.sh: no program ${ETCD:-etcd} (Debian: apt install etcd-server)" >&2; exit 1; }
etcdctl=$(command -v "${ETCDCTL:-etcdctl}") ||
    { echo "etcd.sh: no program ${ETCDCTL:-etcdctl} (Debian: apt install etcd-client)" >&2; exit 1; }
[ -n "${BASE:-}" ] || sh "$here/base.sh" "$base"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$etcd" "$folder/etcd"
cp "$etcdctl" "$folder/etcdctl"
printf '%s\n' "FROM $base" 'COPY etcd etcdctl /usr/local/bin/' 'WORKDIR /var/lib/etcd/' 'EXPOSE 2379 2380' \
    'CMD ["/usr/local/bin/etcd"]' | docker build --quiet --tag "$tag" --file - "$folder"
