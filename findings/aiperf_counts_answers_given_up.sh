#!/usr/bin/env bash
# aiperf 0.13.0: an answer that the server gives up halfway is a success, and a good one, for it was quick.
#
# A server that has begun to stream has already said 200. When generation fails after that, vLLM and others send an
# event `data: {"error": ...}` and end the stream. aiperf finds errors in the name of an event, which these have not, so
# the request is counted, its short latency goes into all percentiles, and it keeps limits that whole answers miss:
# below, goodput consists of nothing but the requests that failed. The summary has no error and no error count.
#
# With `--use-server-token-count` the lengths and the latencies of one table are of two sets of requests: an answer
# without a usage record has no length, so the mean length is that of the whole answers and the mean latency is not.
# GuideLLM 0.8.1 looks for such an event and raises an error (read in its source, not run here).
#
# Who compares two servers near their limit prefers the one that gives up.
#
# Seen (20 requests one after the other, every second given up after 4 of 40 tokens; --goodput request_latency:500):
#   request_count 20, errors none, good_request_count 10, all of them given up
#   request_latency   mean 0.77 s   (of whole answers 1.4 s)
#   output_sequence_length   mean 40
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q aiperf==0.13.0
cd "$work"
cat > give_up.py <<'PY'
import asyncio
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

REQUESTS, TOKENS, BEFORE_ERROR, FIRST_S, NEXT_S, LIMIT_MS = 20, 40, 4, 0.1, 0.03, 500
ERROR = {"error": {"message": "generation failed", "type": "InternalServerError", "param": None, "code": 500}}
whole, given_up = [], []  # seconds that each took at the server


def event(data):
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def chunk(**fields):
    return event({"id": "a", "object": "chat.completion.chunk", "created": 0, "model": "m", **fields})


async def answer(send):
    began = time.monotonic()
    fails = (len(whole) + len(given_up)) % 2 == 1
    await asyncio.sleep(FIRST_S)
    for number in range(BEFORE_ERROR if fails else TOKENS):
        await send(chunk(choices=[{"index": 0, "delta": {"content": f"t{number} "}, "finish_reason": None}]))
        await asyncio.sleep(NEXT_S)
    (given_up if fails else whole).append(time.monotonic() - began)
    if fails:
        await send(event(ERROR))
    else:
        await send(chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "length"}]))
        usage = {"prompt_tokens": 16, "completion_tokens": TOKENS, "total_tokens": 16 + TOKENS}
        await send(chunk(choices=[], usage=usage))
    await send(event("[DONE]"))


async def serve(reader, writer):
    async def send(data):
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()

    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.lower().split(b"\r\n")
            length = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0]) if length else 0)
            if b"completions" in lines[0]:
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                writer.write(head)
                await answer(send)
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def start(port):
    command = [
        Path(sys.executable).with_name("aiperf"), "profile", "-m", "m", "--url", f"http://127.0.0.1:{port}",
        "--endpoint-type", "chat", "--streaming", "--tokenizer", Path("tok").absolute(), "--concurrency", "1",
        "--request-count", str(REQUESTS), "--synthetic-input-tokens-mean", "16", "--output-tokens-mean", str(TOKENS),
        "--goodput", f"request_latency:{LIMIT_MS}", "--use-server-token-count", "--ui", "none",
        "--output-artifact-dir", "out",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    process = start(server.sockets[0].getsockname()[1])
    output, _ = await asyncio.to_thread(process.communicate, timeout=300)
    if process.returncode or len(whole) != REQUESTS / 2 or len(given_up) != REQUESTS / 2:
        sys.exit(output + f"\n{len(whole)} whole answers, {len(given_up)} given up")


words = {**{f"t{number}": number for number in range(500)}, "<unk>": 500, "</s>": 501}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained("tok")
asyncio.run(main())
report = json.loads(Path("out/profile_export_aiperf.json").read_text())
count, good, latency, length = (
    report[name]["avg"]
    for name in ("request_count", "good_request_count", "request_latency", "output_sequence_length")
)
failed = report.get("error_request_count")
print("aiperf", importlib.metadata.version("aiperf"))
print(f"at the server: {len(whole)} whole answers, the quickest in {min(whole):.2f} s, "
      f"{len(given_up)} given up, the slowest in {max(given_up):.2f} s")
print(f"request_count {count:g}, errors {failed} {report['error_summary']}, within {LIMIT_MS} ms {good:g}")
print(f"request_latency {latency / 1000:.2f} s (of whole answers {sum(whole) / len(whole):.2f} s), "
      f"output_sequence_length {length:g}")
as_seen = count == REQUESTS and not failed and not report["error_summary"] and length == TOKENS
# No whole answer keeps the limit, so those that do were given up.
as_seen = as_seen and min(whole) > LIMIT_MS / 1000 and good > 0 and latency / 1000 < 0.75 * sum(whole) / len(whole)
sys.exit(0 if as_seen else 1)
PY
"$work/venv/bin/python" give_up.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
