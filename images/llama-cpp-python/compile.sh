#!/usr/bin/env bash
# Compiles the engine and its server into one wheel, of one source and with each library once.
# usage: compile.sh cuda|cpu SDIST OUT     needs: a C++ compiler, and what requirements.build.txt names, on PATH;
# CUDA_ARCHITECTURES and nvcc for cuda. PYTHON: its pip is called. CMAKE_BUILD_PARALLEL_LEVEL: compilers at a time.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
# NCCL is for several GPUs; a cell has one. The driver's library is not there where the server is linked.
case "$1" in
    cuda) device=(
        -DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF "-DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES:?90, for example}"
        -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined
    ) ;;
    cpu) device=(-DGGML_CUDA=OFF) ;;
    *) echo "cuda or cpu, not $1" >&2; exit 2 ;;
esac
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
tar -xzf "$2" -C "$source" --strip-components 1
cp "$here/tools.cmake" "$source/vendor/llama.cpp/tools/CMakeLists.txt"
# GGML_NATIVE=OFF: the image travels. AVX2, FMA and F16C stay on, as in llama.cpp's own releases of one file. The server
# speaks plain HTTP and has no page of its own.
options=(
    -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF "${device[@]}"
    -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
    -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON
)
# What llama.cpp installs for itself is left out: the binding has it once more.
export CMAKE_ARGS="${options[*]}" SKBUILD_WHEEL_EXCLUDE="bin/**;include/**;lib/**"
"${PYTHON:-python3}" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$3" "$source"
