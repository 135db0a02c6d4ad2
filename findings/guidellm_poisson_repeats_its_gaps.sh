#!/usr/bin/env bash
# GuideLLM 0.8.1: `--profile kind=poisson` sends no Poisson load. Each random gap is used once by every worker process.
#
# The workers (ten by default) share the clock of the next request, but each draws gaps from a generator of its own, and
# all are seeded alike. So ten gaps in a row are about the same one, and 200 requests are spaced by 20 random numbers
# instead of 200. The rate of a run is off by what 20 numbers are off, 22 % as a rule instead of 7 %; with the default
# seed it is half as much again as what was asked for. Instead of bursts and pauses there are stretches of even spacing.
# With one worker the load is what it says. The report names the rate that was asked for in both cases, and warns of
# nothing; who compares two servers at "20 requests per second" by it compares them at another load than he believes.
#
# Seen (200 requests at 20 per second, as they came in at a server that answers at once):
#   ten workers, the default   31 per second, correlation of a gap with the next one 0.7
#   one worker                 20 per second, correlation -0.03
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 guidellm==0.8.1
cd "$work"
cat > arrivals.py <<'PY'
import asyncio
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REQUESTS, RATE = 200, 20
arrivals = []


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
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.lower().split(b"\r\n")
            length = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0]) if length else 0)
            asked = b"completions" in lines[0]
            if asked:
                arrivals.append(time.monotonic())
            body, kind = (ANSWER, b"text/event-stream") if asked else (MODELS, b"application/json")
            head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
            writer.write(head + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def measure(port, settings):
    arrivals.clear()
    return subprocess.Popen(
        [
            Path(sys.executable).with_name("guidellm"), "run", "--disable-console",
            "--backend", f"kind=openai_http,target=http://127.0.0.1:{port},model=m",
            "--profile", f"kind=poisson,rate={RATE}", "--constraint", f"kind=max_requests,count={REQUESTS}",
            "--data", "kind=json_file,path=prompts.jsonl", "--output", "kind=json,path=report.json",
        ],
        env={**os.environ, **settings, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )


async def main():
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(REQUESTS)))
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print("guidellm", importlib.metadata.version("guidellm"))
    found = []
    for settings in ({}, {"GUIDELLM__MAX_WORKER_PROCESSES": "1"}):
        process = measure(port, settings)
        output, _ = await asyncio.to_thread(process.communicate, timeout=180)
        if process.returncode or len(arrivals) != REQUESTS:
            sys.exit(output)
        config = json.loads(Path("report.json").read_text())["benchmarks"][0]["config"]["strategy"]
        gaps = [later - earlier for earlier, later in zip(arrivals, arrivals[1:])]
        rate = len(gaps) / sum(gaps)
        alike = statistics.correlation(gaps[:-1], gaps[1:])
        found.append((config["worker_count"], config["rate"], rate, alike))
        print(f"workers {config['worker_count']:2}: asked for {config['rate']:g} per second, came {rate:.1f}, "
              f"correlation of a gap with the next {alike:.2f}")
    return found


(many, _, many_rate, many_alike), (one, _, one_rate, one_alike) = asyncio.run(main())
as_seen = many > 1 and one == 1 and many_rate > 1.3 * RATE and many_alike > 0.4
as_seen = as_seen and abs(one_rate / RATE - 1) < 0.1 and abs(one_alike) < 0.25
sys.exit(0 if as_seen else 1)
PY
"$work/venv/bin/python" arrivals.py
