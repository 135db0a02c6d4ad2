"""One client process beside load generators as on two other nodes, at the same total load, in turns:
``PYTHONPATH=. python tests/client/nodes_benchmark.py``.

Both sides send the scenes of ``benchmark.py`` to the scripted server. The nodes are processes of this machine with a
connection each to this process, and the second has a clock that is 5000 s ahead; so what is shown is what dealing out
costs, and on a machine with CPUs for all of them what it gains. The server is on one CPU, the one process on another,
the nodes' generators on ``--node-cpus``. The round in which others used the least of the machine is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmark import SCENES, Scene, machine_cpu_s, of_event, offsets_us, own_cpu_s, quantile
from null_server import ENTRY, NullServer, asks_of, null_server
from other_hosts import hosts

from bench_core.client.generators import Generators
from bench_core.client.nodes.generators import NodeGenerators
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.requests import GeneratorEvent, RequestEvent
from bench_core.contract.statistics.clocks import ClientEvent

_BEGIN_IN_S = 0.3
AHEAD_S = 5000
ONE, TWO = "1 process", "2 nodes"


@dataclass(frozen=True)
class Round:
    """One side's round of one scene."""

    side: str
    scene: str
    failed: int
    rate_per_s: float
    of_ideal: float
    ttft_error_ms: float
    tpot_error_percent: float
    late_p50_ms: float
    late_p99_ms: float
    busiest_percent: float
    clock_error_us: float | None
    bound_us: float | None
    drift_us: float | None
    others_cpus: float


def load_of(scene: Scene) -> Serve:
    """As a cell has it."""
    if scene.streams:
        return Serve(load="concurrency", concurrency=scene.streams)
    return Serve(load="rate", request_rate=scene.rate)


@contextlib.contextmanager
def side(name: str, scene: Scene, server: NullServer, cpus: list[int]) -> Iterator[Generators | NodeGenerators]:
    """The generators of one side."""
    asks = asks_of(server, 16, scene.tokens, prompt_tokens=200)
    offsets = () if scene.streams else offsets_us(scene)
    if name == ONE:
        with Generators(
            server.address, ENTRY, asks=asks, load=load_of(scene), total=scene.requests, connections=64,
            cpus=cpus[:1], offsets_us=offsets,
        ) as one:  # fmt: skip
            yield one
        return
    with hosts({"near": 0, "far": AHEAD_S}) as there:
        for place, host in enumerate(there.gathering.hosts):
            host.cpus = (cpus[place % len(cpus)],)
        with NodeGenerators(
            there.gathering, server.address, ENTRY, asks=asks, load=load_of(scene), total=scene.requests,
            connections=64, offsets_us=offsets,
        ) as two:  # fmt: skip
            yield two


def measured(name: str, scene: Scene, server: NullServer, cpus: list[int]) -> Round:
    """One round."""
    with side(name, scene, server, cpus) as generators:
        machine, own, begin = machine_cpu_s(), own_cpu_s(server), time.monotonic()
        t0_s = generators.start(time.monotonic() + _BEGIN_IN_S)
        events: list[RequestEvent] = []
        while not generators.done:
            events += generators.poll(0.5)
        finished = generators.finish()
        lasted_s = time.monotonic() - begin
        others = machine_cpu_s() - machine - (own_cpu_s(server) - own)
    events += finished.requests
    others -= sum(one.cpu_s for one in finished.generators) if name == TWO else 0.0  # they are no children that ended
    return _judged(name, scene, events, finished.generators, finished.clients, t0_s, max(others, 0.0) / lasted_s)


def _judged(
    name: str, scene: Scene, events: list[RequestEvent], generators: list[GeneratorEvent], clients: list[ClientEvent],
    t0_s: float, others_cpus: float,
) -> Round:  # fmt: skip
    good = [of_event(event) for event in events if event.ok]
    late = [one.late_s or 0.0 for one in good]
    lasted_s = max(one.ended_s for one in good) - t0_s
    rate = len(good) / lasted_s
    ideal = scene.ideal_tokens_per_s / scene.tokens if scene.streams else scene.requests / (offsets_us(scene)[-1] / 1e6)
    truth = {"near": 0.0, "far": float(AHEAD_S)}
    return Round(
        side=name,
        scene=scene.name,
        failed=len(events) - len(good),
        rate_per_s=rate,
        of_ideal=rate / ideal,
        ttft_error_ms=statistics.median(one.ttft_s - scene.ttft_s for one in good) * 1e3,
        tpot_error_percent=(statistics.median(one.tpot_s for one in good) / scene.tpot_s - 1) * 100,
        late_p50_ms=statistics.median(late) * 1e3,
        late_p99_ms=quantile(late, 0.99) * 1e3,
        busiest_percent=max(one.busy_s / (one.ended_s - one.started_s) for one in generators) * 100,
        clock_error_us=max((abs(one.offset_s - truth[one.node]) * 1e6 for one in clients), default=None),
        bound_us=max((one.bound_s * 1e6 for one in clients), default=None),
        drift_us=max((abs(one.drift_s) * 1e6 for one in clients), default=None),
        others_cpus=others_cpus,
    )


COLUMNS = (
    ("scene", "scene", ""), ("load from", "side", ""), ("failed", "failed", "d"), ("requests/s", "rate_per_s", ".2f"),
    ("of ideal", "of_ideal", ".4f"), ("TTFT error ms", "ttft_error_ms", ".3f"),
    ("TPOT error %", "tpot_error_percent", "+.3f"), ("late p50 ms", "late_p50_ms", ".3f"),
    ("late p99 ms", "late_p99_ms", ".3f"), ("busiest generator %", "busiest_percent", ".0f"),
    ("clock error us", "clock_error_us", ".1f"), ("its bound", "bound_us", ".1f"), ("drift", "drift_us", ".1f"),
    ("others' CPUs", "others_cpus", ".2f"),
)  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="One client process beside two client nodes, at the same load.")
    present = sorted(os.sched_getaffinity(0))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenes", default="", help="only scenes whose name has this in it")
    parser.add_argument("--server-cpu", type=int, default=present[0])
    parser.add_argument("--node-cpus", default=",".join(map(str, present[1:3] or present)))
    given = parser.parse_args()
    cpus = [int(word) for word in given.node_cpus.split(",")]
    lines = [[title for title, _, _ in COLUMNS], ["---"] * len(COLUMNS)]
    for scene in SCENES:
        if given.scenes not in scene.name:
            continue
        rounds: dict[str, list[Round]] = {ONE: [], TWO: []}
        for _ in range(given.rounds):
            for name, found in rounds.items():
                with null_server("--ttft-s", str(scene.ttft_s), "--tpot-s", str(scene.tpot_s)) as server:
                    os.sched_setaffinity(server.process.pid, [given.server_cpu])
                    found.append(measured(name, scene, server, cpus))
                    sys.stderr.write(f"{found[-1]}\n")
        for found in rounds.values():
            best = min(found, key=lambda one: one.others_cpus)
            values = [(getattr(best, name), form) for _, name, form in COLUMNS]
            lines.append(["" if value is None else format(value, form) for value, form in values])
    words = f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs"
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    sys.stdout.write(f"{words}; server on CPU {given.server_cpu}, load generators on {given.node_cpus}\n\n{table}\n")


if __name__ == "__main__":
    main()
