#!/bin/sh
# Lists the Python interpreters that can run Amino: CPython 3.11 or newer, with venv and ensurepip.
#
#   tools/pythons.sh all      one line per minor version, newest first: "3.13 /path/to/python3.13"
#   tools/pythons.sh newest   the path of the newest one that is on PATH (pyenv's others are for `all` only)
#
# PYTHONS_MAX (default 3.14) is the newest version that is looked for.
set -eu

probe='import sys, ensurepip, venv
assert sys.version_info >= (3, 11) and sys.implementation.name == "cpython"
print("%d.%d" % sys.version_info[:2], sys.executable)'

# Prints "X.Y path" for a working interpreter, nothing otherwise (a pyenv shim of an inactive version fails here).
try() {
    "$1" -c "$probe" 2>/dev/null || true
}

candidates() {
    minor=${PYTHONS_MAX:-3.14}
    minor=${minor#3.}
    while [ "$minor" -ge 11 ]; do
        # Every directory of PATH is tried: a shim that fails must not hide the interpreter behind it.
        old_ifs=$IFS
        IFS=:
        for directory in $PATH; do
            IFS=$old_ifs
            [ -x "$directory/python3.$minor" ] && try "$directory/python3.$minor"
        done
        IFS=$old_ifs
        if [ "$1" = all ]; then
            for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor"*/bin/python3."$minor"; do
                [ -x "$python" ] && try "$python"
            done
        fi
        minor=$((minor - 1))
    done
    for name in python3 python; do
        command -v "$name" >/dev/null 2>&1 && try "$name"
    done
    return 0
}

case "${1:-}" in
    all) candidates all | sort -t. -k2,2nr -s | awk '!seen[$1]++' ;;
    newest) candidates path | sort -t. -k2,2nr -s | awk 'NR == 1 { sub(/^[^ ]* /, ""); print }' ;;
    *) echo "usage: tools/pythons.sh all|newest" >&2; exit 2 ;;
esac
