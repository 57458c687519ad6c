#!/bin/sh
# Runs the unit and conformance tests on every Python from 3.11 that the machine has, against the built wheel.
#
# Each version has its environment in .venvs/X.Y and a copy of the tests without the package's source beside it, so
# that nothing but the wheel can be imported. All versions run; the first failure decides the exit code.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
wheel=$(ls build/wheel/*.whl)
failed=""

run() {
    version=$1
    python=$2
    shift 2
    environment=.venvs/$version
    if [ ! -x "$environment/bin/python" ]; then
        rm -rf "$environment"
        "$python" -m venv "$environment"
    fi
    # Dependencies follow pyproject.toml; the wheel itself is put in place each time.
    if [ ! -e "$environment/.stamp" ] || [ pyproject.toml -nt "$environment/.stamp" ]; then
        "$environment/bin/python" -m pip --quiet --disable-pip-version-check install "$wheel[test]"
        touch "$environment/.stamp"
    fi
    "$environment/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps --force-reinstall "$wheel"
    rm -rf "$environment/tree"
    mkdir "$environment/tree"
    for part in tests examples bench chaos docs deploy tools pyproject.toml Makefile README.md CHANGELOG.md \
        CONTRIBUTING.md LICENSE; do
        [ -e "$part" ] && cp -R "$part" "$environment/tree/"
    done
    (cd "$environment/tree" && ../bin/python -m pytest -m "not real and not slow" "$@")
}

list=$(mktemp)
sh tools/pythons.sh all >"$list"
while read -r version python; do
    echo "== Python $version: $python"
    run "$version" "$python" "$@" </dev/null || failed="$failed $version"
done <"$list"
rm -f "$list"

if [ -n "$failed" ]; then
    echo "Failed on Python$failed" >&2
    exit 1
fi
