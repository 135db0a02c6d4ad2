#!/usr/bin/env bash
# llama.cpp's server (in xllamacpp 2026.10.11549): when many clients give up at once, the next client waits for them. Of
# requests whose connections were closed while they waited for a slot, the server still reads the prompts, one after the
# other, before it sees that nobody is there. So a benchmark that ends one load by closing its connections and begins the
# next measures the first load's leftovers: the wait grows with how many had given up.
#
# Requests beyond the server's HTTP threads lie unread in their sockets. Those are read, put in the queue of tasks and given
# a slot like any other; only then is the connection looked at.
#
# The model is made here: one layer, 2048 wide, in 32 bits. Four slots, prompts of 16 tokens, 128 tokens asked for; the
# clients leave after a second.
#
# Seen (one thread on a shared AMD EPYC; the next request's time to its first token):
#   idle 80 ms; after 4 clients had left 149 ms, after 16 474 ms, after 64 3,919 ms, after 128 7,313 ms; a second later 60 ms
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q xllamacpp==2026.10.11549 gguf==0.19.0
cat > left.py <<'PY'
import importlib.metadata
import json
import socket
import statistics
import sys
import time

import gguf
import numpy as np
import xllamacpp

WIDTH, INNER, HEADS = 2048, 5632, 16
SLOTS, PROMPT, OUTPUT = 4, 16, 128
FEW, MANY = 4, 64


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


write_model("model.gguf")
params = xllamacpp.CommonParams()
params.model.path = "model.gguf"
params.n_parallel, params.n_ctx, params.cpuparams.n_threads, params.port = SLOTS, SLOTS * 256, 1, 0
server = xllamacpp.Server(params)
host, port = server.listening_address.removeprefix("http://").split(":")


def asked(number, output):
    """A connection on which a streamed answer was asked for."""
    value = {
        "prompt": [3 + (number * 7919 + place * 31) % 256 for place in range(PROMPT)], "n_predict": output,
        "ignore_eos": True, "cache_prompt": False, "stream": True,
    }
    body = json.dumps(value).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + body)
    return connection


def until_first(connection):
    came = b""
    while b"data:" not in came:
        came += connection.recv(65536)


def first_token_s():
    """Of one request, answered whole."""
    begun = time.monotonic()
    with asked(999, 4) as connection:
        until_first(connection)
        took = time.monotonic() - begun
        time.sleep(1)
    return took


def after_s(leave):
    """The next request's, right after so many clients have left."""
    connections = [asked(number, OUTPUT) for number in range(leave)]
    until_first(connections[0])
    time.sleep(1)
    for connection in connections:
        connection.close()
    took = first_token_s()
    time.sleep(10)
    return took


first_token_s()  # warm
idle = statistics.median(first_token_s() for _ in range(5))
few, many = after_s(FEW), after_s(MANY)
later = first_token_s()
print(
    f"xllamacpp {importlib.metadata.version('xllamacpp')}: first token after {1e3 * idle:.0f} ms on an idle server, "
    f"{1e3 * few:.0f} ms after {FEW} clients had left, {1e3 * many:.0f} ms after {MANY} had, {1e3 * later:.0f} ms later",
    flush=True,
)
sys.exit(0 if many > 5 * few and many > 10 * max(idle, later) else 1)
PY
venv/bin/python left.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
