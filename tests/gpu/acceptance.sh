#!/usr/bin/env bash
# What only a GPU can show, for hosts that have one (CI has none): contract suites, typed failures, parity, the smallest
# memory, repeats. Stages run in the order given; each is a call of the driver, and a run that is there is resumed.
#
#   tests/gpu/acceptance.sh [--results R] [--data D] [--models M] [--tokenizer T] [--dataset S] [--seconds N]
#       [--model-folder F] [--shape S] STAGE...
#
# Stages: check-IMAGE  failures  parity-IMAGE[,IMAGE...]  memory  repeats  serving  capacity  llama-load  precisions  awq
#         continuous  speculative  sglang  lmdeploy  exllamav3  headline-IMAGE[,IMAGE...]  again-IMAGE[,IMAGE...]  all
# Not among all: headline, again, and of two GPUs of one host pool  pair  pair-serving. NVLink multicast stays off, whatever runs
# on them.
# --model-folder: a model with trained weights, which the stage speculative wants; all leaves it out without one.
# --shape: of the stages headline and again, a model's name without synthetic/ (llama-2-7b).
# --seconds: everything must have ended by then; the batch in hand is finished, the rest is left for another call.
# Logs and results are left in R; the exit code is the number of stages that did not end well.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
results=results data=data models=models tokenizer='' dataset=roneneldan/TinyStories seconds=1000000 model_folder='' shape=llama-2-7b
while [[ ${1:-} == --* ]]; do
    case $1 in
        --results | --data | --models | --tokenizer | --dataset | --seconds) declare "${1#--}=$2" && shift 2 ;;
        --model-folder) model_folder=$2 && shift 2 ;;
        --shape) shape=$2 && shift 2 ;;
        *) echo "unknown option: $1" >&2; exit 2 ;;
    esac
