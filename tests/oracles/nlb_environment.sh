#!/bin/sh
# Makes the environment in which nlb_tools runs: nlb_environment.sh FOLDER PYTHON CONSTRAINTS.
# pandas 1.3.4 has no wheel for Python 3.11: its sources are built, with their C files made anew (some ten minutes).
set -eu
folder=$1 python=$2 pins=$(realpath "$3")
"$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
pip install -c "$pins" numpy cython setuptools wheel scipy scikit-learn h5py tqdm python-dateutil pytz jsonschema ruamel.yaml
if ! "$folder/bin/python" -c 'import pandas' 2>/dev/null; then
    mkdir -p "$folder/src"
    # pip also tries to read the sources' metadata, which may fail where the archive itself has arrived
    pip download --no-deps --no-binary :all: --no-build-isolation pandas==1.3.4 -d "$folder/src" || true
    tar -xf "$folder/src/pandas-1.3.4.tar.gz" -C "$folder/src"
    find "$folder/src/pandas-1.3.4/pandas" -name '*.c' -o -name '*.cpp' | while read -r made; do
        if [ -e "${made%.*}.pyx" ]; then rm "$made"; fi
    done
    CFLAGS="-O1 -w" PATH="$(realpath "$folder")/bin:$PATH" \
        pip wheel --no-deps --no-build-isolation "$folder/src/pandas-1.3.4" -w "$folder/src"
    pip install --no-deps --no-index "$folder"/src/pandas-1.3.4-*.whl
fi
pip install --no-deps -c "$pins" nlb-tools hdmf pynwb
"$folder/bin/python" -c 'import nlb_tools.make_tensors'
