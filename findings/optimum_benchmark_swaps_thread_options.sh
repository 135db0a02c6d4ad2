#!/usr/bin/env bash
# optimum-benchmark 0.6.0, PyTorch backend: its two options for threads are swapped.
#
# `intra_op_num_threads` should be the number of threads that compute one product; PyTorch calls that setting
# `set_num_threads`. It is given to `set_num_interop_threads` instead, which a decoder's forward pass has no use for, and
# `inter_op_num_threads` is given to `set_num_threads`. The log line for each says the name of the option, not of what it
# sets, so it looks right.
#
# Who measures a model with 1, 2, 4 and 8 intra-op threads measures it four times with the default number, and concludes
# that threads make no difference. Who sets both options runs with the two numbers changed over. The configuration that
# is saved with the result has the numbers that were asked for.
#
# Seen (random Llama of one layer; threads as PyTorch reports them after the run):
#   asked for intra-op 3, inter-op 5   computed with intra-op 5, inter-op 3
#   asked for intra-op 3 alone         computed with intra-op 2 (the default of two cores), inter-op 3
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==4.57.1 optimum-benchmark==0.6.0
cd "$work"
cat > threads.py <<'PY'
import importlib.metadata
import os
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, InlineConfig, PyTorchConfig
from transformers import LlamaConfig, LlamaForCausalLM


def measure(**threads):
    backend = PyTorchConfig(
        model="model", device="cpu", task="text-generation", library="transformers", model_type="llama", **threads
    )
    scenario = InferenceConfig(
        iterations=1, duration=0, warmup_runs=1, input_shapes={"batch_size": 1, "sequence_length": 4},
        generate_kwargs={"max_new_tokens": 2, "min_new_tokens": 2},
    )
    before = torch.get_num_threads(), torch.get_num_interop_threads()
    config = BenchmarkConfig(name="threads", launcher=InlineConfig(), scenario=scenario, backend=backend)
    report = Benchmark.launch(config)
    assert report.decode.latency.count == 1
    return before, (torch.get_num_threads(), torch.get_num_interop_threads())


if len(sys.argv) > 1:  # each setting in a process of its own: PyTorch takes inter-op threads once
    asked = dict(zip(("intra_op_num_threads", "inter_op_num_threads"), map(int, sys.argv[1:])))
    before, after = measure(**asked)
    print("threads", *before, *after)
    sys.exit(0)

LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)).save_pretrained("model")


def run(*numbers):
    output = subprocess.run([sys.executable, __file__, *map(str, numbers)], capture_output=True, text=True)
    lines = [line for line in output.stdout.splitlines() if line.startswith("threads ")]
    if output.returncode or len(lines) != 1:
        sys.exit(output.stdout + output.stderr)
    return tuple(map(int, lines[0].split()[1:]))


print("optimum-benchmark", importlib.metadata.version("optimum-benchmark"), "torch", torch.__version__)
both, alone = run(3, 5), run(3)
print("asked for intra-op 3, inter-op 5: computed with intra-op %d, inter-op %d" % both[2:])
print("asked for intra-op 3 alone: computed with intra-op %d (default %d), inter-op %d" % (alone[2], alone[0], alone[3]))
sys.exit(0 if both[2:] == (5, 3) and alone[2] == alone[0] and alone[3] == 3 else 1)
PY
"$work/venv/bin/python" threads.py