done
(($#)) || { echo "no stage is named: all, for example" >&2; exit 2; }
mkdir -p "$results"
begun=$SECONDS failed=0
story=(--dataset "$dataset" ${tokenizer:+--tokenizer "$tokenizer"})

drive() { # NAME arguments of the driver
    local name=$1 left=$((seconds - (SECONDS - begun))) at=$SECONDS code
    shift
    if ((left < 15)); then echo "$((SECONDS - begun)) s  $name: no time is left"; return 99; fi
    timeout --foreground --signal INT --kill-after 60 "$left" "$python" -m bench_core.drive --device cuda --launcher docker \
        --results "$results" --data "$data" --models "$models" --yes "$@" > "$results/$name.log" 2>&1
    code=$?
    echo "$((SECONDS - begun)) s  $name: exit code $code after $((SECONDS - at)) s"
    return $code
}

named() { # RUN: the driver's words for it, begun or gone on with
    if [[ -f $results/$1/run.json ]]; then echo "--resume $1"; else echo "--run-id $1"; fi
}

check() { # IMAGE: its contract suite, every variant
    drive "check-$1" --images "$1" --variants all --self-check
    local code=$?
    echo "    $(grep -c ': passed' "$results/check-$1.log") passed, $(grep -c ': recorded' "$results/check-$1.log") recorded," \
        "$(grep -c ': failed' "$results/check-$1.log") failed"
    return $code
}

expect() { # RUN CELL OUTCOME
    local found
    found=$(sed -n 's/.*"outcome": *"\([a-z_]*\)".*/\1/p' "$results/$1/cells/$2/outcome.json" 2>/dev/null | head -1)
    [[ $found == "$3" ]] || { echo "    $1 $2: ${found:-nothing} instead of $3"; return 1; }
}

failures() { # typed outcomes, and other cells go on; an engine compiled for another GPU wants an image of its own
    local plain=(--no-harness-check --no-device-rates --max-batches 2) code=0
    if [[ ! -d $results/failures-artifact ]]; then
        "$python" -m bench_core.prepare --model synthetic/tiny --samples 8 --data "$data" --models "$models" > /dev/null 2>&1
        drive failures-artifact --run-id failures-artifact --images exllama,exllamav2,gptqmodel,transformers \
            --variants exllama.gptq-int4,exllamav2.gptq-int4,gptqmodel.gptq-int4,transformers.fp16 --batch-sizes 1 \
            --samples 8 --max-new-tokens 16 --models "$models/other" "${plain[@]}" \
            --artifact "gptq-int4-g128=$(echo "$models"/synthetic-tiny-*/hf)"
    fi
    for engine in exllama exllamav2 gptqmodel; do
        expect failures-artifact $engine.gptq-int4.b1 bad_spec || code=1
    done
    expect failures-artifact transformers.fp16.b1 ok || code=1
    if [[ ! -d $results/failures-memory ]]; then
        drive failures-memory --run-id failures-memory --model synthetic/llama-2-7b-8-layers "${story[@]}" \
            --images transformers,exllamav2 --variants transformers.fp16,exllamav2.gptq-int4 --batch-sizes 1,1000 \
            --samples 1000 --max-new-tokens 200 --max-warmup-batches 1 "${plain[@]}"
    fi
    for method in transformers.fp16 exllamav2.gptq-int4; do
        expect failures-memory $method.b1 ok || code=1
        expect failures-memory $method.b1000 oom_kv || code=1
    done
    return $code
}

parity() { # IMAGES
    # shellcheck disable=SC2046  # two words
    drive "parity-$1" $(named parity) --suite suites/parity.yaml "${story[@]}" --images "$1" --no-device-rates
}

memory() { # the smallest budget of vLLM, and one 7B cell of each explained
    # shellcheck disable=SC2046  # two words
    drive memory $(named memory) --images transformers,vllm --variants transformers.fp16,vllm.fp16 --batch-sizes 1 \
        --model synthetic/llama-2-7b "${story[@]}" --samples 64 --max-new-tokens 200 --max-batches 5 \
        --no-harness-check --device-rates --min-memory vllm.fp16.b1
}

repeats() {
    local begin=(--suite suites/repeats.yaml "${story[@]}")
    [[ ! -f $results/repeats/run.json ]] || begin=() # what was asked for is kept with the run
    # shellcheck disable=SC2046  # two words
    drive repeats $(named repeats) "${begin[@]}" --no-device-rates
}

serving() { # vLLM's server under load, its capacity, and its own client against the same server
    local left=$((seconds - (SECONDS - begun))) at=$SECONDS code
    # shellcheck disable=SC2046  # two words
    PYTHONPATH=${PYTHONPATH:-.} timeout --foreground --signal INT --kill-after 60 "$left" "$python" \
        tests/gpu/serving_parity.py "$results/serving-parity" --device cuda --launcher docker --results "$results" \
        --data "$data" --models "$models" --yes $(named serving) --suite suites/serving.yaml "${story[@]}" \
        --images vllm --variants vllm.fp16 --find-capacity vllm.fp16 --capacity-start 8 --max-serve-seconds 30 \
        --max-ramp-seconds 15 --no-harness-check --no-device-rates > "$results/serving.log" 2>&1
    code=$?
    echo "$((SECONDS - begun)) s  serving: exit code $code after $((SECONDS - at)) s"
    return $code
}

capacity() { # two engines' servers at some load points, and the highest rate that vLLM's carries within the limits
    # shellcheck disable=SC2046  # two words
    drive capacity $(named capacity) --suite suites/serving.yaml "${story[@]}" --images vllm,llama-cpp-python \
        --variants vllm.fp16,llama-cpp-python.q4_k_m --concurrency 1,16,64 --request-rate 4,16 \
        --find-capacity vllm.fp16 --capacity-start 40 --capacity-limit 64 --max-serve-seconds 20 --max-ramp-seconds 10 \
        --no-device-rates
}

llama_load() { # llama.cpp's server at the load points of `capacity`, and the highest rate that it carries within the limits
    # shellcheck disable=SC2046  # two words
    drive llama-load $(named llama-load) --suite suites/serving.yaml "${story[@]}" --images llama-cpp-python \
        --variants llama-cpp-python.q4_k_m --concurrency 1,16,64 --request-rate 4,16 \
        --find-capacity llama-cpp-python.q4_k_m --capacity-start 8 --capacity-limit 64 --max-serve-seconds 20 \
        --max-ramp-seconds 10 --no-device-rates
}

precisions() { # closed batches: vLLM in 16 bits and with 8-bit floating point, llama.cpp in 16 and in 4 bits, each also called directly
    # shellcheck disable=SC2046  # two words
    drive precisions $(named precisions) --images vllm,llama-cpp-python \
        --variants vllm.fp16,vllm.fp8,llama-cpp-python.f16,llama-cpp-python.q4_k_m --batch-sizes 1,4,16,64 \
        --model synthetic/llama-2-7b "${story[@]}" --samples 256 --max-new-tokens 200 --max-seconds 15 \
        --direct-batches 3 --direct-batch-sizes 1,64 --no-harness-check --no-device-rates
}

two() { # QUESTION RUN RUN: what they say, held against the targets
    PYTHONPATH=${PYTHONPATH:-.} "$python" tests/gpu/two_gpus.py "$1" "$results/$2" "$results/$3" | sed 's/^/    /'
    return "${PIPESTATUS[0]}"
}

pool() { # eight cells on one GPU, then on both side by side: half the time, what neighbours cost, the control on both
    local cells=(--images vllm,exllamav2,transformers --model synthetic/llama-2-7b "${story[@]}" --batch-sizes 1,16
        --variants vllm.fp16,vllm.gptq,exllamav2.gptq-int4,transformers.fp16-compiled
        --samples 128 --max-new-tokens 200 --max-seconds 10 --no-harness-check --no-device-rates)
    # shellcheck disable=SC2046  # two words
    drive pool-one $(named pool-one) "${cells[@]}" --gpus 0 --control none || return
    # shellcheck disable=SC2046
    drive pool-both $(named pool-both) "${cells[@]}" --gpus 0,1 --control exllamav2.gptq-int4.b1 || return
    two pool pool-one pool-both
}

pair() { # vLLM on one GPU and with tensor parallelism 2: parity with the engine itself, sums of memory, energy, roofs
    local cells=(--images vllm --variants vllm.fp16 --model synthetic/llama-2-7b "${story[@]}" --batch-sizes 1,16,64
        --samples 384 --max-new-tokens 200 --max-seconds 12 --no-harness-check --device-rates)
    # shellcheck disable=SC2046  # two words
    drive pair-one $(named pair-one) "${cells[@]}" --gpus 0 || return
    # shellcheck disable=SC2046
    drive pair-both $(named pair-both) "${cells[@]}" --gpus 0,1 --gpus-per-cell 2 --direct-batches 4 || return
    two pair pair-one pair-both
}

pair_serving() { # one server of vLLM on both GPUs at concurrency 64, and two servers of one GPU each
    local load=(--images vllm --variants vllm.fp16 --model synthetic/llama-2-7b "${story[@]}" --samples 1000
        --max-new-tokens 200 --max-serve-seconds 20 --max-ramp-seconds 10 --no-harness-check --no-device-rates)
    # shellcheck disable=SC2046  # two words
    drive pair-serving $(named pair-serving) "${load[@]}" --concurrency 64 --gpus 0,1 --gpus-per-cell 2 || return
    # Two repeats, one on each GPU at the same time: as many requests in flight together, and as many at each.
    # shellcheck disable=SC2046
    drive each-serving $(named each-serving) "${load[@]}" --concurrency 32,64 --gpus 0,1 --repeats 2 --control none \
        --beside-sample 0 || return
    two serving pair-serving each-serving
}

awq() { # vLLM and GPTQModel on AWQ beside GPTQ; the kernel that each took stands in result.json and is printed
    local code
    # shellcheck disable=SC2046  # two words
    drive awq $(named awq) --images vllm,gptqmodel --variants vllm.gptq,vllm.awq,gptqmodel.gptq-int4,gptqmodel.awq-int4 \
        --batch-sizes 1,64 --model synthetic/llama-2-7b "${story[@]}" --samples 256 --max-new-tokens 200 --max-seconds 15 \
        --direct-batches 2 --no-harness-check --no-device-rates
    code=$?
    grep -o '"\(linear_kernel\|kernel\)": *"[^"]*"' "$results"/awq/cells/*awq*.b1/result.json
    for cell in vllm.awq.b1 gptqmodel.awq-int4.b1; do
        grep -qi marlin "$results/awq/cells/$cell/result.json" || { echo "    $cell does not run on Marlin"; code=1; }
    done
    return $code
}

continuous() { # Transformers' generate and generate_batch, each beside a direct call
    # shellcheck disable=SC2046  # two words
    drive continuous $(named continuous) --images transformers --variants transformers.fp16,transformers.fp16-continuous \
        --batch-sizes 1,16,64 --model synthetic/llama-2-7b "${story[@]}" --samples 256 --max-new-tokens 200 \
        --max-seconds 15 --direct-batches 2 --no-harness-check --no-device-rates
}

speculative() { # vLLM with n-grams beside plain vLLM, on trained weights: random ones say nothing of it
    [[ -n $model_folder ]] || { echo "    speculative: --model-folder is missing"; return 1; }
    # shellcheck disable=SC2046  # two words
    drive speculative $(named speculative) --images vllm --variants vllm.fp16,vllm.fp16-ngram --batch-sizes 1,16 \
        --model "$model_folder" --dataset "$dataset" --samples 128 --max-new-tokens 200 --max-seconds 15 \
        --direct-batches 2 --no-harness-check --no-device-rates
}

study() { # ENGINE VARIANTS [SIZES]: closed batches of a model of 7B, some sizes (by default all) also called directly
    # shellcheck disable=SC2046  # two words
    drive "$1" $(named "$1") --images "$1" --variants "$2" --batch-sizes 1,4,16,64 --model synthetic/llama-2-7b \
        "${story[@]}" --samples 256 --max-new-tokens 200 --max-seconds 15 --direct-batches 2 \
        ${3:+--direct-batch-sizes "$3"} --no-harness-check --no-device-rates
}

study_load() { # ENGINE VARIANTS: the engine's server under two closed loops of the same
    # shellcheck disable=SC2046  # two words
    drive "$1-serving" $(named "$1-serving") --images "$1" --variants "$2" --concurrency 16,64 \
        --model synthetic/llama-2-7b "${story[@]}" --samples 1000 --max-new-tokens 200 --max-serve-seconds 20 \
        --max-ramp-seconds 10 --no-harness-check --no-device-rates
}

lmdeploy() { # TurboMind in 16 bits, AWQ and GPTQ; the kernel that each took stands in result.json and is printed
    local code
    study lmdeploy lmdeploy.fp16,lmdeploy.awq,lmdeploy.gptq 1,64
    code=$?
    grep -o '"linear_kernel[a-z_]*": *"[^"]*"' "$results"/lmdeploy/cells/*.b1/result.json
    study_load lmdeploy lmdeploy.fp16 || code=1
    return $code
}

sglang() { # in 16 and 8 bits
    local code
    study sglang sglang.fp16,sglang.fp8 64
    code=$?
    study_load sglang sglang.fp16 || code=1
    return $code
}

exllamav3() { # EXL3, which its converter makes here, and 16 bits
    study exllamav3 exllamav3.fp16,exllamav3.exl3-4.0bpw
}

headline() { # IMAGES: what of suites/headline.yaml is theirs; a later visit adds others to the same run
    # shellcheck disable=SC2046  # two words
    drive "headline-$shape" $(named "headline-$shape") --suite suites/headline.yaml --images "$1" \
        --model "synthetic/$shape" "${story[@]}" --no-device-rates
}

again() { # IMAGES: the smallest and the largest batch size of that, three times
    # shellcheck disable=SC2046  # two words
    drive "again-$shape" $(named "again-$shape") --suite suites/headline.yaml --images "$1" \
        --model "synthetic/$shape" "${story[@]}" --batch-sizes 1,64 --max-seconds 10 --repeats 3 --no-device-rates
}

engines=() # all that are compared on a GPU
for manifest in images/*/image.yaml; do
    if grep -q '^devices: .*cuda' "$manifest" && ! grep -q '^ranked: false' "$manifest"; then
        engines+=("$(basename "$(dirname "$manifest")")")
    fi
done
for stage in "$@"; do
    case $stage in
        check-*) check "${stage#check-}" ;;
        parity-*) parity "${stage#parity-}" ;;
        headline-*) headline "${stage#headline-}" ;;
        again-*) again "${stage#again-}" ;;
        failures | memory | repeats | serving | capacity | precisions | awq | continuous | speculative | pool | pair) "$stage" ;;
        pair-serving) pair_serving ;;
        llama-load) llama_load ;;
        sglang | lmdeploy | exllamav3) "$stage" ;;
        all)
            for engine in "${engines[@]}"; do check "$engine" || failed=$((failed + 1)); done
            failures || failed=$((failed + 1))
            parity "$(IFS=,; echo "${engines[*]}")" || failed=$((failed + 1))
            memory || failed=$((failed + 1))
            repeats || failed=$((failed + 1))
            serving || failed=$((failed + 1))
            capacity || failed=$((failed + 1))
            llama_load || failed=$((failed + 1))
            precisions || failed=$((failed + 1))
            awq || failed=$((failed + 1))
            continuous || failed=$((failed + 1))
            sglang || failed=$((failed + 1))
            lmdeploy || failed=$((failed + 1))
            exllamav3 || failed=$((failed + 1))
            [[ -z $model_folder ]] || speculative ;;
        *) echo "unknown stage: $stage" >&2; exit 2 ;;
    esac || failed=$((failed + 1))
done
exit $failed
