#!/usr/bin/env bash
# opentelemetry-instrumentation-openai 0.62.4 (OpenLLMetry): every call of less than five seconds falls into one bucket.
# The median latency of a server that takes 0.2 s is reported as 2.5 s, and its 95th percentile as 4.75 s.
#
# It records `gen_ai.server.time_to_first_token` and `gen_ai.client.operation.duration` in seconds, and names no buckets
# for them. OpenTelemetry's own (opentelemetry-sdk 1.45.2) are 0, 5, 10, 25 and so on up to 10000; these suit
# milliseconds. Prometheus and Grafana draw a line through the bucket, so the percentiles are the same 2.5 and 4.75 s
# for a first token after 5 ms and for one after 4 s: an engine that became ten times faster shows a flat line. Sum and
# count are right, so means are, and nothing warns. OpenLLMetry's SDK (traceloop-sdk, read in its source, not run here)
# gives buckets to tokens and to databases, and none to these.
#
# Token counts of one call go into the same buckets. A view with buckets for seconds mends it, as below.
#
# Seen (20 streamed calls, a first token after 0.1 s, the end after 0.2 s; by Prometheus' rule, in s):
#                                             p50     p95
#   time to first token                       2.50    4.75
#   duration                                  2.50    4.75
#   with a view of buckets for seconds        within the bucket around the true time
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q openai==2.11.0 opentelemetry-sdk==1.45.2 opentelemetry-instrumentation-openai==0.62.4
cd "$work"
cat > buckets.py <<'PY'
import bisect
import importlib.metadata
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
from opentelemetry.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

CALLS, PAUSE_S = 20, 0.1
NAMES = ("gen_ai.server.time_to_first_token", "gen_ai.client.operation.duration")
SECONDS = [0.01 * 2**power for power in range(14)]
HEAD = {"id": "a", "object": "chat.completion.chunk", "created": 0, "model": "m"}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, end in (({"content": "yes"}, None), ({}, "stop")):
            time.sleep(PAUSE_S)
            event = {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        self.wfile.write(f"data: {json.dumps({**HEAD, 'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *_):
        pass


def quantile(share, bounds, counts):
    """As Prometheus reckons it: on a line from a bucket's lower to its upper bound."""
    rank, below = share * sum(counts), 0
    for number, count in enumerate(counts):
        if count and below + count >= rank:
            lower = bounds[number - 1] if number else 0
            return lower + (bounds[number] - lower) * (rank - below) / count
        below += count


def measured(views):
    """Percentiles of the two histograms and, of the client's own clock, the shortest and the longest call."""
    reader = InMemoryMetricReader()
    instrument = OpenAIInstrumentor()
    instrument.instrument(meter_provider=MeterProvider([reader], views=views))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_address[1]}/v1", api_key="none")
    took = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        for _ in client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True):
            pass
        took.append(time.perf_counter() - begin)
    server.shutdown()
    found = {}
    for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
        for metric in scope.metrics:
            if metric.name in NAMES:
                (point,) = metric.data.data_points
                assert metric.unit == "s" and point.count == CALLS
                found[metric.name] = [
                    quantile(share, point.explicit_bounds, point.bucket_counts) for share in (0.5, 0.95)
                ]
                print(f"{metric.name:35} p50 {found[metric.name][0]:.2f} s, p95 {found[metric.name][1]:.2f} s, "
                      f"mean {point.sum / CALLS:.2f} s, buckets {point.explicit_bounds[:4]} ...")
    instrument.uninstrument()
    print(f"the client's own: {min(took):.2f} to {max(took):.2f} s")
    return found, min(took), max(took)


for name in ("opentelemetry-instrumentation-openai", "opentelemetry-sdk", "openai"):
    print(name, importlib.metadata.version(name))
plain, shortest, longest = measured([])
viewed, least, most = measured(
    [View(instrument_name=name, aggregation=ExplicitBucketHistogramAggregation(SECONDS)) for name in NAMES]
)
one_bucket = all(plain[name] == [2.5, 4.75] for name in NAMES) and longest < 5
lower = SECONDS[bisect.bisect_left(SECONDS, least) - 1]
upper = SECONDS[bisect.bisect_left(SECONDS, most)]
mended = all(lower <= value <= upper for value in viewed[NAMES[1]])
sys.exit(0 if one_bucket and mended and shortest >= 2 * PAUSE_S else 1)
PY
"$work/venv/bin/python" buckets.py
