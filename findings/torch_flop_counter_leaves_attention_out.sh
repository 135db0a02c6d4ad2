#!/usr/bin/env bash
# PyTorch 2.13.0: FlopCounterMode counts no operation of attention on a CPU, and none of int8 products. At 2048 tokens
# a small Llama has 15.0 GFLOP or 6.4, by how attention is written and not by what is computed.
#
# The counter knows a list of kernels. `scaled_dot_product_attention`, which models use by default, runs a kernel of its
# own on a CPU that is not on the list, and so counts 0, forwards and backwards. The same call on the "meta" device,
# where FLOPs are counted without weights, is split into products that are counted, and so is attention written out
# (eager). Products of int8 matrices are not on the list either, but those of 8-bit floats are: a model quantised to
# int8 weights and activations (torchao 0.18.0) has lost all of its linear layers.
#
# No warning says that something was passed over. What is missing grows with the square of the length, so the share of
# the hardware's peak that is reached ("MFU") falls with longer prompts, by more than half below; and a model quantised
# to int8 seems to do hardly any work.
#
# Seen (Llama, 2 layers, width 256, random weights; FLOP of one forward pass, in units of 10^9):
#   tokens                         128     2048
#   eager, CPU                     0.43    15.0
#   sdpa, CPU                      0.40     6.4
#   sdpa, meta device              0.43    15.0
#   eager, bfloat16, CPU           0.43    15.0
#   the same, int8 by torchao      0.03     8.6   (the attention alone)
#   one product of 32 x 64 by 64 x 128: float32 524288, 8-bit float 524288, int8 0
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0 torchao==0.18.0
cd "$work"
cat > count.py <<'PY'
import importlib.metadata
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=8,
    vocab_size=1000, max_position_embeddings=2048,
)


def counted(call):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def model(attention, device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM._from_config(CONFIG, attn_implementation=attention, dtype=dtype).eval()


def passes(name, net):
    found = []
    for tokens in (128, 2048):
        ids = torch.zeros((1, tokens), dtype=torch.long, device=net.device)
        found.append(counted(lambda: net(ids)))
    print(f"{name:26} {found[0] / 1e9:6.3f} {found[1] / 1e9:7.3f} GFLOP at 128 and 2048 tokens")
    return found


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "torchao")))
written = passes("eager, CPU", model("eager"))
called = passes("sdpa, CPU", model("sdpa"))
meta = passes("sdpa, meta device", model("sdpa", "meta"))
half = model("eager", dtype=torch.bfloat16)
before = passes("eager, bfloat16, CPU", half)
quantize_(half, Int8DynamicActivationInt8WeightConfig())
after = passes("the same, int8 by torchao", half)
logits = [model(attention)(torch.arange(64)[None]).logits for attention in ("eager", "sdpa")]
same = torch.allclose(*logits, atol=1e-4)
print("eager and sdpa give the same:", same)

left, right = torch.randn(32, 64), torch.randn(128, 64)
one = torch.tensor(1.0)
products = {
    "float32": lambda: left @ right.T,
    "8-bit float": lambda: torch._scaled_mm(
        left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn).T, one, one, out_dtype=torch.bfloat16
    ),
    "int8": lambda: torch._int_mm(left.to(torch.int8), right.to(torch.int8).T),
}
single = {name: counted(call) for name, call in products.items()}
print("one product:", *(f"{name} {flops}" for name, flops in single.items()))
true = 2 * 32 * 64 * 128
as_seen = same and written == meta == before and single == {"float32": true, "8-bit float": true, "int8": 0}
sys.exit(0 if as_seen and called[1] < 0.5 * written[1] and after[0] < 0.1 * before[0] else 1)
PY
"$work/venv/bin/python" count.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
