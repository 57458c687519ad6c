#!/usr/bin/env bash
# Runs tests of a fix on the commit before it, where they should fail: bash tools/at-parent.sh FIX TEST...
#
# FIX is the fix's commit; each TEST is a file of tests, with ::NAME or without. The parent is checked out beside, in a folder that goes
# again at the end, with the fix's own test files and the helpers beside them. PYTHON chooses the interpreter, else it is that of `make`
# (.venv). Its exit code is pytest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fix=$1
shift
python=${PYTHON:-$PWD/.venv/bin/python}
there=$(mktemp -d)
trap 'git worktree remove --force "$there" >/dev/null 2>&1; rm -rf "$there"' EXIT
git worktree add --quiet --detach "$there" "$fix^"
for test in "$@"; do
  (cd "$there" && git checkout --quiet "$fix" -- "$(dirname "${test%%::*}")")
done
cd "$there"
PYTHONPATH=. "$python" -m pytest -q -p no:cacheprovider -p no:randomly "$@"
