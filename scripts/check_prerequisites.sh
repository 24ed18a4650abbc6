#!/bin/sh
# Checks what `make` needs from the machine before anything is downloaded: one line says what is missing.
# usage: check_prerequisites.sh PYTHON
python=$1

fail() {
    echo "lenet_ext: $1" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    fail "$python was not found: install Python 3.10 or newer (Debian: apt install python3 python3-venv python3-dev), or use make PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version) is too old: install Python 3.10 or newer, or use make PYTHON=..."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)"
"$python" -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null ||
    fail "Python.h was not found: install the headers of $python (Debian: apt install python3-dev)"

# setup.py looks for the same ones, and tries whether they are new enough.
for compiler in ${CXX:-g++ c++ clang++}; do
    command -v "$compiler" >/dev/null && exit 0
    [ -n "$CXX" ] && break
done
fail "no C++ compiler was found${CXX:+ at CXX=$CXX}: install g++ 12 or newer (Debian: apt install g++), or set CXX"
