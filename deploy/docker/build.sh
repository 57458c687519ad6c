#!/bin/sh
# Builds the image of a kernel server, which is that of the operator of Kubernetes, too: wheels are got here, outside, and copied in.
#
#   deploy/docker/build.sh [TAG] [SOURCES]    default: amino:latest, of this repository
#
# What Amino needs comes by requirements.lock, each file by its hash, so that the same sources give the same image (docs/deploy.md).
# PYTHON names the interpreter that gets the wheels (any with pip); BASE the base image, of Debian 12 with Python 3.11. Wheels of what
# Amino needs are kept in build/docker and got again when the lock changes. FRESH=1 makes every layer anew.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tag=${1:-amino:latest}
sources=${2:-$root}
python=${PYTHON:-$root/.venv/bin/python}
base=${BASE:-debian:bookworm-slim}
context=$root/build/docker
# The time that all files of the image are of: that of the last commit; of sources without history, one like another.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$sources" log -1 --format=%ct 2>/dev/null || echo 1763769600)}
export SOURCE_DATE_EPOCH
mkdir -p "$context/dependencies"
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }

rm -rf "$context/wheel"
pip wheel --no-deps --wheel-dir "$context/wheel" "$sources"
lock=$sources/deploy/docker/requirements.lock
[ -f "$lock" ] || lock=$sources/pyproject.toml # an earlier release, whose dependencies are resolved anew
stamp=$context/stamp-$(cksum <"$lock" | cut -d' ' -f1)
if [ ! -f "$stamp" ]; then
    rm -rf "$context/dependencies" "$context"/stamp-*
    machine=$(uname -m)
    if [ "$lock" = "$sources/pyproject.toml" ]; then
        set -- "$context"/wheel/*.whl
    else
        set -- --require-hashes --no-deps -r "$lock"
    fi
    pip download --dest "$context/dependencies" --only-binary :all: --python-version 3.11 --implementation cp \
        --abi cp311 --abi abi3 --abi none --platform "manylinux_2_28_$machine" --platform "manylinux_2_17_$machine" \
        --platform "manylinux2014_$machine" "$@"
    rm -f "$context"/dependencies/amino_run-*.whl
    touch "$stamp"
fi
cp "$here/first.sh" "$context/first.sh"
docker build --quiet ${FRESH:+--no-cache} --build-arg "BASE=$base" --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" --tag "$tag" \
    --file "$here/Dockerfile" "$context"
