#!/usr/bin/env bash
# optimum-benchmark 0.6.0, PyTorch backend: the latency per token counts prefills as decode steps and counts the first
# runs over and over, and the "samples/s" of a generation are tokens.
#
# It notes the time of each token and takes the differences after each run. The noted times are never taken away, so the
# second run's differences hold the first run's again, and one that spans from the last token of the first run to the
# first token of the second: the prefill. After ten runs the first run's steps are there ten times, and 45 differences are
# prefills. For a long prompt p99, p95 and the mean of "per_token" are those of prefills. "decode" beside it is right.
#
# `generate.throughput` is in samples/s and is the batch times the new tokens less one over the time, the formula for
# decoded tokens. The path for engines that cannot note tokens (vLLM, llama.cpp, py-txi) uses the batch alone. So with
# the default of 100 tokens the same speed is 99 times as high for PyTorch as for vLLM, in one report's unit.
#
# Seen (random Llama, batch 1, prompt of 512 tokens, 8 new tokens, 5 runs, so 35 decode steps; two busy CPU cores):
#   per_token   115 values, 10 of them at least a prefill long; mean 172 ms, p95 590 ms, where decode has 89 ms a token
#   generate    4.13 "samples/s" where one sample takes 1.69 s, which is 0.59 a second
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==4.57.1 optimum-benchmark==0.6.0
cd "$work"
cat > tokens.py <<'PY'
import importlib.metadata
import os
import statistics
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, InlineConfig, PyTorchConfig
from transformers import LlamaConfig, LlamaForCausalLM

RUNS, TOKENS = 5, 8
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(
    vocab_size=256, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)).save_pretrained("model")
backend = PyTorchConfig(
    model="model", device="cpu", task="text-generation", library="transformers", model_type="llama"
)
scenario = InferenceConfig(
    iterations=RUNS, duration=0, warmup_runs=2, input_shapes={"batch_size": 1, "sequence_length": 512},
    generate_kwargs={"max_new_tokens": TOKENS, "min_new_tokens": TOKENS},
)
report = Benchmark.launch(
    BenchmarkConfig(name="tokens", launcher=InlineConfig(), scenario=scenario, backend=backend)
)
steps = report.per_token.latency
shortest_prefill = min(report.prefill.latency.values)
long = sum(value >= shortest_prefill for value in steps.values)
step = report.decode.latency.mean / (TOKENS - 1)
per_sample = report.generate.throughput.value * report.generate.latency.mean
print("optimum-benchmark", importlib.metadata.version("optimum-benchmark"))
print(f"{RUNS} runs of {TOKENS} tokens are {RUNS * (TOKENS - 1)} decode steps")
print(f"per_token: {steps.count} values, {long} of them as long as a prefill ({shortest_prefill * 1e3:.1f} ms or more)")
print(f"per_token: mean {steps.mean * 1e3:.2f} ms, p95 {steps.p95 * 1e3:.2f} ms; a decode step {step * 1e3:.2f} ms, "
      f"median {statistics.median(steps.values) * 1e3:.2f} ms")
print(f"generate: {report.generate.throughput.value:.2f} {report.generate.throughput.unit}, where a sample of one takes "
      f"{report.generate.latency.mean:.4f} s: {per_sample:.2f} samples in the time of one")
values = sum(run * TOKENS - 1 for run in range(1, RUNS + 1))
prefills = RUNS * (RUNS - 1) // 2
right = steps.count == values and long >= prefills and steps.mean > 1.2 * step
sys.exit(0 if right and abs(per_sample - (TOKENS - 1)) < 1e-6 else 1)
PY
"$work/venv/bin/python" tokens.py > output.txt 2> errors.txt || { cat output.txt errors.txt; exit 1; }
grep -E '^(optimum-benchmark |[0-9]+ runs|per_token:|generate:)' output.txt
