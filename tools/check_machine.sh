#!/bin/sh
# Says in one line what this machine lacks to build Eventide. Usage: check_machine.sh PYTHON
python=${1:-python3}

fail() {
    echo "error: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "no $python found; install Python 3.10 or newer (apt install python3 python3-venv python3-dev), or name one: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$python is $("$python" -V 2>&1), and Eventide needs 3.10 or newer; name another one: make PYTHON=/path/to/python3"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python can't make virtual environments; apt install python3-venv"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    fail "the headers of $python are missing; apt install python3-dev"
# the order in which CMake looks
compiler=${CXX:-}
for name in c++ g++ clang++; do
    [ -n "$compiler" ] || ! command -v "$name" >/dev/null 2>&1 || compiler=$name
done
[ -n "$compiler" ] || fail "no C++ compiler found; apt install g++ (or set CXX)"
printf 'int main() { return 0; }\n' | "$compiler" -x c++ -std=c++17 -o /dev/null - 2>/dev/null ||
    fail "the C++ compiler $compiler doesn't compile C++17; install a newer one (apt install g++) or set CXX"
