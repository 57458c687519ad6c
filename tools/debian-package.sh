#!/bin/sh
# Unpacks a package of a Debian release into a folder; nothing is installed, and no root is needed.
#
#   tools/debian-package.sh RELEASE PACKAGE FOLDER      for example trixie etcd-server .tools/etcd35
#
# The package sources are the machine's own, with the release's code name replaced, so a mirror or proxy set up here is used.
# A folder that is there already is kept.
set -eu

release=$1
package=$2
folder=$3
[ -d "$folder" ] && exit 0

for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null 2>&1 || { echo "debian-package.sh: $tool not found; this script is for Debian" >&2; exit 1; }
done
. /etc/os-release
[ "${ID:-}" = debian ] && [ -n "${VERSION_CODENAME:-}" ] || {
    echo "debian-package.sh: the sources can only be derived on Debian; this is ${PRETTY_NAME:-unknown}." >&2
    exit 1
}

work=$(mktemp -d)
mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial" "$work/tree"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.list; do
    [ -r "$file" ] && grep -q "$VERSION_CODENAME" "$file" || continue
    sed "s/$VERSION_CODENAME/$release/g" "$file" >"$work/sources/$(basename "$file")"
done
# What is installed here is of no interest: a newer version of the package would hide the release's.
apt() {
    apt-get --quiet=2 -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" \
        -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 "$@"
}
apt update
(cd "$work" && apt download "$package")
dpkg -x "$work/$package"_*.deb "$work/tree"
mkdir -p "$(dirname "$folder")"
mv "$work/tree" "$folder"
rm -rf "$work"
