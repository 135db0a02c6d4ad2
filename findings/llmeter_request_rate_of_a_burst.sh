#!/usr/bin/env bash
# LLMeter 0.2.0: a load test's "requests per minute" is how fast it sends, up to a hundred times what the server does.
#
# `requests_per_minute` is described as the number of requests processed per minute, and drawn against the number of
# clients. It divides the requests by the time between the first and the last time of sending. By default, from ten
# clients on each sends one request, all at once. The divisor is then how long the client takes to begin them all, and
# the "rate" is one of the client's machine, whatever the server does. `average_input_tokens_per_minute` has the same
# divisor. `output_tps` and `average_output_tokens_per_minute` use the whole time of the run and are right, so one
# report names a rate of requests and one of tokens that do not fit together. With few requests for each client the
# rate is too high still: the time of the last answers is missing, a third of it at three requests for each.
#
# Who reads the capacity of a server from that curve finds it far beyond the server's, with as many clients as he tries.
#
# Seen (`LoadTest` as it is set by default, on a server that handles four requests at once in 0.5 s each, so 480 per
# minute at most; each answer has one token, so the true rate is also that of tokens):
#   clients   requests   requests_per_minute   average_output_tokens_per_minute
#     1          10             118                     108
#     4          12             628                     435
#    20          20    3,800 to 51,000               417 to 470   (over four runs)
#    40          40    4,900 to 50,000               439 to 473
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
cat > rates.py <<'PY'
import asyncio
import importlib.metadata
import json
import sys
import threading

from llmeter.endpoints import OpenAICompletionStreamEndpoint
from llmeter.experiments import LoadTest

SLOTS, HOLD_S, CLIENTS = 4, 0.5, [1, 4, 20, 40]
MOST_PER_MINUTE = SLOTS / HOLD_S * 60
address = []
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
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.lower().split(b"\r\n")
            length = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0]) if length else 0)
            async with slots:
                await asyncio.sleep(HOLD_S)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
            writer.write(head + ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def listen():
    global slots
    slots = asyncio.Semaphore(SLOTS)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address.append(server.sockets[0].getsockname()[1])
    ready.set()
    await server.serve_forever()


threading.Thread(target=asyncio.run, args=(listen(),), daemon=True).start()
ready.wait()
test = LoadTest(
    endpoint=OpenAICompletionStreamEndpoint("m", api_key="none", base_url=f"http://127.0.0.1:{address[0]}/v1"),
    payload={"messages": [{"role": "user", "content": "well?"}], "max_tokens": 1},
    sequence_of_clients=CLIENTS,
)
results = asyncio.run(test.run()).results
print("llmeter", importlib.metadata.version("llmeter"), f" at most {MOST_PER_MINUTE:g} per minute")
told, true = {}, {}
for clients, result in sorted(results.items()):
    stats = result.stats
    if stats["failed_requests"] or stats["total_output_tokens"] != result.total_requests:
        sys.exit(f"{clients} clients: {stats}")
    told[clients], true[clients] = stats["requests_per_minute"], stats["average_output_tokens_per_minute"]
    print(f"{clients:2} clients, {result.total_requests} requests: requests_per_minute {told[clients]:.0f}, "
          f"average_output_tokens_per_minute {true[clients]:.0f}")
as_seen = list(told) == CLIENTS and all(true[clients] < 1.02 * MOST_PER_MINUTE for clients in CLIENTS)
as_seen = as_seen and told[1] < 1.3 * true[1] and 1.25 * true[4] < told[4]
sys.exit(0 if as_seen and all(told[clients] > 3 * MOST_PER_MINUTE for clients in (20, 40)) else 1)
PY
"$work/venv/bin/python" rates.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
