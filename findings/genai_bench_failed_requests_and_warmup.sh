#!/usr/bin/env bash
# genai-bench 0.0.5: the error rate of a report is always 0, and leaving warm-up out lowers the throughput.
#
# `error_rate` is "the rate of error requests across all requests". It is divided by the number of requests before that
# number is filled in, which is still 0 then, and for 0 requests the rate is 0. So it is 0 where half of all requests
# failed, and the warning at half or more never comes. `num_error_requests` and `num_requests`, in the same report, are right.
#
# `--warmup-ratio` and `--cooldown-ratio` leave the first and last share of the requests out of the tokens, but not out
# of the time that these are divided by. So with a fifth left out at each end the three throughputs of a steady server
# are up to 40 % lower than without, and a longer warm-up makes a slower server. Requests per second count all requests.
#
# Who rules a configuration out by its error rate rules none out; who compares a run with warm-up left out to one
# without compares two different numbers.
#
# Seen (a server that answers each request after 0.2 s with the same 20 tokens, one request after the other):
#   every second request fails         44 requests, 22 failed, error_rate 0
#   all requests                       96 output tokens per second, 4.8 requests per second
#   warm-up and cool-down of a fifth   61 output tokens per second, 4.8 requests per second (8 of 44 at each end)
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q genai-bench==0.0.5 transformers==5.17.0
cd "$work"
cat > rates.py <<'PY'
import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import tokenizers
import transformers

REQUESTS, SECONDS, TOKENS, SHARE = 40, 0.2, 20, 0.2
failing = False
served = 0


def chunk(**fields):
    head = {"id": "a", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return f"data: {json.dumps({**head, **fields})}\n\n"


WORD = chunk(choices=[{"index": 0, "delta": {"content": "yes "}, "finish_reason": None}])
END = (
    chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + chunk(choices=[], usage={"prompt_tokens": 10, "completion_tokens": TOKENS, "total_tokens": 10 + TOKENS})
    + "data: [DONE]\n\n"
)


def send(writer, text):
    writer.write(b"%x\r\n%s\r\n" % (len(text), text.encode()))


async def serve(reader, writer):
    global served
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
        await reader.readexactly(int(length[0]) if length else 0)
        served += 1
        if failing and served % 2 == 0:
            await asyncio.sleep(SECONDS)
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull")
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            )
            send(writer, WORD)
            await writer.drain()
            await asyncio.sleep(SECONDS)
            send(writer, WORD * (TOKENS - 1) + END)
            send(writer, "")
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def start(port, name, options):
    command = [
        Path(sys.executable).with_name("genai-bench"), "benchmark", "--api-backend", "openai", "--api-key", "none",
        "--api-base", f"http://127.0.0.1:{port}", "--api-model-name", "m", "--model", "m", "--model-tokenizer", "bytes",
        "--task", "text-to-text", "--traffic-scenario", f"D(10,{TOKENS})", "--num-concurrency", "1",
        "--max-requests-per-run", str(REQUESTS), "--max-time-per-run", "1", "--experiment-folder-name", name, *options,
    ]
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "ENABLE_UI": "false"}
    return subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


async def measure(name, options=(), fail=False):
    global failing, served
    failing, served = fail, 0
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    process = start(server.sockets[0].getsockname()[1], name, options)
    output, _ = await asyncio.to_thread(process.communicate, timeout=300)
    server.close()
    reports = list(Path(name).glob("D*.json"))
    if process.returncode or len(reports) != 1:
        sys.exit(output)
    return json.loads(reports[0].read_text())["aggregated_metrics"]


letters = {letter: number for number, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
fast = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))  # a token is a byte
fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
fast.decoder = tokenizers.decoders.ByteLevel()
transformers.PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained("bytes")

print("genai-bench", importlib.metadata.version("genai-bench"))
failed = asyncio.run(measure("failed", fail=True))
counts = {name: failed[name] for name in ("num_requests", "num_error_requests", "error_rate")}
print("every second request fails:", *(f"{name} {value}" for name, value in counts.items()))
runs = {
    "all requests": asyncio.run(measure("whole")),
    "warm-up and cool-down of a fifth": asyncio.run(
        measure("trimmed", ("--warmup-ratio", str(SHARE), "--cooldown-ratio", str(SHARE)))
    ),
}
counted = []  # tokens that are divided by the whole time / tokens that came in that time
for title, run in runs.items():
    rate, seconds, requests = (
        run[name] for name in ("mean_output_throughput_tokens_per_s", "run_duration", "num_requests")
    )
    counted.append(rate * seconds / (requests * TOKENS))
    print(f"{title}: {requests} requests in {seconds:.1f} s, {run['requests_per_second']:.1f} requests per second; "
          f"{rate:.1f} output tokens per second, {counted[-1]:.2f} of the server's")
left = (requests - 2 * int(requests * SHARE)) / requests
as_said = abs(counted[0] - 1) < 1e-6 and abs(counted[1] - left) < 1e-6 and left < 0.7
sys.exit(0 if as_said and failed["num_error_requests"] > 0.4 * failed["num_requests"] and failed["error_rate"] == 0 else 1)
PY
"$work/venv/bin/python" rates.py
