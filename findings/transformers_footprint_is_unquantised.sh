#!/usr/bin/env bash
# Transformers 5.17.0: `get_memory_footprint()` of a model that torchao 0.18.0 quantised to int8 is that of the model in
# 16 bits, to the byte but for 64.
#
# It is "useful to benchmark the memory footprint". It multiplies each weight's number of elements by the size of one,
# and a weight of torchao says of itself that it is of bfloat16, as that is what it stands for in a product. It holds
# int8 and scales. So the number of bytes does not change with the bits: int8, 8-bit float and 4 bits in 8 all are the
# same as none. bitsandbytes 0.50.2 keeps its numbers in plain tensors of one byte, and its footprints shrink (run by
# hand, not here).
#
# A table of "memory by method" by this call has torchao saving nothing, beside others that save half. The file that the
# model is saved to has the true size, and so has torchao's own `get_model_size_in_bytes`.
#
# Seen (Llama, 4 layers, width 512, bfloat16, random weights, quantised as it is loaded; MB):
#                         get_memory_footprint   tensors held   file
#   16 bits               23.0                   23.0           23.0
#   Int8WeightOnly        23.0                   12.6           12.7
#   Float8WeightOnly      23.0                   12.6           12.6
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0 torchao==0.18.0
cd "$work"
cat > footprint.py <<'PY'
import importlib.metadata
import sys
from pathlib import Path

import torch
import transformers
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig
from torchao.utils import get_model_size_in_bytes
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TorchAoConfig

CONFIG = LlamaConfig(
    hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
    vocab_size=1000,
)


def held(tensor):
    """Bytes of the plain tensors that a weight is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.untyped_storage().nbytes()
    names, _ = tensor.__tensor_flatten__()
    return sum(held(getattr(tensor, name)) for name in names)


def measured(name, model):
    model.save_pretrained(name)
    on_disk = sum(file.stat().st_size for file in Path(name).glob("*.safetensors"))
    tensors = sum(held(tensor) for tensor in [*model.parameters(), *model.buffers()])
    numbers = model.get_memory_footprint(), tensors, get_model_size_in_bytes(model), on_disk
    print(f"{name}: footprint %d, tensors %d, by torchao %d, file %d bytes" % numbers)
    return numbers


transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(*(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "torchao")))
torch.manual_seed(0)
plain = measured("16 bits", LlamaForCausalLM(CONFIG).to(torch.bfloat16))
methods = {"Int8WeightOnly": Int8WeightOnlyConfig(), "Float8WeightOnly": Float8WeightOnlyConfig()}
quantised = [
    measured(name, AutoModelForCausalLM.from_pretrained(
        "16 bits", dtype=torch.bfloat16, quantization_config=TorchAoConfig(method)
    ))
    for name, method in methods.items()
]
unchanged = all(abs(footprint - plain[0]) < 1000 for footprint, *_ in quantised)
halved = all(size < 0.6 * before for numbers in quantised for size, before in zip(numbers[1:], plain[1:]))
sys.exit(0 if unchanged and halved and abs(plain[0] - plain[1]) < 1000 else 1)
PY
"$work/venv/bin/python" footprint.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
