#!/usr/bin/env bash
# LLMeter 0.2.0: the p99 of fewer than 99 requests is a time that no request took. It can be nearly twice the slowest.
#
# Percentiles come from `statistics.quantiles` with its default method, which takes the values for a sample of something
# wider and goes on in a straight line beyond the largest one. With one slow request among ten, the line is that from
# the second slowest to the slowest, drawn out by nine tenths of itself. Below 9 requests p90 lies beyond the slowest
# as well. A load test sends ten requests for each number of clients by default, or one for each client, so its p99 is
# of this kind up to 98 clients. The same holds for the time to first token and for the time per token.
#
# Who holds a server to "p99 below 3 s" rejects one that never took more than 2 s. The other clients' percentiles lie
# within what was measured, so two tools give two answers about the same requests. The mean and p50 are right.
#
# Seen (a server that answers the fifth request after 2 s and all others after 0.1 s; time to last token):
#   10 requests   slowest 2.0 s   p90 1.8 s   p99 3.4 to 3.7 s (on how quick the second slowest was)
#    5 requests   slowest 2.0 s   p90 2.8 s   p99 3.8 s
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# Its metadata asks for access to S3, whose pins take pip many minutes to resolve; what it imports here is named.
"$work/venv/bin/pip" install -q boto3==1.44.8 fsspec==2026.9.0 httpx==0.28.1 jmespath==1.1.0 openai==3.57.0 \
    pandas==3.1.1 plotly==6.9.0 tqdm==4.70.1 universal-pathlib==0.3.10
"$work/venv/bin/pip" install -q --no-deps llmeter==0.2.0
cd "$work"
cat > slowest.py <<'PY'
import asyncio
import importlib.metadata
import json
import sys
import threading

from llmeter.endpoints import OpenAICompletionStreamEndpoint
from llmeter.runner import Runner

SLOW_S, QUICK_S, SLOW_ONE = 2.0, 0.1, 5
served, address = 0, []
ready = threading.Event()


def chunk(**fields):
    head = {"id": "a", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return f"data: {json.dumps({**head, **fields})}\n\n"


ANSWER = (
    chunk(choices=[{"index": 0, "delta": {"content": "yes"}, "finish_reason": None}])
    + chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + chunk(choices=[], usage={"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3})
    + "data: [DONE]\n\n"
).encode()


async def serve(reader, writer):
    global served
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.lower().split(b"\r\n")
            length = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0]) if length else 0)
            served += 1
            await asyncio.sleep(SLOW_S if served == SLOW_ONE else QUICK_S)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
            writer.write(head + ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def listen():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address.append(server.sockets[0].getsockname()[1])
    ready.set()
    await server.serve_forever()


threading.Thread(target=asyncio.run, args=(listen(),), daemon=True).start()
ready.wait()
endpoint = OpenAICompletionStreamEndpoint("m", api_key="none", base_url=f"http://127.0.0.1:{address[0]}/v1")
payload = {"messages": [{"role": "user", "content": "well?"}], "max_tokens": 1}
print("llmeter", importlib.metadata.version("llmeter"))
seen = {}
for requests in (10, 5):
    served = 0
    result = asyncio.run(Runner(endpoint=endpoint).run(payload=payload, n_requests=requests, clients=1))
    if served != requests or result.stats["failed_requests"]:
        sys.exit(f"{served} requests came, {result.stats['failed_requests']} failed")
    slowest = max(response.time_to_last_token for response in result.responses)
    p90, p99 = (result.stats[f"time_to_last_token-p{share}"] for share in (90, 99))
    print(f"{requests:2} requests: slowest {slowest:.2f} s, p90 {p90:.2f} s, p99 {p99:.2f} s")
    seen[requests] = (slowest, p90, p99)
as_seen = all(SLOW_S <= slowest < SLOW_S + 1 and p99 > 1.5 * slowest for slowest, _, p99 in seen.values())
sys.exit(0 if as_seen and seen[10][1] < seen[10][0] and seen[5][1] > 1.2 * seen[5][0] else 1)
PY
"$work/venv/bin/python" slowest.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
