#!/usr/bin/env bash
# GuideLLM 0.8.1: the 90th percentile of ten requests is the slowest one, and of eleven it is not. Rounding decides.
#
# A percentile is looked up in a running sum of 1/n in floating point. Where the sum misses the wanted share by its last
# bit, the next larger value is reported. Nine times 0.1, summed, is less than 0.9, so one slow request among ten is the
# p90; the eleventh request takes it away again. Medians and upper percentiles of round numbers of requests are hit: the
# median of 20 is the 11th, p95 of 80 the 77th, p99 of 300 the 298th. Of 40, 100 or 1000 requests p90 is right.
# Equal values are counted as one with their weights summed, which rounds in yet another way. So two runs that differ by
# one request are compared at other ranks, and a limit on the p90 of ten requests is one on the slowest.
#
# Seen (`guidellm run` on a server that answers one request after 2 s and the others after 0.1 s; then ranks of 1 to n):
#   10 requests   p90 of the latency 2.0 s
#   11 requests   p90 of the latency 0.1 s
#   n             10   20   30   40   60   80   100  300  1000  2000
#   median        5    11   16   20   31   40   50   150  500   1000
#   p90           10   18   28   36   54   73   90   271  900   1801
#   p95           10   19   29   38   57   77   95   286  950   1901
#   p99           10   20   30   40   60   80   99   298  990   1981
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 guidellm==0.8.1
cd "$work"
cat > percentiles.py <<'PY'
import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from guidellm.schemas import DistributionSummary

SLOW, QUICK = 2.0, 0.1
served = 0


def chunk(**fields):
    head = {"id": "a", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return f"data: {json.dumps({**head, **fields})}\n\n"


ANSWER = (
    chunk(choices=[{"index": 0, "delta": {"content": "yes"}, "finish_reason": None}])
    + chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + chunk(choices=[], usage={"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3})
    + "data: [DONE]\n\n"
).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()


async def serve(reader, writer):
    global served
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.lower().split(b"\r\n")
            length = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0]) if length else 0)
            body, kind = MODELS, b"application/json"
            if b"completions" in lines[0]:
                body, kind = ANSWER, b"text/event-stream"
                served += 1
                await asyncio.sleep(SLOW if served == 5 else QUICK)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
            writer.write(head + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def start(port, requests):
    command = [
        Path(sys.executable).with_name("guidellm"), "run", "--disable-console",
        "--backend", f"kind=openai_http,target=http://127.0.0.1:{port},model=m", "--profile", "kind=synchronous",
        "--constraint", f"kind=max_requests,count={requests}", "--data", "kind=json_file,path=prompts.jsonl",
        "--output", "kind=json,path=report.json",
    ]
    settings = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


async def p90(requests):
    global served
    served = 0
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    process = start(server.sockets[0].getsockname()[1], requests)
    output, _ = await asyncio.to_thread(process.communicate, timeout=180)
    if process.returncode or served != requests:
        sys.exit(output)
    latency = json.loads(Path("report.json").read_text())["benchmarks"][0]["metrics"]["request_latency"]["successful"]
    print(f"{latency['count']} requests: p90 of the latency {latency['percentiles']['p90']:.2f} s, "
          f"median {latency['median']:.2f} s, largest {latency['max']:.2f} s")
    return latency["percentiles"]["p90"]


Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(20)))
print("guidellm", importlib.metadata.version("guidellm"))
ten, eleven = (asyncio.run(p90(requests)) for requests in (10, 11))

counts = [10, 20, 30, 40, 60, 80, 100, 300, 1000, 2000]
expected = {
    "p50": [5, 11, 16, 20, 31, 40, 50, 150, 500, 1000],
    "p90": [10, 18, 28, 36, 54, 73, 90, 271, 900, 1801],
    "p95": [10, 19, 29, 38, 57, 77, 95, 286, 950, 1901],
    "p99": [10, 20, 30, 40, 60, 80, 99, 298, 990, 1981],
}
summaries = [DistributionSummary.from_values([float(rank) for rank in range(1, count + 1)]) for count in counts]
found = {name: [int(getattr(summary.percentiles, name)) for summary in summaries] for name in expected}
print("n  ", *counts)
for name, ranks in found.items():
    print(name, *ranks)
sys.exit(0 if found == expected and ten > SLOW * 0.9 and eleven < SLOW / 2 else 1)
PY
"$work/venv/bin/python" percentiles.py
