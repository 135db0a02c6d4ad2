#!/usr/bin/env bash
# In bitsandbytes 0.50.2, LLM.int8(): what a prompt gets depends on the other prompts of its batch.
#
# A column of a layer's input in which any row of the batch reaches the threshold (6.0) is taken out of the int8 product
# for all rows, and multiplied in the input's own precision instead. So a large value in one prompt changes how all the
# others are rounded. The prompt below has the same length as its neighbour, so nothing is padded; alone, or beside a
# neighbour without a large value, it gets the same numbers to the last bit. With the threshold at 0, or without int8,
# neighbours change nothing.
#
# Who compares outputs of an int8 model at two batch sizes sees differences that are no error of his own.
#
# Seen (CPU, float32; largest change of a log-probability of one prompt, in nat):
#   int8, neighbour without a large value  0
#   int8, neighbour with one               7.4e-04, where int8 itself is 9.9e-04 away from float32
#   int8, threshold 0                      0
#   float32                                4.8e-07
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0 bitsandbytes==0.50.2 accelerate==1.15.0
cd "$work"
cat > rows.py <<'PY'
import sys

import bitsandbytes
import torch
import transformers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.manual_seed(0)
torch.set_num_threads(1)
LOUD = 5

config = LlamaConfig(
    vocab_size=128, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4,
)
model = LlamaForCausalLM(config)
with torch.no_grad():
    model.model.embed_tokens.weight.normal_(0, 0.5)
    model.model.embed_tokens.weight[LOUD, 7] = 40.0  # one token with one large value, as trained models have them
model.save_pretrained("model")

exact = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32).eval()


def quantised(**settings):
    return AutoModelForCausalLM.from_pretrained(
        "model", dtype=torch.float32, device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(load_in_8bit=True, **settings),
    ).eval()


prompt = [10, 11, 12, 13, 14, 15]
calm = [20, 21, 22, 23, 24, 25]
loud = [20, 21, LOUD, 23, 24, 25]


def first(model, *prompts):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor(prompts), use_cache=False).logits[0].float(), -1)


def change(model, neighbour):
    return (first(model, prompt, neighbour) - first(model, prompt)).abs().max().item()


int8 = quantised()
beside_calm, beside_loud = change(int8, calm), change(int8, loud)
own_error = (first(int8, prompt) - first(exact, prompt)).abs().max().item()
without = change(quantised(llm_int8_threshold=0.0), loud)
plain = change(exact, loud)
print("bitsandbytes", bitsandbytes.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
print(f"int8, neighbour without a large value  {beside_calm:.1e}")
print(f"int8, neighbour with one               {beside_loud:.1e}, int8 away from float32: {own_error:.1e}")
print(f"int8, threshold 0                      {without:.1e}")
print(f"float32                                {plain:.1e}")
as_seen = beside_calm == 0 and without == 0 and plain < 1e-5 and beside_loud > 1e-4 and beside_loud > own_error / 10
sys.exit(0 if as_seen else 1)
PY
"$work/venv/bin/python" rows.py 2> errors.txt || { cat errors.txt; exit 1; }
