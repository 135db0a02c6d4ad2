#!/usr/bin/env bash
# llama.cpp's server (in xllamacpp 2026.10.11549) with a key-value cache for each slot (--no-kv-unified, its default where
# a number of slots is given): the time per token depends on WHICH slots are busy. Eight requests in slots 0 to 7 of 16 are
# written far faster than eight in every other slot.
#
# A step computes only sequences of consecutive slots together (`split_equal` with `sequential` in src/llama-batch.cpp);
# every gap between busy slots begins another pass over all weights. A closed loop of as many requests as slots has no gaps.
# In an open loop the slots that happen to be busy lie anywhere, since each request gets the slot that has been idle
# longest: with 26 of 64 busy that is some 15 passes for each token. With one cache for all slots (--kv-unified) nothing of
# it shows; then idle slots must be cleared (--cache-ram 1; llama_server_steps_over_idle_slots.sh says why).
#
# The model is made here: one layer, 2048 wide, in 32 bits. Its 205 MB of weights do not fit a CPU's cache, so that a pass
# over them costs what it costs a large model.
#
# Seen (one thread on a shared AMD EPYC; the server's own time per token, median of the requests of three rounds):
#   a cache for each slot: 37.1 ms in neighbouring slots, 95.6 ms in every other slot
#   one cache for all slots: 37.0 and 37.4 ms
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q xllamacpp==2026.10.11549 gguf==0.19.0
cat > pieces.py <<'PY'
import importlib.metadata
import json
import statistics
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import xllamacpp

WIDTH, INNER, HEADS = 2048, 5632, 16
SLOTS, BUSY, PROMPT, OUTPUT, ROUNDS = 16, 8, 16, 64, 3


def write_model(path):
    """One layer with random weights, and bytes for a vocabulary."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(4096)
    out.add_embedding_length(WIDTH)
    out.add_block_count(1)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores([0.0] * len(tokens))
    out.add_token_types(kinds)
    draw = np.random.default_rng(0)
    matrices = {
        "token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (INNER, WIDTH), "blk.0.ffn_up": (INNER, WIDTH), "blk.0.ffn_down": (WIDTH, INNER),
    }
    for name, shape in matrices.items():
        out.add_tensor(f"{name}.weight", draw.standard_normal(shape, dtype=np.float32) / shape[1] ** 0.5)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        out.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


one_cache = sys.argv[1] == "one"
write_model("model.gguf")
params = xllamacpp.CommonParams()
params.model.path = "model.gguf"
params.n_parallel, params.n_ctx, params.cpuparams.n_threads, params.port = SLOTS, SLOTS * 256, 1, 0
params.kv_unified, params.cache_ram_mib = one_cache, 1 if one_cache else 0
server = xllamacpp.Server(params)


def time_per_token_ms(slot):
    """The server's own, of one request in this slot."""
    body = {
        "prompt": [3 + (slot * 7919 + place * 31) % 256 for place in range(PROMPT)], "n_predict": OUTPUT,
        "ignore_eos": True, "cache_prompt": False, "id_slot": slot,
    }
    asked = urllib.request.Request(
        f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    told = json.load(urllib.request.urlopen(asked, timeout=300))
    assert (told["id_slot"], told["timings"]["predicted_n"]) == (slot, OUTPUT), told
    return told["timings"]["predicted_per_token_ms"]


neighbours, scattered = range(BUSY), range(0, SLOTS, SLOTS // BUSY)
times = {neighbours: [], scattered: []}
with ThreadPoolExecutor(BUSY) as pool:
    list(pool.map(time_per_token_ms, neighbours))  # warm
    for _ in range(ROUNDS):
        for slots, found in times.items():
            found += pool.map(time_per_token_ms, slots)
near, far = statistics.median(times[neighbours]), statistics.median(times[scattered])
print(
    f"xllamacpp {importlib.metadata.version('xllamacpp')}, {'one cache' if one_cache else 'a cache for each slot'}: "
    f"{near:.1f} ms a token in neighbouring slots, {far:.1f} ms in every other slot, {far / near:.2f} times", flush=True
)
sys.exit(0 if (far / near < 1.3 if one_cache else far / near > 1.7) else 1)
PY
for cache in each one; do
    venv/bin/python pieces.py "$cache" 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
done
