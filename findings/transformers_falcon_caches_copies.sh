#!/usr/bin/env bash
# Transformers 5.17.0 keeps every key and value of Falcon's newer architecture in the cache once for each query head,
# though the config has few key-value heads: with the heads of Falcon-40B (128 for queries, 8 for keys and values)
# the cache is 16 times as large as the config says, and 15 of each 16 entries are copies to the last bit.
#
# The heads are repeated before they are given to the cache; in Llama, with the same numbers of heads, after that. The
# older architecture with one shared head caches one. So who reckons the cache from `num_kv_heads` (what fits into
# memory, bytes read for a token) is off by 16 for one class of models, and by nothing for its neighbours. The model
# itself makes as few keys and values as the config says: the matrix that makes them has no rows for the copies.
#
# Seen (random models, 2 layers, heads of 8, float32, 32 tokens; heads in the config, in the cache, different ones in
# the cache; bytes of the cache for each token and layer, and those that the config makes one expect):
#   falcon, new_decoder_architecture   8   128   8    8192    512
#   falcon, multi_query                1     1   1      64     64
#   llama                              8     8   8     512    512
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.17.0
cd "$work"
cat > heads.py <<'PY'
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
QUERIES, KEYS, WIDTH, LAYERS, TOKENS, FLOAT = 128, 8, 8, 2, 32, 4
SIZES = {"vocab_size": 128, "hidden_size": QUERIES * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": QUERIES,
         "bos_token_id": 1, "eos_token_id": 2}
FALCON = {**SIZES, "ffn_hidden_size": 256, "alibi": False}
CASES = [
    ("falcon, new_decoder_architecture", KEYS, QUERIES, KEYS,
     transformers.FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=KEYS)),
    ("falcon, multi_query", 1, 1, 1, transformers.FalconConfig(**FALCON, multi_query=True)),
    ("llama", KEYS, KEYS, KEYS,
     transformers.LlamaConfig(**SIZES, intermediate_size=256, num_key_value_heads=KEYS)),
]
ids = torch.randint(3, 128, (1, TOKENS), generator=torch.Generator().manual_seed(1))
changed = False
print("transformers", transformers.__version__, "torch", torch.__version__)
for what, configured, cached, different, config in CASES:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    tensors = [tensor[0] for layer in cache.layers for tensor in (layer.keys, layer.values)]
    heads = {len(tensor) for tensor in tensors}
    unlike = {len(torch.unique(tensor, dim=0)) for tensor in tensors}
    found = sum(tensor.numel() * tensor.element_size() for tensor in tensors) // (LAYERS * TOKENS)
    expected = 2 * configured * WIDTH * FLOAT
    print(f"{what:33} heads: config {configured}, cache {heads}, different {unlike}   "
          f"bytes for a token and layer: {found}, expected {expected}")
    fused = [weights for name, weights in model.named_parameters() if name.endswith("query_key_value.weight")]
    rows_as_configured = all(len(weights) == (QUERIES + 2 * configured) * WIDTH for weights in fused)
    changed = changed or heads != {cached} or unlike != {different} or found != expected * cached // configured
    changed = changed or not rows_as_configured
sys.exit(1 if changed else 0)
PY
"$work/venv/bin/python" heads.py
