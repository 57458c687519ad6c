#!/bin/sh
# Makes the base image debian:bookworm-slim on this machine, where no image registry can be reached. Needs root and debootstrap.
#
#   deploy/docker/base.sh [TAG]     default: debian:bookworm-slim; what is there already is kept
set -eu
tag=${1:-debian:bookworm-slim}
if docker image inspect "$tag" >/dev/null 2>&1; then exit 0; fi
if docker pull -q "$tag" >/dev/null 2>&1; then exit 0; fi
command -v debootstrap >/dev/null || { echo "base.sh: $tag cannot be pulled, and there is no debootstrap to make it" >&2; exit 1; }
mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/root" ${mirror:+"$mirror"} >"$folder/log" 2>&1 ||
    { tail -n 20 "$folder/log" >&2; exit 1; }
(cd "$folder/root" && rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*)
tar -C "$folder/root" -c . | docker import - "$tag" >/dev/null
