"""Sends a recorded load by this client's load generators, and prints what became of each request, one JSON line each:

    PYTHONPATH=. python tests/client/replay.py --image images/null --server 127.0.0.1:8000 --trace trace.jsonl --cpu 1

A process of its own, so that all CPU time of the client is that process's and its children's, from their start on.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench_core.client.ask import Address, Asker
from bench_core.client.generators import Generators
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.requests import RequestEvent
from bench_core.contract.serving.trace import read_trace


def main() -> None:
    """Sends it all."""
    parser = argparse.ArgumentParser(description="Sends a recorded load by this client's load generators.")
    parser.add_argument(
        "--image", type=Path, required=True, help="folder whose image.yaml says how the server is asked"
    )
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--trace", type=Path, required=True, help="lines of prompt_token_ids")
    parser.add_argument("--cpu", type=int, required=True, help="that client and load generator share")
    given = parser.parse_args()
    os.sched_setaffinity(0, [given.cpu])
    entry = Manifest.load(given.image).serve
    if entry is None:
        raise SystemExit(f"{given.image} does not say how its server is asked")
    host, _, port = given.server.rpartition(":")
    address = Address(host, int(port))
    asker = Asker(entry, address, forced=True, extra=entry.prefix_cache_off.body)
    requests = read_trace(given.trace, [0])  # no prompt of it is made from a length
    asks = [asker.ask(number, one.prompt, one.output_tokens) for number, one in enumerate(requests)]
    offsets = [one.offset_us for one in requests]
    with Generators(
        address, entry, asks=asks, load=Serve(load="trace"), offsets_us=offsets, cpus=[given.cpu]
    ) as generators:
        generators.start()
        events: list[RequestEvent] = []
        while not generators.done:
            events += generators.poll(0.5)
        events += generators.finish().requests
    for event in sorted(events, key=lambda event: event.index):
        sys.stdout.write(event.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
