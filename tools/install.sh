#!/bin/sh
# Makes a virtual environment (the first argument, else .venv) and installs the course there with the tested versions.
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}
cpu_index=https://download.pytorch.org/whl/cpu
torch=$(grep '^torch==' constraints.txt)

find_python() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    echo "The course needs Python 3.11, 3.12 or 3.13. Install one, or name it: make lab PYTHON=/path/to/python3.12" >&2
    return 1
}

# On Linux pip's usual torch brings several gigabytes of CUDA libraries, which are of no use without an NVIDIA GPU.
wants_cpu_build() {
    [ "$(uname -s)" = Linux ] || return 1
    command -v nvidia-smi >/dev/null && return 1
    "$venv/bin/python" -c 'import torch' 2>/dev/null && return 1
    "$venv/bin/python" -c "from urllib.request import urlopen; urlopen('$cpu_index/torch/', timeout=5)" 2>/dev/null || return 1
    "$venv/bin/pip" install --dry-run --no-deps --use-feature fast-deps --quiet --report - "$torch" 2>/dev/null | grep -q nvidia
}

if [ ! -x "$venv/bin/pip" ]; then
    python=$(find_python)
    "$python" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --upgrade "pip>=24.1,<27"  # an older pip downloads what it is only asked about
if wants_cpu_build; then
    echo "There is no NVIDIA GPU here: installing the CPU build of $torch."
    "$venv/bin/pip" install --no-deps --retries 1 --timeout 15 --index-url "$cpu_index" "$torch" ||
        echo "That build could not be had; going on with the usual one."
fi
"$venv/bin/pip" install --constraint constraints.txt --editable ".[dev]"

# JupyterLab opens without its question about news, and lists the lessons before the folders.
mkdir -p "$venv/share/jupyter/lab/settings"
cp tools/lab_settings.json "$venv/share/jupyter/lab/settings/overrides.json"
