#!/usr/bin/env bash
# Compiles what travels as sources, on a machine that needs no GPU: the kernels of all images that have a
# build_wheel.py, pypcre, and llama.cpp with its server. pack.py --built OUT takes the wheels.
# usage: compile.sh WHEELS OUT PYTHON      WHEELS: airgap/wheels; PYTHON: of the host's version, with its torch
# needs: CUDA_HOME (the toolkit of that torch), g++, PCRE2's headers; TORCH_CUDA_ARCH_LIST, 9.0 for example
set -euo pipefail
: "${CUDA_HOME:?the CUDA toolkit}" "${TORCH_CUDA_ARCH_LIST:?the GPU, 9.0 for example}"
wheels=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
python=$3
repository=$(realpath "$(dirname "$0")/../..")
images=$repository/images

have() { compgen -G "$1" > /dev/null; }
for script in "$images"/*/build_wheel.py; do
    engine=$(basename "$(dirname "$script")")
    # GPTQModel comes last, since it must be installed to be compiled.
    if [ "$engine" != gptqmodel ] && have "$wheels/$engine-*-none-any.whl"; then
        PYTHONPATH=$repository "$python" "$script" "$wheels/$engine"-*-none-any.whl "$out"
    fi
done
if have "$wheels/pypcre-*.tar.gz"; then
    "$python" -m pip wheel --no-deps -w "$out" "$wheels"/pypcre-*.tar.gz
fi
if have "$wheels/llama_cpp_python-*.tar.gz"; then
    # In a subshell, with the tools that its image compiles with in a folder of this call's.
    (
        tools=$(mktemp -d)
        trap 'rm -rf "$tools"' EXIT
        "$python" -m pip install --target "$tools" -r "$images/llama-cpp-python/requirements.build.txt"
        # torch writes "8.0;9.0+PTX", CMake "80;90".
        architectures=$(tr ' ' ';' <<< "${TORCH_CUDA_ARCH_LIST//[.]/}" | sed 's/+PTX//g')
        export CUDACXX=$CUDA_HOME/bin/nvcc PATH=$tools/bin:$PATH PYTHONPATH=$tools PYTHON=$python
        CUDA_ARCHITECTURES=$architectures "$images/llama-cpp-python/compile.sh" cuda "$wheels"/llama_cpp_python-*.tar.gz "$out"
    )
fi
if have "$wheels/gptqmodel-*-none-any.whl"; then
    # Its own loader compiles the kernel, so the engine must be there, in a folder of this call's.
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --no-index --find-links "$out" --find-links "$wheels" --no-deps --target "$site" \
        $(grep -h -v '^#' "$images/gptqmodel/requirements.txt" "$images/gptqmodel/requirements.no-deps.txt")
    cp "$wheels"/gptqmodel-*-none-any.whl "$out"
    PYTHONPATH=$site:$repository "$python" "$images/gptqmodel/build_wheel.py" "$out"/gptqmodel-*-none-any.whl
fi
