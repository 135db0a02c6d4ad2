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
    cpu) device=(
        -DGGML_CUDA=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON
        # Of llama.cpp's list, those whose code differs from the next smaller one's: AVX2, VNNI beside AVX2, AVX-512, VNNI,
        # bfloat16, AMX. Each takes a core half a minute.
        "-DGGML_CPU_VARIANTS=haswell;alderlake;skylakex;cascadelake;zen4;sapphirerapids"
    ) ;;
    *) echo "cuda or cpu, not $1" >&2; exit 2 ;;
esac
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
tar -xzf "$2" -C "$source" --strip-components 1
cp "$here/tools.cmake" "$source/vendor/llama.cpp/tools/CMakeLists.txt"
if [ "$1" = cpu ]; then
    # llama.cpp builds all of its list or one: what is not wanted is passed over where each is added.
    list="$source/vendor/llama.cpp/ggml/src/CMakeLists.txt"
    added='function(ggml_add_cpu_backend_variant tag_name)'
    if ! grep -qxF "$added" "$list"; then
        echo "$added is not there: this llama.cpp adds its libraries for CPUs in another way" >&2; exit 2
    fi
    sed -i "/^$added\$/a if (GGML_SYSTEM_ARCH STREQUAL \"x86\" AND NOT tag_name IN_LIST GGML_CPU_VARIANTS)\nreturn()\nendif()" "$list"
fi
# GGML_NATIVE=OFF: the image travels. For a CPU there is a library for each kind, and the best is loaded at start
# (cpu_library.py); beside CUDA one with AVX2, FMA and F16C. The server speaks plain HTTP and has no page of its own.
options=(
    -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF "${device[@]}"
    -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
    -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON
)
# What llama.cpp installs for itself is left out: the binding has it once more.
export CMAKE_ARGS="${options[*]}" SKBUILD_WHEEL_EXCLUDE="bin/**;include/**;lib/**"
"${PYTHON:-python3}" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$3" "$source"
