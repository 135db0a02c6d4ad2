#!/usr/bin/env bash
# Compiles the engine for a process as the Dockerfile does for a container: pip alone would compile one library, for this
# CPU, and no server. A wheel at hand (PIP_FIND_LINKS) is taken as it is there too.
# usage: wheels.cpu.sh cpu OUT PYTHON     needs: a C++ compiler. BUILD_JOBS: compilers at a time, all cores where empty
set -euo pipefail
here=$(realpath "$(dirname "$0")")
if "$3" -m pip download -q --no-deps --only-binary llama-cpp-python --dest "$2" -r "$here/requirements.txt"; then exit; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$3" -m pip install -q --target "$work/tools" -r "$here/requirements.build.txt"
export PATH="$work/tools/bin:$PATH" PYTHONPATH="$work/tools" PYTHON="$3"
"$3" -m pip download -q --no-deps --no-build-isolation --no-binary llama-cpp-python \
    --dest "$work/source" -r "$here/requirements.txt"
CMAKE_BUILD_PARALLEL_LEVEL="${BUILD_JOBS:-$(nproc)}" bash "$here/compile.sh" "$1" "$work"/source/llama_cpp_python-*.tar.gz "$2"
