#!/usr/bin/env bash
# Stages of acceptance.sh on a GPU host without a network, while its wheels still arrive (docs/airgap.md): the images that
# the stages need are built as soon as they can be, the models are made beside, and contract suites begin with the first
# image. What is timed waits until nothing else goes on.
#
#   tests/gpu/airgapped.sh PARTS FOLDER PYTHON [options of acceptance.sh] STAGE...
#
# PARTS, FOLDER, PYTHON: as for receive.sh and host.sh. The time limit, --seconds, counts from here. The exit code is the
# number of stages that did not end well. Needs what host.sh needs.
set -uo pipefail
root=$(realpath "$(dirname "$0")/../..")
parts=$1 folder=$2 python=$3
shift 3
seconds=1000000 options=() material=()
while [[ ${1:-} == --* ]]; do
    case $1 in
        --seconds) seconds=$2 ;;
        --data | --models | --tokenizer | --dataset) material+=("$1" "$2") ;;
        *) options+=("$1" "$2") ;;
    esac
    shift 2
done
shape=
for word in "${!options[@]}"; do [[ ${options[word]} != --shape ]] || shape=synthetic/${options[word + 1]}; done
begun=$SECONDS failed=0
left() { echo $((seconds - (SECONDS - begun))); }

images_of() { # STAGE; GPTQModel makes the weights that the GPTQ engines read
    case $1 in
        check-* | parity-* | headline-* | again-*) local named=${1#*-} && echo "gptqmodel ${named//,/ }" ;;
        failures) echo gptqmodel exllama exllamav2 transformers ;;
        memory) echo transformers vllm ;;
        serving | speculative | pair | pair-serving) echo vllm ;;
        pool) echo gptqmodel exllamav2 transformers vllm ;;
        capacity | precisions) echo vllm llama-cpp-python ;;
        llama-load) echo llama-cpp-python ;;
        awq) echo gptqmodel vllm ;;
        continuous) echo transformers ;;
        lmdeploy) echo gptqmodel lmdeploy ;;
        sglang) echo sglang ;;
        exllamav3) echo exllamav3 ;;
        repeats) echo gptqmodel exllama exllamav2 ;;
        *) echo "unknown stage: $1" >&2 && return 2 ;;
    esac
}
images=(null) # the first of host.sh's is built alone, with the bases
for stage in "$@"; do
    needed=$(images_of "$stage") || exit 2
    for image in $needed; do
        [[ " ${images[*]} " == *" $image "* ]] || images+=("$image")
    done
done

mkdir -p "$folder"
"$root/docker/airgap/receive.sh" "$parts" "$folder" &
"$root/docker/airgap/host.sh" "$folder" "$python" "${images[@]}" > "$folder/host.log" 2>&1 &
host=$!
until [[ -e $folder/installed ]]; do
    if (($(left) <= 0)) || ! kill -0 $host 2> /dev/null; then
        cat "$folder/host.log" >&2
        exit 1
    fi
    sleep 0.3
done
. "$folder/env.sh"
export PYTHON=$python
for model in synthetic/llama-2-7b-8-layers synthetic/llama-2-7b $shape; do
    "$python" -m bench_core.prepare "${material[@]}" --model "$model" --samples 384 --max-prompt-tokens 64
done > "$folder/prepare.log" 2>&1 &
models=$!

for stage in "$@"; do
    for image in $(images_of "$stage"); do
        until [[ -e $folder/built/$image || -e $folder/failed/$image ]] || (($(left) <= 0)); do sleep 0.3; done
    done
    if [[ $stage != check-* ]]; then
        for other in $host $models; do
            while kill -0 "$other" 2> /dev/null && (($(left) > 0)); do sleep 0.3; done
        done
    fi
    echo "$((SECONDS - begun)) s  $stage begins"
    "$root/tests/gpu/acceptance.sh" "${options[@]}" "${material[@]}" --seconds "$(left)" "$stage" || failed=$((failed + 1))
done
exit $failed
