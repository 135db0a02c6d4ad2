#!/usr/bin/env bash
# requests 2.34.2: from a server that streams without chunked encoding, `iter_lines(chunk_size=None)` hands over the
# first event when the last one has come, and `iter_lines()` hands over events in heaps of 512 bytes.
#
# With `chunk_size=None` data is said to be read as it arrives. That is so where the answer is in HTTP chunks. Where its
# end is the end of the connection, all of it is read before the first line. Such an answer is what Python's http.server
# makes, whose HTTP/1.0 has no chunks, and with it the server of mlx-lm 0.32.2 (read in its source). The default of 512
# is taken for a limit and is a minimum there. Only `chunk_size=1` is prompt.
#
# Clients that measure language models use both (genai-bench 0.0.5 reads chat answers with None; Locust's client is this
# one). Their time to first token then is that of the whole answer, and the gaps between tokens are 0. Latency and
# throughput are right and nothing warns, so it looks like a server that does not stream. The same client with the
# engine behind a server that chunks says otherwise, and HTTPX has no such difference.
#
# Seen (20 tokens, an event of 60 bytes each 50 ms; time of the first event, and the moments in which events came):
#                                      in chunks        until the connection ends
#   requests, iter_lines(None)         0.06 s, 20       1.01 s, 1
#   requests, iter_lines()             0.06 s, 20       0.46 s, 3
#   requests, iter_lines(1)            0.06 s, 20       0.05 s, 20
#   httpx, iter_lines()                0.06 s, 20       0.05 s, 20
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q requests==2.34.2 urllib3==2.8.0 httpx==0.28.1
cd "$work"
cat > held.py <<'PY'
import importlib.metadata
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import requests

TOKENS, GAP_S = 20, 0.05


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        chunks = self.protocol_version == "HTTP/1.1"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if chunks:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(TOKENS):
            time.sleep(GAP_S)
            choice = {"index": 0, "text": f"token {number:2}", "logprobs": None}
            event = f"data: {json.dumps(choice)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event) if chunks else event)
            self.wfile.flush()
        if chunks:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *words):
        pass


class Chunking(Handler):
    protocol_version = "HTTP/1.1"


def by_requests(size):
    def read(address):
        with requests.get(address, stream=True) as answer:
            yield from answer.iter_lines(chunk_size=size)

    return read


def by_httpx(address):
    with httpx.stream("GET", address) as answer:
        yield from answer.iter_lines()


def measured(read, address):
    """Seconds to the first event, and in how many moments (10 ms apart or more) the events came."""
    began = time.perf_counter()
    times = [time.perf_counter() - began for line in read(address) if line]
    if len(times) != TOKENS:
        sys.exit(f"{len(times)} events came")
    return times[0], 1 + sum(later - earlier > 0.01 for earlier, later in zip(times, times[1:]))


addresses = {}
for way, handler in (("in chunks", Chunking), ("until the connection ends", Handler)):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses[way] = f"http://127.0.0.1:{server.server_port}/"

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("requests", "urllib3", "httpx")))
readers = {
    "requests, iter_lines(None)": by_requests(None),
    "requests, iter_lines()": by_requests(requests.models.ITER_CHUNK_SIZE),
    "requests, iter_lines(1)": by_requests(1),
    "httpx, iter_lines()": by_httpx,
}
found = {}
for name, read in readers.items():
    for way, address in addresses.items():
        found[name, way] = measured(read, address)
        print(f"{name:27} {way}: first event after %.2f s, events in %d moments" % found[name, way])
whole = TOKENS * GAP_S
prompt = [first < whole / 3 and moments > TOKENS / 2 for (name, way), (first, moments) in found.items()]
held, heaps = (found[f"requests, iter_lines({size})", "until the connection ends"] for size in ("None", ""))
as_seen = held[0] >= whole and held[1] == 1 and whole / 3 < heaps[0] < whole and heaps[1] < TOKENS / 4
# All are prompt but the second and the fourth.
sys.exit(0 if as_seen and prompt == [True, False, True, False, True, True, True, True] else 1)
PY
"$work/venv/bin/python" held.py
