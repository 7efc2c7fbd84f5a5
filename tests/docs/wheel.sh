#!/bin/sh
# wheel.sh PYTHON TESTS_PYTHON: a source archive and a wheel of it in dist/, the wheel in a clean environment that lies
# outside of the checkout, and with that environment's spiketok every block of the guides. TESTS_PYTHON runs the tests.
set -eu
unset PYTHONPATH PYTHONHOME  # a checkout on the path is a spiketok that pip takes for installed
python=$1 tests=$2
here=$(cd "$(dirname "$0")/../.." && pwd)
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
quiet="--quiet --disable-pip-version-check"

"$python" -m venv "$made/build"
"$made/build/bin/python" -m pip install $quiet -c "$here/constraints-docs.txt" build
rm -rf "$here/build" "$here/dist"
"$made/build/bin/python" -m build --outdir "$here/dist" "$here" > "$made/build.log" 2>&1 || { cat "$made/build.log"; exit 1; }
rm -rf "$here/build"
wheel=$(ls "$here"/dist/*.whl)

"$python" -m venv "$made/clean"
"$made/clean/bin/python" -m pip install $quiet -c "$here/constraints.txt" "$wheel[train,dandi,plots,remote,hub,sorting,lightning,trackers]"
(cd / && "$made/clean/bin/spiketok" --version)
cd "$here"
SPIKETOK_BIN="$made/clean/bin" "$tests" -m pytest -n auto --dist loadscope -m slow tests/docs
